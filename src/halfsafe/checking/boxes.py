"""||x||_2 of boxes of a picture: some places, with all the channels there, of one sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import cos, gcd, pi, prod, sqrt

import numpy as np

from halfsafe.checking.known import MORE, TINY, Array, Boxes, Known, U, V, sigma

Sizes = tuple[int, ...]


def boxes_of(x: Known) -> Boxes:
    """What is known of those of a tensor."""
    if x.kept and x.kept[0].shape == x.shape:
        return x.kept[0]
    more = x.boxes if x.conv is None else (*x.boxes, x.conv.boxes(x.shape))
    made = Boxes(x.shape, more, alone=[entries(x, x.shape)])
    x.kept.append(made)
    return made


def knows(x: Known) -> bool:
    """Whether entries are not all."""
    return len(x.shape) > 2 and (bool(x.boxes) or x.conv is not None)


def all_of(x: Known) -> tuple[Boxes, ...]:
    """For what is no larger than x, entry by entry."""
    return (boxes_of(x),) if knows(x) else ()


def entries(x: Known, shape: Sizes) -> Callable[[Sizes], float]:
    """sqrt(n sum over channels of max |x|^2), of an x that is repeated to fill a shape."""
    size = x.size.reshape((1,) * (len(shape) - x.size.ndim) + x.size.shape)
    most = size.max((0, *range(2, size.ndim)))
    pixel = float(np.linalg.norm(np.broadcast_to(most, shape[1:2]))) * MORE
    return lambda box: pixel * sqrt(prod(box))


def repeated(x: Known, shape: Sizes) -> Boxes:
    """The boxes of an x that is repeated to fill a shape."""
    return boxes_of(x) if x.shape == shape else Boxes(shape, [entries(x, shape)])


def added(shape: Sizes, parts: Sequence[Boxes]) -> Boxes:
    """Of a sum."""
    return Boxes(shape, [lambda box: sum([part(box) for part in parts])], parts)


def beside(shape: Sizes, parts: Sequence[Boxes]) -> Boxes:
    """Of channels of several, each once at most."""
    return Boxes(shape, [lambda box: sqrt(sum([part(box) ** 2 for part in parts]))], parts)


def along(x: Boxes, shape: Sizes, of: Callable[[Sizes], Sizes], share: float) -> Boxes:
    """Of what is made of other boxes, and no longer than a share of them."""
    return Boxes(shape, [lambda box: share * x(of(box))], [x])


@dataclass(frozen=True)
class Steps:
    """Kernel, stride and dilation, along each axis."""

    kernel: Sizes
    stride: Sizes
    apart: Sizes

    def reads(self, box: Sizes) -> Sizes:
        """What outputs of a box are made of."""
        each = zip(box, self.kernel, self.stride, self.apart, strict=True)
        return tuple((n - 1) * s + (k - 1) * d + 1 for n, k, s, d in each)

    def spread(self, box: Sizes) -> Sizes:
        """The same of the transpose."""
        each = zip(box, self.kernel, self.stride, self.apart, strict=True)
        return tuple((n - 1 + (k - 1) * d) // s + 1 for n, k, s, d in each)

    @property
    def often(self) -> int:
        """How many outputs an entry is a part of: taps k d that are the same modulo s, at most."""
        each = zip(self.kernel, self.stride, self.apart, strict=True)
        return prod(-(-k // (s // gcd(s, d))) for k, s, d in each)


@dataclass(frozen=True, eq=False)
class Convolution:
    """g (W * x + c), larger by a factor at most, and by `more` for each channel.

    Weights are (groups, out, into, *kernel).
    """

    weight: Array
    bias: Array
    steps: Steps
    x: Boxes
    turned: bool = False
    refined: bool = False
    gain: Array | float = 1.0
    more: Array | float = 0.0
    factor: float = 1.0

    def scaled(self, g: Array | float, more: Array | float, factor: float = 1.0) -> Convolution:
        """Channels times g, larger by a factor, and by so much."""
        return replace(
            self, gain=self.gain * g, more=np.abs(g) * self.more * factor + more,
            factor=self.factor * factor,
        )  # fmt: skip

    def rounded(self, relative: float, least: float) -> Convolution:
        """As it is stored."""
        more, factor = self.more * (1 + relative) + least, self.factor * (1 + relative)
        return replace(self, more=more, factor=factor)

    def boxes(self, shape: Sizes) -> Boxes:
        """sigma ||x||_2 and what is added."""
        one = np.ones(shape[1])
        own, more = (float(np.linalg.norm(a * one)) for a in (self.gain * self.bias, self.more))
        reads, found = self.steps.spread if self.turned else self.steps.reads, list[float]()

        def way(box: Sizes) -> float:
            if not found:
                found.append(self.sigma())
            inside = found[0] * self.x(reads(box)) + own * sqrt(prod(box))
            return (inside * self.factor + more * sqrt(prod(box))) * MORE

        return Boxes(shape, [way], [self.x])

    def sigma(self) -> float:
        """Of W with gains, and of what is off: sqrt(how often an entry is read) times the lengths
        of all rows."""
        groups, out = self.weight.shape[:2]
        gain = np.broadcast_to(self.gain, (groups * out,))
        gain = gain.reshape(groups, out, *(1,) * (self.weight.ndim - 2))
        w, often = self.weight.astype(np.float64) * gain, sqrt(self.steps.often)
        n = prod(w.shape[2:]) + 1
        stored = np.abs(w) + 2.0**-14 * np.abs(gain)
        off = (n * V / (1 - n * V) + 1.01 * U) * often * float(np.linalg.norm(stored))
        w = np.swapaxes(w, 1, 2) if self.turned else w
        found = often * max(sigma(a.reshape(len(a), -1)) for a in w)
        if w.shape[1:3] == (1, 1):
            found = min(found, float(np.abs(w).sum(tuple(range(1, w.ndim))).max()))
        steps = zip(self.steps.stride, self.steps.apart, strict=True)
        if self.refined and all(1 in pair for pair in steps):
            found = min(found, max(symbol(a, self.steps.stride) for a in w))
        return found * MORE + off


def symbol(w: Array, stride: Sizes) -> float:
    """The largest singular value of sum_t W_t exp(i f t) over a grid of f, and between its points.

    Entries that a stride reads in turn are channels of their own.
    """
    for axis, s in enumerate(stride):
        at = 2 + axis
        taps = -(-w.shape[at] // s)
        parts = [np.take(w, range(phase, w.shape[at], s), at) for phase in range(s)]
        parts = [np.pad(p, [(0, taps - p.shape[at] if i == at else 0) for i in range(w.ndim)])
                 for p in parts]  # fmt: skip
        w = np.concatenate(parts, 1)
    grid = [6 * (k - 1) or 1 for k in w.shape[2:]]
    more = prod(1 / cos(pi * (k - 1) / (2 * n)) for k, n in zip(w.shape[2:], grid, strict=True))
    taps, most = np.indices(w.shape[2:]).reshape(len(grid), -1), 0.0
    for place in np.ndindex(*grid):
        if place <= tuple(-p % n for p, n in zip(place, grid, strict=True)):  # or its conjugate
            turns = np.exp(-2j * pi * (np.divide(place, grid) @ taps))
            most = max(most, sigma(w.reshape(*w.shape[:2], -1) @ turns))
    return more * most * MORE


def under_kernel(w: Array, longest: float, bias: Array, *, positive: bool) -> tuple[Array, Array]:
    """How far below and above a bias sum w x may be, ||x||_2 no more than this."""
    rows = w.reshape(w.shape[0] * w.shape[1], -1)
    n = rows.shape[1] + 1
    off = n * V / (1 - n * V) + 1.01 * U
    stored = np.linalg.norm(rows, axis=1) + 2.0**-14 * sqrt(n - 1)
    tail = off * (stored * longest + np.abs(bias)) + TINY * (bias != 0)
    down, up = (np.linalg.norm(np.maximum(s * rows, 0) if positive else rows, axis=1)
                for s in (-1, 1))  # fmt: skip
    return (down * longest + tail) * MORE, (up * longest + tail) * MORE


def by_channels(shape: Sizes, y: Known) -> tuple[Array, Array] | None:
    """Middle and half width of a constant that is the same in all places."""
    low, high = (e.reshape((1,) * (len(shape) - e.ndim) + e.shape) for e in (y.low, y.high))
    if not y.constant or any(n > 1 for i, n in enumerate(low.shape) if i != 1):
        return None
    return ((low + high) / 2).ravel(), ((high - low) / 2).ravel()


def channels_of(parts: Sequence[Known], place: Array) -> tuple[Boxes, ...]:
    """Of channels of several, where every entry stays in its place and sample."""
    shape = place.shape
    if len(shape) < 3 or not place.size or not any(map(knows, parts)):
        return ()
    if any(p.shape[:1] != shape[:1] or p.shape[2:] != shape[2:] for p in parts):
        return ()
    n, places = shape[0], prod(shape[2:])
    each: Array = np.arange(n * places, dtype=np.int64).reshape(n, 1, places)
    held = [np.broadcast_to(each, (n, p.shape[1], places)).ravel() for p in parts]
    moved = np.concatenate(held)[place].reshape(n, -1, places)
    stays = np.array_equal(moved, np.broadcast_to(each, moved.shape))
    once = len(np.unique(place)) == place.size
    return (beside(shape, [boxes_of(p) for p in parts]),) if once and stays else ()


def rows_in(x: Known, place: Array) -> tuple[Callable[[], float], ...]:
    """Lengths of rows, each of entries of one box, once."""
    if not knows(x) or not place.size or not place.shape:
        return ()
    rows = np.sort(place.reshape(-1, place.shape[-1]), 1)
    sample = rows // prod(x.shape[1:])
    if (np.diff(rows, axis=1) == 0).any() or (sample != sample[:, :1]).any():
        return ()
    at = np.unravel_index(rows % prod(x.shape[2:]), x.shape[2:])
    box, known = tuple(int((a.max(1) - a.min(1)).max()) + 1 for a in at), boxes_of(x)
    return (lambda: known(box),)


def pixels_of(x: Known, place: Array) -> tuple[Boxes, ...]:
    """Of places each of whose channels are of one row, once."""
    known = x.form is not None or bool(x.lengths)
    if not known or len(place.shape) < 3 or not place.size or len(x.shape) < 1:
        return ()
    pixels = np.sort(np.moveaxis(place, 1, -1).reshape(-1, place.shape[1]), 1)
    rows = pixels // x.shape[-1]
    if (np.diff(pixels, axis=1) == 0).any() or (rows != rows[:, :1]).any():
        return ()
    held: list[float] = []

    def way(box: Sizes) -> float:
        if not held:
            held.append(x.length)
        return sqrt(prod(box)) * held[0]

    return (Boxes(place.shape, [way]),)
