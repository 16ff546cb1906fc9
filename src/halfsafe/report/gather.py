"""Gathers a report from what the pipeline has measured, decided and proved."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from halfsafe.certify import Certified
from halfsafe.deviation import Comparisons
from halfsafe.edits import (
    Edit,
    Fold,
    Insert,
    Island,
    Lower,
    Replace,
    ScaleInput,
    ScaleOutput,
    SetNumber,
)
from halfsafe.graph import Graph, Kind
from halfsafe.prepare import Prepared
from halfsafe.ranges import Range, Ranges
from halfsafe.remedies import describe
from halfsafe.report.certificate import BoundReport, CertificateReport
from halfsafe.report.data import Tool, ValueReport
from halfsafe.report.reasons import Equations, equations_of, faults_of, laws_of, reasons_of
from halfsafe.report.report import Report
from halfsafe.rules import traits_of, unknown_ops
from halfsafe.source import Source
from halfsafe.verdict import Finding, Verification


def observed(
    *,
    tool: Tool,
    model: str,
    command: str,
    samples: int,
    headroom: int,
    graph: Graph,
    ranges: Ranges,
    compared: Comparisons,
    findings: tuple[Finding, ...] = (),
    notes: tuple[str, ...] = (),
) -> Report:
    """The report of a tool that measures and changes nothing. Of module calls there are no laws."""
    known: Equations = {} if tool == "watch" else equations_of(graph)
    reasons = reasons_of(graph, ranges, headroom, known)
    values = {
        name: ValueReport(ranges[name], comparison=compared.get(name), reason=reason)
        for name, reason in reasons.items()
        if name in ranges
    }
    return Report(
        tool=tool,
        model=model,
        command=command,
        samples=samples,
        headroom=headroom,
        graph=graph.plain,
        values=values,
        faults=tuple(faults_of(graph, values, headroom, findings)),
        laws=laws_of(graph, known),
        findings=findings,
        notes=(*notes, *_unseen(graph, ranges)),
        unknown_ops=() if tool == "watch" else tuple(unknown_ops(graph)),
    )


def write_report(
    original: Source,
    prepared: Prepared,
    proof: Verification,
    samples: int,
    headroom: int,
    notes: Iterable[str] = (),
    held: Certified | None = None,
) -> Report:
    """The report of a fix, with what is certified of it."""
    graph, plan, edits = prepared.source.graph, prepared.plan, prepared.edits
    known = equations_of(graph)
    notes = (*original.notes, *prepared.notes, *notes)
    return Report(
        tool="fix",
        model=original.name,
        command="halfsafe.fix(model, samples)",
        samples=samples,
        headroom=headroom,
        graph=graph.plain,
        values=_planned(graph, prepared, headroom, known),
        faults=prepared.faults,
        laws=laws_of(graph, known),
        notes=(*notes, *_unseen(graph, prepared.ranges)),
        folds=_words(e for e in edits if isinstance(e, (Fold, SetNumber))),
        insertions=_words(e for e in edits if isinstance(e, (Insert, ScaleInput, ScaleOutput))),
        forms=_words(prepared.forms),
        islands=_words(prepared.islands),
        replacements=_words(prepared.replacements),
        conflicts=tuple(describe(graph, conflict) for conflict in plan.conflicts),
        unknown_ops=plan.unknown_ops,
        verification=proof,
        certificate=held and _certificate(held),
        tightest=_tightest(graph, prepared),
    )


def _certificate(held: Certified) -> CertificateReport:
    """Of each value of what is delivered, by its name there."""
    after = held.after
    values = {
        name: BoundReport(
            **vars(standing),
            bound=after.values[name].bound,
            by=after.values[name].by,
            where=after.values[name].where,
        )
        for name, standing in held.standings().items()
    }
    return CertificateReport(after.shapes, after.domain, values, after.accumulators)


def _tightest(graph: Graph, prepared: Prepared) -> tuple[str, float] | None:
    """The computed value with the least room, as it is made or behind a multiplication, and how
    many bits it has. What reads a value where it is constant needs none."""
    plan, left = prepared.plan, dict[str, float]()
    for name, value in graph.values.items():
        if not value.bounded or value.kind != Kind.ACTIVATION or name not in prepared.ranges:
            continue
        uses = (u for u in graph.consumers[name] if not traits_of(graph.by_name[u.node]).saturates)
        least = min([plan.exponents.get(name, 0), *(plan.uses[use] for use in uses)])
        bits = prepared.ranges[name].headroom() + least
        if 0 <= bits < inf:
            left[name] = bits
    return min(left.items(), key=lambda found: found[1], default=None)


def _planned(
    graph: Graph, prepared: Prepared, headroom: int, known: Equations
) -> dict[str, ValueReport]:
    """Every value with the exponent that the plan gives it, a constant as it is first read."""
    ranges, plan = prepared.ranges, prepared.plan
    values: dict[str, ValueReport] = {}
    for name, reason in reasons_of(graph, ranges, headroom, known, plan).items():
        uses = [plan.uses[use] for use in graph.consumers[name]]
        constant = graph.values[name].kind == Kind.CONSTANT
        exponent = uses[0] if constant and uses else plan.exponents.get(name, 0)
        values[name] = ValueReport(ranges.get(name, Range()), exponent, reason=reason)
    return values


def _unseen(graph: Graph, ranges: Ranges) -> list[str]:
    """Says so where no sample reaches a value: in a branch, or a loop, that none of them takes."""
    made = [name for name, v in graph.values.items() if v.bounded and v.kind == Kind.ACTIVATION]
    unseen = [name for name in made if name not in ranges]
    if not unseen:
        return []
    return [
        f"{len(unseen)} values, the first of them {graph.describe(unseen[0])}, are computed for no "
        "sample: nothing is known of their ranges, pass samples that take that branch"
    ]


def _words(edits: Iterable[Edit]) -> tuple[str, ...]:
    return tuple(_describe(edit) for edit in edits)


def _describe(edit: Edit) -> str:
    match edit:
        case Fold():
            return f"{edit.constant} times 2^{-edit.exponent}, as {edit.use} reads it"
        case SetNumber():
            return f"{edit.use} = {edit.number:.6g} times 2^{-edit.exponent}"
        case Island():
            return f"{', '.join(edit.nodes)}: {edit.why}"
        case Insert():
            clip = ", clipped" if edit.clip else ""
            return f"{edit.value} times 2^{edit.bits}{clip} in front of {edit.use}"
        case ScaleInput():
            return f"input {edit.value} times 2^{edit.bits}, in FP32"
        case ScaleOutput():
            return f"output {edit.value} times 2^{edit.bits}{', in FP32' * edit.in_float32}"
        case Lower():
            return f"{edit.node} as carrier times gate ({edit.form})"
        case Replace():
            return f"{edit.use}: {edit.old:.6g} becomes {edit.new:.6g}: {edit.why}"
