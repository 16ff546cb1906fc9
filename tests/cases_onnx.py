"""A node of every ONNX operator that has a law, with the equations the law should state.

Operands that no equation names are free to take any exponent.
"""

from __future__ import annotations

import numpy as np

from tests.onnx_case import (
    DOUBLE,
    FLOAT,
    INT64,
    OnnxCase,
    i64,
    ints,
    mask,
    nodes,
    ort,
    ort32,
    p,
    x,
)

# fmt: off
MOVEMENT: list[OnnxCase] = [
    *nodes("Identity Flatten Transpose Squeeze Trilu", "out = self", x(3, 4)),
    *nodes("Identity", "out = self", 0.3),
    *nodes("Cast", "out = self", x(3, 4), to=DOUBLE),
    *nodes("Cast", "out = self", x(3, 4), to=FLOAT),
    *nodes("Cast", "self = 0", x(3, 4), to=INT64),
    *nodes("Cast", "out = 0", ints(3, 4), to=FLOAT),
    *nodes("CastLike", "out = self", x(3, 4), x(2)),
    *nodes("Reshape", "out = self", x(3, 4), i64(2, 6)),
    *nodes("Expand", "out = self", x(3, 1), i64(3, 4)),
    *nodes("Expand", "out = self", 0.3, i64(3, 4)),
    *nodes("Tile", "out = self", x(3, 4), i64(2, 1)),
    *nodes("CenterCropPad", "out = self", x(3, 4), i64(2, 6)),
    *nodes("Unsqueeze", "out = self", x(3, 4), i64(1)),
    *nodes("Slice", "out = self", x(3, 4), i64(1), i64(4), i64(1), i64(2)),
    *nodes("Split", "out.0 = self, out.1 = self", x(4, 3), i64(1, 3), outputs="yy"),
    *nodes("Gather GatherND", "out = self", x(3, 4), ints(2, 1)),
    *nodes("Gather", "out = self", x(3, 4), ints(2), axis=1),
    *nodes("GatherElements", "out = self", x(3, 4), ints(3, 2), axis=1),
    *nodes("Compress", "out = self", x(3, 4), mask(4), axis=1),
    *nodes("Trilu", "out = self", x(3, 4), np.int64(1), upper=0),
    *nodes("DepthToSpace", "out = self", x(1, 4, 2, 3), blocksize=2),
    *nodes("SpaceToDepth", "out = self", x(1, 2, 4, 6), blocksize=2),
    *nodes("ReverseSequence", "out = self", x(3, 4), i64(1, 2, 3, 1)),
    *nodes("Col2Im", "out = self", x(1, 8, 9), i64(4, 4), i64(2, 2)),
    *ort32("ms:ExpandDims", "out = self", x(3, 4), np.int32(1)),
    *ort32("ms:GatherND", "out = self", x(3, 4), ints(2, 1)),
    *ort32("ms:Trilu", "out = self", x(3, 4)),
    *ort32("ms:UnfoldTensor", "out = self", x(3, 6), size=3, step=2),
]

SCALING: list[OnnxCase] = [
    *nodes("Relu Abs Neg LeakyRelu", "out = self", x(3, 4)),
    *nodes("Neg", "out = self", 0.3),
    *nodes("PRelu", "out = self, slope = 0", x(2, 3, 4), p(3, 1)),
    *nodes("ReduceSum ReduceMean ReduceMax ReduceMin ReduceL1", "out = self", x(3, 4)),
    *nodes("ReduceSum ReduceMean ReduceMax ReduceMin ReduceL1", "out = self", x(3, 4), i64(1)),
    *nodes("ReduceL2", "out = self", x(3, 4), i64(1), keepdims=0),
    *nodes("ReduceSum", "", ints(3, 4)),
    *nodes("ReduceSumSquare", "out = 2 self", x(3, 4), i64(1)),
    *nodes("ReduceSumSquare", "out = 0, self = 0", x(3, 4), noop_with_empty_axes=1),
    *nodes("CumSum", "out = self", x(3, 4), np.int64(1)),
    *nodes("MaxPool AveragePool", "out = self", x(1, 2, 6, 7), kernel_shape=[3, 2]),
    *nodes("MaxPool", "out.0 = self", x(1, 2, 6, 6), kernel_shape=[2, 2], outputs="yy"),
    *nodes("AveragePool", "out = self", x(1, 2, 6, 6), kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    *nodes("GlobalMaxPool GlobalAveragePool", "out = self", x(1, 2, 3, 3)),
    *nodes("LpPool", "out = self", x(1, 2, 6, 6), kernel_shape=[2, 2], p=1),
    *nodes("LpPool", "out = 0, self = 0", x(1, 2, 6, 6), kernel_shape=[2, 2]),
    *ort32("GlobalLpPool", "out = self", x(1, 2, 3, 3), p=1, opset=21),
    *ort32("GlobalLpPool", "out = 0, self = 0", x(1, 2, 3, 3), opset=21),
    *nodes("MaxUnpool", "out = self", x(1, 1, 2, 2), i64(0, 3, 8, 15).reshape(1, 1, 2, 2),
           i64(1, 1, 4, 4), kernel_shape=[2, 2], strides=[2, 2]),
    *nodes("Resize", "out = self, scales = 0", x(1, 2, 3, 4), None, np.array([1, 1, 2, 1.5]),
           mode="linear"),
    *nodes("Resize", "out = self", x(1, 2, 3, 4), None, None, i64(1, 2, 5, 6), mode="cubic"),
    *ort32("Resize", "out = self, scales = 0", x(1, 2, 3, 4), None, np.array([1, 1, 2, 2.0]),
           mode="nearest"),
    *nodes("Resize", "out = 0, self = 0, roi = 0", x(1, 2, 3, 4),
           np.array([0, 0, 0, 0, 1, 1, 2, 2.0]), None, i64(1, 2, 5, 6), mode="linear",
           coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=0.3),
    *nodes("GridSample", "out = self, grid = 0", x(1, 2, 4, 4), x(1, 3, 3, 2) / 2),
    *ort32("ms:GridSample", "out = self, grid = 0", x(1, 2, 4, 4), x(1, 3, 3, 2) / 2),
    *nodes("AffineGrid", "out = self", x(1, 2, 3), i64(1, 2, 3, 4)),
    *nodes("RoiAlign", "out = self, rois = 0", x(1, 2, 6, 6),
           np.array([[0, 0, 3.5, 3], [1, 1, 5, 4]]), i64(0, 0)),
    *ort32("MaxRoiPool", "out = self, rois = 0", x(1, 2, 6, 6), np.array([[0, 0, 0, 3.0, 3]]),
           pooled_shape=[2, 2], opset=21),
    *nodes("Dropout", "out = self", x(3, 4)),
    *nodes("Dropout", "out = self, ratio = 0", x(3, 4), 0.3),
    *nodes("TopK", "out.0 = self", x(3, 4), i64(2), outputs="yy"),
    *nodes("Unique", "out = self", x(5)),
    *ort32("ms:Unique", "out.0 = self", x(5), outputs="yyy"),
    *nodes("DFT", "out = self", x(1, 8, 1), None, np.int64(1)),
    *nodes("RotaryEmbedding", "out = self, cos = 0, sin = 0", x(1, 2, 3, 4), x(5, 2), x(5, 2),
           i64(0, 1, 4).reshape(1, 3)),
    *ort32("ms:RotaryEmbedding", "out = self, cos = 0, sin = 0", x(1, 2, 3, 4),
           i64(0, 1, 4).reshape(1, 3), x(5, 2), x(5, 2)),
]

_SAME = "self = out, other = out"
_TENSORS = "tensors.0 = out, tensors.1 = out"

ALIGNED: list[OnnxCase] = [
    *nodes("Add Sub Sum", _SAME, x(3, 4), x(4)),
    *nodes("Add Sub", _SAME, x(3, 4), 1e-5),
    *nodes("Sub", _SAME, 1.0, x(3, 4)),
    *nodes("Sum", "self = out, other = out, tensors.0 = out", x(3, 4), x(4), x(1)),
    *nodes("Sum", "self = out", x(3, 4)),
    *nodes("Concat", _TENSORS, x(3, 4), x(3, 2), axis=1),
    *nodes("Max Min Mean", _TENSORS, x(3, 4), x(3, 4)),
    *nodes("Max", _TENSORS, x(3, 4), 0.1),
    *nodes("Mean", "tensors.0 = out, tensors.1 = out, tensors.2 = out", x(4), x(4), x(4)),
    *nodes("Mod", _SAME, x(3, 4), p(4), fmod=1),
    *nodes("Mod", _SAME, x(3, 4), x(4), opset=28),
    *ort("Mod", _SAME, x(3, 4), x(4), fmod=1),
    *nodes("Where", _SAME, mask(3, 4), x(3, 4), x(4)),
    *nodes("Where", _SAME, mask(3, 4), x(3, 4), -1e9),
    *nodes("Clip", "self = out, min = out, max = out", x(3, 4), -0.5, 0.7),
    *nodes("Clip", "self = out, min = out", x(3, 4), 0.1),
    *nodes("Clip", "self = out, max = out", x(3, 4), None, 0.1),
    *nodes("Pad", "self = out", x(3, 4), i64(0, 1, 0, 2)),
    *nodes("Pad", "self = out, value = out", x(3, 4), i64(0, 1, 0, 2), 0.3),
    *nodes("Pad", "self = out, value = out", x(3, 4), i64(1, 2), 0.3, i64(1)),
    *nodes("Pad", "self = out", x(3, 4), i64(0, 1, 0, 2), mode="reflect"),
    *ort32("ms:Pad", "self = out, value = out", x(3, 4), i64(0, 1, 0, 2), np.array([0.3])),
    *nodes("ScatterElements", "self = out, src = out", x(3, 4), ints(2, 4), x(2, 4)),
    *nodes("ScatterElements", "self = out, src = out", x(3, 4), ints(2, 4), x(2, 4),
           reduction="add"),
    *nodes("ScatterElements", "self = out, src = 0", x(3, 4), ints(2, 4), x(2, 4),
           reduction="mul"),
    *nodes("ScatterND", "self = out, src = out", x(3, 4), ints(2, 1), x(2, 4)),
    *nodes("ScatterND", "self = out, src = 0", x(3, 4), ints(2, 1), x(2, 4), reduction="mul"),
    *nodes("TensorScatter", "self = out, src = out", x(2, 4, 3), x(2, 2, 3), i64(0, 1)),
    *nodes("Equal Greater GreaterOrEqual Less LessOrEqual", "self = other", ints(3, 4) * 0.3,
           ints(4) * 0.3),
    *nodes("Greater", "self = other", x(3, 4), 0.1),
    *nodes("ThresholdedRelu", "self = out, threshold = out", x(3, 4), alpha=0.3),
    *nodes("Shrink", "self = out, threshold = out, bias = out", x(3, 4), lambd=0.3, bias=0.1),
    *nodes("Celu", "self = out, threshold = out", x(3, 4), alpha=0.7),
]

PRODUCTS: list[OnnxCase] = [
    *nodes("Mul", "out = self + other", x(3, 4), x(4)),
    *nodes("Mul", "out = self + other", x(3, 4), 0.3),
    *nodes("MatMul", "out = self + other", x(2, 3, 4), x(4, 5)),
    *nodes("Einsum", "out = tensors.0 + tensors.1", x(2, 3), x(3, 4), equation="ij,jk->ik"),
    *nodes("Einsum", "out = tensors.0", x(2, 3), equation="ij->ji"),
    *nodes("STFT", "out = signal + window", x(1, 16, 1), np.int64(4), p(8)),
    *ort32("STFT", "out = signal", x(1, 16, 1), np.int64(4), None, np.int64(8), opset=17),
    *ort32("ms:FusedMatMul ms:TransposeMatMul", "out = self + other + factor", x(3, 4), x(4, 5),
           alpha=0.3),
    *nodes("Div", "out = self - other", x(3, 4), p(4)),
    *nodes("Div", "out = self - other", 1.0, p(3, 4)),
    *nodes("Reciprocal", "out = -self", p(3, 4)),
    *ort("ms:Inverse", "out = -self", x(3, 3)),
    *nodes("Sqrt", "2 out = self", p(3, 4)),
    *ort("Pow", "out = 2 self, exponent = 0", x(30, 40), 2.0),
    *ort("Pow", "out = 3 self, exponent = 0", x(30, 40), 3.0),
    *ort("Pow", "out = self, exponent = 0", x(30, 40), 1.0),
    *ort("Pow", "out = 0, self = 0, exponent = 0", p(30, 40), 0.5),
    *ort("Pow", "out = 0, self = 0, exponent = 0", p(3, 4), x(3, 4)),
]

_AFFINE = "out = input + weight"
_BIASED = "out = input + weight, bias = out"
_GEMM = "out = input + weight + alpha, bias = out - beta"
_STATE = "state = input, out.1 = input"
_U8 = np.array([[[0x21, 0x7F]], [[0x93, 0x08]], [[0xF4, 0x35]]], np.uint8)

AFFINE: list[OnnxCase] = [
    *nodes("Conv", _BIASED, x(1, 2, 5, 5), x(3, 2, 3, 3), x(3)),
    *nodes("Conv", _AFFINE, x(1, 4, 5, 5), x(4, 1, 3, 3), group=4, strides=[2, 2]),
    *nodes("Conv", _BIASED, x(1, 2, 7), x(3, 2, 3), x(3), pads=[1, 1]),
    *ort32("Conv", _BIASED, x(1, 2, 5, 5), x(3, 2, 3, 3), x(3), auto_pad="SAME_UPPER"),
    *nodes("ConvTranspose", _BIASED, x(1, 2, 3, 3), x(2, 3, 2, 2), x(3), strides=[2, 2]),
    *ort32("ConvTranspose", _BIASED, x(1, 2, 3, 3), x(2, 3, 2, 2), x(3), strides=[2, 2]),
    *nodes("DeformConv", f"{_BIASED}, offset = 0, mask = 0", x(1, 1, 3, 3), x(1, 1, 2, 2),
           x(1, 8, 2, 2) / 8, x(1), p(1, 4, 2, 2), kernel_shape=[2, 2]),
    *nodes("Gemm", _GEMM, x(3, 4), x(4, 5), x(5), alpha=0.3, beta=1.7),
    *nodes("Gemm", _GEMM, x(3, 4), x(5, 4), x(5), transB=1),
    *ort("Gemm", _GEMM, x(3, 4), x(4, 5), x(3, 5), alpha=0.3, beta=1.7),
    *nodes("Gemm", "out = input + weight + alpha", x(3, 4), x(4, 5), alpha=0.3),
    *ort32("ms:ConvTransposeWithDynamicPads", _AFFINE, x(1, 2, 3, 3), x(2, 3, 2, 2),
           i64(0, 0, 0, 0)),
    *ort32("ms:FusedConv", f"{_BIASED}, addend = out", x(1, 2, 5, 5), x(3, 2, 3, 3), x(3),
           x(1, 3, 3, 3), activation="Relu"),
    *ort32("ms:FusedConv", _BIASED, x(1, 2, 5, 5), x(3, 2, 3, 3), x(3), activation="LeakyRelu",
           activation_params=[0.1]),
    *ort32("ms:FusedConv", "out = 0, weight = -input, bias = 0", x(1, 2, 5, 5), x(3, 2, 3, 3),
           x(3), activation="Sigmoid"),
    *ort32("ms:FusedGemm", _GEMM, x(3, 4), x(4, 5), x(5), alpha=0.3, activation="Relu"),
    *ort32("ms:FusedGemm", "out = 0, alpha = -input - weight, bias = -beta", x(3, 4), x(4, 5),
           x(5), activation="Tanh"),
    *nodes("CausalConvWithState", f"out.0 = input + weight, bias = out.0, {_STATE}", x(1, 2, 5),
           x(2, 1, 3), x(2), x(1, 2, 2), outputs="yy", opset=27),
    *nodes("CausalConvWithState", f"out.0 = 0, weight = -input, bias = 0, {_STATE}", x(1, 2, 5),
           x(2, 1, 3), x(2), x(1, 2, 2), outputs="yy", opset=27, activation="silu"),
    *ort32("ms:CausalConvWithState", f"out.0 = input + weight, bias = out.0, {_STATE}",
           x(1, 2, 5), x(2, 1, 3), x(2), x(1, 2, 2), outputs="yy"),
    *ort32("ms:MatMulNBits", _AFFINE, x(3, 16), np.tile(_U8, (1, 1, 4)), p(3, 1), K=16, N=3,
           bits=4, block_size=16),
    *ort32("ms:MatMulBnb4", _AFFINE, x(3, 16), _U8.repeat(4, 2).reshape(-1), p(3), K=16, N=3,
           block_size=16, quant_type=1),
    *ort32("ms:DynamicQuantizeMatMul", _BIASED, x(3, 4), ints(4, 5).astype(np.uint8), p(5),
           None, x(5)),
    *ort32("ms:MatMulIntegerToFloat", _BIASED, ints(3, 4).astype(np.uint8),
           ints(4, 5).astype(np.uint8), p(1), p(5), None, None, x(5)),
    *nodes("LSTM", "weight = -input, recurrence = 0, bias = 0, out.0 = 0, out.1 = 0, out.2 = 0",
           x(3, 1, 4), x(1, 8, 4), x(1, 8, 2), x(1, 16), outputs="yyy", hidden_size=2),
    *nodes("GRU", "weight = -input, recurrence = 0, out.0 = 0, out.1 = 0", x(3, 1, 4),
           x(1, 6, 4), x(1, 6, 2), outputs="yy", hidden_size=2),
    *nodes("RNN", "weight = -input, recurrence = 0, out.0 = 0, out.1 = 0", x(3, 1, 4),
           x(1, 2, 4), x(1, 2, 2), outputs="yy", hidden_size=2),
]

_NORM = "eps = 2 input, out = weight, bias = out"
_STATISTICS = "eps = 2 input, out.0 = weight, bias = out.0, out.1 = input, out.2 = -input"
_SKIP = "skip = input, eps = 2 input, out.0 = weight, out.3 = input"
_BATCH = "running_mean = input, eps = running_var, 2 out = 2 input + 2 weight - eps, bias = out"
_EMBED = "position = word, segment = word, eps = 2 word"

NORMS: list[OnnxCase] = [
    *nodes("BatchNormalization", _BATCH, x(2, 3, 4), x(3), x(3), x(3), p(3)),
    *ort("BatchNormalization", _BATCH, x(2, 3, 4), x(3), x(3), x(3), p(3), epsilon=0.3),
    *nodes("BatchNormalization", "input = 0, weight = 0, bias = 0, running_mean = 0, "
           "running_var = 0, eps = 0, out.0 = 0, out.1 = 0, out.2 = 0", x(2, 3, 4), x(3), x(3),
           x(3), p(3), outputs="yyy", training_mode=1),
    *nodes("LayerNormalization", _NORM, x(3, 4), x(4), x(4), epsilon=0.3),
    *nodes("LayerNormalization", "eps = 2 input, out = weight", x(3, 4), x(4)),
    *nodes("LayerNormalization", _STATISTICS, x(3, 4), x(4), x(4), outputs="yyy"),
    *nodes("LayerNormalization", "eps = 2 input, out.0 = weight, bias = weight, out.2 = -input",
           x(3, 4), x(4), x(4), outputs="y-y"),
    *ort("LayerNormalization", _NORM, x(3, 4), x(4), x(4), epsilon=0.3),
    *nodes("InstanceNormalization", _NORM, x(2, 3, 4), x(3), x(3), epsilon=0.3),
    *nodes("GroupNormalization", _NORM, x(2, 4, 3), x(4), x(4), num_groups=2, epsilon=0.3),
    *nodes("RMSNormalization", "eps = 2 input, out = weight", x(3, 4), x(4), epsilon=0.3),
    *ort("SimplifiedLayerNormalization", "eps = 2 input, out.0 = weight, out.1 = -input",
         x(3, 4), x(4), outputs="yy", epsilon=0.3),
    *ort32("ms:SkipLayerNormalization", f"{_SKIP}, bias = out.0, addend = input", x(1, 3, 4),
           x(1, 3, 4), x(4), x(4), x(4), outputs="y--y", epsilon=0.3),
    *ort32("ms:SkipLayerNormalization", "skip = input, eps = 2 input, out = weight", x(1, 3, 4),
           x(1, 3, 4), x(4), epsilon=0.3),
    *ort32("ms:SkipSimplifiedLayerNormalization", f"{_SKIP}, addend = input", x(1, 3, 4),
           x(1, 3, 4), x(4), x(4), outputs="y--y", epsilon=0.3),
    *ort32("ms:EmbedLayerNormalization", f"{_EMBED}, out.0 = weight, bias = weight, out.2 = word",
           ints(1, 3).astype(np.int32), ints(1, 3).astype(np.int32), x(5, 4), x(3, 4), x(3, 4),
           x(4), x(4), outputs="yyy", epsilon=0.3),
    *ort32("LRN", "out = self, alpha = -2 self", x(1, 5, 3, 3), size=3, alpha=0.3, bias=2.0),
    *nodes("LRN", "out = self, alpha = -2 self", x(1, 5, 3, 3), size=3, alpha=0.3, bias=2.0),
    *nodes("LpNormalization", "out = 0", x(3, 4)),
    *ort32("LpNormalization", "out = 0", x(3, 4), opset=21),
    *nodes("LpNormalization", "out = 0", x(3, 4), p=1, axis=0),
]

_QKV = (x(1, 2, 3, 4), x(1, 2, 5, 4), x(1, 2, 5, 4))
_FLAT = (x(1, 3, 8), x(1, 5, 8), x(1, 5, 8))
_SCALED = "scale = -query - key, scale = 2 aux:half"
_PLAIN = "key = -query, aux:half = 0"
_CACHED = "past_key = key, past_value = value, out.1 = key, out.2 = value"

ATTENTION: list[OnnxCase] = [
    *nodes("Attention", f"{_SCALED}, out = value", *_QKV, scale=0.3),
    *nodes("Attention", f"{_PLAIN}, out = value", *_QKV),
    *nodes("Attention", f"{_SCALED}, out = value, attn_mask = 0", *_QKV, x(3, 5), scale=0.3,
           softcap=2.0),
    *nodes("Attention", f"{_SCALED}, out.0 = value, {_CACHED}, out.3 = 0", *_QKV, None,
           x(1, 2, 2, 4), x(1, 2, 2, 4), scale=0.3, outputs="yyyy"),
    *ort32("Attention", f"{_SCALED}, out = value", *_QKV, scale=0.3),
    *ort32("ms:MultiHeadAttention", f"{_SCALED}, out = value", *_FLAT, num_heads=2, scale=0.3),
    *ort32("ms:MultiHeadAttention", f"{_SCALED}, out = value, bias = query, bias = key, "
           "bias = value, attn_mask = 0", *_FLAT, x(24), None, x(1, 2, 3, 5), num_heads=2,
           scale=0.3),
    *ort32("ms:GroupQueryAttention", f"{_SCALED}, out.0 = value, {_CACHED}", x(1, 3, 16),
           x(1, 3, 8), x(1, 3, 8), x(1, 1, 3, 8), x(1, 1, 3, 8), np.array([2], np.int32),
           np.array([3], np.int32), num_heads=2, kv_num_heads=1, scale=0.3, outputs="yyy"),
    *ort32("ms:GroupQueryAttention", "scale = -2 query, scale = 2 aux:half, out.0 = query, "
           "past_key = query, past_value = query, out.1 = query, out.2 = query", x(1, 3, 32), None,
           None, x(1, 1, 3, 8), x(1, 1, 3, 8), np.array([2], np.int32), np.array([3], np.int32),
           num_heads=2, kv_num_heads=1, scale=0.3, outputs="yyy"),
    *ort32("ms:GroupQueryAttention", f"{_SCALED}, out.0 = value, {_CACHED}, cos = 0, sin = 0",
           x(1, 3, 32), x(1, 3, 16), x(1, 3, 16), x(1, 1, 3, 16), x(1, 1, 3, 16),
           np.array([2], np.int32), np.array([3], np.int32), x(8, 8), x(8, 8), num_heads=2,
           kv_num_heads=1, scale=0.3, do_rotary=1, softcap=2.0, outputs="yyy"),
    *ort32("ms:Attention", "out.0 = input + weight, scale = -2 out.0, bias = out.0, "
           "past = out.0, out.1 = out.0", x(1, 3, 4), x(4, 24), x(24), None, x(2, 1, 2, 2, 4),
           num_heads=2, scale=0.3, outputs="yy"),
    *ort32("ms:Attention", "out = input + weight, scale = -2 out, bias = out, attn_mask = 0",
           x(1, 3, 4), x(4, 24), x(24), None, None, x(1, 2, 3, 3), num_heads=2, scale=0.3),
]

GATES: list[OnnxCase] = [
    *nodes("Swish", "out = self, slope = -self", x(3, 4), alpha=0.7),
    *nodes("SwiGLU", "out = self + other, slope = -self", x(3, 4), x(3, 4), opset=28),
    *ort32("ms:QuickGelu", "out = self, slope = -self", x(3, 4)),
    *nodes("HardSigmoid", "out = 0, slope = -self", x(3, 4)),
    *ort32("HardSigmoid", "out = 0, slope = -self", x(3, 4), alpha=0.3, beta=0.4),
]

_BOXES = np.array([[[0, 0, 1.5, 1], [0, 0.1, 1.5, 1.1], [0, 3, 1, 5]]])

DECISIONS: list[OnnxCase] = [
    *nodes("Sign", "out = 0", x(3, 4)),
    *nodes("ArgMax ArgMin IsNaN IsInf NonZero Shape Size", "", x(3, 4)),
    *nodes("Hardmax EyeLike", "out = 0", x(3, 4)),
    *nodes("RandomNormalLike RandomUniformLike", "out = 0", x(3, 4), seed=1.0),
    *ort32("NonMaxSuppression", "", _BOXES, p(1, 1, 3), i64(2)),
    *ort32("NonMaxSuppression", "scores = score_threshold, iou_threshold = 0", _BOXES, p(1, 1, 3),
           i64(2), np.array([0.5]), np.array([0.2])),
    *nodes("OneHot", "out = weight", ints(3, 2), np.int64(3), x(2)),
    *nodes("ConstantOfShape", "out = value", i64(2, 3), value=np.array([0.3])),
    *nodes("ConstantOfShape", "", i64(2, 3), value=i64(3)),
    *nodes("DequantizeLinear", "out = scale", ints(3, 4).astype(np.uint8), np.float64(0.3),
           np.uint8(1)),
    *nodes("QuantizeLinear", "self = scale", x(3, 4), np.float64(0.1), np.uint8(9)),
    *nodes("DynamicQuantizeLinear", "out.1 = self", x(3, 4), outputs="yyy"),
    *ort32("ms:DequantizeLinear", "out = scale", ints(3, 4).astype(np.uint8), p(1)[0], np.uint8(1)),
    *ort32("ms:QuantizeLinear", "self = scale", x(3, 4), p(1)[0], np.uint8(9)),
    *ort32("ms:GatherBlockQuantized", "out = weight", np.tile(_U8[:, 0], (1, 8)), ints(2),
           p(3, 2), block_size=16, quantize_axis=1),
]

SEQUENCES: list[OnnxCase] = [
    *nodes("SplitToSequence", "out = self", x(3, 4), np.int64(2), axis=1),
    *nodes("SplitToSequence", "out = self", x(3, 4), axis=1, keepdims=0),
    *nodes("SequenceAt", "out = self", [x(3), x(3)], np.int64(1)),
    *nodes("SequenceErase", "out = self", [x(3), x(3)], np.int64(1)),
    *nodes("SequenceInsert", "out = self, out = src", [x(3), x(3)], x(3), np.int64(1)),
    *nodes("SequenceConstruct", _TENSORS, x(3), x(3)),
    *nodes("ConcatFromSequence", "out = self", [x(3, 2), x(3, 2)], axis=1),
    *nodes("SequenceLength", "", [x(3), x(3)]),
    *nodes("SequenceEmpty", ""),
    *nodes("Optional OptionalGetElement", "out = self", x(3)),
    *nodes("OptionalHasElement", "", x(3)),
]

CASES: list[OnnxCase] = [
    *MOVEMENT, *SCALING, *ALIGNED, *PRODUCTS, *AFFINE, *NORMS, *ATTENTION, *GATES, *DECISIONS,
    *SEQUENCES,
]
