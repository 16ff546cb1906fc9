"""Chooses every exponent at once: an integer program over the laws and the windows.

The unknowns are whole numbers: k[v], at which a value is made, and k[u], at which a use of it is
read. A law states equations over those of one node, a use reads what was made, and what the outside
world sees is at 0:

    sum_i f_i k_i = 0                               each equation of each law
    k[u] = k[v],  k[rim] = 0                        where no Mul may be inserted
    k[u] - k[v] = m,  |m| <= CUT z,  z in {0, 1}    where one may: z is whether it is
    least_i <= k_i <= high_i                        each window; low_i is a wish, or hard

How that is solved, exactly, one unknown after the other, is told in `halfsafe.exponents`.

Two attempts, the second only where the first has no solution: fold with full headroom; insert Muls,
the fewest and smallest with which there is as much headroom as can be. Parts of a network that have
no solution even so are left with the least number of bits unresolved. Within an attempt: precision
first, then the fewest changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from halfsafe.errors import PlanError
from halfsafe.exponents.choosing import Solver
from halfsafe.exponents.inserting import folded, inserted
from halfsafe.exponents.model import Program
from halfsafe.exponents.system import Wish
from halfsafe.garbage import uncollected
from halfsafe.graph import Graph, Use
from halfsafe.restriction import Restriction
from halfsafe.rules import Unknown, unknown_ops
from halfsafe.rules.solve import COMPUTED, Pins
from halfsafe.windows import Window, Windows, bits_lost

SECONDS = 60.0
"""Time limit of a plan, where it has to branch; the best one known by then is used, and says so."""

_FOLDING = "fold constants alone: what follows may insert more than it has to"
_INSERTING = "insert the fewest multiplications: other plans may need fewer"

_ATTEMPTS = (
    (_FOLDING, partial(folded, wish=Wish.HEADROOM, share=1 / 4)),
    (_INSERTING, inserted),
)
"""What is tried, in words, and how. Folding may take so much of the time that is left."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """A value that no exponent saves, and what pins it nearby."""

    unknown: Unknown
    exponent: int
    window: Window
    pinned_by: str

    @property
    def needs(self) -> str:
        """The exponent that it would take."""
        if self.exponent < self.window.least:
            return f"needs exponent {self.window.least} or more"
        return f"needs exponent {self.window.high} or less"


@dataclass(frozen=True)
class Plan:
    """Exponents by value, and by use where an operand is read: constants, and behind insertions."""

    exponents: Mapping[str, int]
    uses: Mapping[Use, int]
    conflicts: tuple[Conflict, ...]
    unknown_ops: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether everything stays as it is."""
        return not any(self.exponents.values()) and not any(self.uses.values())

    @property
    def changed(self) -> int:
        """How many values are stored at an exponent other than 0."""
        return sum(1 for k in self.exponents.values() if k)


@uncollected()
def plan(
    graph: Graph,
    windows: Windows,
    *,
    eager: bool = False,
    restriction: Restriction | None = None,
) -> Plan:
    """The best exponents for a graph. Values that no plan saves are in `conflicts`.

    Where every value fits at exponent 0, with headroom, nothing is changed, unless the caller
    `eager`ly wants what is merely imprecise mended as well. A `restriction` says what may be
    changed at all. Raises PlanError.
    """
    if not eager and all(w.low <= 0 <= w.high for w in windows.values()):
        return _read(graph, windows, {})
    program, solver, late = Program(graph, windows, restriction), Solver(SECONDS), list[str]()
    for aim, attempt in _ATTEMPTS:
        solution, proved = attempt(program, solver)
        if not proved:
            late.append(f"not settled within {SECONDS:.0f} s of search: how to {aim}")
        if solution is not None:
            return _read(graph, windows, solution, late, restriction)
    raise PlanError(
        f"no plan for {len(graph.nodes)} operators within {SECONDS:.0f} s: fix parts of the model "
        "one by one"
    )


def _read(
    graph: Graph,
    windows: Windows,
    solution: Mapping[Unknown, int],
    notes: Iterable[str] = (),
    restriction: Restriction | None = None,
) -> Plan:
    exponents = {n: solution.get(n, 0) for n, v in graph.values.items() if v.floating}
    uses = {
        Use(node.name, operand): solution.get(Use(node.name, operand), 0)
        for node in graph.nodes
        for operand, value in node.inputs.items()
        if graph.values[value].floating
    }
    stored: dict[Unknown, int] = {**exponents, **uses}
    bounds = {u: w for u, w in windows.items() if not _repeats(graph, exponents, uses, u)}
    lost = {u: w for u, w in bounds.items() if bits_lost(w, stored.get(u, 0))}
    conflicts = _conflicts(Pins(graph, restriction), lost, stored) if lost else ()
    tight = [
        (window.low - stored.get(unknown, 0), unknown)
        for unknown, window in bounds.items()
        if isinstance(unknown, str) and window.least <= stored.get(unknown, 0) < window.low
    ]
    given_up = _given_up(graph, tight) if tight else []
    return Plan(exponents, uses, conflicts, tuple(unknown_ops(graph)), (*notes, *given_up))


def _conflicts(pins: Pins, lost: Windows, stored: Mapping[Unknown, int]) -> tuple[Conflict, ...]:
    return tuple(
        Conflict(unknown, stored.get(unknown, 0), window, pins.nearest(unknown))
        for unknown, window in lost.items()
    )


def _given_up(graph: Graph, tight: Sequence[tuple[int, str]]) -> list[str]:
    """Says so where a value fits, and headroom above it could not be had."""
    bits, name = max(tight)
    return [
        f"headroom is given up for {len(tight)} values, {bits} bit at {graph.describe(name)}: they "
        "fit on these samples, and may overflow on a louder one"
    ]


def _repeats(
    graph: Graph, exponents: Mapping[str, int], uses: Mapping[Use, int], unknown: Unknown
) -> bool:
    """Whether this is an activation read at the exponent at which it is made."""
    if not isinstance(unknown, Use):
        return False
    value = graph.by_name[unknown.node].inputs[unknown.operand]
    return graph.values[value].kind in COMPUTED and uses[unknown] == exponents[value]
