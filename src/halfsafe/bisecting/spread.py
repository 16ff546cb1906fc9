"""How far the harm of one operator reaches: what has to be in FP32 so that it does none.

An operator whose result FP16 cannot store is not mended by computing it in FP32, since its result
is stored all the same. Those that read it have to be in FP32 too, and what they make may not fit
either. So a value that spoils the outputs when it alone is stored in FP16, all else being in FP32,
takes its readers in, until the span has closed. That is asked of strict evaluation, which costs no
build; whether it is right of the engine, the network uncut shows afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable

from halfsafe.bisecting.trials import Bench
from halfsafe.formats import FLOAT16
from halfsafe.samples import Call

MOST = 32
"""Values that are tried, at most: what reaches further is not the fault of one operator."""


def spread(bench: Bench, nodes: Iterable[str], call: Call) -> tuple[tuple[str, ...], bool]:
    """The operators to keep in FP32 on account of some, these among them, in the graph's order.

    And whether the span has closed.
    """
    graph, kept = bench.network.graph, set(nodes)
    pending = [output for name in kept for output in graph.by_name[name].outputs]
    tried = 0
    while pending:
        if tried == MOST:
            break
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
    return tuple(n.name for n in graph.nodes if n.name in kept), not pending


def _spoils(bench: Bench, value: str, call: Call) -> bool:
    """Whether the outputs leave the tolerance if this value alone is stored in FP16."""
    error = bench.question.strictly(bench.network, call, FLOAT16, (value,))
    return error > bench.question.tolerance
