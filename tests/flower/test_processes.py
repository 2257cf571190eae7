"""A family of processes ends with its block, and with the process that began it, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from pfedhr.flower.processes import Family, processes_with

# A command that detaches a process, as Flower and Ray do, which outlives it, and deserts it.
DETACHING = "setsid sleep 300 & exec sleep 300"
BEGINNER = f"""
import time
from pathlib import Path
from pfedhr.flower.processes import Family
with open("log", "wb") as log, Family({{}}, log) as family:
    family.start("sh", "-c", {DETACHING!r})
    while len(members := list(family.members())) < 2:
        time.sleep(0.01)
    print(*members, flush=True)
    time.sleep(300)
"""


def alive(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_all_end_with_the_block(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log, Family({}, log) as family:
        family.start("sh", "-c", DETACHING)
        deadline = time.monotonic() + 20
        while len(members := list(family.members())) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert not any(alive(member) for member in members)


def test_all_end_though_who_began_them_is_killed(tmp_path: Path) -> None:
    mark = f"TEST_OF_KILLS={tmp_path}"
    environment = os.environ | dict([mark.split("=", 1)])
    with subprocess.Popen([sys.executable, "-c", BEGINNER], cwd=tmp_path, env=environment, stdout=subprocess.PIPE) as beginner:
        assert beginner.stdout
        members = [int(word) for word in beginner.stdout.readline().split()]
        assert len(members) == 2
        os.kill(beginner.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while any(alive(member) for member in members) or list(processes_with(mark)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
