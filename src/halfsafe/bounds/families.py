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
from typing import Any

import numpy as np

from halfsafe.bounds.bound import (
    Array,
    Bound,
    Form,
    groups,
    hull,
    largest_gain,
    positions,
    thinned,
    with_form,
)
from halfsafe.bounds.operands import Operands

UNIT = 2.0**-24
"""Half a step of FP32 beside 1."""

ROUNDED, FLUSHED = 2.0**-11, 2.0**-25
"""How far off a constant is that FP16 stores: of itself, and at least."""

WEIGHTS = 2.0**-10
"""What rounding may add to weights of a softmax that sum to 1, stored in FP16: each is off by
2^-11 of itself, and those under 2^-14 by 2^-25 at most, of which `convex` counts how many."""


def summed(terms: int) -> float:
    """n u / (1 - n u): by how much a sum of products in FP32 is off, over that of magnitudes."""
    return terms * UNIT / (1 - terms * UNIT) if terms * UNIT < 0.5 else inf


# What moves


FIRST = 2**40
"""The first number of an entry: whole numbers that an operator has itself are smaller."""


def moved(b: Operands) -> list[Bound]:
    """Entries are moved: where to, the operator itself says, of their numbers."""
    names = b.floating
    bounds = [b[name] for name in names]
    starts = np.cumsum([0, *(prod(bound.shape) for bound in bounds)]) + FIRST
    numbered = {n: positions(x.shape) + s for n, x, s in zip(names, bounds, starts, strict=False)}
    found = b.run(numbered)
    if found is not None:
        moves = all(x.dtype == np.int64 and (x >= FIRST).all() for x in found)
        lost = f"{b.name}, which does more than move"
        return [
            _gathered(bounds, x - FIRST) if moves else Bound.unknown(x.shape, lost) for x in found
        ]
    ends = min(x.low.min() for x in bounds), max(x.high.max() for x in bounds)
    lost = next((bound.lost for bound in bounds if bound.lost), "")
    return [Bound.between(shape, *ends, lost) for shape in b.shapes]


def _gathered(bounds: Sequence[Bound], source: Array) -> Bound:
    """Entries by their numbers among all those of the operands."""
    lost = next((bound.lost for bound in bounds if bound.lost), "")
    if len(bounds) == 1:
        (bound,) = bounds
        form = _moved_form(bound, source)
        low, high = (x.ravel()[source] for x in bound.expanded())
        made = Bound.between(source.shape, low, high, lost)
        kept = _keeps_rows(bound, source)
        lengths = (lambda: bound.length,) if kept else ()
        convex = bound.convex and kept and source.shape[-1] == bound.shape[-1]  # the whole row
        return replace(made, form=form, lengths=lengths, convex=convex)
    low, high = (
        np.concatenate([bound.expanded()[side].ravel() for bound in bounds])[source]
        for side in (0, 1)
    )
    return Bound.between(source.shape, low, high, lost)


def _keeps_rows(bound: Bound, source: Array) -> bool:
    """Whether each row is made of entries of one row, each of them once at most."""
    if not bound.shape or not source.shape or source.shape[-1] > bound.shape[-1]:
        return False
    rows = source // bound.shape[-1]
    if not (rows == rows[..., :1]).all():
        return False
    ordered = np.sort(source, axis=-1)
    return bool((np.diff(ordered, axis=-1) > 0).all())


def _moved_form(bound: Bound, source: Array) -> Form | None:
    form = bound.form
    if form is None:
        return None
    index = np.broadcast_to(form.index, bound.shape).ravel()[source]
    ball = _balls(form, bound.shape).ravel()[source]
    return replace(form, index=thinned(index), ball=_thin_balls(ball))


def _balls(form: Form, shape: tuple[int, ...]) -> Array:
    """The ball of every entry, by numbers that are the same only where the ball is."""
    apart = [n if size == 1 else 1 for n, size in zip(shape, form.ball.shape, strict=True)]
    count = int(form.ball.max(initial=0)) + 1
    return np.broadcast_to(form.ball + count * positions(apart), shape)


def _thin_balls(ball: Array) -> Array:
    """Of size 1 along each axis on which every position has the same pattern of balls, and shares
    none with another."""
    for axis, size in enumerate(ball.shape):
        if size == 1:
            continue
        first = ball.take([0], axis)
        offset = ball - first
        others = tuple(i for i in range(ball.ndim) if i != axis)
        steps = offset.max(axis=others, keepdims=True)
        if not (offset == steps).all():
            continue
        patterns = np.unique(first)
        if len(np.unique(patterns[:, None] + steps.ravel())) == size * len(patterns):
            ball = first
    return np.unique(ball, return_inverse=True)[1].reshape(ball.shape)


def same(b: Operands) -> Bound:
    """A cast, a copy: the same entries."""
    if b.attributes.get("train") or "training" in b:
        return Bound.unknown(b.shape, f"{b.name}, which trains")
    return b.first


def selected(b: Operands) -> Bound:
    """One operand or the other, entry by entry; what decides is no matter."""
    return hull([b[name] for name in ("self", "other", "value") if name in b], b.shape)


def pooled(b: Operands) -> Bound:
    """Means, maxima and interpolations of windows, by channels: in the hull of these and of 0."""
    x = b.first
    if b.attributes.get("divisor_override") is not None:
        return Bound.unknown(b.shape, f"{b.name}, whose divisor is another")
    spatial = tuple(range(2, len(x.shape)))
    low, high = x.low.min(spatial, keepdims=True), x.high.max(spatial, keepdims=True)
    return Bound.between(b.shape, np.minimum(low, 0.0), np.maximum(high, 0.0), x.lost)


# Entry by entry


def total(b: Operands) -> Bound:
    """a + s b, s a number."""
    x, y = b["self"], b["other"].plain()
    factor = b.number("alpha")
    return _sum(b, x, y, 1.0 if factor is None else factor)


def difference(b: Operands) -> Bound:
    """a - s b."""
    factor = b.number("alpha")
    return _sum(b, b["self"], b["other"].plain(), -1.0 if factor is None else -factor)


def reversed_difference(b: Operands) -> Bound:
    """b - s a."""
    factor = b.number("alpha")
    return _sum(b, b["other"].plain(), b["self"], -1.0 if factor is None else -factor)


def _sum(b: Operands, x: Bound, y: Bound, factor: float) -> Bound:
    ends = factor * y.low, factor * y.high
    low, high = x.low + np.minimum(*ends), x.high + np.maximum(*ends)
    made = Bound.between(b.shape, low, high, x.lost or y.lost)
    if x.shape == y.shape and b.shape:
        lengths = (lambda: x.length + abs(factor) * y.length,)
        made = replace(made, lengths=lengths)
    return made


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
    lengths = tuple(
        _product_length(one, other) for one, other in ((x, y), (y, x)) if one.shape == b.shape
    )
    form = next((f for one, other in ((x, y), (y, x)) if (f := _gained(b, one, other))), None)
    return replace(made, lengths=lengths, form=form)


def _times_zero(p: Array, q: Array) -> Array:
    """p q, in which 0 times what is not bounded is 0."""
    with np.errstate(invalid="ignore"):
        return np.where((p == 0) | (q == 0), 0.0, p * q)


def _product_length(x: Bound, y: Bound) -> Callable[[], float]:
    return lambda: x.length * y.amax if x.length else 0.0


def _gained(b: Operands, x: Bound, y: Bound) -> Form | None:
    """g (c + A u) = g c + (g A) u, for a constant g along the last axis."""
    form = x.form
    if form is None or x.shape != b.shape or not (y.low == y.high).all():
        return None
    if any(size > 1 for size in form.index.shape[:-1]) or any(n > 1 for n in y.low.shape[:-1]):
        return None
    gain = np.broadcast_to(y.low.ravel(), (b.shape[-1],))
    index = np.broadcast_to(form.index.ravel(), gain.shape)
    rows = form.rows
    if rows.ndim == 1 and not np.array_equal(index, np.arange(len(rows))):
        return None
    rows = gain * rows if rows.ndim == 1 else gain[:, None] * rows[index]
    shape = (*(1 for _ in b.shape[:-1]), len(gain))
    return replace(
        form,
        centre=gain * form.centre[index],
        rows=rows,
        error=np.abs(gain) * form.error[index],
        index=np.arange(len(gain)).reshape(shape),
    )


def _times(x: Bound, factor: float) -> Bound:
    ends = x.low * factor, x.high * factor
    return replace(
        x,
        low=np.minimum(*ends),
        high=np.maximum(*ends),
        form=x.form.scaled(factor) if x.form else None,
        convex=x.convex and factor == 1,
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


def gate(lowest: float) -> Callable[[Operands], Bound]:
    """x g(x) with 0 <= g <= 1: between its least value and x, and 0 where x is negative;
    ||x g(x)||_2 <= ||x||_2."""

    def bound(b: Operands) -> Bound:
        x = b.first
        low = np.where(x.low >= 0, 0.0, np.maximum(x.low, lowest))
        made = Bound.between(b.shape, low, np.maximum(x.high, 0.0), x.lost)
        return replace(made, lengths=(lambda: x.length,))

    return bound


def rectified(b: Operands) -> Bound:
    """max(x, 0); ||relu(x)||_2 <= ||x||_2."""
    x = b.first
    made = Bound.between(b.shape, np.maximum(x.low, 0.0), np.maximum(x.high, 0.0), x.lost)
    return replace(made, lengths=(lambda: x.length,))


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
    return tuple(axis % rank for axis in found) or tuple(range(rank))


# Linear maps


def linear(b: Operands) -> Bound:
    """x W^T + c."""
    return mapped(b, b["input"], b.constant("weight"), b.known("bias"))


def matrix_product(b: Operands) -> Bound:
    """A B: of a constant B a linear map of rows; of rows of weights that are convex, their hull; of
    others |a b| <= ||a||_2 ||b||_2."""
    x, y = b.tensors
    weight = next((b.known(name) for name in ("other", "mat2") if b.is_known(name)), None)
    if weight is not None and weight.ndim == 2:
        return mapped(b, x, weight.T, None)
    if x.convex and len(y.shape) > 1:
        return _mixed(b.shape, y, x.shape[-1])
    return _inner(b, x, y)


def _inner(b: Operands, x: Bound, y: Bound) -> Bound:
    """Rows of one times columns of the other."""
    terms = x.shape[-1]
    columns = _transposed(y)
    by_length = x.length * columns.length
    by_entries = terms * x.amax * y.amax
    found = min(by_length, by_entries) * (1 + summed(terms))
    return Bound.between(b.shape, -found, found, x.lost or y.lost if not np.isfinite(found) else "")


def _transposed(y: Bound) -> Bound:
    """The last two axes exchanged."""

    def turned(array: Array) -> Array:
        return np.swapaxes(array, -1, -2)

    if len(y.shape) < 2:
        return y
    shape = (*y.shape[:-2], y.shape[-1], y.shape[-2])
    form = y.form
    if form is not None:
        form = replace(form, index=turned(form.index), ball=turned(form.ball))
    return Bound(shape, turned(y.low), turned(y.high), form, lost=y.lost)


def biased_product(b: Operands) -> Bound:
    """c + A B."""
    if any(b.number(name) not in (None, 1.0) for name in ("alpha", "beta")):
        return Bound.unknown(b.shape, f"{b.name}, which has factors")
    return mapped(b, b["mat1"], b.constant("mat2").T, b.constant("self"))


def mapped(b: Operands, x: Bound, weight: Array, bias: Array | None) -> Bound:
    """W x + c for the rows of x, the least of three: of intervals W m +- |W| d; of a form, W c +-
    r ||W A||_2 for each ball; of lengths, ||W_i||_2 ||x||_2."""
    weight = weight.astype(np.float64)
    c = np.zeros(len(weight)) if bias is None else np.asarray(bias, np.float64).ravel()
    size, terms, stored = np.abs(weight), weight.shape[1], _as_stored(weight)
    x_low, x_high = (np.broadcast_to(e, (*e.shape[:-1], terms)) for e in (x.low, x.high))
    off = summed(terms + 1) + ROUNDED * (1 + summed(terms + 1))
    if x.is_finite:
        middle, half = (x_low + x_high) / 2, (x_high - x_low) / 2
        centre, reach = middle @ weight.T + c, half @ size.T
        reach = reach + off * (x.size.max() * stored.sum(axis=1) + np.abs(c))
        made = Bound.between(b.shape, centre - reach, centre + reach)
    else:
        made = Bound.unknown(b.shape, x.lost)
    if x.form is not None:
        made = made.meeting(_mapped_form(b.shape, x, x.form, weight, c, off))
    else:
        longest = np.linalg.norm(weight, axis=1) + off * np.linalg.norm(stored, axis=1)
        reach = longest * x.length * (1 + 1e-9) + np.abs(c) * off
        if np.isfinite(reach).all():
            made = made.meeting(Bound.between(b.shape, c - reach, c + reach))
    gain = float(np.linalg.norm(c))
    longer = (lambda: _longest(weight, x.length, off) + gain * (1 + off),)
    return replace(made, lengths=(*made.lengths, *longer), _length=[])


def _as_stored(weight: Array) -> Array:
    """What a share of 2^-11 of is what FP16 adds to weights: |w|, and 2^-14 for its subnormals."""
    return np.abs(weight) + FLUSHED / ROUNDED


def _longest(weight: Array, length: float, off: float) -> float:
    """||W x||_2, W off by so much of each entry: sigma(W) and the length of what it is off by."""
    return (largest_gain(weight) + off * float(np.linalg.norm(_as_stored(weight)))) * length


def _mapped_form(
    shape: tuple[int, ...], x: Bound, form: Form, weight: Array, bias: Array, off: float
) -> Bound:
    """A linear map of an affine form; a form again where a row is of one ball."""
    rows = x.rows_of(form)
    centres: list[Array] = []
    reaches: list[Array] = []
    product = np.zeros((0, 0))
    size, stored = np.abs(weight), _as_stored(weight)
    single = False
    for index, ball in rows:
        parts = groups(index, ball)
        columns = [ball == one for one in np.unique(ball)]
        reach = size @ form.error[index]
        for chosen, column in zip(parts, columns, strict=True):
            product = form.times(weight[:, column], chosen)
            reach = reach + form.radius * np.linalg.norm(product, axis=1)
        inside = off * (stored @ (np.abs(form.centre) + form.spread)[index] + np.abs(bias))
        centres.append(weight @ form.centre[index] + bias)
        reaches.append((reach + inside) * (1 + 1e-9))
        single = len(parts) == 1
    lead = np.broadcast_shapes(form.index.shape[:-1], form.ball.shape[:-1])
    centre, reach = (np.stack(x).reshape(*lead, -1) for x in (centres, reaches))
    made = Bound.between(shape, centre - reach, centre + reach)
    if len(rows) > 1 or not single:
        return made
    index, _ = rows[0]
    inside = off * (stored @ (np.abs(form.centre) + form.spread)[index] + np.abs(bias))
    error = size @ form.error[index] + inside
    last = (*(1 for _ in shape[:-1]), len(weight))
    return replace(
        made,
        form=Form(
            centre=centres[0],
            rows=product,
            error=error,
            radius=form.radius,
            index=np.arange(len(weight)).reshape(last),
            ball=np.zeros(last, np.int64),
        ),
    )


def convolution(b: Operands) -> Bound:
    """sum over a window of W x + c, of intervals; where the border is filled up, 0 is among x."""
    weight, x = b.constant("weight"), b["input"]
    if weight.ndim != len(x.shape) or not x.is_finite:
        return Bound.unknown(b.shape, x.lost or f"{b.name}, which has no batch")
    weight = weight.astype(np.float64).reshape(len(weight), weight.shape[1], -1)
    groups_of = int(b.attributes.get("groups", b.attributes.get("group", 1)) or 1)
    bias = b.known("bias")
    c = np.zeros(len(weight)) if bias is None else bias.astype(np.float64).ravel()
    axis = len(x.shape) - len(b.shape) + 1
    spatial = tuple(i for i in range(len(x.shape)) if i not in (axis - 1, axis))
    low, high = x.low.min((*spatial, axis - 1)), x.high.max((*spatial, axis - 1))
    low, high = (np.broadcast_to(end, (x.shape[axis],)) for end in (low, high))
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)  # a border of zeros
    up, down = np.maximum(weight, 0).sum(axis=2), np.minimum(weight, 0).sum(axis=2)
    made_low, made_high = np.empty(len(weight)), np.empty(len(weight))
    out, into = len(weight) // groups_of, weight.shape[1]
    for g in range(groups_of):
        rows, channels = slice(g * out, (g + 1) * out), slice(g * into, (g + 1) * into)
        least, most = low[channels], high[channels]
        made_low[rows] = up[rows] @ least + down[rows] @ most
        made_high[rows] = up[rows] @ most + down[rows] @ least
    terms = into * weight.shape[2]
    slack = (summed(terms + 1) + 1.01 * ROUNDED) * (
        FLUSHED / ROUNDED * terms * np.maximum(np.abs(low), high).max(initial=0)
        + np.abs(weight).sum(axis=(1, 2)) * np.maximum(np.abs(low), high).max(initial=0)
        + np.abs(c)
    )
    shape = (1, len(weight), *(1 for _ in b.shape[2:]))
    ends = (made_low + c - slack).reshape(shape), (made_high + c + slack).reshape(shape)
    return Bound.between(b.shape, *ends)


def looked_up(b: Operands) -> Bound:
    """Rows of a table: each column between its least and its largest entry, each row no longer than
    the longest."""
    return rows_of(b, b.constant("weight"), b["indices"])


def rows_of(b: Operands, table: Array, ids: Bound) -> Bound:
    """Some rows of a table."""
    table = table.astype(np.float64)
    first, last = max(ids.low.min(), 0), min(ids.high.max(), len(table) - 1)
    if ids.low.min() < 0:  # in ONNX these count from the end
        last = len(table) - 1
    rows = table[int(first) : int(last) + 1]
    longest = float(np.linalg.norm(rows, axis=1).max(initial=0.0))
    made = Bound.between(b.shape, rows.min(axis=0), rows.max(axis=0))
    return replace(made, lengths=(lambda: longest,)).stored(ROUNDED, FLUSHED)


def gathered(b: Operands) -> Bound | list[Bound]:
    """Entries along an axis: of known places, or rows of a table by numbers that come in."""
    if b.is_known("index"):
        return moved(b)
    if b.is_known("self") and b.attributes.get("axis", 0) == 0 and b.constant("self").ndim == 2:
        return rows_of(b, b.constant("self"), b["index"])
    x = b["self"]
    return Bound.between(b.shape, float(x.low.min()), float(x.high.max()), x.lost)


def hull_of_all(b: Operands) -> Bound:
    """The largest or the least of several is one of them."""
    return hull(b.tensors, b.shape)


def general_product(b: Operands) -> Bound:
    """alpha A B + beta c, B a constant, alpha and beta 1."""
    if b.attributes.get("transA") or any(b.number(n) not in (None, 1.0) for n in ("alpha", "beta")):
        return Bound.unknown(b.shape, f"{b.name}, which has factors")
    weight = b.constant("weight")
    weight = weight if b.attributes.get("transB") else weight.T
    bias = b.known("bias")
    if bias is not None and bias.size != len(weight):
        if bias.size != 1:
            return Bound.unknown(b.shape, f"{b.name}, whose bias is a matrix")
        bias = np.broadcast_to(bias.ravel(), b.shape[-1:])
    return mapped(b, b["input"], weight, bias)


# Norms, softmax, attention


def layer_norm(b: Operands) -> Bound:
    """g u + c with ||u||_2 <= sqrt(d): the variance is over d, and epsilon makes u shorter."""
    axes = b.attributes.get("normalized_shape")
    width = prod(axes) if axes else prod(b.shape[int(b.attributes.get("axis", -1)) :])
    if width != b.shape[-1]:
        return _spread(b, sqrt(width))
    return on_ball(b.shape, b.known("weight"), b.known("bias"), sqrt(width))


def on_ball(shape: tuple[int, ...], gain: Array | None, bias: Array | None, radius: float) -> Bound:
    """g u + c, a ball for each row; computed inside in FP32, in some ten operations of d terms."""
    width = shape[-1]
    g, c = (
        np.full(width, empty) if x is None else np.asarray(x, np.float64).ravel()
        for x, empty in ((gain, 1.0), (bias, 0.0))
    )
    inside = 1 + 2 * summed(width + 8)
    last = (*(1 for _ in shape[:-1]), width)
    form = Form(
        centre=c,
        rows=g,
        error=1.01 * ROUNDED * (np.abs(c) + radius * np.abs(g)) + (1 + radius) * FLUSHED,
        radius=radius * inside,
        index=np.arange(width).reshape(last),
        ball=np.zeros(last, np.int64),
    )
    return with_form(shape, form)


def _spread(b: Operands, radius: float) -> Bound:
    """A norm over more than the last axis: entries are under sqrt(d) each, by channel."""
    gain, bias = (b.known(name) for name in ("weight", "bias"))
    g = 1.0 if gain is None else np.abs(gain.astype(np.float64))
    c = 0.0 if bias is None else bias.astype(np.float64)
    reach = radius * (1 + 2 * summed(int(radius**2) + 8)) * g
    reach = reach + 1.01 * ROUNDED * (reach + np.abs(c)) + (1 + radius) * FLUSHED
    if np.ndim(reach) == 1 and len(b.shape) > 2:  # by channels, which are the second axis
        reach, c = (np.reshape(x, (1, -1, *(1 for _ in b.shape[2:]))) if np.ndim(x) else x
                    for x in (reach, c))  # fmt: skip
    return Bound.between(b.shape, c - reach, c + reach)


def group_norm(b: Operands) -> Bound:
    """g u + c, u in a ball of radius sqrt(d) for each group of channels and all places."""
    count = int(b.number("num_groups") or b.attributes.get("num_groups") or 1)
    return _spread(b, sqrt(prod(b.shape[1:]) / count))


def batch_norm(b: Operands) -> Bound:
    """(x - m) g / sqrt(v + eps) + c, by channels."""
    x = b["input"]
    if not x.is_finite or b.attributes.get("training"):
        return Bound.unknown(b.shape, x.lost or f"{b.name}, which trains")
    mean, variance = (b.constant(n).astype(np.float64) for n in ("running_mean", "running_var"))
    gain, bias = (b.known(name) for name in ("weight", "bias"))
    epsilon = b.number("eps") or 0.0
    if (variance + epsilon <= 0).any():
        return Bound.unknown(b.shape, f"{b.name}, whose variance is 0")
    factor = (1.0 if gain is None else gain.astype(np.float64)) / np.sqrt(variance + epsilon)
    c = np.zeros_like(mean) if bias is None else bias.astype(np.float64)
    shape = (1, -1, *(1 for _ in b.shape[2:]))
    scale = (1 / np.sqrt(variance + epsilon)).reshape(shape)
    factor, offset = factor.reshape(shape), (c - mean * factor).reshape(shape)
    mean, c = mean.reshape(shape), c.reshape(shape)
    ends = [x.low * factor, x.high * factor]
    off = 4 * ROUNDED + FLUSHED / float((variance + epsilon).min())
    reach = x.size + np.abs(mean)
    slack = off * (reach * np.abs(factor) + np.abs(c)) + FLUSHED * (1 + (reach + 1) * scale)
    low, high = np.minimum(*ends) + offset - slack, np.maximum(*ends) + offset + slack
    return Bound.between(b.shape, low, high)


def softmax(b: Operands) -> Bound:
    """exp(x_i) / sum exp(x_j): between 0 and 1, and their sum is 1, along the last axis here.

    Which axis that is where ONNX leaves it out depends on the opset.
    """
    axis = b.attributes.get("dim", b.attributes.get("axis"))
    made = Bound.between(b.shape, 0.0, 1 + 16 * UNIT)
    return replace(made, convex=axis in (-1, len(b.shape) - 1))


def log_softmax(b: Operands) -> Bound:
    """x - max - log sum exp(x - max): from -(span + log n) to 0."""
    x = b.first
    span = float(x.high.max() - x.low.min()) if x.is_finite else inf
    terms = b.shape[-1] if b.shape else 1
    return Bound.between(b.shape, -(span + np.log(terms)) * (1 + 16 * UNIT), 16 * UNIT, x.lost)


def attention(b: Operands) -> Bound:
    """softmax(q k^T) v: a row is in the hull of v's rows, of each head. A row that is masked whole
    is not looked at."""
    return _mixed(b.shape, b["value"], b["key"].shape[-2])


def _one_ball(form: Form, width: int) -> bool:
    """Whether all entries of a row are of one ball."""
    return form.ball.shape[-1] == width and bool((form.ball == form.ball[..., :1]).all())


def _mixed(shape: tuple[int, ...], value: Bound, count: int) -> Bound:
    """Convex combinations of n rows, by weights that are rounded: c + A v with v in the ball, since
    a ball is convex; each combination has a v of its own."""
    off = WEIGHTS + count * 2.0**-25 + 2 * summed(count)

    def over(array: Array, how: Any) -> Array:
        found = how(array, axis=-2, keepdims=True)
        heads = shape[-3] if len(shape) > 2 else 1
        if found.ndim > 2 and 1 < found.shape[-3] < heads:  # several of queries share one of keys
            found = np.repeat(found, heads // found.shape[-3], axis=-3)
        return found

    amax = over(value.size, np.max)
    low, high = over(value.low, np.min), over(value.high, np.max)
    made = Bound.between(shape, low - off * amax, high + off * amax, value.lost)
    form = value.form
    longest = (lambda: value.length * (1 + off),)
    if form is None or form.index.shape[-2] > 1 or not _one_ball(form, value.shape[-1]):
        return replace(made, lengths=longest)
    index = over(form.index, np.max)
    lead = tuple(n if size > 1 else 1 for n, size in zip(shape[:-2], index.shape[:-2], strict=True))
    heads = shape[-3] if len(shape) > 2 else 1
    lead = (*lead[:-1], heads) if lead else lead
    ball = np.broadcast_to(positions((*lead, 1, 1)), (*lead, 1, value.shape[-1]))
    error = off * (np.abs(form.centre) + form.spread)
    mixed = replace(form, index=index, ball=ball, error=form.error + error)
    return replace(made, form=mixed, lengths=longest)
