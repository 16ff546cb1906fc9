"""Ranges of a program's values: one pass a sample, nothing kept but the statistics."""

# torch.fx and torch.export are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from halfsafe.frontends.torch.program import Program
from halfsafe.ranges import Range, merge
from halfsafe.samples import Call

Statistics = Literal["amax", "full"]

_MAGNITUDE, _INFINITY, _NORMAL = 0x7FFFFFFF, 0x7F800000, 0x00800000
"""Bit patterns of FP32: all but the sign, infinity, and the smallest normal number."""


def measure_tensor(x: Tensor, statistics: Statistics = "full") -> Range:
    """The Range of one tensor.

    A magnitude and its bit pattern have the same order, so that on FP32 the extremes are found on
    integers, and a binade is the pattern's exponent field (IEEE 754-2019, section 3.4).

    >>> measure_tensor(torch.tensor([0.0, -3.0, 0.5])).binades
    {-1: 1, 1: 1}
    """
    x = x.detach()
    if x.numel() == 0:
        return Range()
    if x.dtype != torch.float32:
        x = x.float()  # narrower formats are exact in FP32; FP64 is judged as FP32 sees it
    if statistics == "amax":
        return _extremes(x)
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


def measure(
    program: Program,
    calls: Iterable[Call],
    statistics: Statistics = "full",
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Range]:
    """Ranges of inputs and activations over all samples. Raises BadInput for a misfit sample."""
    shards: dict[str, Range] = {}
    for i, call in enumerate(calls):
        progress(f"sample {i + 1}")
        observer = Observer(program, statistics, call.number)
        program.evaluate(call, observer)
        shards = merge(shards, observer.found)
    return shards


def measure_constants(program: Program) -> dict[str, Range]:
    """Ranges of the constants, and of the numbers written into the code."""
    values = program.graph.values.values()
    return {
        v.name: measure_tensor(program.constants[v.name])
        if v.number is None
        else Range.of(v.number)
        for v in values
        if v.floating and v.kind in ("constant", "literal")
    }


class Observer:
    """Measures each activation once: an operator that only moves entries inherits its input's."""

    def __init__(self, program: Program, statistics: Statistics, sample: int) -> None:
        graph = program.graph
        self.statistics: Statistics = statistics
        self.sample = sample
        self.found: dict[str, Range] = {}
        self.skip = {name for name, value in graph.values.items() if value.kind == "constant"}
        self.inherits = graph.inherits

    def __call__(self, name: str, x: Tensor) -> Tensor:
        if name in self.skip:
            return x
        source = self.inherits.get(name)
        if source in self.found:
            self.found[name] = self.found[source]
        else:
            found = measure_tensor(x, self.statistics)
            self.found[name] = replace(found, amax_sample=self.sample, smallest_sample=self.sample)
        return x


def _extremes(x: Tensor) -> Range:
    lowest, highest = torch.stack(torch.aminmax(x)).tolist()
    amax = max(-lowest, highest)
    if amax != amax or amax == torch.inf:
        finite = x[torch.isfinite(x)]
        amax = float(finite.abs().max()) if finite.numel() else 0.0
        return Range(amax=amax, nonfinite=x.numel() - finite.numel(), count=x.numel())
    return Range(amax=amax, count=x.numel())


def _number(bits: int) -> float:
    """The positive FP32 number with these bits."""
    return float(torch.tensor(bits, dtype=torch.int32).view(torch.float32))


def _subnormal_binades(bits: Tensor) -> dict[int, int]:
    if not bits.numel():
        return {}
    binades = torch.frexp(bits.view(torch.float32).double()).exponent - 1
    found, counts = torch.unique(binades, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))
