"""Bounds of pools, and of values that are interpolated between others."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod

import numpy as np

from halfsafe.bounds.bound import Bound
from halfsafe.bounds.operands import Operands
from halfsafe.bounds.rounding import STEPS, summed

CUBIC = -0.75
"""The coefficient of what is cubic, in ONNX and in PyTorch."""


def pooled(b: Operands) -> Bound:
    """Maxima of windows, and what is linear between entries, by channels: in the hull of these and
    of 0, which is around them."""
    return _between(b, _spatial(b), 0.0)


def _spatial(b: Operands) -> tuple[int, ...]:
    """The axes of places: as many as the operator's name says, as there may be no batch, or all
    behind the channels."""
    rank = len(b.first.shape)
    count = next((int(n) for n in re.findall(r"([123])d\b", b.op)), rank - 2)
    return tuple(range(rank - count, rank))


def averaged(b: Operands) -> Bound:
    """Means of windows of n, by channels: the same, and what sums of n are off."""
    x = b.first
    if b.attributes.get("divisor_override") is not None:
        return Bound.unknown(b.shape, f"{b.name}, whose divisor is another")
    kernel = b.attributes.get("kernel_size", b.attributes.get("kernel_shape"))
    spatial = _spatial(b)
    sizes = [kernel] * len(spatial) if isinstance(kernel, int) else kernel
    if sizes is not None and len(sizes) == 1:
        sizes = list(sizes) * len(spatial)
    return _between(b, spatial, summed(prod(sizes or (x.shape[a] for a in spatial)) + 2))


def _between(b: Operands, axes: tuple[int, ...], off: float) -> Bound:
    x = b.first
    low, high = x.low.min(axes, keepdims=True), x.high.max(axes, keepdims=True)
    slack = off * np.maximum(np.abs(low), np.abs(high)) if off else 0.0
    return Bound.between(b.shape, np.minimum(low, 0) - slack, np.maximum(high, 0) + slack, x.lost)


def sampled(b: Operands) -> Bound:
    """Entries at places that come in, and what is between them; 0 around them."""
    mode = b.attributes.get("mode", b.attributes.get("interpolation_mode", 0))
    gain = 1.0
    if mode in (2, "cubic", "bicubic"):
        gain = overshoot(CUBIC) ** (len(b.first.shape) - 2)
    return Resampling(tuple(range(2, len(b.first.shape))), gain, zero=True).of(b, b.first)


def overshoot(a: float) -> float:
    """sum |w| of four cubic weights of coefficient a from -1 to 0: 1 + |a| / 2, half between two
    entries."""
    return 1 + abs(a) / 2


@dataclass(frozen=True)
class Resampling:
    """Values made of others along some axes by weights w of sum 1 and sum |w| = `gain`."""

    axes: tuple[int, ...]
    gain: float
    zero: bool = False

    def of(self, b: Operands, x: Bound) -> Bound:
        """The middle of the hull, and half of its width times sum |w|."""
        low, high = x.low.min(self.axes, keepdims=True), x.high.max(self.axes, keepdims=True)
        if self.zero:
            low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
        if not x.is_finite:
            return Bound.between(b.shape, low, high, x.lost)
        slack = 4 * (STEPS - 1) * self.gain * np.maximum(np.abs(low), np.abs(high))
        over = (self.gain - 1) * (high - low) / 2
        return Bound.between(b.shape, low - over - slack, high + over + slack)


def cubic(b: Operands) -> Bound:
    """Cubic between entries, by channels."""
    x = b.first
    axes = tuple(range(2, len(x.shape)))
    return Resampling(axes, overshoot(CUBIC) ** len(axes)).of(b, x)


def resized(b: Operands) -> Bound:
    """The nearest entry, or what is linear or cubic between entries, along the axes whose size
    changes."""
    x, mode = b.first, str(b.attributes.get("mode", "nearest"))
    axes, gain = _resized_axes(b, x), 1.0
    crops = b.attributes.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    if mode == "cubic":
        a = float(b.attributes.get("cubic_coeff_a", CUBIC))
        cut = b.attributes.get("exclude_outside") or b.attributes.get("antialias")
        if cut or not -1 <= a <= 0:
            return Bound.unknown(b.shape, f"{b.name}, whose weights are others")
        gain = overshoot(a) ** len(axes)
    if not crops:
        return Resampling(axes, gain).of(b, x)
    around = float(b.attributes.get("extrapolation_value", 0.0))
    made = Resampling(tuple(range(len(x.shape))), gain).of(b, x)
    ends = np.minimum(made.low, around), np.maximum(made.high, around)
    return Bound.between(b.shape, *ends, made.lost)


def _resized_axes(b: Operands, x: Bound) -> tuple[int, ...]:
    """Those along which values are not what they were: with a scale that is not 1, or another
    size."""
    every = tuple(range(len(x.shape)))
    moves = b.attributes.get("coordinate_transformation_mode") == "tf_half_pixel_for_nn"
    if moves or b.attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        return every
    if "sizes" in b:
        return tuple(i for i in every if b.shape[i] != x.shape[i])
    axes = list(b.attributes.get("axes") or every)
    given = b.attributes.get("scales")
    if given is None and b.is_known("scales"):
        given = b.constant("scales").ravel().tolist()
    if given is None or len(given) != len(axes):
        return every
    return tuple(axis % len(x.shape) for axis, n in zip(axes, given, strict=True) if n != 1)
