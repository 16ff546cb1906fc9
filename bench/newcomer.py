"""What a newcomer has to do, timed: from `pip install` in an empty environment to a fixed model.

    make dist      # builds a wheel and an sdist, and runs this on them

Each extra is installed by itself into an environment of its own, its console command is run, and,
where there is a kind of model that it is for, one is fixed: an ONNX file out of a package, or a
directory that `save_pretrained` has written. A newcomer's commands are two: install, fix. How long
downloads take depends on the network and on pip's cache, which `--no-cache-dir` leaves out.
"""

# pyright: basic

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.record import record

EXTRAS = ("", "onnx", "torch", "huggingface", "tensorrt", "openvino", "images", "report")
CONSTRAINTS = Path("constraints.txt").resolve()
"""Which build of torch is taken is the newcomer's choice; here the one for CPUs."""


class Environment:
    """A virtual environment with nothing in it but pip."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        self.folder, self.commands = folder, 0

    def run(self, program: str, *arguments: object, within: Path | None = None) -> str:
        """What a program of the environment prints. Raises RuntimeError with what it says."""
        command = [str(self.folder / "bin" / program), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=within)
        self.commands += 1
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1]
            raise RuntimeError(f"{program} {' '.join(map(str, arguments))}: {last}")
        return done.stdout

    def install(self, wheel: Path, extra: str) -> None:
        named = f"{wheel}[{extra}]" if extra else str(wheel)
        quiet = ("--quiet", "--disable-pip-version-check", "--no-cache-dir", "-c", CONSTRAINTS)
        self.run("pip", "install", *quiet, named)


def detector(place: Path) -> list[object]:
    """PP-OCRv4's text detector, which plain FP16 turns into zeros, and three pages."""
    from examples.ocr.detector import drawn, file

    (place / "pages").mkdir()
    for i, page in enumerate(drawn(3)):
        np.savez(place / "pages" / f"{i}.npz", **page)
    model = shutil.copy(file(), place / "detector.onnx")
    return [model, "--samples", place / "pages"]


def checkpoint(place: Path) -> list[object]:
    """A T5 that FP16 breaks."""
    make = ("-m", "bench.directories", "make", "t5_gated_tied", str(place / "t5"))
    subprocess.run([sys.executable, *make], check=True, capture_output=True)
    return [place / "t5"]


JOBS: dict[str, tuple[Callable[[Path], list[object]], str]] = {
    "onnx": (detector, "fixed.onnx"),
    "huggingface": (checkpoint, "t5-fp16"),
    "tensorrt": (detector, "fixed.engine"),
}
"""For an extra: the model that a newcomer holds, and what they want."""


def measured(extra: str, wheel: Path, place: Path) -> dict[str, Any]:
    """One extra: installed, asked for its version and what it finds, and put to its job."""
    environment = Environment(place / "venv")
    job = JOBS.get(extra)
    model = job[0](place) if job else None
    start = time.perf_counter()
    environment.commands = 0
    environment.install(wheel, extra)
    row: dict[str, Any] = {"extra": extra, "of": wheel.suffix}
    row["install_seconds"] = round(time.perf_counter() - start, 1)
    if model is not None and job is not None:
        fixing = time.perf_counter()
        environment.run("halfsafe", "fix", *model, "-o", place / job[1], within=place)
        row["fix_seconds"] = round(time.perf_counter() - fixing, 1)
        row["seconds"] = round(time.perf_counter() - start, 1)
        row["commands"] = environment.commands
        assert (place / job[1]).exists()
    row["says"] = environment.run("halfsafe", "--version").strip()
    found = json.loads(environment.run("halfsafe", "doctor", "--json"))
    row["runs_here"] = [each["engine"] for each in found["engines"] if not each["needs"]]
    return row


def main() -> None:
    built = Path(sys.argv[1] if len(sys.argv) > 1 else "dist").resolve()
    (wheel,) = built.glob("*.whl")
    (source,) = built.glob("*.tar.gz")
    rows: list[dict[str, Any]] = []
    for extra, package in [*((extra, wheel) for extra in EXTRAS), ("", source)]:
        with tempfile.TemporaryDirectory() as place:
            rows.append(measured(extra, package, Path(place)))
        print(json.dumps(rows[-1]), flush=True)
    sizes = {package.suffix: package.stat().st_size for package in (wheel, source)}
    record("newcomer", "make dist", {"bytes": sizes, "rows": rows})


if __name__ == "__main__":
    main()
