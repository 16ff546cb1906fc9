"""Ranges of many tensors for little: exact extremes, a thinned histogram, read from a GPU at once.

Nothing here waits for a GPU before `read`, and no tensor is kept: of each, only its extremes and
about a thousand entries are.
"""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import frexp, inf, isfinite

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfsafe.formats import FLOAT16
from halfsafe.frontends.torch.arithmetic import range_of
from halfsafe.ranges import Range


@dataclass(frozen=True, slots=True)
class _Sketch:
    """Extremes of a tensor, and the magnitudes of some of its entries."""

    lowest: float
    highest: float
    largest_finite: float
    nonfinite: int
    magnitudes: NDArray[np.float32]


_FIGURES = 4
"""What goes before the entries when a sketch travels from a device as one vector."""


class Sketches:
    """Sketches of one call's tensors, by name, in the order in which they were added."""

    def __init__(self, entries: int | None) -> None:
        self._entries = entries
        self._found: list[tuple[str, int, _Sketch | Tensor | Range]] = []

    def add(self, name: str, x: Tensor) -> None:
        """Sketches a floating tensor, on its device."""
        x = x.detach()
        if self._entries is None or not x.numel():
            found = range_of(x)
        elif x.is_cpu:
            found = _on_host(x, self._entries)
        else:
            found = _on_device(x, self._entries)
        self._found.append((name, x.numel(), found))

    def read(self, sample: int) -> Iterator[tuple[str, Range]]:
        """Ranges of what was added since the last time; waits for the devices once."""
        found, self._found = self._found, []
        arrived = iter(_fetch([sketch for _, _, sketch in found if isinstance(sketch, Tensor)]))
        thinned = [
            (name, count, next(arrived) if isinstance(sketch, Tensor) else sketch)
            for name, count, sketch in found
            if not isinstance(sketch, Range)
        ]
        for name, _, sketch in found:
            if isinstance(sketch, Range):
                yield name, replace(sketch, amax_sample=sample, smallest_sample=sample)
        if thinned:
            yield from _ranges(thinned, sample)


def is_measurable(x: Tensor) -> bool:
    """Whether a tensor holds floating numbers that can be looked at."""
    return x.is_floating_point() and x.layout == torch.strided and not x.is_meta


def _thinned(x: Tensor, entries: int) -> Tensor:
    """Every nth entry in the order of memory, n being odd so that it meets every channel."""
    if not x.is_contiguous():
        x = x.permute(sorted(range(x.ndim), key=x.stride, reverse=True))
    step = -(-x.numel() // entries)
    return x.reshape(-1)[:: step + 1 - step % 2]


def _on_host(x: Tensor, entries: int) -> _Sketch:
    ends = torch.aminmax(x)
    lowest, highest = ends[0].item(), ends[1].item()
    magnitudes = np.abs(_thinned(x, entries).float().numpy())
    if isfinite(lowest) and isfinite(highest):
        return _Sketch(lowest, highest, max(-lowest, highest), 0, magnitudes)
    finite = torch.isfinite(x)
    largest = float(torch.where(finite, x, 0).abs().amax())
    return _Sketch(lowest, highest, largest, int((~finite).sum()), magnitudes)


def _on_device(x: Tensor, entries: int) -> Tensor:
    """A sketch as one vector, computed where the tensor is, without waiting for it."""
    lowest, highest = torch.aminmax(x)
    finite = torch.isfinite(x)
    largest = torch.where(finite, x, 0).abs().amax()
    nonfinite = (~finite).sum()
    figures = torch.stack([f.float() for f in (lowest, highest, largest, nonfinite)])
    return torch.cat((figures, _thinned(x, entries).float().abs()))


def _fetch(vectors: list[Tensor]) -> list[_Sketch]:
    """Vectors as sketches, with one transfer from each device."""
    found: dict[int, _Sketch] = {}
    for device in {x.device for x in vectors}:
        here = [i for i, x in enumerate(vectors) if x.device == device]
        lengths = np.cumsum([vectors[i].numel() for i in here])[:-1]
        joined = torch.cat([vectors[i] for i in here]).cpu().numpy()
        for i, part in zip(here, np.split(joined, lengths), strict=True):
            lowest, highest, largest, nonfinite = (float(f) for f in part[:_FIGURES])
            found[i] = _Sketch(lowest, highest, largest, int(nonfinite), part[_FIGURES:])
    return [found[i] for i in range(len(vectors))]


_BIAS = 160
"""Lifts the exponents of all FP32 numbers, subnormal ones too, to indices under `_WIDTH`."""

_WIDTH = 320


def _ranges(
    sketches: Sequence[tuple[str, int, _Sketch]], sample: int
) -> Iterator[tuple[str, Range]]:
    """What sketches say of the whole tensors; all histograms are drawn at once."""
    entries = np.concatenate([sketch.magnitudes for _, _, sketch in sketches])
    lengths = [sketch.magnitudes.size for _, _, sketch in sketches]
    starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
    zeros = np.add.reduceat(entries == 0, starts, dtype=np.int64)
    nonzero = (entries > 0) & (entries < inf)
    smallest = np.minimum.reduceat(np.where(nonzero, entries, inf), starts)
    bins = np.frexp(entries)[1] + np.repeat(np.arange(len(sketches)) * _WIDTH + _BIAS - 1, lengths)
    counts = np.bincount(bins[nonzero], minlength=len(sketches) * _WIDTH).reshape(-1, _WIDTH)
    for i, (name, count, sketch) in enumerate(sketches):
        (hit,) = counts[i].nonzero()
        drawn = zip((hit - _BIAS).tolist(), counts[i, hit].tolist(), strict=True)
        binades: dict[int, int] = dict(drawn)
        amax, nonfinite = sketch.largest_finite, sketch.nonfinite
        if amax:
            binades.setdefault(frexp(amax)[1] - 1, 1)
        if sketch.lowest == -inf and sketch.highest < inf and amax < FLOAT16.max / 16:
            nonfinite = 0  # the -inf of a mask: what overflows has large neighbours
        least = min(float(smallest[i]), amax or inf)
        yield (
            name,
            Range(amax, least, int(zeros[i]), nonfinite, count, binades, sample, sample),
        )
