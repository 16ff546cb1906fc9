"""A bisection in words and rows, the same for every renderer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from halfsafe.bisecting.record import Bisection, Culprit, Shown, Trial
from halfsafe.report.grammar import counted


@dataclass(frozen=True, slots=True)
class Run:
    """A trial, and what is left after it: the culprit is one of the steps `low` + 1 to `high`.

    `steps` is how many the network of this run has; with Casts around what is in FP32, that is more
    than it had. None are left, `high` being 0, where the network uncut is `good`, or is run with
    one culprit in FP16 again, to see whether it is one. `how` says which network it is.
    """

    trial: Trial
    good: bool
    low: int
    high: int
    steps: int
    how: str = ""

    @property
    def what(self) -> str:
        """Where the network was cut, if it was."""
        whole = f"the whole network{', ' if self.how else ''}{self.how}"
        return whole if self.trial.whole else self.trial.node

    @property
    def left(self) -> str:
        """The steps that are left, from 1 on."""
        if not self.high:
            return "none" if self.good else ""
        first = self.low + 1
        return f"{first}" if first == self.high else f"{first} to {self.high}"

    @property
    def figure(self) -> str:
        """The error, and what is to be known of it."""
        known = " (known)" if self.trial.known else ""
        return f"{self.trial.error:.3g}{' (refused)' if self.trial.why else known}"


def runs(found: Bisection) -> Iterator[Run]:
    """All trials with the interval as it shrinks. The network uncut begins with all its steps.

    A run is good by what was asked of it; one that contradicts the interval narrows nothing.
    """
    low, high, steps, settled = 0, 0, 0, False
    for trial in found.trials:
        good, how = trial.good, ""
        if trial.whole:
            settled = settled and trial.kept > 0
            if not trial.kept and trial.error != found.error:
                how = "mended"
            elif settled:
                how = "one culprit fewer"
            low, steps = 0, trial.place
            high = 0 if good or settled else steps
            settled = settled or good
        elif low < trial.place < high:
            low, high = (trial.place, high) if good else (low, trial.place)
        yield Run(trial, good, low, high, steps, how)


def verdict(found: Bisection) -> str:
    """What a bisection has found, in one sentence, and whether that is all."""
    if found.within:
        return f"Within the tolerance on {found.engine}: nothing to bisect."
    if not _ran(found):
        return f"Time ran out before the whole network had run on {found.engine}."
    if not found.culprits:
        return f"Beyond the tolerance on {found.engine}, and no culprit is known."
    first, *others = found.culprits
    if found.rounds:
        return (
            f"FP16 cannot do better on {found.engine}: rounding alone costs {found.floor:.3g}, "
            f"more than the tolerance; {named(first)} is the first operator after which it does."
        )
    if is_open(first):
        between = f"it is one of those from {first.since} to {first.node}"
        return f"Time ran out on {found.engine} before the culprit was known: {between}."
    closed = [other for other in others if not is_open(other)]
    also = f"; {counted(len(closed), 'more culprit')} once that is mended"
    more = also if closed else ""
    ends = "" if found.complete else "; the search is not complete"
    beyond = "twice what rounding costs" if found.floor else "the tolerance"
    what = f"{named(first)} is the first operator after which outputs are beyond {beyond}"
    return f"{what} on {found.engine}{more}{ends}."


def asked(found: Bisection) -> str:
    """Where, and how good the outputs have to be."""
    version = f" ({found.version})" if found.version else ""
    return f"{found.engine}{version}; {limit(found)}"


def limit(found: Bisection) -> str:
    """The metric and the tolerance."""
    return f"{found.metric} at most {found.tolerance:.3g}"


def whole(found: Bisection) -> str:
    """The error of the network uncut; nothing where it has not run."""
    return f"{found.error:.3g}" if _ran(found) else "not run"


def mended(found: Bisection) -> tuple[str, str, str]:
    """What has brought the network uncut within what was asked, its error, and that; or nothing."""
    if found.within:
        return "", "", ""
    good = [run for run in runs(found) if run.trial.whole and run.good]
    if not good:
        return "", "", ""
    *_, last = good
    how = in_float32(last.trial.kept) if last.trial.kept else "as the planner mends it"
    return how, f"{last.trial.error:.3g}", f"at most {last.trial.limit:.3g}"


def in_float32(number: int) -> str:
    """So many operators in FP32."""
    return f"with {counted(number, 'operator')} in FP32"


def cost(found: Bisection) -> str:
    """What the builds were for, how long it took, and what was known from before."""
    known = sum(trial.known for trial in found.trials)
    before = f", {counted(known, 'run')} known from before" if known else ""
    return f"for {counted(found.operators, 'operator')}, {found.seconds:.1f} s{before}"


def named(culprit: Culprit) -> str:
    """The operator, what it is and where."""
    return f"{culprit.node} ({about(culprit.op, culprit.module)})"


def about(op: str, module: str) -> str:
    """What an operator is, and the module that it is in."""
    return f"{op} in {module}" if module else op


def is_open(culprit: Culprit) -> bool:
    """Whether time ran out before it was one operator."""
    return culprit.since != culprit.node


def heading(found: Bisection, culprit: Culprit) -> str:
    """A culprit, or the operators of which one is."""
    if not is_open(culprit):
        return named(culprit)
    left = _left(found)
    count = f"one of {counted(left, 'operator')}, " if left else ""
    return f"not known: {count}{culprit.since} to {culprit.node}"


def errors(found: Bisection, culprit: Culprit) -> str:
    """How far outputs are off without it and with it, as far as that was run."""
    if not is_open(culprit):
        sample = f"sample {culprit.sample}"
        return f"error {culprit.before:.3g} ahead of it, {culprit.after:.3g} with it, {sample}"
    if not _left(found):
        kept = " with the culprits so far in FP32" if _ran(found) else ""
        return f"time ran out before the whole network{kept} had run"
    before, after = f"{culprit.before:.3g} ahead of these", f"{culprit.after:.3g} with all of them"
    return f"error {before}, {after}, sample {culprit.sample}"


def values(culprit: Culprit) -> list[tuple[str, Shown]]:
    """Operands and results in both precisions."""
    reads = [("reads", shown) for shown in culprit.reads]
    return [*reads, *(("makes", shown) for shown in culprit.makes)]


HEADINGS = ("amax in FP32", "there", "error", "lost")
"""What `figures` are; `there` is amax on the engine, of the entries that are finite there."""


def figures(shown: Shown) -> tuple[str, ...]:
    """One value in both precisions. Where no entry is finite there is no error of finite ones."""
    some = shown.nonfinite < shown.count
    kinds = ((shown.nonfinite, "inf or NaN"), (shown.zeros, "zero"))
    lost = ", ".join(f"{n:,} {what}" for n, what in kinds if n) or "none"
    return (
        f"{shown.amax:.4g}",
        f"{shown.largest:.4g}" if some else "",
        f"{shown.error:.2g}" if some else "",
        f"{lost} of {shown.count:,}",
    )


def _ran(found: Bisection) -> bool:
    return any(trial.whole for trial in found.trials)


def _left(found: Bisection) -> int:
    """How many operators are left after the last run; 0 where it has told the last culprit."""
    last = next(reversed(list(runs(found))), None)
    return last.high - last.low if last and last.high - last.low > 1 else 0
