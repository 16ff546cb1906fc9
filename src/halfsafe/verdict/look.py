"""Looks at outputs where somebody may: whole, by rows, by channels, and entry by entry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfsafe.deviation import ROUNDING, Array
from halfsafe.errors import BadInput
from halfsafe.verdict.finding import NOTHING, USUAL, Finding
from halfsafe.verdict.sums import Sums


def findings_of(
    names: Sequence[str],
    scales: Sequence[float],
    sample: int,
    reference: Sequence[Array],
    candidate: Sequence[Array],
    floor: Sequence[Array],
) -> list[Finding]:
    """Findings of all outputs of one sample. Raises BadInput for another number of outputs."""
    if len(candidate) != len(reference):
        raise BadInput(f"the candidate gives {len(candidate)} outputs, the model {len(reference)}")
    named = len(names) == len(reference)  # some front ends return more than tensors
    return [
        find(
            i,
            names[i] if named else str(i),
            sample,
            np.asarray(of_reference),
            np.asarray(of_candidate),
            np.asarray(of_floor),
            scale=scales[i] if named else 0.0,
        )
        for i, (of_reference, of_candidate, of_floor) in enumerate(
            zip(reference, candidate, floor, strict=True)
        )
    ]


def find(
    output: int,
    name: str,
    sample: int,
    reference: Array,
    candidate: Array,
    floor: Array,
    scale: float = 0.0,
) -> Finding:
    """Measures one output of one sample: the candidate and the floor beside the reference.

    Integers have to be equal. `scale` is the natural scale of a bounded output, 0.0 without one:
    errors below one rounding of it count as none.

    >>> x = np.array([[3.0, 4.0], [1e-8, 1e-8]])
    >>> found = find(0, "y", 0, x, np.array([[3.0, 4.0], [0.0, 0.0]]), x)
    >>> found.error < 1e-8, found.lost, found.flushed
    (True, 2, 2)
    """
    if reference.dtype.kind == "c":
        reference, candidate, floor = (
            np.stack([x.real, x.imag], -1) for x in (reference, candidate, floor)
        )
    if reference.dtype.kind != "f" or candidate.dtype.kind != "f":
        return _of_integers(output, name, sample, reference, candidate, floor)
    if candidate.shape != reference.shape:
        every, same = max(reference.size, candidate.size), floor.shape == reference.shape
        missing = Finding(output, name, sample, every, NOTHING, nonfinite=every)
        return missing if same else replace(missing, floor_nonfinite=every)
    return _of_floats(output, name, sample, reference, candidate, floor, scale)


def _of_floats(
    output: int,
    name: str,
    sample: int,
    reference: Array,
    candidate: Array,
    floor: Array,
    scale: float,
) -> Finding:
    """Entry by entry, and by the parts that people read by themselves."""
    sums, lost = Sums(reference.shape), _Lost(_is_distribution(reference))
    broken = broken_floor = 0
    flat = [sums.laid_out(a) for a in (reference, candidate)]
    of_floor = sums.laid_out(floor) if floor.shape == reference.shape else None
    for block in sums.blocks():
        x, found = (a[block] for a in flat)
        x, error, odd = _errors(x, found, scale)
        if of_floor is None:
            least, odd_floor = np.full(x.shape, inf), x.size
        else:
            _, least, odd_floor = _errors(flat[0][block], of_floor[block], scale)
        broken, broken_floor = broken + odd, broken_floor + odd_floor
        sums.add(block, x, error, least)
        lost.add(x, error, least, found == 0)
    rows, whole = sums.rows(), sums.whole()
    parts = [rows.worst(), *([] if scale else [c.worst_off() for c in sums.columns()])]
    return Finding(
        output=output,
        name=name,
        sample=sample,
        count=int(reference.size),
        whole=whole,
        row=max((r for r in parts if r), key=lambda r: r.excess, default=None),
        far=rows.farthest(),
        rows=max(rows.count, 1),
        usual=rows.usual(),
        largest=sums.largest,
        lost=lost.count,
        stray=lost.stray(USUAL * whole.norm / sqrt(max(reference.size, 1))),
        flushed=lost.flushed,
        nonfinite=broken,
        floor_nonfinite=broken_floor,
    )


def _errors(reference: Array, found: Array, scale: float) -> tuple[Array, Array, int]:
    """The reference, and the size of the error, both 0 where one is not finite; those that miss.

    A reference of -inf has to be answered by -inf.
    """
    x, found = (a.astype(np.float64, copy=False) for a in (reference, found))
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(found - x)
    odd = 0
    if not np.isfinite(error).all():
        finite = np.isfinite(x)
        same = finite & np.isfinite(found)
        odd = int((~same & ~((x == found) | (np.isnan(x) & np.isnan(found)))).sum())
        x, error = np.where(finite, x, 0.0), np.where(same, error, 0.0)
    if scale:
        error = np.where(error > 2 * ROUNDING * scale, error, 0.0)
    return x, error, odd


class _Lost:
    """Entries that are right at the floor and far off, or 0, in the candidate."""

    def __init__(self, is_distribution: bool) -> None:
        self._least = ROUNDING if is_distribution else 0.0
        self._sizes: list[Array] = []
        self.flushed = 0

    def add(self, x: Array, error: Array, floor: Array, zero: NDArray[np.bool_]) -> None:
        """Looks at the entries of a block, of which some are `zero` in the candidate."""
        size = np.abs(x)
        far = (2 * error >= size) & (size > 0)
        if self._least:
            far &= error > self._least
        if far.any():
            size, floor, zero = size[far], floor[far], zero[far]
            lost = (zero & (floor <= size / 64)) | (floor <= size / 512)
            self._sizes.append(size[lost])
            self.flushed += int((lost & zero).sum())

    @property
    def count(self) -> int:
        return sum(sizes.size for sizes in self._sizes)

    def stray(self, least: float) -> int:
        """Those of them that are larger than this."""
        return sum(int((sizes > least).sum()) for sizes in self._sizes)


def _of_integers(
    output: int, name: str, sample: int, reference: Array, candidate: Array, floor: Array
) -> Finding:
    """Integers, booleans and labels are the same or they are not."""
    return Finding(
        output=output,
        name=name,
        sample=sample,
        count=int(reference.size),
        whole=NOTHING,
        differing=_differing(reference, candidate),
        floor_differing=_differing(reference, floor),
    )


def _differing(reference: NDArray[Any], found: NDArray[Any]) -> int:
    if found.shape != reference.shape:
        return int(max(reference.size, found.size, 1))
    return int(np.sum(reference != found))


def _is_distribution(x: Array) -> bool:
    """Whether the last axis holds probabilities: entries near 0 are then small beside 1."""
    if not x.size or x.ndim == 0 or x.shape[-1] < 2 or np.min(x) < 0:
        return False
    total = x.sum(-1, dtype=np.float64, where=np.isfinite(x))
    return bool(np.all(np.abs(total - 1.0) < 2.0**-8))
