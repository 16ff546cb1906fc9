"""Directories that `save_pretrained` has written, fixed by one command, judged without halfsafe.

    python -m bench.directories [NAME ...]

Each network is amplified until FP16 breaks it and saved by its own class; `halfsafe fix DIR -o OUT`
runs in a process, and another process, which does not import halfsafe, reads both directories with
`from_pretrained` alone: in FP32 the outputs have to be the same bits, in FP16 they are judged
against the floor, on samples that nobody measured, of other lengths and batch sizes, padded, and
32 tokens are generated with the cache.
"""

# pyright: basic

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import diffusion
from bench.architectures import amplify
from bench.record import record

Sample = dict[str, Any]

WIDTH, LAYERS, HEADS, WORDS = 64, 3, 4, 500


@dataclass(frozen=True)
class Row:
    """How a network is built and amplified, how its directory is saved, and which outputs count."""

    build: Callable[[], Any]
    amplify: Mapping[str, float]
    sample: Callable[[Any, int], Sample]
    outputs: tuple[str, ...] = ("logits",)
    dtype: str = "float32"
    shard: str = "5GB"
    generates: bool = False
    refused: bool = False


ROWS: dict[str, Row] = {}


def row(amplify: Mapping[str, float], sample: Any, **more: Any) -> Any:
    """Registers a builder under its own name."""

    def register(build: Callable[[], Any]) -> Callable[[], Any]:
        ROWS[build.__name__] = Row(build, amplify, sample, **more)
        return build

    return register


# Samples: by seed, each of its own length and batch size; the second half of rows is padded


def words(model: Any, seed: int, length: int = 0) -> Sample:
    draw = torch.Generator().manual_seed(1000 + seed)
    length, batch = length or (17, 48, 31)[seed % 3], (1, 3, 2)[seed % 3]
    ids = torch.randint(4, WORDS, (batch, length), generator=draw)
    mask = torch.ones(batch, length, dtype=torch.int64)
    for i in range(1, batch):
        mask[i, length - 5 * i :] = 0
    return {"input_ids": torch.where(mask.bool(), ids, 0), "attention_mask": mask}


def unpadded(model: Any, seed: int) -> Sample:
    return {"input_ids": words(model, seed)["input_ids"].clamp_min(4)}


def translated(model: Any, seed: int) -> Sample:
    found = words(model, seed)
    said = words(model, seed + 50, 9)["input_ids"][: len(found["input_ids"])].clamp_min(4)
    said = said.expand(len(found["input_ids"]), -1) if len(said) == 1 else said
    said = said[: len(found["input_ids"])]
    if len(said) < len(found["input_ids"]):
        said = said[:1].expand(len(found["input_ids"]), -1)
    return {**found, "decoder_input_ids": said}


def picture(channels: int, size: int) -> Callable[[Any, int], Sample]:
    def made(model: Any, seed: int) -> Sample:
        draw = torch.Generator().manual_seed(1000 + seed)
        batch = (1, 3, 2)[seed % 3]
        return {"pixel_values": torch.randn(batch, channels, size, size, generator=draw)}

    return made


def both(model: Any, seed: int) -> Sample:
    found = words(model, seed)
    found["input_ids"][:, -1] = 498
    batch = len(found["input_ids"])
    pixels = picture(3, 32)(model, seed)["pixel_values"][:1].expand(batch, -1, -1, -1)
    return {"input_ids": found["input_ids"], "pixel_values": pixels.contiguous()}


def spoken(model: Any, seed: int) -> Sample:
    draw = torch.Generator().manual_seed(1000 + seed)
    said = words(model, seed, 9)["input_ids"].clamp_min(4)
    frames = 2 * model.config.max_source_positions
    shape = (len(said), model.config.num_mel_bins, frames)
    return {"input_features": torch.randn(shape, generator=draw), "decoder_input_ids": said}


def image(model: Any, seed: int) -> Sample:
    return {"sample": picture(3, 32)(model, seed)["pixel_values"].clamp(-1, 1)}


def noise(model: Any, seed: int) -> Sample:
    draw = torch.Generator().manual_seed(1000 + seed)
    batch = (1, 3, 2)[seed % 3]
    return {
        "sample": torch.randn(batch, 4, 16, 16, generator=draw),
        "timestep": torch.randint(0, 1000, (batch,), generator=draw),
        "encoder_hidden_states": torch.randn(batch, 77, 16, generator=draw),
    }


def labelled(model: Any, seed: int) -> Sample:
    draw = torch.Generator().manual_seed(1000 + seed)
    batch = (1, 3, 2)[seed % 3]
    return {
        "hidden_states": torch.randn(batch, 4, 16, 16, generator=draw),
        "timestep": torch.randint(0, 1000, (batch,), generator=draw),
        "class_labels": torch.randint(0, 10, (batch,), generator=draw),
    }


def with_sizes(model: Any, seed: int) -> Sample:
    """What SDXL's UNet is given: the pooled prompt and the sizes of the picture too."""
    draw = torch.Generator().manual_seed(2000 + seed)
    found = noise(model, seed)
    batch = len(found["sample"])
    found["encoder_hidden_states"] = torch.randn(batch, 77, 32, generator=draw)
    sizes = torch.tensor([1024.0, 768, 0, 0, 1024, 768]).repeat(batch, 1)
    pooled = torch.randn(batch, 16, generator=draw)
    return {**found, "added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}}


def joint(model: Any, seed: int) -> Sample:
    draw = torch.Generator().manual_seed(1000 + seed)
    batch = (1, 3, 2)[seed % 3]
    return {
        "hidden_states": torch.randn(batch, 4, 16, 16, generator=draw),
        "encoder_hidden_states": torch.randn(batch, 77, 32, generator=draw),
        "pooled_projections": torch.randn(batch, 32, generator=draw),
        "timestep": 1000 * torch.rand(batch, generator=draw),
    }


# Networks

SIZES: dict[str, Any] = {
    "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
    "intermediate_size": 2 * WIDTH, "vocab_size": WORDS, "pad_token_id": 0,
}  # fmt: skip
DECODER: dict[str, Any] = {
    **SIZES, "num_key_value_heads": HEADS // 2, "bos_token_id": 2, "eos_token_id": 1,
}  # fmt: skip
RESIDUAL = r"embed_tokens|o_proj|down_proj"


def transformers_model(name: str, config: str, **sizes: Any) -> Any:
    import transformers

    return getattr(transformers, name)(getattr(transformers, config)(**sizes))


@row({r"output.dense": 1e6}, words)
def bert() -> Any:
    return transformers_model("BertForMaskedLM", "BertConfig", **SIZES)


@row({r"output.dense": 1e6}, words)
def roberta() -> Any:
    return transformers_model("RobertaForMaskedLM", "RobertaConfig", **SIZES)


@row({r"wpe|c_proj": 1e6}, unpadded, generates=True)
def gpt2() -> Any:
    return transformers_model(
        "GPT2LMHeadModel", "GPT2Config", n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS,
        vocab_size=WORDS, n_positions=256, bos_token_id=2, eos_token_id=1,
    )  # fmt: skip


T5 = {"d_model": WIDTH, "d_kv": 16, "d_ff": 2 * WIDTH, "num_layers": LAYERS, "num_heads": HEADS,
      "vocab_size": WORDS, "decoder_start_token_id": 0}  # fmt: skip


def t5(**more: Any) -> Any:
    model = transformers_model("T5ForConditionalGeneration", "T5Config", **T5, **more)
    if not more.get("tie_word_embeddings", True):  # a checkpoint that has both is not tied
        model.lm_head.weight = torch.nn.Parameter(torch.randn(WORDS, WIDTH) / 8)
    return model


@row({r"\.o\.weight|wo\.weight": 1e6}, translated, generates=True)
def t5_tied() -> Any:
    return t5(feed_forward_proj="relu")


@row({r"\.o\.weight|wo\.weight": 1e6}, translated, generates=True, dtype="bfloat16")
def t5_gated_tied() -> Any:
    return t5(feed_forward_proj="gated-gelu")


@row({r"\.o\.weight|wo\.weight": 1e6}, translated, generates=True, shard="100KB")
def t5_untied() -> Any:
    return t5(feed_forward_proj="relu", tie_word_embeddings=False)


@row({r"shared|\.o\.weight|wo\.weight": 1e5}, translated, generates=True)
def t5_gated_untied() -> Any:
    return t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False)


@row({r"\.o\.weight|wo\.weight": 1e6}, translated, generates=True)
def umt5() -> Any:
    return transformers_model("UMT5ForConditionalGeneration", "UMT5Config", **T5)


@row({RESIDUAL: 1e6}, words, generates=True, dtype="bfloat16", shard="100KB")
def llama() -> Any:
    return transformers_model("LlamaForCausalLM", "LlamaConfig", **DECODER)


@row({r"up_proj": 1e8}, words, generates=True)
def mistral() -> Any:
    return transformers_model("MistralForCausalLM", "MistralConfig", **DECODER)


@row({RESIDUAL: 1e6}, words, generates=True, dtype="bfloat16")
def qwen2() -> Any:
    return transformers_model("Qwen2ForCausalLM", "Qwen2Config", **DECODER)


@row({RESIDUAL: 1e6}, words, generates=True)
def qwen3() -> Any:
    return transformers_model("Qwen3ForCausalLM", "Qwen3Config", **DECODER, head_dim=16)


@row({RESIDUAL: 1e6}, words, generates=True)
def phi3() -> Any:
    return transformers_model("Phi3ForCausalLM", "Phi3Config", **DECODER)


@row({r"up_proj|o_proj": 1e7}, words, generates=True)
def gemma2() -> Any:
    return transformers_model("Gemma2ForCausalLM", "Gemma2Config", **DECODER, head_dim=16)


@row({r"up_proj|o_proj": 1e7}, words, generates=True, dtype="bfloat16")
def gemma3() -> Any:
    return transformers_model("Gemma3ForCausalLM", "Gemma3TextConfig", **DECODER, head_dim=16)


@row({r"embed_tokens|post_.*layernorm": 1e6}, words, refused=True)
def gemma2_residual() -> Any:
    return transformers_model("Gemma2ForCausalLM", "Gemma2Config", **DECODER, head_dim=16)


VISION = {k: v for k, v in SIZES.items() if k not in ("vocab_size", "pad_token_id")}


@row({r"embeddings|(attention|output).*dense|o_proj|fc2|output": 1e6}, picture(3, 32))
def vit() -> Any:
    sizes = {**VISION, "image_size": 32, "patch_size": 8, "num_labels": 100}
    return transformers_model("ViTForImageClassification", "ViTConfig", **sizes)


@row({r"embedding|out_proj|fc2": 1e5}, both, outputs=("text_embeds", "image_embeds"))
def clip() -> Any:
    text = {**SIZES, "max_position_embeddings": 64, "eos_token_id": 498, "bos_token_id": 2}
    vision = {**VISION, "image_size": 32, "patch_size": 8}
    return transformers_model(
        "CLIPModel", "CLIPConfig", text_config=text, vision_config=vision, projection_dim=WIDTH
    )


@row({r"v_proj": 1e6, r"out_proj": 1e-6}, spoken, generates=True)
def whisper() -> Any:
    return small_whisper()


@row({r"decoder.*(fc2|out_proj)": 1e6}, spoken, refused=True)
def whisper_residual() -> Any:
    """Its epsilons are in the code, and what the first norm reads is small beside them."""
    return small_whisper()


def small_whisper() -> Any:
    return transformers_model(
        "WhisperForConditionalGeneration", "WhisperConfig", d_model=WIDTH, encoder_layers=2,
        decoder_layers=2, encoder_attention_heads=HEADS, decoder_attention_heads=HEADS,
        encoder_ffn_dim=2 * WIDTH, decoder_ffn_dim=2 * WIDTH, vocab_size=WORDS, num_mel_bins=40,
        max_source_positions=50, max_target_positions=64, pad_token_id=0, bos_token_id=2,
        eos_token_id=1, decoder_start_token_id=3, suppress_tokens=[], begin_suppress_tokens=[],
    )  # fmt: skip


@row({r"resnets.*conv2|conv_in|conv_shortcut|to_out": 1e6}, image, outputs=("sample",))
def autoencoder_kl() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(16, 32), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, latent_channels=4,
        sample_size=32,
    )  # fmt: skip


@row({r"resnets.*conv2|conv_in|proj_out": 1e5}, noise, outputs=("sample",))
def unet2d_condition() -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16, block_out_channels=(16, 32), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=16,
        attention_head_dim=4, norm_num_groups=4,
    )  # fmt: skip


@row({r"attn1.to_v": 1e6, r"attn1.to_out": 1e-5}, labelled, outputs=("sample",))
def dit() -> Any:
    from diffusers import DiTTransformer2DModel

    return DiTTransformer2DModel(
        num_attention_heads=HEADS, attention_head_dim=16, in_channels=4, out_channels=4,
        num_layers=LAYERS, sample_size=16, patch_size=2, num_embeds_ada_norm=10,
    )  # fmt: skip


@row(diffusion.UNET, with_sizes, outputs=("sample",))
def unet_sdxl() -> Any:
    return diffusion.unet_xl()


@row(diffusion.JOINT, joint, outputs=("sample",))
def sd3_transformer() -> Any:
    return diffusion.sd3()


PIPELINES = {
    "pipeline_sd": diffusion.stable_diffusion,
    "pipeline_sdxl": diffusion.stable_diffusion_xl,
    "pipeline_sd3": diffusion.stable_diffusion_3,
    "pipeline_flux": diffusion.flux_1,
}
"""Whole pipelines, which diffusers runs before and after."""


# What runs in processes of their own


def make(name: str, folder: Path) -> None:
    """Builds, amplifies and saves a network, or a pipeline."""
    if name in PIPELINES:
        diffusion.saved(PIPELINES[name], folder)
        return
    found = ROWS[name]
    torch.manual_seed(0)
    model = found.build().eval()
    for pattern, factor in found.amplify.items():
        amplify(model, pattern, factor)
    model.to(getattr(torch, found.dtype))
    model.save_pretrained(folder, max_shard_size=found.shard)


def loaded(name: str, folder: Path, dtype: Any) -> Any:
    kind = type(ROWS[name].build())
    named = {"torch_dtype": dtype} if kind.__module__.startswith("diffusers") else {"dtype": dtype}
    return kind.from_pretrained(folder, **named).eval()


def outputs(name: str, model: Any, sample: Sample) -> list[Any]:
    with torch.no_grad():
        found = model(**sample)
    return [found[key] for key in ROWS[name].outputs]


def in_half(sample: Sample) -> Sample:
    def cast(x: Any) -> Any:
        if isinstance(x, dict):
            return in_half(x)
        return x.half() if x.is_floating_point() else x

    return {n: cast(x) for n, x in sample.items()}


def off(found: Any, known: Any) -> float:
    """The largest error of an entry over the largest entry; inf for what is not finite."""
    x, y = known.double().numpy(), found.double().numpy()
    counted = np.isfinite(x)
    if not np.isfinite(y[counted]).all():
        return float("inf")
    return float(np.abs(y - x)[counted].max() / np.abs(x[counted]).max())


def root(found: Any, known: Any) -> float:
    """The error of a whole output in the 2-norm, relative."""
    x, y = known.double(), found.double()
    return float((y - x).norm() / x.norm())


def judged(name: str, before: Path, after: Path) -> dict[str, Any]:
    """What the directories give; nothing of halfsafe is imported here."""
    from bench.judge import torch_strict

    assert "halfsafe" not in sys.modules
    original, exact = (loaded(name, path, torch.float32) for path in (before, after))
    naive, half = (loaded(name, path, torch.float16) for path in (before, after))
    equal, told = True, dict[str, list[float]](naive=[], error=[], ratio=[], floor=[])
    keys = ROWS[name].outputs
    for seed in range(6):
        sample = ROWS[name].sample(original, seed)
        known = outputs(name, original, sample)
        equal &= all(map(torch.equal, known, outputs(name, exact, sample)))
        floors = torch_strict(_only(original, keys), sample, "floor")
        found = outputs(name, half, in_half(sample))
        told["naive"].append(max(map(off, outputs(name, naive, in_half(sample)), known)))
        told["error"].append(max(map(off, found, known)))
        errors = [root(x, y) for x, y in zip(found, known, strict=True)]
        least = [root(torch.tensor(x), y) for x, y in zip(floors, known, strict=True)]
        told["floor"].append(max(least))
        told["ratio"].append(max(e / f for e, f in zip(errors, least, strict=True)))
    row: dict[str, Any] = {
        "bit_equal": equal,
        "finite": bool(np.isfinite(told["error"]).all()),
        "naive_error": max(told["naive"]),
        "error": max(told["error"]),
        "floor": max(told["floor"]),
        "over_floor": round(max(told["ratio"]), 3),
        "over_floor_median": round(float(np.median(told["ratio"])), 3),
    }
    if ROWS[name].generates:
        row |= generated(name, original, exact, half)
    return row


def drawn(before: Path, after: Path) -> dict[str, Any]:
    """The pictures of two pipelines, on prompts and seeds that nobody recorded."""
    assert "halfsafe" not in sys.modules
    equal, naive, errors = True, [], []
    for seed, prompt in enumerate(("a house by the lake", "two old boats", "0123456789")):
        known = diffusion.picture(before, torch.float32, prompt, seed)
        equal &= np.array_equal(known, diffusion.picture(after, torch.float32, prompt, seed))
        for path, told in ((before, naive), (after, errors)):
            found = diffusion.picture(path, torch.float16, prompt, seed)
            told.append(float(np.abs(found - known).max()))
    return {
        "bit_equal": bool(equal),
        "finite": bool(np.isfinite(errors).all()),
        "naive_error": float(np.max(np.nan_to_num(naive, nan=np.inf))),
        "error": max(errors),
    }


def _only(model: Any, keys: tuple[str, ...]) -> Any:
    """The model with some of its outputs, for who looks at all of them."""

    class Only(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, **sample: Any) -> Any:
            found = self.inner(**sample)
            return tuple(found[key] for key in keys)

    return Only().eval()


def generated(name: str, original: Any, exact: Any, half: Any) -> dict[str, Any]:
    """32 tokens after each of six prompts, greedily, with the cache."""
    same = dict[str, list[int]](exact=[], half=[])
    gaps: list[float] = []
    for seed in range(6):
        sample = ROWS[name].sample(original, seed)
        given = {n: x[:1] for n, x in sample.items() if not n.startswith("decoder_")}

        def tokens(model: Any, given: Sample = given) -> Any:
            cast = in_half(given) if model is half else given
            return model.generate(
                **cast, max_new_tokens=32, min_new_tokens=32, do_sample=False,
                output_logits=True, return_dict_in_generate=True,
            )  # fmt: skip

        known, by_exact, by_half = (tokens(m) for m in (original, exact, half))
        for key, found in (("exact", by_exact), ("half", by_half)):
            differs = (found.sequences[0] != known.sequences[0]).nonzero()
            count = len(known.logits)
            offset = len(known.sequences[0]) - count
            same[key].append(int(differs[0]) - offset if len(differs) else count)
            if key == "half" and len(differs):
                logits = known.logits[int(differs[0]) - offset][0].double()
                top = logits.topk(2).values
                gaps.append(float((top[0] - top[1]) / logits.abs().max()))
    return {
        "tokens_exact": same["exact"],
        "tokens_half": same["half"],
        "gap_where_they_part": [f"{gap:.1e}" for gap in gaps],
    }


def process(*arguments: str) -> str:
    """What a process of this bench prints last. Raises RuntimeError with what it said."""
    command = [sys.executable, "-m", "bench.directories", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip() or "no message").splitlines()[-1][:300])
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


def measure(name: str) -> dict[str, Any]:
    """One network: saved, fixed, judged."""
    with tempfile.TemporaryDirectory() as place:
        before, after = Path(place, "before"), Path(place, "after")
        process("make", name, str(before))
        command = [sys.executable, "-m", "halfsafe", "fix", str(before), "-o", str(after), "--json"]
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = round(time.perf_counter() - start, 1)
        dtype = ROWS[name].dtype if name in ROWS else "float32"
        row: dict[str, Any] = {"name": name, "dtype": dtype, "seconds": seconds}
        if done.returncode > 1:
            return {**row, "refused": done.stderr.strip().splitlines()[-1]}
        said = json.loads(done.stdout)
        reports = said.values() if name in PIPELINES else [said]
        row["safe"] = done.returncode == 0
        kept = ("epsilon", "tokens generated", "run of the pipeline")
        notes = [n for report in reports for n in report["notes"] if any(k in n for k in kept)]
        row["notes"] = list(dict.fromkeys(notes))
        if not row["safe"]:
            conflicts = [conflict for report in reports for conflict in report["conflicts"]]
            return {**row, "refused": (conflicts or ["no conflict is named"])[0]}
        return {**row, **json.loads(process("judge", name, str(before), str(after)))}


def main() -> None:
    arguments = sys.argv[1:]
    if arguments[:1] == ["make"]:
        make(arguments[1], Path(arguments[2]))
        return
    if arguments[:1] == ["judge"]:
        name, before, after = arguments[1], Path(arguments[2]), Path(arguments[3])
        found = drawn(before, after) if name in PIPELINES else judged(name, before, after)
        print(json.dumps(found))
        return
    rows: list[dict[str, Any]] = []
    for name in arguments or [*ROWS, *PIPELINES]:
        rows.append(measure(name))
        print(json.dumps(rows[-1]))
    if not arguments:
        record("directories", "python -m bench.directories", {"rows": rows})


if __name__ == "__main__":
    main()
