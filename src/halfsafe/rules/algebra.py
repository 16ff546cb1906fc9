"""Linear equations over integer exponents: the language in which rules are written.

A rule is a function of an `Exponents`, which stands for one node: ``k["weight"]`` is the exponent
of the operand named weight, ``k.out`` that of the output. It returns equations such as
``k.out == k["input"] + k["weight"]``. A value is stored as ``real * 2**-k``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from halfsafe.errors import BadInput
from halfsafe.graph import Graph, Node, Use


class Auxiliary(NamedTuple):
    """A whole number of a rule's own, which no value has; never equal to a Use."""

    node: str
    name: str
    of: str = "rule"


Unknown = str | Use | Auxiliary
"""A value as it is made (by name), an operand as it is read, or a rule's own auxiliary integer."""


@dataclass(frozen=True, eq=False)
class Linear:
    """An integer combination of exponents; `absent` marks an operand the node does not have."""

    terms: Mapping[Unknown, int] = field(default_factory=dict[Unknown, int])
    absent: bool = False

    def __add__(self, other: Linear) -> Linear:
        terms = dict(self.terms)
        for unknown, factor in other.terms.items():
            terms[unknown] = terms.get(unknown, 0) + factor
        return Linear({u: f for u, f in terms.items() if f}, self.absent or other.absent)

    def __rmul__(self, factor: int) -> Linear:
        if int(factor) != factor:
            raise BadInput(f"{factor} times an exponent: multiply the other side, by an integer")
        return Linear({u: factor * f for u, f in self.terms.items() if factor}, self.absent)

    def __neg__(self) -> Linear:
        return -1 * self

    def __sub__(self, other: Linear) -> Linear:
        return self + -other

    def __eq__(self, other: Linear | int) -> Equation:  # pyright: ignore[reportIncompatibleMethodOverride]
        """States an equation; the only number that a homogeneous law needs is 0."""
        if isinstance(other, int):
            if other:
                raise BadInput(f"an exponent that is {other}: the only number in a law is 0")
            other = Linear()
        difference = self - other
        seen = frozenset(self.terms) | frozenset(other.terms)
        return Equation({} if difference.absent else difference.terms, seen)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class Equation:
    """sum(factor * exponent) == 0. `mentions` are the unknowns the law speaks of."""

    terms: Mapping[Unknown, int]
    mentions: frozenset[Unknown]

    def __str__(self) -> str:
        def side(sign: int) -> str:
            parts = [
                f"{abs(f) if abs(f) > 1 else ''}k[{u}]"
                for u, f in self.terms.items()
                if f * sign > 0
            ]
            return " + ".join(parts) or "0"

        return f"{side(1)} == {side(-1)}"


class Exponents:
    """The exponents of one node's operands and outputs, for a rule to relate.

    A `strict` one asks a rule to name no operand that the node does not have: in a law that nobody
    has tested, a misspelt one would void an equation, and leave free what it should tie.
    """

    def __init__(self, graph: Graph, node: Node, *, strict: bool = False) -> None:
        self._graph, self._node, self._strict = graph, node, strict
        self.attributes = node.attributes

    def __getitem__(self, operand: str) -> Linear:
        """The exponent of an operand. Without the operand, equations that mention it are void."""
        if operand not in self._node.inputs:
            if self._strict:
                known = ", ".join(f"'{name}'" for name in self._node.inputs)
                raise BadInput(
                    f"the law of {self._node.op} names '{operand}', and {self._node} has {known}: "
                    f"ask for what may be absent by k.all('{operand}') or k.gain('{operand}')"
                )
            return Linear(absent=True)
        return self._operand(operand)

    def gain(self, operand: str) -> Linear:
        """The exponent of an optional factor: 0 when it is absent, since it is then 1."""
        return self._operand(operand) if operand in self._node.inputs else Linear()

    def all(self, *operands: str) -> list[Linear]:
        """The operands of these names that are there, in the operator's order."""
        return [self._operand(key) for key in self._node.inputs if key in operands]

    def all_but(self, *operands: str) -> list[Linear]:
        """All operands, tensors and numbers alike, except those of these names."""
        inputs = self._node.inputs
        return [self._operand(key) for key in inputs if key.partition(".")[0] not in operands]

    @property
    def tensors(self) -> list[Linear]:
        """All operands that are tensors, in order; integer ones have exponent 0."""
        inputs = self._node.inputs
        return [self._operand(key) for key in inputs if self.number(key) is None]

    @property
    def out(self) -> Linear:
        return self.value(self._node.outputs[0])

    @property
    def outs(self) -> list[Linear]:
        return [self.value(name) for name in self._node.outputs]

    def number(self, operand: str) -> float | None:
        """The numeric value of a literal operand."""
        value = self._node.inputs.get(operand)
        return None if value is None else self._graph.values[value].number

    def integer(self, name: str) -> Linear:
        """A fresh integer unknown, to express parity."""
        return Linear({Auxiliary(self._node.name, name): 1})

    def free(self, *exponents: Linear) -> list[Equation]:
        """States that these exponents are under no condition."""
        return [Equation({}, frozenset(e.terms)) for e in exponents]

    def _operand(self, operand: str) -> Linear:
        value = self._graph.values[self._node.inputs[operand]]
        if not value.floating:
            return Linear()
        return Linear({Use(self._node.name, operand): 1})

    def value(self, name: str) -> Linear:
        """The exponent at which a value is made, anywhere in the graph."""
        return Linear({name: 1}) if self._graph.values[name].floating else Linear()


Rule = Callable[[Exponents], Iterable[Equation]]


@dataclass(frozen=True, slots=True)
class Traits:
    """What the planner wants to know of an operator beside its equations.

    `moves`: its output's entries are its first operand's, moved, copied or cast.
    `passes`: the output has its first operand's exponent, whatever that is.
    `saturates`: the function is constant beyond 2**14, so its input may be clipped there.
    `masks`: a number beyond the format may be a mask here: filled in, added, or a factor.
    `absorbs`: entries far below the largest come out as 0, so that masks end here.
    `floors`: a small positive number among its operands keeps the output from 0.
    `inverts`: it stores 1 / x, so that a small x makes it infinite.
    `relative`: operands whose entries matter each by themselves (divisors, variances).
    `addends`: operands that are added to something of the same exponent, so that what they lose to
    subnormal steps is no more than the sum loses when it is rounded.
    """

    moves: bool = False
    passes: bool = False
    saturates: bool = False
    masks: bool = False
    absorbs: bool = False
    floors: bool = False
    inverts: bool = False
    relative: tuple[str, ...] = ()
    addends: tuple[str, ...] = ()

    @property
    def carries_masks(self) -> bool:
        """Whether a mask among its operands is one in its output as well."""
        return self.masks or self.passes


@dataclass(frozen=True, slots=True)
class Law:
    """A rule, with what else an operator is like; `strict` if the rule is not one of our own."""

    rule: Rule
    traits: Traits = Traits()
    strict: bool = False

    @property
    def family(self) -> str:
        return self.rule.__name__


def equations(graph: Graph, node: Node, law: Law | None) -> list[Equation]:
    """A node's equations. Floating operands and outputs that its rule leaves out are pinned."""
    k = Exponents(graph, node, strict=law is not None and law.strict)
    if not any(graph.values[v].floating for v in (*node.inputs.values(), *node.outputs)):
        return []
    found = _stated(node, law, k) if law else []
    mentioned = {u for equation in found for u in equation.mentions}
    everything = [k[operand] for operand in node.inputs] + k.outs
    unmentioned = {u for exponent in everything for u in exponent.terms} - mentioned
    pins = [Equation({u: 1}, frozenset([u])) for u in sorted(unmentioned, key=str)]
    return [e for e in found if e.terms] + pins


def _stated(node: Node, law: Law, k: Exponents) -> list[Equation]:
    """What a rule gives. Raises BadInput for anything but equations."""
    found = cast("object", law.rule(k))
    listed = [*cast("Iterable[object]", found)] if isinstance(found, Iterable) else [found]
    stated = [x for x in listed if isinstance(x, Equation)]
    if len(stated) < len(listed):
        raise BadInput(f"the law of {node.op} gives {found!r}: return a list of equations")
    return stated
