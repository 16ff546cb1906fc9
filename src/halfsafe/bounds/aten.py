"""PyTorch's ATen operators, a family of bounds a line. What is not here is not bounded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from halfsafe.bounds import families as f
from halfsafe.bounds import linear, moving, norms
from halfsafe.bounds.bound import Bound
from halfsafe.bounds.operands import Operands

Family = Callable[[Operands], Bound | list[Bound]]

GELU, SILU, MISH, HARDSWISH = -0.1701, -0.2785, -0.3089, -0.3751
"""No more than the least value of each: at -0.75, -1.28, -1.19 and -1.5."""

_MOVED = """
    alias clone detach view _unsafe_view reshape flatten unflatten squeeze unsqueeze expand permute
    transpose t slice select split split_with_sizes chunk unbind unfold diagonal flip roll repeat
    repeat_interleave index index_select gather cat stack narrow movedim swapaxes contiguous
    lift_fresh_copy pixel_shuffle pixel_unshuffle expand_as view_as tile
""".split()

_BY_FAMILY: Mapping[Family, Sequence[str]] = {
    moving.moved: _MOVED,
    moving.same: "_to_copy to type_as dropout".split(),
    f.total: ["add"],
    f.difference: ["sub"],
    f.reversed_difference: ["rsub"],
    f.product: ["mul"],
    f.quotient: ["div", "true_divide"],
    f.powers: ["pow"],
    f.square: ["square"],
    f.rectified: ["relu"],
    f.magnitude: ["abs"],
    f.negated: ["neg"],
    f.gate(GELU, even=True): ["gelu"],
    f.gate(SILU, even=True): ["silu"],
    f.gate(MISH): ["mish"],
    f.gate(HARDSWISH, even=True): ["hardswish"],
    f.rising(np.exp): ["exp"],
    f.rising(np.tanh, error=1e-6): ["tanh"],
    f.rising(np.arctan): ["atan"],
    f.rising(lambda x: 1 / (1 + np.exp(-x)), error=1e-6): ["sigmoid"],
    f.rising(lambda x: np.clip(x / 6 + 0.5, 0, 1)): ["hardsigmoid"],
    f.softplus: ["softplus"],
    f.within(-1.0, 1.0): ["sin", "cos", "erf", "sign"],
    f.clipped: ["clamp", "clip", "hardtanh"],
    f.larger: ["maximum"],
    f.smaller: ["minimum"],
    f.filled: ["pad", "constant_pad_nd"],
    f.picked: "topk sort max min kthvalue median".split(),
    moving.selected: ["where", "masked_fill"],
    f.square_root: ["sqrt"],
    f.inverse_square_root: ["rsqrt"],
    f.reciprocal: ["reciprocal"],
    f.logarithm: ["log"],
    f.averaged: ["mean", "amax", "amin"],
    f.added: ["sum"],
    linear.linear: ["linear"],
    linear.matrix_product: ["mm", "bmm", "matmul"],
    linear.biased_product: ["addmm"],
    linear.convolution: ["conv1d", "conv2d", "conv3d"],
    moving.pooled: "max_pool1d max_pool2d avg_pool1d avg_pool2d adaptive_avg_pool1d "
    "adaptive_avg_pool2d upsample_nearest2d upsample_bilinear2d upsample_nearest1d".split(),
    linear.looked_up: ["embedding"],
    norms.layer_norm: ["layer_norm", "native_layer_norm", "rms_norm"],
    norms.group_norm: ["group_norm", "native_group_norm"],
    norms.batch_norm: ["batch_norm", "_native_batch_norm_legit_no_training"],
    linear.softmax: ["softmax", "_softmax"],
    linear.log_softmax: ["log_softmax", "_log_softmax"],
    linear.attention: ["scaled_dot_product_attention"],
}

BOUNDS: Mapping[str, Family] = {
    f"aten.{name}": family for family, names in _BY_FAMILY.items() for name in names
}
