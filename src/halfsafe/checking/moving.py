"""What moves entries, or chooses among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf, prod

import numpy as np

from halfsafe.checking.boxes import channels_of, pixels_of, rows_in
from halfsafe.checking.calls import Call, sums
from halfsafe.checking.known import TINY, Array, Known, U, between, nothing, rounded, thin


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
    try:
        made = c.walk.source.run_node(c.node.name, {**fixed, **numbers})
    except Exception:  # whatever a kernel raises of types that it does not take
        made = [np.zeros(s) for s in shapes]
    if any(x.dtype != np.int64 or (x < 2**40).any() for x in made):
        return [nothing(s, f"{c.node}, which does more than move") for s in shapes]
    pictures = any("conv" in node.op.lower() for node in c.graph.nodes)
    return [gathered(parts, x - 2**40, lost, pictures) for x in made]


def gathered(parts: list[Known], place: Array, lost: str, pictures: bool) -> Known:
    """Entries by their numbers among those of all parts."""
    low, high = (
        np.concatenate(
            [np.broadcast_to(e, p.shape).ravel() for p, e in zip(parts, ends, strict=True)]
        )[place]
        for ends in ([p.low for p in parts], [p.high for p in parts])
    )
    made = between(place.shape, low, high, lost)
    if len(parts) > 1 or not parts[0].shape or not place.shape or not place.size:
        boxes = channels_of(parts, place)
        return replace(made, constant=all(p.constant for p in parts), boxes=boxes)
    (x,) = parts
    boxes = channels_of(parts, place) or (pixels_of(x, place) if pictures else ())
    made = replace(made, boxes=boxes)
    rows = place // x.shape[-1]
    once = bool((rows == rows[..., :1]).all() and (np.diff(np.sort(place, -1), axis=-1) > 0).all())
    if once:
        convex = x.convex and place.shape[-1] == x.shape[-1]
        under = (x.convex or x.under) and not convex
        made = replace(made, lengths=((lambda: x.length),), convex=convex, under=under)
    else:
        made = replace(made, lengths=rows_in(x, place))
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


def same(c: Call) -> Known:
    """A copy."""
    return c.unknown() if c.node.attributes.get("train") or "training" in c.given else c.first


def hull(c: Call) -> Known:
    """One of several; of weights of sum 1 or less and 0, such weights."""
    bounds = [c[n] for n in c.given if n not in ("condition", "mask", "index", "depth")]
    if any(len(b.low.shape) > len(c.shape) for b in bounds):
        return c.unknown()
    ends = [np.broadcast_arrays(*[getattr(b, side) for b in bounds]) for side in ("low", "high")]
    lost = next((b.lost for b in bounds if b.lost), "")
    made = between(c.shape, np.minimum.reduce(ends[0]), np.maximum.reduce(ends[1]), lost)
    nonzero = [b for b in bounds if b.amax > 0]
    weights = [b for b in bounds if (b.convex or b.under) and b.shape == c.shape]
    return replace(made, under=len(nonzero) == len(weights) == 1)


def larger(how: np.ufunc) -> Callable[[Call], Known]:
    """The largest, or least, of several."""

    def rule(c: Call) -> Known:
        parts = [c.walk[v] for v in c.given.values()]
        low, high = (np.broadcast_arrays(*[getattr(p, e) for p in parts]) for e in ("low", "high"))
        lost = next((p.lost for p in parts if p.lost), "")
        return between(c.shape, how.reduce(low), how.reduce(high), lost)

    return rule


def picked(c: Call) -> list[Known]:
    """Some entries, and where they were; of two tensors, one of both."""
    values = [c.graph.values[o] for o in c.node.outputs]
    parts = [c.walk[v] for v in c.tensors if c.graph.values[v].floating]
    if len(parts) > 1:
        return [hull(c)]
    shape, axis = c.first.shape, c.number("dim")
    axis = c.number("axis") if axis is None else axis
    most = prod(shape) if axis is None or not shape else shape[int(axis)]
    return [whole([c.first], v.shape) if v.floating or not i else between(v.shape, 0.0, most)
            for i, v in enumerate(values)]  # fmt: skip


def counted(c: Call) -> Known:
    """As many entries as there are, at most."""
    return between(c.shape, 0.0, prod(c.first.shape))


def whole(parts: list[Known], shape: tuple[int, ...]) -> Known:
    """Any entry of some tensors, anywhere."""
    low, high = min(p.low.min() for p in parts), max(p.high.max() for p in parts)
    return between(shape, low, high, next((p.lost for p in parts if p.lost), ""))


def taken(c: Call) -> list[Known]:
    """Entries of one tensor, at places that may come in."""
    return moved(c) if c.array("index") is not None else [whole([c.first], c.shape)]


def laid_out(c: Call) -> Known:
    """Entries anywhere, or 0."""
    return whole([c.first, between((), 0.0, 0.0)], c.shape)


def filled(c: Call) -> Known:
    """One number."""
    name = next((n for n in ("value", "fill_value", "s") if n in c.given), None)
    if name is not None:
        return whole([c[name]], c.shape)
    number = c.number("value") or c.number("fill_value") or 0.0
    return between(c.shape, number, number)


def of_number(number: float) -> Callable[[Call], Known]:
    """A number."""
    return lambda c: between(c.shape, number, number)


def copied(c: Call) -> Known:
    """The entries of another."""
    other = c["src"]
    return between(c.shape, other.low, other.high, other.lost)


def overwritten(c: Call) -> Known:
    """x, or another's entries; or x and what up to all of those add to it."""
    x, options = c["self"], c.node.attributes
    other = next(c[n] for n in ("src", "values", "source", "value") if n in c.given)
    how = str(options.get("reduction", options.get("reduce", "none")))
    low, high, lost = float(other.low.min()), float(other.high.max()), x.lost or other.lost
    if "_add" in c.node.op or how in ("add", "sum") or options.get("accumulate"):
        placed = [c.graph.values[v].size for v in c.tensors if not c.graph.values[v].floating]
        a = 1.0 if (given := c.number("alpha")) is None else given
        n = max(prod(other.shape), *placed, 1)
        reach = n * abs(a) * (1 + U * (a != 1))
        low, high = (low, high) if a > 0 else (-high, -low)
        off = sums(n + 1) * (x.size + reach * other.amax)
        low, high = reach * min(low, 0.0) - off, reach * max(high, 0.0) + off
        return between(c.shape, x.low + low, x.high + high, lost)
    if how not in ("none", "None", "max", "min", "amax", "amin"):
        return c.unknown()
    return between(c.shape, np.minimum(x.low, low), np.maximum(x.high, high), lost)


def largest(c: Call) -> list[Known]:
    """The first k of a row in order; of n weights that sum to 1, one is 1/n at least."""
    x, n, rank = c.first, c.first.shape[-1], len(c.shape)
    options = c.node.attributes
    axis = options.get("dim", options.get("axis", -1))
    low = np.full((1,) * (rank - 1) + c.shape[-1:], float(x.low.min()))
    sorted_down = options.get("largest", 1) and options.get("sorted", 1)
    if x.convex and axis in (-1, rank - 1) and sorted_down:
        low[..., 0] = max((1 - 2 * U - n * TINY - sums(n)) / n, 0.0)
    return [between(c.shape, low, float(x.high.max()), x.lost), *picked(c)[1:]]
