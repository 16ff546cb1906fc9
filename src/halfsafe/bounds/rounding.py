"""What storing and summing up add to a value: half a step, relative and at least."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNIT = 2.0**-24
"""Half a step of FP32 beside 1."""

ROUNDED, FLUSHED = 2.0**-11, 2.0**-25
"""How far off a constant is that FP16 stores: of itself, and at least."""


def summed(terms: int) -> float:
    """n u / (1 - n u): by how much a sum of products in FP32 is off, over that of magnitudes."""
    return terms * UNIT / (1 - terms * UNIT) if terms * UNIT < 0.5 else inf


STEPS = 1 + 32 * UNIT
"""What some operations in FP32 may add."""


def in_half(ends: Any) -> NDArray[Any]:
    """Numbers as FP16 stores them, and as they are where it does not hold them."""
    wide = np.asarray(ends, np.float64)
    with np.errstate(over="ignore"):
        half = wide.astype(np.float16).astype(np.float64)
    return np.where(np.isfinite(half), half, wide)
