"""The table of all operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from halfsafe.checking import activations as a
from halfsafe.checking import heads, moving, norms, pictures, products, quantised, recurrent
from halfsafe.checking import reductions as over
from halfsafe.checking.arithmetic import plus, power, product, quotient, scaled
from halfsafe.checking.calls import Call
from halfsafe.checking.known import Known
from halfsafe.checking.linear import affine, log_softmax, matmul, softmax
from halfsafe.checking.moving import moved, same

Rule = Callable[[Call], Known | list[Known]]

ANGLE = np.pi + 1e-6

_NAMES: Mapping[Rule, str] = {
    moved: "alias detach view _unsafe_view reshape flatten unflatten squeeze unsqueeze expand "
    "permute transpose t slice select split split_with_sizes chunk unbind unfold diagonal flip "
    "roll repeat repeat_interleave index index_select cat stack narrow movedim contiguous tile "
    "pixel_shuffle gather pixel_unshuffle channel_shuffle _reshape_alias tensor_split as_strided "
    "swapaxes take_along_dim expand_as view_as masked_select "
    "Identity Transpose Reshape Flatten Squeeze Unsqueeze Concat Slice "
    "Split Expand Tile ReverseSequence Compress ExpandDims UnfoldTensor "
    "GatherElements DepthToSpace SpaceToDepth clone lift_fresh_copy",
    same: "_to_copy to type_as dropout positive Cast CastLike Dropout",
    moving.table: "embedding Gather",
    moving.taken: "GatherND",
    moving.hull: "where masked_fill Where OneHot",
    moving.larger(np.maximum): "maximum fmax Max",
    moving.larger(np.minimum): "minimum fmin Min",
    moving.picked: "sort max min kthvalue median cummax cummin aminmax Unique",
    moving.largest: "topk TopK",
    moving.counted: "histc",
    moving.filled: "full full_like new_full fill scalar_tensor ConstantOfShape",
    moving.of_number(0.0): "zeros zeros_like new_zeros",
    moving.of_number(1.0): "ones ones_like new_ones",
    moving.copied: "copy",
    moving.overwritten: "index_put index_add index_fill index_copy scatter scatter_add "
    "select_scatter slice_scatter diagonal_scatter masked_scatter ScatterElements ScatterND "
    "TensorScatter",
    moving.laid_out: "im2col",
    affine: "linear Gemm",
    products.biased: "addmm",
    products.added: "baddbmm addbmm addmv",
    products.dot: "dot mv",
    products.outer: "outer",
    products.factored: "FusedMatMul TransposeMatMul",
    products.contracted: "einsum Einsum",
    products.grouped: "_grouped_mm",
    matmul: "mm bmm matmul MatMul",
    heads.attention: "scaled_dot_product_attention",
    heads.cached: "onnx.Attention MultiHeadAttention GroupQueryAttention",
    heads.turned: "RotaryEmbedding",
    softmax: "softmax _softmax Softmax",
    log_softmax: "log_softmax _log_softmax LogSoftmax",
    norms.layer_norm: "layer_norm native_layer_norm rms_norm LayerNormalization RMSNormalization "
    "SimplifiedLayerNormalization",
    norms.group_norm: "group_norm native_group_norm GroupNormalization",
    norms.instance_norm: "instance_norm InstanceNormalization",
    norms.batch_norm: "batch_norm native_batch_norm _native_batch_norm_legit_no_training "
    "BatchNormalization",
    norms.norm_of_sum: "SkipLayerNormalization SkipSimplifiedLayerNormalization",
    norms.norm_of_rows: "EmbedLayerNormalization",
    pictures.convolution: "conv1d conv2d conv3d convolution Conv",
    pictures.transposed: "conv_transpose1d conv_transpose2d conv_transpose3d ConvTranspose",
    pictures.weight_norm: "_weight_norm _weight_norm_interface",
    pictures.largest_of: "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices "
    "max_pool3d_with_indices adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d "
    "MaxPool GlobalMaxPool MaxUnpool",
    pictures.averages: "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d "
    "adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d "
    "AveragePool GlobalAveragePool",
    pictures.linear_between: "upsample_nearest1d upsample_nearest2d upsample_nearest3d "
    "_upsample_nearest_exact2d upsample_linear1d upsample_bilinear2d upsample_trilinear3d "
    "_upsample_bilinear2d_aa",
    pictures.cubic_between: "upsample_bicubic2d",
    pictures.sampled: "grid_sampler grid_sampler_2d grid_sampler_3d GridSample",
    pictures.resized: "Resize Upsample",
    pictures.padded: "pad constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d "
    "replication_pad1d replication_pad2d replication_pad3d Pad",
    pictures.cut: "tril triu Trilu",
    recurrent.lstm: "onnx.LSTM lstm",
    recurrent.gru: "GRU gru",
    recurrent.rnn: "RNN rnn_tanh",
    quantised.dequantised: "DequantizeLinear",
    plus(1.0): "add Add",
    plus(-1.0): "sub Sub",
    plus(-1.0, turned=True): "rsub",
    over.several(mean=False): "Sum",
    over.several(mean=True): "Mean",
    product: "mul Mul",
    quotient: "div true_divide Div",
    power: "pow Pow",
    a.squared: "square",
    a.gated("relu"): "relu Relu",
    a.gated("gelu"): "gelu Gelu",
    a.gated("silu"): "silu",
    a.gated("hardswish"): "hardswish HardSwish",
    a.gated("mish"): "mish Mish",
    a.swish: "Swish QuickGelu",
    a.biased_gate: "FastGelu BiasGelu",
    a.glu: "glu",
    a.leaky: "leaky_relu LeakyRelu",
    a.learned: "prelu PRelu",
    a.exponential(1.0): "elu Elu celu Celu",
    a.exponential(1.6732632423543772, 1.0507009873554805): "selu Selu",
    a.softplus: "softplus Softplus",
    a.shrunk: "hardshrink softshrink Shrink",
    a.remainder: "fmod remainder Mod",
    a.mixed: "lerp",
    a.finite: "nan_to_num",
    a.thresholded: "threshold ThresholdedRelu",
    a.rising(np.exp): "exp Exp",
    a.rising(np.exp2): "exp2",
    a.rising(np.expm1, more=1e-6): "expm1",
    a.rising(np.tanh, more=1e-6): "tanh Tanh",
    a.rising(np.sinh, more=1e-6): "sinh Sinh",
    a.even_rising(np.cosh): "cosh Cosh",
    a.rising(np.arctan, more=1e-6): "atan Atan",
    a.rising(np.arcsinh, more=1e-6): "Asinh",
    a.rising(np.arctanh, -1.0, 1e-6, 1.0): "Atanh",
    a.rising(np.floor): "floor Floor",
    a.rising(np.ceil): "ceil Ceil",
    a.rising(np.trunc): "trunc",
    a.to_whole: "round Round",
    a.rising(a.sigmoid, more=1e-6): "sigmoid Sigmoid",
    a.rising(lambda x: -np.logaddexp(0, -x), more=1e-6): "log_sigmoid",
    a.rising(lambda x: np.clip(x / 6 + 0.5, 0, 1)): "hardsigmoid",
    a.rising(lambda x: np.clip(x, 0, 6)): "relu6",
    a.rising(a.softsign): "Softsign",
    a.rising(lambda x: np.sqrt(np.maximum(x, 0.0))): "sqrt Sqrt",
    a.rising(np.log, 0.0, 1e-6): "log Log",
    a.rising(np.log2, 0.0, 1e-6): "log2",
    a.rising(np.log10, 0.0, 1e-6): "log10",
    a.rising(np.log1p, -1.0, 1e-6): "log1p",
    a.falling(lambda x: 1 / np.sqrt(x)): "rsqrt",
    a.falling(lambda x: 1 / x, below=True): "reciprocal Reciprocal",
    a.wave(np.sin, np.pi / 2): "sin Sin",
    a.wave(np.cos, 0.0): "cos Cos",
    a.within(-1.0, 1.0): "erf sign frac Erf Sign",
    a.within(0.0, 1.0): "HardSigmoid Hardmax EyeLike",
    a.within(0.0, 2.0): "erfc",
    a.within(-ANGLE, ANGLE): "asin acos atan2 Asin Acos",
    lambda c: scaled(c.first, -1.0): "neg Neg",
    a.magnitude: "abs Abs",
    a.clipped: "clamp clip hardtanh clamp_min clamp_max Clip",
    over.reduced("sum"): "sum ReduceSum",
    over.reduced("hull"): "mean amax amin ReduceMean ReduceMax ReduceMin",
    over.partly: "cumsum nansum CumSum",
    over.multiplied: "prod cumprod ReduceProd",
    over.length(): "linalg_vector_norm norm",
    over.length(1.0): "ReduceL1",
    over.length(2.0): "ReduceL2",
    over.squares: "ReduceSumSquare",
    over.log_sum_exp: "logsumexp ReduceLogSumExp",
    over.variance(): "var var_mean",
    over.variance(root=True): "std",
    over.differences: "diff",
    over.local_response: "LRN",
    over.pooled: "LpPool GlobalLpPool",
    over.of_length_one: "LpNormalization",
}  # fmt: skip

_WHOLE: Mapping[Rule, str] = {
    a.within(0.0, 1.0): "eq ne lt le gt ge isnan isinf isfinite logical_not logical_and "
    "logical_or logical_xor any all Equal Greater GreaterOrEqual Less LessOrEqual And Or Xor Not "
    "IsNaN IsInf",
    moving.picked: "sort topk",
    quantised.numbered: "QuantizeLinear",
    quantised.dynamic: "DynamicQuantizeLinear",
    quantised.whole_product: "MatMulInteger ConvInteger",
}  # fmt: skip


def _by_name(table: Mapping[Rule, str]) -> dict[str, Rule]:
    return {name: rule for rule, names in table.items() for name in names.split()}


RULES: Mapping[str, Rule] = _by_name(_NAMES)

WHOLE: Mapping[str, Rule] = _by_name(_WHOLE)
"""Of operators whose first output is of truths or whole numbers."""


def rule_of(op: str, *, floating: bool) -> Rule | None:
    """That of an operator, by its whole name where another has the same last part."""
    table, name = RULES if floating else WHOLE, op.rpartition(".")[2]
    return table.get(op) or table.get(name)
