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
Factory = Callable[[], tuple[nn.Module, Callable[[], Sample]]]


@dataclass(frozen=True)
class Architecture:
    """A network by name; `build` gives it amplified, in eval mode, with a maker of samples."""

    name: str
    factory: Factory
    amplify: Mapping[str, float]

    def build(self, seed: int = 0) -> tuple[nn.Module, list[Sample]]:
        """The amplified model and four samples."""
        torch.manual_seed(seed)
        model, sample = self.factory()
        samples = [sample() for _ in range(4)]
        for pattern, factor in self.amplify.items():
            amplify(model, pattern, factor)
        calibrate(model, sample)
        return model, samples


ARCHITECTURES: dict[str, Architecture] = {}


def architecture(amplify: Mapping[str, float]) -> Callable[[Factory], Factory]:
    """Registers a factory under its own name."""

    def register(factory: Factory) -> Factory:
        name = factory.__name__
        ARCHITECTURES[name] = Architecture(name, factory, amplify)
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


def _ids(length: int = 16, vocabulary: int = 99) -> torch.Tensor:
    return torch.randint(2, vocabulary, (2, length))


def _image(size: int = 64, channels: int = 3) -> torch.Tensor:
    return torch.randn(2, channels, size, size)


_ENCODER: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 99,
}
_DECODER: dict[str, Any] = {
    **_ENCODER,
    "num_key_value_heads": 2,
    "use_cache": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
}


@architecture({r"encoder.*(layer.1|shortcut).normalization": 3e4})
def resnet() -> Any:
    """Conv-BN-ReLU residual stages whose sums overflow, as in deployed PANets."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 64, 64], depths=[2, 2, 1, 1], layer_type="basic"
    )
    return ResNetForImageClassification(config), lambda: {"pixel_values": _image()}


@architecture({r"layer\.\d+\.reduce_1x1.normalization": 3e5})
def mobilenet_v2() -> Any:
    """Linear bottlenecks between ReLU6."""
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    config = MobileNetV2Config(depth_multiplier=0.35, image_size=64)
    return MobileNetV2ForImageClassification(config), lambda: {"pixel_values": _image()}


@architecture({r"_conv\.weight|squeeze_excite": 30.0, r"projection.project_bn": 3e5})
def efficientnet() -> Any:
    """SiLU, squeeze-and-excitation gates, and a stream between blocks."""
    from transformers import EfficientNetConfig, EfficientNetForImageClassification

    config = EfficientNetConfig(
        width_coefficient=0.25, depth_coefficient=0.25, image_size=64, hidden_dim=320
    )
    return EfficientNetForImageClassification(config), lambda: {"pixel_values": _image()}


@architecture({r"embeddings|attention.o_proj|attention.output.dense|mlp.fc2|output.dense": 3e5})
def vit() -> Any:
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {k: v for k, v in _ENCODER.items() if k != "vocab_size"}
    config = ViTConfig(**sizes, image_size=32, patch_size=8)
    return ViTForImageClassification(config), lambda: {"pixel_values": _image(32)}


@architecture({r"patch_embeddings.*layer_norm|attention.output.dense|mlp.dense2": 1e5})
def segformer() -> Any:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(
        hidden_sizes=[16, 16, 32, 32],
        depths=[1, 1, 1, 1],
        decoder_hidden_size=32,
        num_attention_heads=[1, 1, 2, 2],
    )
    return SegformerForSemanticSegmentation(config), lambda: {"pixel_values": _image()}


@architecture({r"(encoder|decoder).layers.*(fc2|mlp.fc2|o_proj|out_proj)": 1e6})
def detr() -> Any:
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    backbone = ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 16, 32, 32],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage4"],
    )
    config = DetrConfig(
        use_timm_backbone=False,
        backbone=None,
        use_pretrained_backbone=False,
        backbone_config=backbone,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        num_queries=10,
    )
    return DetrForObjectDetection(config), lambda: {"pixel_values": _image()}


@architecture({r"output.dense": 1e6})
def bert() -> Any:
    """Post-norm: LayerNorm reads sums that overflow; padded rows in the mask."""
    from transformers import BertConfig, BertForSequenceClassification

    mask = torch.tensor([[1] * 16, [1] * 10 + [0] * 6])
    return BertForSequenceClassification(BertConfig(**_ENCODER)), lambda: {
        "input_ids": _ids(),
        "attention_mask": mask,
    }


@architecture({r"output.dense": 1e6})
def roberta() -> Any:
    from transformers import RobertaConfig, RobertaForSequenceClassification

    model = RobertaForSequenceClassification(RobertaConfig(**_ENCODER))
    return model, lambda: {"input_ids": _ids()}


@architecture({r"output.dense": 1e6})
def deberta_v2() -> Any:
    from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

    config = DebertaV2Config(
        **_ENCODER,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_buckets=8,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
    )
    mask = torch.tensor([[1] * 16, [1] * 10 + [0] * 6])
    return DebertaV2ForSequenceClassification(config), lambda: {
        "input_ids": _ids(),
        "attention_mask": mask,
    }


@architecture({r"wte|wpe|c_proj": 1e6})
def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_embd=32, n_layer=3, n_head=4, vocab_size=99, n_positions=64, use_cache=False,
        tie_word_embeddings=False, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return GPT2LMHeadModel(config), lambda: {"input_ids": _ids()}


def _t5(feed_forward: str) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, vocab_size=99,
        feed_forward_proj=feed_forward, use_cache=False,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config)
    return model, lambda: {"input_ids": _ids(), "decoder_input_ids": _ids(8)}


@architecture({r"shared|\.o\.weight|wo\.weight": 1e4})
def t5_relu() -> Any:
    """Tied embeddings, and a mask of finfo.min."""
    return _t5("relu")


@architecture({r"shared|\.o\.weight|wo\.weight": 1e6})
def t5_gated() -> Any:
    return _t5("gated-gelu")


@architecture({r"embed_tokens|o_proj|down_proj": 1e6})
def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**_DECODER)), lambda: {"input_ids": _ids()}


@architecture({r"up_proj": 1e8})
def mistral() -> Any:
    """The product gate * up overflows."""
    from transformers import MistralConfig, MistralForCausalLM

    return MistralForCausalLM(MistralConfig(**_DECODER)), lambda: {"input_ids": _ids()}


@architecture({r"embed_tokens|o_proj|down_proj": 1e6})
def phi3() -> Any:
    """One linear for gate and up, split afterwards."""
    from transformers import Phi3Config, Phi3ForCausalLM

    return Phi3ForCausalLM(Phi3Config(**_DECODER)), lambda: {"input_ids": _ids()}


@architecture({r"embed_tokens|o_proj|down_proj": 1e6})
def mixtral() -> Any:
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(**_DECODER, num_local_experts=4)
    config._experts_implementation = "batched_mm"
    return MixtralForCausalLM(config), lambda: {"input_ids": _ids()}


@architecture({r"embed_tokens|post_.*layernorm": 1e6})
def gemma2() -> Any:
    """Sandwich norms whose gain is stored as 1 + w, and soft-capped scores."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(**_DECODER, head_dim=8)
    return Gemma2ForCausalLM(config), lambda: {"input_ids": _ids()}


@architecture({r"embedding|out_proj|fc2": 1e6})
def clip() -> Any:
    from transformers import CLIPConfig, CLIPModel

    vision = {k: v for k, v in _ENCODER.items() if k != "vocab_size"}
    config = CLIPConfig(
        text_config={**_ENCODER, "max_position_embeddings": 32, "eos_token_id": 98},
        vision_config={**vision, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    return CLIPModel(config), lambda: {"input_ids": _ids(), "pixel_values": _image(32)}


@architecture({r"encoder.layers.*(out_proj|output_dense)": 1e6})
def wav2vec2() -> Any:
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    config = Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        conv_dim=(16, 16, 16), conv_stride=(5, 2, 2), conv_kernel=(10, 3, 3),
        num_feat_extract_layers=3, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
        vocab_size=32,
    )  # fmt: skip
    return Wav2Vec2ForCTC(config), lambda: {"input_values": torch.randn(2, 800)}


@architecture({r"resnets.*conv2|conv_in|conv_shortcut|to_out": 1e6})
def autoencoder_kl() -> Any:
    """The VAE of latent diffusion: GroupNorm on a residual stream."""
    from diffusers import AutoencoderKL

    model = AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=32,
    )
    return model, lambda: {"sample": _image(32)}


@architecture({r"resnets.*conv2|conv_in|proj_out": 1e5})
def unet2d_condition() -> Any:
    from diffusers import UNet2DConditionModel

    model = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    return model, lambda: {
        "sample": _image(16, 4),
        "timestep": torch.randint(0, 1000, (2,)),
        "encoder_hidden_states": torch.randn(2, 5, 16),
    }
