"""The report as data: JSON in, JSON out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from halfsafe.atomic import atomically
from halfsafe.deviation import Comparison, Comparisons, Deviation
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
from halfsafe.faults import Fault, FaultKind, find_faults
from halfsafe.graph import Graph, Kind
from halfsafe.ranges import Range, Ranges
from halfsafe.remedies import describe
from halfsafe.rules import unknown_ops
from halfsafe.verdict import TOLERANCE, Answer, Finding, Verification, finding, judge, plain
from halfsafe.windows import Limits

if TYPE_CHECKING:
    from halfsafe.prepare import Prepared
    from halfsafe.source import Source

SCHEMA = 3

Tool = Literal["inspect", "watch", "fix"]


@dataclass(frozen=True, slots=True)
class ValueReport:
    """How large one value gets, at which exponent it is stored, and what FP16 makes of it.

    What the value is (operator, module, source line, shape) stands in the report's graph under the
    same name. `comparison` is there where the network was run in FP16 beside FP32.
    """

    range: Range
    exponent: int = 0
    comparison: Comparison | None = None


@dataclass(frozen=True)
class Report:
    """Everything that halfsafe found, did and proved."""

    tool: Tool
    model: str
    command: str
    samples: int
    headroom: int
    graph: Graph
    values: Mapping[str, ValueReport]
    faults: tuple[Fault, ...]
    notes: tuple[str, ...] = ()
    folds: tuple[str, ...] = ()
    insertions: tuple[str, ...] = ()
    forms: tuple[str, ...] = ()
    islands: tuple[str, ...] = ()
    replacements: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    unknown_ops: tuple[str, ...] = ()
    verification: Verification | None = None
    findings: tuple[Finding, ...] = ()
    schema: int = SCHEMA
    halfsafe: str = version("halfsafe")

    @property
    def safe(self) -> bool:
        """Of a fix: the proof holds. Otherwise: no fault harms an output, and no output is wrong.

        A latent overflow is a warning, no fault. What a plan leaves unresolved counts if the proof
        finds that it harms an output.
        """
        return self.answer is Answer.SAFE

    @property
    def answer(self) -> Answer:
        """The verdict: safe, not safe, or as good as FP16 can be and still of no use."""
        if self.verification is not None:
            return self.verification.answer
        if any(fault.harms for fault in self.faults):
            return Answer.NOT_SAFE
        judged = [answer for _, answer, _ in judge(self.findings, TOLERANCE)]
        return next((a for a in (Answer.NOT_SAFE, Answer.LIMITED) if a in judged), Answer.SAFE)

    @property
    def labels(self) -> dict[str, dict[str, str]]:
        """Range and exponent of every computed value, in words for viewers of files."""
        return {
            name: {
                "halfsafe.amax": f"{value.range.amax:.4g}",
                "halfsafe.smallest": f"{value.range.smallest:.4g}",
                "halfsafe.exponent": str(value.exponent),
            }
            for name, value in self.values.items()
            if self.graph.values[name].kind == Kind.ACTIVATION
        }

    def __or__(self, other: Report) -> Report:
        """The report on both sets of samples, of one model. Raises ValueError for two models."""
        if self.verification or other.verification:
            raise ValueError("a proof cannot be merged: merge reports of inspect or watch")
        if self.graph != other.graph or self.headroom != other.headroom:
            raise ValueError(f"'{self.model}' and '{other.model}' were not measured alike")
        values = {
            name: value
            if self.graph.values[name].kind == Kind.CONSTANT
            else _merged(value, other.values[name])
            for name, value in self.values.items()
        }
        findings = (*self.findings, *other.findings)
        return replace(
            self,
            samples=self.samples + other.samples,
            values=values,
            faults=tuple(faults_of(self.graph, values, self.headroom, findings)),
            findings=tuple(sorted(findings, key=lambda f: (f.sample, f.output))),
            notes=tuple(dict.fromkeys((*self.notes, *other.notes))),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data for json.dump; `from_json` is the inverse."""
        data = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            **data,
            "graph": self.graph.to_json(),
            "values": {name: _value_to_json(v) for name, v in self.values.items()},
            "faults": [asdict(f) for f in self.faults],
            "verification": self.verification and self.verification.to_json(),
            "findings": plain([asdict(f) for f in self.findings]),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Report:
        """Raises ValueError for a report of another schema."""
        if data.get("schema") != SCHEMA:
            raise ValueError(f"report schema {data.get('schema')}: this version reads {SCHEMA}")
        rest: dict[str, Any] = {k: _tuple(v) for k, v in data.items()}
        rest["graph"] = Graph.from_json(data["graph"])
        rest["values"] = {name: _value(v) for name, v in data["values"].items()}
        rest["faults"] = tuple(_fault(f) for f in data["faults"])
        rest["findings"] = tuple(finding(f) for f in data["findings"])
        if proof := data["verification"]:
            rest["verification"] = Verification.from_json(proof)
        return cls(**rest)

    def save(self, path: str | Path) -> None:
        """Writes JSON, whole or not at all."""
        _write(path, json.dumps(self.to_json(), indent=1, allow_nan=False))

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Reads what `save` wrote. Raises ValueError."""
        return cls.from_json(json.loads(Path(path).read_text(encoding="utf-8")))

    def html(self, path: str | Path) -> None:
        """Writes one HTML file that needs no network, whole or not at all."""
        from halfsafe.report.html import render

        _write(path, render(self))

    def model_explorer(self, path: str | Path) -> None:
        """Writes node data that Google's Model Explorer shows over the model's graph."""
        from halfsafe.report.model_explorer import node_data

        _write(path, json.dumps(node_data(self), indent=1, allow_nan=False))

    def text(self) -> str:
        """The report for a terminal, 80 columns wide."""
        from halfsafe.report.text import render

        return render(self)


def _write(path: str | Path, text: str) -> None:
    atomically(Path(path), lambda partial: Path(partial).write_text(text, encoding="utf-8"))


def faults_of(
    graph: Graph,
    values: Mapping[str, ValueReport],
    headroom: int,
    findings: tuple[Finding, ...] = (),
) -> list[Fault]:
    """The faults that follow from what was measured."""
    ranges = {name: value.range for name, value in values.items()}
    numbers = {n: Range.of(v.number) for n, v in graph.values.items() if v.number is not None}
    compared = {name: v.comparison for name, v in values.items() if v.comparison}
    return find_faults(graph, numbers | ranges, Limits(headroom=headroom), compared, findings)


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
    """The report of a tool that measures and changes nothing."""
    values = {
        name: ValueReport(ranges[name], comparison=compared.get(name))
        for name, value in graph.values.items()
        if value.floating and value.kind != Kind.LITERAL and name in ranges
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
        findings=findings,
        notes=(*notes, *_unseen(graph, ranges)),
        unknown_ops=tuple(unknown_ops(graph)) if tool == "inspect" else (),
    )


def write_report(
    original: Source,
    prepared: Prepared,
    proof: Verification,
    samples: int,
    headroom: int,
    notes: Iterable[str] = (),
) -> Report:
    """Gathers the report of a fix."""
    graph = prepared.source.graph
    edits = prepared.edits
    return Report(
        tool="fix",
        model=original.name,
        command="halfsafe.fix(model, samples)",
        samples=samples,
        headroom=headroom,
        graph=graph.plain,
        values=dict(_values(graph, prepared)),
        faults=prepared.faults,
        notes=(
            *original.notes,
            *prepared.plan.notes,
            *prepared.notes,
            *notes,
            *_unseen(graph, prepared.ranges),
        ),
        folds=tuple(_describe(graph, e) for e in edits if isinstance(e, (Fold, SetNumber))),
        insertions=tuple(
            _describe(graph, e) for e in edits if isinstance(e, (Insert, ScaleInput, ScaleOutput))
        ),
        forms=tuple(_describe(graph, e) for e in prepared.forms),
        islands=tuple(_describe(graph, e) for e in prepared.islands),
        replacements=tuple(_describe(graph, e) for e in prepared.replacements),
        conflicts=tuple(describe(graph, c) for c in prepared.plan.conflicts),
        unknown_ops=prepared.plan.unknown_ops,
        verification=proof,
    )


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


def _values(graph: Graph, prepared: Prepared) -> Iterable[tuple[str, ValueReport]]:
    for name, value in graph.values.items():
        if not value.floating or value.kind == Kind.LITERAL:
            continue
        uses = [prepared.plan.uses[use] for use in graph.consumers[name]]
        made_at = prepared.plan.exponents.get(name, 0)
        yield (
            name,
            ValueReport(
                range=prepared.ranges.get(name, Range()),
                exponent=uses[0] if value.kind == Kind.CONSTANT and uses else made_at,
            ),
        )


def _describe(graph: Graph, edit: Edit) -> str:
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


def _tuple(found: Any) -> Any:
    """JSON has lists where the report has tuples."""
    return tuple(cast("list[Any]", found)) if isinstance(found, list) else found


def _merged(first: ValueReport, second: ValueReport) -> ValueReport:
    both = first.comparison, second.comparison
    comparison = both[0] | both[1] if both[0] and both[1] else both[0] or both[1]
    return replace(first, range=first.range | second.range, comparison=comparison)


def _value_to_json(value: ValueReport) -> dict[str, Any]:
    """With the figures that follow from the range, for other people's scripts."""
    measured = value.range
    headroom = measured.headroom()
    return {
        "exponent": value.exponent,
        "range": measured.to_json(),
        "headroom_bits": None if headroom == inf else headroom,
        "overflowing": measured.overflowing(),
        "subnormal": measured.subnormal(),
        "lost": measured.lost(),
        "comparison": value.comparison and asdict(value.comparison),
    }


def _value(data: Mapping[str, Any]) -> ValueReport:
    found = data["comparison"]
    compared = found and Comparison(
        Deviation(**found["half"]), Deviation(**found["floor"]), found["differing"]
    )
    return ValueReport(Range.from_json(data["range"]), data["exponent"], compared)


def _fault(data: Mapping[str, Any]) -> Fault:
    rest: dict[str, Any] = {k: _tuple(v) for k, v in data.items()}
    rest["kind"] = FaultKind(data["kind"])
    return Fault(**rest)
