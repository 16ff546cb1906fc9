"""FP16 converters of ONNX files side by side: what breaks, how wrong it is, what stays in FP32.

Run as ``python -m bench.onnx_peers``. All tools get the same amplified files; what they write is
run strictly, node by node, so that every value is rounded as it is stored: ONNX Runtime's CPU
provider computes in FP32 between FP16 nodes of a whole model, and so hides overflow from tools that
check themselves with it. A result is safe if nothing is nonfinite and the error is at most four
times the floor.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from onnxconverter_common import float16 as common_float16
from onnxruntime.transformers import float16 as runtime_float16

import halfsafe
from bench.architectures import ARCHITECTURES
from bench.onnx_accuracy import export, left_in_float32
from bench.record import record

COMMAND = "python -m bench.onnx_peers"

Feeds = list[dict[str, Any]]


def ours(path: Path, feeds: Feeds) -> ir.Model:
    return halfsafe.fix(path, feeds).half()


def runtime(path: Path, feeds: Feeds) -> onnx.ModelProto:
    return runtime_float16.convert_float_to_float16(onnx.load(path), keep_io_types=True)


def common(path: Path, feeds: Feeds) -> onnx.ModelProto:
    return common_float16.convert_float_to_float16(onnx.load(path), keep_io_types=True)


TOOLS: dict[str, Callable[[Path, Feeds], Any]] = {
    "halfsafe": ours,
    "onnxruntime.transformers.float16": runtime,
    "onnxconverter_common.float16": common,
}


def measure(tool: str, path: Path, feeds: Feeds) -> dict[str, Any]:
    """One tool on one file; an error of the tool, or of the checker, is its result."""
    start = time.perf_counter()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            made = TOOLS[tool](path, feeds[:-1])
    except Exception as error:
        return {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:120]}"}
    seconds = round(time.perf_counter() - start, 2)
    model = made if isinstance(made, ir.Model) else ir.from_proto(_typed(made))
    float32, casts = left_in_float32(model)
    left = {
        "float32_operators": float32,
        "share_in_float32": round(float32 / max(len(list(model.graph)), 1), 3),
        "casts_inside": casts,
        "seconds": seconds,
    }
    try:
        proof = halfsafe.verify(path, model, feeds[-1])
    except halfsafe.HalfsafeError as error:
        return {"error": f"does not run: {str(error)[:160]}", **left}
    ratio = None if proof.after_nonfinite else round(proof.ratio, 3)
    return {"safe": proof.safe, "nonfinite": proof.after_nonfinite, "ratio": ratio, **left}


def _typed(model: onnx.ModelProto) -> onnx.ModelProto:
    """With inferred types, so that what is left in FP32 can be counted."""
    with contextlib.suppress(Exception):
        return onnx.shape_inference.infer_shapes(model)
    return model


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for tool in TOOLS:
        results = [row[tool] for row in rows]
        ran = [r for r in results if "safe" in r]
        found[tool] = {
            "safe": sum(r["safe"] for r in ran),
            "nonfinite": sum(r["nonfinite"] > 0 for r in ran),
            "wrong": sum(not r["safe"] and r["nonfinite"] == 0 for r in ran),
            "errors": len(results) - len(ran),
            "float32_operators": sum(r.get("float32_operators", 0) for r in results),
            "casts_inside": sum(r.get("casts_inside", 0) for r in results),
            "seconds": round(sum(r.get("seconds", 0.0) for r in results), 1),
        }
    return found


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ARCHITECTURES:
            model, samples = ARCHITECTURES[name].build()
            path = Path(folder) / f"{name}.onnx"
            export(model, samples[0], path)
            feeds = [{key: x.numpy() for key, x in sample.items()} for sample in samples]
            rows.append({"architecture": name, **{t: measure(t, path, feeds) for t in TOOLS}})
            print(rows[-1], flush=True)
    found = summary(rows)
    print(found)
    record("onnx_peers", COMMAND, {"files": len(rows), "summary": found, "rows": rows})


if __name__ == "__main__":
    main()
