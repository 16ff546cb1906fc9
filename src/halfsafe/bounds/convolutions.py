"""Bounds of convolutions and their transposes, by channels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from math import sqrt
from typing import Any

import numpy as np

from halfsafe.bounds.bound import Bound, hull
from halfsafe.bounds.gains import SLACK, Array, Kernel
from halfsafe.bounds.linear import weights
from halfsafe.bounds.operands import Operands
from halfsafe.bounds.patches import Convolved, of_sum
from halfsafe.bounds.rounding import FLUSHED, ROUNDED, summed


@dataclass(frozen=True)
class Windows:
    """Weights (groups, out, into, taps), how far off they are, and a bias of all channels."""

    weight: Array
    off: Array | None
    low_bias: Array
    high_bias: Array

    def of(self, b: Operands, x: Bound, longest: float) -> Bound:
        """sum over a window of W x + c, of intervals, or of an x under the window that is no longer
        than this; where the border is filled up, 0 is among x."""
        groups, _, into, taps = self.weight.shape
        axis = len(x.shape) - len(b.shape) + 1
        others = tuple(i for i in range(len(x.shape)) if i != axis)
        low, high = x.low.min(others), x.high.max(others)
        low, high = (np.broadcast_to(end, (x.shape[axis],)) for end in (low, high))
        low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
        least, most = (end.reshape(groups, into, 1) for end in (low, high))
        up, down = (f(self.weight, 0.0).sum(axis=3) for f in (np.maximum, np.minimum))
        size, c = up - down, np.maximum(np.abs(self.low_bias), np.abs(self.high_bias))
        reach, terms = np.maximum(-least, most), into * taps
        sums = (size @ reach).ravel()
        amax = float(reach.max(initial=0.0))
        slack = (summed(terms + 1) + 1.01 * ROUNDED) * (
            FLUSHED / ROUNDED * (1 + terms * amax) + size.sum(axis=2).ravel() * amax + c
        )
        if self.off is not None:
            slack = slack + 1.01 * (self.off.sum(axis=3) @ reach).ravel()
        made_low = (up @ least + down @ most).ravel() + self.low_bias - slack
        made_high = (up @ most + down @ least).ravel() + self.high_bias + slack
        shape = (-1, *(1 for _ in b.shape[2:]))
        made = Bound.between(b.shape, made_low.reshape(shape), made_high.reshape(shape))
        if self.off is not None:
            return replace(made, summed=float((sums + c + slack).max(initial=0.0)))
        up, down, summed_up = self._by_length(longest, positive=bool((least >= 0).all()))
        ends = self.low_bias - down, self.high_bias + up
        low, high = (end.reshape(shape) for end in ends)
        made = made.meeting(Bound.between(b.shape, low, high, by="patches"))
        sums = np.minimum(sums + c + slack, summed_up + c)
        return replace(made, summed=float(sums.max(initial=0.0)))

    def _by_length(self, longest: float, *, positive: bool) -> list[Array]:
        """||W_i||_2 ||x||_2, of x >= 0 by its entries above 0, and by those under it; and what no
        sum on the way passes; with what sums in FP32 are off, and constants in FP16."""
        count, (groups, out, into, taps) = summed(self.weight[0, 0].size + 1), self.weight.shape
        c = np.maximum(np.abs(self.low_bias), np.abs(self.high_bias))
        rows = self.weight.reshape(groups * out, into * taps)
        whole = np.linalg.norm(rows, axis=1)
        stored = whole + FLUSHED / ROUNDED * sqrt(into * taps)
        off = (count + 1.01 * ROUNDED) * (stored * longest + c) + FLUSHED * (c > 0)
        sides = [np.maximum(rows, 0.0), np.maximum(-rows, 0.0)] if positive else [rows, rows]
        found = [np.linalg.norm(side, axis=1) for side in sides]
        return [(lengths * longest + off) * SLACK for lengths in (*found, whole)]

    def convolved(
        self, b: Operands, weight: Array, kernel: Kernel, *, transposed: bool = False
    ) -> Convolved:
        """What is known of patches of it, of weights as they are held."""
        count = len(self.low_bias)
        c = np.maximum(np.abs(self.low_bias), np.abs(self.high_bias))
        terms = summed(self.weight[0, 0].size + 1)
        return Convolved(
            weight=weight.reshape(self.weight.shape),
            bias=c,
            kernel=kernel,
            source=b["input"].patches,
            gain=np.ones(count),
            beside=(terms + 1.01 * ROUNDED) * c + FLUSHED * (c > 0),
            transposed=transposed,
            gain_of=b.gain_of,
        )


def convolution(b: Operands) -> Bound:
    """sum over a window of W x + c, by channels."""
    if b.attributes.get("transposed"):
        return transposed(b)
    x, (weight, off) = b["input"], weights(b)
    if weight.ndim != len(x.shape) or not x.is_finite:
        return Bound.unknown(b.shape, x.lost or f"{b.name}, which has no batch")
    groups = _groups(b)

    def in_groups(array: Array) -> Array:
        return array.astype(np.float64).reshape(groups, -1, weight.shape[1], weight[0, 0].size)

    ends = _bias(b, len(weight))
    if ends is None:
        return Bound.unknown(b.shape, b["bias"].lost)
    windows = Windows(in_groups(weight), None if off is None else in_groups(off), *ends)
    kernel = _kernel(b, weight)
    made = windows.of(b, x, x.patches(kernel.seen((1,) * (weight.ndim - 2))))
    if off is None:
        made = replace(made, convolved=windows.convolved(b, weight, kernel))
    return activated(b, made)


def transposed(b: Operands) -> Bound:
    """Every entry spread over a window by W: an output takes the taps of one phase of the stride,
    or some of them at the border, for which 0 is among x."""
    x, (weight, off) = b["input"], weights(b)
    if weight.ndim != len(x.shape) or not x.is_finite:
        return Bound.unknown(b.shape, x.lost or f"{b.name}, which has no batch")
    groups, rank = _groups(b), weight.ndim - 2
    ends = _bias(b, weight.shape[1] * groups)
    if ends is None:
        return Bound.unknown(b.shape, b["bias"].lost)

    def in_groups(array: Array) -> Array:
        found = array.astype(np.float64).reshape(groups, -1, *weight.shape[1:])
        return np.swapaxes(found, 1, 2)

    kernel = _kernel(b, weight)
    steps = zip(kernel.sizes, kernel.strides, kernel.dilations, strict=True)
    phases: list[Array] = [np.arange(size) * d % s for size, s, d in steps]
    w, o, found = in_groups(weight), None if off is None else in_groups(off), list[Bound]()
    longest = x.patches(kernel.spreads((1,) * rank))
    for phase in product(*(np.unique(p) for p in phases)):
        chosen = np.ix_(*(np.flatnonzero(p == one) for p, one in zip(phases, phase, strict=True)))
        taps = w[(..., *chosen)].reshape(*w.shape[:3], -1)
        spare = None if o is None else o[(..., *chosen)].reshape(taps.shape)
        found.append(Windows(taps, spare, *ends).of(b, x, longest))
    largest = max((made.summed or 0.0 for made in found), default=0.0)
    made = replace(hull(found, b.shape), summed=largest)
    if off is not None:
        return made
    windows = Windows(w.reshape(*w.shape[:3], -1), None, *ends)
    turned = np.swapaxes(weight.reshape(groups, -1, *weight.shape[1:]), 1, 2)
    return replace(made, convolved=windows.convolved(b, turned, kernel, transposed=True))


def _kernel(b: Operands, weight: Array) -> Kernel:
    rank = weight.ndim - 2
    strides, dilations = (
        _each(b, names, rank) for names in (("stride", "strides"), ("dilation", "dilations"))
    )
    return Kernel(weight.shape[2:], tuple(strides), tuple(dilations))


def _groups(b: Operands) -> int:
    return int(b.attributes.get("groups", b.attributes.get("group", 1)) or 1)


def _each(b: Operands, names: tuple[str, ...], rank: int) -> list[int]:
    """A number for each axis, 1 where there is none."""
    given: Any = next((n for name in names if (n := b.attributes.get(name))), [1])
    found = [given] if isinstance(given, int) else list(given)
    return [int(n) for n in (found * rank if len(found) == 1 else found)]


def _bias(b: Operands, count: int) -> tuple[Array, Array] | None:
    """Both ends of the bias, None where it has none."""
    if "bias" not in b:
        return np.zeros(count), np.zeros(count)
    if b.is_known("bias"):
        c = b.constant("bias").astype(np.float64).ravel()
        return c, c
    if not b["bias"].is_finite:
        return None
    low, high = (end.ravel() for end in b["bias"].expanded())
    return low, high


def activated(b: Operands, made: Bound) -> Bound:
    """What is added behind a convolution, and the function behind that."""
    if "addend" in b:
        low, high = made.low + b["addend"].low, made.high + b["addend"].high
        added = Bound.between(b.shape, low, high, b["addend"].lost)
        parts = made.patches, b["addend"].patches_as(b.shape)
        made = replace(added, summed=made.summed, windows=(of_sum(b.shape, parts),))
    name = b.attributes.get("activation")
    if not name:
        return made
    if name == "Relu":
        ends = np.maximum(made.low, 0.0), np.maximum(made.high, 0.0)
        found = Bound.between(b.shape, *ends, made.lost, made.by)
        return replace(found, summed=made.summed, windows=(made.patches,))
    if name in ("Tanh", "Sigmoid", "HardSigmoid"):
        return Bound.between(b.shape, -1.0 if name == "Tanh" else 0.0, 1.0)
    if name == "LeakyRelu" and abs((b.attributes.get("activation_params") or [0.01])[0]) <= 1:
        ends = np.minimum(made.low, -np.abs(made.low)), np.maximum(made.high, np.abs(made.low))
        return replace(Bound.between(b.shape, *ends), windows=(made.patches,))
    return Bound.unknown(b.shape, f"{b.name}, behind which is {name}")


def weight_norm(b: Operands) -> list[Bound]:
    """g v / ||v||, over all axes but one: computed of constants, whose square, norm and quotient
    are each off by 2^-11 of themselves, and entries of v by 2^-25; and ||v||."""
    v, g = (b.constant(name).astype(np.float64) for name in ("v", "g"))
    axis = int(b.attributes.get("dim", 0))
    others = tuple(i for i in range(v.ndim) if i != axis % v.ndim) if axis != -1 else None
    norms = np.sqrt((v**2).sum(axis=others, keepdims=True))
    if not norms.min(initial=1.0) > 0:
        return [Bound.unknown(shape, f"{b.name} of what is 0") for shape in b.shapes]
    count = v.size // norms.size
    g = g.reshape(norms.shape)
    share = FLUSHED * (1 + np.sqrt(count)) / norms
    off = np.abs(g) * ((6 * ROUNDED + summed(count)) * np.abs(v) / norms + share)
    off = (off + np.abs(g * v) / norms * share) * (1 + share) + FLUSHED * np.abs(v) * (
        1 + 1 / norms
    )
    middle = g * v / norms
    made = [Bound.between(b.shape, middle - 2 * off, middle + 2 * off)]
    slack = norms * (3 * ROUNDED + summed(count) + share)
    return [*made, *(Bound.between(s, norms - slack, norms + slack) for s in b.shapes[1:])]
