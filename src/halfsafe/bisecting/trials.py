"""Trials: parts of a network on an engine, and how far the outputs are off."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

from halfsafe.bisecting.cuts import Cuts
from halfsafe.bisecting.memory import Memory, Outcome
from halfsafe.bisecting.record import Trial
from halfsafe.bisecting.remainder import Remainder, Values
from halfsafe.engines import Engine, notes_of
from halfsafe.errors import BadInput
from halfsafe.formats import FloatFormat
from halfsafe.samples import Call, Samples
from halfsafe.source import Arrays, Part, Progress
from halfsafe.verdict import Metric, error_by


class OutOfTime(Exception):
    """The time that the user gives is over."""


@dataclass(frozen=True)
class Question:
    """What is asked of outputs: how far they are from those in FP32, and how far they may be."""

    supply: Samples
    references: Mapping[int, Arrays]
    metric: Metric
    tolerance: float

    def error(self, sample: int, found: Arrays) -> float:
        """The metric; inf where it is NaN, or where outputs have other shapes."""
        return error_by(self.metric, found, self.references[sample])

    def strictly(
        self, network: Part, call: Call, fmt: FloatFormat, only: Container[str] | None = None
    ) -> float:
        """The error with values, or some, stored in a format; inf where that does not run."""
        try:
            return self.error(call.number, network.evaluate(call, fmt, only))
        except BadInput:
            return inf

    def calls(self, first: int) -> Iterator[Call]:
        """All samples, that of number `first` ahead of the others."""
        yield from (call for call in self.supply if call.number == first)
        yield from (call for call in self.supply if call.number != first)


@dataclass
class Log:
    """What all trials of one bisection share: who is told, until when, and what was tried."""

    progress: Progress
    limit: float = inf
    memory: Memory = field(default_factory=lambda: Memory(None))
    start: float = field(default_factory=time.monotonic)
    trials: list[Trial] = field(default_factory=list[Trial])
    builds: int = 0
    expected: int = 0
    notes: dict[str, None] = field(default_factory=dict[str, None])

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start

    def check(self) -> None:
        """Raises OutOfTime."""
        if self.seconds > self.limit:
            raise OutOfTime

    def add(self, trial: Trial) -> None:
        """Tells what a trial has shown, and how long the others may take."""
        self.trials.append(trial)
        ran = [t.seconds for t in self.trials if not t.known]
        left = max(self.expected - len(self.trials), 0) * sum(ran) / max(len(ran), 1)
        self.progress(f"{trial}; {len(self.trials)} runs, about {left:.0f} s more")


@dataclass
class Bench:
    """One network on one engine. Each trial is run once, and its outcome is kept.

    Operators that are `kept` are in FP32 in the network; a `variant` tells networks apart that
    differ in more. `interval` are the last places that were good and bad, and `seen` what was
    handed over there on the `worst` sample, which runs first.
    """

    network: Part
    engine: Engine
    question: Question
    log: Log
    kept: Sequence[str] = ()
    worst: int = 0
    counts: bool = True
    variant: str = ""

    def __post_init__(self) -> None:
        self.cuts = Cuts(self.network)
        self.interval = [0, self.cuts.last]
        self.seen: dict[int, Values] = {}
        self._known: dict[int, Trial] = {}

    def whole(self) -> Trial:
        """The network uncut. Raises OutOfTime."""
        last = self.cuts.last
        if last not in self._known:
            self._known[last] = self._tried(None)
            self.worst = self._known[last].sample
        return self._known[last]

    def is_bad(self, place: int) -> bool:
        """Whether outputs are beyond the tolerance if the first `place` steps compute in FP16.

        Raises OutOfTime.
        """
        is_bad = self.at(place).error > self.question.tolerance
        self.interval[is_bad] = place
        self.seen = {p: values for p, values in self.seen.items() if p in self.interval}
        return is_bad

    @property
    def ran(self) -> bool:
        """Whether the network uncut has been run."""
        return self.cuts.last in self._known

    def error_at(self, place: int) -> float:
        """The error at a place that was tried, or is an end of the network."""
        if place in self._known:
            return self._known[place].error
        return 0.0 if place == 0 else inf

    def at(self, place: int) -> Trial:
        """The network cut behind so many steps. Raises OutOfTime."""
        if place not in self._known:
            self._known[place] = self._tried(place)
        return self._known[place]

    def _tried(self, place: int | None) -> Trial:
        self.log.check()
        start = time.monotonic()
        key = self.log.memory.key((self.variant, *self.kept), place)
        outcome = self.log.memory.get(key) if self.counts else None
        known = outcome is not None and self._is_enough(outcome)
        if outcome is None or not known:
            outcome = self._run(place)
        error, sample = self._worst(outcome)
        end = self.cuts.last if place is None else place
        trial = Trial(
            place=end,
            node=self.cuts.operator(end),
            error=error,
            sample=sample,
            seconds=time.monotonic() - start,
            whole=place is None,
            kept=len(self.kept),
            why=outcome.why,
            known=known,
            limit=self.question.tolerance,
        )
        if self.counts:
            self.log.add(trial)
        if self.counts and not known:
            self.log.memory.put(key, outcome)
        return trial

    def _worst(self, outcome: Outcome) -> tuple[float, int]:
        """The largest error, and the first sample that has it."""
        if outcome.why:
            return inf, outcome.sample
        errors = {n: self.question.error(n, found) for n, found in outcome.outputs.items()}
        sample = max(errors, key=lambda n: errors[n])
        return errors[sample], sample

    def _is_enough(self, outcome: Outcome) -> bool:
        """Whether it has all samples, or one that is beyond the tolerance."""
        if not outcome.outputs and not outcome.why:  # nothing came of it, so that nothing was kept
            return False
        every = outcome.outputs.keys() == self.question.references.keys()
        return every or self._worst(outcome)[0] > self.question.tolerance

    def _run(self, place: int | None) -> Outcome:
        """Builds, and runs until a sample is beyond the tolerance. A refusal is an outcome too."""
        outputs: dict[int, Arrays] = {}
        number = self.worst
        try:
            run = self._uncut() if place is None else self._cut(place)
            for call in self.question.calls(self.worst):
                number = call.number
                outputs[number] = run(call)
                if self.question.error(number, outputs[number]) > self.question.tolerance:
                    break
        except BadInput as error:
            return Outcome({}, str(error), number)
        return Outcome(outputs)

    def _uncut(self) -> Callable[[Call], Arrays]:
        self.log.builds += self.counts
        running = self.engine.build(self.network)

        def run(call: Call) -> Arrays:
            found = running.run(call)
            self.log.notes |= dict.fromkeys(notes_of(running))
            outputs = self.network.graph.outputs  # those of the last sample are the worst
            self.seen[self.cuts.last] = dict(zip(outputs, found, strict=False))
            return found

        return run

    def _cut(self, place: int) -> Callable[[Call], Arrays]:
        cut = self.cuts.at(place)
        rest, ahead = Remainder(self.network, cut), None
        if cut.handed:
            self.log.builds += self.counts
            ahead = self.engine.build(self.network.extract(None, cut.handed))

        def run(call: Call) -> Arrays:
            made = () if ahead is None else ahead.run(call)
            handed = dict(zip(cut.handed, made, strict=True))
            if call.number == self.worst:
                self.seen[place] = handed
            try:
                return rest.outputs(call, handed, self.question.references[call.number])
            except BadInput:  # FP32 cannot go on from there, with an index beyond a table
                return ()

        return run
