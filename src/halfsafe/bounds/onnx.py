"""Operators of ONNX, a family of bounds a line. What is not here is not bounded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import pi

import numpy as np

from halfsafe.bounds import activations as a
from halfsafe.bounds import attention, convolutions, linear, moving, norms, quantised, recurrent
from halfsafe.bounds import families as f
from halfsafe.bounds import reductions as over
from halfsafe.bounds import resampling as between
from halfsafe.bounds.activations import GELU, HARDSWISH, MISH, SELU
from halfsafe.bounds.bound import Bound
from halfsafe.bounds.operands import Operands

Family = Callable[[Operands], Bound | list[Bound]]

_MOVED = """
    Identity Transpose Reshape Flatten Squeeze Unsqueeze Concat Slice Split Expand Tile
    GatherElements DepthToSpace SpaceToDepth ReverseSequence Compress ms:ExpandDims ms:UnfoldTensor
"""

_TRUTHS = """
    Equal Greater GreaterOrEqual Less LessOrEqual And Or Xor Not IsNaN IsInf
"""

_BYTES = "QuantizeLinear ms:QuantizeLinear DynamicQuantizeLinear MatMulInteger ConvInteger"

_BY_FAMILY: Mapping[Family, str] = {
    moving.moved: _MOVED,
    moving.taken: "GatherND ms:GatherND",
    moving.numbers_of(0.0, 1.0): _TRUTHS,
    linear.gathered: "Gather",
    moving.same: "Cast CastLike Dropout",
    f.total: "Add",
    f.difference: "Sub",
    f.all_added: "Sum",
    f.all_averaged: "Mean",
    f.product: "Mul",
    f.quotient: "Div",
    f.powers: "Pow",
    a.rectified: "Relu",
    f.magnitude: "Abs",
    f.negated: "Neg",
    a.gate(GELU): "Gelu ms:Gelu",
    a.biased_gate(GELU): "ms:FastGelu ms:BiasGelu",
    a.gate(MISH): "Mish",
    a.gate(HARDSWISH): "HardSwish",
    a.swish: "Swish ms:QuickGelu",
    a.leaky(0.01): "LeakyRelu",
    a.learned: "PRelu",
    a.exponential_unit(1.0): "Elu",
    a.exponential_unit(*SELU): "Selu",
    a.celu: "Celu",
    a.shrunk: "Shrink",
    a.thresholded: "ThresholdedRelu",
    a.softplus: "Softplus",
    a.rising(lambda x: x / (1 + np.abs(x))): "Softsign",
    a.rising(np.exp): "Exp",
    a.rising(np.tanh, error=1e-6): "Tanh",
    a.rising(np.sinh, error=1e-6): "Sinh",
    a.even_rising(np.cosh): "Cosh",
    a.rising(np.arctan, error=1e-6): "Atan",
    a.rising(np.arcsinh, error=1e-6): "Asinh",
    a.defined(np.arctanh, -1.0, 1.0): "Atanh",
    a.rising(np.floor): "Floor",
    a.rising(np.ceil): "Ceil",
    a.rounded: "Round",
    a.rising(lambda x: 1 / (1 + np.exp(-x)), error=1e-6): "Sigmoid",
    a.turning(0.0): "Sin",
    a.turning(pi / 2): "Cos",
    a.within(-1.0, 1.0): "Erf Sign",
    a.within(-a.ANGLE, a.ANGLE): "Asin Acos",
    a.within(0.0, 1.0): "HardSigmoid Hardmax EyeLike",
    a.remainder: "Mod",
    f.clipped: "Clip",
    f.larger: "Max",
    f.smaller: "Min",
    moving.selected: "Where",
    moving.cut_off: "Trilu ms:Trilu",
    moving.laid_over: "Col2Im",
    moving.bordered: "Pad ms:Pad",
    moving.overwritten: "ScatterElements ScatterND TensorScatter",
    moving.one_hot: "OneHot",
    moving.turned: "RotaryEmbedding ms:RotaryEmbedding",
    f.largest: "TopK",
    f.picked: "Unique ms:Unique",
    f.filled: "ConstantOfShape",
    f.counted_up: "Range ms:Range",
    f.square_root: "Sqrt",
    f.reciprocal: "Reciprocal",
    f.logarithm(np.log): "Log",
    over.averaged: "ReduceMean ReduceMax ReduceMin",
    over.added: "ReduceSum",
    over.partly_added: "CumSum",
    over.multiplied: "ReduceProd CumProd",
    over.length(1.0): "ReduceL1",
    over.length(2.0): "ReduceL2",
    over.sum_of_squares: "ReduceSumSquare",
    over.log_sum_exp: "ReduceLogSumExp",
    over.pooled_length: "LpPool GlobalLpPool",
    over.normalised_length: "LpNormalization",
    over.partly_normalised: "LRN",
    linear.matrix_product: "MatMul",
    linear.general_product: "Gemm",
    linear.fused_general_product: "ms:FusedGemm",
    linear.factored_product: "ms:FusedMatMul ms:TransposeMatMul",
    linear.contracted: "Einsum",
    convolutions.convolution: "Conv ms:FusedConv",
    convolutions.transposed: "ConvTranspose",
    recurrent.lstm: "LSTM ms:DynamicQuantizeLSTM",
    recurrent.gru: "GRU",
    recurrent.rnn: "RNN",
    between.pooled: "MaxPool GlobalMaxPool MaxRoiPool MaxUnpool",
    between.averaged: "AveragePool GlobalAveragePool RoiAlign",
    between.resized: "Resize Upsample",
    between.sampled: "GridSample ms:GridSample",
    norms.layer_norm: "LayerNormalization RMSNormalization SimplifiedLayerNormalization",
    norms.skip_norm: "ms:SkipLayerNormalization ms:SkipSimplifiedLayerNormalization",
    norms.embedding_norm: "ms:EmbedLayerNormalization",
    norms.group_norm: "GroupNormalization",
    norms.instance_norm: "InstanceNormalization",
    norms.batch_norm: "BatchNormalization",
    linear.softmax: "Softmax",
    linear.log_softmax: "LogSoftmax",
    attention.cached_attention: "Attention ms:MultiHeadAttention ms:GroupQueryAttention",
    attention.projected_attention: "ms:Attention",
    quantised.dequantised: "DequantizeLinear ms:DequantizeLinear",
    quantised.dynamic: "DynamicQuantizeLinear",
    quantised.numbered: "QuantizeLinear ms:QuantizeLinear",
    quantised.whole_product: "MatMulInteger ConvInteger",
}


def _named(names: str) -> list[str]:
    return [
        f"com.microsoft.{name[3:]}" if name.startswith("ms:") else f"onnx.{name}"
        for name in names.split()
    ]


BOUNDS: Mapping[str, Family] = {
    name: family for family, names in _BY_FAMILY.items() for name in _named(names)
}

WHOLE = frozenset(_named(f"{_TRUTHS} {_BYTES}"))
"""Operators whose outputs are truths or whole numbers, in part at least."""
