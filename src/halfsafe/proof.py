"""Runs what a verdict is made of: the user's model, the rewritten one, and the floor of FP16."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from itertools import chain, islice

import numpy as np

from halfsafe.deviation import WRONG, bit_equal, largest_difference, worst_difference
from halfsafe.engines import Engine, Running
from halfsafe.engines.strict import Evaluated
from halfsafe.errors import BadInput, first_line
from halfsafe.formats import FLOAT32, FLOOR
from halfsafe.measure import Measuring, side_by_side
from halfsafe.progress import Step
from halfsafe.references import Reference, References
from halfsafe.rules.traits import natural_scale
from halfsafe.samples import Call
from halfsafe.sharing import ALONE, Group, shared
from halfsafe.source import Arrays, Delivery, Progress, Runnable, Source
from halfsafe.verdict import (
    EXACT,
    ROWS,
    TOLERANCE,
    Answer,
    Finding,
    Metric,
    Verification,
    error_by,
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


@dataclass(frozen=True)
class Proved:
    """What the proof has shown on some samples; nothing of a sample is kept but findings.

    `worst` is the largest relative difference in FP32 and `captured` that of the capture; `own`
    are the findings of a second engine, and `metric` its largest value.
    """

    samples: int = 0
    equal: bool = True
    worst: float = 0.0
    captured: float = 0.0
    before: tuple[Finding, ...] = ()
    after: tuple[Finding, ...] = ()
    own: tuple[Finding, ...] = ()
    metric: float = 0.0

    def __or__(self, other: Proved) -> Proved:
        return Proved(
            self.samples + other.samples,
            self.equal and other.equal,
            max(self.worst, other.worst),
            max(self.captured, other.captured),
            _in_order(self.before, other.before),
            _in_order(self.after, other.after),
            _in_order(self.own, other.own),
            max(self.metric, other.metric),
        )


def _in_order(*found: tuple[Finding, ...]) -> tuple[Finding, ...]:
    return tuple(sorted(chain(*found), key=lambda f: (f.sample, f.output)))


@dataclass(frozen=True)
class Proof:
    """What is to be proved.

    `exact` is proved against the original in FP32 and `deployed` in FP16; without `exact` nothing
    is said of FP32. FP16 runs in `engine`, and, where there is one, in a second.
    """

    references: References
    exact: Source | None
    deployed: Runnable
    engine: Engine
    standard: Standard = field(default_factory=Standard)
    forms: bool = False
    also: Engine | None = None

    @property
    def original(self) -> Source:
        """The user's model."""
        return self.references.original

    @cached_property
    def _running(self) -> Running:
        return self.engine.build(self.deployed)

    @cached_property
    def _second(self) -> Running | None:
        return None if self.also is None else self.also.build(self.deployed)

    def side_by_side(self, calls: Iterable[Call]) -> Iterable[list[Call]]:
        """Samples in lists of those to prove side by side."""
        if self.exact is None:
            return ([call] for call in calls)
        return side_by_side(self.exact.graph, calls, lanes=2)

    def of(
        self, calls: Sequence[Call], *, last: int = -1, progress: Progress = lambda _: None
    ) -> Proved:
        """What some samples show, number `last` in the original's FP16 as well.

        Raises BadInput if a reference is not finite.
        """
        progress(Step.of("proving", calls[0].number))
        known = [self.references.of(call) for call in calls]
        for call, reference in zip(calls, known, strict=True):
            check_reference(reference.own, call.number)
        progress(Step.of("proving", calls[0].number + len(calls) / 3))
        fixed = self._fixed(calls)
        progress(Step.of("proving", calls[0].number + 2 * len(calls) / 3))
        each = zip(calls, known, fixed, strict=True)
        found = (self._of(*one, before=one[0].number == last) for one in each)
        return reduce(Proved.__or__, found, Proved())

    def _of(
        self, call: Call, known: Reference, fixed: tuple[Arrays | None, Arrays], *, before: bool
    ) -> Proved:
        """What one sample shows, given the fixed model in FP32 and in FP16."""
        as_it_was: tuple[Finding, ...] = ()
        if before:
            found = _as_is(self.original, call, self.engine, known.own)
            as_it_was = self._findings(call, known, found)
        exact, after = fixed
        equal, worst, captured = self._in_float32(exact, known)
        _, metric = metric_of(self.standard.metric)
        second = self._second
        return Proved(
            samples=1,
            equal=equal,
            worst=worst,
            captured=captured,
            before=as_it_was,
            after=self._findings(call, known, after),
            own=() if second is None else self._findings(call, known, second.run(call)),
            metric=0.0 if metric is None else error_by(metric, after, known.own),
        )

    def verdict(self, proved: Proved, unmeasured: int = 0) -> Verification:
        """The verdict on samples, of which some were not measured."""
        return Verification(
            samples=proved.samples,
            unmeasured=unmeasured,
            bit_equal=proved.equal and self.exact is not None,
            worst_difference=proved.worst,
            captured=proved.captured,
            engine=self.engine.name,
            findings_before=proved.before,
            findings=proved.after,
            findings_own=proved.own,
            forms=self.forms,
            in_float32=self.exact is not None,
            tolerance=self.standard.tolerance,
            metric=metric_of(self.standard.metric)[0],
            metric_error=proved.metric,
        )

    def _fixed(self, calls: Sequence[Call]) -> list[tuple[Arrays | None, Arrays]]:
        """The fixed model in FP32 and in FP16; side by side where both are of the same graph."""
        running, exact = self._running, self.exact
        if exact is None:
            return [(None, running.run(call)) for call in calls]
        if exact is self.deployed and type(running) is Evaluated:  # an own kind runs itself
            both = exact.evaluate_on(calls, (FLOAT32, running.profile.stores))
            return [(in_float32, after) for in_float32, after in both]
        in_float32 = [x for (x,) in exact.evaluate_on(calls, (FLOAT32,))]
        return list(zip(in_float32, self._in_half(calls), strict=True))

    def _in_half(self, calls: Sequence[Call]) -> list[Arrays]:
        running, deployed = self._running, self.deployed
        if type(running) is Evaluated and isinstance(deployed, Measuring):
            return [x for (x,) in deployed.evaluate_on(calls, (running.profile.stores,))]
        return [running.run(call) for call in calls]

    def _in_float32(self, exact: Arrays | None, reference: Reference) -> tuple[bool, float, float]:
        """Whether the fixed model gives the bits of the user's model, or else of the graph that was
        captured from it; how far it is from these, and how far the capture is.

        A graph that has the model's bits on one sample may not have them on another: of a long
        array, how many threads share it decides which entries a vector instruction computes. That
        is rounding, entry by entry; beyond it the graph is another function there.
        """
        own, graph = reference.own, reference.graph
        if self.original.captured_exactly:
            if exact is None or bit_equal(exact, own):
                return True, 0.0, 0.0
            if not largest_difference(graph, own) <= EXACT:
                return False, worst_difference(exact, own), 0.0
        captured = worst_difference(graph, own)
        if exact is None or bit_equal(exact, graph):
            return True, 0.0, captured
        return False, worst_difference(exact, graph), captured

    def _findings(self, call: Call, reference: Reference, candidate: Arrays) -> tuple[Finding, ...]:
        graph = self.original.graph
        scales = [natural_scale(graph, name) for name in graph.outputs]
        known, floor = reference.own, reference.floor
        return tuple(findings_of(graph.outputs, scales, call.number, known, candidate, floor))


def prove(
    proof: Proof,
    calls: Iterable[Call],
    last: int,
    unmeasured: int,
    progress: Progress,
    group: Group = ALONE,
) -> Verification:
    """Proves all samples; on sample number `last` the original runs in FP16 too."""

    def seen(own: Iterable[Call]) -> Proved:
        each = (proof.of(b, last=last, progress=progress) for b in proof.side_by_side(own))
        return reduce(Proved.__or__, each, Proved())

    return proof.verdict(reduce(Proved.__or__, shared(group, calls, seen)), unmeasured)


RUN = 4
"""Samples on which the deployable itself is run; one of a network of more than HEAVY entries."""

HEAVY = 2**22
"""Entries of all values, beyond which PyTorch's half kernels on a CPU take seconds a sample."""


def delivered(
    delivery: Delivery, references: References, calls: Iterable[Call], proof: Verification
) -> tuple[Verification, list[str]]:
    """The proof with what is wrong with the deployable where it runs, and notes.

    Strict evaluation is of the graph; the deployable itself has to run, and its kernels, which may
    store inside of an operator what the graph does not show, have to be as good.
    """
    if not proof.safe:
        return proof, []
    original = references.original
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
        known = references.of(call)
        reference, floor = known.own, known.floor
        if references.floor != FLOOR:
            floor = original.evaluate(call, FLOOR)
        findings += findings_of(graph.outputs, scales, call.number, reference, found, floor)
    if proof.metric:  # errors are the metric's affair, what is not finite is not
        findings = [f for f in findings if f.nonfinite]
    judged = judge([f for f in findings if _is_unusable(f, proof.tolerance)], proof.tolerance)
    bad = [why for _, answer, why in judged if answer is Answer.NOT_SAFE]
    if not bad:
        return proof, []
    return replace(proof, delivered=f"in its own kernels the FP16 deployable has {bad[0]}"), []


def _is_unusable(found: Finding, tolerance: float) -> bool:
    """Whether an output is of no use: kernels that round in another order are no fault, and the
    worst of many rows may be twice as far off."""
    rows = [row for row in (found.row, found.far) if row is not None and row.excess > WRONG]
    worst = max([found.error, *(row.relative / ROWS for row in rows)])
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
