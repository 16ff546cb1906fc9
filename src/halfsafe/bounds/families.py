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

from halfsafe.bounds.activations import times_zero, under
from halfsafe.bounds.bound import Bound, Form, hull, with_form
from halfsafe.bounds.gains import BLOCK, SLACK, Array, narrowed
from halfsafe.bounds.moving import over_all
from halfsafe.bounds.operands import Operands
from halfsafe.bounds.patches import Convolved, of_sum
from halfsafe.bounds.rounding import FLUSHED, ROUNDED, summed


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
        one, other = x.longest, y.longest.times(abs(factor))
        made = replace(made, lengths=(lambda: one() + other(),))
    if (x.has_patches or y.has_patches) and len(b.shape) > 2:
        parts = x.patches_as(b.shape), y.patches_as(b.shape).times(abs(factor))
        moved = _moved_channels(b, x, y, factor) or _moved_channels(b, y, x, 1.0)
        made = replace(made, windows=(of_sum(b.shape, parts),), convolved=moved)
    return made


def _moved_channels(b: Operands, x: Bound, y: Bound, factor: float) -> Convolved | None:
    """A convolution whose channels are added to by constants."""
    channels = _by_channels(b, y) if x.convolved is not None and x.shape == b.shape else None
    if x.convolved is None or channels is None:
        return None
    middle, off = channels
    return x.convolved.scaled(np.ones(1), abs(factor) * (np.abs(middle) + off))


def _by_channels(b: Operands, y: Bound) -> tuple[Array, Array] | None:
    """Middle and half width of a constant that is the same in all places; None for others."""
    size = y.low.reshape((1,) * (len(b.shape) - y.low.ndim) + y.low.shape)
    if y.by != "constants" or any(n > 1 for i, n in enumerate(size.shape) if i != 1):
        return None
    return ((y.low + y.high) / 2).ravel(), ((y.high - y.low) / 2).ravel()


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
    ends = [times_zero(p, q) for p in (x.low, x.high) for q in (y.low, y.high)]
    low, high = reduce(np.minimum, ends), reduce(np.maximum, ends)
    made = Bound.between(b.shape, low, high, x.lost or y.lost)
    pairs = [(one, other) for one, other in ((x, y), (y, x)) if one.shape == b.shape]
    lengths = [_product_length(one, other) for one, other in pairs]
    if len(pairs) == 2:
        made = made.meeting(_joint(b.shape, x, y))
        lengths.append(_joint_length(made, x, y))
    carrier = next((c for one, other in pairs if (c := _under(one, other))), None)
    form = next((f for one, other in pairs if (f := _gained(b, one, other))), None)
    made = replace(made, lengths=tuple(lengths), form=form, carrier=carrier)
    windows = [one.patches.times(other.amax) for one, other in pairs if one.has_patches]
    gained = next((c for one, other in pairs if (c := _gained_channels(b, one, other))), None)
    return replace(made, windows=tuple(windows), convolved=gained)


def _gained_channels(b: Operands, x: Bound, y: Bound) -> Convolved | None:
    """A convolution whose channels are multiplied by constants that are not 0."""
    channels = _by_channels(b, y) if x.convolved is not None else None
    if x.convolved is None or channels is None or (channels[0] == 0).any():
        return None
    middle, off = channels
    return x.convolved.scaled(middle, np.zeros(1), 1 + float((off / np.abs(middle)).max()))


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

    one, other, amax = x.longest, y.longest, made.amax

    def length() -> float:
        lengths = one() * other() if one() and other() else 0.0
        return sqrt(amax * lengths) if lengths and amax else 0.0

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


def _product_length(x: Bound, y: Bound) -> Callable[[], float]:
    longest, amax = x.longest, y.amax
    return lambda: longest() * amax if longest() else 0.0


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
    ends = [times_zero(end, np.asarray(factor)) for end in (x.low, x.high)]
    return replace(
        x,
        low=np.minimum(*ends),
        high=np.maximum(*ends),
        form=x.form.scaled(factor) if x.form else None,
        carrier=x.carrier.scaled(factor) if x.carrier else None,
        even=False,
        convex=x.convex and factor == 1,
        summed=None,
        lengths=(x.longest.times(abs(factor)),),
        windows=tuple(patches.times(abs(factor)) for patches in x.windows),
        convolved=x.convolved.scaled(np.array([factor]), np.zeros(1)) if x.convolved else None,
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
    others, and for exponents that vary, of an x > 0, from the corners, since y log x is linear in
    each."""
    x, n = b["self"], b.number("exponent")
    if n is not None and n > 0 and n == int(n):
        ends = x.low**n, x.high**n
        low, high = np.minimum(*ends), np.maximum(*ends)
        if n % 2 == 0:
            low = np.where((x.low < 0) & (x.high > 0), 0.0, low)
        return Bound.between(b.shape, low, high, x.lost)
    if not (x.low > 0).all():
        return Bound.unknown(b.shape, x.lost or f"{b.name} of what may be 0")
    y = b["exponent"]
    ends = [p**q for p in (x.low, x.high) for q in (y.low, y.high)]
    low, high = reduce(np.minimum, ends), reduce(np.maximum, ends)
    return Bound.between(b.shape, low, high, x.lost or y.lost)


def square(b: Operands) -> Bound:
    """x^2."""
    x = b.first
    low = np.where((x.low < 0) & (x.high > 0), 0.0, np.minimum(x.low**2, x.high**2))
    return Bound.between(b.shape, low, x.size**2, x.lost)


def magnitude(b: Operands) -> Bound:
    """|x|."""
    x = b.first
    low = np.where((x.low < 0) & (x.high > 0), 0.0, np.minimum(np.abs(x.low), np.abs(x.high)))
    made = Bound.between(b.shape, low, x.size, x.lost)
    return replace(made, lengths=(x.longest,), windows=x.all_windows)


def negated(b: Operands) -> Bound:
    """-x."""
    return _times(b.first, -1.0)


def clipped(b: Operands) -> Bound:
    """min(max(x, a), b); for a <= 0 <= b no larger than |x|."""
    x = b.first
    low, high, nearer = x.low, x.high, x.shape == b.shape
    for name in ("min", "min_val"):
        if name in b:
            low, high = np.maximum(low, b[name].low), np.maximum(high, b[name].high)
            nearer = nearer and bool((b[name].high <= 0).all())
    for name in ("max", "max_val"):
        if name in b:
            low, high = np.minimum(low, b[name].low), np.minimum(high, b[name].high)
            nearer = nearer and bool((b[name].low >= 0).all())
    made = Bound.between(b.shape, low, high, x.lost)
    return under(made, x, 1.0) if nearer else made


def larger(b: Operands) -> Bound:
    """max(a, b, ...)."""
    every = b.every
    low, high = (
        reduce(np.maximum, ends) for ends in zip(*((x.low, x.high) for x in every), strict=True)
    )
    return Bound.between(b.shape, low, high, _lost(every))


def smaller(b: Operands) -> Bound:
    """min(a, b, ...)."""
    every = b.every
    low, high = (
        reduce(np.minimum, ends) for ends in zip(*((x.low, x.high) for x in every), strict=True)
    )
    return Bound.between(b.shape, low, high, _lost(every))


def _lost(bounds: Sequence[Bound]) -> str:
    return next((x.lost for x in bounds if x.lost), "")


def all_added(b: Operands) -> Bound:
    """a + b + ..., of any number."""
    every = b.every
    low, high = (sum(ends) for ends in zip(*((x.low, x.high) for x in every), strict=True))
    slack = summed(len(every)) * sum(x.size for x in every)
    return Bound.between(b.shape, low - slack, high + slack, _lost(every))


def all_averaged(b: Operands) -> Bound:
    """(a + b + ...) / n."""
    found, count = all_added(b), len(b.every)
    return Bound.between(b.shape, found.low / count, found.high / count, found.lost)


def counted_up(b: Operands) -> Bound:
    """a, a + s, a + 2 s, ...: n of them."""
    start, step = (_number(b, n, e) for n, e in (("start", 0.0), ("step", 1.0)))
    steps = max(prod(b.shape) - 1, 0) * (1 + summed(4))
    ends = steps * float(step.low.min()), steps * float(step.high.max())
    low = float(start.low.min()) + min(ends[0], 0.0)
    high = float(start.high.max()) + max(ends[1], 0.0)
    slack = (start.amax + steps * step.amax) * summed(prod(b.shape) + 8)
    return Bound.between(b.shape, low - slack, high + slack, start.lost or step.lost)


def full(number: float) -> Callable[[Operands], Bound]:
    """One number."""

    return lambda b: Bound.between(b.shape, number, number)


def filled(b: Operands) -> Bound:
    """One number, which may come in."""
    name = next(n for n in ("value", "fill_value", "s") if n in b or b.number(n) is not None)
    given = _number(b, name, 0.0)
    return Bound.between(b.shape, float(given.low.min()), float(given.high.max()), given.lost)


def _number(b: Operands, name: str, default: float) -> Bound:
    """An operand, or a number among the attributes."""
    stated = b.number(name)
    return b[name] if name in b else Bound.of(default if stated is None else stated)


def picked(b: Operands) -> list[Bound]:
    """Some entries, and where they were; the larger or less of two tensors is one of them."""
    if len(b.floating) > 1:
        return [hull(b.tensors, b.shape)]
    x = b.first
    entries = [over_all([x], shape) for shape in b.shapes]
    axis = b.attributes.get("dim", b.attributes.get("axis"))
    places = 0.0, float(x.shape[int(axis)] if axis is not None and x.shape else prod(x.shape))
    floats = [floating or not i for i, floating in enumerate(b.makes_floats)]
    return [e if f else Bound.between(e.shape, *places)
            for e, f in zip(entries, floats, strict=True)]  # fmt: skip


def largest(b: Operands) -> list[Bound]:
    """The k largest of a row, and where they were: of n that sum to 1 the first is 1/n at least."""
    (found, *places), x, rank = picked(b), b.first, len(b.shape)
    last = _option(b, "dim", "axis") in (-1, rank - 1)
    in_order = bool(_option(b, "largest")) and bool(_option(b, "sorted"))
    if not (x.convex and last and in_order):
        return [found, *places]
    count = x.shape[-1]
    low = np.zeros((1,) * (rank - 1) + b.shape[-1:])
    low[..., 0] = max(1 - 2 * ROUNDED - count * FLUSHED - summed(count), 0.0) / count
    return [Bound.between(b.shape, low, found.high, x.lost), *places]


def counted(b: Operands) -> Bound:
    """How many entries are somewhere: all of them at most."""
    return Bound.between(b.shape, 0.0, float(prod(b.first.shape)))


def _option(b: Operands, *names: str) -> object:
    """An attribute by one of its names; -1 where it is left out, as ONNX may leave out the last
    axis and what is true."""
    return next((b.attributes[n] for n in names if n in b.attributes), -1)


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


def logarithm(function: Callable[[Array], Array]) -> Callable[[Operands], Bound]:
    """log(x) of an x > 0."""

    def bound(b: Operands) -> Bound:
        x = b.first
        if not (x.low > 0).all():
            return Bound.unknown(b.shape, x.lost or f"{b.name} of what may be 0")
        return Bound.between(b.shape, function(x.low) - 1e-6, function(x.high) + 1e-6, x.lost)

    return bound


def reciprocal(b: Operands) -> Bound:
    """1 / x of an x that stays away from 0 on one side."""
    x = b.first
    if not ((x.low > 0) | (x.high < 0)).all():
        return Bound.unknown(b.shape, x.lost or f"{b.name} of what may be 0")
    return Bound.between(b.shape, 1 / x.high, 1 / x.low, x.lost)
