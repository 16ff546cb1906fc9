"""FP16 converters of ONNX files side by side: what breaks, how wrong it is, what stays in FP32.

Run as ``python -m bench.onnx_peers`` after ``make peers``. All tools get the same amplified files
and samples, each in a process of its own, and write a file. These are run strictly, node by node,
so that every value is rounded as it is stored: ONNX Runtime's CPU provider computes in FP32 between
FP16 nodes of a whole model, and so hides overflow from tools that check themselves with it. A
result is safe if nothing is nonfinite and the error is at most four times the floor. With names of
architectures as arguments only these are run, and nothing is recorded.
"""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

import halfsafe
from bench.architectures import ARCHITECTURES
from bench.onnx_accuracy import export
from bench.peer_macs import left
from bench.peer_run import TOOLS
from bench.record import record

COMMAND = "python -m bench.onnx_peers"
RUN = Path(__file__).with_name("peer_run.py")
AUTOCAST = "modelopt.onnx.autocast"
ENVIRONMENTS = {AUTOCAST: Path(".venv-autocast/bin/python")}
"""Tools whose pinned packages do not go together with ours."""

LIMIT = 120
"""Seconds that a tool may take for a file."""

TIMES = ("seconds", "seconds_with_start", "cpu_seconds", "cpu_seconds_with_start")
"""With and without the start of Python and imports; the clock also counts other processes' work."""

Row = dict[str, Any]


def convert(tool: str, path: Path, samples: Path, made: Path) -> Row:
    """What one tool took for one file; an error of the tool is its result."""
    python = str(ENVIRONMENTS.get(tool, sys.executable))
    command = [python, str(RUN), tool, str(path), str(samples), str(made)]
    start = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"time limit of {LIMIT} s"}
    seconds = round(time.perf_counter() - start, 3)
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        return {"error": f"exit status {done.returncode}: {last[:160]}"}
    return {**json.loads(done.stdout.splitlines()[-1]), "seconds_with_start": seconds}


def judge(path: Path, made: Path, feeds: Row) -> Row:
    """A made file, run strictly on a sample that no tool has seen."""
    try:
        model = ir.load(made)
        found = left(model, feeds)
        proof = halfsafe.verify(path, model, feeds)
    except halfsafe.HalfsafeError as error:
        return {"error": f"does not run: {str(error)[:160]}"}
    ratio = None if proof.after_nonfinite else round(proof.ratio, 3)
    return {"safe": proof.safe, "nonfinite": proof.after_nonfinite, "ratio": ratio, **found}


def measure(name: str, folder: Path) -> Row:
    """All tools on one architecture."""
    model, samples = ARCHITECTURES[name].build()
    path, calibration = folder / f"{name}.onnx", folder / name
    export(model, samples[0], path)
    feeds = [{key: x.numpy() for key, x in sample.items()} for sample in samples]
    calibration.mkdir()
    for i, feed in enumerate(feeds[:-1]):
        np.savez(calibration / f"{i}.npz", allow_pickle=False, **feed)
    row: Row = {"architecture": name}
    for tool in TOOLS:
        made = folder / f"{name}.{tool}.onnx"
        found = convert(tool, path, calibration, made)
        row[tool] = found if "error" in found else {**found, **judge(path, made, feeds[-1])}
    return row


def summary(tool: str, rows: list[Row]) -> Row:
    results: list[Row] = [row[tool] for row in rows]
    ran = [r for r in results if "safe" in r]

    def over(figure: Callable[..., Any], field: str, among: list[Row]) -> Any:
        values = [r[field] for r in among if field in r]
        return round(figure(values), 4) if values else None

    return {
        "version": next((r["version"] for r in results if "version" in r), None),
        "safe": sum(r["safe"] for r in ran),
        "nonfinite": sum(r["nonfinite"] > 0 for r in ran),
        "wrong": sum(not r["safe"] and r["nonfinite"] == 0 for r in ran),
        "errors": {r["architecture"]: r[tool]["error"] for r in rows if "error" in r[tool]},
        "float32_operators": sum(r["float32_operators"] for r in ran),
        "median_share_nodes_float32": over(statistics.median, "share_nodes_float32", ran),
        "median_share_macs_float32": over(statistics.median, "share_macs_float32", ran),
        "max_share_macs_float32": over(max, "share_macs_float32", ran),
        "casts_inside": sum(r["casts_inside"] for r in ran),
        "max_casts_inside": over(max, "casts_inside", ran),
        **{field: over(sum, field, results) for field in TIMES},
        "max_mib_peak": over(max, "mib_peak", results),
        "max_mib_added": over(max, "mib_added", results),
    }


def slower(rows: list[Row], field: str) -> dict[str, list[float]]:
    """Files that take halfsafe longer than AutoCast, with the seconds of both."""
    pairs = {r["architecture"]: [r[t].get(field) for t in ("halfsafe", AUTOCAST)] for r in rows}
    return {name: [a, b] for name, (a, b) in pairs.items() if a and b and a > b}


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    missing = [str(python) for python in ENVIRONMENTS.values() if not python.exists()]
    if missing:
        raise SystemExit(f"there is no {missing[0]}: run `make peers` first")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[1:] or ARCHITECTURES:
            rows.append(measure(name, Path(folder)))
            print(json.dumps(rows[-1]), flush=True)
    found = {tool: summary(tool, rows) for tool in TOOLS}
    late = {field: slower(rows, field) for field in TIMES}
    print(json.dumps({"summary": found, "slower_than_autocast": late}, indent=1))
    if not sys.argv[1:]:
        figures = {"files": len(rows), "summary": found, "slower_than_autocast": late, "rows": rows}
        record("onnx_peers", COMMAND, figures)


if __name__ == "__main__":
    main()
