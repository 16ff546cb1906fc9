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

from halfsafe.frontends.torch.schema import aten
from halfsafe.rules.aten import LAWS

_SPLIT = {"aten.einsum"}
"""Operators with a law that are split all the same: not every contraction is one product."""

_WHOLE = {
    *"aten.lstm aten.gru aten.rnn_tanh aten.rnn_relu aten.instance_norm aten.embedding_bag".split(),
    *"aten.bilinear aten.one_hot".split(),
}
"""Operators that engines have kernels for: loops over steps, and what computes in FP32 inside."""

_STORING = """_euclidean_dist mse_loss smooth_l1_loss huber_loss soft_margin_loss
    binary_cross_entropy_with_logits""".split()
"""Operators without a law whose kernels store tensors on the way: squares, products, losses."""


@cache
def splitting() -> Mapping[Any, Callable[..., Any]]:
    """How to compute each operator that is split, for `ExportedProgram.run_decompositions`."""
    known = dict(default_decompositions().items())
    composites = {op: parts for op, parts in known.items() if _is_split(op)}
    storing = {op: known[op] for name in _STORING if (op := getattr(aten, name).default) in known}
    return {**composites, **storing, aten.addbmm.default: _addbmm}


def _is_split(op: Any) -> bool:
    """Whether a composite has no law, or one that holds for its result but not on the way."""
    if getattr(op, "namespace", "") != "aten" or not _is_composite(op):
        return False
    name = str(op.overloadpacket)
    return name in _SPLIT or not (name in LAWS or name in _WHOLE)


def _is_composite(op: Any) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(  # pyright: ignore
        op.name(), "CompositeImplicitAutograd"
    )


def _addbmm(
    self: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    """beta self + alpha sum(batch1 batch2), one product after the other, as the kernel has it."""
    for i in range(batch1.shape[0]):
        first, second = batch1.select(0, i), batch2.select(0, i)
        self = torch.addmm(self, first, second, beta=beta if i == 0 else 1, alpha=alpha)
    return self
