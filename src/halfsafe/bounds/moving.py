"""Bounds of operators that move entries, or choose among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf, prod, sqrt

import numpy as np

from halfsafe.bounds.bound import ONCE, Bound, Form, hull, positions, thinned
from halfsafe.bounds.gains import Array
from halfsafe.bounds.operands import Operands
from halfsafe.bounds.patches import Patches, of_parts
from halfsafe.bounds.rounding import FLUSHED, ROUNDED, summed

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
            _gathered(bounds, x - FIRST, pictures=b.has_pictures)
            if moves
            else Bound.unknown(x.shape, lost)
            for x in found
        ]
    return [over_all(b.every_floating, shape) for shape in b.shapes]


def over_all(bounds: Sequence[Bound], shape: Sequence[int]) -> Bound:
    """What is an entry of one of several, wherever it stands."""
    ends = min(x.low.min() for x in bounds), max(x.high.max() for x in bounds)
    return Bound.between(shape, *ends, next((x.lost for x in bounds if x.lost), ""))


def _gathered(bounds: Sequence[Bound], source: Array, *, pictures: bool) -> Bound:
    """Entries by their numbers among all those of the operands."""
    lost = next((bound.lost for bound in bounds if bound.lost), "")
    if len(bounds) == 1:
        (bound,) = bounds
        form = _moved_form(bound, source)
        low, high = (x.ravel()[source] for x in bound.expanded())
        made = Bound.between(source.shape, low, high, lost, bound.by)
        kept = _keeps_rows(bound, source)
        lengths = (bound.longest,) if kept else _of_patch(bound, source)
        windows = _windows([bound], source) or (_of_rows(bound, source) if pictures else ())
        whole = kept and source.shape[-1] == bound.shape[-1]
        convex, under = bound.convex and whole, kept and (bound.convex or bound.under)
        made = replace(made, form=form, lengths=lengths, windows=windows)
        return replace(made, convex=convex, under=under and not convex)
    low, high = (
        np.concatenate([bound.expanded()[side].ravel() for bound in bounds])[source]
        for side in (0, 1)
    )
    return replace(Bound.between(source.shape, low, high, lost), windows=_windows(bounds, source))


def _windows(bounds: Sequence[Bound], source: Array) -> tuple[Patches, ...]:
    """Of channels that are those of others, each once at most, where every place stays."""
    shapes = [bound.shape for bound in bounds]
    lead, last = source.shape[:1], source.shape[2:]
    same = all(len(s) > 2 and (s[:1], s[2:]) == (lead, last) for s in shapes)
    if not same or not source.size or not any(bound.has_patches for bound in bounds):
        return ()
    batch, places = source.shape[0], prod(last)
    numbers = source.reshape(batch, -1, places)
    first = numbers[:, :, :1]
    in_order = np.array_equal(numbers, first + np.arange(places))
    if not in_order or (first % places).any():
        return ()
    counts = np.cumsum([0, *(prod(shape) for shape in shapes)])
    which = np.searchsorted(counts, first[:, :, 0], "right") - 1
    channels = np.array([shape[1] for shape in shapes])[which]
    sample = (first[:, :, 0] - counts[which]) // (channels * places)
    every = np.broadcast_to(np.arange(batch, dtype=np.int64)[:, None], sample.shape)
    stays = np.array_equal(sample, every)
    if not stays or len(np.unique(first)) < first.size:
        return ()
    return (of_parts(source.shape, [bound.patches for bound in bounds]),)


def _of_patch(bound: Bound, source: Array) -> tuple[Callable[[], float], ...]:
    """The length of rows that are made of entries of a patch, each of them once at most."""
    if not bound.has_patches or not source.size or not source.shape:
        return ()
    rows = source.reshape(-1, source.shape[-1])
    if not _once_of_one(rows, prod(bound.shape[1:])):
        return ()
    patches = bound.patches
    where = np.unravel_index(rows % prod(bound.shape[2:]), bound.shape[2:])
    size = tuple(int(np.ptp(axis, axis=1).max()) + 1 for axis in where)
    return (lambda: patches(size),)


def _of_rows(bound: Bound, source: Array) -> tuple[Patches, ...]:
    """Of places whose channels are entries of a row, each of them once at most."""
    if len(source.shape) < 3 or not source.size or not (bound.form or bound.lengths):
        return ()
    pixels = np.moveaxis(source, 1, -1)
    if not _once_of_one(pixels.reshape(-1, source.shape[1]), bound.shape[-1]):
        return ()
    longest = bound.longest
    return (Patches(source.shape, (lambda size: sqrt(prod(size)) * longest(),)),)


def _keeps_rows(bound: Bound, source: Array) -> bool:
    """Whether each row is made of entries of one row, each of them once at most."""
    if not bound.shape or not source.size or not source.shape:
        return False
    if source.shape[-1] > bound.shape[-1]:
        return False
    return _once_of_one(source, bound.shape[-1])


def _once_of_one(rows: Array, size: int) -> bool:
    """Whether each row has numbers of one part of such a size alone, each of them once."""
    parts = rows // size
    one = bool((parts == parts[..., :1]).all())
    return one and bool((np.diff(np.sort(rows, axis=-1), axis=-1) > 0).all())


def _moved_form(bound: Bound, source: Array) -> Form | None:
    form = bound.form
    if form is None or not source.size:
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
    """One operand or the other, entry by entry; what decides is no matter. Weights whose sum is 1,
    some of them replaced by 0, have a sum of 1 or less."""
    parts = [b[name] for name in ("self", "other", "value") if name in b]
    weights = [x for x in parts if (x.convex or x.under) and x.shape == b.shape]
    others = [x for x in parts if x.amax != 0]
    made = hull(parts, b.shape)
    return replace(made, under=len(weights) == 1 and len(others) == 1)


def taken(b: Operands) -> list[Bound]:
    """Entries at places that come in, all of one tensor."""
    return moved(b) if b.is_known("index") else [over_all([b.first], s) for s in b.shapes]


def cut_off(b: Operands) -> Bound:
    """Some entries where they were, and 0 elsewhere."""
    x = b.first
    made = Bound.between(b.shape, np.minimum(x.low, 0.0), np.maximum(x.high, 0.0), x.lost)
    return replace(made, lengths=(x.longest,), windows=x.all_windows)


def laid_out(b: Operands) -> Bound:
    """Entries of windows, and 0 from the border."""
    x = b.first
    return over_all([x, Bound.between((), 0.0, 0.0)], b.shape)


def laid_over(b: Operands) -> Bound:
    """Sums of entries of windows that lie over each other: of one of each place in a window."""
    x = b.first
    kernel = b.attributes.get("kernel_size")
    if kernel is None and b.is_known("shape"):
        kernel = b.constant("shape").ravel().tolist()
    if kernel is None:
        return Bound.unknown(b.shape, b.name)
    count = prod(kernel)
    reach = count * x.amax * (1 + summed(count))
    ends = 0.0 if (x.low >= 0).all() else -reach, 0.0 if (x.high <= 0).all() else reach
    return Bound.between(b.shape, *ends, x.lost)


def bordered(b: Operands) -> Bound:
    """x, and around it a number, or entries of x. Where nothing is added, entries stay in place."""
    x, mode = b.first, str(b.attributes.get("mode", "constant"))
    sizes = _borders(b, len(x.shape))
    axes = tuple(range(len(x.shape))) if sizes is None else sizes
    low, high = x.low.min(axes, keepdims=True), x.high.max(axes, keepdims=True)
    lost = x.lost
    if mode != "constant" or "padding" in b.attributes:
        return Bound.between(b.shape, low, high, lost)
    stated = b.number("value") or 0.0
    number = b["value"] if "value" in b else Bound.between((), stated, stated)
    ends = np.minimum(low, number.low.min()), np.maximum(high, number.high.max())
    made = Bound.between(b.shape, *ends, lost or number.lost)
    if number.amax:
        return made
    windows = tuple(of_parts(b.shape, (patches,)) for patches in x.all_windows)
    return replace(made, lengths=(x.longest,), windows=windows)


def _borders(b: Operands, rank: int) -> tuple[int, ...] | None:
    """The axes of which anything is added or cut off; None where that depends on the input."""
    given = b.attributes.get("pad", b.attributes.get("padding"))
    if given is not None:  # of PyTorch: pairs, from the last axis on
        sizes = [int(n) for n in given]
        return tuple(rank - 1 - i // 2 for i in range(0, len(sizes), 2) if any(sizes[i : i + 2]))
    pads = b.attributes.get("pads")
    if pads is None and not b.is_known("index"):
        return None
    sizes = np.ravel(b.constant("index") if pads is None else pads).tolist()
    axes = b.constant("axes").ravel().tolist() if "axes" in b else list(range(rank))
    half = len(sizes) // 2
    return tuple(axis % rank for i, axis in enumerate(axes) if sizes[i] or sizes[i + half])


def overwritten(b: Operands) -> Bound:
    """x, and in some places entries of another: or what some of them add up to."""
    x, other = b["self"], next(b[n] for n in ("src", "values", "source", "value") if n in b)
    how = str(b.attributes.get("reduction", b.attributes.get("reduce", "none")))
    adds = how in ("add", "sum") or any(word in b.op for word in ("_add", "scatter_add"))
    low, high = float(other.low.min(initial=0.0)), float(other.high.max(initial=0.0))
    if adds or b.attributes.get("accumulate"):
        factor = b.number("alpha")
        count = max(prod(other.shape), prod(prod(x.shape) for x in b.whole))
        reach = count * (1.0 if factor is None else abs(factor) * (1 + ROUNDED))
        low, high = min(low, -high if (factor or 1) < 0 else low), max(high, -low if (factor or 1)
                                                                       < 0 else high)  # fmt: skip
        slack = summed(count + 1) * (x.size + reach * other.amax)
        ends = x.low + reach * min(low, 0.0) - slack, x.high + reach * max(high, 0.0) + slack
        return Bound.between(b.shape, *ends, x.lost or other.lost)
    if how not in ("none", "None", "max", "min", "amax", "amin"):
        return Bound.unknown(b.shape, f"{b.name}, which multiplies")
    low, high = float(other.low.min()), float(other.high.max())
    ends = np.minimum(x.low, low), np.maximum(x.high, high)
    return Bound.between(b.shape, *ends, x.lost or other.lost)


def copied(b: Operands) -> Bound:
    """The entries of another tensor."""
    other = b["src"]
    return Bound.between(b.shape, other.low, other.high, other.lost)


def one_hot(b: Operands) -> Bound:
    """One of two numbers."""
    return over_all([b["weight"]], b.shape)


def numbers_of(low: float, high: float) -> Callable[[Operands], list[Bound]]:
    """Whole numbers, or truths, whatever comes in."""
    return lambda b: [Bound.between(shape, low, high) for shape in b.shapes]


def turned(b: Operands) -> Bound:
    """Pairs (a c - b s, a s + b c), others as they are: of rows of s and c, |c| + |s| of the
    largest entry, and of the whole row, sqrt(c^2 + s^2) of its length."""
    x, c, s = b.first, b["cos"], b["sin"]
    if b.attributes.get("scale", 1.0) not in (0.0, 1.0):
        return Bound.unknown(b.shape, f"{b.name}, which scales")
    each, whole = c.amax + s.amax, sqrt(c.amax**2 + s.amax**2)
    if b.is_known("cos") and b.is_known("sin") and c.is_finite and s.is_finite:
        cos, sin = b.constant("cos").astype(np.float64), b.constant("sin").astype(np.float64)
        each, whole = float((np.abs(cos) + np.abs(sin)).max()), float(np.hypot(cos, sin).max())
    off = 1 + 4 * ROUNDED
    each, whole = (max(n * off + 2 * FLUSHED, 1.0) for n in (each, whole))
    if not np.isfinite(each) or not x.is_finite:
        return Bound.unknown(b.shape, x.lost or c.lost or s.lost)
    reach = x.size.max(-1, keepdims=True) * each
    made = Bound.between(b.shape, -reach, reach)
    return replace(made, lengths=(x.longest.times(whole),))
