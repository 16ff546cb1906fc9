"""Exponents to be chosen, as plain data: what binds them, and what each choice costs.

A column is a whole number k. Columns are bound by windows, by equations of laws, and by cuts:
k[far] == k[near], unless a Mul in between is paid for. Costs are whole numbers on three levels, of
which a lower one is settled before the next is looked at:

    missed      bits of headroom that are given up; or, where no exponents are within all windows,
                bits outside of these
    inserted    MUL + elements, of each cut that is made
    finish      bits of comfort given up, bits by which constants change
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from halfsafe.rules.solve import REACH
from halfsafe.windows import Window

CUT = 80
"""The most bits that one inserted Mul may shift: twice the binades of FP16."""

MUL = 1_000_000
"""What an inserted Mul costs beside the elements that it multiplies."""

HEADROOM, COMFORT, CHANGE = 100_000, 10_000, 10
"""Costs of a bit: of headroom, of comfort, and by which a constant of weight 1 changes."""


Exponents = NDArray[np.int64]


class Wish(Enum):
    """How hard the lower end of a window is."""

    HEADROOM = "headroom is kept"
    FIT = "values fit, with as much headroom as can be"
    NEAR = "values are as near to their windows as can be"


class Cost(NamedTuple):
    """Compared level by level."""

    missed: int
    inserted: int
    finish: int


ANYWHERE = Window()
"""The window of what is not stored."""


@dataclass(frozen=True, slots=True)
class Column:
    """One exponent: its window, and the cost of each bit that it is away from 0."""

    window: Window = ANYWHERE
    change: int = 0

    def hard(self, wish: Wish) -> tuple[int, int]:
        """The exponents that are allowed."""
        if wish is Wish.NEAR:
            return -REACH, REACH
        low = self.window.low if wish is Wish.HEADROOM else self.window.least
        return max(low, -REACH), min(self.window.high, REACH)

    def misses(self, k: int) -> bool:
        """Whether an exponent is outside the window or leaves less headroom."""
        return not self.window.low <= k <= self.window.high


def missed(columns: Sequence[Column], k: Exponents, wish: Wish) -> Exponents:
    """Bits by which exponents miss what is wished, of each column or of each exponent of one."""
    near = wish is Wish.NEAR
    low = np.array([column.window.least if near else column.window.low for column in columns])
    high = np.array([column.window.high for column in columns])
    return np.maximum(np.maximum(low - k, k - high), 0)


def finish(columns: Sequence[Column], k: Exponents) -> Exponents:
    """Costs of headroom, which is settled before but of Wish.NEAR, comfort and change, likewise."""
    low = np.array([column.window.low for column in columns])
    comfort = np.array([column.window.comfort for column in columns])
    change = np.array([column.change for column in columns])
    headroom, lost = np.maximum(low - k, 0), np.maximum(k - comfort, 0)
    return HEADROOM * headroom + COMFORT * lost + change * np.abs(k)


@dataclass(frozen=True, slots=True)
class Cut:
    """k[far] == k[near], or a Mul is inserted at this cost; without `near`, k[far] == 0."""

    far: int
    near: int | None
    cost: int


@dataclass(frozen=True, slots=True)
class Tie:
    """Each bit between two uses of one constant has a cost."""

    first: int
    second: int
    cost: int


Equation = Sequence[tuple[int, int]]
"""Columns and factors: sum(factor * k) == 0."""


@dataclass
class System:
    """Columns by number, and what binds them."""

    columns: list[Column] = field(default_factory=list[Column])
    equations: list[tuple[tuple[int, int], ...]] = field(
        default_factory=list[tuple[tuple[int, int], ...]]
    )
    cuts: list[Cut] = field(default_factory=list[Cut])
    ties: list[Tie] = field(default_factory=list[Tie])

    def cost(self, k: Sequence[int], wish: Wish) -> Cost | None:
        """What a choice costs, in whole numbers; None where it breaks what it must not."""
        if any(sum(f * k[i] for i, f in row) for row in self.equations):
            return None
        for column, exponent in zip(self.columns, k, strict=True):
            low, high = column.hard(wish)
            if not low <= exponent <= high:
                return None
        inserted = 0
        for cut in self.cuts:
            shift = k[cut.far] - (0 if cut.near is None else k[cut.near])
            if abs(shift) > CUT:
                return None
            inserted += cut.cost if shift else 0
        apart = sum(tie.cost * abs(k[tie.first] - k[tie.second]) for tie in self.ties)
        at = np.array(k, np.int64)
        first, last = missed(self.columns, at, wish).sum(), finish(self.columns, at).sum()
        return Cost(int(first), inserted, int(last) + apart)

    def signature(self) -> tuple[object, ...]:
        """Equal for systems that are the same but for what their columns stand for."""
        return tuple(self.columns), tuple(self.equations), tuple(self.cuts), tuple(self.ties)


def parts(system: System) -> list[tuple[list[int], System]]:
    """The system split into those that share nothing, each with its columns' numbers in the whole.

    Cost is a sum over parts on every level, and parts are free of each other, so that the sum of
    their least costs, level by level, is the least cost of the whole: were one part of the best
    whole not at its own best, putting it there would lower the first level on which they differ.
    """
    root = _components(system)
    members: dict[int, list[int]] = {}
    for i in range(len(system.columns)):
        members.setdefault(root[i], []).append(i)
    place = {i: at for group in members.values() for at, i in enumerate(group)}
    found = {r: System([system.columns[i] for i in group]) for r, group in members.items()}
    for row in system.equations:
        found[root[row[0][0]]].equations.append(tuple((place[i], f) for i, f in row))
    for cut in system.cuts:
        near = None if cut.near is None else place[cut.near]
        found[root[cut.far]].cuts.append(Cut(place[cut.far], near, cut.cost))
    for tie in system.ties:
        found[root[tie.first]].ties.append(Tie(place[tie.first], place[tie.second], tie.cost))
    return [(members[r], part) for r, part in found.items()]


def _components(system: System) -> list[int]:
    """For each column, the one that stands for all it hangs together with."""
    above = list(range(len(system.columns)))

    def find(i: int) -> int:
        while above[i] != i:
            above[i] = above[above[i]]
            i = above[i]
        return i

    for group in groups(system):
        first = find(group[0])
        for i in group[1:]:
            above[find(i)] = first
    return [find(i) for i in range(len(above))]


def groups(system: System) -> list[list[int]]:
    """Columns that are bound to each other by one thing."""
    return [
        *([i for i, _ in row] for row in system.equations),
        *([cut.far, cut.near] for cut in system.cuts if cut.near is not None),
        *([tie.first, tie.second] for tie in system.ties),
    ]


Bounds = tuple[list[int], list[int]]


def tightened(system: System, low: Sequence[int], high: Sequence[int]) -> Bounds | None:
    """Bounds that the equations leave of these; None where they leave nothing.

    In a x + b y + ... == 0 each term is what all others are not. An equation is looked at again
    when one of its columns has changed, a bounded number of times: later changes are left out,
    which is wider than need be and never wrong.
    """
    low, high = list(low), list(high)
    touching: dict[int, list[int]] = {}
    for number, row in enumerate(system.equations):
        for i, _ in row:
            touching.setdefault(i, []).append(number)
    visits = [0] * len(system.equations)
    pending = deque(range(len(visits)))
    waiting = set(pending)
    while pending:
        waiting.discard(number := pending.popleft())
        visits[number] += 1
        for i in _narrowed(system.equations[number], low, high):
            for other in touching[i]:
                if other not in waiting and visits[other] < VISITS:
                    waiting.add(other)
                    pending.append(other)
    return None if any(a > b for a, b in zip(low, high, strict=True)) else (low, high)


VISITS = 8
"""How often one equation is looked at."""


def _narrowed(row: Equation, low: list[int], high: list[int]) -> list[int]:
    """Narrows the bounds of an equation's columns by those of the others; which it has changed."""
    changed: list[int] = []
    least = sum(f * (low if f > 0 else high)[i] for i, f in row)
    most = sum(f * (high if f > 0 else low)[i] for i, f in row)
    for i, f in row:
        # f k == -(the sum of all other terms), which is between these two
        a = f * (high if f > 0 else low)[i] - most
        b = f * (low if f > 0 else high)[i] - least
        new_low, new_high = (-(-a // f), b // f) if f > 0 else (-(-b // f), a // f)
        if new_low > low[i] or new_high < high[i]:
            low[i], high[i] = max(new_low, low[i]), min(new_high, high[i])
            if low[i] > high[i]:
                return []
            changed.append(i)
            least = sum(f * (low if f > 0 else high)[i] for i, f in row)
            most = sum(f * (high if f > 0 else low)[i] for i, f in row)
    return changed
