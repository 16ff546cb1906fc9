"""What is known of a tensor for every input of a domain.

Three abstractions, each true by itself, of which the least is taken:

- an *interval* of each entry;
- an *affine form over balls*: entries are c + <a, u> + e with ||u||_2 <= r and |e| small. Behind a
  norm of width d all entries of a token are such, u the normalised vector and r = sqrt(d); a linear
  map of that token has its product with a, and is bounded by r ||a||_2, exactly;
- the *length* of rows, ||x||_2 along the last axis.

Arrays have the rank of the tensor, and size 1 along an axis on which all is alike, so that nothing
grows with batch and tokens that they do not tell apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import inf, prod, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SLACK = 1 + 1e-9
"""What the bounds' own arithmetic, in FP64, may lose: sums of up to 10^6 terms lose 10^-10."""


@dataclass(frozen=True, eq=False)
class Form:
    """Entry e is centre[i] + <rows[i], u> + error, i = index[e], |error| <= error[i].

    The u of entry e is that of `ball[e]`, of length at most `radius`. Along an axis on which `ball`
    has size 1 every position has a ball of its own, along one on which `index` has, the same row.
    `rows` with one axis are the diagonal of a matrix.
    """

    centre: Array
    rows: Array
    error: Array
    radius: float
    index: Array
    ball: Array

    @cached_property
    def lengths(self) -> Array:
        """||rows[i]||_2."""
        return np.abs(self.rows) if self.rows.ndim == 1 else np.linalg.norm(self.rows, axis=1)

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
        return largest_gain(self.picked(chosen))

    def times(self, weight: Array, chosen: Array) -> Array:
        """weight @ rows[chosen]."""
        if self.rows.ndim == 2:
            return weight @ self.rows[chosen]
        if np.array_equal(chosen, np.arange(len(self.rows))):
            return weight * self.rows
        return weight @ self.picked(chosen)

    def shifted(self, error: Array | float) -> Form:
        """With more error, the same for all rows or one for each."""
        return replace(self, error=self.error + error)

    def scaled(self, factor: float) -> Form:
        """Times a number."""
        rows, size = factor * self.rows, abs(factor)
        return replace(self, centre=factor * self.centre, rows=rows, error=size * self.error)


@dataclass(frozen=True, eq=False)
class Bound:
    """Every entry is between `low` and `high`, whatever comes in. `lost` names what knows no more.

    A `convex` one has rows that are not negative and whose sum is 1. `lengths` are further
    bounds of the length of a row, computed when they are asked for.
    """

    shape: tuple[int, ...]
    low: Array
    high: Array
    form: Form | None = None
    convex: bool = False
    lengths: tuple[Callable[[], float], ...] = ()
    lost: str = ""
    _length: list[float] = field(default_factory=list[float])

    @classmethod
    def of(cls, array: Any) -> Bound:
        """A constant."""
        found = np.asarray(array, np.float64)
        thin = thinned(found)
        return cls(found.shape, thin, thin)

    @classmethod
    def between(cls, shape: Sequence[int], low: Any, high: Any, lost: str = "") -> Bound:
        """An interval, the same for all entries or one for each."""
        rank = len(shape)
        lows, highs = (np.asarray(x, np.float64) for x in (low, high))
        lows, highs = (x.reshape((1,) * (rank - x.ndim) + x.shape) for x in (lows, highs))
        return cls(tuple(shape), thinned(lows), thinned(highs), lost=lost)

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

    @property
    def length(self) -> float:
        """No row along the last axis is longer, in ||.||_2."""
        if not self._length:
            found = [bound() for bound in self.lengths]
            self._length.append(min(self._by_entries(), self._by_form(), *found, inf))
        return self._length[0]

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
                centre, error = form.centre[chosen], form.error[chosen]
                total += (
                    float(np.linalg.norm(centre) + np.linalg.norm(error))
                    + form.radius * form.gain(chosen)
                ) ** 2
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
        return Bound(self.shape, self.low, self.high, lost=self.lost)

    def expanded(self) -> tuple[Array, Array]:
        """Low and high of every entry."""
        return np.broadcast_to(self.low, self.shape), np.broadcast_to(self.high, self.shape)

    def stored(self, relative: float, absolute: float) -> Bound:
        """As a format stores it: each entry off by so much of itself, and so much at least."""
        low = self.low - (np.abs(self.low) * relative + absolute)
        high = self.high + (np.abs(self.high) * relative + absolute)
        low = np.where(self.low >= 0, np.maximum(low, 0.0), low)  # rounding changes no sign
        high = np.where(self.high <= 0, np.minimum(high, 0.0), high)
        form = self.form
        if form is not None:
            off = relative * (np.abs(form.centre) + form.spread) + absolute
            form = form.shifted(off)
        width = self.shape[-1] if self.shape else 1
        lengths = tuple(
            _longer(length, relative, absolute * sqrt(width)) for length in self.lengths
        )
        return replace(self, low=low, high=high, form=form, lengths=lengths, _length=[])

    def meeting(self, other: Bound) -> Bound:
        """What two bounds of one tensor say together."""
        low, high = np.maximum(self.low, other.low), np.minimum(self.high, other.high)
        return replace(
            self,
            low=low,
            high=high,
            form=self.form or other.form,
            lengths=(*self.lengths, *other.lengths),
            lost="" if np.isfinite(low).all() and np.isfinite(high).all() else self.lost,
            _length=[],
        )


def _longer(length: Callable[[], float], relative: float, absolute: float) -> Callable[[], float]:
    return lambda: length() * (1 + relative) + absolute


def with_form(shape: Sequence[int], form: Form) -> Bound:
    """The bound that an affine form gives by itself."""
    centre, spread = form.centre[form.index], form.spread[form.index]
    return Bound(tuple(shape), thinned(centre - spread), thinned(centre + spread), form)


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


POWERS = 3
"""How often a Gram matrix is squared: its norm is then off by n^(1/16) at most."""


def largest_gain(matrix: Array) -> float:
    """An upper bound of sigma_max(A): of ||A||_F, sqrt(||A||_1 ||A||_inf), and, G the smaller Gram
    matrix, ||G^p||_F^(1/2p), since the eigenvalues of G^p are those of G to the p, and none is
    larger than ||G^p||_F."""
    if not matrix.size:
        return 0.0
    size = np.abs(matrix)
    scale = float(size.max())
    if scale == 0.0 or not np.isfinite(scale):
        return scale
    a = matrix / scale
    frobenius = float(np.linalg.norm(a))
    mixed = sqrt(float(size.sum(axis=0).max()) * float(size.sum(axis=1).max())) / scale
    gram = a @ a.T if a.shape[0] <= a.shape[1] else a.T @ a
    power, norm = 1, 1.0
    for _ in range(POWERS):
        gram, power = gram @ gram, 2 * power
        step = float(np.linalg.norm(gram))
        gram, norm = gram / step, norm**2 * step
    by_power = norm ** (1 / (2 * power))
    return scale * min(frobenius, mixed, by_power) * SLACK


def positions(shape: Sequence[int]) -> Array:
    """The number of every entry."""
    return np.arange(prod(shape), dtype=np.int64).reshape(tuple(shape))
