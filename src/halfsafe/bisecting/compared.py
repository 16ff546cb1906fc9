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
from halfsafe.errors import BadInput
from halfsafe.faults import Fault, FaultKind
from halfsafe.formats import FLOAT16, FLOAT32
from halfsafe.graph import Graph, Node
from halfsafe.rules import traits_of
from halfsafe.samples import Call

SAME = 2.0**-8
"""Kernels that add in another order differ by less, relative to the largest entry."""


@dataclass(frozen=True)
class Seen:
    """What an operator reads and makes on the engine, and what both are in FP32."""

    reads: Values
    makes: Values
    known: Values

    def of(self, there: Values) -> tuple[Shown, ...]:
        """The floating ones among some values of the engine, beside FP32."""
        arrays = ((name, np.asarray(x), np.asarray(self.known[name])) for name, x in there.items())
        return tuple(_shown(name, x, known) for name, x, known in arrays if known.dtype.kind == "f")


def seen(bench: Bench, place: int, call: Call) -> Seen:
    """From what the trials around the last of so many steps have handed over: nothing is run there.

    Inputs of the network are as the sample has them; what was not handed over is left out.
    """
    graph, reads, makes = bench.network.graph, bench.cuts.reads(place), bench.cuts.makes(place)
    given = {v: x for v, x in bench.network.given(call).items() if v in reads}
    ahead = {**given, **bench.seen.get(place - 1, {})}
    behind = bench.seen.get(place, {})
    computed = [v for v in (*reads, *makes) if v in graph.producers]
    values = bench.network.extract(None, computed).evaluate(call, FLOAT32)
    return Seen(
        {v: ahead[v] for v in reads if v in ahead},
        {v: behind[v] for v in makes if v in behind},
        {**given, **dict(zip(computed, values, strict=True))},
    )


def _shown(name: str, there: Any, known: Any) -> Shown:
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


def agrees(bench: Bench, place: int, found: Seen) -> bool | None:
    """Whether strict evaluation makes of the engine's own operands what the engine makes of them.

    None where these were not all handed over, or strict evaluation does not run.
    """
    reads, makes = bench.cuts.reads(place), bench.cuts.makes(place)
    if not (reads and found.reads.keys() >= set(reads) and found.makes.keys() >= set(makes)):
        return None
    part = bench.network.extract(reads, makes)
    try:
        made = part.evaluate(bench.network.arguments(found.reads), FLOAT16)
    except BadInput:
        return None
    return all(alike(a, np.asarray(found.makes[v])) for a, v in zip(made, makes, strict=True))


def alike(strict: Any, there: Any) -> bool:
    """Whether two results differ by no more than kernels may."""
    finite = np.isfinite(strict)
    if not np.array_equal(finite, np.isfinite(there)):
        return False
    return largest_difference([there[finite]], [strict[finite]]) <= SAME


def reason(bench: Bench, place: int, found: Seen, faults: Sequence[Fault]) -> str:
    """Why the outputs leave the tolerance behind an operator, as far as it is known."""
    graph = bench.network.graph
    node = graph.by_name[bench.cuts.operator(place)]
    of_node = {*node.inputs.values(), *node.outputs}
    near = [f for f in faults if f.value in of_node and f.kind != FaultKind.LATENT]
    told = [f"{graph.describe(f.value)}: {f.kind.meaning}" for f in near[:2]]
    told = told or [f"{name} is {x:g}, which FP16 does not hold" for name, x in _odd(graph, node)]
    if agrees(bench, place, found) is False and not told:
        told = [_of_kernel(node, found)]
    return "; ".join(told) or _by_values(found)


def _odd(graph: Graph, node: Node) -> list[tuple[str, float]]:
    """Numbers in the code that are beyond FP16, or 0 in it."""
    numbers = [(operand, graph.values[v].number) for operand, v in node.inputs.items()]
    half = FLOAT16
    return [
        (operand, x)
        for operand, x in numbers
        if x and (abs(x) > half.max or abs(x) < half.smallest_subnormal)
    ]


def _of_kernel(node: Node, found: Seen) -> str:
    """The engine's own kernel is to blame: of the same operands it gives another result."""
    largest = _largest(found)
    if traits_of(node).relative and largest**2 > FLOAT16.max:
        return (
            f"of the same operands the engine gives another result than {node.op} in FP32 "
            f"arithmetic; their squares, up to {largest**2:.3g}, are beyond FP16"
        )
    return (
        f"of the same operands, amax {largest:.3g}, the engine gives another result than {node.op} "
        "in FP32 arithmetic, as it does where it stores or adds up in half precision inside"
    )


def _largest(found: Seen) -> float:
    """The largest magnitude among the operands, in FP32."""
    arrays = (np.asarray(found.known[name]) for name in found.reads)
    floats = (np.abs(x) for x in arrays if x.dtype.kind == "f")
    return max((float(x.max(initial=0.0)) for x in floats), default=0.0)


def _by_values(found: Seen) -> str:
    """From the values alone, where no range tells."""
    for each in found.of(found.makes):
        if each.nonfinite:
            return f"{each.nonfinite} entries of {each.name} are inf or NaN, amax {each.amax:.4g}"
        if each.zeros:
            return f"{each.zeros} entries of {each.name} are 0 in FP16"
    return "its operands or its result need more bits than FP16 has"
