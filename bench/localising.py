"""Who finds a planted fault: halfsafe, Hugging Face's DebugUnderflowOverflow, a hook script.

Run as ``python -m bench.localising``. One fault is planted at a random module of each architecture
(see bench/plants.py), once for each kind. A tool is right if the one new fault that it names is the
planted one: for halfsafe the kind, the operator, the module and, where the plant has one, the
source line; for tools that know modules only, the module. DebugUnderflowOverflow runs the network
in FP16, as its users do; all others run it in FP32. Only `inspect` can tell an absorbed overflow
from another, so that an overflow will do for `watch`. Seconds are those of all networks and plants
together, beside a plain pass; for time and memory on a network of real size see bench/measuring.py.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.debug_utils import DebugUnderflowOverflow

import halfsafe
from bench.architectures import ARCHITECTURES, Architecture
from bench.plants import PLANTS, Case, plant
from bench.record import record

COMMAND = "python -m bench.localising"
SAMPLES = 2

Samples = list[dict[str, Tensor]]
Named = Counter[tuple[str, ...]]
"""What a tool names, each as often as it does."""


def inspected(model: nn.Module, samples: Samples) -> Named:
    return _faults(halfsafe.inspect(model, samples))


def watched_operators(model: nn.Module, samples: Samples) -> Named:
    with halfsafe.watch(model, operators=True) as log, torch.no_grad():
        for sample in samples:
            model(**sample)
    return _faults(log.report())


def watched(model: nn.Module, samples: Samples) -> Named:
    with halfsafe.watch(model) as log, torch.no_grad():
        for sample in samples:
            model(**sample)
    return Counter((f.module,) for f in log.report().faults)


def _faults(report: halfsafe.Report) -> Named:
    return Counter((str(f.kind), f.op, f.module, f.line) for f in report.faults)


def debugged(model: nn.Module, samples: Samples) -> Named:
    """The module of the last frame that DebugUnderflowOverflow prints when it stops."""
    half = model.half()
    DebugUnderflowOverflow(half, max_frames_to_save=1)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(Exception), torch.no_grad():
        for sample in samples:
            half(**{k: x.half() if x.is_floating_point() else x for k, x in sample.items()})
    text = printed.getvalue().partition("Detected inf/nan")[2]
    frames = re.findall(r"^ {17} (\S*) \w+$", text, re.MULTILINE)
    return Counter([(frames[-1],)] if frames else [])


def hooked(model: nn.Module, samples: Samples) -> Named:
    """The script that people write: the first module whose output is beyond 65504."""
    found: list[str] = []

    def hook(name: str) -> Callable[..., None]:
        def look(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor) and float(output.abs().max()) > 65504:
                found.append(name)

        return look

    handles = [m.register_forward_hook(hook(n)) for n, m in model.named_modules()]
    with torch.no_grad():
        for sample in samples:
            model(**sample)
    for handle in handles:
        handle.remove()
    return Counter([(found[0],)] if found else [])


def plain(model: nn.Module, samples: Samples) -> Named:
    """No tool at all, to compare seconds with."""
    with torch.no_grad():
        for sample in samples:
            model(**sample)
    return Counter()


INSPECT, OPERATORS = "halfsafe.inspect", "halfsafe.watch, operators"
DEBUG = "DebugUnderflowOverflow"

TOOLS: dict[str, Callable[[nn.Module, Samples], Named]] = {
    INSPECT: inspected,
    OPERATORS: watched_operators,
    "halfsafe.watch": watched,
    DEBUG: debugged,
    "hook script": hooked,
    "plain pass": plain,
}


def is_named(case: Case, new: Named, tool: str) -> tuple[bool, int]:
    """Whether the planted fault is named, and how many others are."""
    exact = tool in (INSPECT, OPERATORS)

    def right(found: tuple[str, ...]) -> bool:
        if not exact:
            return found[0] == case.module
        kind, op, module, line = found
        return (
            kind in (case.kind, "overflow" if tool != INSPECT and case.kind == "absorbed" else "")
            and module == case.module
            and op in _SPELLINGS.get(case.op, (case.op,))
            and line in (case.line or line,)
        )

    named = sum(n for found, n in new.items() if right(found))
    return named == 1, sum(new.values()) - named


_SPELLINGS = {
    "aten.linear": ("aten.linear", "aten.addmm", "aten.mm"),
    "aten.conv2d": ("aten.conv2d", "aten.convolution"),
    "aten.layer_norm": ("aten.layer_norm", "aten.native_layer_norm"),
    "aten.batch_norm": ("aten.batch_norm", "aten.native_batch_norm"),
    "aten.group_norm": ("aten.group_norm", "aten.native_group_norm"),
}
"""What an operator is called in an exported graph, and what eager PyTorch runs for it."""


def healthy(architecture: Architecture) -> tuple[nn.Module, Samples]:
    """The network not amplified, and samples without padding: rows masked whole are NaN in FP16."""
    return unpadded(replace(architecture, amplify={}))


def unpadded(architecture: Architecture) -> tuple[nn.Module, Samples]:
    """A network, and a few samples without padding."""
    model, samples = architecture.build()
    for sample in samples:
        if "attention_mask" in sample:
            sample["attention_mask"] = torch.ones_like(sample["attention_mask"])
    return model, samples[:SAMPLES]


def localise(names: Iterable[str]) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """A row for every plant, and the seconds that each tool has taken for all of them."""
    rows: list[dict[str, Any]] = []
    seconds: dict[str, float] = defaultdict(float)

    def run(tool: str, model: nn.Module, samples: Samples) -> Named:
        model = copy.deepcopy(model)
        start = time.perf_counter()
        named = TOOLS[tool](model, samples)
        seconds[tool] += time.perf_counter() - start
        return named

    for seed, name in enumerate(names):
        model, samples = healthy(ARCHITECTURES[name])
        clean = {tool: run(tool, model, samples) for tool in TOOLS}
        for kind in PLANTS:
            case = plant(model, samples, kind, seed)
            if case is None:
                continue
            row: dict[str, Any] = {"architecture": name, "plant": kind, "module": case.module}
            for tool in TOOLS:
                new = run(tool, case.model, samples) - clean[tool]
                row[tool] = is_named(case, new, tool)
            rows.append(row)
            print(*row.values(), flush=True)
    return rows, {tool: round(taken, 1) for tool, taken in seconds.items()}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """For each tool how many plants it names alone or among others, and how many others."""
    return {
        tool: {
            "named": sum(row[tool][0] for row in rows),
            "named_by_kind": dict(Counter(row["plant"] for row in rows if row[tool][0])),
            "others_named": sum(row[tool][1] for row in rows),
        }
        for tool in TOOLS
        if tool != "plain pass"
    }


def main(arguments: Sequence[str]) -> None:
    """With the names of tools, these alone; then nothing is recorded."""
    for tool in set(TOOLS).difference(arguments or TOOLS):
        del TOOLS[tool]
    rows, seconds = localise(ARCHITECTURES)
    found = {
        "plants": len(rows),
        "plants_by_kind": dict(Counter(row["plant"] for row in rows)),
        "tools": summary(rows),
        "seconds": seconds,
    }
    print(json.dumps(found, indent=1))
    if not arguments:
        record("localising", COMMAND, {**found, "rows": rows})


if __name__ == "__main__":
    main(sys.argv[1:])
