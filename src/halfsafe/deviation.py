"""How far values are from their FP32 reference, and how far FP16 has to be: the floor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfsafe.chunks import BUFFERS, chunks
from halfsafe.formats import FLOAT32

WRONG = 4.0
"""Times the floor, two bits, beyond which a finite value counts as wrong."""

ROUNDING = 2.0**-12
"""What storing in FP16 alone costs: the floor is never taken to be less, however lucky it was."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Deviation:
    """How far values are from the reference: squared error, squared norm, nonfinite entries.

    Only entries that are finite in the reference count; `nonfinite` are those of them that the
    candidate does not give as finite numbers.
    """

    squared_error: float = 0.0
    squared_norm: float = 0.0
    nonfinite: int = 0
    count: int = 0

    def __add__(self, other: Deviation) -> Deviation:
        return Deviation(
            self.squared_error + other.squared_error,
            self.squared_norm + other.squared_norm,
            self.nonfinite + other.nonfinite,
            self.count + other.count,
        )

    @property
    def relative(self) -> float:
        """||candidate - reference|| / ||reference||; inf as soon as an entry is nonfinite."""
        return inf if self.nonfinite else self.relative_of_finite

    @property
    def relative_of_finite(self) -> float:
        """The same for the entries that the candidate gives as finite numbers."""
        if not self.squared_norm:
            return 0.0 if not self.squared_error else inf
        return sqrt(self.squared_error / self.squared_norm)


def deviation(candidate: NDArray[Any], reference: NDArray[Any]) -> Deviation:
    """Compares arrays of any type. Raises ValueError when the shapes differ.

    >>> deviation(np.array([1.0, 2.5]), np.array([1.0, 2.0])).relative
    0.22360679774997896
    """
    if candidate.shape != reference.shape:
        raise ValueError(f"outputs of shapes {candidate.shape} and {reference.shape}")
    found = Deviation()
    for chunk, known in zip(chunks(candidate), chunks(reference), strict=True):
        wide, beside = BUFFERS.wide[:, : chunk.size]
        wide[:], beside[:] = chunk, known
        found += _deviation_of_chunk(wide, beside)
    return found


@np.errstate(invalid="ignore", over="ignore")
def _deviation_of_chunk(candidate: Array, reference: Array) -> Deviation:
    """The sums tell by themselves whether an entry is not finite: then the slow way.

    What has been computed is written over both.
    """
    candidate -= reference
    np.square(candidate, out=candidate)
    error = float(candidate.sum())
    np.square(reference, out=reference)
    norm = float(reference.sum())
    if isfinite(error) and isfinite(norm):
        return Deviation(error, norm, 0, reference.size)
    counted = np.isfinite(reference)
    broken = counted & ~np.isfinite(candidate)
    return Deviation(
        squared_error=float(candidate[counted & ~broken].sum()),
        squared_norm=float(reference[counted].sum()),
        nonfinite=int(broken.sum()),
        count=int(counted.sum()),
    )


@dataclass(frozen=True, slots=True)
class Comparison:
    """One value in FP16 as it is and rounded to 11 bits at any exponent, both beside FP32.

    `differing` entries are not the same in both: what FP16 loses for want of range, not of bits.
    """

    half: Deviation = Deviation()
    floor: Deviation = Deviation()
    differing: int = 0

    def __or__(self, other: Comparison) -> Comparison:
        return Comparison(
            self.half + other.half, self.floor + other.floor, self.differing + other.differing
        )

    @property
    def nonfinite(self) -> bool:
        """Whether FP16 gives inf or NaN where FP32 is finite."""
        return self.half.nonfinite > 0

    @property
    def wrong(self) -> bool:
        """Whether the entries that are finite in FP16 are further off than FP16 has to be."""
        return self.times_floor > WRONG

    @property
    def times_floor(self) -> float:
        """Error of the finite entries over that of the floor, or over one rounding if larger."""
        return self.half.relative_of_finite / max(self.floor.relative_of_finite, ROUNDING)


def same(a: Any, b: Any) -> bool:
    """Whether two arrays are the same, NaN and the sign of zeros aside."""
    return np.array_equal(a, b, equal_nan=np.asarray(a).dtype.kind == "f")


def bit_equal(found: Sequence[Array], known: Sequence[Array]) -> bool:
    """Whether all outputs are the same, NaN and the sign of zeros aside."""
    return len(found) == len(known) and all(map(same, found, known))


def worst_difference(found: Sequence[Array], known: Sequence[Array]) -> float:
    """The largest relative difference of an output; inf where shapes, integers or NaN differ."""
    return _worst(found, known, lambda a, b: deviation(a, b).relative)


def largest_difference(found: Sequence[Array], known: Sequence[Array]) -> float:
    """The same by single entries, relative to the largest entry of their output.

    >>> largest_difference([np.array([1.0, 4.0, np.nan])], [np.array([1.5, 4.0, np.nan])])
    0.125
    """
    return _worst(found, known, _by_entries)


def _worst(
    found: Sequence[Array], known: Sequence[Array], measure: Callable[[Array, Array], float]
) -> float:
    if len(found) != len(known):
        return inf
    return max((_difference(a, b, measure) for a, b in zip(found, known, strict=True)), default=0.0)


def _difference(found: Array, known: Array, measure: Callable[[Array, Array], float]) -> float:
    if np.array_equal(found, known):
        return 0.0
    if found.shape != known.shape or known.dtype.kind != "f":
        return inf
    odd = ~np.isfinite(known) & ~((found == known) | (np.isnan(found) & np.isnan(known)))
    return inf if odd.any() else measure(found, known)


def _by_entries(found: Array, known: Array) -> float:
    counted = np.isfinite(known)
    found, known = (x[counted].astype(np.float64, copy=False) for x in (found, known))
    if not np.isfinite(found).all():
        return inf
    apart = np.abs(found - known)
    if not apart.any():
        return 0.0
    return float(apart.max()) / max(float(np.abs(known).max()), FLOAT32.smallest_normal)


Comparisons = Mapping[str, Comparison]


def merge_comparisons(*shards: Comparisons) -> dict[str, Comparison]:
    """Comparisons made on several sets of samples, as one."""
    merged: dict[str, Comparison] = {}
    for shard in shards:
        for name, found in shard.items():
            merged[name] = merged[name] | found if name in merged else found
    return merged
