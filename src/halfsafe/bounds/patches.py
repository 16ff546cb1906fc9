"""How long what is in a patch of a picture may be, ||x||_2 over some places and all channels there.

Tensors are (batch, channels, *places), and a patch is a box of places, of one sample. A convolution
makes no patch longer than its largest singular value times that of the larger patch which it sees;
an entry of it is no larger than a row of its weights is long, times the patch under its kernel. So
a bound grows by the gain of a layer, where intervals grow by sums of magnitudes: of a kernel with n
random weights by about 2, and not by sqrt(n).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf, prod, sqrt

import numpy as np

from halfsafe.bounds.gains import SLACK, Array, Kernel, Size
from halfsafe.bounds.rounding import FLUSHED, ROUNDED, summed

Way = Callable[[Size], float]

DEPTH = 128
"""Patches that are asked for one after the other: from there on only whole pictures are known."""


class Patches:
    """No patch of a size is longer than this, which is computed when it is asked for.

    The least of some ways to bound it, times a factor, and `off` for each entry more. `of` are
    patches that these ask for in turn, and `entries` a way that asks for none.
    """

    def __init__(
        self,
        shape: Size,
        ways: Sequence[Way],
        of: Sequence[Patches] = (),
        entries: Way | None = None,
    ) -> None:
        self.channels, self.places = shape[1], shape[2:]
        least = () if entries is None else (entries,)
        self._ways, self._known = (*least, *ways), dict[Size, float]()
        self._factor, self._off = 1.0, 0.0
        self._depth = 1 + max((patches._depth for patches in of), default=0)
        if self._depth > DEPTH:
            self._ways, self._depth = (*least, _constant(self(self.places))), 0

    def __call__(self, size: Size) -> float:
        """Of a size, which may be larger than the picture."""
        size = tuple(map(min, size, self.places))
        found = self._known.get(size)
        if found is None:
            found = inf
            for way in self._ways:  # no generator: these call each other, one layer after another
                found = min(found, way(size))
            self._known[size] = found
        return self._factor * found + self._off * sqrt(prod(size) * self.channels)

    @property
    def whole(self) -> float:
        """Of a whole sample."""
        return self(self.places)

    def times(self, factor: float, off: float = 0.0) -> Patches:
        """Of entries that are larger by a factor, and by so much."""
        made = Patches((0, self.channels, *self.places), ())
        made._ways, made._known, made._depth = self._ways, self._known, self._depth
        made._factor, made._off = factor * self._factor, factor * self._off + off
        return made


def _constant(number: float) -> Way:
    return lambda size: number


def by_entries(size: Array, channels: int) -> Way:
    """sqrt(n sum over channels of max |x|^2), of the largest magnitude of each entry."""
    amax = size.max(axis=(0, *range(2, size.ndim)))
    pixel = sqrt(float((amax**2).sum()) * channels / len(amax)) * SLACK
    return lambda box: sqrt(prod(box)) * pixel


def of_sum(shape: Size, parts: Sequence[Patches]) -> Patches:
    """Of a sum of entries."""
    return Patches(shape, (lambda size: sum([part(size) for part in parts]),), parts)


def of_parts(shape: Size, parts: Sequence[Patches]) -> Patches:
    """Of channels that are those of several, or some of them: the root of the sum of squares."""
    return Patches(shape, (lambda size: sqrt(sum([part(size) ** 2 for part in parts])),), parts)


def of_windows(shape: Size, patches: Patches, kernel: Kernel, factor: float = 1.0) -> Patches:
    """Of entries made of what a kernel sees, with so much of its length at most."""
    return Patches(shape, (lambda size: factor * patches(kernel.seen(size)),), (patches,))


@dataclass(frozen=True, eq=False)
class Convolved:
    """A convolution, of which each channel is multiplied by a number and added to.

    Entries are g (W * x + c) with all their roundings `factor` times as large at most, and `beside`
    for each channel more. Weights are (groups, out, into, taps), those of a transpose as well, and
    `gain_of` says how much longer they make a patch.
    """

    weight: Array
    bias: Array
    kernel: Kernel
    source: Patches
    gain: Array
    beside: Array
    gain_of: Callable[[Array, Kernel], float]
    factor: float = 1.0
    transposed: bool = False

    def patches(self, shape: Size) -> Patches:
        """sigma(g W) ||x||_2 and sqrt(n) times the lengths of what is added."""
        known: list[float] = []
        own = float(np.linalg.norm(self.gain * self.bias))
        beside = float(np.linalg.norm(self.beside))

        sees = self.kernel.spreads if self.transposed else self.kernel.seen
        ways, factor, source = [self._sigma], self.factor, self.source

        def way(size: Size) -> float:
            if ways:  # weights are held no longer than until their gain is asked for
                known.append(ways.pop()())
            inside = known[0] * source(sees(size)) + own * sqrt(prod(size))
            return (factor * inside + beside * sqrt(prod(size))) * SLACK

        return Patches(shape, (way,), (source,))

    def _sigma(self) -> float:
        """sigma(g W), and what sums in FP32 and weights in FP16 are off, by sqrt(overlap) times the
        lengths of rows."""
        groups, out, into, taps = self.weight.shape
        gain = np.broadcast_to(self.gain, (groups * out,)).reshape(groups, out, 1, 1)
        weight = self.weight.astype(np.float64) * gain
        turned = np.swapaxes(weight, 1, 2) if self.transposed else weight
        found = self.gain_of(turned, self.kernel)
        terms = summed(into * taps + 1)
        stored = np.abs(weight) + FLUSHED / ROUNDED * np.abs(gain)
        off = (terms + 1.01 * ROUNDED) * sqrt(float((stored**2).sum()) * self.kernel.overlap)
        return found + off

    def stored(self, relative: float, absolute: float) -> Convolved:
        """Each entry off by so much of itself, and so much at least."""
        factor, beside = self.factor * (1 + relative), self.beside * (1 + relative) + absolute
        return replace(self, factor=factor, beside=beside)

    def scaled(self, gain: Array, beside: Array, factor: float = 1.0) -> Convolved:
        """Each channel times a number, and so much added to."""
        return replace(
            self,
            gain=self.gain * gain,
            beside=self.beside * np.abs(gain) * factor + beside,
            factor=self.factor * factor,
        )
