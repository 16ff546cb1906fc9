"""What follows from ranges, laws and plan: faults, and why each value has its exponent.

Found once, when a report is written or merged; who shows a report reads it there.

Exponents hang together by the equations of operators, and by values that are read at the exponent
at which they are made. A *holder* has one exponent: a computed value with its uses, a constant as
one operator reads it, or what one operator reads behind an inserted Mul.
"""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from halfsafe.faults import Fault, find_faults
from halfsafe.graph import Graph, Kind, Node, Use
from halfsafe.plan import Plan
from halfsafe.ranges import Range, Ranges
from halfsafe.report.data import Reason, Tie, ValueReport
from halfsafe.rules import Auxiliary, Equation, Unknown, equations, law_of
from halfsafe.verdict import Finding
from halfsafe.windows import ANY, Limits, Window, Windows, windows

AS_IS = Plan({}, {}, (), ())
"""Every value at exponent 0."""

Equations = Mapping[str, Sequence[Equation]]
"""What ties exponents, by node."""

Source = TypeVar("Source")


def faults_of(
    graph: Graph,
    values: Mapping[str, ValueReport],
    headroom: int,
    findings: tuple[Finding, ...] = (),
) -> list[Fault]:
    """The faults that follow from what was measured."""
    compared = {name: v.comparison for name, v in values.items() if v.comparison}
    limits = Limits(headroom=headroom)
    return find_faults(graph, _ranges(graph, values), limits, compared, findings)


def _ranges(graph: Graph, values: Mapping[str, ValueReport]) -> dict[str, Range]:
    """Ranges of all values, of numbers written into the code too."""
    numbers = {n: Range.of(v.number) for n, v in graph.values.items() if v.number is not None}
    return numbers | {name: value.range for name, value in values.items()}


def equations_of(graph: Graph) -> Equations:
    """The equations of every operator."""
    return {node.name: equations(graph, node, law_of(node)) for node in graph.nodes}


def laws_of(graph: Graph, known: Equations) -> dict[str, tuple[str, ...]]:
    """The same as text, for operators that have any."""
    return {
        name: tuple(_law(equation, graph.by_name[name]) for equation in found)
        for name, found in known.items()
        if found
    }


def _law(equation: Equation, node: Node) -> str:
    """An equation as seen from its operator: k[weight], not k[conv1.weight]."""
    short = str(equation).replace(f"k[{node.name}.", "k[")
    return re.sub(r"\('.*?', '(.*?)'\)", r"\1", short)


def with_windows(
    graph: Graph, values: Mapping[str, ValueReport], headroom: int
) -> dict[str, ValueReport]:
    """Values with the windows of their ranges. Laws, and so pins, do not depend on samples."""
    bounds = windows(graph, _ranges(graph, values), Limits(headroom=headroom))
    return {
        name: replace(value, reason=_within(_window(graph, bounds, name), value.reason))
        for name, value in values.items()
    }


def _window(graph: Graph, bounds: Windows, name: str) -> Window:
    """The window of a value, of a constant that of all its uses together."""
    found = bounds.get(name, Window())
    if graph.values[name].kind == Kind.CONSTANT:
        for use in graph.consumers[name]:
            found &= bounds.get(use, Window())
    return found


def _within(window: Window, reason: Reason) -> Reason:
    def limit(bound: int) -> int | None:
        return bound if abs(bound) < ANY else None

    return replace(
        reason,
        low=limit(window.low),
        least=limit(window.least),
        high=limit(window.high),
        comfort=limit(window.comfort),
    )


def reasons_of(
    graph: Graph, ranges: Ranges, headroom: int, known: Equations, plan: Plan = AS_IS
) -> dict[str, Reason]:
    """Why each value that has an exponent has this one, under these equations."""
    bounds = windows(graph, ranges, Limits(headroom=headroom))
    ties = _ties(graph, known, plan)
    drivers = {
        holder: _value_of(graph, holder)
        for holder in ties.holders
        if _drives(graph, plan, holder, bounds.get(holder, Window()))
    }
    driven = _nearest(drivers, ties.links, lambda holder: _exponent(plan, holder) != 0)
    pinned = _nearest(ties.pins, ties.links, lambda _: True)
    reasons: dict[str, Reason] = {}
    for name, value in graph.values.items():
        if not value.floating or value.kind == Kind.LITERAL:
            continue
        holders = graph.consumers[name] if value.kind == Kind.CONSTANT else (name,)
        driver, tie = next((driven[h] for h in holders if h in driven), ("", None))
        pin, _ = next((pinned[h] for h in holders if h in pinned), ("", None))
        reason = Reason(driver=driver, tie=tie, pin=pin)
        reasons[name] = _within(_window(graph, bounds, name), reason)
    return reasons


def _exponent(plan: Plan, holder: Unknown) -> int:
    if isinstance(holder, Use):
        return plan.uses.get(holder, 0)
    return plan.exponents.get(holder, 0) if isinstance(holder, str) else 0


def _drives(graph: Graph, plan: Plan, holder: Unknown, window: Window) -> bool:
    """Whether a value itself, or a constant, asks for an exponent other than 0 and has one."""
    constant = graph.values[_value_of(graph, holder)].kind == Kind.CONSTANT
    asks = (constant or isinstance(holder, str)) and not window.low <= 0 <= window.high
    return asks and _exponent(plan, holder) != 0


def _value_of(graph: Graph, holder: Unknown) -> str:
    if isinstance(holder, Use):
        return graph.by_name[holder.node].inputs[holder.operand]
    return str(holder)


@dataclass(frozen=True, slots=True)
class _Ties:
    """How holders hang together: those in the order of execution, the equations that tie each of
    them to others, and what is held at 0 by whom."""

    holders: dict[Unknown, None]
    links: dict[Unknown, list[tuple[Tie, Sequence[Unknown]]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    pins: dict[Unknown, Tie | str] = field(default_factory=dict[Unknown, Tie | str])


def _ties(graph: Graph, known: Equations, plan: Plan) -> _Ties:
    found = _Ties(dict.fromkeys(_holders(graph, plan)))
    for name in (*graph.inputs, *graph.outputs):
        if graph.values[name].floating and known:
            found.pins.setdefault(name, name)
    for node, laws in known.items():
        for i, equation in enumerate(laws):
            unknowns = (u for u in equation.terms if not isinstance(u, Auxiliary))
            tied = [_holder(graph, plan, unknown) for unknown in unknowns]
            if len(equation.terms) == 1:
                for holder in tied:
                    found.pins.setdefault(holder, Tie(node, i))
            else:
                for holder in tied:
                    found.links[holder].append((Tie(node, i), tied))
    return found


def _holder(graph: Graph, plan: Plan, unknown: Unknown) -> Unknown:
    """Who has the exponent of an unknown: the value, if it is read as it is made."""
    if not isinstance(unknown, Use):
        return unknown
    name = _value_of(graph, unknown)
    computed = graph.values[name].kind in (Kind.INPUT, Kind.ACTIVATION)
    as_made = computed and _exponent(plan, unknown) == _exponent(plan, name)
    return name if as_made else unknown


def _holders(graph: Graph, plan: Plan) -> Iterator[Unknown]:
    """All that has an exponent, in the order of execution."""
    yield from graph.inputs
    for node in graph.nodes:
        for operand in node.inputs:
            yield _holder(graph, plan, Use(node.name, operand))
        yield from node.outputs


def _nearest(
    sources: Mapping[Unknown, Source],
    links: Mapping[Unknown, Sequence[tuple[Tie, Sequence[Unknown]]]],
    passes: Callable[[Unknown], bool],
) -> dict[Unknown, tuple[Source, Tie | None]]:
    """For each holder the source that is the fewest laws away, and the last law on the way."""
    found: dict[Unknown, tuple[Source, Tie | None]] = {h: (s, None) for h, s in sources.items()}
    pending = deque(sources)
    while pending:
        holder = pending.popleft()
        for tie, tied in links.get(holder, ()):
            for other in tied:
                if other not in found and passes(other):
                    found[other] = found[holder][0], tie
                    pending.append(other)
    return found
