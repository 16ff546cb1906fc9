"""What an operator's outputs are like, whatever comes in."""

from __future__ import annotations

from halfsafe.graph import Graph

BOUNDED = frozenset(
    """
    aten.sigmoid aten.softmax aten._softmax aten.tanh aten.erf aten.sin aten.cos aten.hardsigmoid
    Sigmoid Softmax Tanh Erf Sin Cos HardSigmoid Hardmax com.microsoft.BiasSoftmax
    """.split()
)
"""Operators whose outputs lie between -1 and 1: an entry near 0 is small beside that."""


def natural_scale(graph: Graph, output: str) -> float:
    """1.0 for a value that is bounded by 1 whatever comes in, also when its entries have been moved
    since; 0.0 for any other, which has no scale but its own.
    """
    node = graph.producers.get(output)
    while node is not None and node.moves:
        node = graph.producers.get(next(iter(node.inputs.values())))
    return 1.0 if node is not None and node.op in BOUNDED else 0.0
