"""One conversion by one tool: ``python peer_run.py TOOL MODEL SAMPLES MADE``.

A process of its own, so that time and memory are counted alike for all. SAMPLES is a folder of .npz
files, one a sample. The last line printed is JSON: seconds without imports, on the clock and of the
CPU; those of the whole process, and the user's part of them; peak resident memory and what the
conversion added to that of the imports; and the tool's error if it has one. What a tool imports
late is imported before the clock starts. The script runs in the environments of all tools, and so
imports only what its tool brings. Linux only.
"""

# pyright: reportMissingImports=false, reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnusedImport=false

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

Convert = Callable[[Path, Path, Path], None]
"""Reads a model and a folder of samples, and writes a model."""


def feeds_in(folder: Path) -> list[dict[str, Any]]:
    import numpy as np

    return [dict(np.load(path)) for path in sorted(folder.glob("*.npz"))]


def ours() -> Convert:
    import halfsafe
    import halfsafe.frontends.onnx.source

    def convert(model: Path, samples: Path, made: Path) -> None:
        halfsafe.fix(model, feeds_in(samples)).save(made)

    return convert


def runtime() -> Convert:
    import onnx
    from onnxruntime.transformers import float16

    def convert(model: Path, samples: Path, made: Path) -> None:
        found = float16.convert_float_to_float16(onnx.load(model), keep_io_types=True)
        onnx.save(found, made)

    return convert


def common() -> Convert:
    import onnx
    from onnxconverter_common import float16

    def convert(model: Path, samples: Path, made: Path) -> None:
        found = float16.convert_float_to_float16(onnx.load(model), keep_io_types=True)
        onnx.save(found, made)

    return convert


def searching() -> Convert:
    """With the one sample that it takes and the tolerances of its documentation."""
    import onnx
    import onnxruntime  # noqa: F401
    from onnxconverter_common import auto_mixed_precision

    def convert(model: Path, samples: Path, made: Path) -> None:
        found = auto_mixed_precision.auto_convert_mixed_precision(
            onnx.load(model), feeds_in(samples)[0], rtol=0.01, atol=0.001, keep_io_types=True
        )
        onnx.save(found, made)

    return convert


def autocast() -> Convert:
    """With its defaults, as its command line runs it."""
    import polygraphy.backend.onnxrt
    import polygraphy.comparator  # noqa: F401
    from modelopt.onnx.autocast import convert_to_mixed_precision
    from modelopt.onnx.utils import save_onnx

    def convert(model: Path, samples: Path, made: Path) -> None:
        found = convert_to_mixed_precision(
            str(model),
            low_precision_type="fp16",
            keep_io_types=True,
            calibration_data=str(samples),
            providers=["cpu"],
        )
        save_onnx(found, str(made))

    return convert


TOOLS: dict[str, tuple[str, Callable[[], Convert]]] = {
    "halfsafe": ("halfsafe", ours),
    "onnxruntime.transformers.float16": ("onnxruntime", runtime),
    "onnxconverter_common.float16": ("onnxconverter-common", common),
    "onnxconverter_common.auto_mixed_precision": ("onnxconverter-common", searching),
    "modelopt.onnx.autocast": ("nvidia-modelopt", autocast),
}
"""By name: the package, and what imports it."""


def peak_resident() -> float:
    """Of this process, in MiB; ru_maxrss would count the process that started it as well."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return round(int(next(x for x in lines if x.startswith("VmHWM")).split()[1]) / 1024, 1)


def main(tool: str, model: str, samples: str, made: str) -> None:
    package, load = TOOLS[tool]
    convert = load()
    found: dict[str, Any] = {"version": version(package)}
    before = peak_resident()
    start, work = time.perf_counter(), time.process_time()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            convert(Path(model), Path(samples), Path(made))
    except Exception as error:
        text = (str(error).strip() or "no message").splitlines()[0]
        found["error"] = f"{type(error).__name__}: {text[:160]}"
    peak = peak_resident()
    found |= {
        "seconds": round(time.perf_counter() - start, 3),
        "cpu_seconds": round(time.process_time() - work, 3),
        "cpu_seconds_with_start": round(time.process_time(), 3),
        "user_seconds_with_start": round(os.times().user, 3),
        "mib_peak": peak,
        "mib_added": round(peak - before, 1),
    }
    print(f"\n{json.dumps(found)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
