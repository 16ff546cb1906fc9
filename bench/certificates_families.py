"""Certificates of many families in small, and inputs that try to break them.

    python -m bench.certificates_families [names]

Networks as transformers builds them from a configuration, with two layers and random weights, three
times as large as they are drawn. For each: how many values have a bound, what loses it where not,
whether FP16 holds all of them, whether halfsafe.check confirms it, and what bench/attacks.py finds.
A network that cannot be captured is told as such. Each has a process of its own.

Where the module that an attack exports names its operators in another way than the certificate, as
it does of einsum and of complex values, the captured graph is run operator by operator instead, on
drawn tokens (`by_steps`).
"""

# pyright: basic

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import time
import warnings
from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import nn

import halfsafe
from bench.attacks import Attacked, attack
from bench.record import record
from halfsafe.frontends import open_model
from halfsafe.samples import Samples

Sample = dict[str, torch.Tensor]

WORDS = 99
BASE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 64}  # fmt: skip
ENCODER = {**BASE, "vocab_size": WORDS}
SPECIAL = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
DECODER = {**ENCODER, **SPECIAL, "use_cache": False}
SHARED = {**DECODER, "num_key_value_heads": 2}
VISION = {**BASE, "image_size": 32, "patch_size": 8}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 64, "rotary_dim": 4,
       "vocab_size": WORDS, "use_cache": False}  # fmt: skip
BOTH = {**{f"{part}_{what}": number for part in ("encoder", "decoder") for what, number in
           (("layers", 2), ("attention_heads", 4), ("ffn_dim", 64))}, "d_model": 32,
        "vocab_size": WORDS, "use_cache": False, "pad_token_id": 0,
        "decoder_start_token_id": 0}  # fmt: skip
STAGES = {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1]}
WINDOWS = {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 1],
           "num_heads": [2, 2], "window_size": 4}  # fmt: skip
WAVES = {**ENCODER, "conv_dim": [16, 16], "conv_kernel": [10, 3], "conv_stride": [5, 2],
         "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 8,
         "num_conv_pos_embedding_groups": 2}  # fmt: skip

TEXTS: dict[str, dict[str, Any]] = {
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "vocab_size": WORDS},
    "electra": {**ENCODER, "embedding_size": 32},
    "albert": {**ENCODER, "embedding_size": 16},
    "mobilebert": {**ENCODER, "embedding_size": 16, "intra_bottleneck_size": 16,
                   "true_hidden_size": 16},
    "xlm-roberta": ENCODER,
    "camembert": ENCODER,
    "mpnet": ENCODER,
    "roformer": {**ENCODER, "embedding_size": 32},
    "squeezebert": {**ENCODER, "embedding_size": 32},
    "nystromformer": ENCODER,
    "fnet": ENCODER,
    "modernbert": {**ENCODER, **SPECIAL, "cls_token_id": 0, "sep_token_id": 1,
                   "max_position_embeddings": 64},
    "convbert": {**ENCODER, "embedding_size": 32},
    "layoutlm": ENCODER,
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64, "vocab_size": WORDS},
    "longformer": {**ENCODER, "attention_window": 4},
    "opt": {**ENCODER, "ffn_dim": 64, "word_embed_proj_dim": 32, "use_cache": False,
            "max_position_embeddings": 64},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": WORDS,
              "use_cache": False},
    "gpt_neox": DECODER,
    "gptj": GPT,
    "codegen": GPT,
    "gpt_neo": {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 64,
                "vocab_size": WORDS, "use_cache": False,
                "attention_types": [[["global", "local"], 1]]},
    "falcon": DECODER,
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "vocab_size": WORDS, "use_cache": False,
            "max_seq_len": 32},
    "phi": DECODER,
    "stablelm": {**DECODER, "num_key_value_heads": 4},
    "starcoder2": SHARED,
    "cohere": SHARED,
    "olmo": SHARED,
    "olmo2": SHARED,
    "granite": SHARED,
    "nemotron": SHARED,
    "smollm3": SHARED,
    "gemma3_text": {**SHARED, "head_dim": 8},
    "glm": {**SHARED, "head_dim": 8},
    "gpt_oss": {**SHARED, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": WORDS, "state_size": 8,
              "use_cache": False, "pad_token_id": 0},
    "rwkv": {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": WORDS, "use_cache": False,
             "attention_hidden_size": 32, "context_length": 32},
    "bart": BOTH,
    "marian": {**BOTH, "decoder_vocab_size": WORDS},
    "pegasus": BOTH,
}  # fmt: skip
PICTURES: dict[str, dict[str, Any]] = {
    "deit": VISION,
    "beit": VISION,
    "dinov2": VISION,
    "vit_mae": {**VISION, "mask_ratio": 0.0},
    "siglip_vision_model": VISION,
    "yolos": {**VISION, "image_size": [32, 32], "num_detection_tokens": 5},
    "swin": WINDOWS,
    "swinv2": WINDOWS,
    "focalnet": {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 1]},
}
LARGER: dict[str, dict[str, Any]] = {
    "convnext": STAGES,
    "convnextv2": STAGES,
    "poolformer": STAGES,
    "regnet": {**STAGES, "embedding_size": 8, "groups_width": 4},
    "pvt": {**STAGES, "image_size": 64, "num_attention_heads": [1, 2, 2, 2]},
    "mobilevit": {"image_size": 64, "hidden_sizes": [16, 24, 32], "num_attention_heads": 4,
                  "neck_hidden_sizes": [8, 8, 16, 24, 32, 32, 64]},
    "bit": {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1],
            "num_groups": 4},
    "glpn": {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1],
             "num_attention_heads": [1, 1, 2, 2], "decoder_hidden_size": 8},
}  # fmt: skip
SOUNDS: dict[str, dict[str, Any]] = {
    "hubert": WAVES,
    "wavlm": WAVES,
    "audio-spectrogram-transformer": {**VISION, "max_length": 32, "num_mel_bins": 16,
                                      "frequency_stride": 8, "time_stride": 8},
}  # fmt: skip

CLIMBING, DRAWN = 160, 240
"""Inputs."""

SECONDS = 600
"""For one network."""


def names() -> list[str]:
    return [*TEXTS, *PICTURES, *LARGER, *SOUNDS]


def built(name: str) -> tuple[nn.Module, Sample]:
    """A network and a sample, of which entries decide nothing but the domain."""
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    given = {**TEXTS, **PICTURES, **LARGER, **SOUNDS}[name]
    model = AutoModel.from_config(AutoConfig.for_model(name, **given)).eval()
    with torch.no_grad():
        for own, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
            elif "bias" in own:
                parameter.add_(torch.randn_like(parameter) / 10)
    return model, sample_of(name)


def sample_of(name: str) -> Sample:
    if name in PICTURES or name in LARGER:
        size = 32 if name in PICTURES else 64
        return {"pixel_values": torch.rand(2, 3, size, size) * 2 - 1}
    if name in SOUNDS:
        shape = (2, 32, 16) if "spectrogram" in name else (2, 2000)
        return {"input_values": torch.rand(shape) * 2 - 1}
    ids, mask = torch.randint(2, WORDS, (2, 12)), torch.ones(2, 12, dtype=torch.int64)
    mask[1, 9:] = 0
    sample = {"input_ids": ids}
    if name not in ("mamba", "rwkv", "fnet"):
        sample["attention_mask"] = mask
    if TEXTS[name].get("decoder_layers"):
        sample["decoder_input_ids"] = ids
    return sample


def examine(name: str) -> dict[str, Any]:
    """A row."""
    model, sample = built(name)
    domain = {n: (-1.0, 1.0) for n, x in sample.items() if x.is_floating_point()}
    began = time.perf_counter()
    try:
        claims = halfsafe.certify(model, domain, sample=sample)
    except halfsafe.CaptureError as error:
        said = re.sub(r"/\S*/site-packages/", "", str(error).splitlines()[0])
        return {"name": name, "refused": said[:160]}
    seconds = time.perf_counter() - began
    known = [v for v in claims.values.values() if v.bound is not None]
    lost = Counter(v.lost.split(" (")[-1] for v in claims.values.values() if v.bound is None)
    row = {
        "name": name,
        "values": len(claims.values),
        "bounded": len(known),
        "lost": dict(lost.most_common(3)),
        "certified": claims.certified,
        "largest_bound": claims.worst[1],
        "seconds": round(seconds, 1),
    }
    found = attacks(model, sample, claims)
    by_steps = any(f.unseen for f in found)
    if by_steps:
        found = [stepped(model, sample, claims)]
    began = time.perf_counter()
    checked = halfsafe.check(claims, model, sample=sample)
    return row | {
        "by_steps": by_steps,
        "attacks": sum(f.inputs for f in found),
        "passed": sorted({n for f in found for n in f.passed}),
        "bits_over_attacks": [round(min(f.median for f in found), 2),
                              round(min(f.worst for f in found), 2)],
        "confirmed": checked.confirmed,
        "why_not": list(checked.why[:2]),
        "seconds_check": round(time.perf_counter() - began, 1),
    }  # fmt: skip


def attacks(model: nn.Module, sample: Sample, claims: halfsafe.Certificate) -> list[Attacked]:
    """Inputs that climb, and drawn ones; the latter alone where tokens are read by columns."""
    most = {n: WORDS for n in sample if "ids" in n}
    drawn = attack(model, sample, claims, DRAWN, most=most, half=False, targets=0, seed=3)
    try:
        return [attack(model, sample, claims, CLIMBING, most=most, targets=1, seconds=200), drawn]
    except RuntimeError:
        return [drawn]


def stepped(model: nn.Module, sample: Sample, claims: halfsafe.Certificate) -> Attacked:
    """The captured graph, run in FP32 operator by operator on drawn inputs."""
    source = open_model(model, Samples(sample).first, runs=False)
    found, draw = Attacked(), torch.Generator().manual_seed(0)
    for _ in range(DRAWN // len(next(iter(sample.values())))):
        values = {n: x.numpy() for n, x in drawn(sample, draw).items()}
        for node in source.graph.nodes:
            read = {v: values[v] for v in node.inputs.values() if v in values}
            values |= zip(node.outputs, source.run_node(node.name, read), strict=True)
        for n in claims.values.keys() & values.keys():
            largest = float(np.abs(values[n][np.isfinite(values[n])]).max(initial=0.0))
            found.largest[n] = max(found.largest.get(n, 0.0), largest)
        found.inputs += len(next(iter(sample.values())))
    for n, largest in found.largest.items():
        bound = claims.values[n].bound
        if bound is not None and largest > 0:
            found.bits[n] = math.log2(bound / largest)
            found.passed += [n] * (largest > bound)
    return found


def drawn(sample: Sample, draw: torch.Generator) -> Sample:
    """Other entries of the same shapes; a mask stays."""
    made = {}
    for n, x in sample.items():
        if x.is_floating_point():
            made[n] = torch.rand(x.shape, generator=draw) * 2 - 1
        else:
            made[n] = x if "mask" in n else torch.randint(WORDS, x.shape, generator=draw)
    return made


def asked(name: str) -> dict[str, Any]:
    """A row, made by a process of its own."""
    command = [sys.executable, "-m", "bench.certificates_families", "--one", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return {"name": name, "failed": f"nothing after {SECONDS} s"}
    if done.returncode:
        return {"name": name, "failed": (done.stderr.strip().splitlines() or ["nothing said"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def summed_up(rows: list[dict[str, Any]]) -> dict[str, Any]:
    run = [row for row in rows if "values" in row]
    worst = [row["bits_over_attacks"][0] for row in run]
    return {
        "families": len(rows),
        "refused": sorted(row["name"] for row in rows if "refused" in row),
        "failed": sorted(row["name"] for row in rows if "failed" in row),
        "every_value_bounded": sum(row["values"] == row["bounded"] for row in run),
        "certified_as_they_are": sum(row["certified"] for row in run),
        "confirmed": sum(row["confirmed"] for row in run),
        "attacks": sum(row["attacks"] for row in run),
        "bounds_passed": sum(len(row["passed"]) for row in run),
        "median_bits": sorted(worst)[len(worst) // 2] if worst else math.nan,
    }


def main() -> None:
    warnings.simplefilter("ignore")
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(examine(sys.argv[2])))
        return
    rows = []
    for name in sys.argv[1:] or names():
        rows.append(asked(name))
        print(json.dumps(rows[-1]), flush=True)
    summary = summed_up(rows)
    print(json.dumps(summary, indent=1))
    if not sys.argv[1:]:
        figures = {"summary": summary, "rows": rows}
        record("certificates_families", "python -m bench.certificates_families", figures)


if __name__ == "__main__":
    main()
