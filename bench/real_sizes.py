"""Networks of real sizes with random weights, each with values that FP16 cannot hold.

Architectures and widths are those that people deploy; trained weights of these cannot be had from
a package index. A network is moved to an overflowing point of its own function by amplifying the
parameters whose names match, as in bench/architectures.py.
"""

# torch.nn and diffusers are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bench.architectures import amplify, calibrate

Sample = dict[str, torch.Tensor]
Made = tuple[nn.Module, Callable[[], Sample]]


@dataclass(frozen=True)
class Sized:
    """A network by its maker, and what is amplified in it, by what."""

    make: Callable[[], Made]
    amplified: Mapping[str, float]

    def build(self, samples: int, seed: int = 0) -> tuple[nn.Module, list[Sample]]:
        """The amplified network in eval mode, and samples."""
        torch.manual_seed(seed)
        model, sample = self.make()
        for pattern, factor in self.amplified.items():
            amplify(model, pattern, factor)
        calibrate(model, sample)
        return model, [sample() for _ in range(samples)]


TOKENS = 128


def ids(vocabulary: int) -> Callable[[], Sample]:
    return lambda: {"input_ids": torch.randint(2, vocabulary, (1, TOKENS))}


def picture(size: int) -> Callable[[], Sample]:
    def drawn() -> Sample:
        """Large shapes and a little noise, as pictures have."""
        shapes = nn.functional.interpolate(torch.randn(1, 3, 7, 7), (size, size), mode="bilinear")
        return {"pixel_values": shapes + 0.1 * torch.randn(1, 3, size, size)}

    return drawn


def resnet50() -> Made:
    from transformers import ResNetConfig, ResNetForImageClassification

    return ResNetForImageClassification(ResNetConfig()), picture(224)


def bert_base() -> Made:
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig()), ids(30522)


def vit_base() -> Made:
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(ViTConfig(num_labels=1000)), picture(224)


def gpt2() -> Made:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(use_cache=False)), ids(50257)


def t5_encoder() -> Made:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(d_model=768, d_kv=64, d_ff=3072, num_layers=12, num_heads=12)
    return T5EncoderModel(config), ids(32128)


class Decoder(nn.Module):
    """What a latent diffusion model runs last."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        return self.vae.decode(latent, return_dict=False)[0]


def vae_decoder() -> Made:
    """The widths of Stable Diffusion's, on latents of a picture of 128 by 128."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
    )
    vae.encoder = vae.quant_conv = None
    return Decoder(vae), lambda: {"latent": torch.randn(1, 4, 16, 16)}


class ConvBlock(nn.Sequential):
    def __init__(self, into: int, out: int, kernel: int = 1, stride: int = 1) -> None:
        conv = nn.Conv2d(into, out, kernel, stride, kernel // 2, bias=False)
        super().__init__(conv, nn.BatchNorm2d(out), nn.SiLU())


class Bottlenecks(nn.Module):
    """A stage of split, residual bottlenecks and one concatenation."""

    def __init__(self, into: int, out: int, count: int, *, residual: bool) -> None:
        super().__init__()
        self.residual, half = residual, out // 2
        self.enter = ConvBlock(into, out)
        pairs = [(ConvBlock(half, half, 3), ConvBlock(half, half, 3)) for _ in range(count)]
        self.inner = nn.ModuleList(nn.Sequential(*pair) for pair in pairs)
        self.leave = ConvBlock((2 + count) * half, out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = list(self.enter(x).chunk(2, 1))
        for block in self.inner:
            made = block(parts[-1])
            parts.append(parts[-1] + made if self.residual else made)
        return self.leave(torch.cat(parts, 1))


class Detector(nn.Module):
    """Of the YOLO family, the widths of its medium sizes: backbone, pyramid, three heads."""

    def __init__(self, width: int = 48, classes: int = 80) -> None:
        super().__init__()
        w = [width * n for n in (1, 2, 4, 8, 12)]
        self.stem = nn.Sequential(ConvBlock(3, w[0], 3, 2), ConvBlock(w[0], w[1], 3, 2))
        stages = [Bottlenecks(w[1], w[1], 2, residual=True)]
        for i, count in ((2, 4), (3, 4), (4, 2)):
            down = ConvBlock(w[i - 1], w[i], 3, 2)
            stages.append(nn.Sequential(down, Bottlenecks(w[i], w[i], count, residual=True)))
        self.stages = nn.ModuleList(stages)
        self.up = nn.Upsample(scale_factor=2)
        self.top = Bottlenecks(w[4] + w[3], w[3], 2, residual=False)
        self.fine = Bottlenecks(w[3] + w[2], w[2], 2, residual=False)
        self.down = ConvBlock(w[2], w[2], 3, 2)
        self.middle = Bottlenecks(w[2] + w[3], w[3], 2, residual=False)
        heads = [nn.Sequential(ConvBlock(c, c, 3), nn.Conv2d(c, 4 + classes, 1)) for c in w[2:4]]
        self.heads = nn.ModuleList(heads)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        x = self.stages[0](self.stem(pixel_values))
        fine = self.stages[1](x)
        middle = self.stages[2](fine)
        coarse = self.stages[3](middle)
        top = self.top(torch.cat([self.up(coarse), middle], 1))
        fine = self.fine(torch.cat([self.up(top), fine], 1))
        middle = self.middle(torch.cat([self.down(fine), top], 1))
        found = [head(x).flatten(2) for head, x in zip(self.heads, (fine, middle), strict=True)]
        boxes, scores = torch.cat(found, 2).split([4, found[0].shape[1] - 4], 1)
        return torch.cat([boxes, scores.sigmoid()], 1)


def yolo_like() -> Made:
    return Detector(), picture(320)


SIZES: dict[str, Sized] = {
    "resnet-50": Sized(
        resnet50, {r"encoder.*layer\.2\.normalization": 1e4, r"shortcut\.normalization": 3e4}
    ),
    "bert-base": Sized(bert_base, {r"layer\.(3|7)\.output\.dense": 3e5}),
    "vit-b/16": Sized(vit_base, {r"embeddings|o_proj|output\.dense|mlp\.fc2": 3e5}),
    "gpt-2": Sized(gpt2, {r"c_proj": 3e6}),
    "sd vae decoder": Sized(vae_decoder, {r"resnets.*conv2|conv_in|to_out": 1e6}),
    "t5-base encoder": Sized(t5_encoder, {r"\.o\.weight|wo\.weight": 1e6}),
    "yolo-like": Sized(yolo_like, {r"leave\.1|inner.*1\.1\.": 1e4}),
}
