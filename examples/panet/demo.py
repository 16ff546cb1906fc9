"""The demo: a text detector that FP16 breaks, found, fixed and proved.

``python -m examples.panet.demo`` reads a picture and writes a PNG and a report.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from torch import Tensor, nn

import halfsafe
from examples.panet.decode import score_map, words
from examples.panet.model import PAN, load
from examples.panet.symmetry import overflowing
from examples.panet.text import normalise, render
from halfsafe.report.text import renderable

PICTURE = Path(__file__).with_name("sample.png")
BROKEN = (214, 40, 120)
"""Colour of cells that are not finite."""


def run(model: nn.Module, image: Tensor) -> Tensor:
    """Logits [1, 6, H/4, W/4] in the precision of the image."""
    with torch.no_grad():
        return model(image)


def panel(picture: Image.Image, logits: Tensor, title: str) -> Image.Image:
    """The score map over the dimmed picture, with boxes around words and a title."""
    score = score_map(logits)
    grey = np.asarray(picture.convert("L").convert("RGB"), np.float32) * 0.35
    size = (picture.width, picture.height)
    shown = Image.fromarray((np.nan_to_num(score) * 255).astype(np.uint8)).resize(size)
    text = np.asarray(shown, np.float32)[..., None] / 255
    bright = np.asarray(picture.convert("L").convert("RGB"), np.float32) * (1.0, 0.9, 0.45)
    pixels = grey * (1 - text) + (0.4 * bright + (120, 105, 40)) * text
    nan = np.asarray(Image.fromarray(np.isnan(score)).resize(size))
    pixels[nan] = 0.5 * pixels[nan] + 0.5 * np.array(BROKEN)
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for box in words(logits):
        draw.rectangle((box.left, box.top, box.right, box.bottom), outline=(90, 220, 120), width=3)
    draw.rectangle((0, 0, picture.width, 34), fill=(20, 22, 28))
    draw.text((10, 6), title, fill=(245, 245, 245), font=ImageFont.load_default(19))
    return image


def title(name: str, logits: Tensor) -> str:
    """A panel's heading: what was run, and how many words it finds."""
    broken = 100.0 * float((~torch.isfinite(logits)).float().mean())
    return f"{name}: {broken:.0f} % NaN" if broken else f"{name}: {len(words(logits))} words"


def side_by_side(panels: list[Image.Image]) -> Image.Image:
    """Panels of one size in a row."""
    width, height = panels[0].size
    sheet = Image.new("RGB", (width * len(panels) + 8 * (len(panels) - 1), height), "white")
    for i, image in enumerate(panels):
        sheet.paste(image, (i * (width + 8), 0))
    return sheet


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

    sheet = side_by_side([panel(picture, y, title(name, y)) for name, y in outputs.items()])
    sheet.save(arguments.out / "maps.png")
    fixed.report.save(arguments.out / "report.json")
    fixed.report.html(arguments.out / "report.html")
    console.print(renderable(fixed.report))
    console.print(f"\n{time.perf_counter() - start:.0f} s. Look at {arguments.out}/maps.png")
    console.print(f"Next: open {arguments.out}/report.html in a browser", style="dim")
    return 0 if fixed.report.safe else 1


if __name__ == "__main__":
    sys.exit(main())
