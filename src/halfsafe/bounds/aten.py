"""PyTorch's ATen operators, a family of bounds a line. What is not here is not bounded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import pi

import numpy as np

from halfsafe.bounds import activations as a
from halfsafe.bounds import attention, convolutions, linear, moving, norms, recurrent
from halfsafe.bounds import families as f
from halfsafe.bounds import reductions as over
from halfsafe.bounds import resampling as between
from halfsafe.bounds.activations import GELU, HARDSWISH, MISH, SILU
from halfsafe.bounds.bound import Bound
from halfsafe.bounds.operands import Operands

Family = Callable[[Operands], Bound | list[Bound]]

_MOVED = """
    alias clone detach view _unsafe_view _reshape_alias reshape flatten unflatten squeeze unsqueeze
    expand permute transpose t slice select split split_with_sizes chunk tensor_split unbind unfold
    as_strided diagonal flip roll repeat repeat_interleave index index_select gather take_along_dim
    cat stack narrow movedim swapaxes contiguous lift_fresh_copy pixel_shuffle pixel_unshuffle
    channel_shuffle expand_as view_as tile masked_select
""".split()

_WHOLE = """
    eq ne lt le gt ge isnan isinf isfinite logical_not logical_and logical_or logical_xor any
    all
""".split()

_PICKED = ["sort", "topk"]

_BY_FAMILY: Mapping[Family, Sequence[str]] = {
    moving.moved: _MOVED,
    moving.same: "_to_copy to type_as dropout positive".split(),
    moving.numbers_of(0.0, 1.0): _WHOLE,
    f.total: ["add"],
    f.difference: ["sub"],
    f.reversed_difference: ["rsub"],
    f.product: ["mul"],
    f.quotient: ["div", "true_divide"],
    f.powers: ["pow"],
    f.square: ["square"],
    a.rectified: ["relu"],
    f.magnitude: ["abs"],
    f.negated: ["neg"],
    a.gate(GELU): ["gelu"],
    a.gate(SILU): ["silu"],
    a.gate(MISH): ["mish"],
    a.gate(HARDSWISH): ["hardswish"],
    a.gated_unit: ["glu"],
    a.leaky(0.01): ["leaky_relu"],
    a.learned: ["prelu"],
    a.exponential_unit(1.0): ["elu"],
    a.exponential_unit(a.SELU[0], a.SELU[1]): ["selu"],
    a.celu: ["celu"],
    a.shrunk: ["hardshrink", "softshrink"],
    a.thresholded: ["threshold"],
    a.rising(np.exp): ["exp"],
    a.rising(np.exp2): ["exp2"],
    a.rising(np.expm1, error=1e-6): ["expm1"],
    a.rising(np.tanh, error=1e-6): ["tanh"],
    a.rising(np.sinh, error=1e-6): ["sinh"],
    a.even_rising(np.cosh): ["cosh"],
    a.rising(np.arctan, error=1e-6): ["atan"],
    a.rising(np.floor): ["floor"],
    a.rising(np.ceil): ["ceil"],
    a.rising(np.trunc): ["trunc"],
    a.rounded: ["round"],
    a.rising(lambda x: 1 / (1 + np.exp(-x)), error=1e-6): ["sigmoid"],
    a.rising(lambda x: -np.logaddexp(0, -x), error=1e-6): ["log_sigmoid"],
    a.rising(lambda x: np.clip(x / 6 + 0.5, 0, 1)): ["hardsigmoid"],
    a.rising(lambda x: np.clip(x, 0, 6)): ["relu6"],
    a.softplus: ["softplus"],
    recurrent.lstm: ["lstm"],
    recurrent.gru: ["gru"],
    recurrent.rnn: ["rnn_tanh"],
    a.turning(0.0): ["sin"],
    a.turning(pi / 2): ["cos"],
    a.within(-1.0, 1.0): ["erf", "sign", "frac"],
    a.within(0.0, 2.0): ["erfc"],
    a.within(-a.ANGLE, a.ANGLE): ["asin", "acos", "atan2"],
    a.remainder: ["fmod", "remainder"],
    a.mixed: ["lerp"],
    a.finite: ["nan_to_num"],
    f.clipped: ["clamp", "clip", "hardtanh", "clamp_min", "clamp_max"],
    f.larger: ["maximum", "fmax"],
    f.smaller: ["minimum", "fmin"],
    moving.bordered: """pad constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d
        replication_pad1d replication_pad2d replication_pad3d""".split(),
    f.largest: ["topk"],
    f.counted: ["histc"],
    f.picked: "sort max min kthvalue median cummax cummin aminmax".split(),
    moving.selected: ["where", "masked_fill"],
    moving.cut_off: ["tril", "triu"],
    moving.laid_out: ["im2col"],
    moving.laid_over: ["col2im"],
    moving.overwritten: """index_put index_add index_fill index_copy scatter scatter_add
        select_scatter slice_scatter diagonal_scatter masked_scatter""".split(),
    moving.copied: ["copy"],
    f.filled: ["full", "full_like", "new_full", "fill", "scalar_tensor"],
    f.full(0.0): ["zeros", "zeros_like", "new_zeros"],
    f.full(1.0): ["ones", "ones_like", "new_ones"],
    f.counted_up: ["arange"],
    f.square_root: ["sqrt"],
    f.inverse_square_root: ["rsqrt"],
    f.reciprocal: ["reciprocal"],
    f.logarithm(np.log): ["log"],
    f.logarithm(np.log2): ["log2"],
    f.logarithm(np.log10): ["log10"],
    a.defined(np.log1p, -1.0, np.inf): ["log1p"],
    over.averaged: ["mean", "amax", "amin"],
    over.added: ["sum"],
    over.partly_added: ["cumsum", "nansum"],
    over.multiplied: ["prod", "cumprod"],
    over.length(): ["linalg_vector_norm", "norm"],
    over.log_sum_exp: ["logsumexp"],
    over.variance: ["var", "var_mean"],
    over.deviation: ["std"],
    over.differences: ["diff"],
    linear.linear: ["linear"],
    linear.matrix_product: ["mm", "bmm", "matmul"],
    linear.biased_product: ["addmm"],
    linear.added_product: ["baddbmm", "addbmm", "addmv"],
    linear.inner_product: ["dot", "mv"],
    linear.outer_product: ["outer"],
    linear.grouped_product: ["_grouped_mm"],
    linear.contracted: ["einsum"],
    convolutions.convolution: ["conv1d", "conv2d", "conv3d", "convolution"],
    convolutions.transposed: ["conv_transpose1d", "conv_transpose2d", "conv_transpose3d"],
    convolutions.weight_norm: ["_weight_norm", "_weight_norm_interface"],
    between.pooled: """max_pool1d max_pool2d max_pool3d max_pool2d_with_indices
        max_pool3d_with_indices adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
        upsample_nearest1d upsample_nearest2d upsample_nearest3d
        _upsample_nearest_exact2d""".split(),
    between.averaged: """avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
        adaptive_avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d upsample_linear1d
        upsample_bilinear2d upsample_trilinear3d _upsample_bilinear2d_aa""".split(),
    between.cubic: ["upsample_bicubic2d"],
    between.sampled: ["grid_sampler", "grid_sampler_2d", "grid_sampler_3d"],
    linear.looked_up: ["embedding"],
    norms.layer_norm: ["layer_norm", "native_layer_norm", "rms_norm"],
    norms.group_norm: ["group_norm", "native_group_norm"],
    norms.instance_norm: ["instance_norm"],
    norms.batch_norm: """batch_norm native_batch_norm
        _native_batch_norm_legit_no_training""".split(),
    linear.softmax: ["softmax", "_softmax"],
    linear.log_softmax: ["log_softmax", "_log_softmax"],
    attention.attention: ["scaled_dot_product_attention"],
}

BOUNDS: Mapping[str, Family] = {
    f"aten.{name}": family for family, names in _BY_FAMILY.items() for name in names
}

WHOLE = frozenset(f"aten.{name}" for name in _WHOLE + _PICKED)
"""Operators of which outputs are truths, or entries of whole numbers, where they come in."""
