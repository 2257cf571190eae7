"""What numbers and times depend on besides the experiment: versions and the machine."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from pfedhr.version import code


def versions() -> str:
    """Return the versions of the package and its code, torch and Python in words."""
    return f"{code()}, torch {torch.__version__}, Python {platform.python_version()}"


def machine() -> str:
    """Return the machine in words: its cores, its processor and its CUDA device, if it has one."""
    device = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{os.cpu_count()} cores, {_processor()}{device}"


def _processor() -> str:
    """Return the processor's name as far as the system tells it."""
    table = Path("/proc/cpuinfo")
    lines = table.read_text().splitlines() if table.is_file() else []
    found = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return found[0] if found else platform.processor() or platform.machine()
