"""PyTorch's ATen operators, a family a line. An operator that is not here is pinned and reported.

To add one, put its name on the line of its law, and a call of it into tests/cases_aten.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from halfsafe.rules import families as f
from halfsafe.rules.algebra import Law, Rule
from halfsafe.rules.traits import law

_MOVEMENT = """
    alias clone contiguous detach lift_fresh_copy view _unsafe_view reshape _reshape_alias flatten
    unflatten squeeze unsqueeze expand expand_as permute transpose t swapaxes movedim narrow slice
    select split split_with_sizes chunk tensor_split unbind unfold as_strided diagonal tril triu
    flip roll repeat tile repeat_interleave gather index index_select take_along_dim masked_select
    pixel_shuffle pixel_unshuffle channel_shuffle im2col col2im view_as
    _to_copy to type_as copy
""".split()

_SCALING = """
    relu leaky_relu prelu rrelu abs neg positive
    max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices
    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d
    sum mean amax amin cumsum cummax cummin nansum sort topk kthvalue median std
    upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d
    upsample_bicubic2d upsample_trilinear3d _upsample_nearest_exact2d _upsample_bilinear2d_aa
    _upsample_bicubic2d_aa grid_sampler grid_sampler_2d grid_sampler_3d
    reflection_pad1d reflection_pad2d reflection_pad3d
    replication_pad1d replication_pad2d replication_pad3d
""".split()

_ALIGNED = """
    cat stack where maximum minimum fmax fmin max min diff
    clamp clamp_min clamp_max clip hardtanh
    threshold masked_fill masked_scatter constant_pad_nd pad index_put index_add index_fill
    index_copy scatter scatter_add select_scatter slice_scatter diagonal_scatter
    eq ne lt le gt ge equal aminmax hardshrink softshrink
""".split()

_PINNED = """
    exp exp2 expm1 log1p
    logsumexp sin cos tan asin acos atan atan2 sinh cosh erfc erfinv silu gelu mish
    selu celu hardswish log_sigmoid glu logit round floor ceil trunc frac fmod remainder
    floor_divide arange linspace ones cumprod prod eye nan_to_num relu6
""".split()

_BY_RULE: Mapping[Rule, Sequence[str]] = {
    f.movement: _MOVEMENT,
    f.homogeneous: _SCALING,
    f.aligned: _ALIGNED,
    f.total: ["add", "sub", "rsub"],
    f.lerp: ["lerp"],
    f.product: ["mul", "mm", "bmm", "matmul", "einsum", "dot", "mv", "outer"],
    f.square: ["square", "var"],
    f.spread_and_mean: ["var_mean"],
    f.vector_norm: ["norm", "linalg_vector_norm"],
    f.quotient: ["div", "true_divide"],
    f.reciprocal: ["reciprocal"],
    f.square_root: ["sqrt"],
    f.inverse_square_root: ["rsqrt"],
    f.power: ["pow"],
    f.affine: "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d "
    "convolution".split(),
    f.matrix_sum: ["addmm", "baddbmm", "addmv", "addbmm"],
    f.grouped_product: ["_grouped_mm"],
    f.embedding: ["embedding"],
    f.batch_norm: ["batch_norm", "native_batch_norm", "_native_batch_norm_legit_no_training"],
    f.normalisation: "layer_norm native_layer_norm group_norm native_group_norm rms_norm".split(),
    f.weight_norm: ["_weight_norm", "_weight_norm_interface"],
    f.attention: ["scaled_dot_product_attention"],
    f.softplus: ["softplus"],
    f.elu: ["elu"],
    f.fill: ["full", "full_like", "new_full", "fill", "scalar_tensor"],
    f.zeros: "zeros zeros_like new_zeros empty empty_like new_empty".split(),
    f.invariant: "sign argmax argmin argsort isnan isinf isfinite nonzero logical_not logical_and "
    "logical_or any all sym_size ones_like new_ones".split(),
    f.saturating: ["sigmoid", "tanh", "erf", "hardsigmoid"],
    f.softmax: ["softmax", "_softmax", "log_softmax", "_log_softmax"],
    f.logarithm: ["log", "log2", "log10"],
    f.pinned: _PINNED,
}

LAWS: Mapping[str, Law] = {
    f"aten.{name}": law(rule) for rule, names in _BY_RULE.items() for name in names
}
