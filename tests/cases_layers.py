"""Calls of the layers of networks: convolution, pooling, resampling, norms, attention."""

from __future__ import annotations

import torch

from tests.case import Case, calls, mask, p, x

_AFFINE = "out = input + weight"
_BIASED = "out = input + weight, bias = out"
_ONE, _TWO, _ZERO = [1, 1], [2, 2], [0, 0]

LINEAR: list[Case] = [
    *calls("linear", _BIASED, x(3, 4), x(5, 4), x(5)),
    *calls("linear", _AFFINE, x(3, 4), x(5, 4)),
    *calls(  # the kernel takes no FP64
        "_grouped_mm",
        "out = self + mat2",
        x(6, 4).float(),
        x(2, 4, 8).float(),
        torch.tensor([2, 6], dtype=torch.int32),
    ),
    *calls("conv1d", _BIASED, x(1, 4, 7), x(6, 2, 3), x(6), [2], [1], [1], 2),
    *calls("conv1d.padding", _AFFINE, x(1, 4, 7), x(6, 4, 3), None, [1], "same"),
    *calls("conv2d", _BIASED, x(1, 2, 5, 5), x(3, 2, 3, 3), x(3)),
    *calls("conv2d", _BIASED, x(1, 2, 7, 7), x(3, 2, 3, 3), x(3), _TWO, _TWO, _TWO),
    *calls("conv2d", _AFFINE, x(1, 4, 5, 5), x(4, 1, 3, 3), None, _ONE, _ONE, _ONE, 4),
    *calls("conv2d.padding", _BIASED, x(1, 2, 5, 5), x(3, 2, 3, 3), x(3), _ONE, "same"),
    *calls("conv2d.padding", _AFFINE, x(1, 2, 5, 5), x(3, 2, 3, 3), None, _ONE, "valid"),
    *calls("conv3d", _BIASED, x(1, 2, 3, 4, 4), x(3, 2, 2, 3, 3), x(3)),
    *calls("conv_transpose1d", _BIASED, x(1, 2, 5), x(2, 3, 3), x(3), [2]),
    *calls("conv_transpose2d.input", _BIASED, x(1, 2, 3, 3), x(2, 3, 2, 2), x(3)),
    *calls(
        "conv_transpose2d.input", _AFFINE, x(1, 4, 3, 3), x(4, 1, 2, 2), None, _TWO, _ZERO, _ONE, 2
    ),
    *calls("conv_transpose3d.input", _BIASED, x(1, 2, 2, 3, 3), x(2, 3, 2, 2, 2), x(3)),
    *calls(
        "convolution",
        _BIASED,
        *(x(1, 2, 5, 5), x(3, 2, 3, 3), x(3), _ONE, _ZERO, _ONE, False, _ZERO, 1),
    ),
    *calls(
        "convolution",
        _AFFINE,
        *(x(1, 2, 3, 3), x(2, 3, 2, 2), None, _TWO, _ZERO, _ONE, True, _ZERO, 1),
    ),
]

POOLING: list[Case] = [
    *calls("max_pool1d avg_pool1d", "out = self", x(1, 2, 7), [3], [2], [1]),
    *calls("max_pool2d avg_pool2d", "out = self", x(1, 2, 6, 7), [3, 2]),
    *calls("max_pool2d", "out = self", x(1, 2, 6, 7), [3, 3], _TWO, _ONE, _ONE, True),
    *calls("max_pool2d", "out = self", x(1, 2, 7, 7), _TWO, _TWO, _ZERO, _TWO),
    *calls("avg_pool2d", "out = self", x(1, 2, 6, 7), [3, 3], _TWO, _ONE, True, False),
    *calls("avg_pool2d", "out = self", x(1, 2, 6, 6), _TWO, _TWO, _ZERO, False, True, 3),
    *calls("max_pool3d avg_pool3d", "out = self", x(1, 2, 4, 6, 6), [2, 3, 3]),
    *calls("max_pool2d_with_indices", "out.0 = self", x(1, 2, 6, 6), [3, 3], _TWO),
    *calls("max_pool3d_with_indices", "out.0 = self", x(1, 2, 4, 4, 4), [2, 2, 2]),
    *calls("adaptive_avg_pool1d", "out = self", x(1, 2, 7), [3]),
    *calls("adaptive_avg_pool2d", "out = self", x(1, 2, 5, 7), _ONE),
    *calls("adaptive_avg_pool2d _adaptive_avg_pool2d", "out = self", x(1, 2, 5, 7), [2, 3]),
    *calls("adaptive_avg_pool3d _adaptive_avg_pool3d", "out = self", x(1, 2, 3, 5, 7), [1, 2, 3]),
    *calls("adaptive_max_pool1d", "out.0 = self", x(1, 2, 7), [3]),
    *calls("adaptive_max_pool2d", "out.0 = self", x(1, 2, 5, 7), [2, 3]),
    *calls("adaptive_max_pool3d", "out.0 = self", x(1, 2, 3, 5, 7), [1, 2, 3]),
    *calls("reflection_pad1d replication_pad1d", "out = self", x(1, 2, 4), [1, 2]),
    *calls("reflection_pad2d replication_pad2d", "out = self", x(1, 2, 4, 4), [1, 2, 0, 1]),
    *calls("reflection_pad3d replication_pad3d", "out = self", x(2, 3, 3, 3), [1, 2, 0, 1, 2, 0]),
]

_AA = "_upsample_bilinear2d_aa _upsample_bicubic2d_aa"

RESAMPLING: list[Case] = [
    *calls("upsample_nearest1d", "out = self", x(1, 2, 3), [7]),
    *calls("upsample_nearest2d _upsample_nearest_exact2d", "out = self", x(1, 2, 3, 4), [5, 7]),
    *calls(
        "upsample_nearest2d",
        "out = self, scales_h = 0, scales_w = 0",
        *(x(1, 2, 3, 4), [6, 8], 2.0, 2.0),
    ),
    *calls("upsample_nearest2d.vec", "out = input", x(1, 2, 3, 4), None, [2.0, 2.0]),
    *calls("upsample_nearest3d", "out = self", x(1, 2, 2, 3, 4), [3, 5, 7]),
    *calls("upsample_linear1d", "out = self", x(1, 2, 3), [7], False),
    *calls("upsample_linear1d", "out = self", x(1, 2, 3), [7], True),
    *calls("upsample_bilinear2d upsample_bicubic2d", "out = self", x(1, 2, 3, 4), [5, 7], False),
    *calls("upsample_bilinear2d upsample_bicubic2d", "out = self", x(1, 2, 3, 4), [5, 7], True),
    *calls("upsample_bilinear2d.vec", "out = input", x(1, 2, 3, 4), None, False, [2.0, 2.0]),
    *calls(_AA, "out = self", x(1, 2, 5, 7), [3, 4], False),
    *calls(_AA, "out = self", x(1, 2, 5, 7), [3, 4], True),
    *calls("upsample_trilinear3d", "out = self", x(1, 2, 2, 3, 4), [3, 5, 7], False),
    *calls("upsample_trilinear3d", "out = self", x(1, 2, 2, 3, 4), [3, 5, 7], True),
    *calls(
        "grid_sampler grid_sampler_2d",
        "out = input, grid = 0",
        *(x(1, 2, 4, 4), x(1, 3, 3, 2), 0, 0, False),
    ),
    *calls("grid_sampler_2d", "out = input, grid = 0", x(1, 2, 4, 4), x(1, 3, 3, 2), 1, 2, True),
    *calls("grid_sampler_2d", "out = input, grid = 0", x(1, 2, 4, 4), x(1, 3, 3, 2), 2, 1, True),
    *calls(
        "grid_sampler_3d", "out = input, grid = 0", x(1, 2, 3, 3, 3), x(1, 2, 2, 2, 3), 0, 0, True
    ),
]

_BATCH = "running_mean = input, eps = running_var, momentum = 0"
_STATISTICS = "out.1 = input, out.2 = -input"

NORMS: list[Case] = [
    *calls(
        "batch_norm",
        _BATCH + ", 2 out = 2 input - running_var + 2 weight, bias = out",
        *(x(2, 3, 4), x(3), x(3), x(3), p(3), False, 0.1, 1e-5, False),
    ),
    *calls(
        "batch_norm",
        _BATCH + ", 2 out = 2 input - running_var",
        *(x(2, 3, 4, 4), None, None, x(3), p(3), False, 0.1, 1e-5, False),
    ),
    *calls(
        "batch_norm",
        "input = 0, weight = 0, bias = 0, running_mean = 0, running_var = 0, momentum = 0,"
        "eps = 0, out = 0",
        *(x(2, 3, 4), x(3), x(3), x(3), p(3), True, 0.1, 1e-5, False),
    ),
    *calls(
        "_native_batch_norm_legit_no_training",
        _BATCH + ", 2 out.0 = 2 input - running_var + 2 weight, bias = out.0",
        *(x(2, 3, 4), x(3), x(3), x(3), p(3), 0.1, 1e-5),
    ),
    *calls(
        "native_batch_norm",
        _BATCH + ", 2 out.0 = 2 input - running_var + 2 weight, bias = out.0",
        *(x(2, 3, 4), x(3), x(3), x(3), p(3), False, 0.1, 1e-5),
    ),
    *calls("layer_norm", "eps = 2 input, weight = out, bias = out", x(3, 4), [4], x(4), x(4), 1e-5),
    *calls("layer_norm", "eps = 2 input, weight = out", x(2, 3, 4), [3, 4], x(3, 4)),
    *calls("layer_norm", "eps = 2 input, out = 0, bias = 0", x(3, 4), [4], None, x(4)),
    *calls("layer_norm", "eps = 2 input, out = 0", x(3, 4), [4]),
    *calls(
        "native_layer_norm",
        "eps = 2 input, weight = out.0, bias = out.0, " + _STATISTICS,
        *(x(3, 4), [4], x(4), x(4), 1e-5),
    ),
    *calls(
        "native_layer_norm",
        "eps = 2 input, out.0 = 0, " + _STATISTICS,
        x(3, 4),
        [4],
        None,
        None,
        1e-5,
    ),
    *calls(
        "group_norm", "eps = 2 input, weight = out, bias = out", x(2, 4, 3), 2, x(4), x(4), 1e-5
    ),
    *calls("group_norm", "eps = 2 input, out = 0", x(2, 4, 3), 2),
    *calls(
        "native_group_norm",
        "eps = 2 input, weight = out.0, bias = out.0, " + _STATISTICS,
        *(x(2, 4, 3), x(4), x(4), 2, 4, 3, 2, 1e-5),
    ),
    *calls("rms_norm", "eps = 2 input, weight = out", x(3, 4), [4], x(4), 1e-5),
    *calls("rms_norm", "eps = 2 input, out = 0", x(3, 4), [4], None, 1e-5),
    *calls("rms_norm", "input = 0, weight = out", x(3, 4) * 1e-8, [4], x(4)),
    *calls("_weight_norm", "out = g", x(3, 4), p(3, 1)),
    *calls("_weight_norm", "out = g", x(3, 4), p(1, 4), 1),
    *calls("_weight_norm_interface", "out.0 = g, out.1 = v", x(3, 4, 2), p(3, 1, 1)),
]

# Some kernels multiply both queries and keys by the square root of the scale.
_SDPA = "scaled_dot_product_attention"
_SCALED = "query + key + scale = 0, scale = 2 aux:half, out = value, dropout_p = 0"
_QKV = x(1, 2, 3, 4), x(1, 2, 3, 4), x(1, 2, 3, 4)

ATTENTION: list[Case] = [
    *calls(_SDPA, _SCALED, x(1, 2, 3, 4), x(1, 2, 5, 4), x(1, 2, 5, 6), scale=0.3),
    *calls(_SDPA, _SCALED, *_QKV, None, 0.0, True, scale=0.3),
    *calls(_SDPA, _SCALED, *_QKV, mask(3, 3), scale=0.3),
    *calls(_SDPA, _SCALED + ", attn_mask = 0", *_QKV, x(3, 3), scale=0.3),
    *calls(_SDPA, _SCALED, x(1, 4, 3, 4), *_QKV[1:], scale=0.3, enable_gqa=True),
    *calls(_SDPA, _SCALED, x(3, 4), x(3, 4), x(3, 4), scale=0.3),
    *calls(_SDPA, "query + key = 0, aux:half = 0, out = value, dropout_p = 0", *_QKV),
]
