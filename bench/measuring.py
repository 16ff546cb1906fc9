"""What measuring costs beside a plain forward pass, and beside the tools people use for it.

Run as ``python -m bench.measuring``. All variants of one model run in turns in one process; a row
gives the median of the ratios to the plain pass of the same turn. Memory is the peak of resident
memory during a pass, over that of the plain pass. Tools that hook into modules did so before the
first turn; what a watched model returns must be what it returned before.
"""

from __future__ import annotations

import contextlib
import copy
import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import BertConfig, BertModel, ResNetConfig, ResNetModel
from transformers.debug_utils import DebugUnderflowOverflow

import halfsafe
from bench.record import record
from halfsafe.frontends.torch.source import TorchSource
from halfsafe.measure import measure
from halfsafe.samples import calls

COMMAND = "python -m bench.measuring"
TURNS = 15


def bert() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """BERT-base on one sequence of 128 tokens."""
    return BertModel(BertConfig()), {"input_ids": torch.randint(0, 30000, (1, 128))}


def resnet() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """ResNet-50 on one image of 224 x 224."""
    return ResNetModel(ResNetConfig()), {"pixel_values": torch.randn(1, 3, 224, 224)}


def hooks(model: nn.Module, sample: dict[str, torch.Tensor]) -> dict[str, float]:
    """The script that people write: a forward hook on each module keeps the largest magnitude."""
    found: dict[str, float] = {}

    def hook(name: str) -> Callable[..., None]:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor):
                found[name] = output.abs().max().item()

        return keep

    handles = [m.register_forward_hook(hook(n)) for n, m in model.named_modules()]
    try:
        model(**sample)
    finally:
        for handle in handles:
            handle.remove()
    return found


def peak(run: Callable[[], Any]) -> int:
    """Peak resident memory in bytes while running (Linux; the high-water mark is reset before)."""
    Path("/proc/self/clear_refs").write_text("5")
    run()
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
    return int(line.split()[1]) * 1024


def compare(build: Callable[[], tuple[nn.Module, dict[str, torch.Tensor]]]) -> dict[str, Any]:
    torch.manual_seed(0)
    model, sample = build()
    model.eval()
    (call,) = calls(sample)
    program = TorchSource.open(model, call).program
    watched, exact, debugged = (copy.deepcopy(model) for _ in range(3))
    stack = contextlib.ExitStack()
    stack.enter_context(halfsafe.watch(watched))
    stack.enter_context(halfsafe.watch(exact, operators=True))
    debug = DebugUnderflowOverflow(debugged, max_frames_to_save=1)

    def with_debug() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            debugged(**sample)

    variants: dict[str, Callable[[], Any]] = {
        "plain": lambda: model(**sample),
        "halfsafe.measure": lambda: measure(program, [call]),
        "halfsafe.watch": lambda: watched(**sample),
        "halfsafe.watch, operators": lambda: exact(**sample),
        "hook script": lambda: hooks(model, sample),
        "DebugUnderflowOverflow": with_debug,
    }
    with stack, torch.no_grad():
        for run in variants.values():
            run()
        identical = all(torch.equal(m(**sample)[0], model(**sample)[0]) for m in (watched, exact))
        times: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(TURNS):
            for name, run in variants.items():
                start = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - start)
        memory = {name: peak(run) for name, run in variants.items()}
    del debug
    return {
        "values": sum(v.floating for v in program.graph.values.values()),
        "watched_outputs_identical": identical,
        "plain_seconds": round(statistics.median(times["plain"]), 4),
        "time_ratio": {
            name: round(
                statistics.median(a / b for a, b in zip(taken, times["plain"], strict=True)), 3
            )
            for name, taken in times.items()
        },
        "memory_ratio": {name: round(m / memory["plain"], 3) for name, m in memory.items()},
    }


def main() -> None:
    rows = {build.__name__: compare(build) for build in (bert, resnet)}
    for name, row in rows.items():
        print(name, row)
    record("measuring", COMMAND, {"threads": torch.get_num_threads(), "rows": rows})


if __name__ == "__main__":
    main()
