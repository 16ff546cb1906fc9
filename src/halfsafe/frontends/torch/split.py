"""Composite operators in their parts, so that what they store on the way is seen.

An operator without a law that PyTorch itself computes by others stores each of their results in
FP16, where one can overflow although the whole would fit: the product of the first two operands of
an einsum of three. In FP32 its parts give the same bits.
"""

# torch.export is only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.export import default_decompositions

from halfsafe.frontends.torch.private import is_composite
from halfsafe.frontends.torch.schema import aten
from halfsafe.rules.aten import LAWS
from halfsafe.rules.traits import STORES_INSIDE

_WHOLE = {
    *"aten.lstm aten.gru aten.rnn_tanh aten.rnn_relu aten.instance_norm aten.embedding_bag".split(),
    *"aten.bilinear aten.one_hot".split(),
}
"""Operators that engines have kernels for: loops over steps, and what computes in FP32 inside."""


@cache
def splitting() -> Mapping[Any, Callable[..., Any]]:
    """How to compute each operator that is split, for `ExportedProgram.run_decompositions`."""
    known = dict(default_decompositions().items())
    composites = {op: parts for op, parts in known.items() if _is_split(op)}
    storing = {op: parts for op, parts in known.items() if _name(op) in STORES_INSIDE}
    return {**composites, **storing, aten.addbmm.default: _addbmm}


def _is_split(op: Any) -> bool:
    """Whether a composite has no law, or one that holds for its result but not on the way."""
    if getattr(op, "namespace", "") != "aten" or not is_composite(op):
        return False
    name = _name(op)
    return name in STORES_INSIDE or not (name in LAWS or name in _WHOLE)


def _name(op: Any) -> str:
    return str(getattr(op, "overloadpacket", op))


def _addbmm(
    self: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    """beta self + alpha sum(batch1 batch2), one product after the other, as the kernel has it."""
    for i in range(batch1.shape[0]):
        first, second = batch1.select(0, i), batch2.select(0, i)
        self = torch.addmm(self, first, second, beta=beta if i == 0 else 1, alpha=alpha)
    return self
