"""How large and how small a value gets: exact extremes and a histogram of binades, mergeable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import frexp, inf, log2
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfsafe.formats import FLOAT16, FloatFormat


@dataclass(frozen=True, slots=True)
class Range:
    """Statistics of the magnitudes of one value over all samples.

    `amax` and `smallest` are exact: the largest finite and the smallest nonzero magnitude (0 and
    inf when there is none); `amax_sample` and `smallest_sample` number the samples that hold them.
    `binades` counts the finite nonzero entries by floor(log2(abs(x))).

    >>> a = Range(amax=3.0, smallest=1.0, count=2, binades={0: 1, 1: 1})
    >>> (a | Range(amax=0.5, smallest=0.5, zeros=1, count=2, binades={-1: 1})).count
    4
    """

    amax: float = 0.0
    smallest: float = inf
    zeros: int = 0
    nonfinite: int = 0
    count: int = 0
    binades: Mapping[int, int] = field(default_factory=dict[int, int])
    amax_sample: int = 0
    smallest_sample: int = 0

    @classmethod
    def of(cls, number: float) -> Range:
        """The range of one number, as FP32 holds it.

        >>> Range.of(-6.0).binades
        {2: 1}
        """
        size = abs(float(np.float32(number)))
        if size == 0 or not size < inf:
            return cls(zeros=int(size == 0), nonfinite=int(size != 0), count=1)
        return cls(amax=size, smallest=size, count=1, binades={frexp(size)[1] - 1: 1})

    def __or__(self, other: Range) -> Range:
        binades = dict(self.binades)
        for binade, entries in other.binades.items():
            binades[binade] = binades.get(binade, 0) + entries
        louder = (other.amax, -other.amax_sample) > (self.amax, -self.amax_sample)
        quieter = (other.smallest, other.smallest_sample) < (self.smallest, self.smallest_sample)
        return Range(
            amax=max(self.amax, other.amax),
            smallest=min(self.smallest, other.smallest),
            zeros=self.zeros + other.zeros,
            nonfinite=self.nonfinite + other.nonfinite,
            count=self.count + other.count,
            binades=dict(sorted(binades.items())),
            amax_sample=other.amax_sample if louder else self.amax_sample,
            smallest_sample=other.smallest_sample if quieter else self.smallest_sample,
        )

    def headroom(self, fmt: FloatFormat = FLOAT16) -> float:
        """Bits left above amax, negative beyond the format's largest number; inf for zeros."""
        return log2(fmt.max / self.amax) if self.amax else inf

    def overflowing(self, fmt: FloatFormat = FLOAT16) -> float:
        """The share of entries, counted by binades, that the format stores as inf."""
        beyond = sum(n for b, n in self.binades.items() if b > fmt.max_binade)
        return (beyond + self.nonfinite) / self._entries

    def subnormal(self, fmt: FloatFormat = FLOAT16) -> float:
        """The share of entries that are under smallest_normal, zeros left out."""
        return sum(n for b, n in self.binades.items() if b < fmt.min_binade) / self._entries

    def lost(self, fmt: FloatFormat = FLOAT16) -> float:
        """The share of entries that are under smallest_subnormal, zeros left out."""
        least = fmt.min_binade - fmt.mantissa_bits
        return sum(n for b, n in self.binades.items() if b < least) / self._entries

    @property
    def _entries(self) -> int:
        """Entries in the histogram, which may be a part of all."""
        return max(sum(self.binades.values()) + self.zeros + self.nonfinite, 1)

    def without(self, magnitude: float) -> Range:
        """The same, less the entries in the binade of a magnitude, unless that leaves nothing."""
        binade = frexp(magnitude)[1] - 1
        kept = {b: n for b, n in self.binades.items() if b != binade}
        return replace(self, binades=kept) if kept else self

    def capped(self, magnitude: float) -> Range:
        """The same with all that is larger, inf too, at that magnitude.

        >>> Range(amax=1e9, count=2, nonfinite=1, binades={1: 1, 29: 1}).capped(1e4).binades
        {1: 1, 13: 2}
        """
        top = frexp(magnitude)[1] - 1
        binades = {b: n for b, n in self.binades.items() if b < top}
        beyond = sum(n for b, n in self.binades.items() if b >= top) + self.nonfinite
        if beyond:
            binades[top] = beyond
        amax = magnitude if self.nonfinite else min(self.amax, magnitude)
        return replace(self, amax=amax, nonfinite=0, binades=binades)

    def rounding_loss(
        self,
        exponents: Iterable[int],
        fmt: FloatFormat = FLOAT16,
        *,
        relative: bool = False,
        beside: float = 0.0,
    ) -> NDArray[np.float64]:
        """RMS rounding error of the tensor stored at each exponent, over that at unlimited range.

        An entry of binade b is rounded in steps of 2**(b - m), m the mantissa bits; once
        b - k < min_binade the steps are those of the subnormals, 2**(min_binade - m + k), and an
        entry below half a step is lost whole. 1.0 means that no entry loses anything. With
        `relative`, each entry's error counts relative to itself, as it does for a divisor, or
        relative to what it is added to, where that is larger: ``beside`` an epsilon.
        """
        binades = np.array(list(self.binades), dtype=np.float64)
        k = np.fromiter(exponents, dtype=np.float64)[:, None]
        weights = np.array(list(self.binades.values()), dtype=np.float64)
        if relative:
            least = frexp(beside)[1] - 1 if beside else -inf
            weights = weights * 4.0 ** -np.maximum(binades, least)
        step = 4.0 ** (binades - fmt.mantissa_bits) / 12
        coarse = 4.0 ** (fmt.min_binade - fmt.mantissa_bits + k) / 12
        stored = np.maximum(step, np.minimum(coarse, 2.25 * 4.0**binades))
        return np.sqrt((weights * stored).sum(axis=1) / (weights * step).sum())

    def highest_exponents(
        self,
        losses: Sequence[float],
        fmt: FloatFormat = FLOAT16,
        *,
        relative: bool = False,
        beside: float = 0.0,
    ) -> list[int]:
        """For each loss, the largest exponent whose `rounding_loss` stays within it.

        There must be nonzero entries.
        """
        lowest = min(self.binades) - fmt.min_binade
        highest = max(self.binades) - fmt.min_binade + fmt.mantissa_bits + 2
        exponents = range(lowest, highest + 1)
        found = self.rounding_loss(exponents, fmt, relative=relative, beside=beside)
        monotone = np.maximum.accumulate(found)
        return [lowest + int(i) - 1 for i in np.searchsorted(monotone, losses, side="right")]

    def to_json(self) -> dict[str, Any]:
        """Plain data; binades as [lowest, counts...]."""
        lowest = min(self.binades, default=0)
        counts = [self.binades.get(b, 0) for b in range(lowest, max(self.binades, default=-1) + 1)]
        return {
            "amax": self.amax,
            "smallest": None if self.smallest == inf else self.smallest,
            "zeros": self.zeros,
            "nonfinite": self.nonfinite,
            "count": self.count,
            "binades": [lowest, *counts],
            "amax_sample": self.amax_sample,
            "smallest_sample": self.smallest_sample,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Range:
        lowest, *counts = data["binades"]
        return cls(
            amax=data["amax"],
            smallest=inf if data["smallest"] is None else data["smallest"],
            zeros=data["zeros"],
            nonfinite=data["nonfinite"],
            count=data["count"],
            binades={lowest + i: n for i, n in enumerate(counts) if n},
            amax_sample=data["amax_sample"],
            smallest_sample=data["smallest_sample"],
        )


Ranges = Mapping[str, Range]


def merge(*shards: Ranges) -> dict[str, Range]:
    """Ranges measured on several sets of samples, as one.

    >>> merge({"x": Range(amax=1.0)}, {"x": Range(amax=2.0)})["x"].amax
    2.0
    """
    merged: dict[str, Range] = {}
    for shard in shards:
        both: dict[tuple[int, int], Range] = {}  # values that share a range go on sharing it
        for name, found in shard.items():
            known = merged.get(name)
            if known is None:
                merged[name] = found
            else:
                key = id(known), id(found)
                merged[name] = both[key] if key in both else both.setdefault(key, known | found)
    return merged
