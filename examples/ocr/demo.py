"""The demo: a text detector that people deploy, which finds nothing in FP16 until it is fixed.

``python -m examples.ocr.demo`` writes a picture, the fixed file and a report. FP16 is run strictly,
each value rounded as it is stored, by bench/judge.py, which shares no code with halfsafe.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from PIL import Image
from rich.console import Console
from rich.table import Table

import halfsafe
from examples.ocr.candidates import CONVERTERS, Left, left, strict, whole
from examples.ocr.decode import matched, overlap, words
from examples.ocr.detector import PICTURE, Feeds, drawn, file, pixels
from examples.pictures import Box, panel, sheet
from halfsafe.report.text import renderable

Array = np.ndarray[Any, Any]

SHOWN = ("FP32", "FP16 before", "onnxruntime.transformers", "FP16 after halfsafe")
"""What the picture shows; the table has all."""


@dataclass(frozen=True)
class Outcome:
    """One file on the picture: the map of a strict run, and that of ONNX Runtime as it is."""

    text: Array
    runtime: Array
    boxes: list[Box]
    left: Left | None


def outcomes(fixed: onnx.ModelProto, feeds: Feeds, size: tuple[int, int]) -> dict[str, Outcome]:
    """The detector in FP32, as converters make it FP16, and as halfsafe does."""
    detector = onnx.load(file())
    (text,) = whole(detector, feeds)
    made = {name: convert(detector) for name, convert in CONVERTERS.items()}
    ran = {"FP32": Outcome(text, text, words(text, size), None)}
    for name, model in {**made, "FP16 after halfsafe": fixed}.items():
        (text,), (runtime,) = strict(model, feeds), whole(model, feeds)
        ran[name] = Outcome(text, runtime, words(text, size), left(model))
    return ran


def table(outcomes: dict[str, Outcome]) -> Table:
    """Words and masks of each file beside those of FP32; in ONNX Runtime as well."""
    shown = Table(title="Text found, FP16 run value by value", title_justify="left", box=None)
    shown.add_column("")
    for head in ("words", "right", "IoU", "IoU in ORT", "in FP32", "Casts"):
        shown.add_column(head, justify="right")
    reference = outcomes["FP32"]
    for name, outcome in outcomes.items():
        masks = [f"{overlap(a, reference.text):.4f}" for a in (outcome.text, outcome.runtime)]
        kept = [str(outcome.left.float32), str(outcome.left.casts)] if outcome.left else ["all", ""]
        right = matched(outcome.boxes, reference.boxes)
        shown.add_row(name, str(len(outcome.boxes)), str(right), *masks, *kept)
    return shown


def panels(picture: Image.Image, outcomes: dict[str, Outcome]) -> list[Image.Image]:
    """The picture with what each file finds in it."""
    return [
        panel(picture, outcome.text[0, 0], outcome.boxes, f"{name}: {len(outcome.boxes)} words")
        for name, outcome in outcomes.items()
    ]


def cause(report: halfsafe.Report) -> str:
    """The worst fault in one line: what, where and by how much."""
    fault = report.faults[0]
    reader = f" of {', '.join(fault.exits)}" if fault.exits else ""
    size = f"{fault.amax:.3g}, {fault.excess} bits beyond FP16"
    return f"{fault.kind}: {fault.value}{reader} is {size}; the output is {fault.outcome}"


def broken_and_fixed(
    samples: Sequence[Feeds], console: Console
) -> tuple[halfsafe.Report, halfsafe.Fixed]:
    """What is wrong with the detector, on one drawn picture, and the detector mended."""
    with console.status("looking for what FP16 breaks"):
        report = halfsafe.inspect(file(), samples[0])
    with console.status("fixing"):
        return report, halfsafe.fix(file(), samples)


def main() -> int:
    """Command line; exit status 0 when the fixed detector is safe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("--out", type=Path, default=Path("demo-out"))
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    console, start = Console(), time.perf_counter()

    picture = Image.open(arguments.picture).convert("RGB")
    feeds = pixels(picture)
    report, fixed = broken_and_fixed([*drawn(2), feeds], console)
    fixed.save(out / "ocr_fp16.onnx")
    with console.status("running FP32 and FP16, before and after"):
        ran = outcomes(onnx.load(out / "ocr_fp16.onnx"), feeds, picture.size)
    sheet(panels(picture, {name: ran[name] for name in SHOWN}), 2).save(out / "ocr.png")
    fixed.report.save(out / "ocr.json")
    fixed.report.html(out / "ocr.html")

    console.print(renderable(fixed.report))
    console.print(f"\nCause  {cause(report)}\n", highlight=False)
    console.print(table(ran))
    console.print(f"\n{time.perf_counter() - start:.0f} s. Look at {out}/ocr.png")
    console.print(f"Next: open {out}/ocr.html in a browser", style="dim")
    return 0 if fixed.report.safe else 1


if __name__ == "__main__":
    sys.exit(main())
