"""Turns a plan into edits. Knows no framework."""

from __future__ import annotations

from halfsafe.edits import Edit, Fold, Insert, ScaleInput, ScaleOutput, SetNumber
from halfsafe.formats import FloatFormat
from halfsafe.graph import Graph, Kind, Use
from halfsafe.plan import Plan
from halfsafe.ranges import Range, Ranges
from halfsafe.rules import traits_of
from halfsafe.windows import Limits


def rewrite(graph: Graph, plan: Plan, ranges: Ranges, limits: Limits) -> list[Edit]:
    """The edits that store every value at its planned exponent.

    Constants and literals are folded; what a use reads at another exponent than its value is stored
    at is multiplied in between.
    """
    edits: list[Edit] = []
    for node in graph.nodes:
        for operand, value in node.inputs.items():
            use = Use(node.name, operand)
            edit = _edit(graph, plan, ranges, use, value, limits.format)
            if edit is not None:
                edits.append(edit)
    for name in graph.inputs:
        if k := plan.exponents.get(name, 0):
            edits.append(ScaleInput(name, -k))
    for i, name in enumerate(graph.outputs):
        if k := plan.exponents.get(name, 0):
            in_float32 = not _fits(ranges[name], limits)
            edits.append(ScaleOutput(name, i, k, in_float32=in_float32))
    return edits


def _fits(measured: Range, limits: Limits) -> bool:
    """Whether a value can be stored as it is, at exponent 0, and precisely."""
    if not measured.binades:
        return True
    (high,) = measured.highest_exponents([limits.loss], limits.format)
    return measured.amax <= limits.format.max and high >= 0


def _edit(
    graph: Graph, plan: Plan, ranges: Ranges, use: Use, value: str, fmt: FloatFormat
) -> Edit | None:
    found = graph.values[value]
    k = plan.uses.get(use, 0)
    if found.kind == Kind.CONSTANT:
        return Fold(value, use, k) if k else None
    if found.number is not None:
        return SetNumber(use, found.number, k) if k and found.number else None
    bits = plan.exponents.get(value, 0) - k
    if not bits:
        return None
    saturates = traits_of(graph.by_name[use.node]).saturates
    overflows = value in ranges and fmt.bits_above(ranges[value].amax) > k
    return Insert(value, use, bits, clip=saturates and overflows)
