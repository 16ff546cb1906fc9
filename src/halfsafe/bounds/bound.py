"""What is known of a tensor for every input of a domain.

Abstractions, each true by itself, of which the least is taken:

- an *interval* of each entry;
- an *affine form over balls*: entries are c + <a, u> + e with ||u||_2 <= r and |e| small. Behind a
  norm of width d all entries of a token are such, u the normalised vector and r = sqrt(d); a linear
  map of that token has its product with a, and is bounded by r ||a||_2, exactly;
- the *length* of rows, ||x||_2 along the last axis;
- the same of *patches* of pictures, over some places and all their channels.

Which of them says the least is told by name (`by`).

Arrays have the rank of the tensor, and size 1 along an axis on which all is alike, so that nothing
grows with batch and tokens that they do not tell apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count
from math import inf, prod, sqrt
from typing import Any

import numpy as np

from halfsafe.bounds.gains import SLACK, Array, largest_gain, row_lengths, scaled
from halfsafe.bounds.patches import Convolved, Patches, by_entries

ONCE = count()
"""Numbers, each once."""


@dataclass(frozen=True, eq=False)
class Form:
    """Entry e is centre[i] + <rows[i], u> + error, i = index[e], |error| <= error[i].

    The u of entry e is that of `ball[e]`, of length at most `radius`. Along an axis on which `ball`
    has size 1 every position has a ball of its own, along one on which `index` has, the same row.
    `rows` with one axis are the diagonal of a matrix. Forms of the same `source` are of the same u,
    row by row of the tensor; the errors of such a row are no longer than `slip`, in ||.||_2.
    """

    centre: Array
    rows: Array
    error: Array
    radius: float
    index: Array
    ball: Array
    source: int = field(default_factory=lambda: next(ONCE))
    slip: float = inf
    _gains: list[float] = field(default_factory=list[float])

    @cached_property
    def lengths(self) -> Array:
        """||rows[i]||_2."""
        return np.abs(self.rows) if self.rows.ndim == 1 else row_lengths(self.rows)

    @cached_property
    def spread(self) -> Array:
        """How far an entry of row i may be from its centre."""
        return (self.radius * self.lengths + self.error) * SLACK

    def picked(self, chosen: Array) -> Array:
        """The rows of some numbers, as a matrix."""
        if self.rows.ndim == 2:
            return self.rows[chosen]
        made = np.zeros((len(chosen), len(self.rows)))
        made[np.arange(len(chosen)), chosen] = self.rows[chosen]
        return made

    def gain(self, chosen: Array) -> float:
        """sigma_max of some rows, or more; of different rows of a diagonal its largest entry."""
        if self.rows.ndim == 1 and len(np.unique(chosen)) == len(chosen):
            return float(np.abs(self.rows[chosen]).max(initial=0.0))
        if len(chosen) < len(self.rows) or self.rows.ndim == 1 or not _counts_up(chosen):
            return largest_gain(self.picked(chosen))
        if not self._gains:  # once for all forms that have these rows
            self._gains.append(largest_gain(self.rows))
        return self._gains[0]

    @property
    def length(self) -> float:
        """No row of the tensor is longer, in ||.||_2, if `is_plain`."""
        error = min(float(np.linalg.norm(self.error)), self.slip)
        gain = self.gain(np.arange(len(self.rows)))
        return (float(np.linalg.norm(self.centre)) + error + self.radius * gain) * SLACK

    def factor(self, chosen: Array) -> Array:
        """Rows by which weights are multiplied, or a diagonal."""
        if len(chosen) == len(self.rows) and _counts_up(chosen):
            return self.rows
        return self.picked(chosen)

    def stored(self, relative: float, absolute: float) -> Form:
        """Each entry off by so much of itself, and so much at least."""
        off = relative * (np.abs(self.centre) + self.spread) + absolute
        slip = inf
        if self.rows.ndim == 1:
            length = float(np.linalg.norm(self.centre)) + self.radius * float(self.lengths.max())
            slip = self.slip + relative * (length + self.slip) + absolute * sqrt(len(self.rows))
        return replace(self, error=self.error + off, slip=slip)

    def scaled(self, factor: float) -> Form:
        """Times a number."""
        rows, off = scaled(self.rows, factor, self.radius)
        error = abs(factor) * self.error + off
        slip = abs(factor) * self.slip if factor and rows.ndim == 1 else inf
        made = replace(self, centre=factor * self.centre, rows=rows, error=error, slip=slip)
        return replace(made, _gains=[])

    @property
    def is_plain(self) -> bool:
        """Whether row i is of entry i along the last axis, and every row of the tensor has one ball
        of its own."""
        n = len(self.rows)
        if any(x.size != n or x.shape[-1] != n for x in (self.index, self.ball)):
            return False  # entries vary along another axis, or rows of the tensor differ
        return _counts_up(self.index.ravel()) and bool((self.ball == self.ball[..., :1]).all())


class Length:
    """No row is longer than the least of some answers, which are computed when it is asked for.

    What these are made of is let go then: what a layer reads is not held to the end of a network.
    """

    def __init__(self, *ways: Callable[[], float]) -> None:
        self._ways, self._known = ways, inf

    def __call__(self) -> float:
        ways, self._ways = self._ways, ()
        self._known = min((way() for way in ways), default=self._known)
        return self._known

    def settle(self) -> None:
        """From now on the first of the answers has to do, if none has been asked for."""
        self._ways = self._ways[:1]
        self()

    def times(self, factor: float, off: float = 0.0) -> Length:
        """Of rows that are longer by a factor, and by so much."""
        return Length(lambda: self() * factor + off)


@dataclass(frozen=True, eq=False)
class Bound:
    """Every entry is between `low` and `high`, whatever comes in. `lost` names what knows no more.

    A `convex` one has rows that are not negative and whose sum is 1, one that is `under` has rows
    that are not negative and whose sum is 1 at most. `lengths` are further
    bounds of the length of a row, computed when they are asked for. No entry is larger than that
    of the `carrier`, as behind a gate; behind an `even` one it is half the carrier's, and between 0
    and half of its magnitude more. `windows` are further bounds of patches, and a `convolved` one
    is a convolution times numbers. `summed` is the largest partial sum of products from which
    entries are made, in any order. `by` names the inequality that says the least.
    """

    shape: tuple[int, ...]
    low: Array
    high: Array
    form: Form | None = None
    convex: bool = False
    under: bool = False
    lengths: tuple[Callable[[], float], ...] = ()
    lost: str = ""
    carrier: Form | None = None
    even: bool = False
    windows: tuple[Patches, ...] = ()
    convolved: Convolved | None = None
    summed: float | None = None
    by: str = "intervals"

    @classmethod
    def of(cls, array: Any) -> Bound:
        """A constant."""
        found = np.asarray(array, np.float64)
        thin = thinned(found)
        return cls(found.shape, thin, thin, by="constants")

    @classmethod
    def between(
        cls, shape: Sequence[int], low: Any, high: Any, lost: str = "", by: str = "intervals"
    ) -> Bound:
        """An interval, the same for all entries or one for each."""
        rank = len(shape)
        lows, highs = (np.asarray(x, np.float64) for x in (low, high))
        lows, highs = (x.reshape((1,) * (rank - x.ndim) + x.shape) for x in (lows, highs))
        return cls(tuple(shape), thinned(lows), thinned(highs), lost=lost, by=by)

    @classmethod
    def unknown(cls, shape: Sequence[int], lost: str) -> Bound:
        """Nothing is known, because of what `lost` names."""
        return cls.between(shape, -inf, inf, lost)

    @property
    def size(self) -> Array:
        """The largest magnitude of each entry."""
        return np.maximum(np.abs(self.low), np.abs(self.high))

    @property
    def amax(self) -> float:
        """The largest magnitude of any."""
        return float(self.size.max(initial=0.0))

    @property
    def is_finite(self) -> bool:
        return bool(np.isfinite(self.amax))

    @cached_property
    def longest(self) -> Length:
        """What no row along the last axis is longer than, in ||.||_2, when it is asked for."""
        return Length(self._by_entries, self._by_form, *self.lengths)

    @property
    def length(self) -> float:
        """The same as a number."""
        return self.longest()

    @cached_property
    def patches(self) -> Patches:
        """What no patch of a picture is longer than; of two axes or less there is none."""
        windows = self.windows
        if self.convolved is not None:
            windows = (*windows, self.convolved.patches(self.shape))
        entries = by_entries(self.size, self.shape[1])
        return Patches(self.shape, windows, windows, entries)

    def patches_as(self, shape: tuple[int, ...]) -> Patches:
        """The same where entries are repeated to fill a shape."""
        if self.shape == shape:
            return self.patches
        size = self.size.reshape((1,) * (len(shape) - self.size.ndim) + self.size.shape)
        return Patches(shape, (by_entries(size, shape[1]),))

    @property
    def has_patches(self) -> bool:
        """Whether entries are not all that is known of them."""
        return len(self.shape) > 2 and (bool(self.windows) or self.convolved is not None)

    @property
    def all_windows(self) -> tuple[Patches, ...]:
        """What is known of patches, for what is no larger than this, entry by entry."""
        return (self.patches,) if self.has_patches else ()

    @property
    def is_heavy(self) -> bool:
        """Whether it holds a matrix."""
        return any(form is not None and form.rows.ndim == 2 for form in (self.form, self.carrier))

    def _by_entries(self) -> float:
        """sqrt(sum max |x_i|^2)."""
        if not self.shape:
            return self.amax
        size, width = self.size, self.shape[-1]
        repeats = width / size.shape[-1]
        return float(np.sqrt((size**2).sum(axis=-1) * repeats).max(initial=0.0)) * SLACK

    def _by_form(self) -> float:
        """sqrt(sum over balls of (||c|| + r sigma(A) + ||e||)^2), of each row."""
        form = self.form
        if form is None or not self.shape:
            return inf
        longest = 0.0
        for index, ball in self.rows_of(form):
            total = 0.0
            for chosen in groups(index, ball):
                centre = float(np.linalg.norm(form.centre[chosen]))
                error = min(float(np.linalg.norm(form.error[chosen])), form.slip)
                total += (centre + error + form.radius * form.gain(chosen)) ** 2
            longest = max(longest, sqrt(total))
        return longest * SLACK

    def rows_of(self, form: Form) -> list[tuple[Array, Array]]:
        """Row numbers and balls along the last axis, of each row that differs from others."""
        lead = np.broadcast_shapes(form.index.shape[:-1], form.ball.shape[:-1])
        width = self.shape[-1]
        index = np.broadcast_to(form.index, (*lead, width)).reshape(-1, width)
        ball = form.ball
        if ball.shape[-1] == 1 < width:  # each entry has its own
            ball = ball + (int(ball.max()) + 1) * np.arange(width)
        ball = np.broadcast_to(ball, (*lead, width)).reshape(-1, width)
        return list(zip(index, ball, strict=True))

    def plain(self) -> Bound:
        """The intervals alone."""
        return Bound(
            self.shape, self.low, self.high, lost=self.lost, summed=self.summed, by=self.by
        )

    def together(self) -> Bound:
        """The intervals of all rows along the last axis as one."""
        axes = tuple(range(len(self.shape) - 1))
        low, high = self.low.min(axis=axes, keepdims=True), self.high.max(axis=axes, keepdims=True)
        return replace(self.plain(), low=low, high=high)

    def expanded(self) -> tuple[Array, Array]:
        """Low and high of every entry."""
        return np.broadcast_to(self.low, self.shape), np.broadcast_to(self.high, self.shape)

    def stored(self, relative: float, absolute: float) -> Bound:
        """As a format stores it: each entry off by so much of itself, and so much at least."""
        low = self.low - _share(self.low, relative, absolute)
        high = self.high + _share(self.high, relative, absolute)
        low = np.where(self.low >= 0, np.maximum(low, 0.0), low)  # rounding changes no sign
        high = np.where(self.high <= 0, np.minimum(high, 0.0), high)
        form = self.form.stored(relative, absolute) if self.form else None
        carrier = self.carrier.stored(2 * relative, 2 * absolute) if self.carrier else None
        width = self.shape[-1] if self.shape else 1
        off = absolute * sqrt(width)
        lengths = tuple(Length(length).times(1 + relative, off) for length in self.lengths)
        return replace(
            self,
            low=low,
            high=high,
            form=form,
            carrier=carrier,
            lengths=lengths,
            windows=tuple(patches.times(1 + relative, absolute) for patches in self.windows),
            convolved=self.convolved.stored(relative, absolute) if self.convolved else None,
        )

    def meeting(self, other: Bound) -> Bound:
        """What two bounds of one tensor say together."""
        low, high = np.maximum(self.low, other.low), np.minimum(self.high, other.high)
        return replace(
            self,
            low=low,
            high=high,
            form=self.form or other.form,
            lengths=(*self.lengths, *other.lengths),
            windows=(*self.windows, *other.windows),
            convolved=self.convolved or other.convolved,
            by=other.by if other.amax < self.amax else self.by,
            lost="" if np.isfinite(low).all() and np.isfinite(high).all() else self.lost,
        )


def _share(ends: Array, relative: float, absolute: float) -> Array:
    """What rounding may add to the ends of intervals; to those that are infinite, nothing."""
    finite = np.isfinite(ends)
    return np.where(finite, np.abs(np.where(finite, ends, 0.0)) * relative + absolute, 0.0)


def with_form(shape: Sequence[int], form: Form) -> Bound:
    """The bound that an affine form gives by itself."""
    centre, spread = form.centre[form.index], form.spread[form.index]
    return Bound(tuple(shape), thinned(centre - spread), thinned(centre + spread), form, by="balls")


def hull(bounds: Sequence[Bound], shape: Sequence[int]) -> Bound:
    """What is one of several, entry by entry."""
    low, high = bounds[0].low, bounds[0].high
    for other in bounds[1:]:
        low, high = np.minimum(low, other.low), np.maximum(high, other.high)
    lost = next((b.lost for b in bounds if b.lost), "")
    return Bound.between(shape, low, high, lost)


def thinned(array: Array) -> Array:
    """Of size 1 along each axis on which all is the same."""
    for axis, size in enumerate(array.shape):
        if size > 1:
            first = array.take([0], axis)
            if (array == first).all():
                array = first
    return array


def groups(index: Array, ball: Array) -> list[Array]:
    """The numbers of rows that have a ball in common, ball by ball."""
    return [index[ball == one] for one in np.unique(ball)]


def _counts_up(numbers: Array) -> bool:
    return np.array_equal(numbers, np.arange(len(numbers)))


def positions(shape: Sequence[int]) -> Array:
    """The number of every entry."""
    return np.arange(prod(shape), dtype=np.int64).reshape(tuple(shape))
