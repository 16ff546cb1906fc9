"""PP-OCRv4's text detector, as the package rapidocr-onnxruntime brings it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from examples.panet.text import render

Array = np.ndarray[Any, Any]
Feeds = dict[str, Array]

PACKAGE = "rapidocr_onnxruntime"
INSTALL = "pip install --no-deps --ignore-requires-python rapidocr-onnxruntime==1.4.4"
"""None of the package's code runs, so that its dependencies and its Python do not count."""

PICTURE = Path(__file__).parents[1] / "panet" / "sample.png"
SIDE = 736
"""Pixels to which the package enlarges the shorter side of a picture."""

STEP = 32
"""The network halves a picture five times."""


def file() -> Path:
    """The detector, 4.7 MB. Raises FileNotFoundError where the package is not installed."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"PP-OCRv4's detector is not installed: {INSTALL}")
    return Path(spec.submodule_search_locations[0]) / "models" / "ch_PP-OCRv4_det_infer.onnx"


def pixels(picture: Image.Image, side: int = SIDE) -> Feeds:
    """What the package feeds: blue first, from -1 to 1, no side shorter than `side`."""
    ratio = max(1.0, side / min(picture.size))
    width, height = (round(length * ratio / STEP) * STEP for length in picture.size)
    resized = picture.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    x = np.asarray(resized, np.float32)[..., ::-1] / 127.5 - 1
    return {"x": np.ascontiguousarray(x.transpose(2, 0, 1)[None])}


def drawn(count: int) -> list[Feeds]:
    """Pictures with text, drawn by the example beside this one, at the size they are drawn at."""
    return [pixels(render(seed, 640, 448).image, side=STEP) for seed in range(1, count + 1)]
