"""Which other forms are tried where exact rescaling alone cannot help, and what it could not do.

Gate forms keep the function and split an operator in two: a carrier, which may be stored at any
exponent, and a gate that saturates.
"""

from __future__ import annotations

from halfsafe.edits import Lower
from halfsafe.graph import Graph
from halfsafe.plan import Conflict
from halfsafe.windows import Windows

GATED = {
    "aten.silu": "silu",
    "aten.gelu": "gelu",
    "aten.hardswish": "hardswish",
    "aten.softmax": "softmax",
    "aten._softmax": "softmax",
    "HardSwish": "hardswish",
}
"""Forms for inputs and outputs that are too large or too small."""

CLIPPED = {
    "Elu": "elu",
    "Gelu": "gelu",
    "LogSoftmax": "log_softmax",
    "Mish": "mish",
    "Selu": "selu",
    "Softmax": "softmax",
    "Softplus": "softplus",
    "com.microsoft.BiasGelu": "gelu",
    "com.microsoft.FastGelu": "gelu",
    "com.microsoft.Gelu": "gelu",
}
"""Forms that clip what is too large, and so are not made of their own operators again."""


def gate_forms(graph: Graph, windows: Windows) -> list[Lower]:
    """Pinned operators that have a gate form, and an input or output that cannot stay at 0."""
    found: list[Lower] = []
    for node in graph.nodes:
        near = [windows[v] for v in (*node.inputs.values(), *node.outputs) if v in windows]
        large, small = any(w.least > 0 for w in near), any(w.high < 0 for w in near)
        forms = (GATED if large or small else {}) | (CLIPPED if large else {})
        if node.op in forms:
            found.append(Lower(node.name, forms[node.op]))
    return found


def describe(graph: Graph, conflict: Conflict) -> str:
    """A conflict in words: the value, the exponent that it needs, and what pins it."""
    unknown = conflict.unknown
    what = graph.describe(unknown) if isinstance(unknown, str) else f"operand {unknown}"
    return f"{what} {conflict.needs}, but {conflict.pinned_by} pins it to {conflict.exponent}"
