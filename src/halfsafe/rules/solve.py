"""Solves what the laws state: which exponents are one, which are fixed, and some that satisfy all.

Whoever needs exponents asks here: the planner, a region that is carried by hand, and the tests,
which draw them. A system is a list of rows, and a row says that sum(factor * exponent) == 0.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from halfsafe.graph import Graph, Kind, Node, Use
from halfsafe.integer_program import IntegerProgram
from halfsafe.restriction import Restriction
from halfsafe.rules import Unknown, equations, law_of

Row = Mapping[Unknown, int]

REACH = 120
"""No exponent beyond this is ever considered: FP32 has 127 binades on either side of 1."""

ZERO: Unknown = "0"
"""Stands for the exponent 0 among unknowns."""

COMPUTED = (Kind.INPUT, Kind.ACTIVATION)
"""Values of one exponent, whoever reads them; each use of a constant has an exponent of its own."""


def stated(graph: Graph) -> list[Row]:
    """What the laws of all nodes state."""
    return [e.terms for node in graph.nodes for e in equations(graph, node, law_of(node))]


def reads(graph: Graph, kinds: Collection[Kind] = COMPUTED) -> list[tuple[Use, str]]:
    """Where floating values of these kinds are read, with the values: k[use] == k[value]."""
    return [
        (Use(node.name, operand), value)
        for node in graph.nodes
        for operand, value in node.inputs.items()
        if graph.values[value].floating and graph.values[value].kind in kinds
    ]


# What follows


class Classes:
    """Unknowns that are equal, merged one pair or one system at a time; the class of ZERO is 0."""

    def __init__(self) -> None:
        self._above: dict[Unknown, Unknown] = {ZERO: ZERO}

    @property
    def unknowns(self) -> list[Unknown]:
        """All that have been seen."""
        return list(self._above)

    def find(self, unknown: Unknown) -> Unknown:
        """The one that stands for all that equal this."""
        above = self._above
        root = above.setdefault(unknown, unknown)
        if root == unknown or above[root] == root:
            return root
        while (further := above[root]) != root:
            root = further
        while above[unknown] != root:
            above[unknown], unknown = root, above[unknown]
        return root

    def join(self, first: Unknown, second: Unknown) -> None:
        """States that two are equal."""
        a, b = self.find(first), self.find(second)
        if a != b:
            a, b = (b, a) if a == ZERO else (a, b)
            self._above[a] = b

    def terms(self, row: Row) -> dict[Unknown, int]:
        """A row over classes, of which the one that is 0 falls out."""
        found: dict[Unknown, int] = defaultdict(int)
        for unknown, factor in row.items():
            found[self.find(unknown)] += factor
        return {root: factor for root, factor in found.items() if factor and root != ZERO}

    def absorb(self, rows: Iterable[Row]) -> list[Row]:
        """Joins by all rows that amount to k == 0 or a == b; returns the rest, over classes."""
        pending = list(rows)
        while True:
            rest: list[Row] = []
            for row in pending:
                left = self.terms(row)
                if len(left) == 1:
                    self.join(next(iter(left)), ZERO)
                elif len(left) == 2 and sum(left.values()) == 0:
                    self.join(*left)
                elif left:
                    rest.append(left)
            if len(rest) == len(pending):
                return rest
            pending = rest


def propagated(
    rows: Iterable[Row], known: Mapping[Unknown, int]
) -> tuple[dict[Unknown, int], list[Row]] | None:
    """All exponents that follow one by one from those that are known, and the rows that are left.

    None where a row cannot hold.

    >>> propagated([{"y": 1, "x": -1, "w": -1}, {"eps": 1, "x": -2}], {"x": 3, "y": 0})
    ({'x': 3, 'y': 0, 'w': -3, 'eps': 6}, [])
    >>> propagated([{"y": 2, "x": -1}], {"x": 3})
    """
    found, pending = dict(known), list(rows)
    while True:
        rest: list[Row] = []
        for row in pending:
            left = [unknown for unknown in row if unknown not in found]
            side = -sum(factor * found[u] for u, factor in row.items() if u in found)
            if len(left) > 1:
                rest.append(row)
            elif side % row[left[0]] if left else side:
                return None
            elif left:
                found[left[0]] = side // row[left[0]]
        if len(rest) == len(pending):
            return found, rest
        pending = rest


def rank(rows: Sequence[Row]) -> int:
    """How many of the rows do not follow from the others."""
    columns = dict.fromkeys(unknown for row in rows for unknown in row)
    if not columns:
        return 0
    return int(np.linalg.matrix_rank(np.array([[row.get(c, 0) for c in columns] for row in rows])))


def is_pinned(rows: Sequence[Row], unknown: Unknown) -> bool:
    """Whether the rows leave an exponent nothing but 0."""
    return rank([*rows, {unknown: 1}]) == rank(rows)


class Pins:
    """What pins the exponents of a graph, for as many questions as there are."""

    def __init__(self, graph: Graph, restriction: Restriction | None = None) -> None:
        known = restriction or Restriction()
        self._graph, self._held = graph, known.pinned
        self._rim = {*graph.inputs, *graph.outputs}
        self._tied = {one: group for group in known.together for one in group}
        self._touching: dict[Unknown, list[tuple[Node, Row]]] = {}
        for node in graph.nodes:
            for equation in equations(graph, node, law_of(node)):
                for unknown in equation.terms:
                    self._touching.setdefault(unknown, []).append((node, equation.terms))

    def nearest(self, start: Unknown) -> str:
        """What pins an unknown, the fewest rows away: a node's operand, or the graph's rim."""
        seen, pending = {start}, deque([start])
        while pending:
            unknown = pending.popleft()
            if unknown in self._rim:
                return f"the graph's own input or output {unknown}"
            if unknown in self._held:
                return self._held[unknown]
            found: list[Unknown] = [
                *_same_value(self._graph, unknown),
                *self._tied.get(unknown, ()),
            ]
            for node, terms in self._touching.get(unknown, ()):
                if len(terms) == 1:
                    return str(node)
                found += terms
            new = [u for u in dict.fromkeys(found) if u not in seen]
            seen.update(new)
            pending.extend(new)
        return "the range of FP32"


def _same_value(graph: Graph, unknown: Unknown) -> list[Unknown]:
    """A value where it is read, and an operand where its value is made."""
    if isinstance(unknown, str):
        return [*graph.consumers.get(unknown, ())]
    if isinstance(unknown, Use):
        value = graph.by_name[unknown.node].inputs[unknown.operand]
        return [value] if graph.values[value].kind in COMPUTED else []
    return []


# Solutions


def least(
    rows: Iterable[Row],
    known: Mapping[Unknown, int],
    *,
    reach: int = REACH,
    small: Collection[Unknown] | None = None,
) -> dict[Unknown, int] | None:
    """Integer exponents, some of them known, whose magnitudes have the smallest sum.

    `small` are those that count in the sum, by default all. None where no exponents of magnitudes
    up to `reach` satisfy the rows.

    >>> least([{"y": 1, "a": -1, "b": -1}, {"b": 1, "half": -2}], {"y": 3}, reach=9)
    {'y': 3, 'a': 3, 'b': 0, 'half': 0}
    """
    followed = propagated(rows, known)
    if followed is None:
        return None
    found, rest = followed
    program, columns = _program(rest, found, reach)
    for unknown, column in columns.items():
        if small is None or unknown in small:
            program.magnitude({column: 1.0}, 1.0)
    solution = program.solve() if columns else ()
    if solution is None:
        return None
    found |= {unknown: round(float(solution[i])) for unknown, i in columns.items()}
    return found if all(abs(k) <= reach for k in found.values()) else None


def drawn(
    rows: Sequence[Row], unknowns: Iterable[Unknown] = (), *, reach: int, seed: int
) -> dict[Unknown, int]:
    """Random integer exponents, as far from 0 as a random direction and `reach` allow.

    `unknowns` are such as no row may mention.
    """
    everything = sorted({*unknowns, *(unknown for row in rows for unknown in row)}, key=repr)
    direction = np.random.default_rng(seed).normal(size=len(everything))
    costs = dict(zip(everything, map(float, direction), strict=True))
    program, columns = _program(rows, {}, reach, costs)
    solution = program.solve() if columns else ()
    assert solution is not None, "0 satisfies all rows"
    return {unknown: round(float(solution[i])) for unknown, i in columns.items()}


def _program(
    rows: Iterable[Row],
    known: Mapping[Unknown, int],
    reach: int,
    costs: Mapping[Unknown, float] | None = None,
) -> tuple[IntegerProgram, dict[Unknown, int]]:
    """The rows over what is not known, as an integer program, and the column of each unknown."""
    program, rows, costs = IntegerProgram(free=0), list(rows), costs or {}
    left = dict.fromkeys([*costs, *(u for row in rows for u in row if u not in known)])
    columns = {u: program.integer(-reach, reach, costs.get(u, 0.0)) for u in left}
    for row in rows:
        side = -sum(factor * known[u] for u, factor in row.items() if u in known)
        terms = {columns[u]: float(factor) for u, factor in row.items() if u in columns}
        program.row(terms, side, side)
    return program, columns
