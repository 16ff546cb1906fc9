"""Where values leave the range of the deployed format, and which operator is to blame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from halfsafe.formats import FLOAT16, FloatFormat
from halfsafe.graph import Graph, Kind, Node
from halfsafe.ranges import Range, Ranges


class FaultKind(StrEnum):
    """What goes wrong with a value as it is stored."""

    OVERFLOW = "overflow"
    UNDERFLOW = "underflow"
    NONFINITE = "nonfinite"


@dataclass(frozen=True, slots=True)
class Fault:
    """A producer, and the region it spoils.

    `excess` is how many bits the value lies outside the range; `carriers` are the values that only
    pass the fault on, and `exits` the operators after which values are in range again.
    """

    kind: FaultKind
    value: str
    op: str
    module: str
    line: str
    amax: float
    excess: int
    carriers: tuple[str, ...] = ()
    exits: tuple[str, ...] = ()


RUIN = 32.0
"""Growth of the rounding error from which a tensor counts as lost: 5 of its 11 bits."""


def find_faults(graph: Graph, ranges: Ranges, fmt: FloatFormat = FLOAT16) -> list[Fault]:
    """Faults in the order of the graph; constants first, then inputs and operators.

    A producer's own floating inputs are in range. Values that the model computes in FP32 are
    bounded by nothing, and so are no fault.
    """
    bad = {
        name: kind
        for name, value in graph.values.items()
        if value.bounded and name in ranges and (kind := _fault(ranges[name], fmt))
    }
    found: list[Fault] = []
    for name, kind in bad.items():
        node = graph.producers.get(name)
        if node is None or not any(bad.get(v) == kind for v in node.inputs.values()):
            carriers, exits = _region(graph, bad, name)
            found.append(
                Fault(
                    kind=kind,
                    value=name,
                    op=node.op if node else str(graph.values[name].kind),
                    module=node.module if node else "",
                    line=node.line if node else "",
                    amax=ranges[name].amax,
                    excess=_excess(ranges[name], kind, fmt),
                    carriers=carriers,
                    exits=exits,
                )
            )
    order = [Kind.CONSTANT, Kind.INPUT, Kind.ACTIVATION]
    return sorted(found, key=lambda f: order.index(graph.values[f.value].kind))


def _fault(measured: Range, fmt: FloatFormat) -> FaultKind | None:
    if measured.amax > fmt.max:
        return FaultKind.OVERFLOW
    if measured.nonfinite and not measured.amax:
        return FaultKind.NONFINITE
    if measured.amax and measured.rounding_loss(0, fmt) > RUIN:
        return FaultKind.UNDERFLOW
    return None


def _excess(measured: Range, kind: FaultKind, fmt: FloatFormat) -> int:
    if kind == FaultKind.OVERFLOW:
        return fmt.bits_above(measured.amax)
    highest = measured.highest_exponent(1.15, fmt)
    return max(-highest, 0) if highest is not None else 0


def _region(
    graph: Graph, bad: dict[str, FaultKind], start: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    carriers: dict[str, None] = {}
    exits: dict[str, None] = {}
    pending = [start]
    while pending:
        for node in _readers(graph, pending.pop()):
            spoiled = [o for o in node.outputs if bad.get(o) == bad[start]]
            if not spoiled:
                exits[node.name] = None
            pending += [o for o in spoiled if o not in carriers]
            carriers.update(dict.fromkeys(spoiled))
    return tuple(carriers), tuple(exits)


def _readers(graph: Graph, value: str) -> Iterator[Node]:
    return (graph.by_name[use.node] for use in graph.consumers[value])
