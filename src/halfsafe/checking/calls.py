"""An operator with what is known of its operands."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from halfsafe.checking.known import Array, Known, V, nothing
from halfsafe.graph import Graph, Node
from halfsafe.source import Source


class Walk(Protocol):
    """What is known of values so far."""

    source: Source
    graph: Graph
    refined: frozenset[str]

    def __getitem__(self, value: str) -> Known: ...

    def array(self, value: str) -> Array:
        """The entries of what depends on no input."""
        ...

    def is_fixed(self, value: str) -> bool:
        """Whether a value depends on no input."""
        ...


class Call:
    """One operator with what is known of its operands."""

    def __init__(self, walk: Walk, node: Node) -> None:
        self.walk, self.node, self.graph = walk, node, walk.graph
        self.refined = node.name in walk.refined
        self.given = node.inputs
        self.shape = self.graph.values[node.outputs[0]].shape
        self.tensors = [v for v in self.given.values() if self.graph.values[v].number is None]

    def __getitem__(self, operand: str) -> Known:
        return self.walk[self.given[operand]]

    @property
    def first(self) -> Known:
        return self.walk[self.tensors[0]]

    def array(self, operand: str) -> Array | None:
        """A constant operand; None where there is none, or it is computed from inputs."""
        value = self.given.get(operand)
        return self.walk.array(value) if value is not None and self.walk.is_fixed(value) else None

    def number(self, operand: str) -> float | None:
        value = self.given.get(operand)
        if value is None:
            found = self.node.attributes.get(operand)
            return float(found) if isinstance(found, (int, float)) else None
        number = self.graph.values[value].number
        if number is not None:
            return float(number)
        one = self.graph.values[value].size == 1 and self.walk.is_fixed(value)
        return float(self.walk.array(value).ravel()[0]) if one else None

    def computes(self, *operands: str) -> bool:
        """Whether any of these depends on an input."""
        return any(n in self.given and not self.walk.is_fixed(self.given[n]) for n in operands)

    def unknown(self) -> Known:
        bounds = [self.walk[v] for v in self.tensors]
        lost = next((b.lost for b in bounds if b.lost and not np.isfinite(b.amax)), "")
        return nothing(self.shape, lost or f"{self.node}, of which no rule is known")

    def axes(self) -> tuple[int, ...]:
        given: Any = self.node.attributes.get("dim", self.node.attributes.get("axes"))
        if given is None and "axes" in self.given:
            given = self.array("axes")
        rank = len(self.first.shape)
        found = () if given is None else tuple(int(a) % rank for a in np.ravel(given) if rank)
        if not found and self.node.attributes.get("noop_with_empty_axes"):
            return ()
        return found or tuple(range(rank))


def sums(n: int) -> float:
    """By how much a sum of n products in FP32 is off, of their magnitudes."""
    return n * V / (1 - n * V)
