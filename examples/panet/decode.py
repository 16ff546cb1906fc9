"""From the detector's logits to a score map and word boxes."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from torch import Tensor

from examples.panet.text import STRIDE
from examples.pictures import Box


def score_map(logits: Tensor) -> np.ndarray:
    """Probability of text per cell, [H/4, W/4]; what is not finite stays NaN."""
    region = logits[0, 0].float()
    return np.where(np.isfinite(region.numpy()), region.sigmoid().numpy(), np.nan)


def words(logits: Tensor, smallest: int = 6, confidence: float = 0.85) -> list[Box]:
    """Kernels as connected components, each grown over the region it lies in.

    Components of fewer than `smallest` cells, or of a lower mean probability than `confidence`, are
    dropped. Broken logits give no words.
    """
    score = score_map(logits)
    maps = logits[0, :2].float().numpy()
    region, kernel = maps > 0
    seeds, _ = ndimage.label(kernel & region)
    distance, nearest = ndimage.distance_transform_edt(seeds == 0, return_indices=True)
    grown = np.where(region & (distance <= 4), seeds[tuple(nearest)], 0)
    found = []
    for i, slices in enumerate(ndimage.find_objects(grown), start=1):
        if slices is None:
            continue
        cells = grown[slices] == i
        if np.count_nonzero(cells) < smallest or score[slices][cells].mean() < confidence:
            continue
        rows, columns = slices
        edges = (columns.start, rows.start, columns.stop, rows.stop)
        found.append(Box(*(STRIDE * edge for edge in edges)))
    return found
