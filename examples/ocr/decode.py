"""From the text map to words: the boxes that differentiable binarisation gives, upright ones.

A pixel is text above THRESHOLD, and a connected component a word if it scores more than CONFIDENT
on average. The network is trained on shrunken words, so that a box grows by GROW times its area
over its perimeter. The four numbers are those of the package.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage

from examples.pictures import Box

Array = np.ndarray[Any, Any]

THRESHOLD = 0.3
CONFIDENT = 0.5
GROW = 1.6
SMALLEST = 3
"""Pixels of the map."""


def words(text: Array, size: tuple[int, int]) -> list[Box]:
    """The words of a map [1, 1, h, w], in pixels of a picture of that width and height."""
    score = text[0, 0]
    labels, count = ndimage.label(ndimage.binary_dilation(score > THRESHOLD, np.ones((2, 2))))
    means = ndimage.mean(score, labels, range(1, count + 1))
    scale = size[0] / score.shape[1], size[1] / score.shape[0]
    return [
        _grown(rows, columns, scale)
        for (rows, columns), mean in zip(ndimage.find_objects(labels), means, strict=True)
        if mean > CONFIDENT and min(_length(rows), _length(columns)) >= SMALLEST
    ]


def _length(along: slice) -> int:
    return along.stop - along.start


def _grown(rows: slice, columns: slice, scale: tuple[float, float]) -> Box:
    height, width = _length(rows), _length(columns)
    more = GROW * height * width / (2 * (height + width))
    edges = (columns.start - more, rows.start - more, columns.stop + more, rows.stop + more)
    return Box(*(round(edge * scale[i % 2]) for i, edge in enumerate(edges)))


def overlap(a: Array, b: Array) -> float:
    """Text pixels of both maps over those of either; 1.0 for the same mask."""
    here, there = a > THRESHOLD, b > THRESHOLD
    either = np.count_nonzero(here | there)
    return float(np.count_nonzero(here & there) / either) if either else 1.0


def matched(boxes: list[Box], among: list[Box]) -> int:
    """How many of `boxes` have their like in `among`: more than half of both together is shared."""
    return sum(any(_shared(a, b) > 0.5 for b in among) for a in boxes)


def _shared(a: Box, b: Box) -> float:
    width = min(a.right, b.right) - max(a.left, b.left)
    height = min(a.bottom, b.bottom) - max(a.top, b.top)
    both = max(width, 0) * max(height, 0)
    return both / (_area(a) + _area(b) - both)


def _area(box: Box) -> int:
    return (box.right - box.left) * (box.bottom - box.top)
