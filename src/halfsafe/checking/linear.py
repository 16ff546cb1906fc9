"""Linear maps, attention and norms: what is of a ball stays of one."""

from __future__ import annotations

from dataclasses import replace
from math import inf, prod, sqrt
from typing import Any

import numpy as np

from halfsafe.checking.calls import Call, sums
from halfsafe.checking.known import (
    MORE,
    TINY,
    Array,
    Form,
    Known,
    U,
    V,
    between,
    both,
    nothing,
    of_form,
    rows_of,
    sigma,
)


def linear(c: Call, x: Known, w: Array, bias: Array | None) -> Known:
    """W x + c, by intervals, by a form, by lengths, and by halves behind an even gate."""
    w = w.astype(np.float64)
    n = w.shape[1]
    b = np.zeros(len(w)) if bias is None else np.asarray(bias, np.float64).ravel()
    b = np.broadcast_to(b, (len(w),))
    own = np.abs(b) + 2.0**-14 * (b != 0)  # of which half a step is off, 2^-25 at least
    lengths = np.linalg.norm(w, axis=1)
    stored, off = lengths + 2.0**-14 * sqrt(n), sums(n + 1) + U * (1 + sums(n + 1))
    low, high = (np.broadcast_to(e, (*e.shape[:-1], n)) for e in (x.low, x.high))
    made = c.unknown()
    if np.isfinite(x.amax):
        middle, reach = (low + high) / 2 @ w.T + b, (high - low) / 2 @ np.abs(w).T
        reach = reach + off * (x.amax * (np.abs(w).sum(1) + 2.0**-14 * n) + own)
        made = between(c.shape, middle - reach, middle + reach)
    if x.form is not None:
        made = mapped(c, x, x.form, w, b, (stored, own), off, made)
    else:
        reach = (lengths + off * stored) * x.length * MORE + off * own
        made = both(made, between(c.shape, b - reach, b + reach))
        if x.even and x.carrier is not None and x.carrier.simple:
            z = x.carrier
            error = np.minimum(np.abs(w) @ z.error, lengths * z.slip) + 1e-6 * lengths * z.length
            tail = off * (stored * x.length + own) + error
            middle = w @ z.centre / 2 + b
            a = w * z.rows if z.rows.ndim == 1 else w @ z.rows
            reach = z.radius * np.linalg.norm(a, axis=1) / 2
            up, down = (
                np.linalg.norm(np.maximum(s * w, 0), axis=1) * z.length / 2 for s in (1, -1)
            )
            low, high = middle - (reach + down) * MORE - tail, middle + (reach + up) * MORE + tail
            made = both(made, between(c.shape, low, high))
    if made.form is None:
        most = sigma(w) + off * float(np.linalg.norm(stored))
        longest = float(np.linalg.norm(np.abs(b) + off * own))
        made = replace(made, lengths=(lambda: most * x.length + longest,))
    return replace(made, lost=x.lost)


def mapped(
    c: Call,
    x: Known,
    form: Form,
    w: Array,
    b: Array,
    held: tuple[Array, Array],
    off: float,
    made: Known,
) -> Known:
    """A linear map of a form, row by row of the tensor, the sum of what each ball gives."""
    (stored, own), lengths, rows = held, np.linalg.norm(w, axis=1), rows_of(form, x.shape[-1])
    ends: list[tuple[Array, Array]] = []
    length = x.length if form.rows.ndim == 1 else inf
    kept = None
    for at, ball in rows:
        size = np.abs(form.centre[at]) + form.reach[at]
        error = np.minimum(np.abs(w) @ form.error[at], lengths * form.slip)
        inside = np.minimum(np.abs(w) @ size + 2.0**-14 * size.sum(), stored * length)
        error = error + off * (inside + own)
        reach, balls, a = np.zeros(len(w)), np.unique(ball), w
        for one in balls:
            part = at[ball == one]
            whole = form.rows.ndim == 1 and np.array_equal(part, np.arange(len(form.rows)))
            a = w * form.rows if whole else w[:, ball == one] @ form.matrix(part)
            reach = reach + form.radius * np.linalg.norm(a, axis=1)
        kept = (a, error) if len(balls) == 1 and len(rows) == 1 else None
        ends.append((w @ form.centre[at] + b, (reach + error) * MORE))
    lead = np.broadcast_shapes(form.at.shape[:-1], form.ball.shape[:-1])
    middle = np.stack([middle for middle, _ in ends]).reshape(*lead, -1)
    reach = np.stack([reach for _, reach in ends]).reshape(*lead, -1)
    made = both(made, between(c.shape, middle - reach, middle + reach))
    if kept is None:
        return made
    last = (*(1,) * (len(c.shape) - 1), len(w))
    origin = form.origin if x.shape[:-1] == c.shape[:-1] else object()
    at, ball = np.arange(len(w)).reshape(last), np.zeros(last, np.int64)
    return replace(made, form=Form(ends[0][0], kept[0], kept[1], form.radius, at, ball, origin))


def affine(c: Call) -> Known:
    """Linear layers, with their constants."""
    node, x, w = c.node, None, None
    if "weight" in c.given:
        w, x = c.array("weight"), c["input"]
        if node.op == "onnx.Gemm" and w is not None and not node.attributes.get("transB"):
            w = w.T
        if node.attributes.get("transA"):
            return c.unknown()
        a, b = (1.0 if (n := c.number(k)) is None else n for k in ("alpha", "beta"))
        plain = node.op == "onnx.Gemm" and a == b == 1 and node.attributes.get("transB")
        if w is None and (plain or node.op == "aten.linear"):
            return computed(c, x, c["weight"])
    elif "mat1" in c.given:
        x, w = c["mat1"], c.array("mat2")
        w = None if w is None else w.T
    bias = next((c.array(n) for n in ("bias", "self") if c.array(n) is not None), None)
    named = [n for n in ("bias", "self") if n in c.given]
    if w is None or x is None or (named and bias is None):
        return c.unknown()
    if bias is not None and bias.size not in (1, len(w)):
        return c.unknown()
    a, b = (1.0 if (n := c.number(k)) is None else n for k in ("alpha", "beta"))
    if a == b == 1:
        return linear(c, x, w, bias)
    if not min(abs(a), abs(b)) > 2.0**-14:
        return c.unknown()
    bias = None if bias is None else b * bias.astype(np.float64)
    made = linear(c, x, a * w.astype(np.float64), bias)
    return rescaled(made, x, a * w, np.zeros(1) if bias is None else bias, (abs(a), abs(b)))


def rescaled(made: Known, x: Known, w: Array, bias: Array, by: tuple[float, float]) -> Known:
    """With numbers that may be stored, each of which is off by 2^-11 of what it is a factor of."""
    size = np.minimum(np.abs(w).sum(1) * x.amax, np.linalg.norm(w, axis=1) * x.length)
    off = 1.01 * U * (size + np.abs(bias).ravel())
    off = off + TINY * (by[1] * bool(bias.any()) + max(by[0] - 1, 0.0) * w.shape[1] * x.amax)
    return between(made.shape, made.low - off, made.high + off, made.lost)


def computed(c: Call, x: Known, w: Known) -> Known:
    """The middle of all weights, and half of how far they are apart times |x|."""
    b = c["bias"] if "bias" in c.given else between((), 0.0, 0.0)
    if not np.isfinite(max(x.amax, w.amax, b.amax)):
        return c.unknown()
    low, high = (np.broadcast_to(e, w.shape) for e in (w.low, w.high))
    made = linear(c, x, (low + high) / 2, None)
    size = np.broadcast_to(x.size, (*x.size.shape[:-1], x.shape[-1]))
    reach = size @ ((high - low) / 2).T * (1 + 2 * sums(x.shape[-1] + 1)) + 2 * V * b.amax
    low, high = made.low + b.low - reach, made.high + b.high + reach
    return between(c.shape, low, high, x.lost or w.lost or b.lost)


def matmul(c: Call) -> Known:
    """A constant on the right, weights that sum to 1 on the left, or |a b| <= ||a||_2 ||b||_2."""
    x, y = (c.walk[v] for v in c.tensors[:2])
    if c.walk.is_fixed(c.tensors[1]) and len(y.shape) == 2:
        return linear(c, x, c.walk.array(c.tensors[1]).T, None)
    if (x.convex or x.under) and len(y.shape) > 1:
        return mixed(c, y, x.shape[-1], rest=not x.convex)
    return inner(c, x, y)


def inner(c: Call, x: Known, y: Known) -> Known:
    """|a b| <= ||a||_2 ||b||_2, or n max |a| max |b|."""
    n = x.shape[-1]
    found = min(x.length * turned(y).length, n * x.amax * y.amax) * (1 + sums(n))
    return between(c.shape, -found, found, x.lost or y.lost)


def turned(y: Known) -> Known:
    """Its last two axes exchanged."""
    if len(y.shape) < 2:
        return y
    made = nothing((*y.shape[:-2], y.shape[-1], y.shape[-2]), y.lost)
    made = replace(made, low=np.swapaxes(y.low, -1, -2), high=np.swapaxes(y.high, -1, -2))
    if y.form is None:
        return made
    at, ball = np.swapaxes(y.form.at, -1, -2), np.swapaxes(y.form.ball, -1, -2)
    return replace(made, form=replace(y.form, at=at, ball=ball, slip=inf, origin=object()))


def mixed(c: Call, v: Known, count: int, *, rest: bool = False) -> Known:
    """Convex combinations of rows: their hull, and a form with another u of the same ball; where
    the rest of the weights is that of 0, the hull with it, and half of the centre either way."""
    off = 2.0**-10 + count * TINY + 2 * sums(count)
    heads = c.shape[-3] if len(c.shape) > 2 else 1

    def over(x: Array, how: Any) -> Array:
        x = how(x, axis=-2, keepdims=True)
        groups = x.shape[-3] if x.ndim > 2 else 1
        return np.repeat(x, heads // groups, axis=-3) if 1 < groups < heads else x

    most, low, high = over(v.size, np.max), over(v.low, np.min), over(v.high, np.max)
    if rest:
        low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    made = between(c.shape, low - off * most, high + off * most, v.lost)
    made = replace(made, lengths=((lambda: v.length * (1 + off)),))
    form = v.form
    if form is None or form.at.shape[-2] > 1 or form.ball.shape[-1] != v.shape[-1]:
        return made
    if not (form.ball == form.ball[..., :1]).all():
        return made
    at = over(form.at, np.max)
    lead = [n if m > 1 else 1 for n, m in zip(c.shape[:-2], at.shape[:-2], strict=True)]
    lead = [*lead[:-1], heads] if lead else lead
    ball = np.arange(prod(lead)).reshape(*lead, 1, 1)
    ball = np.broadcast_to(ball, (*lead, 1, v.shape[-1]))
    error = form.error + off * (np.abs(form.centre) + form.reach)
    half = np.abs(form.centre) / 2 if rest else 0.0
    centre = form.centre / 2 if rest else form.centre
    form = replace(form, at=at, ball=ball, centre=centre, error=error + half, slip=inf)
    return replace(made, form=replace(form, origin=object()))


def softmax(c: Call) -> Known:
    """Not negative, and of sum 1."""
    axis = c.node.attributes.get("dim", c.node.attributes.get("axis"))
    last = axis in (-1, len(c.shape) - 1)
    return replace(between(c.shape, 0.0, 1 + 16 * V), convex=last)


def log_softmax(c: Call) -> Known:
    """From -(span + log n) to 0; before opset 13 of ONNX n are all entries from the axis on."""
    x, shape, options = c.first, c.shape or (1,), c.node.attributes
    axis = int(options.get("dim", options.get("axis", min(1, len(shape) - 1))))
    n = shape[axis] if "dim" in options else prod(shape[axis:])
    span = float(x.high.max() - x.low.min())
    return between(c.shape, -(span + np.log(n)) * (1 + 16 * V), 16 * V, x.lost)


def behind_norm(shape: tuple[int, ...], g: Known | None, b: Known | None, radius: float) -> Known:
    """g u + b with ||u||_2 <= radius; half of how far apart g may be adds its radius times that."""
    n = shape[-1]
    one, last = between((n,), 1.0, 1.0), (*(1,) * (len(shape) - 1), n)
    ends = [[np.broadcast_to(np.ravel(e), (n,)) for e in (x.low, x.high)]
            for x in (g or one, b or between((n,), 0.0, 0.0))]  # fmt: skip
    gain, centre = ((low + high) / 2 for low, high in ends)
    wide, apart = ((high - low) / 2 for low, high in ends)
    inside = radius * (1 + 2 * sums(n + 8))
    size, factor = np.abs(centre) + apart, np.abs(gain) + wide
    error = apart + inside * wide + 1.01 * U * (size + radius * factor) + (1 + radius) * TINY
    longest = float(np.linalg.norm(size)) + radius * float(factor.max())
    slip = float(np.linalg.norm(apart)) + inside * float(wide.max())
    slip += 1.01 * U * longest + (sqrt(n) + radius) * TINY
    at, ball = np.arange(n).reshape(last), np.zeros(last, np.int64)
    return of_form(shape, Form(centre, gain, error, inside, at, ball, slip=slip))
