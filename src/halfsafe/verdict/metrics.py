"""A user's own measure of how good outputs are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from halfsafe.deviation import Array
from halfsafe.errors import BadInput

Metric = Callable[[Sequence[Array], Sequence[Array]], float]
"""A user's own error of outputs (candidate, reference), 0.0 where one is as good as the other."""


def top1(candidate: Sequence[Array], reference: Sequence[Array]) -> float:
    """The share of rows whose largest entry is another one."""
    shares = [
        np.count_nonzero(c.argmax(-1) - r.argmax(-1)) / max(r[..., 0].size, 1)
        for c, r in zip(candidate, reference, strict=True)
        if r.dtype.kind == "f" and r.ndim and r.size
    ]
    return max(shares, default=0.0)


def cosine(candidate: Sequence[Array], reference: Sequence[Array]) -> float:
    """1 - the least cosine between a row and its reference."""
    worst = 0.0
    for c, r in zip(candidate, reference, strict=True):
        if r.dtype.kind != "f" or not r.ndim or not r.size:
            continue
        known = np.linalg.norm(r, axis=-1)
        norms, counted = known * np.linalg.norm(c, axis=-1), known > 0
        with np.errstate(invalid="ignore", divide="ignore"):
            same = np.where(norms > 0, (c * r).sum(-1) / norms, 0.0)  # a row of zeros is like none
            found = 1.0 - same[counted]
        worst = max(worst, float(np.max(found, initial=0.0)))
    return worst


METRICS: Mapping[str, Metric] = {"top-1": top1, "cosine": cosine}


def metric_of(chosen: str | Metric | None) -> tuple[str, Metric | None]:
    """A metric by name or as a callable. Raises BadInput for an unknown name."""
    if chosen is None or callable(chosen):
        return getattr(chosen, "__name__", str(chosen)) if chosen else "", chosen
    if chosen not in METRICS:
        raise BadInput(f"unknown metric '{chosen}': choose {', '.join(METRICS)}, or a callable")
    return chosen, METRICS[chosen]
