"""What holds for every input, against inputs that try to break it.

    python -m bench.certificates [names]
    python -m bench.certificates --tiny [names]
    python -m bench.certificates --resume

The last takes over what an earlier run, of the same code, has left in build/certificates.jsonl.

Families of transformers, 12 layers of width 768 with random weights, amplified until FP16 as it is
breaks, and convolutional networks. For each: how many values have a bound from the weights alone,
whether FP16 holds all of them as it is and after `fix(certify=)`, and at which error over the
floor. Bounds are attacked by thousands of inputs from the domain (bench/attacks.py): one that any
of them passes is an error, and the bits between both say how near it is. `by_depth` has these bits
along the network, since intervals grow with depth where no norm begins anew. Each network has a
process of its own. The domain of floating inputs is as far as the samples go, rounded outwards.
"""

# pyright: basic

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
import warnings
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import halfsafe
from bench.architectures import ARCHITECTURES, FURTHER, REAL, TINY, Sample, Size
from bench.attacks import COUNT, Attacked, attack
from bench.record import record
from halfsafe import Certificate

Domain = dict[str, tuple[float, float]]

DEEP = replace(REAL, tokens=8, vocabulary=1000, image=32, depth=6, labels=100)
"""12 layers of width 768, of few tokens; of two labels, an error would say little."""

WIDE = replace(REAL, tokens=8, image=64)
"""Convolutions of 64 channels and more, on small pictures."""

TRANSFORMERS = """
    bert roberta gpt2 llama mistral phi3 qwen2 qwen3 gemma gemma2 vit whisper t5_gated deberta
    deberta_v2 dit clip wav2vec2 t5_relu mixtral
""".split()
CONVOLUTIONAL = """
    resnet mobilenet_v2 efficientnet segformer detr autoencoder_kl unet2d_condition instance_norm
    panet
""".split()

ROWS = Path("build/certificates.jsonl")

SECONDS = 1800
"""After which a network is given up, and told as not done."""

BATCH = 32

SMALL_ONLY = ("mixtral",)
"""What is measured with --tiny alone: weights of experts are gathered token by token, and four
inputs take a minute."""

IN_FP16 = 32
"""Further inputs of a large network, run in FP16 as well."""


def built(name: str, size: Size) -> tuple[torch.nn.Module, list[Sample]]:
    """A network and its samples."""
    if name == "panet":
        from examples.panet.demo import detector

        model, samples = detector()
        return model, [{"image": middle(image)} for (image,) in samples]
    return {**ARCHITECTURES, **FURTHER}[name].build(size)


def middle(image: torch.Tensor, size: int = 128) -> torch.Tensor:
    """A square of it: thousands of whole pages would take hours."""
    top, left = ((n - size) // 2 for n in image.shape[2:])
    return image[..., top : top + size, left : left + size]


def domain_of(samples: list[Sample]) -> Domain:
    """The whole numbers around all floating entries of samples."""
    return {
        n: (math.floor(min(float(s[n].min()) for s in samples)),
            math.ceil(max(float(s[n].max()) for s in samples)))
        for n, x in samples[0].items()
        if x.is_floating_point()
    }  # fmt: skip


def whole_numbers(model: torch.nn.Module, sample: Sample) -> dict[str, int]:
    """How many there are of each, for inputs that choose no row of a table."""
    sizes = [m.num_embeddings for m in model.modules() if isinstance(m, torch.nn.Embedding)]
    most = min([size for size in sizes if size > 8], default=2)
    found = {n: most for n, x in sample.items() if not x.is_floating_point() and "mask" not in n}
    return found | ({"timestep": 1000} if "timestep" in found else {})


def examine(name: str, size: Size) -> dict[str, Any]:
    """A row: bounds, attacks, and what `fix` makes of it."""
    model, samples = built(name, size)
    domain = domain_of(samples)
    times = -(-BATCH // len(next(iter(samples[0].values()))))
    batch = {n: x.repeat(times, *(1 for _ in x.shape[1:])) for n, x in samples[0].items()}
    began = time.perf_counter()
    claims = halfsafe.certify(model, domain, sample=batch)
    seconds = time.perf_counter() - began
    found = attacks(model, batch, claims, size)
    row = {
        "name": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "domain": domain,
        "seconds": round(seconds, 1),
        **bounds(claims),
        **attacked(claims, found),
    }
    print(json.dumps(row), file=sys.stderr, flush=True)
    began = time.perf_counter()
    fixed = halfsafe.fix(model, samples, certify=domain)
    told = fixed.certificate
    assert told is not None
    ratio = fixed.report.verification.ratio
    if ratio > 1.2:  # what a plan for the samples alone has
        plain = halfsafe.fix(model, samples).report.verification.ratio
        row["over_floor_of_samples"] = round(plain, 3)
    return row | {
        "seconds_fix": round(time.perf_counter() - began, 1),
        "certified": told.certified,
        "answer": str(fixed.report.answer),
        "over_floor": round(ratio, 3),
        "inserted": len(fixed.report.insertions),
        "largest_after": told.worst[1],
        "not_certified": [v.where for v in told.values.values() if not v.fits][:3],
    }


def attacks(model: torch.nn.Module, batch: Sample, claims: Certificate, size: Size) -> Attacked:
    """Thousands; of a large network most of them drawn and in FP32, and some in FP16, as it is
    slow."""
    run = partial(attack, model, batch, claims, most=whole_numbers(model, batch))
    if size.layers == TINY.layers:
        return run(COUNT, targets=1)
    parts = [
        run(COUNT * 2 // 5, half=False, targets=1),
        run(COUNT * 3 // 5, half=False, targets=0, seed=1),
        run(IN_FP16, half=True, targets=0, seed=2),
    ]
    left = COUNT - sum(part.inputs for part in parts)
    if left > 0:  # where climbs have ended early
        parts.append(run(left, half=False, targets=0, seed=3))
    return together(claims, parts)


def together(claims: Certificate, parts: list[Attacked]) -> Attacked:
    """What several attacks on the same claims have found."""
    largest = {n: max(p.largest.get(n, 0.0) for p in parts) for p in parts for n in p.largest}
    bits = {
        n: math.log2(bound / largest[n])
        for n, v in claims.values.items()
        if (bound := v.bound) and n in parts[0].bits and 0 < largest[n] < math.inf
    }
    return replace(
        parts[0],
        largest=largest,
        bits=bits,
        passed=sorted({n for p in parts for n in p.passed}),
        rounded=sorted({n for p in parts for n in p.rounded}),
        inputs=sum(p.inputs for p in parts),
        overflowed=sum(p.overflowed for p in parts),
    )


def bounds(claims: Certificate) -> dict[str, Any]:
    """What a certificate says of a network as it is."""
    known = {n: v.bound for n, v in claims.values.items() if v.bound is not None}
    lost = Counter(v.lost for v in claims.values.values() if v.bound is None)
    return {
        "values": len(claims.values),
        "bounded": len(known),
        "lost": dict(lost.most_common(3)),
        "largest_bound": claims.worst[1],
        "fits_as_it_is": claims.certified,
    }


def attacked(claims: Certificate, found: Attacked) -> dict[str, Any]:
    """How near inputs come to it; FP16 breaks where one of them makes a stored value too large."""
    stored = [found.largest.get(n, 0.0) for n, v in claims.values.items() if v.stored]
    bits = [(n, found.bits[n]) for n in claims.values if n in found.bits]
    places = sorted({round(i * (len(bits) - 1) / 9) for i in range(10)})
    return {
        "attacks": found.inputs,
        "passed": sorted(found.passed),
        "rounded": len(found.rounded),
        "unseen": len(found.unseen),
        "largest_found": max(stored),
        "fp16_breaks": max(stored) > 65504 or found.overflowed > 0,
        "bits_over_attacks": [round(found.median, 2), round(found.worst, 2)],
        "worst_at": max(bits, key=lambda b: b[1])[0],
        "by_depth": [round(bits[i][1], 1) for i in places],
    }


def asked(name: str, tiny: bool) -> dict[str, Any]:
    """A row, made by a process of its own; of one that fails, what it said last."""
    command = [sys.executable, "-m", "bench.certificates", "--one", name, str(int(tiny))]
    run = partial(subprocess.run, command, capture_output=True, text=True, check=False)
    try:
        done = run(timeout=SECONDS, env={**os.environ, "PYTHONWARNINGS": "ignore"})
    except subprocess.TimeoutExpired as late:
        return _partly(name, late.stderr, f"nothing after {SECONDS} s")
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        return _partly(name, done.stderr, said[-1])
    return json.loads(done.stdout.splitlines()[-1])


def _partly(name: str, told: str | bytes | None, why: str) -> dict[str, Any]:
    """What is known of a network that was not done: the bounds and attacks, if it came so far."""
    text = told.decode() if isinstance(told, bytes) else told or ""
    rows = [json.loads(line) for line in text.splitlines() if line.startswith('{"name"')]
    return {"name": name, **(rows[-1] if rows else {}), "certified": False, "failed": why}


def summed_up(rows: list[dict[str, Any]]) -> dict[str, Any]:
    families = [row for row in rows if row["name"] in TRANSFORMERS]
    certified = [row for row in families if row["certified"]]
    return {
        "networks": len(rows),
        "not_measured": sorted({*TRANSFORMERS, *CONVOLUTIONAL} - {row["name"] for row in rows}),
        "attacks": sum(row.get("attacks", 0) for row in rows),
        "bounds_passed": sum(len(row.get("passed", ())) for row in rows),
        "transformers": len(families),
        "transformers_that_break": sum(row.get("fp16_breaks", False) for row in families),
        "transformers_certified": len(certified),
        "certified_within_1.2_of_the_floor": sum(r["over_floor"] <= 1.2 for r in certified),
        "of_these_fp16_cannot_do_better": sum(r["answer"] != "safe" for r in certified),
        "others_certified": sum(r["certified"] for r in rows if r["name"] in CONVOLUTIONAL),
    }


def main() -> None:
    warnings.simplefilter("ignore")
    if sys.argv[1:2] == ["--one"]:
        name, tiny = sys.argv[2], sys.argv[3] == "1"
        size = TINY if tiny else WIDE if name in CONVOLUTIONAL else DEEP
        print(json.dumps(examine(name, size)))
        return
    options = [a for a in sys.argv[1:] if a.startswith("--")]
    names = [a for a in sys.argv[1:] if not a.startswith("--")]
    tiny, resume = "--tiny" in options, "--resume" in options
    rows = kept() if resume else []
    every = [n for n in (*TRANSFORMERS, *CONVOLUTIONAL) if tiny or n not in SMALL_ONLY]
    for name in names or every:
        if name not in {row["name"] for row in rows}:
            rows.append(asked(name, tiny))
            print(json.dumps(rows[-1]), flush=True)
        if not names and not tiny:
            keep(rows)
    summary = summed_up(rows)
    print(json.dumps(summary, indent=1))
    if not names and not tiny:
        record("certificates", "python -m bench.certificates", {"summary": summary, "rows": rows})


def kept() -> list[dict[str, Any]]:
    text = ROWS.read_text(encoding="utf-8") if ROWS.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def keep(rows: list[dict[str, Any]]) -> None:
    ROWS.parent.mkdir(exist_ok=True)
    ROWS.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
