"""What measuring asks of NumPy: `halfsafe.measure.Arithmetic`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import reduce
from math import inf, nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfsafe.deviation import Deviation
from halfsafe.deviation import deviation as deviation_of
from halfsafe.formats import FLOAT32, FloatFormat
from halfsafe.ranges import Range
from halfsafe.source import Arrays

Array = NDArray[Any]

CHUNK = 2**20
"""Entries that are looked at together: copies of them fit a processor's cache."""


def floating(x: Array) -> bool:
    """Whether the entries are floating numbers."""
    return x.dtype.kind == "f"


def range_of(x: Array) -> Range:
    """The Range of one array, FP64 as FP32 sees it.

    >>> range_of(np.array([0.0, -3.0, 0.5], np.float32)).binades
    {-1: 1, 1: 1}
    """
    return reduce(Range.__or__, map(_range_of_chunk, chunks(x)))


def chunks(x: Array) -> Iterator[Array]:
    """All entries, CHUNK at a time; of an empty array one empty chunk."""
    flat = x.reshape(-1)
    return (flat[i : i + CHUNK] for i in range(0, max(flat.size, 1), CHUNK))


def _range_of_chunk(x: Array) -> Range:
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


def rounded(x: Array, fmt: FloatFormat) -> Array:
    """Rounded to a format, to nearest even.

    >>> from halfsafe.formats import FLOAT16, FLOOR
    >>> rounded(np.array([65519.0, 65520.0], np.float32), FLOAT16).tolist()
    [65504.0, inf]
    >>> rounded(np.array([2049.0, 1e-30], np.float32), FLOOR).tolist()[0]
    2048.0
    """
    if fmt.name == "float16":  # the one that NumPy rounds to by itself
        with np.errstate(over="ignore"):
            return x.astype(np.float16).astype(x.dtype)
    return x if fmt == FLOAT32 else by_bits(x, fmt)


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


def deviation(candidate: Array, reference: Array) -> Deviation:
    """As `halfsafe.deviation.deviation`, of arrays of any type."""
    return deviation_of(candidate.astype(np.float64), reference.astype(np.float64))


def differing(a: Array, b: Array) -> int:
    """Entries that are not the same; NaN is the same as NaN."""
    return int(((a != b) & ~(np.isnan(a) & np.isnan(b))).sum())


def arrays(outputs: Iterable[Any]) -> Arrays:
    """Outputs with floating ones in FP64; of a sequence all entries in one row."""
    found = [_array(x) for x in outputs]
    return [x.astype(np.float64) if x.dtype.kind == "f" else x for x in found]


def _array(x: Array | list[Array] | None) -> Array:
    if isinstance(x, list):
        return np.concatenate([e.reshape(-1) for e in x]) if x else np.empty(0)
    return np.empty(0) if x is None else np.asarray(x)
