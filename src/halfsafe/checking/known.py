"""What is known of a tensor: intervals, a form over balls, lengths of rows, and of boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import inf, prod, sqrt
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

U, TINY, V = 2.0**-11, 2.0**-25, 2.0**-24
"""Half a step of FP16, relative and at the least number, and of FP32."""

MORE = 1 + 1e-9
"""For the arithmetic of bounds itself, in FP64."""


@dataclass(frozen=True, eq=False)
class Form:
    """Entries centre[i] + <rows[i], u> + e, |e| <= error[i], i = at[entry], ||u||_2 <= radius.

    The u is that of ball[entry], one for each position along axes of size 1. Forms of one `origin`
    have the same u row by row; ||e||_2 <= slip for a row.
    """

    centre: Array
    rows: Array
    error: Array
    radius: float
    at: Array
    ball: Array
    origin: object = field(default_factory=object)
    slip: float = inf
    cache: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def reach(self) -> Array:
        """||rows[i]||_2 r + error[i]."""
        lengths = np.abs(self.rows) if self.rows.ndim == 1 else np.linalg.norm(self.rows, axis=1)
        return lengths * self.radius + self.error

    @property
    def simple(self) -> bool:
        """Whether entry i of each row of the tensor is row i, of one ball for each."""
        n = len(self.centre)
        last = all(x.size == n and x.shape[-1] == n for x in (self.at, self.ball))
        return last and np.array_equal(self.at.ravel(), np.arange(n)) and np.ptp(self.ball) == 0

    def matrix(self, chosen: Array) -> Array:
        return np.diag(self.rows)[chosen] if self.rows.ndim == 1 else self.rows[chosen]

    @property
    def length(self) -> float:
        """No row is longer, of a simple one."""
        if "sigma" not in self.cache:
            self.cache["sigma"] = sigma(self.rows)
        error = min(float(np.linalg.norm(self.error)), self.slip)
        return float(np.linalg.norm(self.centre)) + error + self.radius * self.cache["sigma"]


def sigma(a: Array) -> float:
    """The largest singular value, from the eigenvalues of the smaller Gram matrix."""
    if a.ndim == 1:
        return float(np.abs(a).max(initial=0.0))
    turned = a.conj().T
    gram = a @ turned if a.shape[0] <= a.shape[1] else turned @ a
    largest = float(np.linalg.eigvalsh(gram)[-1]) if gram.size else 0.0
    return sqrt(max(largest, 0.0) * MORE)


LEVELS = 200
"""Boxes that are asked for one behind the other; then only what is of whole pictures is kept."""


class Boxes:
    """||x||_2 of no box of a picture, of all channels, is more: the least of some ways to say so,
    by its sizes, times a factor, and something for each entry. Those `alone` ask for no others."""

    def __init__(
        self,
        shape: tuple[int, ...],
        ways: Sequence[Callable[[tuple[int, ...]], float]],
        parts: Sequence[Boxes] = (),
        alone: Sequence[Callable[[tuple[int, ...]], float]] = (),
    ) -> None:
        self.shape, self.ways, self.found = shape, [*alone, *ways], dict[tuple[int, ...], float]()
        self.factor, self.each = 1.0, 0.0
        self.level = 1 + max((b.level for b in (*parts, *ways) if isinstance(b, Boxes)), default=0)
        if self.level > LEVELS:
            self.ways, self.level = [*alone, _always(self(shape[2:]))], 0

    def __call__(self, box: tuple[int, ...]) -> float:
        box = tuple(map(min, box, self.shape[2:]))
        if box not in self.found:
            least = inf
            for way in self.ways:
                least = min(least, way(box))
            self.found[box] = least
        return self.factor * self.found[box] + self.each * sqrt(prod(box) * self.shape[1])

    def times(self, factor: float, each: float = 0.0) -> Boxes:
        """Of entries so much larger."""
        made = Boxes(self.shape, ())
        made.ways, made.found, made.level = self.ways, self.found, self.level
        made.factor, made.each = factor * self.factor, factor * self.each + each
        return made


def _always(number: float) -> Callable[[tuple[int, ...]], float]:
    return lambda box: number


class Convolved(Protocol):
    """A convolution, whose channels may be multiplied and added to."""

    def scaled(self, g: Any, more: Any, factor: float = 1.0) -> Self: ...

    def rounded(self, relative: float, least: float) -> Self: ...

    def boxes(self, shape: tuple[int, ...]) -> Boxes: ...


@dataclass(frozen=True, eq=False)
class Known:
    """Entries between `low` and `high`, arrays of size 1 along axes on which all are alike."""

    shape: tuple[int, ...]
    low: Array
    high: Array
    form: Form | None = None
    carrier: Form | None = None
    even: bool = False
    convex: bool = False
    under: bool = False
    constant: bool = False
    lengths: tuple[Callable[[], float], ...] = ()
    boxes: tuple[Boxes, ...] = ()
    conv: Convolved | None = None
    lost: str = ""
    kept: list[Boxes] = field(default_factory=list[Boxes])

    @property
    def size(self) -> Array:
        return np.maximum(np.abs(self.low), np.abs(self.high))

    @property
    def amax(self) -> float:
        return float(self.size.max(initial=0.0))

    @cached_property
    def length(self) -> float:
        """||row||_2 along the last axis, of any."""
        if not self.shape:
            return self.amax
        size = self.size
        most = np.sqrt((size**2).sum(-1).max(initial=0.0) * self.shape[-1] / size.shape[-1])
        found = [float(most), *(length() for length in self.lengths)]
        if self.form is not None and self.form.simple:
            found.append(self.form.length)
        elif self.form is not None:
            found.append(self._by_balls(self.form))
        return min((x for x in found if not np.isnan(x)), default=inf)

    def _by_balls(self, form: Form) -> float:
        longest = 0.0
        for at, ball in rows_of(form, self.shape[-1]):
            parts = [at[ball == one] for one in np.unique(ball)]
            longest = max(longest, sum(
                (float(np.linalg.norm(form.centre[p]))
                 + min(float(np.linalg.norm(form.error[p])), form.slip)
                 + form.radius * sigma(form.matrix(p))) ** 2 for p in parts))  # fmt: skip
        return sqrt(longest)


def rows_of(form: Form, width: int) -> list[tuple[Array, Array]]:
    """Numbers of rows and balls, of each row of the tensor that differs from others."""
    lead = np.broadcast_shapes(form.at.shape[:-1], form.ball.shape[:-1])
    ball = form.ball
    if ball.shape[-1] == 1 < width:
        ball = ball + (int(ball.max()) + 1) * np.arange(width)
    at = np.broadcast_to(form.at, (*lead, width)).reshape(-1, width)
    return list(zip(at, np.broadcast_to(ball, (*lead, width)).reshape(-1, width), strict=True))


def between(shape: tuple[int, ...], low: Any, high: Any, lost: str = "") -> Known:
    """An interval for each entry."""
    ends = [np.asarray(x, np.float64) for x in (low, high)]
    ends = [x.reshape((1,) * (len(shape) - x.ndim) + x.shape) for x in ends]
    return Known(shape, thin(ends[0]), thin(ends[1]), lost=lost)


def nothing(shape: tuple[int, ...], lost: str) -> Known:
    """Of which nothing is known, because of what `lost` names."""
    return between(shape, -inf, inf, lost)


def thin(x: Array) -> Array:
    """Of size 1 along axes on which all is alike."""
    for axis, n in enumerate(x.shape):
        first = x.take([0], axis) if n > 1 else x
        if n > 1 and (x == first).all():
            x = first
    return x


def both(a: Known, b: Known) -> Known:
    """Two bounds of one tensor, of which the first keeps what else it knows."""
    low, high = np.maximum(a.low, b.low), np.minimum(a.high, b.high)
    return replace(a, low=low, high=high, kept=[])


def of_form(shape: tuple[int, ...], form: Form) -> Known:
    """What a form says by itself."""
    centre, reach = form.centre[form.at], form.reach[form.at] * MORE
    return replace(between(shape, centre - reach, centre + reach), form=form)


def _share(ends: Array, relative: float, least: float) -> Array:
    finite = np.isfinite(ends)
    return np.where(finite, relative * np.abs(np.where(finite, ends, 0.0)) + least, 0.0)


def rounded(x: Known, relative: float, least: float) -> Known:
    """As a format stores it."""
    low, high = x.low - _share(x.low, relative, least), x.high + _share(x.high, relative, least)
    low, high = (
        np.where(x.low >= 0, np.maximum(low, 0), low),
        np.where(x.high <= 0, np.minimum(high, 0), high),
    )
    width = x.shape[-1] if x.shape else 1

    def off(form: Form | None, times: float = 1.0) -> Form | None:
        if form is None:
            return None
        error = times * (relative * (np.abs(form.centre) + form.reach) + least)
        slip = inf
        if form.rows.ndim == 1:
            slip = form.slip + times * (relative * form.length + least * sqrt(width))
        return replace(form, error=form.error + error, slip=slip)

    def longer(length: Callable[[], float]) -> Callable[[], float]:
        return lambda: length() * (1 + relative) + least * sqrt(width)

    lengths = tuple(map(longer, x.lengths))
    return replace(
        x, low=low, high=high, form=off(x.form), carrier=off(x.carrier, 2.0), lengths=lengths,
        boxes=tuple(b.times(1 + relative, least) for b in x.boxes), kept=[],
        conv=None if x.conv is None else x.conv.rounded(relative, least),
    )  # fmt: skip
