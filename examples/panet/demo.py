"""The demo: a text detector that FP16 breaks, found, fixed and proved.

``python -m examples.panet.demo`` reads a picture and writes a PNG and a report.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from torch import Tensor, nn

import halfsafe
from examples.panet.decode import score_map, words
from examples.panet.model import PAN, load
from examples.panet.symmetry import overflowing
from examples.panet.text import normalise, render
from examples.pictures import panel, sheet
from halfsafe.report.text import renderable

PICTURE = Path(__file__).with_name("sample.png")


def run(model: nn.Module, image: Tensor) -> Tensor:
    """Logits [1, 6, H/4, W/4] in the precision of the image."""
    with torch.no_grad():
        return model(image)


def title(name: str, logits: Tensor) -> str:
    """A panel's heading: what was run, and how many words it finds."""
    broken = 100.0 * float((~torch.isfinite(logits)).float().mean())
    return f"{name}: {broken:.0f} % NaN" if broken else f"{name}: {len(words(logits))} words"


def detector(picture: Path = PICTURE) -> tuple[PAN, list[tuple[Tensor]]]:
    """The overflowing detector and its samples: two renders, and the picture, which is held out."""
    image = Image.open(picture).convert("RGB")
    drawn = [normalise(render(i, image.width, image.height).image) for i in (1, 2)]
    return overflowing(load()), [(x,) for x in (*drawn, normalise(image))]


def main() -> int:
    """Command line; exit status 0 when the fixed detector is safe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("--out", type=Path, default=Path("demo-out"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    console, start = Console(), time.perf_counter()

    picture = Image.open(arguments.picture).convert("RGB")
    model, samples = detector(arguments.picture)
    (image,) = samples[-1]
    with console.status("fixing"):
        fixed = halfsafe.fix(model, samples)
    with console.status("running FP32 and FP16, before and after"):
        outputs = {
            "FP32": run(model, image),
            "FP16 before": run(copy.deepcopy(model).half(), image.half()),
            "FP16 after halfsafe": run(fixed.half(), image.half()),
        }

    panels = [panel(picture, score_map(y), words(y), title(name, y)) for name, y in outputs.items()]
    sheet(panels, len(panels)).save(arguments.out / "maps.png")
    fixed.report.save(arguments.out / "report.json")
    fixed.report.html(arguments.out / "report.html")
    console.print(renderable(fixed.report))
    console.print(f"\n{time.perf_counter() - start:.0f} s. Look at {arguments.out}/maps.png")
    console.print(f"Next: open {arguments.out}/report.html in a browser", style="dim")
    return 0 if fixed.report.safe else 1


if __name__ == "__main__":
    sys.exit(main())
