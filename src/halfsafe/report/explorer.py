"""The data behind the map, the table and the details of the HTML report.

Columns by value and by node instead of an object for each, with texts and histograms written once
and named by their index: 5,000 values stay small.
"""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from halfsafe.formats import FLOAT16
from halfsafe.graph import Graph, Kind, Node, Use
from halfsafe.report.model import Report, ValueReport
from halfsafe.rules import Equation, Unknown, equations, law_of
from halfsafe.windows import ANY, Limits, Window, windows


def explorer(report: Report) -> dict[str, Any]:
    """All that the map, the table and the details show, as columns by value and by node."""
    graph = report.graph
    order = _by_depth(graph, report.values)
    place = {name: i for i, name in enumerate(order)}
    shared = _Shared(place, {node.name: i for i, node in enumerate(graph.nodes)})
    ties = _ties(report)
    return {
        "tool": report.tool,
        "headroom": report.headroom,
        "max_binade": FLOAT16.max_binade,
        "min_binade": FLOAT16.min_binade,
        "least_binade": FLOAT16.min_binade - FLOAT16.mantissa_bits,
        "names": order,
        "values": {
            **_columns([_identity(graph, name, shared) for name in order]),
            **_columns([_figures(report.values[name], shared) for name in order]),
            **_columns(_reasons(report, order, ties, shared)),
        },
        "nodes": _columns([_node(graph, n, ties.laws[n.name], shared) for n in graph.nodes]),
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


def _reasons(report: Report, order: Sequence[str], ties: _Ties, shared: _Shared) -> list[Row]:
    """Why each value has its exponent: its window, the value that drives it, and what pins it."""
    bounds = _windows(report)
    exponents = {name: value.exponent for name, value in report.values.items()}
    drivers = [n for n in order if exponents[n] and not bounds[n].low <= 0 <= bounds[n].high]
    driven = _nearest(drivers, ties.links, lambda name: bool(exponents.get(name)))
    pinned = _nearest(list(ties.pins), ties.links, lambda _: True)
    rows: list[Row] = []
    for name in order:
        driver, law = driven.get(name, ("", ""))
        pin = pinned.get(name, ("", ""))[0]
        rows.append(
            {
                "low": bounds[name].low if bounds[name].low > -ANY else None,
                "high": bounds[name].high if bounds[name].high < ANY else None,
                "driver": shared.values[driver] if driver else -1,
                "tie": shared.text(law),
                "pin": shared.text(ties.pins.get(pin, "")),
            }
        )
    return rows


def _windows(report: Report) -> Mapping[str, Window]:
    """The window of each value, of a constant that of all its uses together."""
    ranges = {name: value.range for name, value in report.values.items()}
    found: dict[str, Window] = defaultdict(Window)
    for unknown, window in windows(report.graph, ranges, Limits(headroom=report.headroom)).items():
        if isinstance(unknown, str):
            found[unknown] &= window
        elif isinstance(unknown, Use):
            name = report.graph.by_name[unknown.node].inputs[unknown.operand]
            if report.graph.values[name].kind == Kind.CONSTANT:
                found[name] &= window
    return found


@dataclass(frozen=True, slots=True)
class _Ties:
    """How values hang together: the laws by node, their links by value, and what is pinned by whom.

    A link is an equation as text and the values whose exponents it ties.
    """

    laws: Mapping[str, Sequence[str]]
    links: Mapping[str, Sequence[tuple[str, Sequence[str]]]]
    pins: Mapping[str, str]


def _ties(report: Report) -> _Ties:
    """Equations of all operators. Modules that were watched have none."""
    graph = report.graph
    laws: dict[str, list[str]] = {node.name: [] for node in graph.nodes}
    links: dict[str, list[tuple[str, Sequence[str]]]] = defaultdict(list)
    pins: dict[str, str] = {}
    if report.tool == "watch":
        return _Ties(laws, links, pins)
    for name in (*graph.inputs, *graph.outputs):
        if graph.values[name].floating:
            pins.setdefault(name, f"the graph's own input or output {name}")
    for node in graph.nodes:
        for equation in equations(graph, node, law_of(node)):
            text = _law(equation, node)
            tied = list(filter(None, (_value_of(graph, u) for u in equation.terms)))
            laws[node.name].append(text)
            if len(equation.terms) == 1:
                pins.update((name, str(node)) for name in tied if name not in pins)
            elif _holds(report, equation):
                for name in tied:
                    links[name].append((f"{text} of {node.name}", tied))
    return _Ties(laws, links, pins)


def _law(equation: Equation, node: Node) -> str:
    """An equation as seen from its operator: k[weight], not k[conv1.weight]."""
    short = str(equation).replace(f"k[{node.name}.", "k[")
    return re.sub(r"\('.*?', '(.*?)'\)", r"\1", short)


def _value_of(graph: Graph, unknown: Unknown) -> str:
    """The value behind an unknown; empty for a rule's own integer."""
    if isinstance(unknown, Use):
        return graph.by_name[unknown.node].inputs[unknown.operand]
    return unknown if isinstance(unknown, str) else ""


def _holds(report: Report, equation: Equation) -> bool:
    """Whether the exponents that are known satisfy an equation: an inserted Mul breaks it."""
    names = [_value_of(report.graph, unknown) for unknown in equation.terms]
    if any(name not in report.values for name in names):
        return True
    known = (report.values[name].exponent for name in names)
    return sum(k * factor for k, factor in zip(known, equation.terms.values(), strict=True)) == 0


def _nearest(
    sources: Sequence[str],
    links: Mapping[str, Sequence[tuple[str, Sequence[str]]]],
    passes: Callable[[str], bool],
) -> dict[str, tuple[str, str]]:
    """For each value the source that is the fewest links away, and the last link on the way."""
    found = {source: (source, "") for source in sources}
    pending = deque(sources)
    while pending:
        name = pending.popleft()
        for text, tied in links.get(name, ()):
            for other in tied:
                if other not in found and passes(other):
                    found[other] = found[name][0], text
                    pending.append(other)
    return found
