"""How much longer a linear map may make a vector: upper bounds of its largest singular value.

No estimate by iteration is used. Large matrices are multiplied in FP32, and what that may be off is
added.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import cos, inf, pi, prod, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfsafe.bounds.rounding import UNIT

Array = NDArray[Any]

Size = tuple[int, ...]
"""Of a patch of a picture, along each axis of places."""

BLOCK = 256
"""Rows of a matrix that are gone through at a time."""

SLACK = 1 + 1e-9
"""What the bounds' own arithmetic, in FP64, may lose: sums of up to 10^6 terms lose 10^-10."""

POWERS = 3
"""How often a Gram matrix is squared: its norm is then off by n^(1/16) at most."""

COLUMNS = 512
"""Products in FP32 whose sum is rounded as one, before it is added in FP64."""

GRID = 8
"""Frequencies at which a symbol is looked at, for each degree of it: between them it is larger by
1 / cos(pi / 16) at most, along each axis."""

LARGE = 2**16
"""Entries from which on a matrix is squared in FP32."""


def largest_gain(matrix: Array) -> float:
    """An upper bound of sigma_max(A): ||G^p||_F^(1/2p), G the smaller Gram matrix and p = 8, since
    the eigenvalues of G^p are those of G to the p, and none is larger than ||G^p||_F."""
    frobenius = float(np.sqrt((row_lengths(matrix) ** 2).sum()))
    if not 1e-140 < frobenius < 1e140:  # of what squares are not held
        return frobenius * SLACK
    work = np.float32 if matrix.size > LARGE else np.float64
    smaller = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    return frobenius * _gain((smaller / frobenius).astype(work, copy=False), POWERS) * SLACK


def _gain(a: Array, powers: int) -> float:
    """Of an A with ||A||_F = 1: sigma(A)^2 = sigma(A A^T), that product computed again and again.

    What A is rounded by, and what n products in sums add, is no more than u and g(n) of ||A||_F^2.
    """
    unit = UNIT if a.dtype == np.float32 else 2.0**-53
    gram = np.zeros((len(a), len(a)))
    for start in range(0, a.shape[1], COLUMNS):
        part = a[:, start : start + COLUMNS]
        gram += part @ part.T  # symmetric: half the work
    off = 1.01 * (min(COLUMNS, a.shape[1]) + 8) * unit
    size = float(np.linalg.norm(gram))
    if not powers or not size:
        return min(sqrt(size + off), 1.0 + off)
    gram /= size
    rest = _gain(gram.astype(a.dtype, copy=False), powers - 1)
    return min(sqrt(size * rest + off), 1.0 + off)


def multiplied(a: Array, b: Array) -> tuple[Array, Array]:
    """A B, for a matrix B or a diagonal, and how much longer its rows may be; of large matrices in
    FP32, whose sums are off by g(n) ||a_i||_2 ||B||_F in length."""
    if b.ndim == 1:
        return a * b, np.zeros(len(a))
    amax, bmax = (float(max(x.max(initial=0.0), -x.min(initial=0.0))) for x in (a, b))
    narrow = max(amax, bmax) < 2.0**100 and 2.0**-40 < amax * bmax * len(b) < 2.0**80
    if b.size <= LARGE or not narrow:
        return a @ b.astype(np.float64), np.zeros(len(a))
    one, other = (x.astype(np.float32, copy=False) for x in (a, b))
    made = np.zeros((len(a), b.shape[1]))
    for start in range(0, len(b), COLUMNS):
        made += one[:, start : start + COLUMNS] @ other[start : start + COLUMNS]
    relative = 1.01 * (min(COLUMNS, len(b)) + 8) * UNIT
    size = float(np.sqrt((row_lengths(b) ** 2).sum()))
    flushed = 2.0**-126 * (1 + bmax) * len(b) * sqrt(b.shape[1])
    return made, relative * row_lengths(a) * size + flushed


def narrowed(rows: Array, radius: float) -> tuple[Array, Array]:
    """Rows of a form as they are held, a matrix in FP32, and how far off that makes an entry."""
    if rows.ndim == 1:
        return rows, np.zeros(len(rows))
    off = UNIT * row_lengths(rows) + 2.0**-149 * sqrt(rows.shape[1])
    return rows.astype(np.float32), radius * off * SLACK


def scaled(rows: Array, factor: float, radius: float) -> tuple[Array, Array]:
    """Rows of a form times a number, as they are held, and how far off that makes an entry."""
    if rows.ndim == 1:
        return factor * rows, np.zeros(len(rows))
    made, off = np.empty(rows.shape, np.float32), np.empty(len(rows))
    for start in range(0, len(rows), BLOCK):
        part = slice(start, start + BLOCK)
        made[part], off[part] = narrowed(factor * rows[part].astype(np.float64), radius)
    return made, off


def row_lengths(matrix: Array) -> Array:
    """||a_i||_2 of each row, without a copy of them."""
    made = np.empty(len(matrix))
    for start in range(0, len(matrix), BLOCK):
        part = matrix[start : start + BLOCK].astype(np.float64, copy=False)
        made[start : start + BLOCK] = np.sqrt(np.einsum("ij,ij->i", part, part))
    return made


@dataclass(frozen=True)
class Kernel:
    """What an entry of a convolution sees, along each axis of places."""

    sizes: Size
    strides: Size
    dilations: Size

    def seen(self, size: Size) -> Size:
        """The patch that a patch of its outputs sees."""
        each = zip(size, self.sizes, self.strides, self.dilations, strict=True)
        return tuple((n - 1) * s + (k - 1) * d + 1 for n, k, s, d in each)

    def spreads(self, size: Size) -> Size:
        """The patch of what is spread that a patch of the outputs of its transpose sees."""
        each = zip(size, self.sizes, self.strides, self.dilations, strict=True)
        return tuple((n - 1 + (k - 1) * d) // s + 1 for n, k, s, d in each)

    @property
    def overlap(self) -> int:
        """How many outputs see an entry, at most."""
        each = zip(self.sizes, self.strides, self.dilations, strict=True)
        return prod(int(np.bincount(np.arange(k) * d % s).max()) for k, s, d in each)


def convolution_gain(weight: Array, kernel: Kernel, *, sharp: bool = False) -> float:
    """An upper bound of ||W * x||_2 / ||x||_2, of weights (groups, out, into, taps).

    Each output is a row of W times what it sees, and an entry is seen by some of them: sqrt(
    overlap) times sigma of the matrix of rows. Of one channel sum |w| is another. A `sharp` one is
    that of the symbol, where it has one.
    """
    rows = max(largest_gain(w.reshape(len(w), -1)) for w in weight) * sqrt(kernel.overlap)
    taps = inf
    if weight.shape[1] == weight.shape[2] == 1:
        taps = float(np.abs(weight).sum(axis=-1).max())
    found = min(rows, taps) * SLACK
    if not sharp or any(s > 1 < d for s, d in zip(kernel.strides, kernel.dilations, strict=True)):
        return found
    return min(found, max(_symbol_gain(w, kernel) for w in weight))


def _symbol_gain(weight: Array, kernel: Kernel) -> float:
    """sup over frequencies of sigma(W(f)), W(f) = sum over taps of W_t exp(i f t): a convolution of
    pictures without borders is that product at each frequency, and one with borders of 0 is a part
    of it. A stride sees entries of each phase as channels of their own. A dilation changes nothing.

    <v, W(f) u> is a trigonometric polynomial of degree k - 1 in each axis, and times exp(-i f (k -
    1) / 2) of half of that. A real one of degree m whose values at n > 2 m even places are known is
    no larger than 1 / cos(pi m / n) times the largest of them (Ehlich and Zeller, 1964).
    """
    out, into, _ = weight.shape
    strides, phased = kernel.strides, weight.reshape(out, into, *kernel.sizes)
    for axis, stride in enumerate(strides):  # (out, into, stride, ..., taps of a phase)
        spare = -phased.shape[2 + axis] % stride
        widths = [(0, spare if i == 2 + axis else 0) for i in range(phased.ndim)]
        phased = np.pad(phased, widths)
        shape = phased.shape
        phased = phased.reshape(*shape[: 2 + axis], -1, stride, *shape[3 + axis :])
        phased = np.moveaxis(phased, 3 + axis, 1).reshape(out, -1, *shape[2 : 2 + axis],
                                                          shape[2 + axis] // stride,
                                                          *shape[3 + axis :])  # fmt: skip
    sizes = phased.shape[2:]
    counts = [max(GRID * (k - 1), 1) for k in sizes]
    factor = prod(1 / cos(pi * (k - 1) / (2 * n)) for k, n in zip(sizes, counts, strict=True))
    symbol = np.fft.fftn(phased, counts, tuple(range(2, phased.ndim)))
    symbol = np.moveaxis(symbol, (0, 1), (-2, -1)).reshape(-1, out, phased.shape[1])
    return factor * max(_complex_gain(a) for a in _one_of_each_pair(symbol, counts)) * SLACK


def _one_of_each_pair(symbol: Array, counts: Sequence[int]) -> Iterator[Array]:
    """W(f) without W(-f), which is its conjugate."""
    places = np.unravel_index(np.arange(len(symbol)), counts)
    turned = tuple(-place % n for place, n in zip(places, counts, strict=True))
    opposite: list[int] = np.ravel_multi_index(turned, counts).tolist()
    return (a for i, (a, other) in enumerate(zip(symbol, opposite, strict=True)) if i <= other)


def _complex_gain(a: Array) -> float:
    """Of a complex matrix, as a real one of twice its size, which has the same gain."""
    real, imaginary = np.real(a), np.imag(a)
    return largest_gain(np.block([[real, -imaginary], [imaginary, real]]))
