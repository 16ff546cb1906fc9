"""Small but structurally complete networks with random weights, each amplified until FP16 breaks.

An amplification multiplies parameters whose names match a pattern. It changes the function, as
training does; the amplified FP32 network is the reference. Factors are no powers of two.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Sample = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Size:
    """How large a network is built: transformers by width, CNNs by channels."""

    width: int = 32
    layers: int = 3
    heads: int = 4
    tokens: int = 16
    vocabulary: int = 99
    channels: int = 16
    image: int = 64
    depth: int = 1
    expansion: int = 2
    labels: int = 2

    @property
    def encoder(self) -> dict[str, Any]:
        return {**self.vision, "vocab_size": self.vocabulary, "num_labels": self.labels}

    @property
    def vision(self) -> dict[str, Any]:
        return {
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "intermediate_size": self.expansion * self.width,
        }

    @property
    def decoder(self) -> dict[str, Any]:
        return {
            **self.encoder,
            "num_key_value_heads": self.heads // 2,
            "use_cache": False,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 0,
        }

    def ids(self, length: int | None = None) -> torch.Tensor:
        return torch.randint(2, self.vocabulary, (2, length or self.tokens))

    def mask(self) -> torch.Tensor:
        """The second row is padded."""
        mask = torch.ones(2, self.tokens, dtype=torch.int64)
        mask[1, self.tokens * 2 // 3 :] = 0
        return mask

    def picture(self, channels: int = 3, shrink: int = 1) -> torch.Tensor:
        return torch.randn(2, channels, self.image // shrink, self.image // shrink)


TINY = Size()
REAL = Size(
    width=768, layers=12, heads=12, tokens=128, vocabulary=30000, channels=64, image=256, depth=2
)

Factory = Callable[[Size], tuple[nn.Module, Callable[[], Sample]]]


@dataclass(frozen=True)
class Architecture:
    """A network by name; `build` gives it amplified, in eval mode, with a maker of samples."""

    name: str
    factory: Factory
    amplify: Mapping[str, float]

    def build(self, size: Size = TINY) -> tuple[nn.Module, list[Sample]]:
        """The amplified model and four samples."""
        torch.manual_seed(0)
        model, sample = self.factory(size)
        samples = [sample() for _ in range(4)]
        for pattern, factor in self.amplify.items():
            amplify(model, pattern, factor)
        calibrate(model, sample)
        return model, samples


ARCHITECTURES: dict[str, Architecture] = {}

FURTHER: dict[str, Architecture] = {}
"""Of which certificates are measured, and nothing else."""


def architecture(
    amplify: Mapping[str, float], among: dict[str, Architecture] = ARCHITECTURES
) -> Callable[[Factory], Factory]:
    """Registers a factory under its own name."""

    def register(factory: Factory) -> Factory:
        name = factory.__name__
        among[name] = Architecture(name, factory, amplify)
        return factory

    return register


def calibrate(model: nn.Module, sample: Callable[[], Sample]) -> None:
    """Gives BatchNorm layers the running statistics of 32 images, as training would."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    if norms:
        for norm in norms:
            norm.momentum = 1.0
        batch = [sample() for _ in range(16)]
        model.train()
        with torch.no_grad():
            model(**{name: torch.cat([one[name] for one in batch]) for name in batch[0]})
    model.eval()


def amplify(model: nn.Module, pattern: str, factor: float) -> None:
    """Multiplies all parameters whose names match by a factor. Raises ValueError if none does."""
    found = [p for name, p in model.named_parameters() if re.search(pattern, name)]
    if not found:
        raise ValueError(f"no parameter matches {pattern!r}")
    with torch.no_grad():
        for parameter in found:
            parameter.mul_(factor)


@architecture({r"encoder.*(layer.1|shortcut).normalization": 3e4})
def resnet(z: Size) -> Any:
    """Conv-BN-ReLU residual stages whose sums overflow, as in deployed PANets."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=z.channels,
        hidden_sizes=[z.channels * n for n in (1, 2, 4, 4)],
        depths=[2, 2, z.depth, z.depth],
        layer_type="basic",
    )
    return ResNetForImageClassification(config), lambda: {"pixel_values": z.picture()}


@architecture({r"layer\.\d+\.reduce_1x1.normalization": 3e5})
def mobilenet_v2(z: Size) -> Any:
    """Linear bottlenecks between ReLU6."""
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    config = MobileNetV2Config(depth_multiplier=0.022 * z.channels, image_size=z.image)
    return MobileNetV2ForImageClassification(config), lambda: {"pixel_values": z.picture()}


@architecture({r"_conv\.weight|squeeze_excite": 30.0, r"projection.project_bn": 3e5})
def efficientnet(z: Size) -> Any:
    """SiLU, squeeze-and-excitation gates, and a stream between blocks."""
    from transformers import EfficientNetConfig, EfficientNetForImageClassification

    config = EfficientNetConfig(
        width_coefficient=z.channels / 64,
        depth_coefficient=0.25 * z.depth,
        image_size=z.image,
        hidden_dim=20 * z.channels,
    )
    return EfficientNetForImageClassification(config), lambda: {"pixel_values": z.picture()}


@architecture({r"embeddings|attention.o_proj|attention.output.dense|mlp.fc2|output.dense": 3e5})
def vit(z: Size) -> Any:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(**z.vision, image_size=z.image // 2, patch_size=8)
    return ViTForImageClassification(config), lambda: {"pixel_values": z.picture(shrink=2)}


@architecture({r"patch_embeddings.*layer_norm|attention.output.dense|mlp.dense2": 1e5})
def segformer(z: Size) -> Any:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(
        hidden_sizes=[z.channels * n for n in (1, 1, 2, 2)],
        depths=[z.depth] * 4,
        decoder_hidden_size=2 * z.channels,
        num_attention_heads=[1, 1, 2, 2],
    )
    return SegformerForSemanticSegmentation(config), lambda: {"pixel_values": z.picture()}


@architecture({r"(encoder|decoder).layers.*(fc2|mlp.fc2|o_proj|out_proj)": 1e6})
def detr(z: Size) -> Any:
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    backbone = ResNetConfig(
        embedding_size=z.channels,
        hidden_sizes=[z.channels * n for n in (1, 1, 2, 2)],
        depths=[z.depth] * 4,
        layer_type="basic",
        out_features=["stage4"],
    )
    config = DetrConfig(
        use_timm_backbone=False,
        backbone=None,
        use_pretrained_backbone=False,
        backbone_config=backbone,
        d_model=z.width,
        encoder_layers=2,
        decoder_layers=2,
        encoder_ffn_dim=2 * z.width,
        decoder_ffn_dim=2 * z.width,
        encoder_attention_heads=z.heads,
        decoder_attention_heads=z.heads,
        num_queries=10,
    )
    return DetrForObjectDetection(config), lambda: {"pixel_values": z.picture()}


@architecture({r"output.dense": 1e6})
def bert(z: Size) -> Any:
    """Post-norm: LayerNorm reads sums that overflow; padded rows in the mask."""
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(BertConfig(**z.encoder)), lambda: {
        "input_ids": z.ids(),
        "attention_mask": z.mask(),
    }


@architecture({r"output.dense": 1e6})
def roberta(z: Size) -> Any:
    from transformers import RobertaConfig, RobertaForSequenceClassification

    model = RobertaForSequenceClassification(RobertaConfig(**z.encoder))
    return model, lambda: {"input_ids": z.ids()}


@architecture({r"output.dense": 1e6})
def deberta_v2(z: Size) -> Any:
    from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

    config = DebertaV2Config(
        **z.encoder,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_buckets=8,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
    )
    return DebertaV2ForSequenceClassification(config), lambda: {
        "input_ids": z.ids(),
        "attention_mask": z.mask(),
    }


@architecture({r"wte|wpe|c_proj": 1e6})
def gpt2(z: Size) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_embd=z.width, n_layer=z.layers, n_head=z.heads, vocab_size=z.vocabulary,
        n_positions=256, use_cache=False,
        tie_word_embeddings=False, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return GPT2LMHeadModel(config), lambda: {"input_ids": z.ids()}


def _t5(z: Size, feed_forward: str) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        d_model=z.width, d_kv=z.width // z.heads, d_ff=z.expansion * z.width,
        num_layers=2 * z.depth, num_heads=z.heads, vocab_size=z.vocabulary,
        feed_forward_proj=feed_forward, use_cache=False,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config)
    return model, lambda: {"input_ids": z.ids(), "decoder_input_ids": z.ids(8)}


@architecture({r"shared|\.o\.weight|wo\.weight": 1e4})
def t5_relu(z: Size) -> Any:
    """Tied embeddings, and a mask of finfo.min."""
    return _t5(z, "relu")


@architecture({r"\.o\.weight|wo\.weight": 1e6})
def t5_gated(z: Size) -> Any:
    return _t5(z, "gated-gelu")


@architecture({r"embed_tokens|o_proj|down_proj": 1e6})
def llama(z: Size) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**z.decoder)), lambda: {"input_ids": z.ids()}


@architecture({r"up_proj": 1e8})
def mistral(z: Size) -> Any:
    """The product gate * up overflows."""
    from transformers import MistralConfig, MistralForCausalLM

    return MistralForCausalLM(MistralConfig(**z.decoder)), lambda: {"input_ids": z.ids()}


@architecture({r"embed_tokens|o_proj|down_proj": 1e6})
def phi3(z: Size) -> Any:
    """One linear for gate and up, split afterwards."""
    from transformers import Phi3Config, Phi3ForCausalLM

    return Phi3ForCausalLM(Phi3Config(**z.decoder)), lambda: {"input_ids": z.ids()}


@architecture({r"embed_tokens|o_proj|down_proj": 1e6})
def mixtral(z: Size) -> Any:
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(**z.decoder, num_local_experts=4)
    config._experts_implementation = "batched_mm"
    return MixtralForCausalLM(config), lambda: {"input_ids": z.ids()}


@architecture({r"embed_tokens|post_.*layernorm": 1e6})
def gemma2(z: Size) -> Any:
    """Sandwich norms whose gain is stored as 1 + w, and soft-capped scores."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(**z.decoder, head_dim=z.width // z.heads)
    return Gemma2ForCausalLM(config), lambda: {"input_ids": z.ids()}


@architecture({r"embedding|out_proj|fc2": 1e6})
def clip(z: Size) -> Any:
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig(
        text_config={**z.encoder, "max_position_embeddings": 256, "eos_token_id": 98},
        vision_config={**z.vision, "image_size": z.image // 2, "patch_size": 8},
        projection_dim=16,
    )
    return CLIPModel(config), lambda: {"input_ids": z.ids(), "pixel_values": z.picture(shrink=2)}


@architecture({r"encoder.layers.*(out_proj|output_dense)": 1e6})
def wav2vec2(z: Size) -> Any:
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    config = Wav2Vec2Config(
        hidden_size=z.width, num_hidden_layers=2 * z.depth, num_attention_heads=z.heads,
        intermediate_size=z.expansion * z.width, conv_dim=(z.channels,) * 3,
        conv_stride=(5, 2, 2), conv_kernel=(10, 3, 3),
        num_feat_extract_layers=3, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
        vocab_size=32,
    )  # fmt: skip
    return Wav2Vec2ForCTC(config), lambda: {"input_values": torch.randn(2, 50 * z.tokens)}


@architecture({r"resnets.*conv2|conv_in|conv_shortcut|to_out": 1e6})
def autoencoder_kl(z: Size) -> Any:
    """The VAE of latent diffusion: GroupNorm on a residual stream."""
    from diffusers import AutoencoderKL

    model = AutoencoderKL(
        block_out_channels=(z.channels, 2 * z.channels),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=32,
    )
    return model, lambda: {"sample": z.picture(shrink=2)}


@architecture({r"resnets.*conv2|conv_in|proj_out": 1e5})
def unet2d_condition(z: Size) -> Any:
    from diffusers import UNet2DConditionModel

    model = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(z.channels, 2 * z.channels),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    return model, lambda: {
        "sample": z.picture(4, shrink=4),
        "timestep": torch.randint(0, 1000, (2,)),
        "encoder_hidden_states": torch.randn(2, 5, 16),
    }


@architecture({r"output.dense": 1e6}, FURTHER)
def deberta(z: Size) -> Any:
    """The first version: one projection for queries, keys and values."""
    from transformers import DebertaConfig, DebertaForSequenceClassification

    config = DebertaConfig(
        **z.encoder, relative_attention=True, pos_att_type=["p2c", "c2p"],
        max_relative_positions=z.tokens,
    )  # fmt: skip
    return DebertaForSequenceClassification(config), lambda: {
        "input_ids": z.ids(),
        "attention_mask": z.mask(),
    }


@architecture({r"embed_tokens|o_proj|down_proj": 1e6}, FURTHER)
def qwen2(z: Size) -> Any:
    """Queries, keys and values have a bias."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(Qwen2Config(**z.decoder)), lambda: {"input_ids": z.ids()}


@architecture({r"embed_tokens|o_proj|down_proj": 1e6}, FURTHER)
def qwen3(z: Size) -> Any:
    """Queries and keys are normalised by head."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(**z.decoder, head_dim=z.width // z.heads)
    return Qwen3ForCausalLM(config), lambda: {"input_ids": z.ids()}


@architecture({r"embed_tokens|o_proj|down_proj": 1e6}, FURTHER)
def gemma(z: Size) -> Any:
    """Embeddings times sqrt(d), and gains stored as 1 + w."""
    from transformers import GemmaConfig, GemmaForCausalLM

    config = GemmaConfig(**z.decoder, head_dim=z.width // z.heads)
    return GemmaForCausalLM(config), lambda: {"input_ids": z.ids()}


@architecture({r"encoder.conv2|layers.*(out_proj|fc2)": 1e5}, FURTHER)
def whisper(z: Size) -> Any:
    """Convolutions over a spectrogram, an encoder, and a decoder that reads it."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        vocab_size=z.vocabulary, num_mel_bins=80, max_source_positions=z.tokens,
        max_target_positions=64, d_model=z.width,
        encoder_layers=z.layers, decoder_layers=z.layers, use_cache=False,
        encoder_attention_heads=z.heads, decoder_attention_heads=z.heads,
        encoder_ffn_dim=z.expansion * z.width, decoder_ffn_dim=z.expansion * z.width,
        decoder_start_token_id=1, bos_token_id=0, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    return model, lambda: {
        "input_features": torch.rand(2, 80, 2 * z.tokens) * 3 - 1,
        "decoder_input_ids": z.ids(8),
    }


@architecture({r"pos_embed|to_out|ff.net.2": 1e5}, FURTHER)
def dit(z: Size) -> Any:
    """Norms whose gains and shifts come from the timestep, and gates on the residual sums."""
    from diffusers import DiTTransformer2DModel

    model = DiTTransformer2DModel(
        num_attention_heads=z.heads, attention_head_dim=z.width // z.heads, in_channels=4,
        out_channels=8, num_layers=z.layers, sample_size=8, patch_size=2,
        num_embeds_ada_norm=z.vocabulary, norm_num_groups=4,
    )  # fmt: skip
    return model, lambda: {
        "hidden_states": torch.randn(2, 4, 8, 8),
        "timestep": torch.randint(0, 1000, (2,)),
        "class_labels": torch.randint(0, z.vocabulary, (2,)),
    }


class Stylised(nn.Module):
    """Residual blocks of convolutions and InstanceNorm, as networks that transfer style have."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, width, 9, padding=4)
        self.first = nn.InstanceNorm2d(width, affine=True)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1), nn.InstanceNorm2d(width, affine=True),
                nn.ReLU(), nn.Conv2d(width, width, 3, padding=1),
                nn.InstanceNorm2d(width, affine=True),
            )
            for _ in range(blocks)
        )  # fmt: skip
        self.leave = nn.Conv2d(width, 3, 9, padding=4)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        x = self.first(self.enter(pixel_values)).relu()
        for block in self.blocks:
            x = x + block(x)
        return self.leave(x)


@architecture({r"blocks.*4\.": 3e5}, FURTHER)
def instance_norm(z: Size) -> Any:
    return Stylised(z.channels, 5 * z.depth), lambda: {"pixel_values": z.picture(shrink=2)}
