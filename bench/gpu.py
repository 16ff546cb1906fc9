"""The architectures at realistic widths on a CUDA device, fixed against naive FP16.

Run as ``python -m bench.gpu``; without a GPU it says so and does nothing. Latencies are medians of
runs taken in turns, as ratios to naive FP16 in the same process.
"""

from __future__ import annotations

import argparse
import copy
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

import halfsafe
from bench.architectures import ARCHITECTURES, REAL, TINY, Sample, Size
from bench.record import record

COMMAND = "python -m bench.gpu"


def outputs(model: nn.Module, sample: Sample) -> list[torch.Tensor]:
    """Floating outputs in FP64."""
    with torch.no_grad():
        leaves = pytree.tree_leaves(model(**sample))
    return [y.double() for y in leaves if isinstance(y, torch.Tensor) and y.is_floating_point()]


def error(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float | None:
    """Root mean square of the outputs' relative errors; None if one is not finite."""
    if not all(bool(torch.isfinite(y).all()) for y in found):
        return None
    each = [float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True)]
    return statistics.fmean(e * e for e in each) ** 0.5


def latencies(variants: dict[str, Callable[[], Any]], device: str, turns: int) -> dict[str, float]:
    """Median seconds of each variant, run in turns after warming up."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    with torch.no_grad():
        for turn in range(turns + 3):
            for name, run in variants.items():
                _synchronise(device)
                start = time.perf_counter()
                run()
                _synchronise(device)
                if turn >= 3:
                    times[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in times.items()}


def measure(name: str, device: str, size: Size, turns: int, compiled: bool) -> dict[str, Any]:
    """One architecture: errors over the floor, and latencies, eager and compiled."""
    model, samples = ARCHITECTURES[name].build(size)
    model = model.to(device)
    samples = [{k: v.to(device) for k, v in s.items()} for s in samples]
    fixed = halfsafe.fix(model, samples)
    sample = samples[-1]
    half_sample = {k: v.half() if v.is_floating_point() else v for k, v in sample.items()}
    brain_sample = {k: v.bfloat16() if v.is_floating_point() else v for k, v in sample.items()}
    naive, brain, ours = copy.deepcopy(model).half(), copy.deepcopy(model).bfloat16(), fixed.half()
    reference = outputs(model, sample)
    floor = fixed.report.verification.floor
    after = error(outputs(ours, half_sample), reference)

    def watched() -> None:
        with halfsafe.watch(model):
            model(**sample)

    variants = {
        "fp32": lambda: model(**sample),
        "fp32 watched": watched,
        "bf16": lambda: brain(**brain_sample),
        "naive": lambda: naive(**half_sample),
        "fixed": lambda: ours(**half_sample),
    }
    seconds = {"eager": latencies(variants, device, turns)}
    row: dict[str, Any] = {"after_compiled": None}
    if compiled:
        quick, quicker = torch.compile(ours), torch.compile(naive)
        row["after_compiled"] = error(outputs(quick, half_sample), reference)
        pair = {"naive": lambda: quicker(**half_sample), "fixed": lambda: quick(**half_sample)}
        seconds["compiled"] = latencies(pair, device, turns)
    return {
        "architecture": name,
        "before": error(outputs(naive, half_sample), reference),
        "bf16": error(outputs(brain, brain_sample), reference),
        "after": after,
        **row,
        "floor": floor,
        "ratio": after / floor if after is not None else None,
        "inserted": len(fixed.report.insertions),
        "watched_over_fp32": round(seconds["eager"]["fp32 watched"] / seconds["eager"]["fp32"], 3),
        "fixed_over": {
            mode: {other: round(taken["fixed"] / taken[other], 3) for other in taken}
            for mode, taken in seconds.items()
        },
    }


def _synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="tiny widths, to try the script out")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--eager-only", action="store_true")
    parser.add_argument("architectures", nargs="*", default=list(ARCHITECTURES))
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("skipped: torch.cuda.is_available() is False, this needs a CUDA device")
        return
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    rows = []
    for name in given.architectures:
        size = TINY if given.tiny else REAL
        rows.append(measure(name, given.device, size, given.turns, not given.eager_only))
        print(rows[-1], flush=True)
    if given.device == "cuda":
        gpu = torch.cuda.get_device_name()
        record("gpu", COMMAND, {"gpu": gpu, "cuda": torch.version.cuda, "rows": rows})


if __name__ == "__main__":
    main()
