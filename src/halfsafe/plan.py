"""Chooses every exponent at once: an integer program over the laws and the windows.

The unknowns are whole numbers: k[v], at which a value is made, and k[u], at which a use of it is
read. A law states equations over those of one node, a use reads what was made, and what the outside
world sees is at 0:

    sum_i f_i k_i = 0                               each equation of each law
    k[u] = k[v],  k[rim] = 0                        where no Mul may be inserted
    k[u] - k[v] = m,  |m| <= CUT z,  z in {0, 1}    where one may: z is whether it is
    least_i <= k_i <= high_i                        each window; low_i is a wish, or hard

Most equations say that two unknowns are the same. These are merged first, so that a network of
thousands of values becomes a program of some tens of columns, which HiGHS solves at once.

Four attempts, each tried only when the one before has no solution: fold with full headroom; fold
with headroom as a wish; insert Muls, the fewest and smallest; insert and leave the least number of
bits unresolved. Within an attempt: precision first, then the fewest changes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf

from halfsafe.errors import PlanError
from halfsafe.graph import Graph, Kind, Use
from halfsafe.integer_program import SECONDS, Columns, IntegerProgram
from halfsafe.rules import Unknown, traits_of, unknown_ops
from halfsafe.rules.solve import (
    COMPUTED,
    REACH,
    ZERO,
    Classes,
    Row,
    nearest_pin,
    reads,
    stated,
)
from halfsafe.windows import Window, Windows, bits_lost

CUT = 80.0
"""The most bits that one inserted Mul may shift: twice the binades of FP16."""


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


def plan(graph: Graph, windows: Windows, *, eager: bool = False) -> Plan:
    """The best exponents for a graph. Values that no plan saves are in `conflicts`.

    Where every value fits at exponent 0, with headroom, nothing is changed, unless the caller
    `eager`ly wants what is merely imprecise mended as well. Raises PlanError.
    """
    if not eager and all(w.low <= 0 <= w.high for w in windows.values()):
        return _read(graph, windows, {})
    program = _Program(graph, windows)
    late: list[str] = []
    for attempt in (_fold(headroom=True), _fold(headroom=False), _INSERT, _LEAST_BAD):
        solution, timed_out = program.solve(attempt)
        if timed_out:
            late.append(f"the solver stopped after {SECONDS:.0f} s while it tried to {attempt.aim}")
        if solution is not None:
            return _read(graph, windows, solution, late)
    raise PlanError(
        f"no plan for {len(graph.nodes)} operators within {SECONDS:.0f} s: fix parts of the model "
        "one by one"
    )


@dataclass(frozen=True, slots=True)
class _Attempt:
    headroom: bool
    insert: bool
    slack: bool

    @property
    def aim(self) -> str:
        """What it tries, in words."""
        if self.slack:
            return "leave the fewest bits unresolved: other plans may resolve more"
        if self.insert:
            return "insert the fewest multiplications: other plans may need fewer"
        return "fold constants alone: what follows may insert more than it has to"


def _fold(*, headroom: bool) -> _Attempt:
    return _Attempt(headroom=headroom, insert=False, slack=False)


_INSERT = _Attempt(headroom=False, insert=True, slack=False)
_LEAST_BAD = _Attempt(headroom=False, insert=True, slack=True)

_UNRESOLVED, _INSERTED, _FINISH = range(3)
"""Levels of the objective: a lower one is settled before the next is looked at."""

_HEADROOM, _COMFORT, _CHANGE = 10.0, 1.0, 1e-3
"""Within the last level: bits of headroom, bits of comfort, bits by which a constant changes."""


class _Program:
    """The equations and windows of one graph, ready to be solved with or without insertions."""

    def __init__(self, graph: Graph, windows: Windows) -> None:
        self.graph, self.windows = graph, windows
        self.laws = stated(graph)
        self.reads = reads(graph)
        self.reading = {use for use, _ in self.reads}

    def solve(self, attempt: _Attempt) -> tuple[Mapping[Unknown, int] | None, bool]:
        """Exponents of all unknowns, or None when there are none that satisfy the attempt; and
        whether that is all that could be said in time."""
        cuts = self._cuts() if attempt.insert else {}
        merged = Classes()
        for use, value in self.reads:
            if use not in cuts:
                merged.join(use, value)
        for name in self._rim():
            if name not in cuts:
                merged.join(name, ZERO)
        rest = merged.absorb(self.laws)
        model = _Model(merged)
        for unknown, window in self.windows.items():
            if unknown in cuts or not self._is_read(unknown):
                model.window(unknown, window)
        for terms in rest:
            model.equation(terms)
        for far, near in cuts.items():
            source = far if isinstance(far, str) else near
            model.cut(far, near, self.graph.values[str(source)].size)
        self._add_changes(model)
        return model.solve(attempt), model.program.timed_out

    def _is_read(self, unknown: Unknown) -> bool:
        """Whether this is an activation where it is read; uncut, its window is the value's."""
        return isinstance(unknown, Use) and unknown in self.reading

    def _rim(self) -> list[str]:
        """Graph inputs and outputs: what the outside world sees, at exponent 0."""
        values = self.graph.values
        names = dict.fromkeys((*self.graph.inputs, *self.graph.outputs))
        return [name for name in names if values[name].floating]

    def _cuts(self) -> dict[Unknown, Unknown]:
        """Where a Mul may go, far side to near side: at the graph's rim, and in front of operators
        through which an exponent does not simply pass (behind those, the next one's front does).
        """
        cuts: dict[Unknown, Unknown] = dict.fromkeys(self._rim(), ZERO)
        for use, value in self.reads:
            if not traits_of(self.graph.by_name[use.node]).passes:
                cuts[use] = value
        return cuts

    def _add_changes(self, model: _Model) -> None:
        for name, value in self.graph.values.items():
            if not value.floating:
                continue
            uses = self.graph.consumers[name]
            if value.kind == Kind.CONSTANT:
                for use in uses:
                    model.change(use, 1.0)
                for first, second in pairwise(uses):
                    model.difference(first, second, 10.0)
            elif value.kind == Kind.LITERAL and value.number:
                for use in uses:
                    model.change(use, 20.0 if use.operand == "eps" else 50.0)
            elif value.kind == Kind.ACTIVATION:
                model.change(name, 0.1)


class _Model:
    """An integer program whose columns are the exponents of classes."""

    def __init__(self, classes: Classes) -> None:
        self.classes = classes
        self.program = IntegerProgram(free=_FINISH)
        self.column: dict[Unknown, int] = {}
        self.windows: dict[Unknown, Window] = {}
        self.changes: dict[Unknown, float] = defaultdict(float)

    def window(self, unknown: Unknown, window: Window) -> None:
        root = self.classes.find(unknown)
        self.windows[root] = self.windows.get(root, Window()) & window

    def equation(self, row: Row) -> None:
        self.program.row(self._columns(row), 0, 0)

    def cut(self, far: Unknown, near: Unknown, size: int) -> None:
        """far == near, unless a Mul over `size` elements is paid for."""
        columns = self._columns({far: 1, near: -1})
        if columns:
            is_cut = self.program.integer(0, 1, 1.0 + size * 1e-6, _INSERTED)
            self.program.row({**columns, is_cut: -CUT}, -inf, 0)
            self.program.row({**columns, is_cut: CUT}, 0, inf)

    def change(self, unknown: Unknown, weight: float) -> None:
        """Folding this unknown costs `weight` a bit."""
        self.changes[self.classes.find(unknown)] += weight

    def difference(self, first: Unknown, second: Unknown, weight: float) -> None:
        """Storing two uses of a constant differently costs `weight` a bit."""
        columns = self._columns({first: 1, second: -1})
        if columns:
            self.program.magnitude(columns, weight * _CHANGE)

    def solve(self, attempt: _Attempt) -> Mapping[Unknown, int] | None:
        """Exponents of all unknowns, or None."""
        for root, window in self.windows.items():
            if root != ZERO:
                self._bound(root, window, attempt)
            elif not attempt.slack and not self._lowest(window, attempt) <= 0 <= window.high:
                return None
        for root, weight in self.changes.items():
            if root != ZERO:
                self.program.magnitude({self._exponent(root): 1.0}, weight * _CHANGE)
        solution = self.program.solve()
        if solution is None:
            return None
        found = {root: round(float(solution[i])) for root, i in self.column.items()}
        return {u: found.get(self.classes.find(u), 0) for u in self.classes.unknowns}

    def _lowest(self, window: Window, attempt: _Attempt) -> int:
        return window.low if attempt.headroom else window.least

    def _bound(self, root: Unknown, window: Window, attempt: _Attempt) -> None:
        """Hard limits as bounds, wishes as penalties, and slack where the attempt allows it."""
        k, program = self._exponent(root), self.program
        low, high = self._lowest(window, attempt), window.high
        if attempt.slack:
            program.penalty({k: -1.0}, -low, 1.0, _UNRESOLVED)
            program.penalty({k: 1.0}, high, 1.0, _UNRESOLVED)
        else:
            program.low[k] = max(program.low[k], low)
            program.high[k] = min(program.high[k], high)
        if low < window.low:
            program.penalty({k: -1.0}, -window.low, _HEADROOM)
        if window.comfort < program.high[k]:
            program.penalty({k: 1.0}, window.comfort, _COMFORT)

    def _columns(self, row: Row) -> Columns:
        """A row over unknowns as one over columns; pinned unknowns fall out."""
        return {self._exponent(root): float(f) for root, f in self.classes.terms(row).items()}

    def _exponent(self, root: Unknown) -> int:
        if root not in self.column:
            self.column[root] = self.program.integer(-REACH, REACH)
        return self.column[root]


def _read(
    graph: Graph, windows: Windows, solution: Mapping[Unknown, int], notes: Iterable[str] = ()
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
    conflicts = tuple(
        Conflict(unknown, stored.get(unknown, 0), window, nearest_pin(graph, unknown))
        for unknown, window in bounds.items()
        if bits_lost(window, stored.get(unknown, 0))
    )
    tight = [
        (window.low - stored.get(unknown, 0), unknown)
        for unknown, window in bounds.items()
        if isinstance(unknown, str) and window.least <= stored.get(unknown, 0) < window.low
    ]
    given_up = _given_up(graph, tight) if tight else []
    return Plan(exponents, uses, conflicts, tuple(unknown_ops(graph)), (*notes, *given_up))


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
