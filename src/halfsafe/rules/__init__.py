"""What is known of each operator: its law, by name."""

from __future__ import annotations

from halfsafe.graph import Graph, Node
from halfsafe.rules.algebra import Equation, Law, Unknown, equations
from halfsafe.rules.aten import LAWS as ATEN
from halfsafe.rules.onnx import LAWS as ONNX

LAWS = {**ATEN, **ONNX}

__all__ = ["LAWS", "Equation", "Law", "Unknown", "equations", "law_of", "unknown_ops"]


def law_of(node: Node) -> Law | None:
    """The law of a node's operator, None if there is none."""
    return LAWS.get(node.op)


def unknown_ops(graph: Graph) -> list[str]:
    """Operators on floating values that have no law and are therefore pinned."""
    floating = (
        node
        for node in graph.nodes
        if any(graph.values[v].floating for v in (*node.inputs.values(), *node.outputs))
    )
    return sorted({node.op for node in floating if node.op not in LAWS})
