"""How much longer a linear map may make a vector: upper bounds of its largest singular value.

No estimate by iteration is used. Large matrices are multiplied in FP32, and what that may be off is
added.
"""

from __future__ import annotations

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

GRID = 6
"""Frequencies at which a symbol is looked at, for each degree of it: between them it is larger by
1 / cos(pi / 12) at most, along each axis, or 4 %."""

LARGE = 2**16
"""Entries from which on a matrix is squared in FP32."""


def largest_gain(matrix: Array) -> float:
    """An upper bound of sigma_max(A): ||G^p||_F^(1/2p), G the smaller Gram matrix and p = 8, since
    the eigenvalues of G^p are those of G to the p, and none is larger than ||G^p||_F.

    What A is rounded by, and what n products in sums add, is no more than u and g(n) of ||A||_F^2;
    of complex ones twice that (Higham, section 3.6).
    """
    frobenius = float(np.linalg.norm(row_lengths(matrix)))
    if not 2.0**-100 < frobenius < 2.0**100:  # which FP32 might not hold
        return frobenius * SLACK
    work = _working_type(matrix)
    unit = float(np.finfo(work).eps) / 2 * (2 if np.iscomplexobj(matrix) else 1)
    a = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.conj().T
    size, steps = frobenius, list[tuple[float, float]]()
    for _ in range(POWERS + 1):  # sigma(A)^2 = sigma(A A^T), of an A over its size
        off = 1.01 * (min(COLUMNS, a.shape[1]) + 8) * unit
        a, square = _squared(a, size, work)
        steps.append((square, off))
        size = 1.0
    found = 1.0
    for square, off in reversed(steps):
        found = min(sqrt(square * found + off), 1.0 + off)
    return frobenius * found * SLACK


def _working_type(matrix: Array) -> np.dtype[Any]:
    single, double = ("c8", "c16") if np.iscomplexobj(matrix) else ("f4", "f8")
    return np.dtype(single if matrix.size > LARGE else double)


def _squared(a: Array, size: float, work: np.dtype[Any]) -> tuple[Array, float]:
    """A A^T over its size, and that, of A over its own, some columns of it at a time: of a large
    one no copy is made."""
    wide = np.result_type(a, work)
    gram = np.zeros((len(a), len(a)), np.result_type(work, np.float64))
    for start in range(0, a.shape[1], COLUMNS):
        part = (a[:, start : start + COLUMNS].astype(wide, copy=False) / size).astype(
            work, copy=False
        )
        gram += part @ part.conj().T  # symmetric: half the work
    square = float(np.linalg.norm(gram))
    gram /= max(square, 2.0**-1000)
    return gram.astype(work, copy=False), square


def multiplied(a: Array, b: Array) -> tuple[Array, Array]:
    """A B, for a matrix B or a diagonal, and how much longer its rows may be; of large matrices in
    FP32, whose sums are off by g(n) ||a_i||_2 ||B||_F in length."""
    if b.ndim == 1:
        return a * b.astype(np.float64), np.zeros(len(a))
    amax, bmax = (max(float(x.max(initial=0)), -float(x.min(initial=0))) for x in (a, b))
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


def narrowed(rows: Array, radius: float, lengths: Array | None = None) -> tuple[Array, Array]:
    """Rows of a form as they are held, a matrix in FP32, and how far off that makes an entry; of
    some lengths, if these are known."""
    if rows.ndim == 1:
        return rows, np.zeros(len(rows))
    lengths = row_lengths(rows) if lengths is None else lengths
    off = UNIT * lengths + 2.0**-149 * sqrt(rows.shape[1])
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
        part = matrix[start : start + BLOCK]
        part = (np.abs(part) if np.iscomplexobj(part) else part).astype(np.float64, copy=False)
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


def convolution_gain(weight: Array, kernel: Kernel) -> float:
    """An upper bound of ||W * x||_2 / ||x||_2, of weights (groups, out, into, taps).

    Each output is a row of W times what it sees, and an entry is seen by some of them: sqrt(
    overlap) times sigma of the matrix of rows. Of one channel sum |w| is another.
    """
    rows = max(largest_gain(w.reshape(len(w), -1)) for w in weight) * sqrt(kernel.overlap)
    taps = inf
    if weight.shape[1] == weight.shape[2] == 1:
        taps = float(np.abs(weight).sum(axis=-1).max())
    return min(rows, taps) * SLACK


def sharp_gain(weight: Array, kernel: Kernel) -> float:
    """The same, never more and often half: that of the symbol, where there is one.

    A convolution of pictures without borders is a product with W(f) = sum over taps of W_t exp(i f
    t) at each frequency f, and one with borders of 0 is a part of it. <v, W(f) u> is a
    trigonometric polynomial of degree k - 1 along each axis, and times exp(-i f (k - 1) / 2) of
    half of that. A real one of degree m whose values at n > 2 m even places are known is no larger
    than 1 / cos(pi m / n) times the largest of them (Ehlich and Zeller, 1964).
    """
    plain = convolution_gain(weight, kernel)
    if not has_symbol(kernel):
        return plain
    symbols = [Symbol(w, kernel) for w in weight]
    return min(plain, max(symbol.gain() for symbol in symbols))


def has_symbol(kernel: Kernel) -> bool:
    """Whether no axis has both a stride and a dilation, and the kernel is more than a point."""
    pairs = zip(kernel.strides, kernel.dilations, strict=True)
    return all(1 in pair for pair in pairs) and prod(kernel.sizes) > 1


class Symbol:
    """W(f) at the frequencies of a grid, of weights (out, into, taps).

    A stride sees entries of each phase as channels of their own. A dilation changes nothing.
    """

    def __init__(self, weight: Array, kernel: Kernel) -> None:
        out, into, _ = weight.shape
        sizes, strides = kernel.sizes, kernel.strides
        places = np.indices(sizes).reshape(len(sizes), -1)  # of each tap
        self.taps, phases = np.divmod(places, np.reshape(strides, (-1, 1)))
        numbers = np.ravel_multi_index(tuple(phases), strides)
        self.parts = [(numbers == one).nonzero()[0] for one in np.unique(numbers)]
        self.weight = weight
        degrees = [-(-k // s) - 1 for k, s in zip(sizes, strides, strict=True)]
        self.counts = [max(GRID * m, 1) for m in degrees]
        steps = zip(degrees, self.counts, strict=True)
        self.factor = prod(1 / cos(pi * m / (2 * n)) for m, n in steps)
        self.shape = out, into * len(self.parts)

    def at(self, frequency: Array) -> Array:
        """The matrix of one frequency."""
        turns = np.exp(2j * pi * (frequency @ self.taps))
        return np.concatenate([self.weight[:, :, p] @ turns[p] for p in self.parts], axis=1)

    def frequencies(self) -> list[Array]:
        """Those of the grid, without those at which the symbol is the conjugate of another."""
        every = np.indices(self.counts).reshape(len(self.counts), -1).T
        opposite = (-every) % np.array(self.counts)
        one = [tuple(a) <= tuple(b) for a, b in zip(every.tolist(), opposite.tolist(), strict=True)]
        return list(every[one] / np.array(self.counts))

    def gain(self) -> float:
        """An upper bound of sigma(W(f)) for all f."""
        return self.factor * max(largest_gain(self.at(f)) for f in self.frequencies()) * SLACK

    def likely_gain(self) -> float:
        """About what that is, from some frequencies: no bound."""
        draw, found = np.random.default_rng(0), 0.0
        for f in self.frequencies()[:: max(1, prod(self.counts) // 6)]:
            a = self.at(f)
            v: Array = np.asarray(draw.normal(size=a.shape[1]), np.complex128)
            for _ in range(4):
                v = a.conj().T @ (a @ v)
                v = v / max(float(np.linalg.norm(v)), 1e-300)
            found = max(found, float(np.linalg.norm(a @ v)))
        return found

    @property
    def operations(self) -> float:
        """How many the gain takes, about."""
        less, more = sorted(self.shape)
        return 8.0 * less**2 * (more + POWERS * less) * len(self.frequencies())
