"""What is known of each operator: its law and its traits, by name."""

from __future__ import annotations

from halfsafe.graph import Graph, Node
from halfsafe.rules.algebra import Equation, Law, Traits, Unknown, equations
from halfsafe.rules.aten import LAWS as ATEN
from halfsafe.rules.onnx import LAWS as ONNX

LAWS = {**ATEN, **ONNX}

__all__ = [
    "LAWS",
    "Equation",
    "Law",
    "Traits",
    "Unknown",
    "equations",
    "law_of",
    "traits_of",
    "unknown_ops",
]


def law_of(node: Node) -> Law | None:
    """The law of a node's operator, None if there is none."""
    return LAWS.get(node.op)


def traits_of(node: Node) -> Traits:
    """What a node's operator is like; one without a law has no traits."""
    law = law_of(node)
    return Traits() if law is None else law.traits


def unknown_ops(graph: Graph) -> list[str]:
    """Operators on floating values that have no law and are therefore pinned."""
    floating = (
        node
        for node in graph.nodes
        if any(graph.values[v].floating for v in (*node.inputs.values(), *node.outputs))
    )
    return sorted({node.op for node in floating if node.op not in LAWS})
