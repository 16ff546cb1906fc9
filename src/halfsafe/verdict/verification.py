"""The proof as data: findings on all samples, and the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf
from typing import Any

from halfsafe.verdict.finding import TOLERANCE, Answer, Finding, finding, judge, plain
from halfsafe.verdict.metrics import METRICS

EXACT = 1e-5
"""Relative difference in FP32 that another form of an operator may make, by its own rounding."""

CAPTURED = 1e-3
"""Relative difference in FP32 beyond which a captured graph is another function than the model:
kernels that fuse what a graph does not differ by a few roundings of FP32, near 1e-6."""


@dataclass(frozen=True)
class Verification:
    """The proof. `bit_equal` is about FP32 on every sample; findings compare FP16 with FP32.

    `worst_difference` is the largest relative difference between the original and the fixed model
    in FP32, and `captured` that between the user's model and the graph that was read from it.
    `findings` are of the fixed model in FP16, on all samples, those `before` of the original on
    one of them. Where FP16 is evaluated strictly, `own` ones may be of the framework's own kernels,
    which can hide overflow: ONNX Runtime's CPU provider computes in FP32 between FP16 nodes.
    `forms` says whether operators were replaced by other forms, which may round differently in
    FP32. `unmeasured` of the samples were kept out of measuring. `delivered` says what is wrong
    with the FP16 deployable where it really runs.
    """

    samples: int
    unmeasured: int
    bit_equal: bool
    worst_difference: float
    engine: str
    findings: tuple[Finding, ...] = ()
    findings_before: tuple[Finding, ...] = ()
    findings_own: tuple[Finding, ...] = ()
    captured: float = 0.0
    forms: bool = False
    in_float32: bool = True
    tolerance: float = TOLERANCE
    metric: str = ""
    metric_error: float = 0.0
    delivered: str = ""

    @property
    def held_out(self) -> bool:
        """Whether samples were proved that had not been measured."""
        return self.unmeasured > 0

    @property
    def after(self) -> float:
        """The worst relative error of an output of the fixed model in FP16; inf if nonfinite."""
        return _worst(self.findings)

    @property
    def after_nonfinite(self) -> int:
        """Entries that are not finite where they should be, or the other way round."""
        return sum(f.nonfinite for f in self.findings)

    @property
    def before(self) -> float:
        """The same of the original in FP16."""
        return _worst(self.findings_before)

    @property
    def before_nonfinite(self) -> int:
        """The same of the original in FP16."""
        return sum(f.nonfinite for f in self.findings_before)

    @property
    def own(self) -> float | None:
        """The same in the framework's own kernels, where they were looked at."""
        return _worst(self.findings_own) if self.findings_own else None

    @property
    def own_nonfinite(self) -> int:
        """The same in the framework's own kernels."""
        return sum(f.nonfinite for f in self.findings_own)

    @property
    def floor(self) -> float:
        """The worst relative error of an output at the floor: 11 bits at any exponent."""
        return max((f.floor for f in self.findings), default=0.0)

    @property
    def differing(self) -> int:
        """Integers that are not the same."""
        return sum(f.differing for f in self.findings)

    @property
    def ratio(self) -> float:
        """The worst error / floor of an output: 1.0 is the best that FP16 can reach."""
        return max((f.ratio for f in self.findings), default=1.0)

    @property
    def judged(self) -> list[tuple[Finding, Answer, str]]:
        """Every finding with its answer and the reason."""
        return judge(self.findings, self.tolerance)

    @property
    def reasons(self) -> list[tuple[Answer, str]]:
        """Why the answer is not "safe", the worst first: what, and where."""
        found = list(self._of_float32())
        found += [(Answer.NOT_SAFE, self.delivered)] * bool(self.delivered)
        if self.metric:
            exact = self.metric in METRICS  # by name they know floats only
            broken = [
                (f, a, why)
                for f, a, why in self.judged
                if a != Answer.SAFE and (f.nonfinite or (exact and f.differing))
            ]
            found += [(a, f"{_place(f)}: {why}") for f, a, why in broken]
            if not self.metric_error <= self.tolerance:
                what = f"{self.metric} is {self.metric_error:.3g}, above {self.tolerance:.3g}"
                found.append((Answer.NOT_SAFE, what))
        else:
            found += [(a, f"{_place(f)}: {why}") for f, a, why in self.judged if a != Answer.SAFE]
        return sorted(found, key=lambda reason: reason[0] != Answer.NOT_SAFE)

    def _of_float32(self) -> list[tuple[Answer, str]]:
        if self.captured > CAPTURED:
            what = (
                f"the captured graph is not the model: they differ by {self.captured:.2g} in FP32"
            )
            return [(Answer.NOT_SAFE, what)]
        allowed = EXACT if self.forms else 0.0
        if self.in_float32 and not self.bit_equal and not self.worst_difference <= allowed:
            what = f"the rescaled model differs by {self.worst_difference:.2g} in FP32"
            return [(Answer.NOT_SAFE, what)]
        return []

    @property
    def exactness(self) -> str:
        """What is said of the fixed model in FP32."""
        if not self.bit_equal:
            return f"differs by {self.worst_difference:.1e}"
        if self.captured:
            return f"bit-equal to the captured graph, {self.captured:.1e} from the model"
        return "bit-equal"

    @property
    def answer(self) -> Answer:
        """The worst of all reasons decides."""
        return self.reasons[0][0] if self.reasons else Answer.SAFE

    @property
    def safe(self) -> bool:
        """Whether every output of every sample is as good as FP16 can make it, and usable."""
        return self.answer is Answer.SAFE

    def to_json(self) -> dict[str, Any]:
        """Plain data. JSON has no infinity: it is written as null."""
        return {**plain(asdict(self)), **plain({name: getattr(self, name) for name in _SUMMARY})}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Verification:
        """The inverse of `to_json`."""
        fields: dict[str, Any] = {k: inf if v is None else v for k, v in data.items()}
        for name in _SUMMARY:
            fields.pop(name, None)
        for name in ("findings", "findings_before", "findings_own"):
            fields[name] = tuple(finding(found) for found in data[name])
        return cls(**fields)


_SUMMARY = (
    "answer after after_nonfinite before before_nonfinite own own_nonfinite floor ratio differing "
    "safe held_out"
).split()
"""What follows from the findings, for other people's scripts."""


def _place(found: Finding) -> str:
    return f"output {found.name or found.output}, sample {found.sample}"


def _worst(findings: Sequence[Finding]) -> float:
    return max((f.error for f in findings), default=0.0)
