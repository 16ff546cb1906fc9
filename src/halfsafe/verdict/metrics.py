"""A user's own measure of how good outputs are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf, isnan

import numpy as np

from halfsafe.deviation import Array, largest_difference
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


def max_rel(candidate: Sequence[Array], reference: Sequence[Array]) -> float:
    """The largest error of an entry over the largest entry of its output, or of its item in that.

    Items are those along the first axis, if they have three entries or more: the largest of fewer
    may be near 0 by chance. Integers that differ, and entries that are not finite, are inf.
    """
    found = largest_difference(candidate, reference)
    for c, r in zip(candidate, reference, strict=True):
        if r.ndim > 1 and len(r) > 1 and r[0].size >= ITEM:
            found = max(found, *(largest_difference([a], [b]) for a, b in zip(c, r, strict=True)))
    return found


def max_abs(candidate: Sequence[Array], reference: Sequence[Array]) -> float:
    """The largest error of an entry; inf for integers that differ and what is not finite."""
    apart = largest_difference(candidate, reference)
    if not apart < inf:
        return apart
    floats = [(c, r) for c, r in zip(candidate, reference, strict=True) if r.dtype.kind == "f"]
    with np.errstate(invalid="ignore"):
        return max((float(np.nanmax(np.abs(c - r), initial=0.0)) for c, r in floats), default=0.0)


ITEM = 3
"""Entries of an item from which on it is judged by itself."""

METRICS: Mapping[str, Metric] = {
    "max_rel": max_rel,
    "max_abs": max_abs,
    "top-1": top1,
    "cosine": cosine,
}


def error_by(metric: Metric, candidate: Sequence[Array], reference: Sequence[Array]) -> float:
    """What a metric says of outputs, given to it in FP64; inf where shapes differ, and for NaN."""
    if [np.shape(c) for c in candidate] != [np.shape(r) for r in reference]:
        return inf
    found = float(metric(*([_wide(x) for x in outputs] for outputs in (candidate, reference))))
    return inf if isnan(found) else found


def _wide(x: Array) -> Array:
    return x.astype(np.float64, copy=False) if np.asarray(x).dtype.kind == "f" else x


def metric_of(chosen: str | Metric | None) -> tuple[str, Metric | None]:
    """A metric by name or as a callable. Raises BadInput for an unknown name."""
    if chosen is None or callable(chosen):
        return getattr(chosen, "__name__", str(chosen)) if chosen else "", chosen
    if chosen not in METRICS:
        raise BadInput(f"unknown metric '{chosen}': choose {', '.join(METRICS)}, or a callable")
    return chosen, METRICS[chosen]
