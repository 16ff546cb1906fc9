"""Sums over an output, from which come those over its rows, its features and its channels.

What people read by itself are items of a batch, and rows of a matrix or of a batch of them; what
may be wrong all over is a feature or a channel. All of these are sums of squares over some axes,
which one walk over the entries gives, a block at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf, prod, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfsafe.deviation import ROUNDING, WRONG
from halfsafe.verdict.finding import TOLERANCE, WIDE, Row

Array = NDArray[Any]

Block = tuple[slice, slice]

ENTRIES = 2**16
"""Entries of a block: a few copies of them fit a processor's cache."""


@dataclass(frozen=True)
class Parts:
    """Parts of an output of one kind: of each the sums of the squares of the reference, the error
    and the floor's error, and of the fourth powers of the reference."""

    sums: Array
    what: str = "row"

    @property
    def count(self) -> int:
        return self.sums.shape[1]

    def worst(self) -> Row | None:
        """The part that is the most times farther off than the floor, of those that are wide."""
        return self._largest(self._excess, self._weight >= WIDE)

    def worst_off(self) -> Row | None:
        """The same of those that are of no use, and could be: the floor is no excuse."""
        off = (self._excess > WRONG) & (self._relative(1) > TOLERANCE)
        return self._largest(self._excess, off & (self._weight >= WIDE))

    def farthest(self) -> Row | None:
        """The wide part that is the farthest from the reference."""
        return self._largest(self._relative(1), self._weight >= WIDE)

    def usual(self) -> float:
        """The median of the floor's relative errors."""
        return float(np.median(self._relative(2))) if self.count else 0.0

    def row(self, number: int) -> Row:
        norm, error, floor = (sqrt(x) for x in self.sums[:3, number].tolist())
        return Row(number, norm, error, floor, float(self._weight[number]), self.what)

    def _largest(self, by: Array, among: NDArray[np.bool_]) -> Row | None:
        places = np.flatnonzero(among)
        return self.row(int(places[by[places].argmax()])) if places.size else None

    @property
    def _weight(self) -> Array:
        """How many entries carry the norm, (sum x^2)^2 / sum x^4."""
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            return np.nan_to_num(self.sums[0] ** 2 / self.sums[3])

    def _relative(self, which: int) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            found = np.sqrt(self.sums[which] / self.sums[0])
        return np.nan_to_num(found, nan=0.0, posinf=inf)

    @property
    def _excess(self) -> Array:
        with np.errstate(invalid="ignore"):
            return self._relative(1) / np.maximum(self._relative(2), ROUNDING)


class Sums:
    """The sums over an output of some shape, laid out as rows whose sums are wanted."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        if len(shape) < 2:
            self._rows, self._width = 1, prod(shape)
        elif len(shape) <= 3:
            self._rows, self._width = prod(shape[:-1]), shape[-1]
        else:
            self._rows, self._width = shape[0] * shape[1], prod(shape[2:])
        self._of_rows = np.zeros((4, self._rows))
        self._of_features = np.zeros((4, self._width)) if 2 <= len(shape) <= 3 else None
        self.largest = 0.0

    def laid_out(self, x: Array) -> Array:
        """An output as these rows."""
        return x.reshape(self._rows, self._width)

    def blocks(self) -> Iterator[Block]:
        """Blocks of rows, or of parts of one that is long."""
        wide = min(max(self._width, 1), ENTRIES)
        tall = max(ENTRIES // wide, 1)
        for row in range(0, self._rows, tall):
            for column in range(0, self._width, wide):
                yield slice(row, row + tall), slice(column, column + wide)

    def add(self, block: Block, x: Array, error: Array, floor: Array) -> None:
        """Adds a block's squares."""
        rows, columns = block
        if not x.size:
            return
        self.largest = max(self.largest, float(error.max()))
        squares = x * x
        with np.errstate(over="ignore"):
            powers = (squares, error * error, floor * floor, squares * squares)
        for i, power in enumerate(powers):
            self._of_rows[i, rows] += power.sum(1)
            if self._of_features is not None:
                self._of_features[i, columns] += power.sum(0)

    def whole(self) -> Row:
        """All of the output."""
        return Parts(self._of_rows.sum(1, keepdims=True)).row(0)

    def rows(self) -> Parts:
        """Items of a batch, or the last axis of a matrix or a batch of them."""
        if not prod(self.shape):
            return Parts(np.zeros((4, 0)))
        if len(self.shape) <= 3:
            return Parts(self._of_rows)
        return Parts(self._of_rows.reshape(4, *self.shape[:2]).sum(2))

    def columns(self) -> list[Parts]:
        """The features of a matrix or a batch of them, and the channels of anything larger."""
        if len(self.shape) < 2 or not prod(self.shape):
            return []
        found: list[Parts] = []
        if self._of_features is not None:
            found.append(Parts(self._of_features, "feature"))
        if len(self.shape) > 2:
            found.append(Parts(self._of_rows.reshape(4, *self.shape[:2]).sum(1), "channel"))
        return found
