"""Which other forms are tried where exact rescaling alone cannot help, and what it could not do.

Gate forms keep the function and split an operator in two: a carrier, which may be stored at any
exponent, and a gate that saturates.
"""

from __future__ import annotations

from halfsafe.edits import Lower
from halfsafe.forms import FORM_OF
from halfsafe.graph import Graph, Node
from halfsafe.plan import Conflict
from halfsafe.rules import law_of
from halfsafe.rules.algebra import Exponents
from halfsafe.windows import Limits, Windows

SMALL = frozenset("aten.silu aten.gelu aten.hardswish aten.mish onnx.HardSwish".split())
"""Operators whose forms serve values that are too small as well. In ONNX the bounds of a clip are
numbers that FP16 stores, so that there a form that clips takes no exponent far below 0."""


def gate_forms(graph: Graph, windows: Windows, limits: Limits) -> list[Lower]:
    """Pinned operators that have a gate form, and an input or output that cannot stay at 0: not on
    these samples, or not with its bound."""
    found: list[Lower] = []
    for node in graph.nodes:
        form = FORM_OF.get(node.op)
        if form is None or not _is_pinned(graph, node):
            continue
        near = {v: windows[v] for v in (*node.inputs.values(), *node.outputs) if v in windows}
        large = any(w.least > 0 or (v in limits.bounds and w.low > 0) for v, w in near.items())
        small = any(w.high < 0 for w in near.values())
        if large or (small and node.op in SMALL):
            found.append(Lower(node.name, form))
    return found


def _is_pinned(graph: Graph, node: Node) -> bool:
    """Whether no law takes a power of two through a node, as one does through ATen's ELU."""
    law = law_of(node)
    return law is None or not list(law.rule(Exponents(graph, node)))


def describe(graph: Graph, conflict: Conflict) -> str:
    """A conflict in words: the value, the exponent that it needs, and what pins it."""
    unknown = conflict.unknown
    what = graph.describe(unknown) if isinstance(unknown, str) else f"operand {unknown}"
    return f"{what} {conflict.needs}, but {conflict.pinned_by} pins it to {conflict.exponent}"
