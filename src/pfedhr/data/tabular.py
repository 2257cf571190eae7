"""A tabular set that scikit-learn ships: handwritten digits as 64 measurements."""

from __future__ import annotations

import numpy as np
import torch

from pfedhr.data.examples import Examples
from pfedhr.data.formats import optional_module

INK = 16
"""The largest measurement."""


def digits() -> Examples:
    """Return the 1,797 digits of Alpaydin and Kaynak (UCI, 1998): 64 measurements in [-1, 1], float32, and the digit.

    DataError says how to install scikit-learn when it is absent.
    """
    found = optional_module("sklearn.datasets", "tabular", "data.name = 'digits'").load_digits()
    measured = torch.from_numpy(np.asarray(found.data, dtype=np.float32))
    return Examples(measured * (2 / INK) - 1, torch.from_numpy(np.asarray(found.target, dtype=np.int64)))
