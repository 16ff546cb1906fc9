"""The equations and windows of a graph as a system of exponents.

Most equations say that two unknowns are the same. These are merged first, and what is 0 falls out,
so that a system has a column for what may differ, and no more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from halfsafe.exponents.system import CHANGE, MUL, Column, Cut, System, Tie, Wish
from halfsafe.graph import Graph, Kind, Use
from halfsafe.restriction import Restriction
from halfsafe.rules import Unknown, traits_of
from halfsafe.rules.solve import ZERO, Classes, Row, reads, stated
from halfsafe.windows import Window, Windows


class Program:
    """The equations and windows of one graph, ready to be solved with or without insertions."""

    def __init__(
        self, graph: Graph, windows: Windows, restriction: Restriction | None = None
    ) -> None:
        self.graph, self.windows, self.restriction = graph, windows, restriction
        self.laws = stated(graph)
        self.reads = reads(graph)
        self.reading = {use for use, _ in self.reads}

    def model(self, cuts: Mapping[Unknown, Unknown]) -> Model:
        """Everything that may not be cut is merged, and all else stated of what is left."""
        merged = Classes()
        for use, value in self.reads:
            if use not in cuts:
                merged.join(use, value)
        for name in self._rim():
            if name not in cuts:
                merged.join(name, ZERO)
        if self.restriction is not None:
            for group in self.restriction.together:
                for first, second in pairwise(group):
                    merged.join(first, second)
            for unknown in self.restriction.pinned:
                merged.join(unknown, ZERO)
        rest = merged.absorb(self.laws)
        model = Model(merged)
        for unknown, window in self.windows.items():
            if unknown in cuts or not self._is_read(unknown):
                model.window(unknown, window)
        self._add_changes(model)
        for terms in rest:
            model.equation(terms)
        for far, near in cuts.items():
            source = far if isinstance(far, str) else near
            model.cut(far, near, self.graph.values[str(source)].size)
        return model

    def _is_read(self, unknown: Unknown) -> bool:
        """Whether this is an activation where it is read; uncut, its window is the value's."""
        return isinstance(unknown, Use) and unknown in self.reading

    def _rim(self) -> list[str]:
        """Graph inputs and outputs: what the outside world sees, at exponent 0."""
        values = self.graph.values
        names = dict.fromkeys((*self.graph.inputs, *self.graph.outputs))
        return [name for name in names if values[name].floating]

    def cuts(self) -> dict[Unknown, Unknown]:
        """Where a Mul may go, far side to near side: at the graph's rim, and in front of operators
        through which an exponent does not simply pass (behind those, the next one's front does).
        """
        if self.restriction is not None and not self.restriction.inserts:
            return {}
        cuts: dict[Unknown, Unknown] = dict.fromkeys(self._rim(), ZERO)
        for use, value in self.reads:
            if not traits_of(self.graph.by_name[use.node]).passes:
                cuts[use] = value
        return cuts

    def _add_changes(self, model: Model) -> None:
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


class Model:
    """A system whose columns are the exponents of classes; what is 0 falls out."""

    def __init__(self, classes: Classes) -> None:
        self.classes = classes
        self.system = System()
        self.zero = Window()
        self._number: dict[Unknown, int] = {}

    def window(self, unknown: Unknown, window: Window) -> None:
        column = self._column(unknown)
        if column is None:
            self.zero &= window
        else:
            known = self.system.columns[column]
            self.system.columns[column] = Column(known.window & window, known.change)

    def zero_fits(self, wish: Wish) -> bool:
        """Whether what is pinned is within its windows."""
        low, high = Column(self.zero).hard(wish)
        return low <= 0 <= high

    def equation(self, row: Row) -> None:
        terms = tuple((self._number_of(root), f) for root, f in self.classes.terms(row).items())
        if terms:
            self.system.equations.append(terms)

    def cut(self, far: Unknown, near: Unknown, size: int) -> None:
        """far == near, unless a Mul over `size` elements is paid for."""
        a, b = self._column(far), self._column(near)
        if a is None:
            a, b = b, a
        if a is not None and a != b:
            self.system.cuts.append(Cut(a, b, MUL + size))

    def change(self, unknown: Unknown, weight: float) -> None:
        """Folding this unknown costs `weight` a bit."""
        column = self._column(unknown)
        if column is not None:
            known = self.system.columns[column]
            cost = known.change + round(weight * CHANGE)
            self.system.columns[column] = Column(known.window, cost)

    def difference(self, first: Unknown, second: Unknown, weight: float) -> None:
        """Storing two uses of a constant differently costs `weight` a bit."""
        a, b = self._column(first), self._column(second)
        if a is None or b is None:
            self.change(second if a is None else first, weight)
        elif a != b:
            self.system.ties.append(Tie(a, b, round(weight * CHANGE)))

    def read(self, exponents: Sequence[int]) -> dict[Unknown, int]:
        """Exponents of all unknowns by those of their classes."""
        found = {root: exponents[column] for root, column in self._number.items()}
        return {u: found.get(self.classes.find(u), 0) for u in self.classes.unknowns}

    def ends(self, far: Unknown, near: Unknown) -> set[int]:
        """The columns between which a cut is."""
        return {c for c in (self._column(far), self._column(near)) if c is not None}

    @property
    def unknowns(self) -> Sequence[Unknown]:
        """One that stands for each column."""
        return list(self._number)

    def _column(self, unknown: Unknown) -> int | None:
        """The column of an unknown's class; None for what is 0."""
        root = self.classes.find(unknown)
        return None if root == ZERO else self._number_of(root)

    def _number_of(self, root: Unknown) -> int:
        if root not in self._number:
            self._number[root] = len(self.system.columns)
            self.system.columns.append(Column())
        return self._number[root]
