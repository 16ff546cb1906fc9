"""How far the harm of one operator reaches: what has to be in FP32 so that it does none.

An operator whose result FP16 cannot store is not mended by computing it in FP32, since its result
is stored all the same. Those that read it have to be in FP32 too, and what they make may not fit
either. So a value that spoils the outputs when it alone is stored in FP16, all else being in FP32,
takes its readers in, until the span has closed. That is asked of strict evaluation, which costs no
build; whether it is right of the engine, the network uncut shows afterwards.
"""

from __future__ import annotations

from halfsafe.bisecting.trials import Bench
from halfsafe.formats import FLOAT16
from halfsafe.graph import Graph
from halfsafe.samples import Call

MOST = 48
"""Values that are tried, at most: what reaches further is no operator's fault, but the network's
scale."""


def spread(bench: Bench, graph: Graph, node: str, call: Call) -> tuple[str, ...]:
    """The operators to keep in FP32 on account of one, itself among them, in the graph's order."""
    kept = {node}
    pending = list(graph.by_name[node].outputs)
    tried = 0
    while pending and tried < MOST:
        value = pending.pop(0)
        maker = graph.producers[value]
        if not maker.moves:
            tried += 1
            if not _spoils(bench, value, call):
                continue
        for use in graph.consumers[value]:
            if use.node not in kept:
                kept.add(use.node)
                pending += graph.by_name[use.node].outputs
    return tuple(n.name for n in graph.nodes if n.name in kept)


def _spoils(bench: Bench, value: str, call: Call) -> bool:
    """Whether the outputs leave the tolerance if this value alone is stored in FP16."""
    found = bench.network.evaluate(call, FLOAT16, (value,))
    return bench.question.error(call.number, found) > bench.question.tolerance
