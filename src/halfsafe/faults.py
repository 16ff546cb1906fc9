"""Where values leave the range of the deployed format, and which operator is to blame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from halfsafe.graph import Graph, Kind, Node, Use
from halfsafe.ranges import Ranges
from halfsafe.windows import Window, Windows


class FaultKind(StrEnum):
    """What goes wrong with a value as it is stored."""

    OVERFLOW = "overflow"
    UNDERFLOW = "underflow"


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


def find_faults(graph: Graph, ranges: Ranges, windows: Windows) -> list[Fault]:
    """Faults in the order of the graph; constants first, then inputs and operators.

    A value is at fault when exponent 0 lies outside its window; a producer is one that computes
    it from activations without that fault. What the model computes in FP32 is never at fault.
    """
    constants = {n for n, v in graph.values.items() if v.kind == Kind.CONSTANT}
    bad: dict[str, tuple[FaultKind, int]] = {}
    for unknown, window in windows.items():
        name = str(unknown)
        if isinstance(unknown, Use):
            name = graph.by_name[unknown.node].inputs[unknown.operand]
        counts = graph.values[name].bounded and (name in constants or name == unknown)
        if counts and (fault := _fault(window)):
            bad[name] = fault
    kinds = {name: kind for name, (kind, _) in bad.items()}
    found: list[Fault] = []
    for name, (kind, excess) in bad.items():
        node = graph.producers.get(name)
        computed = [v for v in node.inputs.values() if v not in constants] if node else []
        if not any(kinds.get(v) == kind for v in computed):
            carriers, exits = _region(graph, kinds, name)
            found.append(
                Fault(
                    kind=kind,
                    value=name,
                    op=node.op if node else str(graph.values[name].kind),
                    module=node.module if node else "",
                    line=node.line if node else "",
                    amax=ranges[name].amax,
                    excess=excess,
                    carriers=carriers,
                    exits=exits,
                )
            )
    order = [Kind.CONSTANT, Kind.INPUT, Kind.ACTIVATION]
    return sorted(found, key=lambda f: order.index(graph.values[f.value].kind))


def _fault(window: Window) -> tuple[FaultKind, int] | None:
    """The fault of a value stored as it is, and by how many bits it is outside."""
    if window.least > 0:
        return FaultKind.OVERFLOW, window.least
    if window.high < 0:
        return FaultKind.UNDERFLOW, -window.high
    return None


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
