"""What each operator makes of what is known of its operands."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import inf, prod, sqrt
from typing import Any, Protocol

import numpy as np

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
    rounded,
    rows_of,
    sigma,
    thin,
)  # fmt: skip
from halfsafe.graph import Graph, Node
from halfsafe.source import Source


class Walk(Protocol):
    """What is known of values so far."""

    source: Source
    graph: Graph

    def __getitem__(self, value: str) -> Known: ...

    def array(self, value: str) -> Array:
        """The entries of what depends on no input."""
        ...

    def is_fixed(self, value: str) -> bool:
        """Whether a value depends on no input."""
        ...


class Call:
    """One operator with what is known of its operands."""

    def __init__(self, walk: Walk, node: Node) -> None:
        self.walk, self.node, self.graph = walk, node, walk.graph
        self.given = node.inputs
        self.shape = self.graph.values[node.outputs[0]].shape
        self.tensors = [v for v in self.given.values() if self.graph.values[v].number is None]

    def __getitem__(self, operand: str) -> Known:
        return self.walk[self.given[operand]]

    @property
    def first(self) -> Known:
        return self.walk[self.tensors[0]]

    def array(self, operand: str) -> Array | None:
        """A constant operand; None where there is none, or it is computed from inputs."""
        value = self.given.get(operand)
        return self.walk.array(value) if value is not None and self.walk.is_fixed(value) else None

    def number(self, operand: str) -> float | None:
        value = self.given.get(operand)
        if value is None:
            found = self.node.attributes.get(operand)
            return float(found) if isinstance(found, (int, float)) else None
        number = self.graph.values[value].number
        if number is not None:
            return float(number)
        one = self.graph.values[value].size == 1 and self.walk.is_fixed(value)
        return float(self.walk.array(value).ravel()[0]) if one else None

    def unknown(self) -> Known:
        lost = next((self.walk[v].lost for v in self.tensors if self.walk[v].lost), "")
        return nothing(self.shape, lost or f"{self.node}, of which no rule is known")

    def axes(self) -> tuple[int, ...]:
        given: Any = self.node.attributes.get("dim", self.node.attributes.get("axes"))
        if given is None and "axes" in self.given:
            given = self.array("axes")
        rank = len(self.first.shape)
        found = () if given is None else tuple(int(a) % rank for a in np.ravel(given))
        return found or tuple(range(rank))


def sums(n: int) -> float:
    """By how much a sum of n products in FP32 is off, of their magnitudes."""
    return n * V / (1 - n * V)


def linear(c: Call, x: Known, w: Array, bias: Array | None) -> Known:
    """W x + c, by intervals, by a form, by lengths, and by halves behind an even gate."""
    w = w.astype(np.float64)
    n = w.shape[1]
    b = np.zeros(len(w)) if bias is None else np.asarray(bias, np.float64).ravel()
    b = np.broadcast_to(b, (len(w),))
    lengths = np.linalg.norm(w, axis=1)
    stored, off = lengths + 2.0**-14 * sqrt(n), sums(n + 1) + U * (1 + sums(n + 1))
    low, high = (np.broadcast_to(e, (*e.shape[:-1], n)) for e in (x.low, x.high))
    made = c.unknown()
    if np.isfinite(x.amax):
        middle, reach = (low + high) / 2 @ w.T + b, (high - low) / 2 @ np.abs(w).T
        reach = reach + off * (x.amax * (np.abs(w).sum(1) + 2.0**-14 * n) + np.abs(b))
        made = between(c.shape, middle - reach, middle + reach)
    if x.form is not None:
        made = mapped(c, x, x.form, w, b, stored, off, made)
    else:
        reach = (lengths + off * stored) * x.length * MORE + off * np.abs(b)
        made = both(made, between(c.shape, b - reach, b + reach))
        if x.even and x.carrier is not None and x.carrier.simple:
            z = x.carrier
            error = np.minimum(np.abs(w) @ z.error, lengths * z.slip) + 1e-6 * lengths * z.length
            tail = off * (stored * x.length + np.abs(b)) + error
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
        own = float(np.linalg.norm(b)) * (1 + off)
        made = replace(made, lengths=(lambda: most * x.length + own,))
    return replace(made, lost="" if np.isfinite(made.amax) else x.lost)


def mapped(
    c: Call, x: Known, form: Form, w: Array, b: Array, stored: Array, off: float, made: Known
) -> Known:
    """A linear map of a form, row by row of the tensor, the sum of what each ball gives."""
    lengths, rows = np.linalg.norm(w, axis=1), rows_of(form, x.shape[-1])
    ends: list[tuple[Array, Array]] = []
    length = form.length if form.simple and form.rows.ndim == 1 else inf
    kept = None
    for at, ball in rows:
        size = np.abs(form.centre[at]) + form.reach[at]
        error = np.minimum(np.abs(w) @ form.error[at], lengths * form.slip)
        inside = np.minimum(np.abs(w) @ size + 2.0**-14 * size.sum(), stored * length)
        error = error + off * (inside + np.abs(b))
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
    elif "mat1" in c.given:
        x, w = c["mat1"], c.array("mat2")
        w = None if w is None else w.T
    bias = next((c.array(n) for n in ("bias", "self") if c.array(n) is not None), None)
    named = [n for n in ("bias", "self") if n in c.given]
    scaled = any(c.number(n) not in (None, 1.0) for n in ("alpha", "beta"))
    if w is None or x is None or scaled or (named and bias is None):
        return c.unknown()
    return linear(c, x, w, bias)


def matmul(c: Call) -> Known:
    """A constant on the right, weights that sum to 1 on the left, or |a b| <= ||a||_2 ||b||_2."""
    x, y = (c.walk[v] for v in c.tensors[:2])
    if c.walk.is_fixed(c.tensors[1]) and len(y.shape) == 2:
        return linear(c, x, c.walk.array(c.tensors[1]).T, None)
    if x.convex and len(y.shape) > 1:
        return mixed(c, y, x.shape[-1])
    turned = replace(nothing((*y.shape[:-2], *y.shape[:-3:-1]), y.lost))
    if len(y.shape) > 1:
        turned = replace(turned, low=np.swapaxes(y.low, -1, -2), high=np.swapaxes(y.high, -1, -2))
        if y.form is not None:
            at, ball = np.swapaxes(y.form.at, -1, -2), np.swapaxes(y.form.ball, -1, -2)
            form = replace(y.form, at=at, ball=ball, slip=inf, origin=object())
            turned = replace(turned, form=form)
    else:
        turned = y
    n = x.shape[-1]
    found = min(x.length * turned.length, n * x.amax * y.amax) * (1 + sums(n))
    return between(c.shape, -found, found, "" if np.isfinite(found) else x.lost or y.lost)


def mixed(c: Call, v: Known, count: int) -> Known:
    """Convex combinations of rows: their hull, and a form with another u of the same ball."""
    off = 2.0**-10 + count * TINY + 2 * sums(count)
    heads = c.shape[-3] if len(c.shape) > 2 else 1

    def over(x: Array, how: Any) -> Array:
        x = how(x, axis=-2, keepdims=True)
        groups = x.shape[-3] if x.ndim > 2 else 1
        return np.repeat(x, heads // groups, axis=-3) if 1 < groups < heads else x

    most = over(v.size, np.max)
    made = between(
        c.shape, over(v.low, np.min) - off * most, over(v.high, np.max) + off * most, v.lost
    )
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
    return replace(
        made, form=replace(form, at=at, ball=ball, error=error, slip=inf, origin=object())
    )


def attention(c: Call) -> Known:
    """softmax(q k^T) v."""
    return mixed(c, c["value"], c["key"].shape[-2])


def softmax(c: Call) -> Known:
    """Not negative, and of sum 1."""
    axis = c.node.attributes.get("dim", c.node.attributes.get("axis"))
    last = axis in (-1, len(c.shape) - 1)
    return replace(between(c.shape, 0.0, 1 + 16 * V), convex=last)


def log_softmax(c: Call) -> Known:
    """From -(span + log n) to 0."""
    x = c.first
    span = float(x.high.max() - x.low.min())
    return between(c.shape, -(span + np.log(c.shape[-1])) * (1 + 16 * V), 16 * V, x.lost)


def behind_norm(shape: tuple[int, ...], g: Array | None, b: Array | None, radius: float) -> Known:
    """g u + b with ||u||_2 <= radius."""
    n = shape[-1]
    gain = np.ones(n) if g is None else g.astype(np.float64).ravel()
    centre = np.zeros(n) if b is None else b.astype(np.float64).ravel()
    longest = float(np.linalg.norm(centre)) + radius * float(np.abs(gain).max())
    last = (*(1,) * (len(shape) - 1), n)
    return of_form(shape, Form(
        centre, gain, 1.01 * U * (np.abs(centre) + radius * np.abs(gain)) + (1 + radius) * TINY,
        radius * (1 + 2 * sums(n + 8)), np.arange(n).reshape(last), np.zeros(last, np.int64),
        slip=1.01 * U * longest + (sqrt(n) + radius) * TINY,
    ))  # fmt: skip


def layer_norm(c: Call) -> Known:
    """g u + b, u no longer than sqrt(d)."""
    axes = c.node.attributes.get("normalized_shape")
    width = prod(axes) if axes else prod(c.shape[int(c.node.attributes.get("axis", -1)) :])
    if width != c.shape[-1]:
        return c.unknown()
    return behind_norm(c.shape, c.array("weight"), c.array("bias"), sqrt(width))


def plus(sign: float, *, turned: bool = False) -> Callable[[Call], Known]:
    """a + s b, with forms where one is the same for all rows, or both are of one u."""

    def rule(c: Call) -> Known:
        x, y = (c["other"], c["self"]) if turned else (c["self"], c["other"])
        alpha = c.number("alpha")
        s = sign * (1.0 if alpha is None else alpha)
        ends = s * y.low, s * y.high
        made = between(
            c.shape, x.low + np.minimum(*ends), x.high + np.maximum(*ends), x.lost or y.lost
        )
        form = added(c, x, y, s)
        if form is not None:
            made = replace(both(made, of_form(c.shape, form)), form=form)
        if x.shape == y.shape and c.shape:
            made = replace(made, lengths=((lambda: x.length + abs(s) * y.length),))
        return made

    return rule


def times_form(form: Form, s: float) -> Form:
    """s (c + A u)."""
    slip = abs(s) * form.slip if s and form.rows.ndim == 1 else inf
    return replace(form, centre=s * form.centre, rows=s * form.rows, error=abs(s) * form.error,
                   slip=slip, cache={})  # fmt: skip


def alike(c: Call, y: Known) -> tuple[Array, Array] | None:
    """Middle and half width along the last axis of a constant that is the same for all rows."""
    if not y.constant or any(n > 1 for n in y.low.shape[:-1]):
        return None
    n = c.shape[-1:]
    middle, half = ((y.low + y.high) / 2).ravel(), ((y.high - y.low) / 2).ravel()
    return np.broadcast_to(middle, n), np.broadcast_to(half, n)


def added(c: Call, x: Known, y: Known, s: float) -> Form | None:
    """The form of a sum: of a form and what is the same for all rows, or of two of one u."""
    p = x.form if x.form and x.form.simple and x.shape == c.shape else None
    q = y.form if y.form and y.form.simple and y.shape == c.shape else None
    for form, other, times in ((p, y, s), (times_form(q, s) if q else None, x, 1.0)):
        constant = alike(c, other) if form is not None else None
        if form is not None and constant is not None:
            middle, half = constant
            slip = form.slip + abs(times) * float(np.linalg.norm(half))
            error = form.error + abs(times) * half
            return replace(form, centre=form.centre + times * middle, error=error, slip=slip)
    if p is None or q is None or p.origin is not q.origin or p.rows.shape != q.rows.shape:
        return None
    slip = p.slip + abs(s) * q.slip if p.rows.ndim == 1 else inf
    return replace(p, centre=p.centre + s * q.centre, rows=p.rows + s * q.rows,
                   error=p.error + abs(s) * q.error, slip=slip, cache={})  # fmt: skip


def scaled(x: Known, s: float) -> Known:
    """Times a number."""
    ends = x.low * s, x.high * s
    return replace(
        x, low=np.minimum(*ends), high=np.maximum(*ends),
        form=times_form(x.form, s) if x.form else None,
        carrier=times_form(x.carrier, s) if x.carrier else None, even=False,
        convex=x.convex and s == 1, lengths=((lambda: x.length * abs(s)),), constant=False,
    )  # fmt: skip


def product(c: Call) -> Known:
    """a b, from the ends of both; ||a b||_2 <= max |a| ||b||_2."""
    x, y = c["self"], c["other"]
    for one, other in ((x, "other"), (y, "self")):
        s = c.number(other)
        if s is not None and one.shape == c.shape:
            return rounded(scaled(one, s), U, 0.0)
    with np.errstate(invalid="ignore"):
        ends = [
            np.where((p == 0) | (q == 0), 0.0, p * q)
            for p in (x.low, x.high)
            for q in (y.low, y.high)
        ]
    made = between(
        c.shape,
        np.minimum.reduce(np.broadcast_arrays(*ends)),
        np.maximum.reduce(np.broadcast_arrays(*ends)),
        x.lost or y.lost,
    )
    pairs = [(p, q) for p, q in ((x, y), (y, x)) if p.shape == c.shape]
    lengths = [_longer(p, q) for p, q in pairs]
    if len(pairs) == 2:
        made = jointly(c, made, x, y)
        most = made.amax

        def length() -> float:
            rows = x.length * y.length if x.length and y.length else 0.0
            return sqrt(most * rows) if most and rows else 0.0

        lengths.append(length)
    for p, q in pairs:
        constant = alike(c, q) if p.form is not None and p.form.simple else None
        if constant is not None and p.form is not None:
            made = replace(made, form=with_gain(p, p.form, *constant))
            break
        under = p.form or p.carrier
        if under and not q.form and not q.carrier and np.isfinite(q.amax):
            made = replace(made, carrier=times_form(under, q.amax))
            break
    return replace(made, lengths=tuple(lengths))


def _longer(x: Known, y: Known) -> Callable[[], float]:
    return lambda: x.length * y.amax if x.length else 0.0


def with_gain(x: Known, form: Form, gain: Array, half: Array) -> Form:
    """g (c + A u)."""
    diagonal = form.rows.ndim == 1
    rows = gain * form.rows if diagonal else gain[:, None] * form.rows
    error = np.abs(gain) * form.error + half * (np.abs(form.centre) + form.reach)
    slip = float(np.abs(gain).max()) * form.slip + float(half.max()) * x.length if diagonal else inf
    return replace(form, centre=gain * form.centre, rows=rows, error=error, slip=slip, cache={})


def jointly(c: Call, made: Known, x: Known, y: Known) -> Known:
    """|<a, u> <b, u>| <= r^2 (||a|| ||b|| + |<a, b>|) / 2, for one u."""
    p, q = x.form or x.carrier, y.form or y.carrier
    if p is None or q is None or p.origin is not q.origin or not (p.simple and q.simple):
        return made
    if p.rows.ndim == 1 or p.rows.shape != q.rows.shape:
        return made
    a, b = (f.radius * np.linalg.norm(f.rows, axis=1) for f in (p, q))
    d, e = (np.abs(f.centre) + f.error for f in (p, q))
    turned = p.radius * q.radius * np.abs((p.rows * q.rows).sum(1))
    reach = (d * e + d * b + e * a + (a * b + turned) / 2) * MORE
    return both(made, between(c.shape, -reach, reach))


def quotient(c: Call) -> Known:
    """a / b, for a b on one side of 0."""
    x, y, s = c["self"], c["other"], c.number("other")
    if c.node.attributes.get("rounding_mode") is not None:
        return c.unknown()
    if s and x.shape == c.shape:
        return rounded(scaled(x, 1 / s), 2 * U, 0.0)
    if not ((y.low > 0) | (y.high < 0)).all():
        return c.unknown()
    ends = np.broadcast_arrays(*[p / q for p in (x.low, x.high) for q in (y.low, y.high)])
    return between(c.shape, np.minimum.reduce(ends), np.maximum.reduce(ends), x.lost or y.lost)


def power(c: Call) -> Known:
    """x^n."""
    x, n = c["self"], c.number("exponent")
    if n is None or not ((n > 0 and n == int(n)) or (x.low > 0).all()):
        return c.unknown()
    ends = x.low**n, x.high**n
    low = np.where((x.low < 0) & (x.high > 0) & (n % 2 == 0), 0.0, np.minimum(*ends))
    return between(c.shape, low, np.maximum(*ends), x.lost)


def gated(lowest: float, *, even: bool = True) -> Callable[[Call], Known]:
    """x g(x), 0 <= g <= 1; `even` if g - 1/2 is odd."""

    def rule(c: Call) -> Known:
        x = c.first
        low = np.where(x.low >= 0, 0.0, np.maximum(x.low, lowest))
        made = between(c.shape, low, np.maximum(x.high, 0.0), x.lost)
        made = replace(made, carrier=x.form or x.carrier, lengths=((lambda: x.length),))
        return replace(made, even=even and x.form is not None)

    return rule


def rising(
    f: Callable[[Array], Array], least: float = -inf, more: float = 0.0
) -> Callable[[Call], Known]:
    """From the ends of the interval, where it is above `least`."""

    def rule(c: Call) -> Known:
        x = c.first
        if not (x.low > least).all() and least > -inf:
            return c.unknown()
        with np.errstate(all="ignore"):
            low, high = f(x.low) - more, f(x.high) + more
        return between(c.shape, low, high, x.lost)

    return rule


def falling(f: Callable[[Array], Array]) -> Callable[[Call], Known]:
    """The same of one that falls, for what is above 0."""

    def rule(c: Call) -> Known:
        x = c.first
        return between(c.shape, f(x.high), f(x.low), x.lost) if (x.low > 0).all() else c.unknown()

    return rule


def reduced(how: str) -> Callable[[Call], Known]:
    """A sum, or what is in the hull."""

    def rule(c: Call) -> Known:
        x, axes = c.first, c.axes()
        n = prod(x.shape[a] for a in axes)
        if how == "sum":
            low, high = (
                e.sum(axes, keepdims=True) * (n / prod(e.shape[a] for a in axes))
                for e in (x.low, x.high)
            )
        else:
            low, high = x.low.min(axes, keepdims=True), x.high.max(axes, keepdims=True)
        off = sums(n) * np.maximum(np.abs(low), np.abs(high))
        if (x.low < 0).any() and (x.high > 0).any():
            off = sums(n) * x.amax * n
        low = np.maximum(low - off, 0.0 if (x.low >= 0).all() else -inf)
        high = high + off
        if len(c.shape) < len(x.shape):
            low, high = np.squeeze(low, axes), np.squeeze(high, axes)
        return between(c.shape, low, high, x.lost)

    return rule


def hull(c: Call) -> Known:
    """One of several."""
    bounds = [c.walk[v] for n, v in c.given.items() if n not in ("condition", "mask")]
    if any(len(b.low.shape) > len(c.shape) for b in bounds):
        return c.unknown()
    ends = [np.broadcast_arrays(*[getattr(b, side) for b in bounds]) for side in ("low", "high")]
    lost = next((b.lost for b in bounds if b.lost), "")
    return between(c.shape, np.minimum.reduce(ends[0]), np.maximum.reduce(ends[1]), lost)


def clipped(c: Call) -> Known:
    """min(max(x, a), b)."""
    low, high = c.first.low, c.first.high
    for names, how in ((("min", "min_val"), np.maximum), (("max", "max_val"), np.minimum)):
        for name in names:
            limit = c[name] if name in c.given else None
            number = c.node.attributes.get(name) if limit is None else None
            if limit is not None:
                low, high = how(low, limit.low), how(high, limit.high)
            elif isinstance(number, (int, float)):
                low, high = how(low, number), how(high, number)
    return between(c.shape, low, high, c.first.lost)


def table(c: Call) -> Known:
    """Rows of a table."""
    name = "weight" if "weight" in c.given else "self"
    found, ids = c.array(name), c["indices" if "indices" in c.given else "index"]
    if found is None or found.ndim != 2 or c.node.attributes.get("axis", 0) != 0:
        return moved(c)[0]
    first = 0 if ids.low.min() < 0 else int(ids.low.min())
    last = (
        len(found) if ids.low.min() < 0 or ids.high.max() > len(found) else int(ids.high.max()) + 1
    )
    rows = found[first:last].astype(np.float64)
    longest = float(np.linalg.norm(rows, axis=1).max(initial=0.0))
    made = replace(between(c.shape, rows.min(0), rows.max(0)), lengths=((lambda: longest),))
    return rounded(made, U, TINY)


def convolution(c: Call) -> Known:
    """Intervals over a window, of which a border of zeros is a part."""
    w, x, bias = c.array("weight"), c["input"], c.array("bias")
    if (
        w is None
        or w.ndim != len(x.shape)
        or not np.isfinite(x.amax)
        or ("bias" in c.given and bias is None)
    ):
        return c.unknown()
    groups = int(c.node.attributes.get("groups", c.node.attributes.get("group", 1)) or 1)
    w = w.astype(np.float64).reshape(groups, -1, w.shape[1], prod(w.shape[2:]))
    places = (0, *range(2, len(x.shape)))
    low, high = np.minimum(x.low.min(places), 0.0), np.maximum(x.high.max(places), 0.0)
    low, high = (np.broadcast_to(e, (x.shape[1],)).reshape(groups, 1, -1) for e in (low, high))
    up, down = np.maximum(w, 0).sum(-1), np.minimum(w, 0).sum(-1)
    b = np.zeros(up.shape[0] * up.shape[1]) if bias is None else bias.astype(np.float64).ravel()
    least, most = ((up * p + down * q).sum(-1).ravel() + b for p, q in ((low, high), (high, low)))
    n, amax = w.shape[2] * w.shape[3], max(-low.min(), high.max())
    off = (sums(n + 1) + 1.01 * U) * (
        (np.abs(w).sum((2, 3)).ravel() + 2.0**-14 * n) * amax + np.abs(b)
    )
    shape = (1, -1, *(1,) * (len(c.shape) - 2))
    return between(c.shape, (least - off).reshape(shape), (most + off).reshape(shape))


def pooled(c: Call) -> Known:
    """In the hull of what windows see, and of 0."""
    x, rank = c.first, len(c.first.shape)
    count = next((int(n) for n in re.findall(r"([123])d\b", c.node.op)), rank - 2)
    places = tuple(range(rank - count, rank))  # there may be no batch
    if c.node.attributes.get("divisor_override") is not None:
        return c.unknown()
    low, high = x.low.min(places, keepdims=True), x.high.max(places, keepdims=True)
    return between(c.shape, np.minimum(low, 0.0), np.maximum(high, 0.0), x.lost)


def moved(c: Call) -> list[Known]:
    """Where entries go is found by moving their numbers."""
    names = [n for n, v in c.given.items()
             if c.graph.values[v].floating and c.graph.values[v].number is None]  # fmt: skip
    others = [v for n, v in c.given.items() if n not in names and c.graph.values[v].number is None]
    parts = [c[n] for n in names]
    lost = next((p.lost for p in parts if p.lost), "")
    shapes = [c.graph.values[o].shape for o in c.node.outputs]
    if not all(c.walk.is_fixed(v) for v in others):
        low, high = min(p.low.min() for p in parts), max(p.high.max() for p in parts)
        return [between(s, low, high, lost) for s in shapes]
    numbers: dict[str, Array] = {}
    start = 2**40
    for name, part in zip(names, parts, strict=True):
        numbers[c.given[name]] = np.arange(start, start + prod(part.shape)).reshape(part.shape)
        start += prod(part.shape)
    fixed = {v: c.walk.array(v) for v in others}
    made = c.walk.source.run_node(c.node.name, {**fixed, **numbers})
    if any(x.dtype != np.int64 or (x < 2**40).any() for x in made):
        return [nothing(s, f"{c.node}, which does more than move") for s in shapes]
    return [gathered(parts, x - 2**40, lost) for x in made]


def gathered(parts: list[Known], place: Array, lost: str) -> Known:
    """Entries by their numbers among those of all parts."""
    low, high = (
        np.concatenate(
            [np.broadcast_to(e, p.shape).ravel() for p, e in zip(parts, ends, strict=True)]
        )[place]
        for ends in ([p.low for p in parts], [p.high for p in parts])
    )
    made = between(place.shape, low, high, lost)
    if len(parts) > 1 or not parts[0].shape or not place.shape or not place.size:
        return replace(made, constant=all(p.constant for p in parts))
    (x,) = parts
    rows = place // x.shape[-1]
    once = bool((rows == rows[..., :1]).all() and (np.diff(np.sort(place, -1), axis=-1) > 0).all())
    if once:
        made = replace(
            made, lengths=((lambda: x.length),), convex=x.convex and place.shape[-1] == x.shape[-1]
        )
    made = replace(made, constant=x.constant)
    if x.form is None:
        return made
    form, apart = (
        x.form,
        [n if m == 1 else 1 for n, m in zip(x.shape, x.form.ball.shape, strict=True)],
    )
    ball = form.ball + (int(form.ball.max()) + 1) * np.arange(prod(apart)).reshape(apart)
    ball = np.broadcast_to(ball, x.shape).ravel()[place]
    at = np.broadcast_to(form.at, x.shape).ravel()[place]
    kept = once and np.array_equal(rows[..., 0].ravel(), np.arange(rows[..., 0].size))
    form = replace(form, at=thin(at), ball=alone(ball))
    if not kept:
        form = replace(form, origin=object(), slip=inf)
    return replace(made, form=form)


def alone(ball: Array) -> Array:
    """Of size 1 along axes on which no two positions share a ball, and the pattern is the same."""
    for axis, n in enumerate(ball.shape):
        first = ball.take([0], axis)
        step = (ball - first).max(
            axis=tuple(i for i in range(ball.ndim) if i != axis), keepdims=True
        )
        same = n > 1 and bool((ball - first == step).all())
        if same and len(np.unique(np.unique(first)[:, None] + step.ravel())) == n * len(
            np.unique(first)
        ):
            ball = first
    return np.unique(ball, return_inverse=True)[1].reshape(ball.shape)


def batch_norm(c: Call) -> Known:
    """(x - m) g / sqrt(v + eps) + b, by channels."""
    x, shape = c["input"], (1, -1, *(1,) * (len(c.shape) - 2))
    mean, var, g, b = (c.array(n) for n in ("running_mean", "running_var", "weight", "bias"))
    if mean is None or var is None or c.node.attributes.get("training") or not np.isfinite(x.amax):
        return c.unknown()
    wide = var.astype(np.float64) + (c.number("eps") or 0.0)
    one = np.ones(len(wide))
    gain, bias = (e if a is None else a.astype(np.float64) for a, e in ((g, one), (b, 0 * one)))
    scale, m, bias = (a.reshape(shape) for a in (1 / np.sqrt(wide), mean.astype(np.float64), bias))
    factor = gain.reshape(shape) * scale
    ends, offset = (x.low * factor, x.high * factor), bias - m * factor
    reach = x.size + np.abs(m)
    off = (4 * U + TINY / float(wide.min())) * (reach * np.abs(factor) + np.abs(bias))
    off = off + TINY * (1 + (reach + 1) * scale)
    return between(c.shape, np.minimum(*ends) + offset - off, np.maximum(*ends) + offset + off)


def group_norm(c: Call) -> Known:
    """g u + b, u no longer than the root of how many entries a group has."""
    groups = int(c.number("num_groups") or c.node.attributes.get("num_groups") or 1)
    radius, shape = sqrt(prod(c.shape[1:]) / groups), (1, -1, *(1,) * (len(c.shape) - 2))
    g, b = c.array("weight"), c.array("bias")
    gain = np.abs(np.ones(c.shape[1]) if g is None else g.astype(np.float64)).reshape(shape)
    centre = (np.zeros(c.shape[1]) if b is None else b.astype(np.float64)).reshape(shape)
    reach = radius * (1 + 2 * sums(int(radius**2) + 8)) * gain
    reach = reach + 1.01 * U * (reach + np.abs(centre)) + (1 + radius) * TINY
    return between(c.shape, centre - reach, centre + reach)


def same(c: Call) -> Known:
    """A copy."""
    return c.unknown() if c.node.attributes.get("train") or "training" in c.given else c.first


def within(low: float, high: float) -> Callable[[Call], Known]:
    """Between two numbers, whatever comes in."""
    return lambda c: between(c.shape, low, high)


def padded(c: Call) -> Known:
    """x, and a number around it."""
    x, value = c.first, c.number("value") or 0.0
    return between(c.shape, min(float(x.low.min()), value), max(float(x.high.max()), value), x.lost)


def magnitude(c: Call) -> Known:
    """|x|."""
    x = c.first
    low = np.where((x.low < 0) & (x.high > 0), 0.0, np.minimum(np.abs(x.low), np.abs(x.high)))
    return replace(between(c.shape, low, x.size, x.lost), lengths=((lambda: x.length),))


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x))."""
    return 1 / (1 + np.exp(-x))


Rule = Callable[[Call], Known | list[Known]]
_NAMES: Mapping[Rule, str] = {
    moved: "alias detach view _unsafe_view reshape flatten unflatten squeeze unsqueeze expand "
    "permute transpose t slice select split split_with_sizes chunk unbind unfold diagonal flip "
    "roll repeat repeat_interleave index index_select cat stack narrow movedim contiguous tile "
    "pixel_shuffle gather pixel_unshuffle "
    "Identity Transpose Reshape Flatten Squeeze Unsqueeze Concat Slice "
    "Split Expand Tile "
    "GatherElements DepthToSpace SpaceToDepth clone lift_fresh_copy",
    same: "_to_copy to type_as dropout Cast Dropout",
    table: "embedding Gather",
    affine: "linear addmm Gemm",
    matmul: "mm bmm matmul MatMul",
    attention: "scaled_dot_product_attention",
    softmax: "softmax _softmax Softmax",
    log_softmax: "log_softmax _log_softmax LogSoftmax",
    layer_norm: "layer_norm native_layer_norm rms_norm LayerNormalization RMSNormalization "
    "SimplifiedLayerNormalization",
    group_norm: "group_norm native_group_norm",
    batch_norm: "batch_norm _native_batch_norm_legit_no_training BatchNormalization",
    convolution: "conv1d conv2d conv3d Conv",
    pooled: "max_pool1d max_pool2d avg_pool1d avg_pool2d adaptive_avg_pool1d adaptive_avg_pool2d "
    "upsample_nearest1d upsample_nearest2d upsample_bilinear2d MaxPool AveragePool "
    "GlobalAveragePool",
    plus(1.0): "add Add",
    plus(-1.0): "sub Sub",
    plus(-1.0, turned=True): "rsub",
    product: "mul Mul",
    quotient: "div true_divide Div",
    power: "pow Pow",
    gated(0.0): "relu Relu",
    gated(-0.1701): "gelu Gelu",
    gated(-0.2785): "silu",
    gated(-0.3751): "hardswish HardSwish",
    gated(-0.3089, even=False): "mish Mish",
    rising(np.exp): "exp Exp",
    rising(np.tanh, more=1e-6): "tanh Tanh",
    rising(sigmoid, more=1e-6): "sigmoid Sigmoid",
    rising(lambda x: np.clip(x / 6 + 0.5, 0, 1)): "hardsigmoid",
    rising(lambda x: np.sqrt(np.maximum(x, 0.0))): "sqrt Sqrt",
    rising(np.log, least=0.0, more=1e-6): "log Log",
    falling(lambda x: 1 / np.sqrt(x)): "rsqrt",
    falling(lambda x: 1 / x): "reciprocal Reciprocal",
    within(-1.0, 1.0): "sin cos erf sign Sin Cos Erf Sign",
    lambda c: scaled(c.first, -1.0): "neg Neg",
    magnitude: "abs Abs",
    clipped: "clamp clip hardtanh Clip",
    hull: "where masked_fill maximum minimum Where Max Min",
    padded: "pad constant_pad_nd",
    reduced("sum"): "sum ReduceSum",
    reduced("hull"): "mean amax amin ReduceMean ReduceMax ReduceMin",
}  # fmt: skip
RULES: Mapping[str, Rule] = {name: rule for rule, names in _NAMES.items() for name in names.split()}
