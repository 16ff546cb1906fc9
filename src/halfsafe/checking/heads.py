"""Attention as operators of their own: averages of values, and what is kept of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import sqrt

import numpy as np

from halfsafe.checking.calls import Call, sums
from halfsafe.checking.known import TINY, Known, U, V, between, rounded
from halfsafe.checking.linear import mixed


def attention(c: Call) -> Known:
    """softmax(q k^T) v."""
    return mixed(c, c["value"], c["key"].shape[-2])


def cached(c: Call) -> list[Known]:
    """The same with values of before, a bias of them, and both as they are kept."""
    unread = "k_scale v_scale indirection q_norm k_norm".split()
    if "value" not in c.given or any(n in c.given for n in unread):
        return [c.unknown()]
    value, past = c["value"], [c["past_value"]] if "past_value" in c.given else []
    bias = c.array("bias")
    if "bias" in c.given:
        if bias is None or len(value.shape) != 3:
            return [c.unknown()]
        added = bias.astype(np.float64).ravel()[-value.shape[-1] :]
        off = U * np.abs(added) + TINY
        value = between(value.shape, value.low + added - off, value.high + added + off, value.lost)
        value = rounded(value, U + 16 * V, TINY)
    apart = len(value.shape) == len(c.shape) and value.shape[-1] == c.shape[-1]
    shapes = [c.graph.values[o].shape for o in c.node.outputs]
    if past or "GroupQuery" in c.node.op or not apart:
        n = value.shape[-2] + sum(p.shape[-2] for p in past)
        made = averaged(c, any_of((n, 1), [value, *past]), n)
        made = between(c.shape, made.low.min(), made.high.max(), made.lost)
    elif len(c.shape) == 4:
        made = mixed(c, value, value.shape[-2])
    else:
        made = averaged(c, value, value.shape[-2])
    if len(shapes) < 3 or "bias" in c.given or c.node.attributes.get("do_rotary"):
        return [made]
    keys = [c["key"], *([c["past_key"]] if "past_key" in c.given else [])]
    return [made, any_of(shapes[1], keys), any_of(shapes[2], [value, *past])]


def averaged(c: Call, value: Known, n: int) -> Known:
    """Columns are averaged by weights of sum 1, to rounding."""
    off = 2.0**-10 + n * TINY + 2 * sums(n)
    low, high = value.low.min(-2, keepdims=True), value.high.max(-2, keepdims=True)
    most = off * np.maximum(np.abs(low), np.abs(high))
    return between(c.shape, low - most, high + most, value.lost)


def any_of(shape: tuple[int, ...], parts: Sequence[Known]) -> Known:
    """An entry of any, or 0."""
    low = min(0.0, *(float(p.low.min()) for p in parts))
    high = max(0.0, *(float(p.high.max()) for p in parts))
    return between(shape, low, high, next((p.lost for p in parts if p.lost), ""))


def turned(c: Call) -> Known:
    """a c - b s, a s + b c: (|c| + |s|) max |x|, and sqrt(c^2 + s^2) ||x||_2 of the row."""
    x, cos, sin = c.first, c["cos"], c["sin"]
    if c.node.attributes.get("scale", 1.0) not in (0.0, 1.0) or not np.isfinite(x.amax):
        return c.unknown()
    tables = [c.array(n) for n in ("cos", "sin")]
    each, whole = cos.amax + sin.amax, sqrt(cos.amax**2 + sin.amax**2)
    if tables[0] is not None and tables[1] is not None:
        p, q = (np.abs(t.astype(np.float64)) for t in tables if t is not None)
        each, whole = float((p + q).max()), float(np.hypot(p, q).max())
    each, whole = (max(n * (1 + 2 * U) + 2 * TINY, 1.0) * (1 + 8 * V) for n in (each, whole))
    if not np.isfinite(each):
        return c.unknown()
    reach = x.size.max(-1, keepdims=True) * each
    made = between(c.shape, -reach, reach, x.lost)
    return replace(made, lengths=((lambda: x.length * whole),))
