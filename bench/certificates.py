"""What holds for every input, against inputs that try to break it.

    python -m bench.certificates [names]

For each network: how many of its values have a bound from the weights alone, whether FP16 holds all
of them as it is and after `fix(certify=)`, and at which error. Bounds are attacked by thousands of
inputs from the domain (bench/attacks.py). A bound that any of them passes is an error, and the bits
between both say how near it is. The trained networks are those of bench/trained.py, in the
environment that has them.
"""

# pyright: basic

from __future__ import annotations

import json
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import halfsafe
from bench.attacks import COUNT, attack
from bench.record import record

TRAINED = Path(".venv-trained/bin/python")
Sample = dict[str, torch.Tensor]
Domain = dict[str, tuple[float, float]]


# Networks


def examine(name: str, model: Any, samples: list[Sample], domain: Domain, vocabulary: int,
            count: int = COUNT) -> dict[str, Any]:  # fmt: skip
    """A row: bounds, attacks, and what `fix` makes of it."""
    began = time.perf_counter()
    claims = halfsafe.certify(model, domain, sample=samples[0])
    seconds = time.perf_counter() - began
    known = [v.bound for v in claims.values.values() if v.bound is not None]
    found = attack(model, samples[0], claims, count, most=_tokens(samples[0], domain, vocabulary))
    row = {
        "name": name,
        "seconds": round(seconds, 2),
        "values": len(claims.values),
        "bounded": len(known),
        "attacks": found.inputs,
        "passed": sorted(found.passed),
        "rounded": sorted(found.rounded),
        "unseen": len(found.unseen),
        "bits_over_attacks": [round(found.median, 2), round(found.worst, 2)],
        "largest_bound": max(known),
        "fits_as_it_is": claims.certified,
    }
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


def _tokens(sample: Sample, domain: Domain, vocabulary: int) -> dict[str, int]:
    """How many there are, for each input of whole numbers."""
    return {
        n: vocabulary for n, x in sample.items() if not x.is_floating_point() and n not in domain
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
