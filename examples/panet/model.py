"""A small Pixel Aggregation Network (PAN, arXiv:1908.05900): backbone, FPEM/FFM neck, head."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

WEIGHTS = Path(__file__).with_name("weights.safetensors")
"""The trained weights that ship with the example."""

WIDTHS = (16, 32, 64, 104)
"""Channels of the four ResNet stages."""

NECK = 40
"""Channels of every pyramid level inside the neck."""

EMBEDDING = 4
"""Channels of the similarity vector."""


class BasicBlock(nn.Module):
    """ResNet basic block: [N, inputs, H, W] -> [N, outputs, H/stride, W/stride]."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Add the two-convolution branch to the (projected) input, then ReLU."""
        identity = x if self.downsample is None else self.downsample(x)
        branch = self.relu(self.bn1(self.conv1(x)))
        branch = self.bn2(self.conv2(branch))
        return self.relu(branch + identity)


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Two basic blocks, the first of which changes width and resolution."""
    return nn.Sequential(BasicBlock(inputs, outputs, stride), BasicBlock(outputs, outputs))


class Backbone(nn.Module):
    """ResNet-18 at reduced width: image -> features at 1/4, 1/8, 1/16 and 1/32 resolution."""

    def __init__(self, widths: tuple[int, int, int, int] = WIDTHS) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = _stage(widths[0], widths[0], 1)
        self.layer2 = _stage(widths[0], widths[1], 2)
        self.layer3 = _stage(widths[1], widths[2], 2)
        self.layer4 = _stage(widths[2], widths[3], 2)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """[N, 3, H, W] -> (C2, C3, C4, C5) at strides 4, 8, 16 and 32."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        c2 = self.layer1(x)
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        return c2, c3, c4, self.layer4(c4)


def _resize_like(x: Tensor, reference: Tensor) -> Tensor:
    """Bilinear interpolation of x to the height and width of the reference."""
    return F.interpolate(x, size=reference.shape[-2:], mode="bilinear", align_corners=False)


class SeparableConv(nn.Module):
    """Depthwise 3x3 convolution, pointwise convolution, BatchNorm, ReLU; width is kept."""

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H/stride, W/stride]."""
        return self.relu(self.bn(self.pointwise(self.depthwise(x))))


Pyramid = tuple[Tensor, Tensor, Tensor, Tensor]
"""Feature maps at strides 4, 8, 16 and 32, all of the same width."""


class FPEM(nn.Module):
    """Feature Pyramid Enhancement Module: up-scale, then down-scale enhancement."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.up_add1 = SeparableConv(channels)
        self.up_add2 = SeparableConv(channels)
        self.up_add3 = SeparableConv(channels)
        self.down_add1 = SeparableConv(channels, stride=2)
        self.down_add2 = SeparableConv(channels, stride=2)
        self.down_add3 = SeparableConv(channels, stride=2)

    def forward(self, pyramid: Pyramid) -> Pyramid:
        """Pyramid -> pyramid of the same shapes."""
        c2, c3, c4, c5 = pyramid
        c4 = self.up_add1(_resize_like(c5, c4) + c4)
        c3 = self.up_add2(_resize_like(c4, c3) + c3)
        c2 = self.up_add3(_resize_like(c3, c2) + c2)
        c3 = self.down_add1(_resize_like(c3, c2) + c2)
        c4 = self.down_add2(_resize_like(c4, c3) + c3)
        c5 = self.down_add3(_resize_like(c5, c4) + c4)
        return c2, c3, c4, c5


class FFM(nn.Module):
    """Feature Fusion Module: two pyramids -> one map [N, 4 * C, H/4, W/4]."""

    def forward(self, first: Pyramid, second: Pyramid) -> Tensor:
        """Sum each level over the pyramids, bring all to the C2 size, concatenate."""
        levels = [a + b for a, b in zip(first, second, strict=True)]
        return torch.cat([levels[0], *(_resize_like(x, levels[0]) for x in levels[1:])], dim=1)


def _reduce(inputs: int, outputs: int) -> nn.Sequential:
    """1x1 convolution, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class Neck(nn.Module):
    """Reduce convolutions, two cascaded FPEMs and the FFM."""

    def __init__(self, widths: tuple[int, int, int, int] = WIDTHS, channels: int = NECK) -> None:
        super().__init__()
        self.reduce_conv_c2 = _reduce(widths[0], channels)
        self.reduce_conv_c3 = _reduce(widths[1], channels)
        self.reduce_conv_c4 = _reduce(widths[2], channels)
        self.reduce_conv_c5 = _reduce(widths[3], channels)
        self.fpem1 = FPEM(channels)
        self.fpem2 = FPEM(channels)
        self.ffm = FFM()

    def forward(self, features: Pyramid) -> Tensor:
        """Backbone features -> fused map [N, 4 * C, H/4, W/4]."""
        c2, c3, c4, c5 = features
        reduced = (
            self.reduce_conv_c2(c2),
            self.reduce_conv_c3(c3),
            self.reduce_conv_c4(c4),
            self.reduce_conv_c5(c5),
        )
        first = self.fpem1(reduced)
        second = self.fpem2(first)
        return self.ffm(first, second)


class Head(nn.Module):
    """3x3 convolution, BatchNorm, ReLU, 1x1 convolution to the six output channels."""

    def __init__(self, inputs: int = 4 * NECK, hidden: int = NECK) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, hidden, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(hidden, 2 + EMBEDDING, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H/4, W/4] -> [N, 6, H/4, W/4]."""
        return self.conv2(self.relu(self.bn1(self.conv1(x))))


class PAN(nn.Module):
    """Text detector: normalised image -> text region, text kernel and similarity vector."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.neck = Neck()
        self.head = Head()

    def forward(self, image: Tensor) -> Tensor:
        """[N, 3, H, W], H and W multiples of 32 -> logits [N, 6, H/4, W/4].

        Channel 0 is the text region, channel 1 the text kernel (both before the sigmoid),
        channels 2 to 5 are the similarity vector.
        """
        return self.head(self.neck(self.backbone(image)))


def load(path: Path = WEIGHTS) -> PAN:
    """The detector in FP32 and evaluation mode, with the weights of a safetensors file."""
    model = PAN()
    model.load_state_dict(load_file(path))
    return model.eval()
