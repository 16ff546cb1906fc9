"""Runs what a verdict is made of: the user's model, the rewritten one, and the floor of FP16."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from math import inf, isnan

import numpy as np

from halfsafe.deviation import WRONG, bit_equal, worst_difference
from halfsafe.engines import Engine, Running
from halfsafe.errors import BadInput, first_line
from halfsafe.formats import FLOAT32, FLOOR
from halfsafe.rules.traits import natural_scale
from halfsafe.samples import Call
from halfsafe.source import Arrays, Delivery, Progress, Runnable, Source
from halfsafe.verdict import (
    TOLERANCE,
    Answer,
    Finding,
    Metric,
    Verification,
    findings_of,
    judge,
    metric_of,
)


@dataclass(frozen=True, slots=True)
class Standard:
    """What counts as good enough: a tolerance on relative errors, or on a metric of the user's."""

    tolerance: float = TOLERANCE
    metric: str | Metric | None = None

    def __post_init__(self) -> None:
        if not self.tolerance > 0:
            raise BadInput(f"tolerance is {self.tolerance}: give a relative error above 0")
        metric_of(self.metric)


@dataclass
class Proof:
    """A proof in the making, one sample after the other; nothing of a sample is kept but findings.

    `exact` is proved against `original` in FP32 and `deployed` in FP16; without `exact` nothing is
    said of FP32. FP16 runs in `engine`, and, where there is one, in a second.
    """

    original: Source
    exact: Source | None
    deployed: Runnable
    engine: Engine
    standard: Standard = field(default_factory=Standard)
    forms: bool = False
    also: Engine | None = None
    _samples: int = 0
    _equal: bool = True
    _worst: float = 0.0
    _captured: float = 0.0
    _before: list[Finding] = field(default_factory=list[Finding])
    _after: list[Finding] = field(default_factory=list[Finding])
    _own: list[Finding] = field(default_factory=list[Finding])
    _metric: float = 0.0

    @cached_property
    def _running(self) -> Running:
        return self.engine.build(self.deployed)

    @cached_property
    def _second(self) -> Running | None:
        return None if self.also is None else self.also.build(self.deployed)

    def add(self, call: Call, *, before: bool = False) -> None:
        """Proves one sample. Raises BadInput if its reference is not finite."""
        original = self.original
        reference = original.reference(call)
        check_reference(reference, call.number)
        floor = original.evaluate(call, self.engine.profile.stores.at_any_exponent)
        self._in_float32(call, reference)
        if before:
            as_it_is = _as_is(original, call, self.engine, reference)
            self._before += self._findings(call, reference, as_it_is, floor)
        after = self._running.run(call)
        self._after += self._findings(call, reference, after, floor)
        _, metric = metric_of(self.standard.metric)
        if metric is not None:
            alike = [np.shape(a) for a in after] == [np.shape(r) for r in reference]
            error = float(metric(after, reference)) if alike else inf
            self._metric = max(self._metric, inf if isnan(error) else error)
        if self._second is not None:
            own = self._second.run(call)
            self._own += self._findings(call, reference, own, floor)
        self._samples += 1

    def done(self, unmeasured: int = 0) -> Verification:
        """The verdict on the samples so far, of which some were not measured."""
        return Verification(
            samples=self._samples,
            unmeasured=unmeasured,
            bit_equal=self._equal and self.exact is not None,
            worst_difference=self._worst,
            captured=self._captured,
            engine=self.engine.name,
            findings_before=tuple(self._before),
            findings=tuple(self._after),
            findings_own=tuple(self._own),
            forms=self.forms,
            in_float32=self.exact is not None,
            tolerance=self.standard.tolerance,
            metric=metric_of(self.standard.metric)[0],
            metric_error=self._metric,
        )

    def _in_float32(self, call: Call, reference: Arrays) -> None:
        """The fixed model must give the user's model's own bits, where capturing has kept them."""
        known = reference
        if not self.original.captured_exactly:
            known = self.original.evaluate(call, FLOAT32)
            self._captured = max(self._captured, worst_difference(known, reference))
        if self.exact is not None:
            rewritten = self.exact.evaluate(call, FLOAT32)
            self._equal &= bit_equal(rewritten, known)
            self._worst = max(self._worst, worst_difference(rewritten, known))

    def _findings(
        self, call: Call, reference: Arrays, candidate: Arrays, floor: Arrays
    ) -> list[Finding]:
        graph = self.original.graph
        scales = [natural_scale(graph, name) for name in graph.outputs]
        return findings_of(graph.outputs, scales, call.number, reference, candidate, floor)


def prove(
    proof: Proof, calls: Iterable[Call], last: int, unmeasured: int, progress: Progress
) -> Verification:
    """Proves all samples, one at a time; on sample number `last` the original runs in FP16 too."""
    for call in calls:
        progress(f"proving sample {call.number + 1}")
        proof.add(call, before=call.number == last)
    return proof.done(unmeasured)


RUN = 4
"""Samples on which the deployable itself is run; one of a network of more than HEAVY entries."""

HEAVY = 2**22
"""Entries of all values, beyond which PyTorch's half kernels on a CPU take seconds a sample."""


def delivered(
    delivery: Delivery, original: Source, calls: Iterable[Call], proof: Verification
) -> tuple[Verification, list[str]]:
    """The proof with what is wrong with the deployable where it runs, and notes.

    Strict evaluation is of the graph; the deployable itself has to run, and its kernels, which may
    store inside of an operator what the graph does not show, have to be as good.
    """
    if not proof.safe:
        return proof, []
    graph, findings = original.graph, list[Finding]()
    scales = [natural_scale(graph, name) for name in graph.outputs]
    heavy = sum(value.size for value in graph.values.values()) > HEAVY
    for call in islice(calls, 1 if heavy else RUN):
        try:
            found = delivery.half_outputs(call)
        except Exception as error:
            why = f"the FP16 deployable does not run: {first_line(error)}"
            return replace(proof, delivered=why), []
        if found is None:
            return proof, ["the FP16 deployable is large: its types were run, not its kernels"]
        reference, floor = original.reference(call), original.evaluate(call, FLOOR)
        findings += findings_of(graph.outputs, scales, call.number, reference, found, floor)
    if proof.metric:  # errors are the metric's affair, what is not finite is not
        findings = [f for f in findings if f.nonfinite]
    judged = judge([f for f in findings if _is_unusable(f, proof.tolerance)], proof.tolerance)
    bad = [why for _, answer, why in judged if answer is Answer.NOT_SAFE]
    if not bad:
        return proof, []
    return replace(proof, delivered=f"in its own kernels the FP16 deployable has {bad[0]}"), []


def _is_unusable(found: Finding, tolerance: float) -> bool:
    """Whether an output is of no use: kernels that round in another order are no fault."""
    rows = [row for row in (found.row, found.far) if row is not None and row.excess > WRONG]
    worst = max([found.error, *(row.relative for row in rows)])
    return bool(found.nonfinite or found.differing) or worst > tolerance


def _as_is(original: Source, call: Call, engine: Engine, reference: Arrays) -> Arrays:
    """The original in FP16; NaN where it does not even run, for a number that cannot be cast."""
    try:
        return engine.build(original).run(call)
    except BadInput:
        return [np.full(r.shape, np.nan) if r.dtype.kind == "f" else r for r in reference]


def check_reference(reference: Arrays, sample: int) -> None:
    """Raises BadInput where the FP32 model gives NaN or +inf: there is nothing to compare with."""
    for i, output in enumerate(reference):
        if output.dtype.kind != "f" or not output.size:
            continue
        bad = int(np.isnan(output).sum() + np.isposinf(output).sum())
        if bad:
            raise BadInput(
                f"output {i} of the FP32 model holds {bad} NaN or inf on sample {sample}: pass "
                "samples on which it is finite, there is nothing to compare with otherwise"
            )
