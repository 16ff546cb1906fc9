"""Strict evaluation: FP32 arithmetic in which every value that the graph stores is rounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from halfsafe.frontends.torch.program import Program
from halfsafe.samples import Call

Rounding = Callable[[Tensor], Tensor]


def to_float16(x: Tensor) -> Tensor:
    """Rounded to FP16, to nearest even; beyond 65,520 it is inf.

    >>> to_float16(torch.tensor([65519.0, 65520.0, 1e-8]))
    tensor([65504.,    inf,     0.])
    """
    return x.half().to(x.dtype)


def to_eleven_bits(x: Tensor) -> Tensor:
    """Rounded to the 11-bit significand of FP16, to nearest even, with FP32's exponent range.

    What a graph rounded so loses is the floor: no FP16 deployment of it can lose less.

    >>> to_eleven_bits(torch.tensor([2049.0, 3.0e38, 1e-30])).tolist()[0]
    2048.0
    """
    bits = x.float().contiguous().view(torch.int32)
    half_step = ((bits >> 13) & 1) + 0x0FFF
    rounded = ((bits + half_step) & ~0x1FFF).view(torch.float32)
    kept = torch.isfinite(x) & torch.isfinite(rounded)  # FP32's own largest stay as they are
    return torch.where(kept, rounded, x.float()).to(x.dtype)


def evaluate_rounded(program: Program, call: Call, rounding: Rounding) -> list[Any]:
    """Flat outputs of the program with every deployed value rounded as it is stored."""
    rounded = program.graph.rounded

    def store(name: str, x: Tensor) -> Tensor:
        return rounding(x) if name in rounded else x

    return program.evaluate(call, store)
