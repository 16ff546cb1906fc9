"""Another point on the detector's own symmetry: there it overflows, as deployed PANets do."""

from __future__ import annotations

import copy

import torch
from torch import nn

from examples.panet.model import PAN, BasicBlock

GAIN = 3.0e4
"""Not a power of two; the residual sums of the last stages then exceed 65,504."""


def overflowing(model: PAN, gain: float = GAIN) -> PAN:
    """The same function, with stages 3 and 4 carrying values `gain` times larger.

    Convolution, addition and ReLU are positively homogeneous, so that BatchNorm gains times a
    factor cancel against everything that reads the stream divided by it. Returns a copy.
    """
    model = copy.deepcopy(model)
    backbone, neck = model.backbone, model.neck
    with torch.no_grad():
        for stage in (backbone.layer3, backbone.layer4):
            for block in stage:
                assert isinstance(block, BasicBlock)
                _amplify(block.bn2, gain)
                if block.downsample is not None:
                    _amplify(block.downsample[1], gain)
        for reader in (
            backbone.layer3[1].conv1,
            backbone.layer4[0].conv1,
            backbone.layer4[0].downsample[0],
            backbone.layer4[1].conv1,
            neck.reduce_conv_c4[0],
            neck.reduce_conv_c5[0],
        ):
            reader.weight.div_(gain)
    return model


def _amplify(norm: nn.Module, gain: float) -> None:
    for parameter in norm.parameters():
        parameter.mul_(gain)
