"""Bounds of whole numbers that stand for others, and of what is made of them."""

from __future__ import annotations

import numpy as np

from halfsafe.bounds.bound import Bound
from halfsafe.bounds.gains import Array
from halfsafe.bounds.operands import Operands
from halfsafe.bounds.rounding import FLUSHED, ROUNDED

WIDEST = -32_768.0, 65_535.0
"""What whole numbers of up to 16 bits hold, with a sign or without."""


def numbered(b: Operands) -> Bound:
    """A whole number of the type of the zero point: a byte where there is none."""
    if b.attributes.get("output_dtype"):
        return Bound.between(b.shape, *WIDEST)
    if "zero_point" not in b:
        return Bound.between(b.shape, 0.0, 255.0)
    kind = b.constant("zero_point").dtype
    if kind.kind not in "iu":
        return Bound.between(b.shape, *WIDEST)
    return Bound.between(b.shape, np.iinfo(kind).min, np.iinfo(kind).max)


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
    if not q.is_finite and b.is_known("zero_point"):  # which is of the same type
        kind = b.constant("zero_point").dtype
        if kind.kind in "iu":
            q = Bound.between(q.shape, np.iinfo(kind).min, np.iinfo(kind).max)
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
    x, y = b["0"], b["1"]
    terms = x.shape[-1] if "MatMul" in b.op else int(np.prod(y.shape[1:]))
    reach = [
        z.amax + (b[zero].amax if zero in b else 0.0)
        for z, zero in zip((x, y), ("2", "3"), strict=True)
    ]
    found = terms * reach[0] * reach[1]
    return Bound.between(b.shape, -found, found, x.lost or y.lost)
