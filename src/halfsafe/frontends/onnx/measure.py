"""Ranges and comparisons of an ONNX program's values: one pass a sample, in NumPy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import reduce
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfsafe.deviation import (
    Comparison,
    Deviation,
    deviation,
    merge_comparisons,
    of_integers,
)
from halfsafe.frontends.onnx.program import OnnxProgram, initialisers
from halfsafe.frontends.onnx.run import Lanes
from halfsafe.ranges import Range, merge
from halfsafe.samples import Call

Array = NDArray[Any]


CHUNK = 2**20
"""Entries that are looked at together: copies of them fit a processor's cache."""


def measure_array(x: Array) -> Range:
    """The Range of one array, FP64 as FP32 sees it.

    >>> measure_array(np.array([0.0, -3.0, 0.5], np.float32)).binades
    {-1: 1, 1: 1}
    """
    return reduce(Range.__or__, map(_measure_chunk, chunks(x)))


def chunks(x: Array) -> Iterator[Array]:
    """All entries, CHUNK at a time; of an empty array one empty chunk."""
    flat = x.reshape(-1)
    return (flat[i : i + CHUNK] for i in range(0, max(flat.size, 1), CHUNK))


def _measure_chunk(x: Array) -> Range:
    """Counted by the exponents in their bits: 0 is that of zeros and subnormals, 255 of inf."""
    magnitudes = np.abs(x.astype(np.float32, copy=False))
    exponents = magnitudes.view(np.uint32) >> np.uint32(23)
    counts = np.bincount(exponents, minlength=256)
    small = magnitudes[exponents == 0] if counts[0] else magnitudes[:0]
    subnormal = small[small > 0]
    lowest: list[int] = (np.frexp(subnormal)[1] - 1).tolist()
    binades = dict(Counter(lowest))
    binades |= {int(e) - 127: int(counts[e]) for e in np.flatnonzero(counts[:255]) if e}
    if counts[0] or counts[255]:
        magnitudes = magnitudes[(magnitudes > 0) & (magnitudes < inf)]
    return Range(
        amax=float(magnitudes.max()) if magnitudes.size else 0.0,
        smallest=float(magnitudes.min()) if magnitudes.size else inf,
        zeros=int(small.size - subnormal.size),
        nonfinite=int(counts[255]),
        count=int(exponents.size),
        binades=binades,
    )


def to_float16(x: Array) -> Array:
    """Rounded to FP16, to nearest even; beyond 65,520 it is inf."""
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(x.dtype)


def to_eleven_bits(x: Array) -> Array:
    """Rounded to the 11-bit significand of FP16, with FP32's exponent range.

    >>> to_eleven_bits(np.array([2049.0, 1e-30], np.float32)).tolist()[0]
    2048.0
    """
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    half_step = ((bits >> np.uint32(13)) & np.uint32(1)) + np.uint32(0x0FFF)
    rounded = ((bits + half_step) & np.uint32(0xFFFFE000)).view(np.float32)
    rounded = rounded.reshape(x.shape)
    kept = np.isfinite(x) & np.isfinite(rounded)  # FP32's own largest numbers stay as they are
    return np.where(kept, rounded, x).astype(x.dtype)


def measure(
    program: OnnxProgram, calls: Iterable[Call], progress: Callable[[str], None]
) -> dict[str, Range]:
    """Ranges of inputs and activations over all samples. Raises BadInput for a misfit sample."""
    shards: dict[str, Range] = {}
    for i, call in enumerate(calls):
        progress(f"sample {i + 1}")
        observer = _Observer(program, call.number)
        program.evaluate(call, lambda name, lanes: (observer(name, lanes[0]),))  # noqa: B023
        shards = merge(shards, observer.found)
    return shards


def compare(
    program: OnnxProgram,
    calls: Iterable[Call],
    progress: Callable[[str], None],
    shown: Callable[[Call, Any, Any, Any], None] | None = None,
) -> tuple[dict[str, Range], dict[str, Comparison]]:
    """Ranges in FP32, and how far FP16 and the floor are from it, value by value, in one pass."""
    ranges: dict[str, Range] = {}
    compared: dict[str, Comparison] = {}
    for i, call in enumerate(calls):
        progress(f"comparing sample {i + 1} in FP16 with FP32")
        comparing = _Comparing(program, call.number)
        outputs = program.evaluate(call, comparing, lanes=3)
        if shown is not None:
            shown(call, *zip(*outputs, strict=True))
        ranges = merge(ranges, comparing.observer.found)
        compared = merge_comparisons(compared, comparing.compared)
    return ranges, compared


def measure_constants(program: OnnxProgram) -> dict[str, Range]:
    """Ranges of the initialisers, one in memory at a time, and of single numbers."""
    numbers = {n: v.number for n, v in program.graph.values.items() if v.number is not None}
    return {
        **{name: measure_array(x) for name, x in initialisers(program)},
        **{name: Range.of(number) for name, number in numbers.items()},
    }


def evaluate_rounded(
    program: OnnxProgram, call: Call, rounding: Callable[[Array], Array]
) -> list[Array]:
    """Outputs with every deployed value rounded as it is stored."""
    rounded = stored_values(program)
    outputs = program.evaluate(
        call, lambda name, lanes: (rounding(lanes[0]),) if name in rounded else lanes
    )
    return [x for (x,) in outputs]


def stored_values(program: OnnxProgram) -> frozenset[str]:
    """The names that are rounded when they are stored: values, and numbers that are literals."""
    return program.graph.rounded | (program.scalars - program.float32)


class _Observer:
    """Measures each activation, in a body once an iteration; what only moves entries inherits."""

    def __init__(self, program: OnnxProgram, sample: int) -> None:
        graph = program.graph
        self.found: dict[str, Range] = {}
        self.sample = sample
        self.measured = {n for n, v in graph.values.items() if v.kind in ("input", "activation")}
        self.inherits = graph.inherits

    def __call__(self, name: str, x: Array) -> Array:
        if name in self.measured and x.dtype.kind == "f":
            source = self.inherits.get(name)
            if source in self.found:
                self.found[name] = self.found[source]
                return x
            found = measure_array(x)
            found = replace(found, amax_sample=self.sample, smallest_sample=self.sample)
            known = self.found.get(name)
            self.found[name] = found if known is None else known | found
        return x


class _Comparing:
    """Rounds the lanes as they are stored, and compares them."""

    def __init__(self, program: OnnxProgram, sample: int) -> None:
        self.observer = _Observer(program, sample)
        self.compared: dict[str, Comparison] = {}
        self._rounded = stored_values(program)
        self._scalars = program.scalars

    def __call__(self, name: str, lanes: Lanes) -> Lanes:
        reference, half, floor = lanes
        if reference.dtype.kind != "f":
            self._add(name, of_integers(half, floor, reference))
            return lanes
        if name in self._rounded:
            half, floor = to_float16(half), to_eleven_bits(floor)
        if name in self._scalars:
            return reference, half, floor
        self.observer(name, reference)
        source = self.observer.inherits.get(name)
        if source in self.compared:
            self.compared[name] = self.compared[source]
            return reference, half, floor
        deviations = _deviation(half, reference), _deviation(floor, reference)
        self._add(name, Comparison(*deviations, _differing(half, floor)))
        return reference, half, floor

    def _add(self, name: str, found: Comparison) -> None:
        """In a body there is one comparison an iteration."""
        known = self.compared.get(name)
        self.compared[name] = found if known is None else known | found


def _deviation(candidate: Array, reference: Array) -> Deviation:
    """Where the shape depends on rounding there is nothing to compare: nothing is as it was."""
    if candidate.shape != reference.shape:
        return Deviation(nonfinite=reference.size, count=reference.size)
    return deviation(candidate.astype(np.float64), reference.astype(np.float64))


def _differing(half: Array, floor: Array) -> int:
    """Entries that are not the same; NaN is the same as NaN."""
    if half.shape != floor.shape:
        return int(half.size)
    return int(((half != floor) & ~(np.isnan(half) & np.isnan(floor))).sum())
