"""ONNX files of real sizes: user time, peak memory and forward passes, beside AutoCast.

Run as ``python -m bench.onnx_sizes`` after ``make peers``. Each network of bench/real_sizes.py is
exported by torch.onnx, its constants beside it and, as another file, inside of it. Each tool fixes
it and writes what it has made, in a process of its own, with 1, 4 and 16 samples, which are the
same for both. What they wrote is judged by bench/judge.py, which does not know either, on a sample
that neither has seen. Beside them stands one forward pass in ONNX Runtime with its defaults, its
seconds and what it adds to the memory of imports.

- `over_autocast`: user time of the whole process, over that of AutoCast; `cpu_over_autocast` has
  the system's time as well, much of which is for pages of memory.
- `peak_over_file`: peak resident memory, less that of imports, over the file and the largest
  activation (what any tool has to hold that runs the network).
- `total_over_forward`: CPU seconds without imports, over those of one forward pass for each sample
  on three lanes: FP32, FP16 and the floor.
- `inspect`: CPU seconds of `halfsafe.inspect` over those of one forward pass: with one sample,
  opening the file included, and for each sample more, on three lanes and in FP32 alone.

With names as arguments only these are run, and nothing is recorded.
"""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import gc
import json
import logging
import shutil
import statistics
import subprocess
import sys
import tempfile
import warnings
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from bench import judge
from bench.onnx_accuracy import export
from bench.onnx_peers import AUTOCAST, ENVIRONMENTS
from bench.real_sizes import SIZES
from bench.record import record

COMMAND = "python -m bench.onnx_sizes"
RUN = Path(__file__).with_name("peer_run.py")
TOOLS = ("halfsafe", AUTOCAST)
COUNTS = (1, 4, 16)
INSPECTED = 4
LIMIT = 1800
"""Seconds that a tool may take."""

FORWARD = """
import json, sys, time
import numpy as np, onnxruntime

def mib(key):
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1024

imported = mib("VmRSS")
run = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
sample = dict(np.load(sys.argv[2]))
run.run(None, sample)
taken = []
for _ in range(5):
    start = time.process_time()
    run.run(None, sample)
    taken.append(time.process_time() - start)
print(json.dumps([min(taken), mib("VmHWM") - imported]))
"""

INSPECT = """
import json, sys, time
import numpy as np, halfsafe
path, *given = sys.argv[1:]
samples = [dict(np.load(p)) for p in given]
halfsafe.inspect(path, samples[:1])
found = {}
for key, only in ("lanes", False), ("ranges_only", True):
    taken = []
    for count in 1, len(samples):
        start = time.process_time()
        halfsafe.inspect(path, samples[:count], ranges_only=only)
        taken.append(time.process_time() - start)
    found[key] = [taken[0], (taken[1] - taken[0]) / (len(samples) - 1)]
print(json.dumps(found))
"""

Row = dict[str, Any]


def python(*command: str, tool: str = "halfsafe") -> Any:
    """The last line that a process prints, as JSON; its last line on stderr where it fails."""
    interpreter = str(ENVIRONMENTS.get(tool, sys.executable))
    try:
        done = subprocess.run(
            [interpreter, *command], capture_output=True, text=True, timeout=LIMIT, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"over {LIMIT} s"}
    if done.returncode:
        return {"error": (done.stderr.strip() or "no message").splitlines()[-1][:200]}
    return json.loads(done.stdout.splitlines()[-1])


def written(name: str, folder: Path) -> tuple[Path, list[Path]]:
    """A network as a file with its constants beside it, and samples, the last for the judge."""
    model, samples = SIZES[name].build(max(COUNTS) + 1)
    path = folder / f"{name.replace('/', '-').replace(' ', '-')}.onnx"
    export(model, samples[0], path)
    paths: list[Path] = []
    for i, sample in enumerate(samples):
        paths.append(folder / f"{i:02}.npz")
        np.savez(paths[-1], allow_pickle=False, **{k: v.numpy() for k, v in sample.items()})
    return path, paths


def largest_activation(model: onnx.ModelProto) -> int:
    """Bytes of the largest value that is computed, as the file states its shape."""
    held = {tensor.name for tensor in model.graph.initializer}
    return max(
        4 * prod(d.dim_value for d in value.type.tensor_type.shape.dim)
        for value in (*model.graph.value_info, *model.graph.output)
        if value.name not in held
    )


def convert(tool: str, path: Path, samples: list[Path], folder: Path) -> Row:
    """What a tool has taken, and what is said of what it wrote."""
    given, made = folder / "given", folder / "made.onnx"
    given.mkdir()
    for sample in samples[:-1]:
        shutil.copy(sample, given)
    found = python(str(RUN), tool, str(path), str(given), str(made), tool=tool)
    shutil.rmtree(given)
    if made.exists():
        unseen = dict(np.load(samples[-1]))
        judged = judge.judge_onnx(onnx.load(path), onnx.load(made), [unseen])
        found |= {"judge": judged.verdict, "error_by_judge": judged.error}
        for left in folder.glob("made.onnx*"):
            left.unlink()
    gc.collect()
    return found


def measure(name: str, folder: Path) -> list[Row]:
    beside, samples = written(name, folder)
    model = onnx.load(beside)
    inside = folder / f"inside-{beside.name}"
    onnx.save(model, inside)
    activation = largest_activation(model)
    del model
    passed = python("-c", FORWARD, str(beside), str(samples[0]))
    assert isinstance(passed, list), passed
    forward, added = passed
    looked = python("-c", INSPECT, str(beside), *map(str, samples[:INSPECTED]))
    rows: list[Row] = []
    for path, count in [(beside, n) for n in COUNTS] + [(inside, COUNTS[0])]:
        size = inside.stat().st_size
        place = "inside" if path is inside else "beside"
        row: Row = {"network": name, "samples": count, "constants": place}
        row["file_mib"] = round(size / 2**20, 1)
        row["largest_activation_mib"] = round(activation / 2**20, 1)
        row["forward_cpu_seconds"] = round(forward, 3)
        row["forward_mib_added"] = round(added, 1)
        for tool in TOOLS:
            row[tool] = convert(tool, path, [*samples[:count], samples[-1]], folder)
        ours, theirs = (row[tool] for tool in TOOLS)
        if "cpu_seconds" in ours and "cpu_seconds" in theirs:
            for kind, key in ("user", "over_autocast"), ("cpu", "cpu_over_autocast"):
                mine, other = (t[f"{kind}_seconds_with_start"] for t in (ours, theirs))
                row[key] = round(mine / other, 3)
        for tool in TOOLS:
            if "mib_added" in row[tool]:
                whole = (size + activation) / 2**20
                row[tool]["peak_over_file"] = round(row[tool]["mib_added"] / whole, 3)
        if "cpu_seconds" in ours:
            row["total_over_forward"] = round(ours["cpu_seconds"] / (3 * count * forward), 2)
        if not rows and "error" not in looked:
            row["inspect"] = {k: [round(t / forward, 2) for t in v] for k, v in looked.items()}
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def _ratios(rows: list[Row], samples: int) -> list[float]:
    return [r["over_autocast"] for r in rows if r["samples"] == samples and "over_autocast" in r]


def summary(rows: list[Row]) -> Row:
    over = {
        name: [row[name] for row in rows if name in row]
        for name in ("over_autocast", "cpu_over_autocast")
    }
    by_samples = {
        f"median_over_autocast_{n}": round(statistics.median(found), 3)
        for n in COUNTS
        if (found := _ratios(rows, n))
    }
    peaks = {
        tool: [row[tool]["peak_over_file"] for row in rows if "peak_over_file" in row[tool]]
        for tool in TOOLS
    }
    totals = [row["total_over_forward"] for row in rows if "total_over_forward" in row]
    looks = [row["inspect"] for row in rows if "inspect" in row]
    inspecting = looks and {
        key: [statistics.median(look[key][i] for look in looks) for i in range(2)]
        for key in ("lanes", "ranges_only")
    }
    judged = {tool: [row[tool].get("judge", "error") for row in rows] for tool in TOOLS}
    return {
        **{f"median_{name}": round(statistics.median(found), 3) for name, found in over.items()},
        **{f"max_{name}": max(found) for name, found in over.items()},
        **by_samples,
        "max_peak_over_file": {tool: max(found) for tool, found in peaks.items()},
        "median_total_over_forward": statistics.median(totals),
        "max_total_over_forward": max(totals),
        "median_inspect_over_forward": inspecting,
        "right_by_judge": {tool: f"{v.count('right')} of {len(v)}" for tool, v in judged.items()},
    }


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    rows: list[Row] = []
    for name in sys.argv[1:] or SIZES:
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(name, Path(folder))
    found = summary(rows)
    print(json.dumps(found, indent=1))
    if not sys.argv[1:]:
        record("onnx_sizes", COMMAND, {"summary": found, "rows": rows})


if __name__ == "__main__":
    main()
