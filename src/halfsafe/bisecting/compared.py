"""A culprit's operands and results on the engine, beside those in FP32, and what they tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from halfsafe.bisecting.record import Shown
from halfsafe.bisecting.remainder import Values
from halfsafe.bisecting.trials import Bench
from halfsafe.deviation import deviation, largest_difference
from halfsafe.faults import Fault
from halfsafe.formats import FLOAT16, FLOAT32
from halfsafe.graph import Graph, Kind, Node
from halfsafe.rules import traits_of
from halfsafe.samples import Call

SAME = 2.0**-8
"""Kernels that add in another order differ by less, relative to the largest entry."""


@dataclass(frozen=True)
class Seen:
    """What an operator reads and makes on the engine, and in FP32."""

    reads: Values
    makes: Values
    known: Values

    def shown(self, names: Sequence[str]) -> tuple[Shown, ...]:
        """Floating values that the engine has shown, beside FP32."""
        there = {**self.reads, **self.makes}
        return tuple(
            shown(name, np.asarray(there[name]), np.asarray(self.known[name]))
            for name in names
            if name in there and np.asarray(self.known[name]).dtype.kind == "f"
        )


def seen(bench: Bench, node: Node, place: int, call: Call) -> Seen:
    """From what the trials around an operator have handed over: no run of the engine is needed.

    Inputs of the network are as the sample has them; what was not handed over is left out.
    """
    graph = bench.network.graph
    ahead = {**_inputs(bench, node, call), **bench.seen.get(place - 1, {})}
    behind = bench.seen.get(place, {})
    computed = [v for v in (*node.inputs.values(), *node.outputs) if v in graph.producers]
    computed = list(dict.fromkeys(computed))
    values = bench.network.extract(None, computed).evaluate(call, FLOAT32)
    known = {**_inputs(bench, node, call), **dict(zip(computed, values, strict=True))}
    reads = {v: ahead[v] for v in node.inputs.values() if v in ahead}
    return Seen(reads, {v: behind[v] for v in node.outputs if v in behind}, known)


def _inputs(bench: Bench, node: Node, call: Call) -> Values:
    graph, given = bench.network.graph, bench.network.given(call)
    return {v: given[v] for v in node.inputs.values() if v in graph.inputs}


def shown(name: str, there: Any, known: Any) -> Shown:
    """One value on the engine beside FP32, arrays of one shape."""
    finite = np.isfinite(known)
    good = finite & np.isfinite(there)
    apart = deviation(np.asarray(there, np.float64), np.asarray(known, np.float64))
    return Shown(
        name=name,
        amax=float(np.abs(known[finite]).max(initial=0.0)),
        largest=float(np.abs(there[good]).max(initial=0.0)),
        nonfinite=apart.nonfinite,
        zeros=int((good & (there == 0) & (known != 0)).sum()),
        count=int(known.size),
        error=apart.relative_of_finite,
    )


def agrees(bench: Bench, node: Node, found: Seen) -> bool | None:
    """Whether strict evaluation makes of the engine's own operands what the engine makes of them.

    None where these were not all handed over.
    """
    graph = bench.network.graph
    wanted = [v for v in dict.fromkeys(node.inputs.values()) if _is_computed(graph, v)]
    if not (found.reads.keys() >= set(wanted) and found.makes.keys() >= set(node.outputs)):
        return None
    part = bench.network.extract(wanted, node.outputs)
    made = part.evaluate(bench.network.arguments({v: found.reads[v] for v in wanted}), FLOAT16)
    there = [np.asarray(found.makes[v]) for v in node.outputs]
    return all(
        np.array_equal(np.isfinite(a), np.isfinite(b)) and _near(a, b)
        for a, b in zip(made, there, strict=True)
    )


def _near(a: Any, b: Any) -> bool:
    finite = np.isfinite(a)
    return largest_difference([b[finite]], [a[finite]]) <= SAME


def _is_computed(graph: Graph, value: str) -> bool:
    return graph.values[value].kind in (Kind.INPUT, Kind.ACTIVATION)


def reason(bench: Bench, node: Node, found: Seen, faults: Sequence[Fault]) -> str:
    """Why the outputs leave the tolerance behind an operator, as far as it is known."""
    graph = bench.network.graph
    if agrees(bench, node, found) is not False:
        near = [f for f in faults if f.value in {*node.inputs.values(), *node.outputs}]
        told = "; ".join(f"{graph.describe(f.value)}: {f.kind.meaning}" for f in near[:2])
        return told or _by_values(found)
    largest = _largest(found, node)
    if traits_of(node).relative and largest**2 > FLOAT16.max:
        return (
            f"the engine stores squares of up to {largest**2:.3g} inside of {node.op}: a norm in "
            "its parts"
        )
    return (
        f"of the same operands (amax {largest:.3g}) the engine gives another result than {node.op} "
        "in FP32 arithmetic, stored in FP16: it stores or adds up in half precision inside"
    )


def _largest(found: Seen, node: Node) -> float:
    """The largest magnitude among the operands that the engine has shown."""
    arrays = (np.asarray(found.reads[v]) for v in node.inputs.values() if v in found.reads)
    finite = (np.abs(x[np.isfinite(x)]) for x in arrays if x.dtype.kind == "f")
    return max((float(x.max(initial=0.0)) for x in finite), default=0.0)


def _by_values(found: Seen) -> str:
    """From the values alone, where no range tells."""
    for each in found.shown(list(found.makes)):
        if each.nonfinite:
            return f"{each.nonfinite} entries of {each.name} are inf or NaN, amax {each.amax:.4g}"
        if each.zeros:
            return f"{each.zeros} entries of {each.name} are 0 in FP16"
    return "its operands or its result need more bits than FP16 has"
