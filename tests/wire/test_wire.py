"""A server and two clients in processes of their own, each client's network in a module that only it can import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def start(program: str, *arguments: str, paths: tuple[Path, ...] = ()) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (HERE, HERE.parent, *paths))), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / program), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_three_rounds_with_teachers_of_both_clients_layers(tmp_path: Path) -> None:
    place = str(tmp_path / "line")
    server = start("server.py", place)
    running = [server]
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "listening\n"
        running += [start("client.py", place, name, paths=(HERE / name,)) for name in ("north", "south")]
        printed = [process.communicate(timeout=120) for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0, 0], [error for _, error in printed]
    *rounds, last = map(json.loads, printed[0][0].splitlines())
    assert [told["round"] for told in rounds] == [1, 2, 3]
    for told in rounds:
        assert set(told["recipes"]) == {"north", "south"}
        for recipe in told["recipes"].values():
            assert {ref.partition(".")[0] for ref in recipe.split()} == {"north", "south"}
    assert rounds[0]["taught"] == {"north": False, "south": False}
    assert rounds[2]["taught"] == {"north": True, "south": True}  # and the teachers ran at the clients
    assert rounds[1]["bytes_up"] < rounds[0]["bytes_up"]  # blueprints went up once
    assert last == {"imported": [], "named": []}
