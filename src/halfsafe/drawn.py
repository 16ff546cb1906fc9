"""Pictures and sounds, drawn, for networks of which nobody gives samples."""

# NumPy's random generators are only partly typed.
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from math import pi

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
"""(height, width, 3), in bytes."""

Sound = NDArray[np.float32]
"""Samples between -1 and 1."""


def scene(number: int, height: int = 480, width: int = 640) -> Picture:
    """A picture of sky, ground and a few bodies before them, in bytes, (height, width, 3)."""
    draw = np.random.default_rng(number)
    y, x = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[None, :, None]
    sky, ground = draw.uniform(60, 255, (2, 3))
    made = np.zeros((height, width, 3)) + np.where(
        y > draw.uniform(0.4, 0.7), ground, sky * (1 - y / 2)
    )
    for _ in range(6):
        cx, cy, r = draw.uniform(0, 1), draw.uniform(0.2, 0.9), draw.uniform(0.05, 0.2)
        body = (x - cx) ** 2 + (y - cy) ** 2 < r * r
        shade = 1 - ((x - cx) + (y - cy)) / r
        np.copyto(made, draw.uniform(0, 200, 3) * shade, where=body)
    return np.clip(made + draw.normal(0, 4, made.shape), 0, 255).astype(np.uint8)


def sounds(number: int, rate: int) -> list[Sound]:
    """Two seconds of a falling chord with noise, and one of a tone that comes and goes."""
    draw = np.random.default_rng(number)
    t = np.arange(2 * rate) / rate
    pitches = draw.uniform(100, 2000, (4, 1))
    chord = np.sin(2 * pi * pitches * t * (1 - 0.1 * t)).sum(axis=0) / 4
    tone = np.sin(2 * pi * draw.uniform(200, 800) * t) * np.sin(2 * pi * 3 * t) ** 2
    tone[rate:] = 0
    noise = draw.normal(0, 0.01, (2, len(t)))
    return [(0.3 * chord + noise[0]).astype(np.float32), (0.5 * tone + noise[1]).astype(np.float32)]
