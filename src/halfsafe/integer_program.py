"""A mixed-integer linear program built column by column, minimised level by level with HiGHS."""

from __future__ import annotations

from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_array

SECONDS = 60.0
"""Time limit of a program, all levels together, unless another one is given."""

Columns = dict[int, float]
"""A linear expression: factors by column."""


class IntegerProgram:
    """Columns with bounds and costs, rows with bounds.

    Costs have levels: a lower level is minimised first, and what it settles is kept while the next
    is minimised. Within the level `free`, the last, nothing has to be kept.
    """

    def __init__(self, free: int, seconds: float = SECONDS) -> None:
        self.free = free
        self.seconds = seconds
        self.timed_out = False
        self.low: list[float] = []
        self.high: list[float] = []
        self._cost: list[float] = []
        self._level: list[int] = []
        self._integer: list[int] = []
        self._rows: list[tuple[Columns, float, float]] = []

    def integer(self, low: float, high: float, cost: float = 0.0, level: int | None = None) -> int:
        """A new integer column."""
        return self._column(low, high, cost, level, 1)

    def row(self, columns: Columns, low: float, high: float) -> None:
        """low <= sum of columns <= high."""
        if columns:
            self._rows.append((columns, low, high))

    def penalty(
        self, columns: Columns, limit: float, cost: float, level: int | None = None
    ) -> None:
        """Costs `cost` for each unit by which the sum of columns exceeds the limit."""
        excess = self._column(0, inf, cost, level, 0)
        self.row({**columns, excess: -1.0}, -inf, limit)

    def magnitude(self, columns: Columns, cost: float) -> None:
        """Costs `cost` times the magnitude of the sum of columns."""
        size = self._column(0, inf, cost, None, 0)
        self.row({**columns, size: -1.0}, -inf, 0)
        self.row({**columns, size: 1.0}, 0, inf)

    def solve(self) -> NDArray[np.float64] | None:
        """The values of all columns; None without a solution, or with none in time.

        `timed_out` tells which, and whether the solution is merely the best one known by then. What
        a level has reached is kept as the cost of a row, not column by column: a later level may
        still choose among all solutions that cost the same.
        """
        from scipy.optimize import Bounds, milp

        level, cost = np.array(self._level), np.array(self._cost)
        self.timed_out = False
        end = monotonic() + self.seconds
        if np.any(np.array(self.low) > np.array(self.high)):
            return None
        solution: NDArray[np.float64] | None = None
        for current in sorted(set(self._level)):
            costs = np.where(level == current, cost, 0.0)
            result = milp(
                costs,
                integrality=np.array(self._integer),
                bounds=Bounds(np.array(self.low), np.array(self.high)),
                constraints=self._constraints(),
                options={"mip_rel_gap": 0.0, "time_limit": max(end - monotonic(), 0.1)},
            )
            self.timed_out |= result.status == 1
            if result.x is None:
                return solution
            solution = np.asarray(result.x, dtype=np.float64)
            if current != self.free:
                self._keep(costs, float(costs @ solution))
        return solution

    def _keep(self, costs: NDArray[np.float64], reached: float) -> None:
        """A row under which a settled level does not get worse; at cost 0 its columns are 0."""
        places = np.flatnonzero(costs)
        if places.size and reached > 1e-6:
            self.row({int(i): float(costs[i]) for i in places}, -inf, reached * (1 + 1e-9) + 1e-9)
        else:
            for i in places:
                self.high[i] = min(self.high[i], max(self.low[i], 0.0))

    def _constraints(self) -> Any:
        from scipy.optimize import LinearConstraint

        if not self._rows:
            return ()
        low, high = (np.array([row[i] for row in self._rows]) for i in (1, 2))
        return LinearConstraint(self._matrix(), low, high)

    def _column(self, low: float, high: float, cost: float, level: int | None, integer: int) -> int:
        self.low.append(low)
        self.high.append(high)
        self._cost.append(cost)
        self._level.append(self.free if level is None else level)
        self._integer.append(integer)
        return len(self.low) - 1

    def _matrix(self) -> csr_array[np.float64, tuple[int, int]]:
        from scipy.sparse import csr_array

        lengths = [len(columns) for columns, _, _ in self._rows]
        indices = np.array([c for columns, _, _ in self._rows for c in columns], np.int32)
        data = np.array([f for columns, _, _ in self._rows for f in columns.values()])
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        shape = len(self._rows), len(self.low)
        return csr_array((data, indices, starts), shape=shape, dtype=np.float64)
