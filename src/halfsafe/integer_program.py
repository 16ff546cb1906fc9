"""A mixed-integer linear program built column by column, minimised level by level with HiGHS."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_array

SECONDS = 60.0
"""Time limit of one solve; the best solution known by then is used."""

Columns = dict[int, float]
"""A linear expression: factors by column."""


class IntegerProgram:
    """Columns with bounds and costs, rows with bounds.

    Costs have levels: a lower level is minimised first, and what it settles is kept while the next
    is minimised. Within the level `free`, the last, nothing has to be kept.
    """

    def __init__(self, free: int) -> None:
        self.free = free
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
        """The values of all columns, None when there is no solution."""
        from scipy.optimize import Bounds, LinearConstraint, milp

        level, cost = np.array(self._level), np.array(self._cost)
        low, high = np.array(self.low), np.array(self.high)
        if np.any(low > high):
            return None
        rows = (np.array([r[1] for r in self._rows]), np.array([r[2] for r in self._rows]))
        constraints = LinearConstraint(self._matrix(), *rows) if self._rows else ()
        solution: NDArray[np.float64] | None = None
        for current in sorted(set(self._level)):
            result = milp(
                np.where(level == current, cost, 0.0),
                integrality=np.array(self._integer),
                bounds=Bounds(low, high),
                constraints=constraints,
                options={"mip_rel_gap": 0.0, "time_limit": SECONDS},
            )
            if result.x is None:
                return solution
            solution = np.asarray(result.x, dtype=np.float64)
            settled = (level == current) & (current != self.free)
            high = np.where(settled, np.ceil(solution - 1e-6), high)
        return solution

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
        indices = np.array([c for columns, _, _ in self._rows for c in columns])
        data = np.array([f for columns, _, _ in self._rows for f in columns.values()])
        starts = np.concatenate([[0], np.cumsum(lengths)])
        return csr_array((data, indices, starts), shape=(len(self._rows), len(self.low)))
