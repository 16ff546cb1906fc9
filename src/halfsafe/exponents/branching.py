"""A system as a mixed-integer program: for what hangs together too closely to be taken apart."""

from __future__ import annotations

from math import inf

from halfsafe.exponents.system import (
    COMFORT,
    CUT,
    HEADROOM,
    MUL,
    Bounds,
    System,
    Wish,
)
from halfsafe.integer_program import IntegerProgram

MISSED, INSERTED, FINISH = range(3)
"""Levels of the objective: a lower one is settled before the next is looked at."""

BIT = COMFORT
"""The unit of the last level: solvers like costs near 1."""


def branched(
    system: System, bounds: Bounds, wish: Wish, seconds: float
) -> tuple[list[int] | None, bool]:
    """Exponents of least cost, if any are found; and whether time was up before they were proved.

    What comes back satisfies the system in whole numbers. HiGHS works with tolerances, so that a
    cut that it says is not made may shift by a bit: such an answer is none.
    """
    program = IntegerProgram(free=FINISH, seconds=seconds)
    low, high = bounds
    for k in zip(low, high, strict=True):
        program.integer(*k)
    for i in range(len(system.columns)):
        _penalise(program, system, i, wish)
    for row in system.equations:
        program.row({i: float(f) for i, f in row}, 0, 0)
    for cut in system.cuts:
        _cut(program, bounds, cut.far, cut.near, cut.cost / MUL)
    for tie in system.ties:
        program.magnitude({tie.first: 1.0, tie.second: -1.0}, tie.cost / BIT)
    solution = program.solve()
    if solution is None:
        return None, program.timed_out
    found = [round(float(k)) for k in solution[: len(system.columns)]]
    if system.cost(found, wish) is None:
        return None, True
    return found, program.timed_out


def _penalise(program: IntegerProgram, system: System, i: int, wish: Wish) -> None:
    """Wishes as penalties, where the bounds leave them unfulfilled."""
    column = system.columns[i]
    window, low, high = column.window, program.low[i], program.high[i]
    if wish is Wish.NEAR:
        if low < window.least:
            program.penalty({i: -1.0}, -window.least, 1.0, MISSED)
        if high > window.high:
            program.penalty({i: 1.0}, window.high, 1.0, MISSED)
    elif low < window.low:
        program.penalty({i: -1.0}, -window.low, 1.0, MISSED)
    if low < window.low:
        program.penalty({i: -1.0}, -window.low, HEADROOM / BIT)
    if high > window.comfort:
        program.penalty({i: 1.0}, window.comfort, COMFORT / BIT)
    if column.change:
        program.magnitude({i: 1.0}, column.change / BIT)


def _cut(program: IntegerProgram, bounds: Bounds, far: int, near: int | None, cost: float) -> None:
    """far - near is 0 if z is, and no further from it than bounds and CUT allow if z is 1."""
    low, high = bounds
    near_low, near_high = (0.0, 0.0) if near is None else (low[near], high[near])
    columns = {far: 1.0} if near is None else {far: 1.0, near: -1.0}
    up = max(min(high[far] - near_low, CUT), 0.0)
    down = max(min(near_high - low[far], CUT), 0.0)
    is_cut = program.integer(0, 1, cost, INSERTED)
    program.row({**columns, is_cut: -up}, -inf, 0)
    program.row({**columns, is_cut: down}, 0, inf)
