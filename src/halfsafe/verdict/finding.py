"""What was measured of one output of one sample, and what is said of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import inf, isfinite, sqrt
from statistics import median
from typing import Any

from halfsafe.deviation import ROUNDING, WRONG

TOLERANCE = 2.0**-5
"""The largest relative error that counts as usable. n independent roundings of 2**-12 add up to
2**-12 sqrt(n), so that it would take 16,384 of them in a row: more than this is no accumulation of
roundings, but a value that needs more bits than FP16 has."""

VISIBLE = 2.0**-8
"""A relative error below it is never called wrong: sixteen roundings to FP16. Of one row of many it
is twice that, since the worst of them is so by chance."""

WIDE = 3.0
"""Entries that a row must have, counted by weight, before its own norm is a scale: that of fewer
may be near 0 by chance, beside errors that are as large as ever."""

FULL = 8.0
"""Entries, counted by weight, that do not all come near 0 by chance, of however many rows."""

MANY = 64
"""Rows of which the worst is an extreme, if few entries carry it."""

ROWS = 2.0
"""Times the tolerance that a single row of many may be off: rows vary more than all of them do."""

NOISE = 2.0**-22
"""The share of an output's norm under which a row that the floor gets wrong is what rounding in
FP32 has left itself: a difference of equal numbers, which means nothing to anybody."""

LOST = 1e-3
"""The share of an output's entries that may be lost one by one: those that merely cross 0."""

USUAL = 2.0**-3
"""The share of the root mean square above which an entry does not merely cross 0: it is lost."""


class Answer(StrEnum):
    """What a verdict says. Only the first is good news, and the last is nobody's fault."""

    SAFE = "safe"
    NOT_SAFE = "not safe"
    LIMITED = "FP16 cannot do better"
    UNKNOWN = "FP16 was not run"


@dataclass(frozen=True, slots=True)
class Row:
    """A part of an output, measured: L2 norms of the reference, the error, the floor's error.

    `weight` is how many entries carry its norm, (sum x^2)^2 / sum x^4; `what` is a row, or another
    kind of part.
    """

    number: int
    norm: float
    error: float
    floor: float
    weight: float = inf
    what: str = "row"

    @property
    def relative(self) -> float:
        return _over(self.error, self.norm)

    @property
    def relative_floor(self) -> float:
        return _over(self.floor, self.norm)

    @property
    def excess(self) -> float:
        """How many times the error is that of the floor, or of one rounding if that is more."""
        return self.relative / max(self.relative_floor, ROUNDING)


NOTHING = Row(0, 0.0, 0.0, 0.0)
"""Of an output that has no errors to measure."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One output of one sample.

    `whole` is all of it; `row` the worst of its wide rows and batch items, by excess over the
    floor, and `far` the one farthest from the reference. `largest` is the largest absolute error.
    `lost` entries are right at the floor and far off, or 0, in the candidate; `stray` ones of them
    are none that merely cross 0. `nonfinite` entries are finite in one and not in the other, or
    infinite with another sign. `differing` are integers that are not the same, `floor_differing`
    those that the floor has other than the reference too.
    """

    output: int
    name: str
    sample: int
    count: int
    whole: Row
    row: Row | None = None
    far: Row | None = None
    rows: int = 1
    usual: float = 0.0
    largest: float = 0.0
    lost: int = 0
    stray: int = 0
    flushed: int = 0
    nonfinite: int = 0
    differing: int = 0
    floor_differing: int = 0
    floor_nonfinite: int = 0

    @property
    def error(self) -> float:
        """Relative L2 error of the whole output; inf if an entry is not finite or misses."""
        return inf if self.nonfinite else self.whole.relative

    @property
    def floor(self) -> float:
        return inf if self.floor_nonfinite else self.whole.relative_floor

    @property
    def ratio(self) -> float:
        """error / floor; 1.0 or less is the best that any FP16 deployment can promise."""
        if self.error <= ROUNDING:
            return min(_over(self.error, self.floor), 1.0)
        return _over(self.error, self.floor) if isfinite(self.floor) else 1.0

    def judge(self, tolerance: float, usual: float, scale: float) -> tuple[Answer, str]:
        """The answer for this output of this sample, and why.

        `usual` is the floor's usual relative error, and `scale` the usual norm of this output, over
        all samples: what counts beside a lucky floor and a norm that is near 0 by chance.
        """
        limit = _Limit(tolerance, usual, self.floor_nonfinite > 0)
        if self.nonfinite:
            what = f"{self.nonfinite} of {self.count} entries are nonfinite, or should be"
            return limit.answer(self.floor_nonfinite < self.nonfinite, what)
        if self.differing:
            what = f"{self.differing} of {self.count} integers differ"
            return limit.answer(self.differing > 2 * self.floor_differing, what)
        if self.stray:
            return Answer.NOT_SAFE, f"{self.stray} of {self.count} entries are lost"
        if self.lost > LOST * self.count:
            zero = f", {self.flushed} of them flushed to 0" if self.flushed else ""
            return Answer.NOT_SAFE, f"{self.lost} of {self.count} entries are lost{zero}"
        whole = self.whole
        if whole.weight < WIDE:
            whole = replace(whole, norm=max(whole.norm, scale))
        for row, what in ((whole, "error"), (self.row, "row"), (self.far, "row")):
            if row is None:
                continue
            where = "an error" if what == "error" else f"{row.what} {row.number} has an error"
            answer, why = limit.of(row, where, 1.0 if what == "error" else ROWS)
            if answer is Answer.LIMITED and what == "row" and self._is_by_chance(row):
                continue
            if answer is not Answer.SAFE:
                return answer, why
        return Answer.SAFE, ""

    def _is_by_chance(self, row: Row) -> bool:
        """Whether the floor's error in a row says nothing: it is noise of FP32, or has few entries
        that happen to be near 0, or is the worst of many rows of few entries."""
        small = row.norm * sqrt(self.rows) < self.whole.norm / 8
        few = row.weight < FULL and (small or self.rows > MANY)
        return few or row.norm <= NOISE * self.whole.norm


@dataclass(frozen=True, slots=True)
class _Limit:
    """What an error is judged against."""

    tolerance: float
    usual: float
    hopeless: bool

    def answer(self, avoidable: bool, why: str) -> tuple[Answer, str]:
        if avoidable:
            return Answer.NOT_SAFE, why
        return Answer.LIMITED, f"{why}, and so do they at the floor of FP16"

    def of(self, row: Row, where: str, times: float) -> tuple[Answer, str]:
        best = max(row.relative_floor, self.usual, ROUNDING)
        if row.relative > max(WRONG * best, times * VISIBLE) and not self.hopeless:
            excess = row.relative / best
            return Answer.NOT_SAFE, f"{where} of {row.relative:.2g}, {excess:.0f} times the floor"
        if row.relative > times * self.tolerance:
            why = (
                f"{where} of {row.relative:.2g}, and the floor of FP16 is {row.relative_floor:.2g}"
            )
            return Answer.LIMITED, why
        return Answer.SAFE, ""


def judge(findings: Sequence[Finding], tolerance: float) -> list[tuple[Finding, Answer, str]]:
    """Answers for findings on several samples, each beside what is usual over all of them.

    What rounding does to an output of a few numbers is a draw of few: beside its own floor, which
    may be near 0 by chance, stands the largest of all samples.
    """
    judged: list[tuple[Finding, Answer, str]] = []
    for output in dict.fromkeys(f.output for f in findings):
        found = [f for f in findings if f.output == output]
        usual = median([f.usual for f in found])
        if median([f.whole.weight for f in found]) < FULL:
            usual = max(usual, *(f.whole.relative_floor for f in found))
        scale = sqrt(sum(f.whole.norm**2 for f in found) / len(found))
        judged += [(f, *f.judge(tolerance, usual, scale)) for f in found]
    return judged


def plain(found: Any) -> Any:
    """Nested plain data with null for what is not finite."""
    if isinstance(found, dict):
        return {k: plain(v) for k, v in found.items()}  # pyright: ignore
    if isinstance(found, (list, tuple)):
        return [plain(x) for x in found]  # pyright: ignore
    return None if isinstance(found, float) and not isfinite(found) else found


def finding(data: Mapping[str, Any]) -> Finding:
    """The inverse of `plain` of a finding."""
    rest: dict[str, Any] = {k: inf if v is None else v for k, v in data.items()}
    for name in ("whole", "row", "far"):
        rest[name] = data[name] and _row_of(data[name])
    return Finding(**rest)


def _row_of(data: Mapping[str, Any]) -> Row:
    numbers: dict[str, Any] = {k: inf if v is None else v for k, v in data.items()}
    return Row(**numbers)


def _over(error: float, norm: float) -> float:
    if not norm:
        return 0.0 if not error else inf
    return error / norm
