"""Exponents of a graph: by folding alone, or with the fewest multiplications inserted.

Some part of a graph may hang together too closely to be solved with a cut at every operator, as
where each of n layers reads all before it. There, cuts are opened only near values that no exponent
saves, and more of them until none is left: closed ones make columns one, and such a system is
narrow again. A bound over all cuts then tells whether another choice of them could need fewer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from halfsafe.exponents.choosing import Choice, Part, Solver, joined
from halfsafe.exponents.model import Model, Program
from halfsafe.exponents.system import System, Wish, groups
from halfsafe.rules import Unknown

NEAR = 4
"""How many equations and cuts away from a value that is not saved cuts are opened."""

Exponents = dict[Unknown, int]


def folded(
    program: Program, solver: Solver, wish: Wish, share: float
) -> tuple[Exponents | None, bool]:
    """Exponents without insertions, None where there are none; and whether that is proved."""
    model = program.model({})
    if not model.zero_fits(wish):
        return None, True
    choice = solver.solve(model.system, wish, share)
    return _read(model, choice)


def inserted(program: Program, solver: Solver) -> tuple[Exponents | None, bool]:
    """Exponents with the fewest bits unresolved, then the fewest insertions; whether proved."""
    cuts = program.cuts()
    whole = program.model(cuts)
    found = list(solver.apart(whole.system, Wish.FIT, near=True))
    wide = [part for part in found if part.choice is None]
    guess = _opened(program, solver, whole, cuts, wide) if wide else None
    for i, part in enumerate(wide):
        own = None if guess is None else [guess[c] for c in part.columns]
        part.choice = solver.together(part.system, own, solver.left / (len(wide) - i))
    return _read(whole, joined(whole.system, found))


def _read(model: Model, choice: Choice) -> tuple[Exponents | None, bool]:
    exponents = choice.exponents
    return None if exponents is None else model.read(exponents), choice.proved


def _opened(
    program: Program,
    solver: Solver,
    whole: Model,
    cuts: Mapping[Unknown, Unknown],
    wide: Sequence[Part],
) -> Sequence[int] | None:
    """Exponents of the whole system with as many cuts opened as conflicts ask for; None if that is
    too many."""
    closed, near = {c for part in wide for c in part.columns}, set[int]()
    beside, steps = _Beside(whole.system), NEAR
    guess: list[int] | None = None
    while True:
        found = _with_closed(program, solver, whole, cuts, closed - near)
        if found is not None:
            guess, closed = found, closed - near
        elif guess is None or steps == 1:
            return guess
        else:
            steps //= 2
        columns = whole.system.columns
        unresolved = [c for part in wide for c in part.columns if columns[c].misses(guess[c])]
        near = closed & beside.around(unresolved, steps)
        if not near:
            return guess


def _with_closed(
    program: Program,
    solver: Solver,
    whole: Model,
    cuts: Mapping[Unknown, Unknown],
    closed: Collection[int],
) -> list[int] | None:
    """Exponents of the whole system with no cut at these columns; None if it is too wide still."""
    shut = set(closed)
    model = program.model({f: n for f, n in cuts.items() if not whole.ends(f, n) & shut})
    choice = joined(model.system, solver.apart(model.system, Wish.FIT, near=True))
    if choice.exponents is None:
        return None
    found = model.read(choice.exponents)
    return [found.get(unknown, 0) for unknown in whole.unknowns]


class _Beside:
    """Which columns of a system are bound to each other."""

    def __init__(self, system: System) -> None:
        self._beside: dict[int, set[int]] = {}
        for group in groups(system):
            for c in group:
                self._beside.setdefault(c, set()).update(group)

    def around(self, columns: Collection[int], steps: int) -> set[int]:
        """All within so many steps, themselves too."""
        found = set(columns)
        rim = found
        for _ in range(steps):
            rim = {other for c in rim for other in self._beside.get(c, ())} - found
            found |= rim
        return found
