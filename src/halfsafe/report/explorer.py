"""The data behind the map, the table and the details of the HTML report.

Columns by value and by node instead of an object for each, with texts and histograms written once
and named by their index: 5,000 values stay small.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from halfsafe.formats import FLOAT16
from halfsafe.graph import Graph, Node
from halfsafe.report.certificate import BoundReport
from halfsafe.report.data import Record, ValueReport
from halfsafe.report.words import pinned_by


def explorer(report: Record) -> dict[str, Any]:
    """All that the map, the table and the details show, as columns by value and by node."""
    graph = report.graph
    order = _by_depth(graph, report.values)
    place = {name: i for i, name in enumerate(order)}
    shared = _Shared(place, {node.name: i for i, node in enumerate(graph.nodes)})
    values = [report.values[name] for name in order]
    laws, held = report.laws, report.certificate
    return {
        "tool": report.tool,
        "headroom": report.headroom,
        "max": FLOAT16.max,
        "max_binade": FLOAT16.max_binade,
        "min_binade": FLOAT16.min_binade,
        "least_binade": FLOAT16.min_binade - FLOAT16.mantissa_bits,
        "names": order,
        "values": {
            **_columns([_identity(graph, name, shared) for name in order]),
            **_columns([_figures(value, shared) for value in values]),
            **_columns([_reason(value, graph, laws, shared) for value in values]),
            **_columns([_bound(held.values.get(n), shared) for n in order] if held else []),
        },
        "nodes": _columns([_node(graph, n, laws.get(n.name, ()), shared) for n in graph.nodes]),
        "faults": [[place[f.value], str(f.kind)] for f in report.faults if f.value in place],
        "texts": list(shared.texts),
        "histograms": [list(h) for h in shared.histograms],
    }


@dataclass(frozen=True)
class _Shared:
    """Texts and histograms, each written once and named by its index."""

    values: Mapping[str, int]
    nodes: Mapping[str, int]
    texts: dict[str, int] = field(default_factory=dict[str, int])
    histograms: dict[tuple[int, ...], int] = field(default_factory=dict[tuple[int, ...], int])

    def text(self, text: str) -> int:
        return self.texts.setdefault(text, len(self.texts))

    def histogram(self, counts: Iterable[int]) -> int:
        return self.histograms.setdefault(tuple(counts), len(self.histograms))


Row = Mapping[str, Any]
Laws = Mapping[str, Sequence[str]]


def _columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Rows of the same keys, as one list for each key."""
    keys = rows[0] if rows else ()
    return {key: [row[key] for row in rows] for key in keys}


def _by_depth(graph: Graph, measured: Mapping[str, ValueReport]) -> list[str]:
    """Measured values in the order of execution, constants where they are first read."""
    order = dict.fromkeys(graph.inputs)
    for node in graph.nodes:
        order.update(dict.fromkeys((*node.inputs.values(), *node.outputs)))
    order.update(dict.fromkeys(measured))
    return [name for name in order if name in measured]


def _identity(graph: Graph, name: str, shared: _Shared) -> Row:
    """What a value is, who makes it and who reads it."""
    value, node = graph.values[name], graph.producers.get(name)
    readers = dict.fromkeys(shared.nodes[use.node] for use in graph.consumers[name])
    return {
        "kind": shared.text(str(value.kind)),
        "op": shared.text(node.op if node else ""),
        "module": shared.text(node.module if node else ""),
        "line": shared.text(node.line if node else ""),
        "shape": shared.text(" × ".join(map(str, value.shape)) or "scalar"),
        "bounded": int(value.bounded),
        "output": int(name in graph.outputs),
        "producer": shared.nodes[node.name] if node else -1,
        "readers": list(readers),
    }


def _figures(value: ValueReport, shared: _Shared) -> Row:
    """What was measured. Where FP16 gives no finite entry there is no error of finite entries."""
    found, compared = value.range, value.comparison
    finite = compared and compared.half.nonfinite < max(compared.half.count, 1)
    error = compared if finite else None
    return {
        "amax": _number_of(found.amax),
        "smallest": _number_of(found.smallest) if found.amax else None,
        "headroom": _number_of(found.headroom()) if found.amax else None,
        "overflowing": _number_of(found.overflowing()),
        "subnormal": _number_of(found.subnormal()),
        "lost": _number_of(found.lost()),
        "zeros": found.zeros,
        "nonfinite": found.nonfinite,
        "count": found.count,
        "sample": found.amax_sample,
        "exponent": value.exponent,
        "histogram": shared.histogram(found.to_json()["binades"]),
        "error": error and _number_of(error.half.relative_of_finite),
        "times_floor": error and _number_of(error.times_floor),
        "broken": compared and compared.half.nonfinite,
    }


def _bound(found: BoundReport | None, shared: _Shared) -> Row:
    """What a certificate says of a value; nothing of one that FP16 does not store."""
    known = found or BoundReport("measured only")
    return {
        "bound": None if known.bound is None else _number_of(known.bound),
        "above": None if known.bits is None else _number_of(known.bits),
        "by": shared.text(known.by),
        "status": shared.text(known.status if found else ""),
        "lost": shared.text(known.why),
    }


def _number_of(number: float) -> float | str:
    """Six digits; JSON has no infinity.

    >>> _number_of(65504.1234567), _number_of(float("inf"))
    (65504.1, 'inf')
    """
    return float(f"{number:.6g}") if isfinite(number) else "inf"


def _node(graph: Graph, node: Node, laws: Sequence[str], shared: _Shared) -> Row:
    """An operator with its operands; a measured value by index, anything else as text."""

    def operand(name: str) -> int | str:
        number = graph.values[name].number
        return shared.values.get(name, name if number is None else f"{number:.6g}")

    return {
        "name": shared.text(node.name),
        "op": shared.text(node.op),
        "module": shared.text(node.module),
        "line": shared.text(node.line),
        "inputs": [[shared.text(key), operand(name)] for key, name in node.inputs.items()],
        "outputs": [operand(name) for name in node.outputs],
        "laws": [shared.text(law) for law in laws],
    }


def _reason(value: ValueReport, graph: Graph, laws: Laws, shared: _Shared) -> Row:
    """Why a value has its exponent: its window, the value that drives it, and what pins it."""
    reason, tie = value.reason, value.reason.tie
    return {
        "low": reason.low,
        "high": reason.high,
        "driver": shared.values[reason.driver] if reason.driver else -1,
        "tie": shared.text(f"{laws[tie.node][tie.law]} of {tie.node}" if tie else ""),
        "pin": shared.text(pinned_by(graph, reason.pin)),
    }
