"""The report as plain data: JSON in, JSON out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from math import inf
from typing import Any, Literal, Self, cast

from halfsafe.bisecting.record import Bisection
from halfsafe.deviation import Comparison, Deviation
from halfsafe.errors import BadInput
from halfsafe.faults import Fault, FaultKind
from halfsafe.graph import Graph, Kind
from halfsafe.ranges import Range
from halfsafe.report.certificate import CertificateReport
from halfsafe.verdict import TOLERANCE, Answer, Finding, Verification, finding, judge, plain

SCHEMA = 6

Tool = Literal["inspect", "watch", "fix", "bisect"]


@dataclass(frozen=True, slots=True)
class Tie:
    """One equation of one node, by its place among the record's laws."""

    node: str
    law: int


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a value has its exponent, as it was decided.

    From `low` on it fits with its headroom, and from `least` on only just; up to `high` it stays
    precise, and up to `comfort` it loses practically nothing. None is no limit. `driver` is the
    nearest value tied to this one that cannot stay at exponent 0, and `tie` the last law on the
    way from there. `pin` is the nearest law that holds an exponent at 0, or the name of the nearest
    input or output of the graph; empty where nothing does.
    """

    low: int | None = None
    least: int | None = None
    high: int | None = None
    comfort: int | None = None
    driver: str = ""
    tie: Tie | None = None
    pin: Tie | str = ""


@dataclass(frozen=True, slots=True)
class ValueReport:
    """How large one value gets, at which exponent it is stored and why, and what FP16 makes of it.

    What the value is (operator, module, source line, shape) stands in the report's graph under the
    same name. `comparison` is there where the network was run in FP16 beside FP32.
    """

    range: Range
    exponent: int = 0
    comparison: Comparison | None = None
    reason: Reason = Reason()


@dataclass(frozen=True)
class Record:
    """Everything that halfsafe found, decided, did and proved. Nothing in it is derived anew."""

    tool: Tool
    model: str
    command: str
    samples: int
    headroom: int
    graph: Graph
    values: Mapping[str, ValueReport]
    faults: tuple[Fault, ...]
    laws: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """The equations of each node, as its law was when the record was written."""
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
    bisection: Bisection | None = None
    certificate: CertificateReport | None = None
    tightest: tuple[str, float] | None = None
    """Of a fix: the value that has the least room where it is stored, and how many bits that is."""
    schema: int = SCHEMA
    halfsafe: str = version("halfsafe")

    @property
    def safe(self) -> bool:
        """Of a fix: the proof holds. Of a bisection: the network is within the tolerance.

        Otherwise: no fault harms an output, and no output is wrong.

        A latent overflow is a warning, no fault. What a plan leaves unresolved counts if the proof
        finds that it harms an output.
        """
        return self.answer is Answer.SAFE

    @property
    def answer(self) -> Answer:
        """The verdict: safe, not safe, or as good as FP16 can be and still of no use.

        Unknown where values fit by their ranges, and nobody has looked at outputs.
        """
        if self.verification is not None:
            return self.verification.answer
        if self.bisection is not None:
            return Answer.SAFE if self.bisection.within else Answer.NOT_SAFE
        if any(fault.harms for fault in self.faults):
            return Answer.NOT_SAFE
        if self.tool == "inspect" and not self.findings:
            return Answer.UNKNOWN
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
            "bisection": self.bisection and self.bisection.to_json(),
            "certificate": self.certificate and self.certificate.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Raises BadInput for a report of another schema."""
        if data.get("schema") != SCHEMA:
            again = f"run halfsafe {data.get('tool', 'inspect')} again"
            raise BadInput(f"it has schema {data.get('schema')}, not {SCHEMA}: {again}")
        rest: dict[str, Any] = {k: _tuple(v) for k, v in data.items()}
        rest["graph"] = Graph.from_json(data["graph"])
        rest["values"] = {name: _value(v) for name, v in data["values"].items()}
        rest["faults"] = tuple(_fault(f) for f in data["faults"])
        rest["laws"] = {node: tuple(laws) for node, laws in data["laws"].items()}
        rest["findings"] = tuple(finding(f) for f in data["findings"])
        if proof := data["verification"]:
            rest["verification"] = Verification.from_json(proof)
        if bisection := data["bisection"]:
            rest["bisection"] = Bisection.from_json(bisection)
        if certificate := data["certificate"]:
            rest["certificate"] = CertificateReport.from_json(certificate)
        return cls(**rest)


def _tuple(found: Any) -> Any:
    """JSON has lists where the record has tuples."""
    return tuple(cast("list[Any]", found)) if isinstance(found, list) else found


def _value_to_json(value: ValueReport) -> dict[str, Any]:
    """With the figures that follow from the range, for other people's scripts."""
    measured = value.range
    headroom = measured.headroom()
    return {
        "exponent": value.exponent,
        **_reason_to_json(value.reason),
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
    return ValueReport(Range.from_json(data["range"]), data["exponent"], compared, _reason(data))


def _reason_to_json(reason: Reason) -> dict[str, Any]:
    """A window as [low, least, high, comfort], a law as [node, place among its laws]."""
    pin, tie = reason.pin, reason.tie
    return {
        "window": [reason.low, reason.least, reason.high, reason.comfort],
        "driver": reason.driver,
        "tie": tie and [tie.node, tie.law],
        "pin": pin if isinstance(pin, str) else [pin.node, pin.law],
    }


def _reason(data: Mapping[str, Any]) -> Reason:
    pin, tie = data["pin"], data["tie"]
    return Reason(
        *data["window"],
        driver=data["driver"],
        tie=tie and Tie(*tie),
        pin=pin if isinstance(pin, str) else Tie(*pin),
    )


def _fault(data: Mapping[str, Any]) -> Fault:
    rest: dict[str, Any] = {k: _tuple(v) for k, v in data.items()}
    rest["kind"] = FaultKind(data["kind"])
    return Fault(**rest)
