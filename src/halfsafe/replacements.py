"""Numbers that FP16 cannot hold and others that do their work: masks and floors.

They are found in measured ranges, and change the function: they go into the FP16 deployable alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace

from halfsafe.edits import Edit, Replace, SetNumber
from halfsafe.formats import FLOAT16, FloatFormat
from halfsafe.graph import Graph, Kind, Node, Use
from halfsafe.ranges import Range, Ranges
from halfsafe.rules import law_of, traits_of
from halfsafe.rules.families import product
from halfsafe.windows import floor_operand

MASK_FILL = 1.0e4
"""Far enough below scores of up to 2,480 for exp to give 0, small enough for masks to add up."""


def mask_fill(scores: float) -> float:
    """What masks scores of a magnitude, and of twice that on another sample: a masked score of +2a
    has to come out so far below an unmasked one of -2a that exp gives 0.

    >>> mask_fill(10.0), mask_fill(13000.0)
    (10000.0, 52064.0)
    """
    return max(MASK_FILL, 4.0 * scores + 64.0)


def stored_masks(masks: Sequence[Replace], uses: Mapping[Use, int]) -> list[Replace]:
    """Masks as they are stored: at the exponent of the operand that holds them."""
    return [replace(m, new=m.new * 2.0 ** -uses.get(m.use, 0)) for m in masks]


def unmasked(edits: Iterable[Edit], masks: Iterable[Replace]) -> list[Edit]:
    """Edits planned for a graph in which masks are replaced, for one in which they are not."""
    numbers = {mask.use: mask.old for mask in masks}
    return [
        replace(edit, number=numbers[edit.use])
        if isinstance(edit, SetNumber) and edit.use in numbers
        else edit
        for edit in edits
    ]


def sentinels(graph: Graph, ranges: Ranges, fmt: FloatFormat = FLOAT16) -> list[Replace]:
    """Numbers beyond the format that only ever mask: everything they reach ends in a softmax.

    A number that is multiplied masks if the factor is 0 or 1, by its type or on all samples.
    """
    paths = {
        Use(node.name, operand): path
        for node in graph.nodes
        for operand, value in node.inputs.items()
        if _is_beyond(graph, ranges, value, fmt)
        and _masks(graph, ranges, node, operand)
        and (path := _mask_path(graph, node)) is not None
    }
    made = {output for path in paths.values() for node in path for output in node.outputs}
    return [_replaced(graph, ranges, use, path, made, fmt) for use, path in paths.items()]


def _is_beyond(graph: Graph, ranges: Ranges, value: str, fmt: FloatFormat) -> bool:
    """Whether a constant is larger than the format holds."""
    constant = graph.values[value].kind in (Kind.CONSTANT, Kind.LITERAL)
    return constant and value in ranges and ranges[value].amax > fmt.max


def _replaced(
    graph: Graph, ranges: Ranges, use: Use, path: Sequence[Node], made: Set[str], fmt: FloatFormat
) -> Replace:
    """A mask that FP16 holds, below all that it meets on its path but for what masks have made."""
    value = graph.by_name[use.node].inputs[use.operand]
    met = {v for node in path for v in node.inputs.values()} - made
    sizes = [ranges[v].amax for v in met if v in ranges and not _is_beyond(graph, ranges, v, fmt)]
    number, size = graph.values[value].number, mask_fill(max(sizes, default=0.0))
    fill = size if number is not None and number > 0 else -size
    why = f"a mask beyond {fmt.name}; exp({fill:.0f}) is 0 as well"
    return Replace(use, number or -ranges[value].amax, fill, why)


def masked(graph: Graph, masks: Sequence[Replace], ranges: Ranges) -> dict[str, Range]:
    """Ranges of what masks are added to, as if some sample had every score masked.

    `graph` is one in which the masks have been replaced, `ranges` may have been measured before.
    """
    found: dict[str, Range] = {}
    for mask in masks:
        path = _mask_path(graph, graph.by_name[mask.use.node]) or []
        amax = abs(mask.new) * 1.25 + 1.0
        for node in path:
            for output in node.outputs:
                known = ranges.get(output)
                if known is None or not graph.values[output].floating:
                    continue
                wide = replace(known.capped(abs(mask.new)), amax=amax)
                found[output] = wide if wide.binades else Range.of(amax)
    return found


def floors(
    graph: Graph, exponents: Mapping[str, int], ranges: Ranges, fmt: FloatFormat = FLOAT16
) -> list[Replace]:
    """Positive numbers that keep a divisor from 0 and would be stored as 0 themselves.

    The new floor is the least that keeps the divisor from 0, and its reciprocal, where that is
    stored, within the format: no more than what rounding adds to a quieter sample anyway.
    """
    found: list[Replace] = []
    for node in graph.nodes:
        output = node.outputs[0]
        floor = floor_operand(graph, node)
        if floor is None or not graph.values[output].bounded or output not in ranges:
            continue
        divided = [use for use in _uses(graph, output) if _divides(graph, use)]
        if not divided:
            continue
        k = exponents.get(output, 0)
        number = graph.values[node.inputs[floor]].number or 0.0
        if number * 2.0**-k < fmt.smallest_subnormal:
            inverted = any(traits_of(graph.by_name[use.node]).inverts for use in divided)
            new = fmt.smallest_normal / 2 if inverted else fmt.smallest_subnormal
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
    power = graph.values[node.inputs["exponent"]].number if "exponent" in node.inputs else 0.0
    return use.operand in traits_of(node).relative or (power or 0.0) < 0


def _masks(graph: Graph, ranges: Ranges, node: Node, operand: str) -> bool:
    """Whether a number can be a mask at this operand: filled in, added, or times an indicator."""
    law = law_of(node)
    if law is None or not law.traits.masks:
        return False
    others = [v for o, v in node.inputs.items() if o != operand]
    return law.rule is not product or all(_is_indicator(graph, ranges, v) for v in others)


def _is_indicator(graph: Graph, ranges: Ranges, value: str) -> bool:
    """Whether a value is made of integers, booleans and literals, or was 0 or 1 throughout."""
    found = graph.values[value]
    if not found.floating or found.number is not None:
        return True
    known = ranges.get(value)
    if known is not None and _is_zero_or_one(known):
        return True
    node = graph.producers.get(value)
    return node is not None and all(_is_indicator(graph, ranges, v) for v in node.inputs.values())


def _is_zero_or_one(known: Range) -> bool:
    """Whether all entries that were seen were 0 or 1."""
    seen = known.count > 0 and not known.nonfinite
    return seen and (known.amax == 0.0 or known.amax == known.smallest == 1.0)


def _mask_path(graph: Graph, start: Node) -> list[Node] | None:
    """The operators between a mask and the softmax in which all of it ends; None if it does not."""
    seen: dict[str, Node] = {}
    pending = [start]
    masks = False
    while pending:
        node = pending.pop()
        if node.name in seen:
            continue
        seen[node.name] = node
        for output in node.outputs:
            if output in graph.outputs:
                return None
            for use in graph.consumers[output]:
                consumer = graph.by_name[use.node]
                traits = traits_of(consumer)
                if traits.absorbs or use.operand == "attn_mask":
                    masks = True
                elif traits.carries_masks:
                    pending.append(consumer)
                elif any(graph.values[o].floating for o in consumer.outputs):
                    return None
    return list(seen.values()) if masks else None
