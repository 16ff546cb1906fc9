"""Looks at outputs where somebody may: whole, by rows, by channels, and entry by entry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf, sqrt
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfsafe.deviation import ROUNDING, WRONG, Array
from halfsafe.errors import BadInput
from halfsafe.verdict.finding import NOTHING, TOLERANCE, USUAL, WIDE, Finding, Row


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

    Arrays are FP64, or integers, which have to be equal. `scale` is the natural scale of a bounded
    output, 0.0 without one: errors below one rounding of it count as none.

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
    x, error, broken = _errors(reference, candidate, scale)
    _, of_floor, broken_floor = _errors(reference, floor, scale)
    size = np.abs(x)
    flushed = (candidate == 0) & (of_floor <= size / 64)
    lost = (size > 0) & (error >= size / 2) & (flushed | (of_floor <= size / 512))
    if _is_distribution(x):
        lost &= error > ROUNDING
    rows = _rows(x, error, of_floor)
    wide = [row for row in rows if row.weight >= WIDE]
    columns = [] if scale else [c for c in _columns(x, error, of_floor) if _is_off(c)]
    return Finding(
        output=output,
        name=name,
        sample=sample,
        count=int(reference.size),
        whole=_row(0, x, error, of_floor),
        row=max([*wide, *columns], key=lambda r: r.excess, default=None),
        far=max(wide, key=lambda r: r.relative, default=None),
        rows=max(len(rows), 1),
        usual=median([row.relative_floor for row in rows]) if rows else 0.0,
        largest=float(error.max(initial=0.0)),
        lost=int(lost.sum()),
        stray=int((lost & (size > USUAL * _rms(x))).sum()),
        flushed=int((lost & (candidate == 0)).sum()),
        nonfinite=broken,
        floor_nonfinite=broken_floor,
    )


def _errors(reference: Array, found: Array, scale: float) -> tuple[Array, Array, int]:
    """The reference, and the size of the error, both 0 where one is not finite; those that miss.

    A reference of -inf has to be answered by -inf.
    """
    if found.shape != reference.shape:
        return reference, np.full(reference.shape, inf), int(reference.size)
    finite = np.isfinite(reference)
    same = finite & np.isfinite(found)
    odd = ~same & ~((reference == found) | (np.isnan(reference) & np.isnan(found)))
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.where(same, np.abs(found - reference), 0.0)
    if scale:
        error = np.where(error > 2 * ROUNDING * scale, error, 0.0)
    return np.where(finite, reference, 0.0), error, int(odd.sum())


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


def _rows(x: Array, error: Array, floor: Array) -> list[Row]:
    """What people read by itself: items of a batch, rows of a matrix or a batch of them."""
    if x.ndim < 2 or not x.size:
        return [_row(0, x, error, floor)] if x.size else []
    width = x.shape[-1] if x.ndim <= 3 else x.size // x.shape[0]
    parts = [a.reshape(-1, width) for a in (x, error, floor)]
    squares = parts[0] ** 2
    norms, errors, floors = (np.sqrt((a**2).sum(1)) for a in parts)
    with np.errstate(invalid="ignore", divide="ignore"):
        weights = np.nan_to_num(squares.sum(1) ** 2 / (squares**2).sum(1))
    numbers = zip(norms, errors, floors, weights, strict=True)
    return [
        Row(i, float(n), float(e), float(f), float(w)) for i, (n, e, f, w) in enumerate(numbers)
    ]


def _is_off(row: Row) -> bool:
    """Whether a part is of no use, and could be: the floor is no excuse."""
    return row.weight >= WIDE and row.excess > WRONG and row.relative > TOLERANCE


def _columns(x: Array, error: Array, floor: Array) -> list[Row]:
    """The features of a matrix or a batch of them, and the channels of anything larger."""
    if x.ndim < 2 or not x.size:
        return []
    axes = (-1,) if x.ndim == 2 else (-1, 1) if x.ndim == 3 else (1,)
    return [
        replace(row, what="feature" if axis == -1 else "channel")
        for axis in axes
        for row in _rows(
            *(np.moveaxis(a, axis, 0).reshape(a.shape[axis], -1) for a in (x, error, floor))
        )
    ]


def _row(number: int, x: Array, error: Array, floor: Array) -> Row:
    squares = x**2
    with np.errstate(invalid="ignore", divide="ignore"):
        weight = float(np.nan_to_num(squares.sum() ** 2 / (squares**2).sum()))
    norm, of_error, of_floor = (sqrt(float((a**2).sum())) for a in (x, error, floor))
    return Row(number, norm, of_error, of_floor, weight)


def _rms(x: Array) -> float:
    return float(np.sqrt(np.mean(x**2))) if x.size else 0.0


def _is_distribution(x: Array) -> bool:
    """Whether the last axis holds probabilities: entries near 0 are then small beside 1."""
    if not x.size or x.ndim == 0 or x.shape[-1] < 2 or (x < 0).any():
        return False
    return bool(np.all(np.abs(x.sum(-1) - 1.0) < 2.0**-8))
