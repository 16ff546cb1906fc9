"""The report as data: JSON in, JSON out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from halfsafe.atomic import atomically
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
from halfsafe.faults import Fault, FaultKind
from halfsafe.graph import Graph, Kind
from halfsafe.ranges import Range
from halfsafe.remedies import describe
from halfsafe.verify import Verification

if TYPE_CHECKING:
    from halfsafe.fix import Prepared
    from halfsafe.source import Source

SCHEMA = 1


@dataclass(frozen=True)
class ValueReport:
    """One value: where it comes from, how large it gets, at which exponent it is stored."""

    name: str
    kind: str
    op: str
    module: str
    line: str
    in_float32: bool
    exponent: int
    range: Range


@dataclass(frozen=True)
class Report:
    """Everything that halfsafe found, did and proved."""

    model: str
    nodes: int
    samples: int
    headroom: int
    notes: tuple[str, ...]
    values: tuple[ValueReport, ...]
    faults: tuple[Fault, ...]
    folds: tuple[str, ...]
    insertions: tuple[str, ...]
    forms: tuple[str, ...]
    islands: tuple[str, ...]
    replacements: tuple[str, ...]
    conflicts: tuple[str, ...]
    unknown_ops: tuple[str, ...]
    verification: Verification
    schema: int = SCHEMA
    halfsafe: str = version("halfsafe")

    @property
    def safe(self) -> bool:
        """Nothing is unresolved, and the proof holds.

        Other forms of operators may round differently in FP32, but not by more than rounding does.
        """
        proof = self.verification
        rounding = 1e-5 if self.forms else 0.0
        exact = proof.bit_equal or proof.worst_difference <= rounding
        return not self.conflicts and proof.safe and exact

    def to_json(self) -> dict[str, Any]:
        """Plain data for json.dump; `from_json` is the inverse."""
        data = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            **data,
            "notes": list(self.notes),
            "values": [{**asdict(v), "range": v.range.to_json()} for v in self.values],
            "faults": [asdict(f) for f in self.faults],
            "verification": _finite(asdict(self.verification)),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Report:
        """Raises ValueError for a report of another schema."""
        if data.get("schema") != SCHEMA:
            raise ValueError(f"report schema {data.get('schema')}: this version reads {SCHEMA}")
        rest: dict[str, Any] = {k: _tuple(v) for k, v in data.items()}
        rest["values"] = tuple(_value(v) for v in data["values"])
        rest["faults"] = tuple(_fault(f) for f in data["faults"])
        rest["verification"] = Verification(**_infinite(data["verification"]))
        return cls(**rest)

    def save(self, path: str | Path) -> None:
        """Writes JSON, whole or not at all."""
        text = json.dumps(self.to_json(), indent=1, allow_nan=False)
        atomically(Path(path), lambda partial: Path(partial).write_text(text, encoding="utf-8"))

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Reads what `save` wrote. Raises ValueError."""
        return cls.from_json(json.loads(Path(path).read_text(encoding="utf-8")))

    def text(self) -> str:
        """The report for a terminal, 80 columns wide."""
        from halfsafe.report.text import render

        return render(self)


def write_report(
    original: Source, prepared: Prepared, proof: Verification, samples: int, headroom: int
) -> Report:
    """Gathers the report of a fix."""
    graph = prepared.source.graph
    edits = prepared.edits
    return Report(
        model=original.name,
        nodes=len(original.graph.nodes),
        samples=samples,
        headroom=headroom,
        notes=original.notes,
        values=tuple(_values(graph, prepared)),
        faults=prepared.faults,
        folds=tuple(_describe(graph, e) for e in edits if isinstance(e, (Fold, SetNumber))),
        insertions=tuple(
            _describe(graph, e) for e in edits if isinstance(e, (Insert, ScaleInput, ScaleOutput))
        ),
        forms=tuple(_describe(graph, e) for e in prepared.forms if isinstance(e, Lower)),
        islands=tuple(_describe(graph, e) for e in prepared.forms if isinstance(e, Island)),
        replacements=tuple(_describe(graph, e) for e in prepared.replacements),
        conflicts=tuple(describe(graph, c) for c in prepared.plan.conflicts),
        unknown_ops=prepared.plan.unknown_ops,
        verification=proof,
    )


def _values(graph: Graph, prepared: Prepared) -> Iterable[ValueReport]:
    for name, value in graph.values.items():
        if not value.floating or value.kind == Kind.LITERAL:
            continue
        node = graph.producers.get(name)
        uses = [prepared.plan.uses[use] for use in graph.consumers[name]]
        made_at = prepared.plan.exponents.get(name, 0)
        yield ValueReport(
            name=name,
            kind=str(value.kind),
            op=node.op if node else "",
            module=node.module if node else "",
            line=node.line if node else "",
            in_float32=not value.bounded,
            exponent=uses[0] if value.kind == Kind.CONSTANT and uses else made_at,
            range=prepared.ranges.get(name, Range()),
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


def _value(data: Mapping[str, Any]) -> ValueReport:
    rest: dict[str, Any] = dict(data)
    rest["range"] = Range.from_json(data["range"])
    return ValueReport(**rest)


def _fault(data: Mapping[str, Any]) -> Fault:
    rest: dict[str, Any] = {k: _tuple(v) for k, v in data.items()}
    rest["kind"] = FaultKind(data["kind"])
    return Fault(**rest)


def _finite(data: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity: an infinite error is written as null."""
    return {k: None if v == float("inf") else v for k, v in data.items()}


def _infinite(data: Mapping[str, Any]) -> dict[str, Any]:
    return {k: float("inf") if v is None else v for k, v in data.items()}
