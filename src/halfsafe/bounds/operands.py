"""What a family of bounds sees of one operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from halfsafe.bounds.bound import Bound
from halfsafe.bounds.gains import Array
from halfsafe.bounds.sharpening import Gains
from halfsafe.graph import Graph, Node


class Computed(Exception):
    """An operand that a bound needs as a constant depends on the input."""


class Operands:
    """The bounds of an operator's operands by name, constants as they are, and its attributes."""

    def __init__(
        self,
        graph: Graph,
        node: Node,
        bounds: Callable[[str], Bound],
        known: Callable[[str], Array],
        is_fixed: Callable[[str], bool],
        run: Callable[[str, Mapping[str, Array]], Sequence[Array]],
        *,
        has_pictures: bool = False,
        gains: Gains | None = None,
    ) -> None:
        self._graph, self._node = graph, node
        self._bounds, self._known, self._is_fixed, self._run = bounds, known, is_fixed, run
        self.attributes: Mapping[str, Any] = node.attributes
        self.name, self.op = str(node), node.op
        self.has_pictures = has_pictures
        self.gain_of = partial((gains or Gains()).of, node.name)

    def __getitem__(self, operand: str) -> Bound:
        return self._bounds(self._node.inputs[operand])

    def __contains__(self, operand: str) -> bool:
        return operand in self._node.inputs

    @property
    def is_read(self) -> bool:
        """Whether any operator reads the first output."""
        return bool(self._graph.consumers[self._node.outputs[0]])

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first output."""
        return self._graph.values[self._node.outputs[0]].shape

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of all outputs."""
        return [self._graph.values[name].shape for name in self._node.outputs]

    @property
    def makes_floats(self) -> list[bool]:
        """Of all outputs, whether they are floating numbers."""
        return [self._graph.values[name].floating for name in self._node.outputs]

    @property
    def floating(self) -> list[str]:
        """The names of operands that are tensors of floating numbers."""
        values, given = self._graph.values, self._node.inputs
        return [n for n, v in given.items() if values[v].floating and values[v].number is None]

    @property
    def _tensors(self) -> list[str]:
        values = self._graph.values
        return [v for v in self._node.inputs.values() if values[v].number is None]

    @property
    def first(self) -> Bound:
        """The first operand."""
        return self._bounds(self._tensors[0])

    @property
    def tensors(self) -> list[Bound]:
        """All operands that are tensors, in order."""
        return [self._bounds(value) for value in self._tensors]

    @property
    def every(self) -> list[Bound]:
        """All operands, numbers as well, in order."""
        return [self._bounds(value) for value in self._node.inputs.values()]

    @property
    def whole(self) -> list[Bound]:
        """All operands of whole numbers."""
        values = self._graph.values
        return [self._bounds(v) for v in self._node.inputs.values() if not values[v].floating]

    @property
    def every_floating(self) -> list[Bound]:
        """All operands of floating numbers, those written into the code as well."""
        values = self._graph.values
        return [self._bounds(v) for v in self._node.inputs.values() if values[v].floating]

    def is_known(self, operand: str) -> bool:
        """Whether an operand is there, and depends on no input."""
        value = self._node.inputs.get(operand)
        return value is not None and self._is_fixed(value)

    def constant(self, operand: str) -> Array:
        """The entries of an operand that depends on no input. Raises Computed for others."""
        found = self.known(operand)
        if found is None:
            raise Computed(f"{self.name}, which has no {operand}")
        return found

    def known(self, operand: str) -> Array | None:
        """The same, None where the operand is absent."""
        if operand not in self._node.inputs:
            return None
        if not self.is_known(operand):
            raise Computed(f"{self.name}, whose {operand} is computed")
        return self._known(self._node.inputs[operand])

    def nearly(self, operand: str) -> tuple[Array, Array] | None:
        """The middle of an operand's entries, and how far from it they may be; None where it is
        absent. Raises Computed for one of which nothing is known."""
        if operand not in self or self.is_known(operand):
            entries = self.known(operand)
            return None if entries is None else (entries, np.zeros(1))
        bound = self[operand]
        if not bound.is_finite:
            raise Computed(bound.lost or f"{self.name}, whose {operand} is computed")
        low, high = bound.expanded()
        return (low + high) / 2, (high - low) / 2

    def number(self, operand: str) -> float | None:
        """A number written into the code, as operand or attribute."""
        value = self._node.inputs.get(operand)
        if value is None:
            found = self.attributes.get(operand)
            return float(found) if isinstance(found, (int, float)) else None
        number = self._graph.values[value].number
        if number is None and self._is_fixed(value) and self._graph.values[value].size == 1:
            return float(self._known(value).ravel()[0])
        return number

    def run(self, arrays: Mapping[str, Array]) -> list[Array] | None:
        """The operator itself, on other tensors in place of some operands; None where the others
        are not known."""
        given: dict[str, Array] = {}
        for operand, value in self._node.inputs.items():
            if self._graph.values[value].number is None:
                if operand not in arrays and not self._is_fixed(value):
                    return None
                given[value] = arrays[operand] if operand in arrays else self._known(value)
        try:
            return list(self._run(self._node.name, given))
        except Exception:  # whatever a kernel raises of types that it does not take
            return None
