"""What measuring asks of NumPy: `halfsafe.measure.Arithmetic`.

Every value of a network passes through here, and so does every constant, so that looking at entries
must not take longer than computing them. Entries are taken a chunk at a time, and never a copy of a
whole array beside it; what is rounded to FP16 is rounded by ONNX Runtime's Cast, which has the
processor's own instruction for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import inf, isfinite, nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfsafe.chunks import BUFFERS, chunks
from halfsafe.deviation import deviation as deviation
from halfsafe.formats import FLOAT16, FLOAT32, FloatFormat
from halfsafe.frontends.onnx.casts import through_half
from halfsafe.ranges import Range
from halfsafe.source import Arrays

Array = NDArray[Any]

FEW = 2**14
"""Entries below which counting them one by one is quicker than a table of all pairs."""

_TOP = 255
"""The exponent field of inf and NaN."""


def floating(x: Array) -> bool:
    """Whether the entries are floating numbers."""
    return x.dtype.kind == "f"


def range_of(x: Array) -> Range:
    """The Range of one array, FP64 as FP32 sees it.

    A magnitude and its bit pattern without the sign have the same order (IEEE 754-2019, section
    3.4), so that extremes are found on integers; the pattern 0 less 1 is the largest of all, which
    leaves zeros out of the least. Exponents are counted two at a time: NumPy counts integers one
    by one, but a pair of bytes is one of 65,536.

    >>> range_of(np.array([0.0, -3.0, 0.5], np.float32)).binades
    {-1: 1, 1: 1}
    """
    found = _Counts()
    for chunk in chunks(x):
        found.add(chunk)
    return found.range()


class _Counts:
    """Extremes and counts over chunks; patterns are those of FP32, shifted by the sign."""

    def __init__(self) -> None:
        self._counts = np.zeros(256, np.int64)
        self._least, self._largest, self._zeros = 2**32 - 1, 0, 0
        self._subnormal: Counter[int] = Counter()

    def add(self, chunk: Array) -> None:
        """Counts the entries of one chunk."""
        size = chunk.size
        if not size:
            return
        given = np.ascontiguousarray(chunk, np.float32).view(np.uint32)
        patterns, shifted = BUFFERS.patterns[:size], BUFFERS.shifted[:size]
        np.left_shift(given, 1, out=patterns)
        np.right_shift(patterns, 24, out=shifted)
        counts = _count(shifted)
        if counts[_TOP]:
            patterns = patterns[shifted != _TOP]
        if counts[0]:
            zeros = patterns.size - int(np.count_nonzero(patterns))
            self._zeros += zeros
            if counts[0] > zeros:
                subnormal = patterns[(patterns > 0) & (patterns < 1 << 24)]
                values = (subnormal >> np.uint32(1)).view(np.float32)
                self._subnormal.update((np.frexp(values)[1] - 1).tolist())
        self._counts += counts
        if patterns.size:
            self._largest = max(self._largest, int(patterns.max()))
            patterns -= 1
            self._least = min(self._least, int(patterns.min()))

    def range(self) -> Range:
        """What has been counted."""
        binades = {int(e) - 127: int(n) for e, n in enumerate(self._counts[:_TOP]) if n and e}
        return Range(
            amax=_number(self._largest),
            smallest=_number(self._least + 1) if self._least < 2**32 - 1 else inf,
            zeros=self._zeros,
            nonfinite=int(self._counts[_TOP]),
            count=int(self._counts.sum()),
            binades=dict(sorted(self._subnormal.items())) | binades,
        )


def _count(exponents: Array) -> Array:
    """How many there are of each exponent; many in pairs, an odd one with a 0 too many."""
    size = exponents.size
    if size < FEW:
        return np.bincount(exponents, minlength=256)
    even = size + size % 2
    bytes_of, pairs = BUFFERS.exponents[:even], BUFFERS.pairs[: even // 2]
    bytes_of[-1] = 0
    bytes_of[:size] = exponents
    pairs[:] = bytes_of.view(np.uint16)
    table = np.bincount(pairs, minlength=2**16).reshape(256, 256)
    counts = table.sum(0) + table.sum(1)
    counts[0] -= even - size
    return counts


def _number(pattern: int) -> float:
    """The magnitude of a pattern that was shifted by the sign."""
    return float(np.uint32(pattern >> 1).view(np.float32))


def rounded(x: Array, fmt: FloatFormat) -> Array:
    """Rounded to a format, to nearest even.

    >>> from halfsafe.formats import FLOAT16, FLOOR
    >>> rounded(np.array([65519.0, 65520.0], np.float32), FLOAT16).tolist()
    [65504.0, inf]
    >>> rounded(np.array([2049.0, 1e-30], np.float32), FLOOR).tolist()[0]
    2048.0
    """
    if fmt == FLOAT32:
        return x
    if fmt == FLOAT16:
        return through_half(x)
    made = np.empty(x.shape, x.dtype)
    for chunk, into in zip(chunks(x), chunks(made), strict=True):
        if not (fmt.unlimited and x.dtype == np.float32 and _to_bits(chunk, fmt, into)):
            into[:] = by_bits(chunk, fmt)
    return made


def _to_bits(x: Array, fmt: FloatFormat, into: Array) -> bool:
    """Rounds a chunk to a format's bits at any exponent, as `by_bits` does; False where something
    in it is beyond that."""
    bits, made = x.view(np.uint32), into.view(np.uint32)
    cut = FLOAT32.mantissa_bits - fmt.mantissa_bits
    np.right_shift(bits, cut, out=made)
    made &= 1
    made += (1 << (cut - 1)) - 1
    made += bits
    made &= 2**32 - (1 << cut)
    return not made.size or (isfinite(into.max()) and isfinite(into.min()))


@np.errstate(over="ignore", invalid="ignore")
def by_bits(x: Array, fmt: FloatFormat) -> Array:
    """The same for any format narrower than FP32, on the bits of FP32.

    Half of the last bit that is kept is added, less one unit where that bit is even, and the rest
    is cut off. Below smallest_normal, adding a number whose last bit is smallest_subnormal rounds
    to multiples of that.
    """
    wide = np.ascontiguousarray(x, np.float32).reshape(x.shape)
    cut = FLOAT32.mantissa_bits - fmt.mantissa_bits
    bits = wide.view(np.uint32)
    half_step = ((bits >> np.uint32(cut)) & np.uint32(1)) + np.uint32((1 << (cut - 1)) - 1)
    made = ((bits + half_step) & np.uint32(2**32 - (1 << cut))).view(np.float32)
    if fmt.unlimited:  # FP32's own largest numbers stay as they are
        kept = np.isfinite(wide) & np.isfinite(made)
        return np.where(kept, made, x).astype(x.dtype)
    if fmt.min_binade > FLOAT32.min_binade:
        shift = np.float32(
            1.5 * 2.0 ** (FLOAT32.mantissa_bits + fmt.min_binade - fmt.mantissa_bits)
        )
        made = np.where(np.abs(wide) < fmt.smallest_normal, (wide + shift) - shift, made)
    beyond = np.float32(nan if fmt.finite else inf)
    made = np.copysign(np.where(np.abs(made) > fmt.max, beyond, made), wide)
    return np.where(np.isnan(wide), wide, made).astype(x.dtype)


def differing(a: Array, b: Array) -> int:
    """Entries that are not the same; NaN is the same as NaN."""
    apart = int(np.count_nonzero(a != b))
    if not apart or a.dtype.kind != "f":
        return apart
    return apart - int(np.count_nonzero(np.isnan(a) & np.isnan(b)))


def arrays(outputs: Iterable[Any]) -> Arrays:
    """Outputs, FP16 in FP32; of a sequence all entries in one row."""
    found = [_array(x) for x in outputs]
    return [x.astype(np.float32) if x.dtype == np.float16 else x for x in found]


def _array(x: Array | list[Array] | None) -> Array:
    if isinstance(x, list):
        return np.concatenate([e.reshape(-1) for e in x]) if x else np.empty(0)
    return np.empty(0) if x is None else np.asarray(x)
