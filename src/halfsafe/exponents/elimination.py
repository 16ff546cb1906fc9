"""The exact least cost of a system whose columns hang together loosely, one column at a time.

Minimising over one column x leaves a table over its neighbours alone:

    min over all k of cost(k) = min over all k but x of (other factors + min over x of x's factors)

A network is a long chain with short loops beside it, so that there is nearly always a column with
one or two neighbours, and the work grows as the network does. Columns go in the order of work, and
among equals in the graph's own; the choices come back in the opposite order. No step rounds.

A step that has been done before, with the same tables over the same ranges, is looked up: of a
layer that is there 80 times, one is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import count

import numpy as np

from halfsafe.exponents.factors import (
    Choices,
    Costs,
    Factor,
    Jump,
    Range,
    Ranges,
    Sum,
    Table,
    minimised,
    work,
)
from halfsafe.exponents.system import Column, Cost, Cut, System, Wish, finish, missed

WIDEST = 1_000_000
"""The most costs that one step may look at."""

MOST = 3_000_000_000
"""The most that all steps may look at: about a minute's work."""

NARROW = 30_000
"""The same where a bound will do."""

BUSY = 12
"""A column with more factors waits until its neighbours are gone."""

KEPT = 40_000_000
"""How many bytes of steps are kept to be looked up."""


class TooWide(Exception):
    """Columns hang together with too many others."""


class OutOfTime(Exception):
    """The time is up."""


@dataclass
class Steps:
    """Steps that have been done."""

    _done: dict[object, tuple[Table, Choices]] = field(
        default_factory=dict[object, tuple[Table, Choices]]
    )
    _bytes: int = 0
    _numbers: Iterator[int] = field(default_factory=count)

    def once(
        self, key: object, columns: Sequence[int], compute: Callable[[], tuple[Costs, Choices]]
    ) -> tuple[Table, Choices]:
        """The result for a key, over these columns; of equal keys only the first is computed."""
        if key not in self._done:
            costs, choices = compute()
            self._keep(key, Table((), costs, next(self._numbers)), choices)
        table, choices = self._done[key]
        return Table(tuple(columns), table.costs, table.key), choices

    def _keep(self, key: object, table: Table, choices: Choices) -> None:
        self._done[key] = table, choices
        self._bytes += table.costs.nbytes + choices.nbytes
        while self._bytes > KEPT and len(self._done) > 1:
            dropped, gone = self._done.pop(next(iter(self._done)))
            self._bytes -= dropped.costs.nbytes + gone.nbytes


@dataclass(frozen=True, slots=True)
class _Step:
    column: int
    others: tuple[int, ...]
    choices: Choices


class Elimination:
    """One system, within ranges, on its way from all columns to none."""

    def __init__(self, system: System, ranges: Ranges, wish: Wish, steps: Steps) -> None:
        self.ranges, self.steps = ranges, steps
        self.unit = 1 + sum(cut.cost for cut in system.cuts)
        self._serial = count()
        self._touching: list[dict[int, Factor]] = [{} for _ in system.columns]
        self._alone = [self._column(i, c, wish) for i, c in enumerate(system.columns)]
        self._least = 0j
        for cut in system.cuts:
            if cut.near is None:
                self._add(self._to_zero(cut))
            else:
                self._add(Jump((cut.far, cut.near), cut.cost))
        for row in system.equations:
            self._add(Sum(tuple(i for i, _ in row), tuple(f for _, f in row)))
        for tie in system.ties:
            self._add(self._tie(tie.first, tie.second, tie.cost))

    def solve(self) -> tuple[list[int], Cost] | None:
        """The exponents of least cost, and the cost; None if there are none.

        No clock is looked at, so that every machine gives the same. Raises TooWide.
        """
        done, total = list[_Step](), 0
        for column, size in self._order(WIDEST):
            total += size
            if size > WIDEST or total > MOST:
                raise TooWide
            done.append(self._step(column))
            if self._least.real == np.inf:
                return None
        found = [0] * len(done)
        position = [0] * len(done)
        for step in reversed(done):
            at = int(step.choices[tuple(position[other] for other in step.others)])
            position[step.column] = at
            found[step.column] = self.ranges[step.column].low + at
        return found, self._cost()

    def bound(self, late: Callable[[], bool]) -> Cost | None:
        """A cost that no exponents go below; None if there are none.

        Where a column has too many neighbours, its factors are minimised over in groups, as if each
        group had that column to itself. Raises OutOfTime.
        """
        for column, size in self._order(NARROW):
            if late():
                raise OutOfTime
            for group in self._groups(column) if size > NARROW else [self._factors(column)]:
                self._minimise(column, group)
            if self._least.real == np.inf:
                return None
        return self._cost()

    def _cost(self) -> Cost:
        """What all columns together cost at least."""
        return Cost(*divmod(int(self._least.real), self.unit), int(self._least.imag))

    def _order(self, limit: int) -> Iterator[tuple[int, int]]:
        """Columns as they become cheap to minimise out, with the work.

        What the heap says may be old: less than the work is now is put right, more is where a busy
        column has lost neighbours. Before one is said to be beyond the limit, all are looked at.
        """
        left = dict.fromkeys(range(len(self._touching)))
        heap = [(self._work(i), i) for i in left if len(self._touching[i]) <= BUSY]
        heapify(heap)
        is_new = False
        while left:
            if not heap or (heap[0][0] > limit and not is_new):
                heap, is_new = [(self._work(i), i) for i in left], True
                heapify(heap)
            said, column = heappop(heap)
            if column not in left:
                continue
            size = self._work(column)
            if size > said:
                heappush(heap, (size, column))
                continue
            near = self._neighbours(column)
            del left[column]
            yield column, size
            is_new &= size > limit
            for other in near:
                if len(self._touching[other]) <= BUSY:
                    heappush(heap, (self._work(other), other))

    def _work(self, column: int) -> int:
        return work(column, list(self._touching[column].values()), self.ranges)

    def _neighbours(self, column: int) -> list[int]:
        found = {c for factor in self._touching[column].values() for c in factor.columns}
        return sorted(found - {column})

    def _step(self, column: int) -> _Step:
        """Minimises over a column: its factors go, and a table over its neighbours comes."""
        return _Step(column, *self._minimise(column, self._factors(column)))

    def _factors(self, column: int) -> list[Factor]:
        """All factors of a column, which are no longer those of its neighbours."""
        own, self._touching[column] = self._touching[column], {}
        for serial, factor in own.items():
            for c in factor.columns:
                if c != column:
                    del self._touching[c][serial]
        return [self._alone[column], *own.values()]

    def _groups(self, column: int) -> list[list[Factor]]:
        """The same in groups of which each is little work."""
        groups: list[list[Factor]] = [[]]
        for factor in self._factors(column):
            if groups[-1] and work(column, [*groups[-1], factor], self.ranges) > NARROW:
                groups.append([])
            groups[-1].append(factor)
        return groups

    def _minimise(self, column: int, factors: list[Factor]) -> tuple[tuple[int, ...], Choices]:
        """Adds what is left of factors of a column, and gives its neighbours and the choices."""
        others = tuple(sorted({c for f in factors for c in f.columns} - {column}))
        place = {c: i for i, c in enumerate((column, *others))}
        key = (
            tuple(self.ranges[c] for c in place),
            tuple((type(f), f.key, tuple(place[c] for c in f.columns)) for f in factors),
        )
        table, choices = self.steps.once(
            key, others, lambda: minimised(column, others, factors, self.ranges)
        )
        self._add(table)
        return others, choices

    def _add(self, factor: Factor) -> None:
        if not factor.columns:
            assert isinstance(factor, Table)
            self._least += complex(factor.costs)
        elif len(factor.columns) == 1:
            assert isinstance(factor, Table)
            self._add_alone(factor)
        else:
            serial = next(self._serial)
            for c in dict.fromkeys(factor.columns):
                self._touching[c][serial] = factor

    def _add_alone(self, table: Table) -> None:
        """Tables of one column are added up as they come."""
        (column,) = table.columns
        known = self._alone[column]
        self._alone[column], _ = self.steps.once(
            ("sum", known.key, table.key),
            (column,),
            lambda: (known.costs + table.costs, np.zeros(0, np.uint8)),
        )

    def _column(self, i: int, column: Column, wish: Wish) -> Table:
        k = self.ranges[i].exponents

        def compute() -> tuple[Costs, Choices]:
            costs = np.zeros(len(k), np.complex128)
            costs.real = missed([column], k, wish) * self.unit
            costs.imag = finish([column], k)
            return costs, np.zeros(0, np.uint8)

        key = "column", column, self.ranges[i], self.unit, wish
        return self.steps.once(key, (i,), compute)[0]

    def _to_zero(self, cut: Cut) -> Table:
        """A cut whose other end is at 0."""
        own = self.ranges[cut.far]
        zero = Range(0, 0)
        jump = Jump((0, 1), cut.cost)
        return self.steps.once(
            ("to zero", cut.cost, own),
            (cut.far,),
            lambda: minimised(1, (0,), [jump, _nothing()], {0: own, 1: zero}),
        )[0]

    def _tie(self, first: int, second: int, cost: int) -> Table:
        a, b = self.ranges[first], self.ranges[second]

        def compute() -> tuple[Costs, Choices]:
            apart = np.abs(a.exponents[:, None] - b.exponents)
            return 1j * cost * apart, np.zeros(0, np.uint8)

        return self.steps.once(("tie", cost, a, b), (first, second), compute)[0]


def _nothing() -> Table:
    """Costs nothing."""
    return Table((1,), np.zeros(1, np.complex128), "nothing")
