from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# No deadline: a loaded machine is no defect. On CI the same examples every time; elsewhere new ones, which may find more.
settings.register_profile("steady", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("steady")


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that has ended."""
    # Not at the head of this file, which is read before types are checked in whatever is imported.
    from toy_runs import EXPERIMENT, Silent

    from pfedhr.experiment_file import parse
    from pfedhr.launch import start

    path = tmp_path_factory.mktemp("undisturbed") / "run"
    start(parse(EXPERIMENT, "the test"), path, Silent())
    return path
