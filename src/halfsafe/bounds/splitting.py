"""Cuts the interval of an input of few entries into pieces, and bounds what depends on it alone.

A position, a time or a coordinate goes through many functions, each of which is bounded for all
that its operand may be; together they cannot be at their ends at once. Of each piece less is lost
so, of n of them about an n-th part, and every value lies in the hull of what the pieces say. What
depends on other inputs as well is not gone through piece by piece: it is bounded with that hull.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise, product

import numpy as np

from halfsafe.bounds.bound import Bound, hull
from halfsafe.bounds.gains import Array
from halfsafe.bounds.interpreter import Constants, Interpreter
from halfsafe.bounds.rounding import in_half
from halfsafe.graph import Graph

FEW = 3
"""Entries of an input that is cut, at most: all of them are, which makes products of pieces."""

PIECES = 256
"""How many there are of an input, at most."""


@dataclass(frozen=True)
class _Part:
    """A network with fewer operators."""

    whole: Constants
    graph: Graph

    def array(self, constant: str) -> Array:
        return self.whole.array(constant)

    def run_node(self, node: str, values: Mapping[str, Array]) -> list[Array]:
        return list(self.whole.run_node(node, values))


def that_can_be_cut(domain: Mapping[str, Bound]) -> list[str]:
    """Inputs of few entries, between ends that differ."""
    return [
        name
        for name, bound in domain.items()
        if 0 < np.prod(bound.shape) <= FEW
        and bound.is_finite
        and float(bound.low.min()) < float(bound.high.max())
    ]


def hulls(
    network: Constants, domain: Mapping[str, Bound], name: str, cuts: int
) -> dict[str, Bound]:
    """Of what depends on one input alone: what pieces of it, `cuts` along each entry, say together.
    The walk is over those operators alone."""
    part = _Part(network, _depending(network.graph, name))
    half = network.graph.values[name].floating and network.graph.values[name].bounded
    found: dict[str, Bound] = {}
    for piece in _pieces(domain[name], cuts, half=half):
        made = Interpreter(part, {name: piece}).walk()
        found = {
            n: hull([found[n], b], b.shape) if n in found else b.plain() for n, b in made.items()
        }
    return {n: replace(b, by="pieces") for n, b in found.items() if n != name and b.is_finite}


def _depending(graph: Graph, name: str) -> Graph:
    """The operators that read an input and no other, and those of constants that they need."""
    others, own = set(graph.inputs) - {name}, {name}
    for node in graph.nodes:
        read = set(node.inputs.values())
        if read & others:
            others.update(node.outputs)
        elif read & own:
            own.update(node.outputs)
    needed = set(own)
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs):
            needed.update(node.inputs.values())
    nodes = tuple(n for n in graph.nodes if needed.intersection(n.outputs))
    return replace(graph, nodes=nodes, inputs=(name,))


def _pieces(bound: Bound, cuts: int, *, half: bool) -> Iterator[Bound]:
    """Boxes that cover an input; `half` as FP16 stores them: entries in one are rounded to nothing
    beyond its own ends as they are rounded."""
    low, high = (end.ravel() for end in bound.expanded())
    edges: list[list[float]] = np.linspace(low, high, cuts + 1, axis=1).tolist()
    for corners in product(*(list(pairwise(along)) for along in edges)):
        ends: Array = np.array(corners).T
        if half:
            stored = in_half(ends)
            ends = np.array([np.minimum(ends, stored)[0], np.maximum(ends, stored)[1]])
        yield Bound.between(bound.shape, *(end.reshape(bound.shape) for end in ends), by="domain")
