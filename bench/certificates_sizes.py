"""What a certificate costs: seconds, and memory beside the weights.

    python -m bench.certificates_sizes [names]
    python -m bench.certificates_sizes --profile NAME

Networks of the sizes that people deploy, with random weights: no bound is the faster for them. Each
is certified in a process of its own, from which the seconds are, with those in which libraries are
loaded, and in another that has certified a small one before, so that they are there: `above` is how
far the peak of that lies above what it held when the network had been built, `above_first` the same
of the first, `captured` how much of it is held before the first value is bounded, by the graph that
torch.export makes, and `layer` what the largest of its layers weighs, in MiB.
"""

# pyright: basic

from __future__ import annotations

import cProfile
import json
import pstats
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import halfsafe
from bench.record import record

MIB = 2**20


@dataclass(frozen=True)
class Sized:
    """A network, the length of its input, and the seconds that its certificate should take."""

    make: Callable[[], nn.Module]
    tokens: int
    goal: float


def bert_base() -> nn.Module:
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig())


def tiny_llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=2048,
            num_hidden_layers=22,
            num_attention_heads=32,
            num_key_value_heads=4,
            intermediate_size=5632,
            vocab_size=32000,
            max_position_embeddings=2048,
            use_cache=False,
        )
    )


SIZES = {
    "BERT-base": Sized(bert_base, 128, 10.0),
    "Llama 1.1B": Sized(tiny_llama, 128, 180.0),
}


def layer_size(model: nn.Module) -> int:
    """Bytes of the largest block that a list of blocks has."""
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
    return max(_size(block) for blocks in lists for block in blocks)


def _size(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())


def held() -> int:
    """Bytes that this process has in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def peak() -> int:
    """Bytes that it has had at most."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measured(name: str, warm: bool) -> dict[str, Any]:
    """A row: seconds and memory of one certificate."""
    found = SIZES[name]
    torch.manual_seed(0)
    if warm:
        small = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4)).eval()
        halfsafe.certify(small, {"input_1": (-1, 1)}, sample=torch.zeros(1, 4))
    model = found.make().eval()
    weights, layer = _size(model), layer_size(model)
    ids = {"input_ids": torch.randint(2, 1000, (1, found.tokens))}
    before, highest = held(), peak()
    captured: list[int] = []

    def look(phase: str) -> None:
        if phase == "bounding" and not captured:
            captured.append(held())

    began = time.perf_counter()
    told = halfsafe.certify(model, sample=ids, progress=look)
    seconds = time.perf_counter() - began
    return {
        "name": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": found.tokens,
        "threads": torch.get_num_threads(),
        "seconds": round(seconds, 1),
        "goal_seconds": found.goal,
        "weights_mib": round(weights / MIB),
        "layer_mib": round(layer / MIB),
        "before_mib": round(before / MIB),
        "peak_before_mib": round(highest / MIB),
        "peak_mib": round(peak() / MIB),
        "captured_mib": round((captured[0] - before) / MIB),
        "above_mib": round((peak() - before) / MIB),
        "values": len(told.values),
        "bounded": sum(v.bound is not None for v in told.values.values()),
        "certified": told.certified,
        "largest_bound": told.worst[1],
    }


def profile(name: str) -> None:
    """Where the seconds go, function by function."""
    model = SIZES[name].make().eval()
    ids = {"input_ids": torch.randint(2, 1000, (1, SIZES[name].tokens))}
    with cProfile.Profile() as found:
        halfsafe.certify(model, sample=ids)
    for order in ("tottime", "cumulative"):
        pstats.Stats(found).sort_stats(order).print_stats(45)


def asked(name: str, how: str) -> dict[str, Any]:
    """What a process of its own measures."""
    command = [sys.executable, "-m", "bench.certificates_sizes", "--one", name, how]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    warnings.simplefilter("ignore")
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measured(sys.argv[2], sys.argv[3] == "warm")))
        return
    if sys.argv[1:2] == ["--profile"]:
        profile(sys.argv[2])
        return
    rows = []
    for name in sys.argv[1:] or SIZES:
        first, warm = (asked(name, how) for how in ("first", "warm"))
        memory = {key: warm[key] for key in warm if key.endswith("_mib")}
        rows.append(first | memory | {"above_first_mib": first["above_mib"]})
        print(json.dumps(rows[-1]), flush=True)
    if not sys.argv[1:]:
        record("certificates_sizes", "python -m bench.certificates_sizes", {"rows": rows})


if __name__ == "__main__":
    main()
