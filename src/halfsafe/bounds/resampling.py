"""Bounds of pools, and of values that are interpolated between others."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from math import prod, sqrt
from typing import Any

import numpy as np

from halfsafe.bounds.bound import Bound
from halfsafe.bounds.gains import Kernel
from halfsafe.bounds.operands import Operands
from halfsafe.bounds.patches import Patches, of_windows
from halfsafe.bounds.rounding import STEPS, summed

SCALES = ("scales_d", "scales_h", "scales_w")
"""Operands by which sizes grow, where they are one by one."""

CUBIC = -0.75
"""The coefficient of what is cubic, in ONNX and in PyTorch."""


def pooled(b: Operands) -> Bound:
    """Maxima of windows, and what is linear between entries, by channels: in the hull of these and
    of 0, which is around them."""
    made = _between(b, _spatial(b), 0.0)
    if "upsample" in b.op:
        return replace(made, windows=stretched(b, b.first))
    return replace(made, windows=_of_pool(b, means=False))


def _of_pool(b: Operands, *, means: bool) -> tuple[Patches, ...]:
    """Of an entry of each window, or of means of n: an entry of x is seen by some windows, and the
    square of a mean is no more than the mean of squares."""
    x = b.first
    if not x.has_patches or len(b.shape) != len(x.shape) or len(_spatial(b)) != len(b.shape) - 2:
        return ()
    if prod(b.shape[2:]) == 1 and "max_unpool" not in b.op.lower():  # of the whole picture, or less
        count, patches = prod(x.shape[2:]), x.patches
        whole = any(word in b.op.lower() for word in ("global", "adaptive"))
        share = (1 + summed(count + 2)) / sqrt(count) if means and whole else 1.0
        return (Patches(b.shape, (lambda size: patches.whole * share,), (patches,)),)
    sizes = b.attributes.get("kernel_size") or b.attributes.get("kernel_shape")
    if not sizes or "unpool" in b.op.lower():
        return ()
    rank = len(b.shape) - 2

    def each(*names: str, default: Any) -> tuple[int, ...]:
        given = next((n for name in names if (n := b.attributes.get(name))), default)
        found = [given] if isinstance(given, int) else list(given)
        return tuple(int(n) for n in (found * rank if len(found) == 1 else found))

    kernel = each("kernel_size", "kernel_shape", default=1)
    strides = each("stride", "strides", default=1 if b.op.startswith("onnx") else kernel)
    seen = Kernel(kernel, strides, each("dilation", "dilations", default=1))
    factor = sqrt(seen.overlap)
    border = any(each("padding", "pads", "ceil_mode", default=0))
    if means and not border and b.attributes.get("auto_pad") in (None, "NOTSET", "VALID"):
        factor *= (1 + summed(prod(kernel) + 2)) / sqrt(prod(kernel))
    return (of_windows(b.shape, x.patches, seen, factor),)


def stretched(b: Operands, x: Bound, *, linear: bool = False) -> tuple[Patches, ...]:
    """Of a picture t times as large along each axis, t whole: entries repeated, or what is linear
    between the middles of theirs. Then weights of an output sum to 1, so that its square is no more
    than the mean of squares, and those of an entry to t along each axis, at the border as well."""
    if not x.has_patches or b.shape[:2] != x.shape[:2]:
        return ()
    pairs = list(zip(b.shape[2:], x.shape[2:], strict=True))
    stated = [n for key, n in b.attributes.items() if "scale" in key and n is not None]
    stated += [b.constant("scales")] if b.is_known("scales") else []
    stated += [n for name in SCALES if (n := b.number(name)) is not None]
    scales = [float(n) for given in stated for n in np.ravel(given) if n is not None]
    if any(out % size for out, size in pairs) or not all(n.is_integer() for n in scales):
        return ()
    times, patches = [out // size for out, size in pairs], x.patches

    def way(size: tuple[int, ...]) -> float:
        pairs = zip(size, times, strict=True)
        seen = tuple((n - 1) // t + 3 if linear else (n - 2) // t + 2 for n, t in pairs)
        return sqrt(prod(times)) * STEPS * patches(seen)

    return (Patches(b.shape, (way,), (patches,)),)


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
    made = _between(b, spatial, summed(prod(sizes or (x.shape[a] for a in spatial)) + 2))
    if "upsample" in b.op:
        middles = not b.attributes.get("align_corners") and "_aa" not in b.op
        return replace(made, windows=stretched(b, b.first, linear=True) if middles else ())
    return replace(made, windows=_of_pool(b, means=True))


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
        made = Resampling(axes, gain).of(b, x)
        if not _is_plain(b, mode):
            return made
        return replace(made, windows=stretched(b, x, linear=mode == "linear"))
    around = float(b.attributes.get("extrapolation_value", 0.0))
    made = Resampling(tuple(range(len(x.shape))), gain).of(b, x)
    ends = np.minimum(made.low, around), np.maximum(made.high, around)
    return Bound.between(b.shape, *ends, made.lost)


def _is_plain(b: Operands, mode: str) -> bool:
    """Whether, where sizes grow by whole numbers, entries are repeated, each as often, or what is
    between their middles is linear."""
    where = b.attributes.get("coordinate_transformation_mode", "half_pixel")
    if mode == "linear":
        return where in ("half_pixel", "pytorch_half_pixel") and not b.attributes.get("antialias")
    how = where, b.attributes.get("nearest_mode", "round_prefer_floor")
    usual = how in (("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"))
    return mode == "nearest" and (usual or b.op == "onnx.Upsample")


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
