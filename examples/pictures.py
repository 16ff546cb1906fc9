"""What a detector has found, drawn over its picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Array = np.ndarray[Any, Any]

BROKEN = (214, 40, 120)
"""Colour of cells that are not finite."""

GAP = 8
"""Pixels between panels."""


@dataclass(frozen=True)
class Box:
    """A word's box in pixels of the picture."""

    left: int
    top: int
    right: int
    bottom: int


def panel(picture: Image.Image, score: Array, boxes: Sequence[Box], title: str) -> Image.Image:
    """A score map over the dimmed picture, with boxes around words and a title."""
    grey = np.asarray(picture.convert("L").convert("RGB"), np.float32)
    shown = Image.fromarray((np.nan_to_num(score) * 255).astype(np.uint8)).resize(picture.size)
    text = np.asarray(shown, np.float32)[..., None] / 255
    bright = grey * (1.0, 0.9, 0.45)
    pixels = 0.35 * grey * (1 - text) + (0.4 * bright + (120, 105, 40)) * text
    broken = np.asarray(Image.fromarray(~np.isfinite(score)).resize(picture.size))
    pixels[broken] = 0.5 * pixels[broken] + 0.5 * np.array(BROKEN)
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for box in boxes:
        draw.rectangle((box.left, box.top, box.right, box.bottom), outline=(90, 220, 120), width=3)
    draw.rectangle((0, 0, picture.width, 34), fill=(20, 22, 28))
    draw.text((10, 6), title, fill=(245, 245, 245), font=ImageFont.load_default(19))
    return image


def sheet(panels: Sequence[Image.Image], columns: int) -> Image.Image:
    """Panels of one size, so many to a row."""
    width, height = panels[0].size
    rows = -(-len(panels) // columns)
    size = (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP)
    found = Image.new("RGB", size, "white")
    for i, image in enumerate(panels):
        row, column = divmod(i, columns)
        found.paste(image, (column * (width + GAP), row * (height + GAP)))
    return found
