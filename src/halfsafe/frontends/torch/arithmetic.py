"""What measuring asks of PyTorch: `halfsafe.measure.Arithmetic`, on any device."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterable
from math import inf, nan
from typing import Any

import numpy as np
import torch
from torch import Tensor

from halfsafe.deviation import Deviation
from halfsafe.formats import FLOAT32, FloatFormat
from halfsafe.ranges import Range
from halfsafe.source import Arrays

_MAGNITUDE, _INFINITY, _NORMAL = 0x7FFFFFFF, 0x7F800000, 0x00800000
"""Bit patterns of FP32: all but the sign, infinity, and the smallest normal number."""

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
    x = x.detach()
    if x.numel() == 0:
        return Range()
    if x.dtype != torch.float32:
        x = x.float()  # narrower formats are exact in FP32; FP64 is judged as FP32 sees it
    bits = x.contiguous().view(torch.int32).flatten() & _MAGNITUDE
    counts: list[int] = torch.bincount((bits >> 23).to(torch.uint8), minlength=256).tolist()
    nonfinite = counts[255]
    if nonfinite:
        bits = torch.where(bits < _INFINITY, bits, 0)
    smallest = int(((bits - 1) & _MAGNITUDE).min()) + 1  # 0 wraps around to the largest pattern
    if smallest > _INFINITY:
        return Range(zeros=x.numel() - nonfinite, nonfinite=nonfinite, count=x.numel())
    binades = {i - 127: n for i, n in enumerate(counts) if n and 0 < i < 255}
    zeros = counts[0]
    if smallest < _NORMAL:
        subnormal = bits[(bits > 0) & (bits < _NORMAL)]
        zeros -= subnormal.numel()
        binades = {**_subnormal_binades(subnormal), **binades}
    amax = _number(int(bits.max()))
    return Range(amax, _number(smallest), zeros, nonfinite, x.numel(), binades)


def rounded(x: Tensor, fmt: FloatFormat) -> Tensor:
    """Rounded to a format, to nearest even.

    >>> from halfsafe.formats import FLOAT16, FLOOR
    >>> rounded(torch.tensor([65519.0, 65520.0, 1e-8]), FLOAT16)
    tensor([65504.,    inf,     0.])
    >>> rounded(torch.tensor([2049.0, 3.0e38, 1e-30]), FLOOR).tolist()[0]
    2048.0
    """
    native = _NATIVE.get(fmt.name)
    if native or fmt == FLOAT32:
        return x.to(native or x.dtype).to(x.dtype)
    return by_bits(x, fmt)


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
    """As `halfsafe.deviation.deviation`.

    >>> deviation(torch.tensor([1.0, torch.inf]), torch.tensor([2.0, 2.0]))
    Deviation(squared_error=1.0, squared_norm=8.0, nonfinite=1, count=2)
    """
    wide = reference.double()
    difference = candidate.double() - wide
    counted = torch.isfinite(wide)
    squared = difference.square_()
    broken = counted & ~torch.isfinite(squared)
    return Deviation(
        squared_error=float(torch.where(counted & ~broken, squared, 0.0).sum()),
        squared_norm=float(torch.where(counted, wide, 0.0).square_().sum()),
        nonfinite=int(broken.sum()),
        count=int(counted.sum()),
    )


def differing(a: Tensor, b: Tensor) -> int:
    """Entries that are not the same; NaN is the same as NaN."""
    return int(((a != b) & ~(a.isnan() & b.isnan())).sum())


def arrays(outputs: Iterable[Any]) -> Arrays:
    """The tensors among some flat outputs, floating ones in FP64."""
    tensors = (x.detach().cpu() for x in outputs if isinstance(x, Tensor))
    return [np.asarray((x.double() if x.is_floating_point() else x).numpy()) for x in tensors]


def _number(bits: int) -> float:
    """The positive FP32 number with these bits."""
    return float(torch.tensor(bits, dtype=torch.int32).view(torch.float32))


def _subnormal_binades(bits: Tensor) -> dict[int, int]:
    if not bits.numel():
        return {}
    binades = torch.frexp(bits.view(torch.float32).double()).exponent - 1
    found, counts = torch.unique(binades, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))
