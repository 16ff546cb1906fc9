"""Tiny pipelines of diffusers, with random weights and words of letters, too loud for FP16."""

# pyright: basic

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bench.architectures import amplify

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'-()"

UNET = {r"resnets.*conv2|conv_in|proj_out": 1e5}
TEXT = {r"v_proj.weight": 1e6, r"self_attn.out_proj.weight": 1e-6}
JOINT = {
    r"(?<!single_)transformer_blocks.*attn\.(to_v|add_v_proj)": 1e6, r"to_out|to_add_out": 1e-5
}  # fmt: skip
VAE = {r"resnets.*conv2|conv_in|conv_shortcut|to_out": 1e5}
T5 = {r"\.o\.weight|wo\.weight": 1e6}


def loud(model: Any, factors: dict[str, float]) -> Any:
    """The model in eval mode, some of its weights times a factor."""
    for pattern, factor in factors.items():
        amplify(model, pattern, factor)
    return model.eval()


def words(length: int = 77, kind: str = "clip") -> Any:
    """A tokenizer of letters."""
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    special = ["<pad>", "</s>", "<s>", "<unk>"]
    known = {w: i for i, w in enumerate([*special, *LETTERS])}
    made = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 1)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", bos_token="<s>",
        unk_token="<unk>", model_max_length=length,
    )  # fmt: skip


def clip_text(width: int = 16, projected: int = 0) -> Any:
    import transformers

    config = transformers.CLIPTextConfig(
        hidden_size=width, num_hidden_layers=3, num_attention_heads=2, intermediate_size=2 * width,
        vocab_size=64, max_position_embeddings=77, eos_token_id=1, bos_token_id=2, pad_token_id=0,
        projection_dim=projected or 16,
    )  # fmt: skip
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    return kind(config)


def t5_text(width: int = 32) -> Any:
    import transformers

    config = transformers.T5Config(
        vocab_size=64, d_model=width, d_kv=8, d_ff=2 * width, num_layers=2, num_heads=4
    )
    return transformers.T5EncoderModel(config)


def vae(**more: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(16, 32), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, latent_channels=4,
        sample_size=32, **more,
    )  # fmt: skip


def unet(**more: Any) -> Any:
    from diffusers import UNet2DConditionModel

    given: dict[str, Any] = {
        "sample_size": 16, "block_out_channels": (16, 32), "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "cross_attention_dim": 16,
        "attention_head_dim": 4, "norm_num_groups": 4,
    }  # fmt: skip
    return UNet2DConditionModel(**given | more)


def unet_xl() -> Any:
    """Its time ids, six of them, and the pooled prompt are embedded with the time."""
    return unet(
        cross_attention_dim=32, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16,
    )  # fmt: skip


def sd3() -> Any:
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(
        sample_size=16, patch_size=1, in_channels=4, out_channels=4, num_layers=2,
        attention_head_dim=8, num_attention_heads=4, joint_attention_dim=32,
        caption_projection_dim=32, pooled_projection_dim=32, pos_embed_max_size=32,
    )  # fmt: skip


def flux() -> Any:
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=16,
        axes_dims_rope=(4, 4, 8), guidance_embeds=True,
    )  # fmt: skip


def stable_diffusion() -> Any:
    """With a safety checker, which is no network for halfsafe."""
    import diffusers
    import transformers
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker

    seen = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2, "image_size": 32, "patch_size": 8}  # fmt: skip
    config = transformers.CLIPConfig(vision_config=seen, projection_dim=16)
    size = {"height": 32, "width": 32}
    return diffusers.StableDiffusionPipeline(
        vae=loud(vae(), VAE), text_encoder=loud(clip_text(), TEXT), tokenizer=words(),
        unet=loud(unet(), UNET), scheduler=diffusers.DDIMScheduler(prediction_type="v_prediction"),
        safety_checker=StableDiffusionSafetyChecker(config).eval(),
        feature_extractor=transformers.CLIPImageProcessorPil(size=size, crop_size=size),
    )  # fmt: skip


def stable_diffusion_xl() -> Any:
    import diffusers

    return diffusers.StableDiffusionXLPipeline(
        vae=loud(vae(), VAE), text_encoder=loud(clip_text(), TEXT), tokenizer=words(),
        text_encoder_2=loud(clip_text(projected=16), TEXT), tokenizer_2=words(),
        unet=loud(unet_xl(), UNET),
        scheduler=diffusers.EulerDiscreteScheduler(prediction_type="v_prediction"),
    )  # fmt: skip


def stable_diffusion_3() -> Any:
    import diffusers

    return diffusers.StableDiffusion3Pipeline(
        vae=loud(vae(shift_factor=0.1), VAE), text_encoder=loud(clip_text(projected=16), TEXT),
        tokenizer=words(), text_encoder_2=loud(clip_text(projected=16), TEXT),
        tokenizer_2=words(), text_encoder_3=loud(t5_text(), T5), tokenizer_3=words(64),
        transformer=loud(sd3(), JOINT), scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip


def flux_1() -> Any:
    import diffusers

    return diffusers.FluxPipeline(
        vae=loud(vae(shift_factor=0.1), VAE), text_encoder=loud(clip_text(), TEXT),
        tokenizer=words(), text_encoder_2=loud(t5_text(), T5), tokenizer_2=words(64),
        transformer=loud(flux(), JOINT), scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip


def saved(build: Any, folder: Path) -> Path:
    """A pipeline of a fixed seed, as its class saves it."""
    torch.manual_seed(0)
    build().save_pretrained(folder)
    return folder


def picture(folder: Path, dtype: Any, prompt: str = "a red boat", seed: int = 7) -> Any:
    """What diffusers draws by itself: (1, height, width, 3)."""
    from diffusers import DiffusionPipeline

    pipeline: Any = DiffusionPipeline.from_pretrained(folder, torch_dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    draw = torch.Generator().manual_seed(seed)
    size = {"num_inference_steps": 3, "height": 32, "width": 32}
    return pipeline(prompt, generator=draw, output_type="np", **size).images
