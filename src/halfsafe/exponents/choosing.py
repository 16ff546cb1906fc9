"""The least cost of a system: split into parts, each solved once, exactly where that can be done.

A part that can be taken apart column by column is; what hangs together too closely goes to HiGHS.
One budget of time is shared out among all that HiGHS is asked with one solver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from time import monotonic

from halfsafe.exponents.branching import branched
from halfsafe.exponents.elimination import Elimination, OutOfTime, Steps, TooWide
from halfsafe.exponents.factors import Range
from halfsafe.exponents.system import Bounds, Cost, System, Wish, parts, tightened
from halfsafe.rules.solve import REACH

ROOM = 8
"""How far outside its window a value is looked for first, where it cannot be within."""

FARTHEST = 40
"""How far outside it is looked for at all, unless at 0: FP16 has as many binades, and no entry of a
value that lies beyond is left."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Exponents by column, None where there are none; `proved` unless time was up before."""

    exponents: Sequence[int] | None
    proved: bool = True


@dataclass(slots=True)
class Part:
    """Some columns of a system, which share nothing with others; `choice` is None until made."""

    columns: Sequence[int]
    system: System
    choice: Choice | None


class Solver:
    """Solves systems within one budget of seconds, and no part of any twice."""

    def __init__(self, seconds: float, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds
        self._steps = Steps()
        self._known: dict[object, Choice | None] = {}

    @property
    def left(self) -> float:
        """Seconds."""
        return max(self._end - self._clock(), 0.0)

    def solve(self, system: System, wish: Wish, share: float) -> Choice:
        """The least cost, looked for in no more than a share of what is left of the time."""
        end = self._clock() + self.left * share
        found: list[Part] = []
        for part in self.apart(system, wish):
            found.append(part)
            if part.choice and part.choice.exponents is None:
                return part.choice
        waiting = [part for part in found if part.choice is None]
        for i, part in enumerate(waiting):
            seconds = max(end - self._clock(), 0.0) / (len(waiting) - i)
            part.choice = self._branched(part.system, wish, seconds)
            if part.choice.exponents is None:
                return part.choice
        return joined(system, found)

    def apart(self, system: System, wish: Wish, *, near: bool = False) -> Iterable[Part]:
        """Parts one by one, with choices where elimination can make them.

        With `near`, one that has no solution is as near to its windows as it can be.
        """
        for columns, part in parts(system):
            key = part.signature(), wish, near
            if key not in self._known:
                try:
                    self._known[key] = self._eliminated(part, wish, near)
                except TooWide:
                    self._known[key] = None
            yield Part(columns, part, self._known[key])

    def together(self, part: System, guess: Sequence[int] | None, seconds: float) -> Choice:
        """The fewest bits missed, then insertions, of a part that cannot be taken apart.

        A guess that reaches a bound below all is as good as proved; only otherwise is time spent
        on branching, and what that gives is taken where it costs less.
        """
        end = self._clock() + seconds
        fits = guess is not None and part.cost(guess, Wish.FIT) is not None
        if guess is not None and self._is_least(part, guess, Wish.FIT if fits else Wish.NEAR):
            return Choice(guess)
        found = self._branched(part, Wish.FIT, max(end - self._clock(), 0.0))
        if found.exponents is None and not fits:
            found = self._branched(part, Wish.NEAR, max(end - self._clock(), 0.0))
        known = [k for k in (found.exponents, guess) if k is not None]
        best = min(known, key=lambda k: _fit_first(part, k), default=None)
        return Choice(best, found.proved)

    def _is_least(self, part: System, guess: Sequence[int], wish: Wish) -> bool:
        """Whether nothing misses less, or inserts less; the finish may cost less."""
        cost = part.cost(guess, wish)
        assert cost is not None
        bounds = around(part, cost.missed) if wish is Wish.NEAR else within(part, wish)
        assert bounds is not None
        try:
            bound = self._elimination(part, bounds, wish).bound(self._late)
        except OutOfTime:
            return False
        return bound is not None and bound[:2] >= cost[:2]

    def _late(self) -> bool:
        return self._clock() > self._end

    def _eliminated(self, part: System, wish: Wish, near: bool) -> Choice:
        bounds = within(part, wish)
        found = None if bounds is None else self._exact(part, bounds, wish)
        if found is not None or not near:
            return Choice(found)
        room = ROOM
        while True:
            found = self._exact(part, around(part, room), Wish.NEAR)
            assert found is not None, "0 satisfies every law"
            cost = part.cost(found, Wish.NEAR)
            assert cost is not None
            if cost.missed <= room or room == FARTHEST:
                return Choice(found)
            room = min(cost.missed, FARTHEST)

    def _exact(self, part: System, bounds: Bounds, wish: Wish) -> list[int] | None:
        solved = self._elimination(part, bounds, wish).solve()
        if solved is None:
            return None
        exponents, cost = solved
        if part.cost(exponents, wish) != cost:  # beyond 2**53 a sum of tables is rounded
            raise TooWide
        return exponents

    def _elimination(self, part: System, bounds: Bounds, wish: Wish) -> Elimination:
        ranges = {i: Range(*k) for i, k in enumerate(zip(*bounds, strict=True))}
        return Elimination(part, ranges, wish, self._steps)

    def _branched(self, part: System, wish: Wish, seconds: float) -> Choice:
        """A part's solution by branching."""
        if wish is Wish.NEAR:
            nothing = part.cost([0] * len(part.columns), wish)
            assert nothing is not None, "0 satisfies every law"
            bounds = around(part, nothing.missed)
        else:
            bounds = within(part, wish)
        if bounds is None:
            return Choice(None)
        exponents, late = branched(part, bounds, wish, seconds)
        return Choice(exponents, not late)


NEVER = Cost(10**18, 0, 0)
"""More than any cost."""


def _fit_first(part: System, k: Sequence[int]) -> tuple[bool, Cost]:
    """The cost as a key to sort by: what is within all windows comes first."""
    fits = part.cost(k, Wish.FIT)
    return fits is None, fits or part.cost(k, Wish.NEAR) or NEVER


def joined(system: System, found: Iterable[Part]) -> Choice:
    """The choices of all parts as one."""
    exponents, proved = [0] * len(system.columns), True
    for part in found:
        if part.choice is None or part.choice.exponents is None:
            return Choice(None, proved=False)
        proved &= part.choice.proved
        for column, k in zip(part.columns, part.choice.exponents, strict=True):
            exponents[column] = k
    return Choice(exponents, proved)


def within(part: System, wish: Wish) -> Bounds | None:
    """The exponents that windows and equations leave; None where they leave none."""
    hard = [column.hard(wish) for column in part.columns]
    return tightened(part, [low for low, _ in hard], [high for _, high in hard])


def around(part: System, room: int) -> Bounds:
    """The exponents no more than this far outside of a window, nor than FARTHEST, and 0.

    If a solution is known that leaves no more bits than `room` unresolved, the best one is here:
    it leaves no more, all of them together.
    """
    room = min(room, FARTHEST)
    low = [max(min(c.window.least - room, 0), -REACH) for c in part.columns]
    high = [min(max(c.window.high + room, 0), REACH) for c in part.columns]
    found = tightened(part, low, high)
    assert found is not None, "0 satisfies every law"
    return found
