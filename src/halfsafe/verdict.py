"""The verdict: every output of every sample beside its reference, and beside what FP16 can reach.

An error is measured where somebody may look at it: over an output of a sample, over each item of
its batch, and over each row, never averaged over more. It counts twice: against the floor (what is
further off than FP16 has to be is wrong, however large the norm of the others is), and against a
tolerance (an error that nobody can use is one, even where FP16 cannot do better). So there are
three answers. Nothing here knows how the arrays came about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from math import inf, isfinite, sqrt
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfsafe.deviation import ROUNDING, WRONG, Array
from halfsafe.errors import BadInput

TOLERANCE = 2.0**-5
"""The largest relative error that counts as usable. n independent roundings of 2**-12 add up to
2**-12 sqrt(n), so that it would take 16,384 of them in a row: more than this is no accumulation of
roundings, but a value that needs more bits than FP16 has."""

VISIBLE = 2.0**-8
"""A relative error below it is never called wrong: sixteen roundings to FP16."""

EXACT = 1e-5
"""Relative difference in FP32 that another form of an operator may make, by its own rounding."""

CAPTURED = 1e-3
"""Relative difference in FP32 beyond which a captured graph is another function than the model:
kernels that fuse what a graph does not differ by a few roundings of FP32, near 1e-6."""

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

Metric = Callable[[Sequence[Array], Sequence[Array]], float]
"""A user's own error of outputs (candidate, reference), 0.0 where one is as good as the other."""


class Answer(StrEnum):
    """What a verdict says. Only the first is good news, and the last is nobody's fault."""

    SAFE = "safe"
    NOT_SAFE = "not safe"
    LIMITED = "FP16 cannot do better"


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
        if row.relative > max(WRONG * best, VISIBLE) and not self.hopeless:
            excess = row.relative / best
            return Answer.NOT_SAFE, f"{where} of {row.relative:.2g}, {excess:.0f} times the floor"
        if row.relative > times * self.tolerance:
            why = (
                f"{where} of {row.relative:.2g}, and the floor of FP16 is {row.relative_floor:.2g}"
            )
            return Answer.LIMITED, why
        return Answer.SAFE, ""


def find(
    output: int,
    name: str,
    sample: int,
    reference: Array,
    candidate: Array,
    floor: Array,
    scale: float = 0.0,
) -> Finding:
    """Measures one output of one sample: the candidate and the floor beside the reference.

    Arrays are FP64, or integers, which have to be equal. `scale` is the natural scale of a bounded
    output, 0.0 without one: errors below one rounding of it count as none.

    >>> x = np.array([[3.0, 4.0], [1e-8, 1e-8]])
    >>> found = find(0, "y", 0, x, np.array([[3.0, 4.0], [0.0, 0.0]]), x)
    >>> found.error < 1e-8, found.lost, found.flushed
    (True, 2, 2)
    """
    if reference.dtype.kind == "c":
        reference, candidate, floor = (
            np.stack([x.real, x.imag], -1) for x in (reference, candidate, floor)
        )
    if reference.dtype.kind != "f" or candidate.dtype.kind != "f":
        return _of_integers(output, name, sample, reference, candidate, floor)
    if candidate.shape != reference.shape:
        every, same = max(reference.size, candidate.size), floor.shape == reference.shape
        missing = Finding(output, name, sample, every, NOTHING, nonfinite=every)
        return missing if same else replace(missing, floor_nonfinite=every)
    x, error, broken = _errors(reference, candidate, scale)
    _, of_floor, broken_floor = _errors(reference, floor, scale)
    size = np.abs(x)
    flushed = (candidate == 0) & (of_floor <= size / 64)
    lost = (size > 0) & (error >= size / 2) & (flushed | (of_floor <= size / 512))
    if _is_distribution(x):
        lost &= error > ROUNDING
    rows = _rows(x, error, of_floor)
    wide = [row for row in rows if row.weight >= WIDE]
    columns = [] if scale else [c for c in _columns(x, error, of_floor) if _is_off(c)]
    return Finding(
        output=output,
        name=name,
        sample=sample,
        count=int(reference.size),
        whole=_row(0, x, error, of_floor),
        row=max([*wide, *columns], key=lambda r: r.excess, default=None),
        far=max(wide, key=lambda r: r.relative, default=None),
        rows=max(len(rows), 1),
        usual=median([row.relative_floor for row in rows]) if rows else 0.0,
        largest=float(error.max(initial=0.0)),
        lost=int(lost.sum()),
        stray=int((lost & (size > USUAL * _rms(x))).sum()),
        flushed=int((lost & (candidate == 0)).sum()),
        nonfinite=broken,
        floor_nonfinite=broken_floor,
    )


def _errors(reference: Array, found: Array, scale: float) -> tuple[Array, Array, int]:
    """The reference, and the size of the error, both 0 where one is not finite; those that miss.

    A reference of -inf has to be answered by -inf.
    """
    if found.shape != reference.shape:
        return reference, np.full(reference.shape, inf), int(reference.size)
    finite = np.isfinite(reference)
    same = finite & np.isfinite(found)
    odd = ~same & ~((reference == found) | (np.isnan(reference) & np.isnan(found)))
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.where(same, np.abs(found - reference), 0.0)
    if scale:
        error = np.where(error > 2 * ROUNDING * scale, error, 0.0)
    return np.where(finite, reference, 0.0), error, int(odd.sum())


def _of_integers(
    output: int, name: str, sample: int, reference: Array, candidate: Array, floor: Array
) -> Finding:
    """Integers, booleans and labels are the same or they are not."""
    return Finding(
        output=output,
        name=name,
        sample=sample,
        count=int(reference.size),
        whole=NOTHING,
        differing=_differing(reference, candidate),
        floor_differing=_differing(reference, floor),
    )


def _differing(reference: NDArray[Any], found: NDArray[Any]) -> int:
    if found.shape != reference.shape:
        return int(max(reference.size, found.size, 1))
    return int(np.sum(reference != found))


def _rows(x: Array, error: Array, floor: Array) -> list[Row]:
    """What people read by itself: items of a batch, rows of a matrix or a batch of them."""
    if x.ndim < 2 or not x.size:
        return [_row(0, x, error, floor)] if x.size else []
    width = x.shape[-1] if x.ndim <= 3 else x.size // x.shape[0]
    parts = [a.reshape(-1, width) for a in (x, error, floor)]
    squares = parts[0] ** 2
    norms, errors, floors = (np.sqrt((a**2).sum(1)) for a in parts)
    with np.errstate(invalid="ignore", divide="ignore"):
        weights = np.nan_to_num(squares.sum(1) ** 2 / (squares**2).sum(1))
    numbers = zip(norms, errors, floors, weights, strict=True)
    return [
        Row(i, float(n), float(e), float(f), float(w)) for i, (n, e, f, w) in enumerate(numbers)
    ]


def _is_off(row: Row) -> bool:
    """Whether a part is of no use, and could be: the floor is no excuse."""
    return row.weight >= WIDE and row.excess > WRONG and row.relative > TOLERANCE


def _columns(x: Array, error: Array, floor: Array) -> list[Row]:
    """The features of a matrix or a batch of them, and the channels of anything larger."""
    if x.ndim < 2 or not x.size:
        return []
    axes = (-1,) if x.ndim == 2 else (-1, 1) if x.ndim == 3 else (1,)
    return [
        replace(row, what="feature" if axis == -1 else "channel")
        for axis in axes
        for row in _rows(
            *(np.moveaxis(a, axis, 0).reshape(a.shape[axis], -1) for a in (x, error, floor))
        )
    ]


def _row(number: int, x: Array, error: Array, floor: Array) -> Row:
    squares = x**2
    with np.errstate(invalid="ignore", divide="ignore"):
        weight = float(np.nan_to_num(squares.sum() ** 2 / (squares**2).sum()))
    norm, of_error, of_floor = (sqrt(float((a**2).sum())) for a in (x, error, floor))
    return Row(number, norm, of_error, of_floor, weight)


def _rms(x: Array) -> float:
    return float(np.sqrt(np.mean(x**2))) if x.size else 0.0


def _is_distribution(x: Array) -> bool:
    """Whether the last axis holds probabilities: entries near 0 are then small beside 1."""
    if not x.size or x.ndim == 0 or x.shape[-1] < 2 or (x < 0).any():
        return False
    return bool(np.all(np.abs(x.sum(-1) - 1.0) < 2.0**-8))


def _over(error: float, norm: float) -> float:
    if not norm:
        return 0.0 if not error else inf
    return error / norm


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


def findings_of(
    names: Sequence[str],
    scales: Sequence[float],
    sample: int,
    reference: Sequence[Array],
    candidate: Sequence[Array],
    floor: Sequence[Array],
) -> list[Finding]:
    """Findings of all outputs of one sample. Raises BadInput for another number of outputs."""
    if len(candidate) != len(reference):
        raise BadInput(f"the candidate gives {len(candidate)} outputs, the model {len(reference)}")
    named = len(names) == len(reference)  # some front ends return more than tensors
    return [
        find(
            i,
            names[i] if named else str(i),
            sample,
            np.asarray(of_reference),
            np.asarray(of_candidate),
            np.asarray(of_floor),
            scale=scales[i] if named else 0.0,
        )
        for i, (of_reference, of_candidate, of_floor) in enumerate(
            zip(reference, candidate, floor, strict=True)
        )
    ]


def judge(findings: Sequence[Finding], tolerance: float) -> list[tuple[Finding, Answer, str]]:
    """Answers for findings on several samples, each beside what is usual over all of them."""
    judged: list[tuple[Finding, Answer, str]] = []
    for output in dict.fromkeys(f.output for f in findings):
        found = [f for f in findings if f.output == output]
        usual = median([f.usual for f in found])
        scale = sqrt(sum(f.whole.norm**2 for f in found) / len(found))
        judged += [(f, *f.judge(tolerance, usual, scale)) for f in found]
    return judged


def _place(found: Finding) -> str:
    return f"output {found.name or found.output}, sample {found.sample}"


def _worst(findings: Sequence[Finding]) -> float:
    return max((f.error for f in findings), default=0.0)


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


def top1(candidate: Sequence[Array], reference: Sequence[Array]) -> float:
    """The share of rows whose largest entry is another one."""
    shares = [
        np.count_nonzero(c.argmax(-1) - r.argmax(-1)) / max(r[..., 0].size, 1)
        for c, r in zip(candidate, reference, strict=True)
        if r.dtype.kind == "f" and r.ndim and r.size
    ]
    return max(shares, default=0.0)


def cosine(candidate: Sequence[Array], reference: Sequence[Array]) -> float:
    """1 - the least cosine between a row and its reference."""
    worst = 0.0
    for c, r in zip(candidate, reference, strict=True):
        if r.dtype.kind != "f" or not r.ndim or not r.size:
            continue
        known = np.linalg.norm(r, axis=-1)
        norms, counted = known * np.linalg.norm(c, axis=-1), known > 0
        with np.errstate(invalid="ignore", divide="ignore"):
            same = np.where(norms > 0, (c * r).sum(-1) / norms, 0.0)  # a row of zeros is like none
            found = 1.0 - same[counted]
        worst = max(worst, float(np.max(found, initial=0.0)))
    return worst


METRICS: Mapping[str, Metric] = {"top-1": top1, "cosine": cosine}


def metric_of(chosen: str | Metric | None) -> tuple[str, Metric | None]:
    """A metric by name or as a callable. Raises BadInput for an unknown name."""
    if chosen is None or callable(chosen):
        return getattr(chosen, "__name__", str(chosen)) if chosen else "", chosen
    if chosen not in METRICS:
        raise BadInput(f"unknown metric '{chosen}': choose {', '.join(METRICS)}, or a callable")
    return chosen, METRICS[chosen]
