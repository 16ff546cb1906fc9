"""ONNX files of all architectures, fixed: bit-equality, FP16 error over the floor, what is left.

Run as ``python -m bench.onnx_accuracy``. Each network, amplified as in bench/architectures.py, is
exported by torch.onnx with the dynamo exporter and fixed from its file. FP32 is compared under ONNX
Runtime with graph optimisations off and on; FP16 is run strictly, on a sample not measured.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

import halfsafe
from bench.architectures import ARCHITECTURES
from bench.record import record
from halfsafe.frontends.onnx.runtime import session

COMMAND = "python -m bench.onnx_accuracy"


def export(model: nn.Module, sample: dict[str, torch.Tensor], path: Path) -> None:
    """With attention written out where the exporter cannot follow the fused one."""

    def write() -> None:
        torch.onnx.export(model, (), path, kwargs=sample, dynamo=True, verbose=False)

    try:
        write()
    except torch.onnx.errors.OnnxExporterError:
        model.set_attn_implementation("eager")
        write()


def is_bit_equal(a: ir.Model, b: ir.Model, feeds: dict[str, Any], optimised: bool) -> bool:
    pair = (session(m, optimised=optimised).run(None, feeds) for m in (a, b))
    return all(np.array_equal(x, y, equal_nan=True) for x, y in zip(*pair, strict=True))


def left_in_float32(model: ir.Model) -> tuple[int, int]:
    """Operators that give FP32, and Casts that stand neither at an input nor at an output."""
    casts = [node for node in model.graph if node.op_type == "Cast"]
    rim = [
        node
        for node in casts
        if node.outputs[0].is_graph_output() or (node.inputs[0] and node.inputs[0].is_graph_input())
    ]
    inside = [n for n in casts if n not in rim and _between_floats(n)]
    float32 = [n for n in model.graph if any(o.dtype == ir.DataType.FLOAT for o in n.outputs)]
    return sum(node not in rim for node in float32), len(inside)


def _between_floats(cast: ir.Node) -> bool:
    """Whether a Cast changes between float formats; others turn integers into numbers."""
    source = cast.inputs[0]
    floats = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
    return source is not None and source.dtype in floats and cast.outputs[0].dtype in floats


def measure(name: str, folder: Path) -> dict[str, Any]:
    model, samples = ARCHITECTURES[name].build()
    path = folder / f"{name}.onnx"
    export(model, samples[0], path)
    feeds = [{key: x.numpy() for key, x in sample.items()} for sample in samples]
    start = time.perf_counter()
    fixed = halfsafe.fix(path, feeds)
    half = fixed.half()
    seconds = time.perf_counter() - start
    original, proof = ir.load(path), fixed.report.verification
    assert proof is not None
    float32, casts = left_in_float32(half)
    return {
        "architecture": name,
        "nodes": len(fixed.report.graph.nodes),
        "bit_equal": is_bit_equal(original, fixed.model, feeds[-1], optimised=False),
        "bit_equal_optimised": is_bit_equal(original, fixed.model, feeds[-1], optimised=True),
        "before_nonfinite": proof.before_nonfinite,
        "after_nonfinite": proof.after_nonfinite,
        "after": proof.after,
        "floor": proof.floor,
        "ratio": round(proof.ratio, 4),
        "inserted": len(fixed.report.insertions),
        "islands": len(fixed.report.islands),
        "replaced": len(fixed.report.replacements),
        "unresolved": len(fixed.report.conflicts),
        "float32_operators": float32,
        "casts_inside": casts,
        "seconds": round(seconds, 2),
    }


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for name in ARCHITECTURES:
            rows.append(measure(name, Path(folder)))
            print(rows[-1], flush=True)
    ratios = [row["ratio"] for row in rows]
    summary = {
        "architectures": len(rows),
        "bit_equal": sum(row["bit_equal"] for row in rows),
        "bit_equal_optimised": sum(row["bit_equal_optimised"] for row in rows),
        "finite": sum(row["after_nonfinite"] == 0 for row in rows),
        "median_ratio": statistics.median(ratios),
        "worst_ratio": max(ratios),
        "inserted": sum(row["inserted"] for row in rows),
        "float32_operators": sum(row["float32_operators"] for row in rows),
        "casts_inside": sum(row["casts_inside"] for row in rows),
    }
    print(summary)
    record("onnx_accuracy", COMMAND, {"summary": summary, "rows": rows})


if __name__ == "__main__":
    main()
