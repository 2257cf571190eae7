from __future__ import annotations

import os

import pytest
import torch
from hypothesis import settings

# No deadline: a loaded machine is no defect. On CI the same examples every time; elsewhere new ones, which may find more.
settings.register_profile("steady", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("steady")


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
