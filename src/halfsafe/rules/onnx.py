"""ONNX operators, a family a line. An operator that is not here is pinned and reported.

To add one, put its name on the lines of its operands and of its law, and a node of it into
tests/cases_onnx.py. "ms:Gelu" is com.microsoft.Gelu, one of ONNX Runtime's own operators.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from halfsafe.rules import families as f
from halfsafe.rules.algebra import Law, Rule
from halfsafe.rules.traits import law


@dataclass(frozen=True, slots=True)
class Signature:
    """What an operator's operands are called, in the operator's own order.

    The last name may end in "*": it then stands for any number of inputs, "name.0", "name.1", ...
    `numbers` are attributes that a law may scale: for each the operand that it is, and its default,
    None where the operator computes one of its own.
    """

    inputs: tuple[str, ...]
    numbers: Mapping[str, tuple[str, float | None]] = field(
        default_factory=dict[str, tuple[str, float | None]]
    )


def operands(op: str, count: int) -> list[str]:
    """Names of an operator's inputs; those of an operator without a signature are numbered.

    >>> operands("onnx.Conv", 3), operands("onnx.Concat", 2), operands("my.Op", 2)
    (['input', 'weight', 'bias'], ['tensors.0', 'tensors.1'], ['0', '1'])
    """
    signature = SIGNATURES.get(op)
    names = list(signature.inputs) if signature else ["*"]
    if names and names[-1].endswith("*"):
        prefix = names.pop().replace("*", "." if signature else "")
        names += [f"{prefix}{i}" for i in range(count - len(names))]
    return names[:count] + [str(i) for i in range(len(names), count)]


def _names(text: str) -> list[str]:
    """``Gelu ms:Gelu`` as they are in a graph: ``onnx.Gelu com.microsoft.Gelu``."""
    return [
        f"com.microsoft.{name.removeprefix('ms:')}" if name.startswith("ms:") else f"onnx.{name}"
        for name in text.split()
    ]


_OPERANDS: Mapping[str, str] = {
    "": """Constant RandomNormal RandomUniform SequenceEmpty""",
    "self": """
        Abs Acos Acosh ArgMax ArgMin Asin Asinh Atan Atanh Bernoulli BitCast Cast Ceil Celu Cos Cosh
        DepthToSpace Det Elu Erf Exp EyeLike Flatten Floor Gelu GlobalAveragePool GlobalLpPool
        GlobalMaxPool HardSigmoid HardSwish Hardmax Identity IsInf IsNaN LRN LeakyRelu Log
        LogSoftmax LpNormalization LpPool MaxPool AveragePool MeanVarianceNormalization Mish
        Multinomial Neg NonZero RandomNormalLike RandomUniformLike Reciprocal Relu Round Selu Shape
        Shrink Sigmoid Sign Sin Sinh Size Softmax Softplus Softsign SpaceToDepth Sqrt Swish Tan Tanh
        ThresholdedRelu Transpose Unique DynamicQuantizeLinear Optional OptionalGetElement
        OptionalHasElement ConcatFromSequence SequenceLength
        ms:Gelu ms:QuickGelu ms:Unique ms:UnfoldTensor ms:Inverse ms:Rfft ms:Irfft""",
    "self axes": """
        ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd
        ReduceSum ReduceSumSquare Squeeze Unsqueeze CumSum CumProd ms:ExpandDims""",
    "self shape": "Reshape Expand Tile CenterCropPad AffineGrid ConstantOfShape",
    "self starts ends axes steps": "Slice",
    "self sizes": "Split SplitToSequence",
    "self index": "Gather GatherElements GatherND Compress TopK Trilu ReverseSequence SequenceAt "
    "SequenceErase ms:GatherND ms:Trilu",
    "self index src": "ScatterElements ScatterND",
    "self src index": "SequenceInsert TensorScatter",
    "self index shape": "MaxUnpool Col2Im",
    "self ratio training": "Dropout",
    "self target": "CastLike",
    "self slope": "PRelu",
    "self exponent": "Pow",
    "self min max": "Clip",
    "self index value axes": "Pad ms:Pad",
    "self length axes": "DFT",
    "self grid": "GridSample ms:GridSample",
    "self rois index": "RoiAlign MaxRoiPool",
    "self roi scales sizes": "Resize",
    "self other": """
        Add Sub Mul Div Mod MatMul Equal Greater GreaterOrEqual Less LessOrEqual SwiGLU
        ms:FusedMatMul ms:TransposeMatMul ms:BiasSoftmax""",
    "self other tensors*": "Sum",
    "self scale zero_point": """
        QuantizeLinear DequantizeLinear ms:QuantizeLinear ms:DequantizeLinear""",
    "self cos sin index": "RotaryEmbedding",
    "self index cos sin": "ms:RotaryEmbedding ms:MRotaryEmbedding",
    "self bias": "ms:FastGelu ms:BiasGelu ms:BiasSplitGelu",
    "signal frame_step window frame_length": "STFT",
    "condition self other": "Where",
    "tensors*": """
        Concat Max Min Mean Einsum If Loop Scan SequenceConstruct SequenceMap""",
    "start end step": "Range ms:Range",
    "index depth weight": "OneHot",
    "packed index weight zero_point": "ms:GatherBlockQuantized",
    "input weight bias": """
        Conv ConvTranspose Gemm ms:FusedGemm ms:NhwcConv ms:GemmFastGelu
        InstanceNormalization GroupNormalization LayerNormalization RMSNormalization
        SimplifiedLayerNormalization ms:GroupNorm""",
    "input weight bias addend": "ms:FusedConv ms:NhwcFusedConv",
    "input weight bias state": "CausalConvWithState ms:CausalConvWithState",
    "input weight padding bias": "ms:ConvTransposeWithDynamicPads",
    "input weight offset bias mask": "DeformConv",
    "input weight bias running_mean running_var": "BatchNormalization",
    "input skip weight bias addend": "ms:SkipLayerNormalization",
    "input skip weight addend": "ms:SkipSimplifiedLayerNormalization",
    "input weight bias skip addend": "ms:SkipGroupNorm",
    "ids segments word position segment weight bias": "ms:EmbedLayerNormalization",
    "input packed weight zero_point groups bias": "ms:MatMulNBits",
    "input packed weight": "ms:MatMulBnb4",
    "input packed weight zero_point bias": "ms:DynamicQuantizeMatMul",
    "a b input weight a_zero b_zero bias": "ms:MatMulIntegerToFloat",
    "input weight recurrence bias lengths state cell peephole": "LSTM",
    "input weight recurrence bias lengths state": "GRU RNN",
    "query key value attn_mask past_key past_value lengths": "Attention",
    "query key value bias mask attn_mask past_key past_value lengths indirection": """
        ms:MultiHeadAttention""",
    "query key value past_key past_value lengths total cos sin index attn_mask sink k_scale "
    "v_scale q_norm k_norm": "ms:GroupQueryAttention",
    "input weight bias mask past attn_mask lengths": "ms:Attention",
    "query key value state decay beta": "LinearAttention ms:LinearAttention",
    "boxes scores count iou_threshold score_threshold": "NonMaxSuppression",
    "bins length rate lower upper": "MelWeightMatrix",
    "size": "BlackmanWindow HammingWindow HannWindow",
    "scores labels weight": "NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss",
}

_NUMBERS: Mapping[str, Mapping[str, tuple[str, float | None]]] = {
    "BatchNormalization InstanceNormalization GroupNormalization LayerNormalization ms:GroupNorm "
    "ms:SkipGroupNorm RMSNormalization SimplifiedLayerNormalization": {"epsilon": ("eps", 1e-5)},
    "ms:SkipLayerNormalization ms:SkipSimplifiedLayerNormalization ms:EmbedLayerNormalization": {
        "epsilon": ("eps", 1e-12)
    },
    "Gemm ms:FusedGemm": {"alpha": ("alpha", 1.0), "beta": ("beta", 1.0)},
    "ms:FusedMatMul ms:TransposeMatMul": {"alpha": ("factor", 1.0)},
    "Attention ms:Attention ms:MultiHeadAttention ms:GroupQueryAttention": {
        "scale": ("scale", None)
    },
    "LRN": {"alpha": ("alpha", 1e-4)},
    "Celu": {"alpha": ("threshold", 1.0)},
    "ThresholdedRelu": {"alpha": ("threshold", 1.0)},
    "Shrink": {"lambd": ("threshold", 0.5), "bias": ("bias", 0.0)},
    "HardSigmoid": {"alpha": ("slope", 0.2)},
    "Swish SwiGLU": {"alpha": ("slope", 1.0)},
    "ms:QuickGelu": {"alpha": ("slope", 1.702)},
    "ConstantOfShape": {"value": ("value", 0.0)},
}

_OWN_NUMBERS = {op: found for names, found in _NUMBERS.items() for op in _names(names)}

SIGNATURES: Mapping[str, Signature] = {
    op: Signature(tuple(names.split()), _OWN_NUMBERS.get(op, {}))
    for names, operators in _OPERANDS.items()
    for op in _names(operators)
}

_PINNED: Mapping[str, str] = {
    "no power of two passes through the function": """
        Acos Acosh Asin Asinh Atan Atanh Cos Cosh Elu Erf Exp Gelu HardSwish Log LogSoftmax Mish
        ReduceLogSum ReduceLogSumExp Selu Sigmoid Sin Sinh Softmax Softplus Softsign Tan Tanh
        ms:BiasGelu ms:FastGelu ms:Gelu""",
    "it rounds to integers": "Ceil Floor Round",
    "its degree is the number of factors": "CumProd Det ReduceProd",
    "its epsilon of 1e-9 cannot be changed": "MeanVarianceNormalization",
    "it reads bits": "BitCast",
    "its numbers count or are drawn, they are not data": """
        Bernoulli BlackmanWindow HammingWindow HannWindow MelWeightMatrix Multinomial RandomNormal
        RandomUniform Range TfIdfVectorizer ms:Range""",
    "a tensor in the node, which is folded where it is used": "Constant",
    "its graph is not looked into": "SequenceMap",
    "its inputs and outputs are integers with scales of their own": """
        ConvInteger MatMulInteger QLinearConv QLinearMatMul""",
    "its state decays and is updated at one scale": "LinearAttention ms:LinearAttention",
    "it is a loss, for training": "NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss",
    "it runs on accelerators alone, so no law of it is proved": """
        ms:BiasSoftmax ms:BiasSplitGelu ms:GemmFastGelu ms:GroupNorm ms:SkipGroupNorm ms:NhwcConv
        ms:NhwcFusedConv ms:PackedAttention ms:PackedMultiHeadAttention ms:PagedAttention
        ms:DecoderMaskedSelfAttention ms:LongformerAttention ms:MRotaryEmbedding ms:BiasAdd
        ms:TorchEmbedding ms:Rfft ms:Irfft""",
    "its kernels mix quantised experts or blocks": "ms:MoE ms:QMoE ms:QAttention",
}

PINNED_BECAUSE: Mapping[str, str] = {
    op: reason for reason, operators in _PINNED.items() for op in _names(operators)
}
"""Why an operator has no law, by name."""

_BY_RULE: Mapping[Rule, str] = {
    f.movement: """
        Identity Cast CastLike Reshape Flatten Squeeze Unsqueeze Transpose Expand Tile Slice Split
        Gather GatherElements GatherND Compress DepthToSpace SpaceToDepth ReverseSequence Trilu
        CenterCropPad Col2Im ms:ExpandDims ms:GatherND ms:Trilu ms:UnfoldTensor""",
    f.homogeneous: """
        Relu LeakyRelu PRelu Abs Neg MaxPool AveragePool GlobalMaxPool GlobalAveragePool ReduceSum
        ReduceMean ReduceMax ReduceMin ReduceL1 ReduceL2 CumSum Resize GridSample RoiAlign
        MaxRoiPool MaxUnpool AffineGrid Dropout TopK Unique DFT RotaryEmbedding SplitToSequence
        SequenceAt SequenceErase ConcatFromSequence ms:RotaryEmbedding ms:GridSample ms:Unique""",
    f.pooled_norm: "LpPool GlobalLpPool",
    f.aligned: """
        Concat Max Min Mean Mod Where Clip Pad ScatterElements ScatterND TensorScatter Equal Greater
        GreaterOrEqual Less LessOrEqual SequenceConstruct SequenceInsert ms:Pad""",
    f.thresholded: "ThresholdedRelu Shrink Celu",
    f.total: "Add Sub Sum",
    f.product: "Mul MatMul Einsum STFT ms:FusedMatMul ms:TransposeMatMul",
    f.square: "ReduceSumSquare",
    f.quotient: "Div",
    f.reciprocal: "Reciprocal",
    f.inverse: "ms:Inverse",
    f.square_root: "Sqrt",
    f.whole_power: "Pow",
    f.affine: """
        Conv ConvTranspose DeformConv Gemm ms:ConvTransposeWithDynamicPads ms:MatMulNBits
        ms:MatMulBnb4 ms:DynamicQuantizeMatMul ms:MatMulIntegerToFloat""",
    f.activated_affine: """
        CausalConvWithState ms:CausalConvWithState ms:FusedConv ms:FusedGemm""",
    f.recurrent: "LSTM GRU RNN",
    f.embedding: "OneHot ms:GatherBlockQuantized",
    f.dequantisation: "DequantizeLinear ms:DequantizeLinear",
    f.quantisation: "QuantizeLinear ms:QuantizeLinear",
    f.dynamic_quantisation: "DynamicQuantizeLinear",
    f.batch_norm: "BatchNormalization",
    f.normalisation: "LayerNormalization InstanceNormalization GroupNormalization",
    f.rms_normalisation: "RMSNormalization SimplifiedLayerNormalization",
    f.skip_normalisation: "ms:SkipLayerNormalization ms:SkipSimplifiedLayerNormalization",
    f.embedding_normalisation: "ms:EmbedLayerNormalization",
    f.local_response: "LRN",
    f.attention: "Attention ms:MultiHeadAttention ms:GroupQueryAttention",
    f.projected_attention: "ms:Attention",
    f.swish: "Swish SwiGLU ms:QuickGelu",
    f.hard_sigmoid: "HardSigmoid",
    f.suppression: "NonMaxSuppression",
    f.fill: "ConstantOfShape",
    f.zeros: "SequenceEmpty",
    f.branches: "If",
    f.entering: "Loop.body Scan.body Optional OptionalGetElement",
    f.leaving: "Loop Scan",
    f.invariant: """
        Sign ArgMax ArgMin Hardmax IsNaN IsInf NonZero Shape Size EyeLike LpNormalization
        RandomNormalLike RandomUniformLike SequenceLength OptionalHasElement""",
    f.saturating: "Sigmoid Tanh Erf",
    f.softmax: "Softmax LogSoftmax",
    f.logarithm: "Log",
}

_STATED = {op: law(rule) for rule, names in _BY_RULE.items() for op in _names(names)}

LAWS: Mapping[str, Law] = {
    **_STATED,
    **{op: law(f.pinned) for op in PINNED_BECAUSE if op not in _STATED},
}
