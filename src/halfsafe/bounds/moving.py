"""Bounds of operators that move entries, or choose among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf, prod

import numpy as np

from halfsafe.bounds.bound import (
    ONCE,
    Array,
    Bound,
    Form,
    hull,
    positions,
    thinned,
)
from halfsafe.bounds.operands import Operands

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
        made = Bound.between(source.shape, low, high, lost, bound.by)
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
    in_order = _keeps_rows(bound, source) and _counts_up(source[..., 0] // bound.shape[-1])
    once = (form.source, form.slip) if in_order else (next(ONCE), inf)
    made = replace(form, index=thinned(index), ball=_thin_balls(ball))
    return replace(made, source=once[0], slip=once[1])


def _counts_up(rows: Array) -> bool:
    return np.array_equal(rows.ravel(), np.arange(rows.size))


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
    return replace(b.first, summed=None)


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
