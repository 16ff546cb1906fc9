"""Operators of ONNX, a family of bounds a line. What is not here is not bounded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from halfsafe.bounds import families as f
from halfsafe.bounds import linear, moving, norms
from halfsafe.bounds.aten import GELU, HARDSWISH, MISH
from halfsafe.bounds.bound import Bound
from halfsafe.bounds.operands import Operands

Family = Callable[[Operands], Bound | list[Bound]]

_MOVED = """
    Identity Transpose Reshape Flatten Squeeze Unsqueeze Concat Slice Split Expand Tile
    GatherElements DepthToSpace SpaceToDepth
""".split()

_BY_FAMILY: Mapping[Family, Sequence[str]] = {
    moving.moved: _MOVED,
    linear.gathered: ["Gather"],
    moving.same: ["Cast", "Dropout"],
    f.total: ["Add"],
    f.difference: ["Sub"],
    f.product: ["Mul"],
    f.quotient: ["Div"],
    f.powers: ["Pow"],
    f.rectified: ["Relu"],
    f.magnitude: ["Abs"],
    f.negated: ["Neg"],
    f.gate(GELU, even=True): ["Gelu"],
    f.gate(MISH): ["Mish"],
    f.gate(HARDSWISH, even=True): ["HardSwish"],
    f.rising(np.exp): ["Exp"],
    f.rising(np.tanh, error=1e-6): ["Tanh"],
    f.rising(lambda x: 1 / (1 + np.exp(-x)), error=1e-6): ["Sigmoid"],
    f.within(-1.0, 1.0): ["Sin", "Cos", "Erf", "Sign"],
    f.within(0.0, 1.0): ["HardSigmoid"],
    f.clipped: ["Clip"],
    linear.hull_of_all: ["Max", "Min"],
    moving.selected: ["Where"],
    f.square_root: ["Sqrt"],
    f.reciprocal: ["Reciprocal"],
    f.logarithm: ["Log"],
    f.averaged: ["ReduceMean", "ReduceMax", "ReduceMin"],
    f.added: ["ReduceSum"],
    linear.matrix_product: ["MatMul"],
    linear.general_product: ["Gemm"],
    linear.convolution: ["Conv"],
    moving.pooled: ["MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"],
    norms.layer_norm: ["LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"],
    norms.batch_norm: ["BatchNormalization"],
    linear.softmax: ["Softmax"],
    linear.log_softmax: ["LogSoftmax"],
}

BOUNDS: Mapping[str, Family] = {
    f"onnx.{name}": family for family, names in _BY_FAMILY.items() for name in names
}
