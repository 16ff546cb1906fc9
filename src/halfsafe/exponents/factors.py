"""What binds some columns together, and what is left when one of them is minimised out.

A table has a cost for each choice of its columns. Costs are complex numbers: the real part is
settled before the imaginary one, since NumPy adds complex numbers by parts and compares them part
by part, real ones first. Both hold whole numbers, and inf is what must not be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from halfsafe.exponents.system import CUT

Costs = NDArray[np.complex128]
Choices = NDArray[np.uint8]

NEVER = complex(np.inf, 0.0)


@dataclass(frozen=True, slots=True)
class Range:
    """The exponents of one column."""

    low: int
    high: int

    def __len__(self) -> int:
        return self.high - self.low + 1

    @property
    def exponents(self) -> NDArray[np.int64]:
        """All of them, in order."""
        return np.arange(self.low, self.high + 1)


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Costs by position within the range of each column; the key tells equal ones."""

    columns: tuple[int, ...]
    costs: Costs
    key: object


@dataclass(frozen=True, slots=True)
class Sum:
    """An equation: sum(factor * k) == 0, at no cost."""

    columns: tuple[int, ...]
    key: tuple[int, ...]
    """The factors."""


@dataclass(frozen=True, slots=True)
class Jump:
    """Two columns are equal, or pay `key` for being up to CUT apart."""

    columns: tuple[int, int]
    key: int


Factor = Table | Sum | Jump

Ranges = dict[int, Range]


def work(column: int, factors: Sequence[Factor], ranges: Ranges) -> int:
    """How many costs are looked at when a column is minimised out."""
    cells, follows, seen = 1, False, {column}
    for factor in factors:  # a plain loop: this is asked more often than anything else
        follows |= isinstance(factor, Sum)
        for c in factor.columns:
            if c not in seen:
                seen.add(c)
                own = ranges[c]
                cells *= own.high - own.low + 1
    if follows:
        return cells
    own = len(ranges[column])
    jump = _lone_jump(column, factors)
    return (
        cells * own
        if jump is None
        else max(cells, cells * own // len(ranges[_other(column, jump)]))
    )


def minimised(
    column: int, others: Sequence[int], factors: Sequence[Factor], ranges: Ranges
) -> tuple[Costs, Choices]:
    """The least cost over a column by the choices of all others, and the position that has it."""
    equation = next((f for f in factors if isinstance(f, Sum)), None)
    if equation is not None:
        rest = [f for f in factors if f is not equation]
        return _solved(column, others, equation, rest, ranges)
    jump = _lone_jump(column, factors)
    if jump is not None:
        rest = [f for f in factors if f is not jump]
        return _jumped(column, others, jump, rest, ranges)
    total = _total((column, *others), factors, ranges)
    choices = total.argmin(axis=0)
    costs = np.take_along_axis(total, choices[None], axis=0)[0]
    return costs, choices.astype(np.uint8)


# With an equation, the column follows from all others


def _solved(
    column: int, others: Sequence[int], equation: Sum, rest: Sequence[Factor], ranges: Ranges
) -> tuple[Costs, Choices]:
    factor_of = dict(zip(equation.columns, equation.key, strict=True))
    grid = {c: _along(ranges[c].exponents, i, len(others)) for i, c in enumerate(others)}
    side = -sum(factor_of[c] * grid[c] for c in others if c in factor_of)
    exponent, remainder = np.divmod(side, factor_of[column])
    own = ranges[column]
    valid = (remainder == 0) & (own.low <= exponent) & (exponent <= own.high)
    grid[column] = np.where(valid, exponent, own.low)
    shape = tuple(len(ranges[c]) for c in others)
    costs = np.broadcast_to(np.where(valid, 0, NEVER), shape).astype(np.complex128)
    for other in rest:
        costs = costs + _at(other, grid, ranges)
    choices = np.broadcast_to(grid[column] - own.low, shape)
    return costs, choices.astype(np.uint8)


def _at(factor: Factor, grid: dict[int, NDArray[np.int64]], ranges: Ranges) -> Costs:
    """The costs of a factor at exponents that are arrays of a common shape."""
    if isinstance(factor, Table):
        return factor.costs[tuple(grid[c] - ranges[c].low for c in factor.columns)]
    if isinstance(factor, Jump):
        return _jump_costs(grid[factor.columns[0]] - grid[factor.columns[1]], factor.key)
    terms = [f * grid[c] for c, f in zip(factor.columns, factor.key, strict=True)]
    return np.where(reduce(np.add, terms) == 0, 0, NEVER).astype(np.complex128)


def _jump_costs(shift: NDArray[np.int64], cost: int) -> Costs:
    apart = np.abs(shift)
    return np.where(apart == 0, 0, np.where(apart <= CUT, cost, NEVER)).astype(np.complex128)


# With a jump, the column is where the other end is, or where it is cheapest


def _lone_jump(column: int, factors: Sequence[Factor]) -> Jump | None:
    """A jump whose other end meets this column nowhere else."""
    for jump in factors:
        if isinstance(jump, Jump):
            other = _other(column, jump)
            if not any(other in f.columns for f in factors if f is not jump):
                return jump
    return None


def _other(column: int, jump: Jump) -> int:
    first, second = jump.columns
    return second if first == column else first


def _jumped(
    column: int, others: Sequence[int], jump: Jump, rest: Sequence[Factor], ranges: Ranges
) -> tuple[Costs, Choices]:
    """min(staying, cost + the least within reach) for each exponent of the other end."""
    far = _other(column, jump)
    without = [c for c in others if c != far]
    total = _total((column, *without), rest, ranges)
    own, there = ranges[column], ranges[far]
    moved, choices = _least_within_reach(total, own, there)
    moved = moved + jump.key
    low, high = max(own.low, there.low), min(own.high, there.high)
    if low <= high:
        k, position = (slice(low - r.low, high - r.low + 1) for r in (own, there))
        stays = total[k] <= moved[position]
        here = _along(np.arange(k.start, k.stop), 0, total.ndim)
        moved[position] = np.where(stays, total[k], moved[position])
        choices[position] = np.where(stays, here, choices[position])
    axis = list(others).index(far)
    return np.moveaxis(moved, 0, axis), np.moveaxis(choices, 0, axis).astype(np.uint8)


def _least_within_reach(total: Costs, own: Range, there: Range) -> tuple[Costs, NDArray[np.int64]]:
    """For each exponent there, the least of the first axis no more than CUT away, and where.

    What is within reach is all, or ends where the axis ends, or, of an axis of more than 2 CUT, is
    looked at by itself.
    """
    if own.high - there.low <= CUT and there.high - own.low <= CUT:
        best = total.argmin(axis=0)[None]
        least = np.take_along_axis(total, best, axis=0)
        shape = (len(there), *total.shape[1:])
        return np.broadcast_to(least, shape).copy(), np.broadcast_to(best, shape).copy()
    first = np.clip(there.exponents - CUT - own.low, 0, len(own))
    last = np.clip(there.exponents + CUT - own.low, -1, len(own) - 1)
    costs, at = _least_from_start(total)
    costs, at = costs[last], at[last]
    from_end, backwards = _least_from_start(total[::-1])
    ends = (first > 0) & (last == len(own) - 1)
    from_end_at = len(own) - 1 - np.minimum(first, len(own) - 1)
    costs[ends], at[ends] = from_end[from_end_at[ends]], len(own) - 1 - backwards[from_end_at[ends]]
    costs[first > last] = NEVER
    for i in np.flatnonzero((first > 0) & (last < len(own) - 1) & (first <= last)):
        part = total[first[i] : last[i] + 1]
        best = part.argmin(axis=0)
        costs[i] = np.take_along_axis(part, best[None], axis=0)[0]
        at[i] = best + first[i]
    return costs, at


def _least_from_start(total: Costs) -> tuple[Costs, NDArray[np.int64]]:
    """The least of the first axis up to each place, and where it is."""
    least = np.minimum.accumulate(total, axis=0)
    places = _along(np.arange(len(total)), 0, total.ndim)
    new = np.zeros(total.shape, np.int64)
    new[1:] = np.where(total[1:] < least[:-1], places[1:], 0)
    return least, np.maximum.accumulate(new, axis=0)


# Otherwise everything is added up


def _total(columns: Sequence[int], factors: Sequence[Factor], ranges: Ranges) -> Costs:
    """The sum of factors over all choices of these columns."""
    place = {c: i for i, c in enumerate(columns)}
    shape = tuple(len(ranges[c]) for c in columns)
    total = np.zeros(shape, np.complex128)
    for factor in factors:
        total += _spread(_dense(factor, ranges), [place[c] for c in factor.columns], len(columns))
    return total


def _dense(factor: Factor, ranges: Ranges) -> Costs:
    if isinstance(factor, Table):
        return factor.costs
    count = len(factor.columns)
    grid = {c: _along(ranges[c].exponents, i, count) for i, c in enumerate(factor.columns)}
    return _at(factor, grid, ranges)


def _spread(costs: Costs, axes: Sequence[int], count: int) -> Costs:
    """The same with its axes at these places among `count`."""
    order = sorted(range(len(axes)), key=axes.__getitem__)
    shape = [1] * count
    for i, axis in enumerate(axes):
        shape[axis] = costs.shape[i]
    return costs.transpose(order).reshape(shape)


def _along(values: NDArray[np.int64], axis: int, count: int) -> NDArray[np.int64]:
    shape = [1] * count
    shape[axis] = len(values)
    return values.reshape(shape)
