"""What deployers of PANet do by hand: the last stages carry x/16, for one backend only.

Two rewrites, registered by name. A BasicBlock of stages 3 and 4 computes what it did of values that
are divided by FACTOR; the neck multiplies them again behind the convolutions that reduce channels.
``halfsafe.fix`` finds such a plan by itself, and folds it into the weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import halfsafe
from examples.panet.model import WIDTHS, BasicBlock, Neck, Pyramid

BACKEND = "tensorrt"

FACTOR = 16.0
"""A power of two, so that no bit changes; 7.8e5 becomes 4.9e4."""

WIDE = WIDTHS[2]
"""Blocks with this many output channels, or more, carry divided values."""


@halfsafe.rewrites("examples.panet.model.BasicBlock.forward", backend=BACKEND)
def basic_block(original: Any, self: BasicBlock, x: Tensor) -> Tensor:
    """The block of x/FACTOR, divided by FACTOR: convolution, addition and ReLU are homogeneous."""
    if self.conv1.out_channels < WIDE:
        return original(self, x)
    if self.conv1.in_channels < WIDE:
        x = x / FACTOR
    identity = x
    if self.downsample is not None:
        conv, norm = self.downsample
        identity = _divided(norm, conv(x))
    branch = self.relu(_divided(self.bn1, self.conv1(x)))
    branch = _divided(self.bn2, self.conv2(branch))
    return self.relu(branch + identity)


@halfsafe.rewrites("examples.panet.model.Neck.forward", backend=BACKEND)
def neck(original: Any, self: Neck, features: Pyramid) -> Tensor:
    """The neck of two levels as they are, and of two that are divided."""
    del original
    c2, c3, c4, c5 = features
    reduced = (
        self.reduce_conv_c2(c2),
        self.reduce_conv_c3(c3),
        _multiplied(self.reduce_conv_c4, c4),
        _multiplied(self.reduce_conv_c5, c5),
    )
    first = self.fpem1(reduced)
    second = self.fpem2(first)
    return self.ffm(first, second)


def _divided(norm: Any, x: Tensor) -> Tensor:
    """BatchNorm of FACTOR * x, divided by FACTOR: mean and bias are divided, nothing else."""
    mean, bias = norm.running_mean / FACTOR, norm.bias / FACTOR
    return F.batch_norm(x, mean, norm.running_var, norm.weight, bias, False, 0.0, norm.eps)


def _multiplied(reduce: Any, x: Tensor) -> Tensor:
    """Convolution, BatchNorm and ReLU, with the convolution's result multiplied by FACTOR."""
    conv, norm, relu = reduce
    return relu(norm(conv(x) * FACTOR))


def registered(model: nn.Module, image: Tensor) -> Tensor:
    """The maps that a model gives with the rewrites in force."""
    with torch.no_grad(), halfsafe.rewriting(backend=BACKEND):
        return model(image)
