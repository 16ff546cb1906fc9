"""The architectures at realistic widths on a CUDA device, fixed against naive FP16, and engines.

Run as ``python -m bench.gpu``; without a GPU it says what is missing and does nothing. Latencies
are medians of runs taken in turns, as ratios to naive FP16 in the same process. Then some of the
networks, and the detectors of the two examples, run on the engines that need a GPU, and two planted
faults are bisected there (bench/gpu_engines.py). Recorded is a run without arguments, row by row;
``--device cpu --tiny`` tries the script out, on engines of the CPU or those of ``--engines``.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

import halfsafe
from bench.architectures import ARCHITECTURES, REAL, TINY, Sample, Size
from bench.gpu_engines import (
    ENGINES,
    NETWORKS,
    Row,
    at_hand,
    bisections,
    error,
    latencies,
    measured,
)
from bench.record import record
from halfsafe.engines import Engine, version_of
from halfsafe.errors import first_line

COMMAND = "python -m bench.gpu"


def outputs(model: nn.Module, sample: Sample) -> list[np.ndarray[Any, Any]]:
    """Floating outputs in FP64."""
    with torch.no_grad():
        leaves = pytree.tree_leaves(model(**sample))
    floating = (y for y in leaves if isinstance(y, torch.Tensor) and y.is_floating_point())
    return [y.double().cpu().numpy() for y in floating]


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


def parsed() -> argparse.Namespace:
    known = list(dict.fromkeys([*ARCHITECTURES, *NETWORKS]))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--engines", nargs="+", default=[], help="only these, of all networks")
    parser.add_argument("--tiny", action="store_true", help="tiny widths, to try the script out")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--eager-only", action="store_true")
    parser.add_argument("networks", nargs="*", metavar="network", help=", ".join(known))
    given = parser.parse_args()
    unknown = set(given.networks) - set(known)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    return given


def main() -> None:
    given = parsed()
    wanted = given.engines or ENGINES[given.device]
    engines = list(at_hand(wanted))
    if given.device == "cuda" and not torch.cuda.is_available():
        print("skipped: torch.cuda.is_available() is False, this needs a CUDA device")
        return
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    size = TINY if given.tiny else REAL
    found: dict[str, Any] = {"engines": {engine.name: version_of(engine) for engine in engines}}
    for part, rows in parts(given, size, engines).items():
        found[part] = []
        for row in rows:
            found[part].append(row)
            print(json.dumps(row), flush=True)
            if not sys.argv[1:]:
                gpu = torch.cuda.get_device_name()
                record("gpu", COMMAND, {"gpu": gpu, "cuda": torch.version.cuda, **found})


def attempted(name: str, given: argparse.Namespace, size: Size) -> Row:
    """One architecture, or why it cannot be measured: the others are, all the same."""
    try:
        return measure(name, given.device, size, given.turns, not given.eager_only)
    except Exception as failure:
        return {"architecture": name, "failed": first_line(failure)}


def parts(given: argparse.Namespace, size: Size, engines: list[Engine]) -> dict[str, Iterator[Row]]:
    """What is measured, each part when it is read."""
    here = [name for name in given.networks or ARCHITECTURES if name in ARCHITECTURES]
    return {
        "rows": (attempted(name, given, size) for name in here),
        "on_engines": (
            row
            for name in given.networks or NETWORKS
            for row in measured(name, size, engines, given.turns)
        ),
        "bisected": bisections(engines),
    }


if __name__ == "__main__":
    main()
