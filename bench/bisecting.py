"""Planted faults, bisected: is the culprit named exactly, and how often is an engine built for it?

Run as ``python -m bench.bisecting``; with names of networks as arguments only those are tried, and
nothing is recorded; with ``--resume`` those that are not recorded yet. Faults are planted in small
networks of 21 architectures and in a text detector, as PyTorch modules, which run in PyTorch's own
half kernels on the CPU, and as ONNX files, which run strictly (bench/bisect_plants.py,
bench/bisect_files.py, checked by the brute force of bench/prefixes.py). A trial is exact if all
culprits are the planted operators, no more and no less: by module, operator and source line, or by
the name of the node. Builds are counted here, at the engine. For one fault, ceil(log2 n) + 2 of
them are allowed for n operators. A network of more than 500 operators is timed.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, log2
from typing import Any

import torch

import halfsafe
from bench import bisect_files, bisect_plants
from bench.architectures import ARCHITECTURES, Size
from bench.bisect_plants import NETWORKS, Culprit, Healthy, Trial
from bench.record import RESULTS, record
from halfsafe.engines import Engine, Running, engine_of
from halfsafe.source import Runnable

COMMAND = "python -m bench.bisecting"
LARGE = Size(width=256, layers=13, heads=8, tokens=64, vocabulary=1000)
"""GPT-2 of this size has more than 500 operators."""

Row = dict[str, Any]


@dataclass
class Counted:
    """An engine that counts what it builds."""

    engine: Engine
    builds: int = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def build(self, deliverable: Runnable) -> Running:
        self.builds += 1
        return self.engine.build(deliverable)


def bisected(trial: Trial, engine: str) -> Row:
    """What halfsafe says of a trial, and at what cost."""
    counted = Counted(engine_of(engine))
    start, found, error = time.perf_counter(), None, ""
    try:
        found = halfsafe.bisect(
            trial.model, trial.samples, counted, metric="max_rel", tolerance=trial.tolerance
        )
    except Exception as failure:  # of the tool that is measured: it has not found anything
        error = f"{type(failure).__name__}: {str(failure)[:160]}"
    seconds = time.perf_counter() - start
    named = [] if found is None else [found, *found.others]
    bound = ceil(log2(trial.operators)) + 2
    return {
        "network": trial.network,
        "engine": engine,
        "plant": trial.kind,
        "operators": trial.operators,
        "scanned": trial.scanned,
        "tolerance": round(trial.tolerance, 4),
        "planted": [c.name or f"{c.module} {c.op}" for c in trial.culprits],
        "named": [f"{c.node} {c.op} {c.module} {c.line.rpartition('/')[2]}" for c in named],
        "first_exact": bool(named) and is_same(named[0], trial.culprits[0]),
        "exact": len(named) == len(trial.culprits)
        and all(any(is_same(one, c) for one in named) for c in trial.culprits),
        "builds": counted.builds,
        "builds_told": 0 if found is None else found.builds,
        "bound": bound,
        "within": bool(named) and counted.builds <= bound,
        "seconds": round(seconds, 2),
        "error": error,
    }


def is_same(named: Any, culprit: Culprit) -> bool:
    """Whether a culprit is a planted one: by node, or by operator, module and line."""
    if culprit.name:
        return named.node == culprit.name
    same = (named.op, named.module) == (culprit.op, culprit.module)
    return same and culprit.line in ("", named.line)


def trials(names: Iterable[str]) -> Iterator[tuple[Trial, str]]:
    """All trials, each with its engine."""
    for name in names:
        for trial in bisect_plants.trials(name):
            yield trial, "torch"
        for trial in bisect_files.trials(name):
            yield trial, "strict"


def large() -> list[Row]:
    """A network of more than 500 operators with a fault in its middle, on two engines."""
    model, samples = replace(ARCHITECTURES["gpt2"], amplify={}).build(LARGE)
    base = Healthy("gpt2, large", model, samples[:2], 1e-2)
    trial = next(bisect_plants.drawn(base, ("overflow",), 0))
    return [bisected(trial, engine) for engine in ("torch", "strict")]


def summary(rows: list[Row]) -> Row:
    """How many are exact, and the builds of those with one fault."""
    single = [row for row in rows if len(row["planted"]) == 1]
    return {
        "trials": len(rows),
        "planted": sum(len(row["planted"]) for row in rows),
        "exact": sum(row["exact"] for row in rows),
        "first_exact": sum(row["first_exact"] for row in rows),
        "errors": sum(bool(row["error"]) for row in rows),
        "first_by_all_prefixes": sum(row["scanned"] for row in rows),
        "with_one_fault": len(single),
        "within_bound": sum(row["within"] for row in single),
        "builds_of_one_fault": sorted(row["builds"] for row in single),
        "told_other_builds": sum(row["builds"] != row["builds_told"] for row in rows),
        "seconds": round(sum(row["seconds"] for row in rows), 1),
        "longest": max(row["seconds"] for row in rows),
    }


def recorded() -> list[Row]:
    """The rows of a run that was broken off, or of one that was not."""
    path = RESULTS / "bisecting.json"
    return json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []


def figures(rows: list[Row]) -> Row:
    engines = sorted({row["engine"] for row in rows})
    by_engine = {e: summary([row for row in rows if row["engine"] == e]) for e in engines}
    kinds = sorted({row["plant"] for row in rows})
    by_kind = {k: [row["exact"] for row in rows if row["plant"] == k] for k in kinds}
    names = {row["network"] for row in rows}
    asked = sum(len(b.kinds(name)) for b in (bisect_plants, bisect_files) for name in names)
    left_out = asked - len(rows)
    return {
        "summary": summary(rows),
        "not_drawn": left_out,
        "by_engine": by_engine,
        "exact_by_kind": {k: f"{sum(found)} of {len(found)}" for k, found in by_kind.items()},
    }


def measured(name: str) -> list[Row]:
    """The rows of one network, printed as they come."""
    rows: list[Row] = []
    for trial, engine in trials([name]):
        rows.append(bisected(trial, engine))
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main(arguments: Sequence[str]) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)  # small networks gain nothing from more
    names = [name for name in arguments if name in NETWORKS]
    rows = recorded() if "--resume" in arguments else []
    for name in names or NETWORKS:
        if any(row["network"] == name for row in rows):
            continue
        rows += measured(name)
        if not names:
            record("bisecting", COMMAND, {**figures(rows), "rows": rows})
    print(json.dumps(figures(rows), indent=1))
    if not names:
        record("bisecting", COMMAND, {**figures(rows), "large": large(), "rows": rows})


if __name__ == "__main__":
    main(sys.argv[1:])
