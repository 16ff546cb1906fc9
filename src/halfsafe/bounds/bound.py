"""What is known of a tensor for every input of a domain.

Three abstractions, each true by itself, of which the least is taken:

- an *interval* of each entry;
- an *affine form over balls*: entries are c + <a, u> + e with ||u||_2 <= r and |e| small. Behind a
  norm of width d all entries of a token are such, u the normalised vector and r = sqrt(d); a linear
  map of that token has its product with a, and is bounded by r ||a||_2, exactly;
- the *length* of rows, ||x||_2 along the last axis.

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
from numpy.typing import NDArray

from halfsafe.bounds.rounding import UNIT

Array = NDArray[Any]

BLOCK = 256
"""Rows of a matrix that are gone through at a time."""

SLACK = 1 + 1e-9
"""What the bounds' own arithmetic, in FP64, may lose: sums of up to 10^6 terms lose 10^-10."""


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

    A `convex` one has rows that are not negative and whose sum is 1. `lengths` are further
    bounds of the length of a row, computed when they are asked for. No entry is larger than that
    of the `carrier`, as behind a gate; behind an `even` one it is half the carrier's, and between 0
    and half of its magnitude more. `summed` is the largest partial sum of products from which
    entries are made, in any order. `by` names the inequality that says the least.
    """

    shape: tuple[int, ...]
    low: Array
    high: Array
    form: Form | None = None
    convex: bool = False
    lengths: tuple[Callable[[], float], ...] = ()
    lost: str = ""
    carrier: Form | None = None
    even: bool = False
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
        return replace(self, low=low, high=high, form=form, carrier=carrier, lengths=lengths)

    def meeting(self, other: Bound) -> Bound:
        """What two bounds of one tensor say together."""
        low, high = np.maximum(self.low, other.low), np.minimum(self.high, other.high)
        return replace(
            self,
            low=low,
            high=high,
            form=self.form or other.form,
            lengths=(*self.lengths, *other.lengths),
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


POWERS = 3
"""How often a Gram matrix is squared: its norm is then off by n^(1/16) at most."""

COLUMNS = 512
"""Products in FP32 whose sum is rounded as one, before it is added in FP64."""

LARGE = 2**16
"""Entries from which on a matrix is squared in FP32."""


def largest_gain(matrix: Array) -> float:
    """An upper bound of sigma_max(A): ||G^p||_F^(1/2p), G the smaller Gram matrix and p = 8, since
    the eigenvalues of G^p are those of G to the p, and none is larger than ||G^p||_F."""
    frobenius = float(np.sqrt((row_lengths(matrix) ** 2).sum()))
    if not 1e-140 < frobenius < 1e140:  # of what squares are not held
        return frobenius * SLACK
    work = np.float32 if matrix.size > LARGE else np.float64
    smaller = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    return frobenius * _gain((smaller / frobenius).astype(work, copy=False), POWERS) * SLACK


def _gain(a: Array, powers: int) -> float:
    """Of an A with ||A||_F = 1: sigma(A)^2 = sigma(A A^T), that product computed again and again.

    What A is rounded by, and what n products in sums add, is no more than u and g(n) of ||A||_F^2.
    """
    unit = UNIT if a.dtype == np.float32 else 2.0**-53
    gram = np.zeros((len(a), len(a)))
    for start in range(0, a.shape[1], COLUMNS):
        part = a[:, start : start + COLUMNS]
        gram += part @ part.T  # symmetric: half the work
    off = 1.01 * (min(COLUMNS, a.shape[1]) + 8) * unit
    size = float(np.linalg.norm(gram))
    if not powers or not size:
        return min(sqrt(size + off), 1.0 + off)
    gram /= size
    rest = _gain(gram.astype(a.dtype, copy=False), powers - 1)
    return min(sqrt(size * rest + off), 1.0 + off)


def multiplied(a: Array, b: Array) -> tuple[Array, Array]:
    """A B, for a matrix B or a diagonal, and how much longer its rows may be; of large matrices in
    FP32, whose sums are off by g(n) ||a_i||_2 ||B||_F in length."""
    if b.ndim == 1:
        return a * b, np.zeros(len(a))
    amax, bmax = (float(max(x.max(initial=0.0), -x.min(initial=0.0))) for x in (a, b))
    narrow = max(amax, bmax) < 2.0**100 and 2.0**-40 < amax * bmax * len(b) < 2.0**80
    if b.size <= LARGE or not narrow:
        return a @ b.astype(np.float64), np.zeros(len(a))
    one, other = (x.astype(np.float32, copy=False) for x in (a, b))
    made = np.zeros((len(a), b.shape[1]))
    for start in range(0, len(b), COLUMNS):
        made += one[:, start : start + COLUMNS] @ other[start : start + COLUMNS]
    relative = 1.01 * (min(COLUMNS, len(b)) + 8) * UNIT
    size = float(np.sqrt((row_lengths(b) ** 2).sum()))
    flushed = 2.0**-126 * (1 + bmax) * len(b) * sqrt(b.shape[1])
    return made, relative * row_lengths(a) * size + flushed


def narrowed(rows: Array, radius: float) -> tuple[Array, Array]:
    """Rows of a form as they are held, a matrix in FP32, and how far off that makes an entry."""
    if rows.ndim == 1:
        return rows, np.zeros(len(rows))
    off = UNIT * row_lengths(rows) + 2.0**-149 * sqrt(rows.shape[1])
    return rows.astype(np.float32), radius * off * SLACK


def scaled(rows: Array, factor: float, radius: float) -> tuple[Array, Array]:
    """Rows of a form times a number, as they are held, and how far off that makes an entry."""
    if rows.ndim == 1:
        return factor * rows, np.zeros(len(rows))
    made, off = np.empty(rows.shape, np.float32), np.empty(len(rows))
    for start in range(0, len(rows), BLOCK):
        part = slice(start, start + BLOCK)
        made[part], off[part] = narrowed(factor * rows[part].astype(np.float64), radius)
    return made, off


def row_lengths(matrix: Array) -> Array:
    """||a_i||_2 of each row, without a copy of them."""
    made = np.empty(len(matrix))
    for start in range(0, len(matrix), BLOCK):
        part = matrix[start : start + BLOCK].astype(np.float64, copy=False)
        made[start : start + BLOCK] = np.sqrt(np.einsum("ij,ij->i", part, part))
    return made


def _counts_up(numbers: Array) -> bool:
    return np.array_equal(numbers, np.arange(len(numbers)))


def positions(shape: Sequence[int]) -> Array:
    """The number of every entry."""
    return np.arange(prod(shape), dtype=np.int64).reshape(tuple(shape))
