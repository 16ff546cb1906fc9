"""The complement of a bisection: one operator in FP16 on the engine, and all others in FP32."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

from halfsafe.bisecting.record import Alone
from halfsafe.bisecting.remainder import Remainder, Values
from halfsafe.bisecting.trials import Bench
from halfsafe.errors import BadInput
from halfsafe.formats import FLOAT32
from halfsafe.samples import Call


def ranked(bench: Bench, call: Call) -> Iterator[Alone]:
    """Each operator that computes with floating numbers, in the graph's order, on one sample.

    What is handed from step to step is in FP32. Raises OutOfTime.
    """
    cuts, network = bench.cuts, bench.network
    given = network.given(call)
    held: Values = {}
    for place in range(1, cuts.last + 1):
        bench.log.check()
        cut = cuts.at(place)
        reads = (*held, *cuts.at(place - 1).inputs)
        made = tuple(name for name in cut.handed if name not in held)
        kept = {name: x for name, x in held.items() if name in cut.handed}
        if not made:
            held = kept
            continue
        step = network.extract(reads, made)
        arguments = network.arguments({**held, **{v: given[v] for v in reads if v in given}})
        exact = dict(zip(made, step.evaluate(arguments, FLOAT32), strict=True))
        if any(network.graph.values[name].floating for name in made):
            node = network.graph.by_name[cuts.operator(place)]
            bench.log.progress(f"{node.name} alone in FP16, {place} of {cuts.last}")
            error, why = inf, ""
            try:
                bench.log.builds += 1
                values = bench.engine.build(step).run(arguments)
                there = {**kept, **dict(zip(made, values, strict=True))}
                reference = bench.question.references[call.number]
                outputs = Remainder(network, cut).outputs(call, there, reference)
                error = bench.question.error(call.number, outputs)
            except BadInput as refused:
                why = str(refused)
            yield Alone(node.name, node.op, node.module, error, why)
        held = {**kept, **exact}
