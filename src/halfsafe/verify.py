"""What a fix is worth: bit-equality in FP32, and the error in FP16 against the floor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf, sqrt
from typing import Any

import numpy as np

from halfsafe.deviation import WRONG, Array, Deviation, deviation
from halfsafe.errors import BadInput
from halfsafe.samples import Call
from halfsafe.source import Arrays, Kernels, Runnable, Source


@dataclass(frozen=True)
class Errors:
    """Deviations by output, summed over samples."""

    outputs: tuple[Deviation, ...] = ()

    def add(self, candidate: Sequence[Array], reference: Sequence[Array]) -> Errors:
        new = [deviation(c, r) for c, r in _floating(candidate, reference)]
        old = self.outputs or tuple(Deviation() for _ in new)
        return Errors(tuple(a + b for a, b in zip(old, new, strict=True)))

    @property
    def nonfinite(self) -> int:
        return sum(d.nonfinite for d in self.outputs)

    @property
    def relative(self) -> float:
        """Root mean square of the relative errors of all outputs that are not all zero."""
        counted = [d.relative for d in self.outputs if d.count and (d.squared_norm or d.nonfinite)]
        return sqrt(sum(e * e for e in counted) / len(counted)) if counted else 0.0


@dataclass(frozen=True)
class Verification:
    """The proof. `bit_equal` is about FP32; the errors compare FP16 with the FP32 reference.

    `floor` is the error of the original graph rounded to an 11-bit significand with unlimited
    exponent range, `before` that of the original in FP16, `after` that of the fixed model in FP16.
    Where strict evaluation gives `after`, `own` may be the error in the framework's own kernels,
    which can hide overflow: ONNX Runtime's CPU provider computes in FP32 between FP16 nodes.
    """

    samples: int
    held_out: bool
    bit_equal: bool
    worst_difference: float
    before: float
    before_nonfinite: int
    after: float
    after_nonfinite: int
    floor: float
    kernels: Kernels
    own: float | None = None
    own_nonfinite: int = 0

    @property
    def ratio(self) -> float:
        """after / floor: 1.0 is the best that any FP16 deployment can reach."""
        if self.floor in (0.0, inf):
            return 1.0 if self.after == 0.0 else inf
        return self.after / self.floor

    @property
    def safe(self) -> bool:
        """Nothing is nonfinite that was finite in FP32, or finite and wrong."""
        return self.after_nonfinite == 0 and self.ratio <= WRONG

    def to_json(self) -> dict[str, Any]:
        """Plain data. JSON has no infinity: an infinite error is null, one not looked at is left
        out."""
        looked_at = {k: v for k, v in asdict(self).items() if v is not None}
        return {k: None if v == inf else v for k, v in looked_at.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Verification:
        fields: dict[str, Any] = {k: inf if v is None else v for k, v in data.items()}
        return cls(**fields)


def worst_relative_difference(candidate: Iterable[Array], reference: Iterable[Array]) -> float:
    """The largest relative error of an output; 0.0 for identical outputs."""
    return max((deviation(c, r).relative for c, r in _floating(candidate, reference)), default=0.0)


def _floating(candidate: Iterable[Array], reference: Iterable[Array]) -> list[tuple[Array, Array]]:
    """Pairs of outputs that are floating: integers have to be equal, but have no rounding error."""
    pairs = zip(candidate, reference, strict=True)
    return [(c, r) for c, r in pairs if r.dtype.kind == "f"]


def verify_source(
    original: Source,
    exact: Source | None,
    deployed: Runnable,
    calls: Sequence[Call],
    held_out: bool,
    kernels: Kernels,
    *,
    own: bool = False,
) -> Verification:
    """The whole proof: `exact` against the original in FP32, `deployed` against it in FP16.

    Without `exact` nothing is bit-equal. With `own`, FP16 runs in the framework's own kernels as
    well. Raises BadInput if the reference is not finite.
    """
    equal, worst = exact is not None, 0.0
    before = after = floor = in_framework = Errors()
    for call in calls:
        reference = original.reference(call)
        _check_reference(reference, call.number)
        if exact is not None:
            captured = original.captured_exactly
            known = reference if captured else original.evaluate(call, "float32")
            rewritten = exact.evaluate(call, "float32")
            equal &= all(map(_bit_equal, rewritten, known))
            worst = max(worst, worst_relative_difference(rewritten, known))
        before = before.add(_as_is(original, call, kernels, reference), reference)
        after = after.add(_half(deployed, call, kernels), reference)
        floor = floor.add(original.evaluate(call, "floor"), reference)
        if own:
            in_framework = in_framework.add(deployed.half_outputs(call), reference)
    return Verification(
        samples=len(calls),
        held_out=held_out,
        bit_equal=equal,
        worst_difference=worst,
        before=before.relative,
        before_nonfinite=before.nonfinite,
        after=after.relative,
        after_nonfinite=after.nonfinite,
        floor=floor.relative,
        kernels=kernels,
        own=in_framework.relative if own else None,
        own_nonfinite=in_framework.nonfinite,
    )


def _half(source: Runnable, call: Call, kernels: Kernels) -> Arrays:
    return source.half_outputs(call) if kernels == "half" else source.evaluate(call, "float16")


def _as_is(original: Source, call: Call, kernels: Kernels, reference: Arrays) -> Arrays:
    """The original in FP16; NaN where it does not even run, for a number that cannot be cast."""
    try:
        return _half(original, call, kernels)
    except BadInput:
        return [np.full(r.shape, np.nan) for r in reference]


def _bit_equal(a: Array, b: Array) -> bool:
    return np.array_equal(a, b, equal_nan=True)


def _check_reference(reference: Arrays, sample: int) -> None:
    for i, output in enumerate(reference):
        bad = int(np.isnan(output).sum() + np.isposinf(output).sum()) if output.size else 0
        if bad:
            raise BadInput(
                f"output {i} of the FP32 model holds {bad} NaN or inf on sample {sample}: pass "
                "samples on which it is finite, there is nothing to compare with otherwise"
            )
