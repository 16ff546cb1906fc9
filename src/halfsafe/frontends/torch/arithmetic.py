"""What measuring asks of PyTorch: `halfsafe.measure.Arithmetic`, on any device."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import inf, isfinite, nan
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from halfsafe.deviation import Deviation
from halfsafe.deviation import deviation as in_numpy
from halfsafe.formats import FLOAT32, FloatFormat
from halfsafe.ranges import Range
from halfsafe.source import Arrays

T = TypeVar("T")
R = TypeVar("R")

_MAGNITUDE, _INFINITY, _NORMAL = 0x7FFFFFFF, 0x7F800000, 0x00800000
"""Bit patterns of FP32: all but the sign, infinity, and the smallest normal number."""

_FAR_FROM_INFINITY = 2.0**127
"""What is smaller is not rounded up to infinity by cutting its bits."""

_NATIVE = {"float16": torch.float16, "bfloat16": torch.bfloat16}
"""Formats that PyTorch rounds to by itself."""


def floating(x: Tensor) -> bool:
    """Whether the entries are floating numbers."""
    return x.is_floating_point()


def range_of(x: Tensor) -> Range:
    """The Range of one tensor.

    A magnitude and its bit pattern have the same order, so that on FP32 the extremes are found on
    integers, and a binade is the pattern's exponent field (IEEE 754-2019, section 3.4).

    >>> range_of(torch.tensor([0.0, -3.0, 0.5])).binades
    {-1: 1, 1: 1}
    """
    patterns = _Patterns()
    for part in on_threads(_patterns, _chunks(x)):
        patterns.add(part)
    return patterns.range


def _patterns(chunk: Tensor) -> _Patterns:
    found = _Patterns()
    found.look(chunk if chunk.dtype == torch.float32 else chunk.float())
    return found


class _Patterns:
    """Counts the bit patterns of FP32 magnitudes; FP64 is judged as FP32 sees it."""

    def __init__(self) -> None:
        self.counts = torch.zeros(256, dtype=torch.int64)
        self.largest, self.smallest = 0, _INFINITY
        self.subnormal: dict[int, int] = {}

    def add(self, other: _Patterns) -> None:
        """What another part of the tensor shows."""
        self.counts += other.counts
        self.largest = max(self.largest, other.largest)
        self.smallest = min(self.smallest, other.smallest)
        for binade, entries in other.subnormal.items():
            self.subnormal[binade] = self.subnormal.get(binade, 0) + entries

    def look(self, chunk: Tensor) -> None:
        """What a part of the tensor shows, the first that is looked at."""
        bits = chunk.contiguous().view(torch.int32) & _MAGNITUDE
        self.counts = torch.bincount((bits >> 23).to(torch.uint8), minlength=256).cpu()
        least, largest = (int(found) for found in torch.aminmax(bits))
        if largest >= _INFINITY:
            bits = torch.where(bits < _INFINITY, bits, 0)
            largest, least = int(bits.max()), 0
        if least < _NORMAL:
            self.subnormal = _subnormal_binades(bits[(bits > 0) & (bits < _NORMAL)])
        if least == 0:  # 0 wraps around to the largest pattern
            least = int(((bits - 1) & _MAGNITUDE).min()) + 1
        self.largest, self.smallest = largest, least

    @property
    def range(self) -> Range:
        counts: list[int] = self.counts.tolist()
        zeros, nonfinite = counts[0] - sum(self.subnormal.values()), counts[255]
        if self.largest == 0:
            return Range(zeros=zeros, nonfinite=nonfinite, count=sum(counts))
        binades = {i - 127: n for i, n in enumerate(counts) if n and 0 < i < 255}
        binades = {**dict(sorted(self.subnormal.items())), **binades}
        extremes = _number(self.largest), _number(self.smallest)
        return Range(*extremes, zeros, nonfinite, sum(counts), binades)


def rounded(x: Tensor, fmt: FloatFormat) -> Tensor:
    """Rounded to a format, to nearest even.

    >>> from halfsafe.formats import FLOAT16, FLOOR
    >>> rounded(torch.tensor([65519.0, 65520.0, 1e-8]), FLOAT16)
    tensor([65504.,    inf,     0.])
    >>> rounded(torch.tensor([2049.0, 3.0e38, 1e-30]), FLOOR).tolist()[0]
    2048.0
    """
    native = _NATIVE.get(fmt.name)
    if fmt == FLOAT32:
        return x
    made = torch.empty_like(x)
    if made.stride() != x.stride():  # entries that share memory, say: they have no common order
        return x.to(native).to(x.dtype) if native else by_bits(x, fmt)

    def fill(both: tuple[Tensor, Tensor]) -> None:
        entries, into = both
        if native:
            into.copy_(entries.to(native))
        elif fmt.unlimited and x.dtype == torch.float32:
            _cut(entries, fmt, into)
        else:
            into.copy_(by_bits(entries, fmt))

    on_threads(fill, list(zip(_chunks(x), _chunks(made), strict=True)))
    return made


def _cut(x: Tensor, fmt: FloatFormat, into: Tensor) -> None:
    """`by_bits` for an unlimited format, of FP32, without a tensor in between."""
    least, largest = (float(found) for found in torch.aminmax(x))
    if not max(-least, largest) < _FAR_FROM_INFINITY:  # NaN as well
        into.copy_(by_bits(x, fmt))
        return
    cut = FLOAT32.mantissa_bits - fmt.mantissa_bits
    bits, made = x.view(torch.int32), into.view(torch.int32)
    torch.bitwise_right_shift(bits, cut, out=made)
    made.bitwise_and_(1).add_(bits).add_((1 << (cut - 1)) - 1).bitwise_and_(-(1 << cut))


def by_bits(x: Tensor, fmt: FloatFormat) -> Tensor:
    """The same for any format narrower than FP32, on the bits of FP32.

    Half of the last bit that is kept is added, less one unit where that bit is even, and the rest
    is cut off. Below smallest_normal, adding a number whose last bit is smallest_subnormal rounds
    to multiples of that.
    """
    wide = x.float()
    cut = FLOAT32.mantissa_bits - fmt.mantissa_bits
    bits = wide.contiguous().view(torch.int32)
    half_step = ((bits >> cut) & 1) + ((1 << (cut - 1)) - 1)
    made = ((bits + half_step) & -(1 << cut)).view(torch.float32)
    if fmt.unlimited:  # FP32's own largest numbers stay as they are
        made = torch.where(torch.isfinite(wide) & torch.isfinite(made), made, wide)
        return made.to(x.dtype)
    if fmt.min_binade > FLOAT32.min_binade:
        shift = 1.5 * 2.0 ** (FLOAT32.mantissa_bits + fmt.min_binade - fmt.mantissa_bits)
        made = torch.where(wide.abs() < fmt.smallest_normal, (wide + shift) - shift, made)
    beyond = nan if fmt.finite else inf
    made = torch.where(made.abs() > fmt.max, beyond, made).copysign(wide)
    return torch.where(torch.isnan(wide), wide, made).to(x.dtype)


def deviation(candidate: Tensor, reference: Tensor) -> Deviation:
    """As `halfsafe.deviation.deviation`, which computes it on a CPU.

    >>> deviation(torch.tensor([1.0, torch.inf]), torch.tensor([2.0, 2.0]))
    Deviation(squared_error=1.0, squared_norm=8.0, nonfinite=1, count=2)
    """
    found = on_threads(_deviation, _pairs(candidate, reference))
    return Deviation(
        squared_error=sum((part.squared_error for part in found), 0.0),
        squared_norm=sum((part.squared_norm for part in found), 0.0),
        nonfinite=sum(part.nonfinite for part in found),
        count=sum(part.count for part in found),
    )


def _deviation(both: tuple[Tensor, Tensor]) -> Deviation:
    candidate, reference = both
    if _has_numpy(candidate) and _has_numpy(reference):
        return in_numpy(candidate.numpy(), reference.numpy())
    wide = reference.double()
    apart = wide - candidate
    error, norm = float(apart.square().sum()), float(wide.square().sum())
    if isfinite(error + norm):
        return Deviation(error, norm, 0, wide.numel())
    return _deviation_of_some(apart, wide)


def _deviation_of_some(apart: Tensor, reference: Tensor) -> Deviation:
    """Where some entries are not finite, or their squares are not in FP64."""
    counted = torch.isfinite(reference)
    squared = apart.square()
    broken = counted & ~torch.isfinite(squared)
    return Deviation(
        squared_error=float(torch.where(counted & ~broken, squared, 0.0).sum()),
        squared_norm=float(torch.where(counted, reference, 0.0).square().sum()),
        nonfinite=int(broken.sum()),
        count=int(counted.sum()),
    )


def differing(a: Tensor, b: Tensor) -> int:
    """Entries that are not the same; NaN is the same as NaN."""
    return sum(on_threads(_differing, _pairs(a, b)))


def _differing(both: tuple[Tensor, Tensor]) -> int:
    a, b = both
    if _has_numpy(a) and _has_numpy(b):  # which compares five times as fast
        found = int(np.count_nonzero(a.numpy() != b.numpy()))
    else:
        found = int(torch.count_nonzero(a != b))
    if found and a.is_floating_point():
        found -= int(torch.count_nonzero((a != a) & (b != b)))
    return found


def _has_numpy(x: Tensor) -> bool:
    """Whether NumPy takes a tensor as it lies."""
    stored = not (x.is_neg() or x.is_conj())  # some views of complex numbers are computed when read
    return x.device.type == "cpu" and x.dtype != torch.bfloat16 and stored


CHUNK = 2**15
"""Entries that are looked at together: what is made of them stays in a cache of 1 MB, and PyTorch
computes them on one thread."""

FEW = 64
"""Parts for which threads are not worth their start."""


def on_threads(work: Callable[[T], R], parts: Sequence[T]) -> list[R]:
    """What `work` gives for each part, in their order, on as many threads as PyTorch may use.

    PyTorch's own threads wait for each other in every operator; these meet once.
    """
    threads = torch.get_num_threads()
    if threads == 1 or len(parts) < FEW:
        return [work(part) for part in parts]
    share = -(-len(parts) // threads)
    shares = [parts[i : i + share] for i in range(0, len(parts), share)]

    def work_on(some: Sequence[T]) -> list[R]:
        return [work(part) for part in some]

    with ThreadPoolExecutor(threads) as pool:
        return [one for found in pool.map(work_on, shares) for one in found]


def _chunks(x: Tensor) -> Sequence[Tensor]:
    """A tensor's entries in parts, in the order in which they lie in memory."""
    if not x.numel():
        return ()
    return _in_memory_order(x.detach()).split(CHUNK if x.device.type == "cpu" else x.numel())


def _pairs(a: Tensor, b: Tensor) -> Sequence[tuple[Tensor, Tensor]]:
    """The entries of two tensors of one shape, part by part."""
    if a.stride() != b.stride():
        a, b = a.contiguous(), b.contiguous()
    return list(zip(_chunks(a), _chunks(b), strict=True))


def _in_memory_order(x: Tensor) -> Tensor:
    """Flat: a view, unless entries share memory or lie apart."""
    axes = sorted(range(x.dim()), key=lambda axis: -x.stride(axis))
    return x.permute(axes).reshape(-1)


def arrays(outputs: Iterable[Any]) -> Arrays:
    """The tensors among some flat outputs in NumPy, those narrower than FP32 in FP32."""
    tensors = (x.detach().cpu() for x in outputs if isinstance(x, Tensor))
    narrow = (torch.float16, torch.bfloat16)
    return [np.asarray((x.float() if x.dtype in narrow else x).numpy()) for x in tensors]


def _number(bits: int) -> float:
    """The positive FP32 number with these bits."""
    return float(torch.tensor(bits, dtype=torch.int32).view(torch.float32))


def _subnormal_binades(bits: Tensor) -> dict[int, int]:
    if not bits.numel():
        return {}
    binades = torch.frexp(bits.view(torch.float32).double()).exponent - 1
    found, counts = torch.unique(binades, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))
