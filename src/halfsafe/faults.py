"""Where FP16 breaks a network: the operator at which a fault is born, and the region it spoils.

A fault is seen in the FP32 ranges (a value that FP16 cannot hold, whose inputs it can), in numbers
written into the model (masks, epsilons, positions), or, where the network was run in FP16 beside
FP32, in a value that is wrong although all that it is computed from is right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from halfsafe.amplifiers import amplified, explain
from halfsafe.deviation import Comparison, Comparisons
from halfsafe.formats import FLOAT16
from halfsafe.graph import Graph, Kind, Node, Use
from halfsafe.ranges import Ranges
from halfsafe.replacements import floors, sentinels
from halfsafe.rules.traits import COUNTS
from halfsafe.verdict import TOLERANCE, Answer, Finding, judge
from halfsafe.windows import Limits, Window, Windows, windows


class FaultKind(StrEnum):
    """What goes wrong, the worst first."""

    OVERFLOW = "overflow"
    ABSORBED = "absorbed"
    UNDERFLOW = "underflow"
    EPSILON = "epsilon"
    SENTINEL = "sentinel"
    NONFINITE = "nonfinite"
    INTEGER = "integer"
    BITS = "bits"
    LATENT = "latent"

    @property
    def meaning(self) -> str:
        """What it means, in one sentence."""
        return _MEANING[self]

    @property
    def severity(self) -> int:
        """0 for the worst kind."""
        return list(FaultKind).index(self)


_MEANING = {
    FaultKind.OVERFLOW: "larger than FP16 can hold: stored as inf",
    FaultKind.ABSORBED: "stored as inf, which a later operator turns into a finite, wrong number",
    FaultKind.UNDERFLOW: "so small that FP16 keeps too few of its bits, or none",
    FaultKind.EPSILON: "a positive number, there to keep a divisor from 0, is 0 in FP16",
    FaultKind.SENTINEL: "a mask beyond FP16: stored as -inf, and a row masked whole gives NaN",
    FaultKind.NONFINITE: "a constant that holds inf or NaN",
    FaultKind.INTEGER: "whole numbers above 2048 as floats: FP16 skips some of them",
    FaultKind.BITS: "wrong, of operands that are right to 11 bits: they need more than FP16 has",
    FaultKind.LATENT: "fits, but within the headroom: another sample may overflow",
}

_LARGE = {
    FaultKind.OVERFLOW,
    FaultKind.ABSORBED,
    FaultKind.SENTINEL,
    FaultKind.NONFINITE,
    FaultKind.LATENT,
}

_MASKS = {FaultKind.SENTINEL, FaultKind.NONFINITE}


@dataclass(frozen=True, slots=True)
class Fault:
    """A producer, and the region it spoils.

    `excess` is how many bits the value lies outside the range, and `sample` the one that shows it
    most. `carriers` are the values that only pass the fault on, and `exits` the operators after
    which values are in range again. `outcome` is what FP16 makes of the outputs behind it:
    "nonfinite", "wrong" or "unharmed"; empty if the network was not run in FP16.
    """

    kind: FaultKind
    value: str
    op: str
    module: str
    line: str
    amax: float
    excess: int
    sample: int = 0
    outcome: str = ""
    detail: str = ""
    carriers: tuple[str, ...] = ()
    exits: tuple[str, ...] = ()

    @property
    def harms(self) -> bool:
        """Whether it may spoil an output: it does, or nobody has looked."""
        return self.kind != FaultKind.LATENT and self.outcome != "unharmed"


@dataclass(frozen=True, slots=True)
class _Finding:
    """What is wrong with one value, whoever is to blame; `by_itself` if the range does not tell."""

    kind: FaultKind
    excess: int = 0
    detail: str = ""
    by_itself: bool = False


def find_faults(
    graph: Graph,
    ranges: Ranges,
    limits: Limits,
    comparisons: Comparisons | None = None,
    findings: Sequence[Finding] = (),
) -> list[Fault]:
    """Faults in the order of the graph; constants first, then inputs and operators.

    A producer is an operator whose output is at fault while no input is at fault in the same
    direction. What the model computes in FP32 is never at fault. `findings` are of the outputs in
    FP16 as it is.
    """
    compared = comparisons or {}
    outcomes = _outcomes(graph, findings)
    found = _by_range(graph, windows(graph, ranges, limits)) | _masks(graph, ranges)
    numbers = _numbers(graph, ranges, compared)
    known = numbers.keys() | {n for n, f in found.items() if f.kind != FaultKind.LATENT}
    found |= _by_comparison(graph, ranges, known, compared)
    numbers = _bits(graph, compared, findings) | numbers
    producers = [name for name in found if not _inherited(graph, ranges, found, name)]
    behind = _outputs_behind(graph)
    outcome = partial(_outcome, graph, compared, outcomes)
    faults = [
        *(_fault(graph, ranges, found, compared, n, outcome(behind[n])) for n in producers),
        *(_fault(graph, ranges, numbers, compared, n, outcome(behind[n])) for n in numbers),
    ]
    place = {output: i for i, node in enumerate(graph.nodes) for output in node.outputs}
    order = [Kind.CONSTANT, Kind.INPUT, Kind.ACTIVATION]
    return sorted(
        faults, key=lambda f: (order.index(graph.values[f.value].kind), place.get(f.value, 0))
    )


def _by_range(graph: Graph, bounds: Windows) -> dict[str, _Finding]:
    """Values for which exponent 0 lies outside the window."""
    found: dict[str, _Finding] = {}
    for unknown, window in bounds.items():
        name = str(unknown)
        if isinstance(unknown, Use):
            name = graph.by_name[unknown.node].inputs[unknown.operand]
        value = graph.values[name]
        counts = value.bounded and (value.kind == Kind.CONSTANT or name == unknown)
        finding = _outside(window) if counts and _is_used(graph, name) else None
        if finding:
            known = found.get(name)
            found[name] = finding if known is None else min(known, finding, key=_severity)
    return found


def _is_used(graph: Graph, name: str) -> bool:
    """Whether a value goes anywhere; the mean that a norm gives beside its output may not."""
    node = graph.producers.get(name)
    alone = node is None or len(node.outputs) == 1
    return alone or bool(graph.consumers[name]) or name in graph.outputs


def _severity(finding: _Finding) -> int:
    return finding.kind.severity


def _outside(window: Window) -> _Finding | None:
    """The fault of a value stored as it is, and by how many bits it is outside."""
    if window.least > 0:
        return _Finding(FaultKind.OVERFLOW, window.least)
    if window.high < 0:
        return _Finding(FaultKind.UNDERFLOW, -window.high)
    if window.low > 0:
        return _Finding(FaultKind.LATENT, window.low)
    return None


def _masks(graph: Graph, ranges: Ranges) -> dict[str, _Finding]:
    """Masks that FP16 does not hold, and constants that hold inf or NaN."""
    found: dict[str, _Finding] = {}
    for name, value in graph.values.items():
        if value.kind == Kind.CONSTANT and name in ranges and ranges[name].nonfinite:
            detail = f"{ranges[name].nonfinite} entries are inf or NaN"
            found[name] = _Finding(FaultKind.NONFINITE, detail=detail)
    for mask in sentinels(graph, ranges):
        excess = FLOAT16.bits_above(abs(mask.old))
        detail = f"the mask {mask.old:.4g} becomes {'-' * (mask.old < 0)}inf"
        found[_blamed(graph, mask.use)] = _Finding(FaultKind.SENTINEL, excess, detail)
    return found


def _numbers(graph: Graph, ranges: Ranges, compared: Comparisons) -> dict[str, _Finding]:
    """Epsilons and whole numbers that FP16 does not hold, at the operators that bring them in.

    They say something of that operator alone, whatever its inputs are.
    """
    found: dict[str, _Finding] = {}
    for floor in floors(graph, {}, ranges):
        name = graph.by_name[floor.use.node].outputs[0]
        detail = f"{floor.old:.4g} becomes 0, and something is divided by the result"
        found[name] = _Finding(FaultKind.EPSILON, detail=detail, by_itself=True)
    for node in graph.nodes:
        for name in node.outputs:
            if _counts_beyond(graph, node, name, ranges, compared):
                detail = f"up to {ranges[name].amax:.0f}, and FP16 has every whole number to 2048"
                found[name] = _Finding(FaultKind.INTEGER, detail=detail, by_itself=True)
    return found


def _blamed(graph: Graph, use: Use) -> str:
    """The constant that a mask comes from, or the output of the operator that reads a number."""
    node = graph.by_name[use.node]
    value = node.inputs[use.operand]
    return value if graph.values[value].kind == Kind.CONSTANT else node.outputs[0]


def _counts_beyond(
    graph: Graph, node: Node, name: str, ranges: Ranges, compared: Comparisons
) -> bool:
    """Whether an operator turns whole numbers into floats and FP16 does not have all of them."""
    value = graph.values[name]
    if not value.bounded or name not in ranges or ranges[name].amax <= 2**11:
        return False
    floating = any(graph.values[v].floating for v in node.inputs.values())
    counts = node.op in COUNTS or (node.inputs and not floating)
    return bool(counts) and (name not in compared or compared[name].floor.squared_error > 0)


def _by_comparison(
    graph: Graph, ranges: Ranges, known: Set[str], compared: Comparisons
) -> dict[str, _Finding]:
    """Values that FP16 gets wrong through small losses, none of which is a fault by itself.

    Where nothing is lost for want of range, FP16 and the floor have the same bits. So the loss is
    followed along the values that differ: if a fault lies on the way it is the reason, and if none
    does, the value whose storing loses most is.
    """
    new: dict[str, _Finding] = {}
    explained: set[str] = set()
    worst: dict[str, tuple[float, str]] = {}
    for name in graph.values:
        node, comparison = graph.producers.get(name), compared.get(name)
        sources = [v for v in node.inputs.values() if v in worst] if node else []
        if comparison is not None and (comparison.differing or name in known):
            own = _storing_loss(graph, ranges, name), name
        elif sources and not graph.values[name].floating:
            own = 1.0, name  # indices of what differs
        else:
            continue
        worst[name] = max([own, *(worst[v] for v in sources)])
        if name in known or any(v in explained for v in sources):
            explained.add(name)
        elif node and comparison and (comparison.nonfinite or comparison.wrong):
            blamed = name if comparison.nonfinite else worst[name][1]
            new[blamed] = _unexplained(comparison)
            explained.add(name)
    return new


def _storing_loss(graph: Graph, ranges: Ranges, name: str) -> float:
    """How much larger a tensor's rounding error is than at unlimited range; 1.0 is no loss."""
    if not graph.values[name].bounded or not ranges[name].binades:
        return 1.0
    return float(ranges[name].rounding_loss([0])[0])


def _hurt(compared: Comparisons, name: str) -> bool:
    """Whether FP16 gives a value wrong, or not at all."""
    return name in compared and (compared[name].nonfinite or compared[name].wrong)


def _unexplained(comparison: Comparison) -> _Finding:
    if comparison.nonfinite:
        detail = f"{comparison.half.nonfinite} entries are inf or NaN in FP16"
        return _Finding(FaultKind.OVERFLOW, 0, detail, by_itself=True)
    detail = f"small losses add up: the error is {comparison.times_floor:.1f} times the floor"
    return _Finding(FaultKind.UNDERFLOW, 0, detail, by_itself=True)


def _inherited(graph: Graph, ranges: Ranges, found: Mapping[str, _Finding], name: str) -> bool:
    """Whether an operator passes a fault of the same direction on."""
    causes = _causes(graph, ranges, found, name)
    return any(_passes(graph, found, cause, name) for cause in causes)


def _causes(
    graph: Graph, ranges: Ranges, found: Mapping[str, _Finding], name: str
) -> Iterator[str]:
    """Values at fault from which one is computed, also by way of FP32 values as large."""
    pending = [name]
    seen: set[str] = set()
    while pending:
        node = graph.producers.get(pending.pop())
        for source in node.inputs.values() if node else ():
            if source in seen:
                continue
            seen.add(source)
            if source in found:
                yield source
            elif not graph.values[source].bounded and source in ranges:
                pending += [source] if ranges[source].amax > FLOAT16.max else []


def _fault(
    graph: Graph,
    ranges: Ranges,
    found: Mapping[str, _Finding],
    compared: Comparisons,
    name: str,
    outcome: str,
) -> Fault:
    finding, node = found[name], graph.producers.get(name)
    if finding.by_itself:
        carriers, exits = _region(graph, name, lambda v: _hurt(compared, v))
    else:
        carriers, exits = _region(graph, name, lambda v: _passes(graph, found, name, v))
    measured = ranges[name]
    large = finding.kind in _LARGE
    absorbed = finding.kind == FaultKind.OVERFLOW and _is_absorbed(graph, compared, name)
    return Fault(
        kind=FaultKind.ABSORBED if absorbed else finding.kind,
        value=name,
        op=node.op if node else str(graph.values[name].kind),
        module=node.module if node else "",
        line=node.line if node else "",
        amax=measured.amax,
        excess=finding.excess,
        sample=measured.amax_sample if large else measured.smallest_sample,
        outcome="" if finding.kind == FaultKind.LATENT else outcome,
        detail=finding.detail,
        carriers=carriers,
        exits=exits,
    )


def _passes(graph: Graph, found: Mapping[str, _Finding], cause: str, name: str) -> bool:
    """Whether one fault may be there because of another.

    An operator whose weights are out of range is a producer all the same: mending them does not
    mend its output. What masks are added to is out of range because of the masks. A value within
    the headroom is in range, and excuses nothing beyond.
    """
    if name not in found:
        return False
    first, second = found[cause].kind, found[name].kind
    if graph.values[cause].kind == Kind.CONSTANT and first not in _MASKS:
        return False
    if first == FaultKind.LATENT:
        return second == FaultKind.LATENT
    return (first in _LARGE) == (second in _LARGE)


def _region(
    graph: Graph, start: str, spoiled: Callable[[str], bool]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Values that pass a fault on, and the operators after which values are in range again."""
    carriers: dict[str, None] = {}
    exits: dict[str, None] = {}
    pending = [start]
    while pending:
        for node in _readers(graph, pending.pop()):
            carried = [o for o in node.outputs if spoiled(o)]
            if not carried:
                exits[node.name] = None
            pending += [o for o in carried if o not in carriers]
            carriers.update(dict.fromkeys(carried))
    return tuple(carriers), tuple(exits)


def _is_absorbed(graph: Graph, compared: Comparisons, start: str) -> bool:
    """Whether FP16's inf ends in finite, wrong values, and reaches no output itself."""
    if start not in compared or not compared[start].nonfinite:
        return False
    spread = _downstream(graph, start, lambda v: v in compared and compared[v].nonfinite)
    behind = _downstream(graph, start, lambda v: v in compared and compared[v].differing > 0)
    reaches_output = bool(spread & set(graph.outputs))
    return not reaches_output and any(compared[v].wrong for v in behind - spread)


def _outcomes(graph: Graph, findings: Sequence[Finding]) -> dict[str, str]:
    """What FP16 makes of each output, as it is judged on each sample, row and entry."""
    found: dict[str, str] = {}
    for finding, answer, _ in judge(findings, TOLERANCE):
        if answer is not Answer.SAFE:
            worse = "nonfinite" if finding.nonfinite else "wrong"
            known = found.get(finding.name)
            found[finding.name] = "nonfinite" if known == "nonfinite" else worse
        else:
            found.setdefault(finding.name, "unharmed")
    return found if set(graph.outputs) <= found.keys() else {}


def _outputs_behind(graph: Graph) -> dict[str, frozenset[str]]:
    """The graph outputs that are computed from each value; an output is behind itself."""
    found = {name: frozenset[str]() for name in graph.values}
    found |= {name: frozenset([name]) for name in graph.outputs}
    for node in reversed(graph.nodes):
        behind = frozenset[str]().union(*(found[output] for output in node.outputs))
        for value in node.inputs.values():
            if not behind <= found[value]:
                found[value] |= behind
    return found


def _outcome(
    graph: Graph, compared: Comparisons, outcomes: Mapping[str, str], behind: Set[str]
) -> str:
    """What FP16 makes of the graph outputs behind a value; empty where that is not known."""
    if outcomes:
        known = {outcomes[o] for o in graph.outputs if o in behind}
        return next((o for o in ("nonfinite", "wrong") if o in known), "unharmed")
    if not compared:
        return ""
    outputs = [compared.get(o) for o in graph.outputs if o in behind and graph.values[o].floating]
    of_outputs = [c for c in outputs if c is not None]
    if any(c.nonfinite for c in of_outputs):
        return "nonfinite"
    if any(c.wrong for c in of_outputs):
        return "wrong"
    return "unharmed" if len(of_outputs) == len(outputs) else ""


def _bits(graph: Graph, compared: Comparisons, findings: Sequence[Finding]) -> dict[str, _Finding]:
    """Values that 11 bits at any exponent get wrong, where an output is wrong because of them."""
    limited = [f for f in findings if f.floor > TOLERANCE or f.floor_differing]
    if not limited:
        return {}
    errors = {name: c.floor.relative for name, c in compared.items()}
    worst = max(1.0 if f.floor_differing else min(f.floor, 1.0) for f in limited)
    roots = amplified(graph, errors, {f.name for f in limited}, worst / 8)
    return {
        c.value: _Finding(FaultKind.BITS, detail=explain(graph, [c]), by_itself=True)
        for c in roots
        if c.value in compared
    }


def _downstream(graph: Graph, start: str, through: Callable[[str], bool]) -> set[str]:
    """A value and those computed from it, as far as each of them lets through."""
    reached = {start}
    pending = [start]
    while pending:
        for node in _readers(graph, pending.pop()):
            new = [o for o in node.outputs if o not in reached and through(o)]
            reached.update(new)
            pending += new
    return reached


def _readers(graph: Graph, value: str) -> Iterator[Node]:
    return (graph.by_name[use.node] for use in graph.consumers[value])
