"""How planning grows: Llamas of 32 to 256 layers with an overflowing residual stream.

Run as ``python -m bench.planning``. The seconds are those of rules, windows and integer program.
"""

from __future__ import annotations

import gc
import math
import time
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bench.architectures import amplify
from bench.record import record
from halfsafe.frontends.torch.source import TorchSource
from halfsafe.plan import plan
from halfsafe.samples import calls
from halfsafe.windows import Limits, windows

COMMAND = "python -m bench.planning"
LAYERS = (32, 64, 128, 288)
TIMES = 5


def measure(layers: int) -> dict[str, Any]:
    """Captures and measures a Llama once, then plans it a few times; the best one counts."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        vocab_size=99,
        use_cache=False,
    )
    model = LlamaForCausalLM(config).eval()
    amplify(model, "embed_tokens|o_proj|down_proj", 1e6)
    (call,) = calls({"input_ids": torch.randint(2, 99, (1, 16))})
    source = TorchSource.open(model, call)
    ranges = source.measure([call], lambda _: None) | source.constants()
    times = []
    for _ in range(TIMES):
        gc.collect()
        start = time.perf_counter()
        found = plan(source.graph, windows(source.graph, ranges, Limits()))
        times.append(time.perf_counter() - start)
    assert not found.conflicts
    nodes = len(source.graph.nodes)
    return {
        "layers": layers,
        "nodes": nodes,
        "values": len(source.graph.values),
        "changed": found.changed,
        "seconds": round(min(times), 3),
    }


def main() -> None:
    rows = []
    for layers in LAYERS:
        rows.append(measure(layers))
        print(rows[-1], flush=True)
    first, last = rows[0], rows[-1]
    growth = last["seconds"] / first["seconds"]
    expected = (last["nodes"] * math.log(last["nodes"])) / (
        first["nodes"] * math.log(first["nodes"])
    )
    summary = {
        "seconds_32_layers": first["seconds"],
        "growth": round(growth, 2),
        "n_log_n_growth": round(expected, 2),
    }
    print(summary)
    record("planning", COMMAND, {"summary": summary, "rows": rows})


if __name__ == "__main__":
    main()
