"""Headroom as node data for Google's Model Explorer, over a graph that it shows."""

from __future__ import annotations

from typing import Any

from halfsafe.report.bisection import is_open
from halfsafe.report.data import Record

GRAPH = "graph"
"""The name that Model Explorer gives to the graph of a .pt2 file."""

_THRESHOLDS = [
    {"value": 0.0, "bgColor": "#d55e00", "textColor": "#ffffff"},
    {"value": 1.0, "bgColor": "#e69f00", "textColor": "#000000"},
    {"value": 4.0, "bgColor": "#f0e442", "textColor": "#000000"},
]
"""Background up to these bits of headroom; more of it stays white."""

_FAULT = {"bgColor": "#a50f15", "textColor": "#ffffff"}


def node_data(report: Record) -> dict[str, Any]:
    """The least headroom of each operator's outputs in bits, by node; who is to blame stands out.

    The format is that of model_explorer.node_data_builder.ModelNodeData.
    """
    at_fault = {fault.value for fault in report.faults}
    culprits = report.bisection.culprits if report.bisection else ()
    to_blame = {culprit.node for culprit in culprits if not is_open(culprit)}
    headroom = {
        name: value.range.headroom()
        for name, value in report.values.items()
        if value.range.amax and report.graph.values[name].bounded
    }
    results: dict[str, dict[str, Any]] = {}
    for node in report.graph.nodes:
        known = [o for o in node.outputs if o in headroom]
        if known:
            stands_out = node.name in to_blame or at_fault & set(known)
            style = _FAULT if stands_out else {}
            results[node.name] = {"value": min(headroom[o] for o in known), **style}
    name = "halfsafe: headroom in FP16 (bits)"
    return {GRAPH: {"name": name, "results": results, "thresholds": _THRESHOLDS}}
