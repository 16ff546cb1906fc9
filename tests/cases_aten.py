"""A call of every ATen operator that has a law, with the equations the law should state.

Operands that no equation names are free to take any exponent.
"""

from __future__ import annotations

import torch

from tests.case import Case, calls, f64, ints, mask, p, x
from tests.cases_layers import ATTENTION, LINEAR, NORMS, POOLING, RESAMPLING
from tests.cases_movement import CASTS, CREATION, DECISIONS, MOVEMENT, REPLACEMENT

F32 = torch.float32
F64 = torch.float64
INT = torch.int64

SCALING: list[Case] = [
    *calls("relu abs neg positive", "out = self", x(3, 4)),
    *calls("leaky_relu", "out = self, negative_slope = 0", x(3, 4), 0.2),
    *calls("prelu", "out = self, weight = 0", x(2, 3, 4), p(3)),
    *calls("rrelu", "out = self, lower = 0, upper = 0", x(3, 4)),
    *calls("sum mean amax amin nansum median std max min", "out = self", x(3, 4)),
    *calls("sum.dim_IntList mean.dim amax amin nansum std.dim", "out = self", x(3, 4), [1]),
    *calls("sum.dim_IntList mean.dim", "out = self", x(3, 4), [0, 1], True),
    *calls("sum mean", "out = self", x(3, 4).float(), dtype=F64),
    *calls("sum", "out = 0", ints(3, 4), dtype=F64),
    *calls("sum", "self = 0", x(3, 4), dtype=INT),
    *calls("nansum", "out = self", f64(1, torch.nan, -2)),
    *calls("std.correction", "out = self, correction = 0", x(3, 4), [1], correction=0),
    *calls("cumsum", "out = self", x(3, 4), 1),
    *calls("cummax cummin sort median.dim max.dim min.dim topk", "out.0 = self", x(3, 4), 1),
    *calls("sort.stable", "out.0 = self", x(3, 4), stable=True, descending=True),
    *calls("topk kthvalue", "out.0 = self", x(3, 4), 2, 1),
    *calls("aminmax", "out.0 = self, out.1 = self", x(3, 4), dim=1),
    *calls("diff", "out = self", x(3, 4)),
    *calls("diff", "out = self, prepend = out", x(3, 4), 2, 0, x(1, 4)),
]

ALIGNED: list[Case] = [
    *calls("add.Tensor sub.Tensor", "self = out, other = out, alpha = 0", x(3, 4), x(4)),
    *calls("add.Tensor sub.Tensor", "self = out, other = out, alpha = 0", x(3, 4), x(4), alpha=1.7),
    *calls("add.Tensor sub.Tensor", "self = out, other = out, alpha = 0", x(3, 4), 1e-5),
    *calls("add.Tensor sub.Tensor", "self = 0, out = 0, alpha = 0", x(3, 4), ints(4)),
    *calls("add.Tensor", "other = 0, out = 0, alpha = 0", ints(3, 4), 0.5),
    *calls("add.Scalar sub.Scalar", "self = out, other = out, alpha = 0", x(3, 4), 2),
    *calls("rsub.Scalar", "self = out, other = out, alpha = 0", x(3, 4), 1, 2),
    *calls("rsub.Tensor", "self = out, other = out, alpha = 0", x(3, 4), x(3, 4)),
    *calls("lerp.Scalar", "self = out, end = out, weight = 0", x(3, 4), x(3, 4), 0.3),
    *calls("lerp.Tensor", "self = out, end = out, weight = 0", x(3, 4), x(3, 4), p(3, 4)),
    *calls("maximum minimum fmax fmin max.other min.other", "self = out, other = out", x(4), x(4)),
    *calls("clamp clip", "self = out, min = out, max = out", x(3, 4), -0.5, 0.7),
    *calls("clamp clip clamp_min", "self = out, min = out", x(3, 4), 0.1),
    *calls("clamp clip", "self = out, max = out", x(3, 4), None, 0.1),
    *calls("clamp_max", "self = out, max = out", x(3, 4), 0.1),
    *calls("clamp.Tensor clip.Tensor", "self = out, min = out, max = out", x(3, 4), x(4), x(4)),
    *calls("clamp_min.Tensor", "self = out, min = out", x(3, 4), x(4)),
    *calls("clamp_max.Tensor", "self = out, max = out", x(3, 4), x(4)),
    *calls("hardtanh", "self = out, min_val = out, max_val = out", x(3, 4), 0.0, 0.6),
    *calls("threshold", "self = out, threshold = out, value = out", x(3, 4), 0.1, -1.5),
    *calls("hardshrink softshrink", "self = out, lambd = out", x(3, 4), 0.3),
]

PRODUCTS: list[Case] = [
    *calls("mul.Tensor", "out = self + other", x(3, 4), x(4)),
    *calls("mul.Tensor", "out = self + other", x(3, 4), 1.7),
    *calls("mul.Scalar", "out = self + other", x(3, 4), 3),
    *calls("mul.Tensor", "out = self", x(3, 4), mask(3, 4)),
    *calls("mul.Tensor", "out = other", ints(3, 4), 0.3),
    *calls("matmul", "out = self + other", x(2, 3, 4), x(4, 5)),
    *calls("mm", "out = self + mat2", x(3, 4), x(4, 5)),
    *calls("bmm", "out = self + mat2", x(2, 3, 4), x(2, 4, 5)),
    *calls("dot", "out = self + tensor", x(4), x(4)),
    *calls("mv", "out = self + vec", x(3, 4), x(4)),
    *calls("outer", "out = self + vec2", x(3), x(4)),
    *calls("einsum", "out = tensors.0 + tensors.1", "bij,kj->bik", [x(2, 3, 4), x(5, 4)]),
    *calls("einsum", "out = tensors.0", "ij->ji", [x(3, 4)]),
    *calls(
        "einsum",
        "out = tensors.0 + tensors.1 + tensors.2",
        *("ij,jk,kl->il", [x(2, 3), x(3, 4), x(4, 2)]),
    ),
    *calls("addmm", "out = mat1 + mat2, self = out, alpha = 0, beta = 0", x(5), x(3, 4), x(4, 5)),
    *calls(
        "addmm",
        "out = mat1 + mat2, self = out, alpha = 0, beta = 0",
        *(x(3, 5), x(3, 4), x(4, 5)),
        beta=0.3,
        alpha=1.7,
    ),
    *calls("addmv", "out = mat + vec, self = out, alpha = 0, beta = 0", x(3), x(3, 4), x(4)),
    *calls(
        "baddbmm addbmm",
        "out = batch1 + batch2, self = out, alpha = 0, beta = 0",
        *(x(3, 5), x(2, 3, 4), x(2, 4, 5)),
    ),
    *calls("div.Tensor true_divide.Tensor", "out = self - other", x(3, 4), x(3, 4)),
    *calls("div.Tensor true_divide.Tensor", "out = self - other", x(3, 4), 1.7),
    *calls("div.Tensor", "out = self", x(3, 4), ints(3, 4) + 1),
    *calls("div.Tensor", "out = 0", ints(3, 4), ints(3, 4) + 1),
    *calls("div.Scalar true_divide.Scalar", "out = self - other", x(3, 4), 3),
    *calls("div.Tensor_mode", "out = self - other", x(3, 4), p(3, 4), rounding_mode=None),
    *calls("reciprocal", "out = -self", x(3, 4)),
]

POWERS: list[Case] = [
    *calls("square var", "out = 2 self", x(3, 4)),
    *calls("var.dim", "out = 2 self", x(3, 4), [1], False),
    *calls("var.correction", "out = 2 self, correction = 0", x(3, 4), [1], correction=0),
    *calls("var_mean", "out.0 = 2 self, out.1 = self", x(3, 4)),
    *calls("var_mean.dim", "out.0 = 2 self, out.1 = self", x(3, 4), [1]),
    *calls(
        "var_mean.correction",
        "out.0 = 2 self, out.1 = self, correction = 0",
        *(x(3, 4), [0, 1]),
        correction=1,
    ),
    *calls("sqrt", "2 out = self", p(3, 4)),
    *calls("rsqrt", "2 out = -self", p(3, 4)),
    *calls("pow.Tensor_Scalar", "2 out = self, exponent = 0", p(3, 4), 0.5),
    *calls("pow.Tensor_Scalar", "2 out = -self, exponent = 0", p(3, 4), -0.5),
    *calls("pow.Tensor_Scalar", "out = -self, exponent = 0", x(3, 4), -1),
    *calls("pow.Tensor_Scalar", "out = -2 self, exponent = 0", x(3, 4), -2),
    *calls("pow.Tensor_Scalar", "out = self, exponent = 0", x(3, 4), 1),
    *calls("pow.Tensor_Scalar", "out = 2 self, exponent = 0", x(3, 4), 2),
    *calls("pow.Tensor_Scalar", "out = 2 self, exponent = 0", x(3, 4), 2.0),
    *calls("pow.Tensor_Scalar", "out = 3 self, exponent = 0", x(3, 4), 3),
    *calls("pow.Tensor_Scalar", "self = 0, out = 0, exponent = 0", p(3, 4), 1.7),
    *calls("pow.Tensor_Scalar", "self = 0, out = 0, exponent = 0", x(3, 4), 4),
    *calls("pow.Scalar", "self = 0, out = 0, exponent = 0", 2.0, x(3, 4)),
    *calls("pow.Tensor_Tensor", "self = 0, out = 0, exponent = 0", p(3, 4), x(3, 4)),
    *calls("linalg_vector_norm", "out = self, ord = 0", x(3, 4)),
    *calls("linalg_vector_norm", "out = self, ord = 0", x(3, 4), 1, [1]),
    *calls("linalg_vector_norm", "out = self, ord = 0", x(3, 4), 2, [1], True),
    *calls("linalg_vector_norm", "out = self, ord = 0", x(3, 4), torch.inf, [0, 1]),
    *calls("linalg_vector_norm", "out = self, ord = 0", x(3, 4), -torch.inf),
    *calls("linalg_vector_norm", "self = 0, out = 0, ord = 0", x(3, 4), 3),
    *calls("norm.Scalar", "out = self, p = 0", x(3, 4)),
    *calls("norm.Scalar", "out = self, p = 0", x(3, 4), 1),
    *calls("norm.Scalar", "out = self, p = 0", x(3, 4), -torch.inf),
    *calls("norm.Scalar", "self = 0, out = 0, p = 0", x(3, 4), 3),
    *calls("norm.ScalarOpt_dim", "out = self", x(3, 4), None, [1], True),
    *calls("norm.ScalarOpt_dim", "out = self, p = 0", x(3, 4), 2, [1]),
]

_PINNED = "self = 0, out = 0"

PINNED: list[Case] = [
    *calls("sigmoid tanh exp exp2 expm1 erf erfc sin cos tan atan sinh cosh", _PINNED, x(3, 4)),
    *calls("log log1p log2 log10", _PINNED, p(3, 4)),
    *calls("asin acos erfinv", _PINNED, x(3, 4).tanh()),
    *calls("round floor ceil trunc frac", _PINNED, x(3, 4)),
    *calls("silu gelu mish selu hardswish hardsigmoid log_sigmoid relu6", _PINNED, x(3, 4)),
    *calls("gelu", _PINNED, x(3, 4), approximate="tanh"),
    *calls("softmax.int log_softmax.int logsumexp cumprod glu", _PINNED, x(3, 4), 1),
    *calls("softmax.int", _PINNED, x(3, 4).float(), 1, F64),
    *calls("_softmax _log_softmax", _PINNED, x(3, 4), -1, False),
    *calls("prod", _PINNED, x(3, 4)),
    *calls("elu", "input_scale = -self, alpha = self, out = self + scale", x(3, 4)),
    *calls("celu", "self = 0, alpha = 0, out = 0", x(3, 4)),
    *calls("softplus", "out = self, beta = -self, threshold = 0", x(3, 4)),
    *calls("softplus", "out = self, beta = -self, threshold = 0", x(3, 4), 2.0, 1.0),
    *calls("logit", _PINNED, x(3, 4).sigmoid()),
    *calls("logit", "self = 0, eps = 0, out = 0", x(3, 4).sigmoid(), 1e-5),
    *calls("nan_to_num", "self = 0, nan = 0, out = 0", x(3, 4), 0.5),
    *calls("atan2", "self = 0, other = 0, out = 0", x(3, 4), x(3, 4)),
    *calls(
        "floor_divide fmod.Tensor remainder.Tensor",
        "self = 0, other = 0, out = 0",
        *(x(3, 4), p(3, 4)),
    ),
    *calls(
        "floor_divide fmod.Scalar remainder.Scalar", "self = 0, other = 0, out = 0", x(3, 4), 0.3
    ),
    *calls("div.Tensor_mode", "self = 0, other = 0, out = 0", x(3), p(3), rounding_mode="floor"),
    *calls("div.Scalar_mode", "self = 0, other = 0, out = 0", x(3), 0.3, rounding_mode="trunc"),
]

CASES: list[Case] = [
    *(MOVEMENT + CASTS + REPLACEMENT + CREATION + DECISIONS),
    *(LINEAR + POOLING + RESAMPLING + NORMS + ATTENTION),
    *(SCALING + ALIGNED + PRODUCTS + POWERS + PINNED),
]
