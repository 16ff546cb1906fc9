"""What holds for every input, against inputs that try to break it.

    python -m bench.certificates [names]

For each network: how many of its values have a bound from the weights alone, whether FP16 holds all
of them as it is and after `fix(certify=)`, and at which error. Bounds are attacked by thousands of
inputs from the domain: random ones, extreme ones (one token alone, corners of the box), and such
that climb (the token, or the step along the gradient's sign, that makes an output larger is kept).
A bound that any of them passes is an error, and the bits between both say how near it is. The
trained networks are those of bench/trained.py, in the environment that has them.
"""

# pyright: basic

from __future__ import annotations

import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import halfsafe
from bench.record import record
from halfsafe.certify import bounds_of
from halfsafe.frontends import open_model
from halfsafe.samples import Samples

TRAINED = Path(".venv-trained/bin/python")
ATTACKS = 2_000
"""Inputs, rows of a batch counted one by one."""

Sample = dict[str, torch.Tensor]
Domain = dict[str, tuple[float, float]]


# Attacks


def attack(sample: Sample, domain: Domain, vocabulary: int, loudest: Callable[[Sample], float],
           count: int) -> None:  # fmt: skip
    """Inputs of the domain: random, extreme and climbing ones, a third each."""
    draw = torch.Generator().manual_seed(0)
    rows = max(len(next(iter(sample.values()))), 1)
    best, height = sample, loudest(sample)
    for i in range(-(-count // rows)):
        if i % 3 == 2:
            tried = {n: _nearby(n, x, domain.get(n), vocabulary, draw) for n, x in best.items()}
        else:
            tried = {n: _drawn(n, x, domain.get(n), vocabulary, i, draw) for n, x in sample.items()}
        found = loudest(tried)
        if found > height:
            best, height = tried, found


def _drawn(name: str, x: torch.Tensor, span: tuple[float, float] | None, vocabulary: int, i: int,
           draw: torch.Generator) -> torch.Tensor:  # fmt: skip
    if "mask" in name:
        seen = torch.rand(x.shape, generator=draw) < 0.7
        seen[..., 0] = True
        return seen.to(x.dtype)
    if span is None:
        random = torch.randint(0, vocabulary, x.shape, generator=draw)
        return torch.full_like(x, i // 3 % vocabulary) if i % 3 == 1 else random.to(x.dtype)
    low, high = span
    drawn = torch.rand(x.shape, generator=draw)
    return low + (high - low) * (drawn.round() if i % 3 == 1 else drawn)


def _nearby(name: str, x: torch.Tensor, span: tuple[float, float] | None, vocabulary: int,
            draw: torch.Generator) -> torch.Tensor:  # fmt: skip
    """The same with some entries changed; of a mask, which is 0 or 1, the first of a row is not."""
    changed = torch.rand(x.shape, generator=draw) < 0.1
    if "mask" in name:
        changed[..., 0] = False
        return torch.where(changed, 1 - x, x)
    if span is None:
        other = torch.randint(0, vocabulary, x.shape, generator=draw).to(x.dtype)
        return torch.where(changed, other, x) if vocabulary > 2 else x
    ends = torch.where(torch.rand(x.shape, generator=draw) < 0.5, span[0], span[1]).to(x.dtype)
    return torch.where(changed, ends, x)


def climbing(
    model: torch.nn.Module, sample: Sample, domain: Domain, steps: int
) -> Iterator[Sample]:
    """Steps along the sign of the gradient of the outputs' size, within the box."""
    floating = [name for name in sample if name in domain]
    x = dict(sample)
    for _ in range(steps if floating else 0):
        leaves = {n: x[n].clone().requires_grad_() for n in floating}
        found = model(**{**x, **leaves})
        outputs = [o for o in _tensors(found) if o.is_floating_point()]
        sum(o.abs().amax() for o in outputs).backward()
        for n in floating:
            low, high = domain[n]
            step = 0.1 * (high - low) * leaves[n].grad.sign()
            x[n] = (x[n] + step).clamp(low, high)
        yield dict(x)


def _tensors(found: Any) -> list[torch.Tensor]:
    return [x for x in torch.utils._pytree.tree_leaves(found) if isinstance(x, torch.Tensor)]


# Networks


def examine(name: str, model: Any, samples: list[Sample], domain: Domain, vocabulary: int,
            count: int = ATTACKS) -> dict[str, Any]:  # fmt: skip
    """A row: bounds, attacks, and what `fix` makes of it."""
    supply = Samples(samples)
    source = open_model(model, supply.first)
    began = time.perf_counter()
    bounds = bounds_of(source, domain)
    seconds = time.perf_counter() - began
    known = {n: b.amax for n, b in bounds.items() if b.is_finite}
    largest: dict[str, float] = {}
    passed: set[str] = set()
    inputs = 0

    def look(sample: Sample) -> float:
        nonlocal inputs
        inputs += len(next(iter(sample.values())))
        ranges = source.measure(iter(Samples([sample])), lambda _: None)
        for n, found in ranges.items():
            largest[n] = max(largest.get(n, 0.0), found.amax)
            if found.amax > known.get(n, np.inf):
                passed.add(n)
        return max(ranges[n].amax for n in source.graph.outputs if n in ranges)

    attack(samples[0], domain, vocabulary, look, count)
    if isinstance(model, torch.nn.Module):
        for sample in climbing(model, samples[0], domain, 30):
            look(sample)
    bits = sorted(np.log2(known[n] / largest[n]) for n in known if largest.get(n))
    row = {
        "name": name,
        "seconds": round(seconds, 2),
        "values": len(bounds),
        "bounded": len(known),
        "attacks": inputs,
        "passed": sorted(passed),
        "bits_over_attacks": [round(float(bits[len(bits) // 2]), 2), round(float(bits[-1]), 2)],
        "largest_bound": max(known.values()),
        "fits_as_it_is": all(b.amax <= 65504 for n, b in bounds.items()
                             if source.graph.values[n].bounded),
    }  # fmt: skip
    fixed = halfsafe.fix(model, samples, certify=domain)
    told = fixed.certificate
    assert told is not None
    over = [v.where for v in told.values.values() if not v.fits]
    return row | {
        "certified": told.certified,
        "answer": str(fixed.report.answer),
        "over_floor": round(fixed.report.verification.ratio, 3),
        "inserted": len(fixed.report.insertions),
        "largest_after": told.worst[1],
        "not_certified": over[:3],
    }


def architectures(names: list[str]) -> Iterator[dict[str, Any]]:
    from bench.architectures import ARCHITECTURES

    for name, architecture in ARCHITECTURES.items():
        if names and name not in names:
            continue
        model, samples = architecture.build()
        domain = {
            n: (float(min(s[n].min() for s in samples)), float(max(s[n].max() for s in samples)))
            for n, x in samples[0].items()
            if x.is_floating_point()
        }
        sizes = [m.num_embeddings for m in model.modules() if isinstance(m, torch.nn.Embedding)]
        yield examine(name, model, samples, domain, min([s for s in sizes if s > 8], default=2))


def trained(name: str) -> dict[str, Any]:
    """A row of a trained network, in the environment that has it."""
    if name == "minilm":
        from bench.trained import MODELS

        found = MODELS["minilm"]
        samples = [{n: torch.from_numpy(x) for n, x in found.sample(i).items()} for i in range(4)]
        return examine("paraphrase-MiniLM-L3-v2", found.file, samples, {}, 30_522, 600)
    from bench.trained_torch import dictated, whisper

    names = ("input_features", "decoder_input_ids")
    samples = [dict(zip(names, dictated(i), strict=True)) for i in range(3)]
    domain = {"input_features": (-1.0, 2.0)}
    return examine("Whisper tiny.en", whisper(), samples, domain, 51_864, 60)


def main() -> None:
    warnings.simplefilter("ignore")
    if sys.argv[1:2] == ["--trained"]:
        print(json.dumps(trained(sys.argv[2])))
        return
    rows = []
    for row in architectures(sys.argv[1:]):
        rows.append(row)
        print(json.dumps(row), flush=True)
    for name in ("minilm", "whisper") if TRAINED.exists() and not sys.argv[1:] else ():
        command = [str(TRAINED), "-m", "bench.certificates", "--trained", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(json.dumps(rows[-1]), flush=True)
    summary = {
        "networks": len(rows),
        "attacks": sum(row["attacks"] for row in rows),
        "bounds_passed": sum(len(row["passed"]) for row in rows),
        "certified": sum(row["certified"] for row in rows),
        "certified_within_1.2_of_the_floor": sum(
            row["certified"] and row["over_floor"] <= 1.2 for row in rows
        ),
    }
    print(json.dumps(summary, indent=1))
    if not sys.argv[1:]:
        record("certificates", "python -m bench.certificates", {"summary": summary, "rows": rows})


if __name__ == "__main__":
    main()
