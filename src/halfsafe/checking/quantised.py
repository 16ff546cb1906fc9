"""Whole numbers that stand for others."""

from __future__ import annotations

from math import prod

import numpy as np

from halfsafe.checking.calls import Call
from halfsafe.checking.known import TINY, Array, Known, U, between


def numbered(c: Call) -> Known:
    """A whole number of the type of the zero point, a byte where there is none."""
    kind = None if (z := c.array("zero_point")) is None else z.dtype
    if c.node.attributes.get("output_dtype") or (kind is not None and kind.kind not in "iu"):
        return between(c.shape, -32768.0, 65535.0)
    if kind is None:
        return between(c.shape, 0.0, 255.0) if "zero_point" not in c.given else c.unknown()
    return between(c.shape, np.iinfo(kind).min, np.iinfo(kind).max)


def dequantised(c: Call) -> Known:
    """(q - z) s."""
    q, s, z = c.array("self"), c.array("scale"), c.array("zero_point")
    z = np.zeros(1) if "zero_point" not in c.given else z
    if q is None or s is None or z is None or c.node.attributes.get("block_size"):
        return _from_ends(c)
    axis = int(c.node.attributes.get("axis", 1))

    def along(a: Array) -> Array:
        a = a.astype(np.float64)
        shape = [-1 if i == axis % q.ndim else 1 for i in range(q.ndim)] if a.size > 1 else []
        return a.reshape(shape) if a.ndim <= 1 else a

    steps = q.astype(np.float64) - along(z)
    made, off = steps * along(s), np.abs(steps) * (U * np.abs(along(s)) + TINY)
    return between(c.shape, made - off, made + off)


def _from_ends(c: Call) -> Known:
    q, s = c["self"], c["scale"]
    zero = c.array("zero_point")
    if not np.isfinite(q.amax) and zero is not None and zero.dtype.kind in "iu":
        q = between(c.shape, np.iinfo(zero.dtype).min, np.iinfo(zero.dtype).max)
    z = c["zero_point"] if "zero_point" in c.given else between((), 0.0, 0.0)
    most = max(float(q.high.max() - z.low.min()), float(z.high.max() - q.low.min())) * s.amax
    return between(c.shape, -most, most, q.lost or z.lost or s.lost)


def dynamic(c: Call) -> list[Known]:
    """Bytes, their step, the span of x and 0 over 255 or 1, and the byte that is 0."""
    x = c.first
    span = max(float(x.high.max()), 0.0) - min(float(x.low.min()), 0.0)
    shapes = [c.graph.values[o].shape for o in c.node.outputs]
    highs = 255.0, max(span / 255 * (1 + U), 1.0), 255.0
    return [between(s, 0.0, high, x.lost) for s, high in zip(shapes, highs, strict=False)]


def whole_product(c: Call) -> Known:
    """sum (a - p) (b - q) of n."""
    x, y = c["0"], c["1"]
    n = x.shape[-1] if "MatMul" in c.node.op else prod(y.shape[1:])
    zeros = [c[k] if k in c.given else between((), 0.0, 0.0) for k in ("2", "3")]
    reach = n * prod(a.amax + z.amax for a, z in zip((x, y), zeros, strict=True))
    return between(c.shape, -reach, reach, x.lost or y.lost)
