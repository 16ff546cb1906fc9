"""Sums, products, quotients and powers of two tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf, sqrt

import numpy as np

from halfsafe.checking.boxes import added as sum_of
from halfsafe.checking.boxes import boxes_of, by_channels, knows, repeated
from halfsafe.checking.calls import Call
from halfsafe.checking.known import (
    MORE,
    Array,
    Convolved,
    Form,
    Known,
    U,
    between,
    both,
    of_form,
    rounded,
)


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
        if len(c.shape) < 3 or not (knows(x) or knows(y)):
            return made
        parts = [repeated(x, c.shape), repeated(y, c.shape).times(abs(s))]
        conv = shifted(c, x, y, s) or shifted(c, y, x, 1.0)
        return replace(made, boxes=(sum_of(c.shape, parts),), conv=conv)

    return rule


def shifted(c: Call, x: Known, y: Known, s: float) -> Convolved | None:
    """A convolution, and a constant by channels."""
    constant = by_channels(c.shape, y) if x.conv is not None and x.shape == c.shape else None
    if x.conv is None or constant is None:
        return None
    return x.conv.scaled(1.0, abs(s) * (np.abs(constant[0]) + constant[1]))


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
    ends = (x.low * s, x.high * s) if s else (np.zeros_like(x.low), np.zeros_like(x.high))
    return replace(
        x, low=np.minimum(*ends), high=np.maximum(*ends),
        form=times_form(x.form, s) if x.form else None,
        carrier=times_form(x.carrier, s) if x.carrier else None, even=False,
        convex=x.convex and s == 1, lengths=((lambda: x.length * abs(s)),), constant=False,
        boxes=tuple(b.times(abs(s)) for b in x.boxes), kept=[],
        conv=None if x.conv is None else x.conv.scaled(s, 0.0),
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
    boxes = tuple(boxes_of(p).times(q.amax) for p, q in pairs if knows(p))
    conv = next((g for p, q in pairs if (g := gained(c, p, q))), None)
    return replace(made, lengths=tuple(lengths), boxes=boxes, conv=conv)


def gained(c: Call, x: Known, y: Known) -> Convolved | None:
    """A convolution times constants by channels, of which none is 0."""
    constant = by_channels(c.shape, y) if x.conv is not None else None
    if x.conv is None or constant is None or not constant[0].all():
        return None
    return x.conv.scaled(constant[0], 0.0, 1 + float((constant[1] / np.abs(constant[0])).max()))


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
    """x^n for a whole n; of other exponents, and such as vary, and an x > 0, what corners span."""
    x, n = c["self"], c.number("exponent")
    if n is not None and n > 0 and n == int(n):
        ends = x.low**n, x.high**n
        low = np.where((x.low < 0) & (x.high > 0) & (n % 2 == 0), 0.0, np.minimum(*ends))
        return between(c.shape, low, np.maximum(*ends), x.lost)
    if not (x.low > 0).all():
        return c.unknown()
    y = c["exponent"]
    corners = np.broadcast_arrays(
        *[np.log(p) * q for p in (x.low, x.high) for q in (y.low, y.high)]
    )
    low, high = np.exp(np.minimum.reduce(corners)), np.exp(np.maximum.reduce(corners))
    return between(c.shape, low, high, x.lost or y.lost)
