"""Operators of ONNX, a family of bounds a line. What is not here is not bounded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from halfsafe.bounds import families as f
from halfsafe.bounds.aten import GELU, HARDSWISH, MISH
from halfsafe.bounds.bound import Bound
from halfsafe.bounds.operands import Operands

Family = Callable[[Operands], Bound | list[Bound]]

_MOVED = """
    Identity Transpose Reshape Flatten Squeeze Unsqueeze Concat Slice Split Expand Tile
    GatherElements DepthToSpace SpaceToDepth
""".split()

_BY_FAMILY: Mapping[Family, Sequence[str]] = {
    f.moved: _MOVED,
    f.gathered: ["Gather"],
    f.same: ["Cast", "Dropout"],
    f.total: ["Add"],
    f.difference: ["Sub"],
    f.product: ["Mul"],
    f.quotient: ["Div"],
    f.powers: ["Pow"],
    f.rectified: ["Relu"],
    f.magnitude: ["Abs"],
    f.negated: ["Neg"],
    f.gate(GELU): ["Gelu"],
    f.gate(MISH): ["Mish"],
    f.gate(HARDSWISH): ["HardSwish"],
    f.rising(np.exp): ["Exp"],
    f.rising(np.tanh, error=1e-6): ["Tanh"],
    f.rising(lambda x: 1 / (1 + np.exp(-x)), error=1e-6): ["Sigmoid"],
    f.within(-1.0, 1.0): ["Sin", "Cos", "Erf", "Sign"],
    f.within(0.0, 1.0): ["HardSigmoid"],
    f.clipped: ["Clip"],
    f.hull_of_all: ["Max", "Min"],
    f.selected: ["Where"],
    f.square_root: ["Sqrt"],
    f.reciprocal: ["Reciprocal"],
    f.logarithm: ["Log"],
    f.averaged: ["ReduceMean", "ReduceMax", "ReduceMin"],
    f.added: ["ReduceSum"],
    f.matrix_product: ["MatMul"],
    f.general_product: ["Gemm"],
    f.convolution: ["Conv"],
    f.pooled: ["MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"],
    f.layer_norm: ["LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"],
    f.batch_norm: ["BatchNormalization"],
    f.softmax: ["Softmax"],
    f.log_softmax: ["LogSoftmax"],
}

BOUNDS: Mapping[str, Family] = {
    f"onnx.{name}": family for family, names in _BY_FAMILY.items() for name in names
}
