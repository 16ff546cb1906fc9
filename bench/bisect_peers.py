"""Other tools on files with one planted fault each: what they name, how often they build, how long.

Run as ``python -m bench.bisect_peers`` after ``make peers`` has made the environment of Polygraphy.
The trials of bench/bisect_files.py with one fault. All tools have the same file and sample, and
LIMIT seconds. What is exact: the planted node alone is named.

- `polygraphy debug reduce` with bench/bisect_check.py as its check: each part of the file with its
  real inputs, strictly in FP16 beside FP32, since ONNX Runtime's CPU provider hides what overflows.
  It names the nodes of the file that it is left with. A build is a check.
- `polygraphy debug precision` needs TensorRT and a GPU; what it says without is recorded.
- `auto_mixed_precision` of onnxconverter-common names the nodes that it keeps in FP32. It runs its
  candidates in ONNX Runtime's CPU provider, by the tolerance of the trial. A build is a candidate.
- A script that tries one prefix after the other, strictly: bench/prefixes.py.
"""

# pyright: basic

from __future__ import annotations

import copy
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from bench import bisect_files
from bench.bisect_plants import NETWORKS, Trial
from bench.bisecting import bisected
from bench.judge import fed, session
from bench.prefixes import OnnxPrefixes, first_culprit
from bench.record import record

COMMAND = "python -m bench.bisect_peers"
LIMIT = 180
CONVERTER = "onnxconverter-common"
POLYGRAPHY = Path(".venv-autocast/bin/polygraphy")
ROOT = Path(__file__).parents[1]

Row = dict[str, Any]


def reduce(trial: Trial, folder: Path) -> Row:
    model, values, part, left = (folder / n for n in ("m.onnx", "v.npz", "part.onnx", "left.onnx"))
    onnx.save(trial.model, model)
    np.savez(values, allow_pickle=False, **all_values(trial))
    check = [sys.executable, "-m", "bench.bisect_check", part, values, trial.tolerance]
    options = ["-o", left, "--iter-artifact", part, "--mode", "bisect", "--check", *check]
    told = _polygraphy("reduce", model, options, folder)
    named = [n.name for n in onnx.load(left).graph.node] if left.exists() else []
    return {"named": named, "builds": told.count("Running check command")}


def precision(trial: Trial, folder: Path) -> Row:
    model = folder / "m.onnx"
    onnx.save(trial.model, model)
    options = ["--fp16", "--mode", "bisect", "--check", "false"]
    lines = _polygraphy("precision", model, options, folder).strip().splitlines()
    wrong = [line for line in lines if "Error" in line or line.startswith("[!]")]
    return {"named": [], "builds": 0, "error": (wrong or lines or ["no message"])[-1].strip()[:200]}


def _polygraphy(tool: str, model: Path, options: Sequence[Any], folder: Path) -> str:
    """What a tool prints."""
    command = [POLYGRAPHY.absolute(), "debug", tool, model, *options]
    done = subprocess.run(
        [str(x) for x in command],
        capture_output=True, text=True, timeout=LIMIT, check=False, cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return done.stdout + done.stderr


def polygraphy_version() -> str:
    told = subprocess.run([POLYGRAPHY, "--version"], capture_output=True, text=True, check=True)
    return re.findall(r"\d+[.\d]+", told.stdout)[0]


def all_values(trial: Trial) -> dict[str, Any]:
    """Each value of a file on its first sample, in FP32."""
    wide = copy.deepcopy(trial.model)
    names = [name for node in wide.graph.node for name in node.output if name]
    del wide.graph.output[:]
    wide.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    found = fed(session(wide), trial.samples[0])
    return {**dict(zip(names, found, strict=True)), **trial.samples[0]}


MIXED = """
import sys, numpy, onnx
from onnxconverter_common import auto_mixed_precision
model, sample, tolerance = sys.argv[1:]
def right(reference, found):
    pairs = [(x, y) for x, y in zip(reference, found) if x.dtype.kind == "f"]
    return all(abs(x - y).max() <= float(tolerance) * abs(x).max() for x, y in pairs)
auto_mixed_precision.auto_convert_mixed_precision(
    onnx.load(model), dict(numpy.load(sample)), right, keep_io_types=True
)
"""


def mixed(trial: Trial, folder: Path) -> Row:
    model, sample = folder / "m.onnx", folder / "s.npz"
    onnx.save(trial.model, model)
    np.savez(sample, allow_pickle=False, **trial.samples[0])
    command = [sys.executable, "-c", MIXED, str(model), str(sample), str(trial.tolerance)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    kept = re.findall(r"^Done: \[(.*)\]$", done.stdout, re.MULTILINE)
    found: Row = {
        "named": re.findall(r"'([^']*)'", kept[-1]) if kept else [],
        "builds": done.stdout.count("Running attempt") + len(kept),
    }
    if done.returncode:
        found["error"] = (done.stderr.strip() or "no message").splitlines()[-1][:200]
    return found


def linear(trial: Trial, folder: Path) -> Row:
    del folder
    network = OnnxPrefixes(trial.model, trial.samples)
    found = first_culprit(network, trial.tolerance)
    place = len(network.operators) if found is None else network.operators.index(found) + 1
    return {"named": [found.name] if found else [], "builds": place}


def ours(trial: Trial, folder: Path) -> Row:
    del folder
    found = bisected(trial, "strict")
    named = [name.split(" onnx.")[0] for name in found["named"]]
    return {"named": named, "builds": found["builds"]}


TOOLS: dict[str, Callable[[Trial, Path], Row]] = {
    "halfsafe.bisect": ours,
    "polygraphy debug reduce": reduce,
    "polygraphy debug precision": precision,
    "onnxconverter_common.auto_mixed_precision": mixed,
    "a prefix after the other": linear,
}


def measure(tool: str, trial: Trial) -> Row:
    """What a tool names; of many nodes, the first."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = TOOLS[tool](trial, Path(folder))
        except subprocess.TimeoutExpired:
            found = {"named": [], "builds": None, "error": f"time limit of {LIMIT} s"}
    found["seconds"] = round(time.perf_counter() - start, 2)
    planted = [culprit.name for culprit in trial.culprits]
    found["exact"] = found["named"] == planted
    found["among"] = set(planted) <= set(found["named"])
    found["count"] = len(found["named"])
    return {**found, "named": found["named"][:4]}


def summary(tool: str, rows: list[Row]) -> Row:
    results: list[Row] = [row[tool] for row in rows]
    builds = [r["builds"] for r in results if r["builds"]]
    return {
        "exact": sum(r["exact"] for r in results),
        "among_others": sum(r["among"] and not r["exact"] for r in results),
        "named": sum(r["count"] for r in results),
        "builds": sum(builds),
        "most_builds": max(builds, default=0),
        "seconds": round(sum(r["seconds"] for r in results), 1),
        "errors": sorted({r["error"] for r in results if "error" in r}),
    }


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if not POLYGRAPHY.exists():
        raise SystemExit(f"there is no {POLYGRAPHY}: run `make peers` first")
    rows: list[Row] = []
    for name in sys.argv[1:] or NETWORKS:
        for trial in (t for t in bisect_files.trials(name) if len(t.culprits) == 1):
            head = {"network": name, "plant": trial.kind, "operators": trial.operators}
            rows.append({**head, **{tool: measure(tool, trial) for tool in TOOLS}})
            print(json.dumps(rows[-1]), flush=True)
    found = {tool: summary(tool, rows) for tool in TOOLS}
    print(json.dumps(found, indent=1))
    if not sys.argv[1:]:
        peers = {"polygraphy": polygraphy_version(), "onnxconverter-common": version(CONVERTER)}
        figures = {"peers": peers, "files": len(rows), "limit_s": LIMIT, "summary": found}
        record("bisect_peers", COMMAND, {**figures, "rows": rows})


if __name__ == "__main__":
    main()
