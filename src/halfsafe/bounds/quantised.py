"""Bounds of whole numbers that stand for others, and of what is made of them."""

from __future__ import annotations

import numpy as np

from halfsafe.bounds.bound import Array, Bound
from halfsafe.bounds.operands import Operands
from halfsafe.bounds.rounding import FLUSHED, ROUNDED

BYTE = -128.0, 255.0
"""What a byte holds, with a sign or without."""


def numbered(b: Operands) -> Bound:
    """A byte."""
    return Bound.between(b.shape, *BYTE)


def dequantised(b: Operands) -> Bound:
    """(q - z) s."""
    scale = b["scale"]
    if b.is_known("self") and b.is_known("scale") and not b.attributes.get("block_size"):
        q, s = b.constant("self").astype(np.float64), b.constant("scale").astype(np.float64)
        axis = int(b.attributes.get("axis", 1))
        z = b.constant("zero_point").astype(np.float64) if "zero_point" in b else np.zeros(1)
        steps = q - _along(z, axis, q.ndim)
        off = ROUNDED * np.abs(steps * _along(s, axis, q.ndim)) + FLUSHED * np.abs(steps)
        middle = steps * _along(s, axis, q.ndim)
        return Bound.between(b.shape, middle - off, middle + off)
    q = b["self"]
    z = b["zero_point"] if "zero_point" in b else Bound.between((), 0.0, 0.0)
    size = float(max(q.high.max() - z.low.min(), z.high.max() - q.low.min()))
    reach = size * scale.amax
    return Bound.between(b.shape, -reach, reach, q.lost or z.lost or scale.lost)


def _along(array: Array, axis: int, rank: int) -> Array:
    """One number, or one for each place along an axis."""
    if array.size == 1 or array.ndim != 1:
        return array.reshape(()) if array.size == 1 else array
    return array.reshape([-1 if i == axis % rank else 1 for i in range(rank)])


def dynamic(b: Operands) -> list[Bound]:
    """Bytes, and their step: the span of x and 0 over 255, or 1 where all is 0."""
    x = b.first
    span = float(max(x.high.max(), 0.0) - min(x.low.min(), 0.0)) / 255
    made = Bound.between(b.shapes[1], 0.0, max(span * (1 + ROUNDED), 1.0), x.lost)
    zero = (Bound.between(shape, 0.0, 255.0) for shape in b.shapes[2:])
    return [Bound.between(b.shape, 0.0, 255.0), made, *zero]


def whole_product(b: Operands) -> Bound:
    """sum (a - p) (b - q) of bytes."""
    names = list(b.names)
    x, y = b[names[0]], b[names[1]]
    terms = x.shape[-1] if "MatMul" in b.op else int(np.prod(y.shape[1:]))
    zeros = [b[name] for name in names[2:4]]
    reach = [z.amax + (zeros[i].amax if i < len(zeros) else 0.0) for i, z in enumerate((x, y))]
    found = terms * reach[0] * reach[1]
    return Bound.between(b.shape, -found, found, x.lost or y.lost)
