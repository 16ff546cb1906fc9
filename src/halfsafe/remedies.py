"""What is done where exact rescaling alone cannot help: other forms, and replaced constants.

Gate forms keep the function and split an operator in two: a carrier, which may be stored at any
exponent, and a gate that saturates. Replacements change the function and are listed apart.
"""

from __future__ import annotations

from halfsafe.edits import Lower, Replace
from halfsafe.formats import FLOAT16, FloatFormat
from halfsafe.graph import Graph, Node, Use
from halfsafe.plan import Plan
from halfsafe.ranges import Ranges
from halfsafe.rules import law_of
from halfsafe.windows import Windows

MASK_FILL = 1.0e4
"""Far enough below any score for exp to give 0 in FP32, and small enough to survive adding masks."""

GATED = {
    "aten.silu": "silu",
    "aten.gelu": "gelu",
    "aten.hardswish": "hardswish",
    "aten.softmax": "softmax",
    "aten._softmax": "softmax",
}


def gate_forms(graph: Graph, windows: Windows) -> list[Lower]:
    """Pinned operators that have a gate form, and an input or output that cannot stay at 0."""
    found: list[Lower] = []
    for node in graph.nodes:
        near = [windows.get(v) for v in (*node.inputs.values(), *node.outputs)]
        if node.op in GATED and any(w and not w.least <= 0 <= w.high for w in near):
            found.append(Lower(node.name, GATED[node.op]))
    return found


def sentinels(graph: Graph, constants: Ranges, fmt: FloatFormat = FLOAT16) -> list[Replace]:
    """Numbers beyond the format that only ever mask: everything they reach ends in a softmax.

    `constants` are the ranges of constants and literals.
    """
    found: list[Replace] = []
    for node in graph.nodes:
        for operand, value in node.inputs.items():
            size = constants[value].amax if value in constants else 0.0
            if size <= fmt.max or not any(graph.values[o].bounded for o in node.outputs):
                continue
            if _only_masks(graph, node):
                number = graph.values[value].number
                fill = MASK_FILL if number is not None and number > 0 else -MASK_FILL
                why = f"a mask of {size:.3g} is beyond {fmt.name}, exp(-{MASK_FILL:.0f}) is 0 as well"
                found.append(Replace(Use(node.name, operand), number or -size, fill, why))
    return found


def floors(
    graph: Graph, plan: Plan, ranges: Ranges, fmt: FloatFormat = FLOAT16
) -> list[Replace]:
    """Positive lower limits that vanish as they would be stored, where samples do reach them."""
    found: list[Replace] = []
    for node in graph.nodes:
        for operand, value in node.inputs.items():
            number = graph.values[value].number
            law = law_of(node)
            if number is None or number <= 0 or not law or law.family not in ("total", "aligned"):
                continue
            (output,) = node.outputs[:1]
            k = plan.exponents.get(output, 0)
            reached = ranges[output].smallest if output in ranges else float("inf")
            vanishes = reached * 2.0**-k <= fmt.smallest_subnormal / 2
            divides = any(_divides(graph, use) for use in graph.consumers[output])
            if graph.values[output].bounded and number <= reached and vanishes and divides:
                new = fmt.smallest_normal * 2.0**k
                why = f"{number:.3g} is stored as 0 in {fmt.name}, and something is divided by it"
                found.append(Replace(Use(node.name, operand), number, new, why))
    return found


def _divides(graph: Graph, use: Use) -> bool:
    law = law_of(graph.by_name[use.node])
    return law is not None and use.operand in law.relative


_SOFTMAX = ("aten.softmax", "aten._softmax", "aten.log_softmax", "aten._log_softmax")
_CARRIES = ("movement", "aligned", "total", "homogeneous", "product", "fill")


def _only_masks(graph: Graph, start: Node) -> bool:
    """Whether every path from a node's output ends in a softmax or in an attention mask."""
    seen: set[str] = set()
    pending = [start]
    masks = False
    while pending:
        node = pending.pop()
        if node.name in seen:
            continue
        seen.add(node.name)
        for output in node.outputs:
            if output in graph.outputs:
                return False
            for use in graph.consumers[output]:
                consumer = graph.by_name[use.node]
                law = law_of(consumer)
                if consumer.op in _SOFTMAX or use.operand == "attn_mask":
                    masks = True
                elif law is not None and law.family in _CARRIES:
                    pending.append(consumer)
                elif any(graph.values[o].floating for o in consumer.outputs):
                    return False
    return masks
