"""How an operator's operands bound its output, a family a function, each a line of mathematics.

A bound is of the operator in real arithmetic, and of what FP32 adds inside of it; that of storing
the result is added by whoever walks the graph. Soundness of every one is attacked by one loop
(tests/test_bounds.py): for random operands within their bounds, and for extreme ones, the output is
within its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from math import inf, prod, sqrt

import numpy as np

from halfsafe.bounds.bound import (
    BLOCK,
    SLACK,
    Array,
    Bound,
    Form,
    hull,
    narrowed,
    with_form,
)
from halfsafe.bounds.operands import Operands
from halfsafe.bounds.rounding import ROUNDED, summed

# Entry by entry


def total(b: Operands) -> Bound:
    """a + s b, s a number."""
    x, y = b["self"], b["other"]
    factor = b.number("alpha")
    return _sum(b, x, y, 1.0 if factor is None else factor)


def difference(b: Operands) -> Bound:
    """a - s b."""
    factor = b.number("alpha")
    return _sum(b, b["self"], b["other"], -1.0 if factor is None else -factor)


def reversed_difference(b: Operands) -> Bound:
    """b - s a."""
    factor = b.number("alpha")
    return _sum(b, b["other"], b["self"], -1.0 if factor is None else -factor)


def _sum(b: Operands, x: Bound, y: Bound, factor: float) -> Bound:
    ends = factor * y.low, factor * y.high
    low, high = x.low + np.minimum(*ends), x.high + np.maximum(*ends)
    made = Bound.between(b.shape, low, high, x.lost or y.lost)
    form = _sum_of_forms(b, x, y, factor)
    if form is not None:
        made = replace(made.meeting(with_form(b.shape, form)), form=form)
    if x.shape == y.shape and b.shape:
        lengths = (lambda: x.length + abs(factor) * y.length,)
        made = replace(made, lengths=lengths)
    return made


def _sum_of_forms(b: Operands, x: Bound, y: Bound, factor: float) -> Form | None:
    """(c + A u) + s k for a constant k along the last axis, and (c + A u) + s (d + B u)."""
    for one, other, times in ((x, y, factor), (y, x, 1.0)):
        form = one.form if one is x or one.form is None else one.form.scaled(factor)
        constant = _along(b, other, form) if other.by == "constants" else None
        if form is None or constant is None or one.shape != b.shape or not form.is_plain:
            continue
        middle, off = constant
        error = form.error + abs(times) * off
        slip = form.slip + abs(times) * float(np.linalg.norm(off))
        return replace(form, centre=form.centre + times * middle, error=error, slip=slip)
    p, q = x.form, y.form
    if p is None or q is None or not _of_one(p, q) or not x.shape == y.shape == b.shape:
        return None
    rows, off = narrowed(p.rows.astype(np.float64) + factor * q.rows, p.radius)
    centre, error = p.centre + factor * q.centre, p.error + abs(factor) * q.error + off
    slip = p.slip + abs(factor) * q.slip if factor and rows.ndim == 1 else inf
    return replace(p, centre=centre, rows=rows, error=error, slip=slip, _gains=[])


def _of_one(p: Form, q: Form) -> bool:
    """Whether two forms are of the same u, row by row, and can be taken together."""
    same = p.source == q.source and p.radius == q.radius and p.rows.shape == q.rows.shape
    return same and p.is_plain and q.is_plain


def _along(b: Operands, y: Bound, form: Form | None) -> tuple[Array, Array] | None:
    """Middle and half width of what is the same for all rows, for each entry along the last axis;
    None for others."""
    if form is None or any(n > 1 for n in y.low.shape[:-1]) or not b.shape:
        return None
    ends: list[Array] = [(y.low + y.high) / 2, (y.high - y.low) / 2]
    middle, off = (np.broadcast_to(end.ravel(), (b.shape[-1],)) for end in ends)
    return middle, off


def product(b: Operands) -> Bound:
    """a b: of intervals the extremes of four products; ||a b||_2 <= max |a| ||b||_2."""
    x, y = b["self"], b["other"]
    for one, other in ((x, "other"), (y, "self")):
        factor = b.number(other)
        if factor is not None and one.shape == b.shape:
            return _times(one, factor).stored(ROUNDED, 0.0)  # a number may be stored as well
    ends = [_times_zero(p, q) for p in (x.low, x.high) for q in (y.low, y.high)]
    low, high = reduce(np.minimum, ends), reduce(np.maximum, ends)
    made = Bound.between(b.shape, low, high, x.lost or y.lost)
    pairs = [(one, other) for one, other in ((x, y), (y, x)) if one.shape == b.shape]
    lengths = [_product_length(one, other) for one, other in pairs]
    if len(pairs) == 2:
        made = made.meeting(_joint(b.shape, x, y))
        lengths.append(_joint_length(made, x, y))
    carrier = next((c for one, other in pairs if (c := _under(one, other))), None)
    form = next((f for one, other in pairs if (f := _gained(b, one, other))), None)
    return replace(made, lengths=tuple(lengths), form=form, carrier=carrier, _length=[])


def _row_products(p: Array, q: Array) -> Array:
    """<a_i, b_i> of rows, some at a time."""
    made = np.empty(len(p))
    for start in range(0, len(p), BLOCK):
        rows = slice(start, start + BLOCK)
        made[rows] = np.einsum("ij,ij->i", p[rows].astype(np.float64), q[rows])
    return made


def _under(x: Bound, y: Bound) -> Form | None:
    """|x y| <= max |y| |x|, for what is no form itself, as the sigmoid of a gate."""
    carrier = x.form or x.carrier
    if carrier is None or y.form or y.carrier or not y.is_finite:
        return None
    return carrier.scaled(y.amax)


def _joint_length(made: Bound, x: Bound, y: Bound) -> Callable[[], float]:
    """sum (x y)^2 <= max |x y| sum |x y| <= max |x y| ||x||_2 ||y||_2."""

    def length() -> float:
        lengths = x.length * y.length if x.length and y.length else 0.0
        return sqrt(made.amax * lengths) if lengths and made.amax else 0.0

    return length


def _joint(shape: tuple[int, ...], x: Bound, y: Bound) -> Bound:
    """Of two forms of one u, |<a, u> <b, u>| <= r^2 (||a|| ||b|| + |<a, b>|) / 2, which is half of
    what each alone says where a and b are at right angles: a gate and what it lets through."""
    p, q = x.form or x.carrier, y.form or y.carrier
    nothing = Bound.between(shape, -inf, inf)
    if p is None or q is None or not _of_one(p, q) or p.rows.ndim != 2:
        return nothing
    c, d = np.abs(p.centre) + p.error, np.abs(q.centre) + q.error
    a, e = p.radius * p.lengths, q.radius * q.lengths
    turned = p.radius * q.radius * np.abs(_row_products(p.rows, q.rows))
    reach = (c * d + c * e + d * a + (a * e + turned) / 2) * SLACK
    return Bound.between(shape, -reach, reach, by="joint")


def _times_zero(p: Array, q: Array) -> Array:
    """p q, in which 0 times what is not bounded is 0."""
    with np.errstate(invalid="ignore"):
        return np.where((p == 0) | (q == 0), 0.0, p * q)


def _product_length(x: Bound, y: Bound) -> Callable[[], float]:
    return lambda: x.length * y.amax if x.length else 0.0


def _gained(b: Operands, x: Bound, y: Bound) -> Form | None:
    """g (c + A u) = g c + (g A) u, for a constant g along the last axis, off by as much as it is
    stored with."""
    form = x.form
    if form is None or y.by != "constants":
        return None
    if any(size > 1 for size in form.index.shape[:-1]):
        return None
    along = _along(b, y, form)
    if along is None:
        return None
    gain, off = along
    index = np.broadcast_to(form.index.ravel(), gain.shape)
    rows = form.rows
    if rows.ndim == 1 and not np.array_equal(index, np.arange(len(rows))):
        return None
    rows = gain * rows if rows.ndim == 1 else gain[:, None] * rows[index]
    rows, lost = narrowed(rows, form.radius)
    shape = (*(1 for _ in b.shape[:-1]), len(gain))
    size, slip = np.abs(form.centre) + form.spread, inf
    if rows.ndim == 1:
        slip = float(np.abs(gain).max()) * form.slip + float(off.max()) * x.length
    return replace(
        form,
        centre=gain * form.centre[index],
        rows=rows,
        error=np.abs(gain) * form.error[index] + lost + off * size[index],
        slip=slip,
        _gains=[],
        index=np.arange(len(gain)).reshape(shape),
    )


def _times(x: Bound, factor: float) -> Bound:
    ends = x.low * factor, x.high * factor
    return replace(
        x,
        low=np.minimum(*ends),
        high=np.maximum(*ends),
        form=x.form.scaled(factor) if x.form else None,
        carrier=x.carrier.scaled(factor) if x.carrier else None,
        even=False,
        convex=x.convex and factor == 1,
        summed=None,
        lengths=(lambda: x.length * abs(factor),),
        _length=[],
    )


def quotient(b: Operands) -> Bound:
    """a / b, for a b that stays away from 0 on one side."""
    x, y = b["self"], b["other"]
    if b.attributes.get("rounding_mode") is not None:
        return Bound.unknown(b.shape, b.name)
    factor = b.number("other")
    if factor and x.shape == b.shape:
        return _times(x, 1 / factor).stored(2 * ROUNDED, 0.0)
    if not ((y.low > 0) | (y.high < 0)).all():
        return Bound.unknown(b.shape, x.lost or y.lost or f"{b.name}, whose divisor may be 0")
    ends = [p / q for p in (x.low, x.high) for q in (y.low, y.high)]
    low, high = reduce(np.minimum, ends), reduce(np.maximum, ends)
    return Bound.between(b.shape, low, high, x.lost or y.lost)


def powers(b: Operands) -> Bound:
    """x^n, for whole n > 0 from the ends, or 0 where those have both signs and n is even; for
    others of an x > 0."""
    x, n = b["self"], b.number("exponent")
    if n is None:
        return Bound.unknown(b.shape, b.name)
    if n > 0 and n == int(n):
        ends = x.low**n, x.high**n
        low, high = np.minimum(*ends), np.maximum(*ends)
        if n % 2 == 0:
            low = np.where((x.low < 0) & (x.high > 0), 0.0, low)
        return Bound.between(b.shape, low, high, x.lost)
    if not (x.low > 0).all():
        return Bound.unknown(b.shape, x.lost or f"{b.name} of what may be 0")
    ends = x.low**n, x.high**n
    return Bound.between(b.shape, np.minimum(*ends), np.maximum(*ends), x.lost)


def square(b: Operands) -> Bound:
    """x^2."""
    x = b.first
    low = np.where((x.low < 0) & (x.high > 0), 0.0, np.minimum(x.low**2, x.high**2))
    return Bound.between(b.shape, low, x.size**2, x.lost)


def rising(function: Callable[[Array], Array], at: tuple[float, float] = (-inf, inf),
           error: float = 0.0) -> Callable[[Operands], Bound]:  # fmt: skip
    """f(x) for an f that rises, from the ends of the interval; `error` is what a kernel adds."""

    def bound(b: Operands) -> Bound:
        x = b.first
        lowest, highest = (np.clip(end, *at) for end in (x.low, x.high))
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            low, high = function(lowest) - error, function(highest) + error
        return Bound.between(b.shape, low, high, x.lost if not np.isfinite(high).all() else "")

    return bound


def softplus(b: Operands) -> Bound:
    """log(1 + exp(s x)) / s, which rises, for s > 0; above a threshold x, which is less."""
    x, slope = b.first, b.number("beta")
    slope = 1.0 if slope is None else slope
    if slope <= 0:
        return Bound.unknown(b.shape, f"{b.name}, which falls")
    high = np.logaddexp(0, slope * x.high) / slope
    return Bound.between(b.shape, np.maximum(x.low, 0.0), high, x.lost)


def gate(lowest: float, *, even: bool = False) -> Callable[[Operands], Bound]:
    """x g(x) with 0 <= g <= 1: between its least value and x, and 0 where x is negative;
    ||x g(x)||_2 <= ||x||_2. If g - 1/2 is odd, x g(x) - x / 2 is even, and from 0 to |x| / 2."""

    def bound(b: Operands) -> Bound:
        x = b.first
        low = np.where(x.low >= 0, 0.0, np.maximum(x.low, lowest))
        made = Bound.between(b.shape, low, np.maximum(x.high, 0.0), x.lost)
        carrier = x.form or x.carrier
        halves = even and x.form is not None
        return replace(made, lengths=(lambda: x.length,), carrier=carrier, even=halves)

    return bound


def rectified(b: Operands) -> Bound:
    """max(x, 0); ||relu(x)||_2 <= ||x||_2."""
    return gate(0.0, even=True)(b)


def magnitude(b: Operands) -> Bound:
    """|x|."""
    x = b.first
    low = np.where((x.low < 0) & (x.high > 0), 0.0, np.minimum(np.abs(x.low), np.abs(x.high)))
    return replace(Bound.between(b.shape, low, x.size, x.lost), lengths=(lambda: x.length,))


def negated(b: Operands) -> Bound:
    """-x."""
    return _times(b.first, -1.0)


def within(low: float, high: float) -> Callable[[Operands], Bound]:
    """Between two numbers, whatever comes in; |f(x)| <= |x| is not used."""
    return lambda b: Bound.between(b.shape, low, high)


def clipped(b: Operands) -> Bound:
    """min(max(x, a), b)."""
    x = b.first
    low, high = x.low, x.high
    for name in ("min", "min_val"):
        if name in b:
            low, high = np.maximum(low, b[name].low), np.maximum(high, b[name].high)
    for name in ("max", "max_val"):
        if name in b:
            low, high = np.minimum(low, b[name].low), np.minimum(high, b[name].high)
    return Bound.between(b.shape, low, high, x.lost)


def larger(b: Operands) -> Bound:
    """max(a, b)."""
    x, y = b.tensors
    lost = x.lost or y.lost
    return Bound.between(b.shape, np.maximum(x.low, y.low), np.maximum(x.high, y.high), lost)


def smaller(b: Operands) -> Bound:
    """min(a, b)."""
    x, y = b.tensors
    lost = x.lost or y.lost
    return Bound.between(b.shape, np.minimum(x.low, y.low), np.minimum(x.high, y.high), lost)


def filled(b: Operands) -> Bound:
    """x, and a number around it."""
    x, number = b.first, b.number("value") or 0.0
    low, high = min(float(x.low.min()), number), max(float(x.high.max()), number)
    return Bound.between(b.shape, low, high, x.lost)


def picked(b: Operands) -> list[Bound]:
    """Some entries, and where they were; the larger or less of two tensors is one of them."""
    if len(b.floating) > 1:
        return [hull(b.tensors, b.shape)]
    x = b.first
    ends = float(x.low.min()), float(x.high.max())
    return [Bound.between(b.shape, *ends, x.lost)]


def square_root(b: Operands) -> Bound:
    """sqrt(x) of an x that is not negative."""
    x = b.first
    low = np.sqrt(np.maximum(x.low, 0.0))
    return Bound.between(b.shape, low, np.sqrt(np.maximum(x.high, 0.0)), x.lost)


def inverse_square_root(b: Operands) -> Bound:
    """1 / sqrt(x) of an x > 0."""
    x = b.first
    if not (x.low > 0).all():
        return Bound.unknown(b.shape, x.lost or f"{b.name} of what may be 0")
    return Bound.between(b.shape, 1 / np.sqrt(x.high), 1 / np.sqrt(x.low), x.lost)


def logarithm(b: Operands) -> Bound:
    """log(x) of an x > 0."""
    x = b.first
    if not (x.low > 0).all():
        return Bound.unknown(b.shape, x.lost or f"{b.name} of what may be 0")
    return Bound.between(b.shape, np.log(x.low) - 1e-6, np.log(x.high) + 1e-6, x.lost)


def reciprocal(b: Operands) -> Bound:
    """1 / x of an x that stays away from 0 on one side."""
    x = b.first
    if not ((x.low > 0) | (x.high < 0)).all():
        return Bound.unknown(b.shape, x.lost or f"{b.name} of what may be 0")
    return Bound.between(b.shape, 1 / x.high, 1 / x.low, x.lost)


# Over axes


def averaged(b: Operands) -> Bound:
    """A mean, or the largest or least, along some axes is in the hull of what it is of."""
    return _reduced(
        b,
        lambda low, axes, n: low.min(axes, keepdims=True),
        lambda high, axes, n: high.max(axes, keepdims=True),
    )


def added(b: Operands) -> Bound:
    """A sum of n entries, of which intervals say the least and the largest."""

    def of(end: Array, axes: tuple[int, ...], n: int) -> Array:
        counted = prod(end.shape[a] for a in axes)
        return end.sum(axes, keepdims=True) * (n / counted)

    return _reduced(b, of, of)


Reduction = Callable[[Array, tuple[int, ...], int], Array]


def _reduced(b: Operands, least_of: Reduction, largest_of: Reduction) -> Bound:
    x = b.first
    if b.attributes.get("noop_with_empty_axes"):
        return Bound.unknown(b.shape, f"{b.name}, which may be no reduction")
    axes = _axes(b, len(x.shape))
    count = prod(x.shape[axis] for axis in axes)
    low, high = least_of(x.low, axes, count), largest_of(x.high, axes, count)
    slack = summed(count) * np.maximum(np.abs(low), np.abs(high))
    if (x.low < 0).any() and (x.high > 0).any():  # what cancels has errors of what it is made of
        slack = summed(count) * x.amax * count
    if len(b.shape) < len(x.shape):
        low, high, slack = (
            np.squeeze(end, axes) if np.ndim(end) else end for end in (low, high, slack)
        )
    least = 0.0 if (x.low >= 0).all() else -inf  # of what is not negative, nothing is
    return Bound.between(b.shape, np.maximum(low - slack, least), high + slack, x.lost)


def _axes(b: Operands, rank: int) -> tuple[int, ...]:
    given = b.attributes.get("dim", b.attributes.get("axes"))
    if given is None and b.is_known("axes"):
        given = b.constant("axes").ravel().tolist()
    if given is None:
        return tuple(range(rank))
    found: Sequence[int] = [given] if isinstance(given, int) else given
    return tuple(axis % max(rank, 1) for axis in found if rank) or tuple(range(rank))
