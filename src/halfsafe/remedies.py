"""What is done where exact rescaling alone cannot help: other forms, and replaced constants.

Gate forms keep the function and split an operator in two: a carrier, which may be stored at any
exponent, and a gate that saturates. Replacements change the function and are listed apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from halfsafe.edits import Edit, Island, Lower, Replace
from halfsafe.formats import FLOAT16, FloatFormat
from halfsafe.graph import Graph, Node, Use
from halfsafe.plan import Conflict, Plan
from halfsafe.ranges import Ranges
from halfsafe.rules import law_of
from halfsafe.windows import Windows, floor_operand

MASK_FILL = 1.0e4
"""Far enough below any score for exp to give 0, small enough for masks to be added up."""

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


def next_remedy(graph: Graph, windows: Windows, plan: Plan, tried: Sequence[Edit]) -> list[Edit]:
    """What to try for the conflicts that a plan leaves: gate forms, then islands; or nothing.

    An operator is lowered once at most, and nodes in FP32 join no island, so that this ends.
    """
    if not plan.conflicts:
        return []
    gates = [gate for gate in gate_forms(graph, windows) if gate not in tried]
    return [*gates] or [*islands(graph, plan)]


def stored_masks(masks: list[Replace], plan: Plan) -> list[Replace]:
    """Masks as they are stored: at the exponent of the operand that holds them."""
    return [replace(m, new=m.new * 2.0 ** -plan.uses.get(m.use, 0)) for m in masks]


def islands(graph: Graph, plan: Plan) -> list[Island]:
    """The operators around each value that no plan saves, to be computed in FP32."""
    nodes: dict[str, None] = {}
    for conflict in plan.conflicts:
        unknown = conflict.unknown
        if isinstance(unknown, Use):
            nodes[unknown.node] = None
        elif isinstance(unknown, str) and unknown in graph.producers:
            nodes[graph.producers[unknown].name] = None
            nodes.update({use.node: None for use in graph.consumers[unknown]})
    in_order = tuple(
        node.name
        for node in graph.nodes
        if node.name in nodes and any(graph.values[o].bounded for o in node.outputs)
    )
    if not in_order:
        return []
    return [Island(in_order, "; ".join(describe(graph, c) for c in plan.conflicts[:2]))]


def describe(graph: Graph, conflict: Conflict) -> str:
    """A conflict in words: the value, the exponent that it needs, and what pins it."""
    unknown = conflict.unknown
    what = graph.describe(unknown) if isinstance(unknown, str) else f"operand {unknown}"
    return f"{what} {conflict.needs}, but {conflict.pinned_by} pins it to {conflict.exponent}"


def sentinels(graph: Graph, constants: Ranges, fmt: FloatFormat = FLOAT16) -> list[Replace]:
    """Numbers beyond the format that only ever mask: everything they reach ends in a softmax.

    `constants` are the ranges of constants and literals.
    """
    found: list[Replace] = []
    for node in graph.nodes:
        for operand, value in node.inputs.items():
            size = constants[value].amax if value in constants else 0.0
            if size > fmt.max and _masks(graph, node, operand) and _only_masks(graph, node):
                number = graph.values[value].number
                fill = MASK_FILL if number is not None and number > 0 else -MASK_FILL
                why = f"a mask beyond {fmt.name}; exp({fill:.0f}) is 0 as well"
                found.append(Replace(Use(node.name, operand), number or -size, fill, why))
    return found


def floors(
    graph: Graph, exponents: Mapping[str, int], ranges: Ranges, fmt: FloatFormat = FLOAT16
) -> list[Replace]:
    """Positive numbers that keep a divisor from 0 and would be stored as 0 themselves.

    The new floor lies 12 bits under what the samples show above the old one, where the format
    allows: FP16 does not see it in a sum then, but a row of zeros does.
    """
    found: list[Replace] = []
    for node in graph.nodes:
        output = node.outputs[0]
        floor = floor_operand(graph, node)
        if floor is None or not graph.values[output].bounded or output not in ranges:
            continue
        if not any(_divides(graph, use) for use in _uses(graph, output)):
            continue
        k = exponents.get(output, 0)
        number = graph.values[node.inputs[floor]].number or 0.0
        above = ranges[output].without(number).binades
        lowest = 2.0 ** (min(above, default=0) - k - 12)
        new = min(max(lowest, fmt.smallest_subnormal), fmt.smallest_normal)
        if number * 2.0**-k < fmt.smallest_subnormal:
            why = f"it is 0 in {fmt.name}, and something is divided by the result"
            found.append(Replace(Use(node.name, floor), number * 2.0**-k, new, why))
    return found


def _uses(graph: Graph, value: str) -> list[Use]:
    """Where a value is read, seen through operators that only move it."""
    found: list[Use] = []
    for use in graph.consumers[value]:
        node = graph.by_name[use.node]
        found += _uses(graph, node.outputs[0]) if node.moves else [use]
    return found


def _divides(graph: Graph, use: Use) -> bool:
    node = graph.by_name[use.node]
    law = law_of(node)
    power = graph.values[node.inputs["exponent"]].number if "exponent" in node.inputs else 0.0
    return (law is not None and use.operand in law.relative) or (power or 0.0) < 0


_SOFTMAX = (
    "aten.softmax", "aten._softmax", "aten.log_softmax", "aten._log_softmax",
    "Softmax", "LogSoftmax",
)  # fmt: skip
_CARRIES = ("movement", "aligned", "total", "homogeneous", "product", "fill")


def _masks(graph: Graph, node: Node, operand: str) -> bool:
    """Whether a number can be a mask at this operand: filled in, added, or times an indicator."""
    law = law_of(node)
    if law is None or law.family not in ("aligned", "total", "fill", "product"):
        return False
    others = [v for o, v in node.inputs.items() if o != operand]
    return law.family != "product" or all(_is_indicator(graph, v) for v in others)


def _is_indicator(graph: Graph, value: str) -> bool:
    """Whether a value is made of integers, booleans and literals alone."""
    found = graph.values[value]
    if not found.floating or found.number is not None:
        return True
    node = graph.producers.get(value)
    return node is not None and all(_is_indicator(graph, v) for v in node.inputs.values())


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
