"""Bounds of what is over axes: means, sums, norms, spreads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf, prod, sqrt

import numpy as np

from halfsafe.bounds.bound import Bound, hull
from halfsafe.bounds.gains import Array
from halfsafe.bounds.operands import Operands
from halfsafe.bounds.patches import Patches
from halfsafe.bounds.rounding import summed


def averaged(b: Operands) -> Bound:
    """A mean, or the largest or least, along some axes is in the hull of what it is of."""
    made = _reduced(
        b,
        lambda low, axes, n: low.min(axes, keepdims=True),
        lambda high, axes, n: high.max(axes, keepdims=True),
    )
    return _of_whole(b, made)


def _of_whole(b: Operands, made: Bound) -> Bound:
    """Of all places of a picture: a mean of n squares is no less than the square of their mean, so
    that means of channels are no longer than ||x||_2 / sqrt(n), and the largest than ||x||_2."""
    x = b.first
    if not x.has_patches or axes_of(b, len(x.shape)) != tuple(range(2, len(x.shape))):
        return made
    count = prod(x.shape[2:])
    share = (1 + summed(count + 2)) / sqrt(count) if "mean" in b.op.lower() else 1.0
    patches = x.patches
    if len(b.shape) == 2:
        return replace(made, lengths=(lambda: patches.whole * share,))
    return replace(
        made, windows=(Patches(b.shape, (lambda _: patches.whole * share,), (patches,)),)
    )


def added(b: Operands) -> Bound:
    """A sum of n entries, of which intervals say the least and the largest."""

    def of(end: Array, axes: tuple[int, ...], n: int) -> Array:
        counted = prod(end.shape[a] for a in axes)
        return end.sum(axes, keepdims=True) * (n / counted)

    return _reduced(b, of, of)


Reduction = Callable[[Array, tuple[int, ...], int], Array]


def _reduced(b: Operands, least_of: Reduction, largest_of: Reduction) -> Bound:
    x = b.first
    axes = axes_of(b, len(x.shape))
    count = prod(x.shape[axis] for axis in axes)
    low, high = least_of(x.low, axes, count), largest_of(x.high, axes, count)
    slack = summed(count) * np.maximum(np.abs(low), np.abs(high))
    if (x.low < 0).any() and (x.high > 0).any():  # what cancels has errors of what it is made of
        slack = summed(count) * x.amax * count
    if len(b.shape) < len(x.shape):
        low, high, slack = (
            np.squeeze(end, axes) if np.ndim(end) else end for end in (low, high, slack)
        )
    least = 0.0 if (x.low >= 0).all() else -inf  # of what is not negative, nothing is
    return Bound.between(b.shape, np.maximum(low - slack, least), high + slack, x.lost)


def axes_of(b: Operands, rank: int) -> tuple[int, ...]:
    """The axes that a reduction is over. Raises Computed where they depend on the input."""
    given = b.attributes.get("dim", b.attributes.get("axes"))
    if given is None and "axes" in b:
        given = b.constant("axes").ravel().tolist()
    found: Sequence[int] = [given] if isinstance(given, int) else given or ()
    if not found and b.attributes.get("noop_with_empty_axes"):
        return ()
    return tuple(axis % max(rank, 1) for axis in found if rank) or tuple(range(rank))


def _kept(b: Operands, end: Array, axes: tuple[int, ...]) -> Array:
    """Without the axes, where the operator leaves them out."""
    return np.squeeze(end, axes) if len(b.shape) < end.ndim else end


def _counted(x: Bound, size: Array, axes: tuple[int, ...]) -> Array:
    """The sum of such entries along axes."""
    counted = prod(size.shape[axis] for axis in axes)
    return size.sum(axes, keepdims=True) * (prod(x.shape[axis] for axis in axes) / counted)


def length(order: float | None = None) -> Callable[[Operands], Bound]:
    """||x||_p along some axes: of p = 1 the sum of |x|, of p = 2 no more than the length of a row,
    of p = inf the largest |x|."""

    def bound(b: Operands) -> Bound:
        return _norm(b, _order(b) if order is None else order)

    return bound


def _order(b: Operands) -> float:
    return next((n for key in ("ord", "p") if (n := b.number(key)) is not None), 2.0)


def _norm(b: Operands, order: float) -> Bound:
    x = b.first
    axes = axes_of(b, len(x.shape))
    count = prod(x.shape[axis] for axis in axes)
    least = np.where((x.low < 0) & (x.high > 0), 0.0, np.minimum(np.abs(x.low), np.abs(x.high)))
    low, high = least.max(axes, keepdims=True), x.size.max(axes, keepdims=True)
    if order == -inf:
        low, high = least.min(axes, keepdims=True), x.size.min(axes, keepdims=True)
    elif 0 < order < inf:
        flushed = 2.0 ** (-126 / max(order, 1.0))  # its power may be 0 in FP32
        with np.errstate(over="ignore"):
            ends = np.where(least > flushed, least, 0.0), x.size
            low, high = (_counted(x, end**order, axes) ** (1 / order) for end in ends)
        if order == 2 and axes == (len(x.shape) - 1,):
            high = np.minimum(high, x.length)
    elif order != inf:
        return Bound.unknown(b.shape, f"{b.name} of order {order:g}")
    off = 2 * summed(count + 8)
    ends = low * max(1 - off, 0.0), high * (1 + off)
    lost = x.lost if not np.isfinite(high).all() else ""
    return Bound.between(b.shape, *(_kept(b, ends[0], axes), _kept(b, ends[1], axes)), lost)


def sum_of_squares(b: Operands) -> Bound:
    """||x||_2^2 along some axes."""
    found = _norm(b, 2.0)
    return Bound.between(b.shape, found.low**2, found.high**2 * (1 + 1e-6), found.lost)


def log_sum_exp(b: Operands) -> Bound:
    """log sum exp(x): the largest x, and log n more at most."""
    x = b.first
    axes = axes_of(b, len(x.shape))
    count = prod(x.shape[axis] for axis in axes)
    slack = summed(count + 8) + 1e-6 * (1 + (x.amax if x.is_finite else 0.0))
    low = x.low.max(axes, keepdims=True) - slack
    high = x.high.max(axes, keepdims=True) + np.log(count) + slack
    return Bound.between(b.shape, _kept(b, low, axes), _kept(b, high, axes), x.lost)


def multiplied(b: Operands) -> Bound:
    """The product of n entries: no more than max |x|^n, or 1."""
    x = b.first
    count = prod(x.shape)
    with np.errstate(over="ignore"):
        reach = float(np.float64(max(x.amax, 1.0)) ** count) * (1 + summed(count))
    low = 0.0 if (x.low >= 0).all() else -reach
    return Bound.between(b.shape, low, reach, x.lost or "" if np.isfinite(reach) else b.name)


def partly_added(b: Operands) -> Bound:
    """Sums of some entries along an axis: from those of all that are negative to those of all that
    are positive."""
    x = b.first
    axes = axes_of(b, len(x.shape))
    low = _counted(x, np.minimum(x.low, 0.0), axes)
    high = _counted(x, np.maximum(x.high, 0.0), axes)
    slack = summed(prod(x.shape[axis] for axis in axes)) * _counted(x, x.size, axes)
    low, high = _kept(b, low - slack, axes), _kept(b, high + slack, axes)
    return Bound.between(b.shape, low, high, x.lost)


def _deviation(b: Operands) -> tuple[Array, tuple[int, ...]]:
    """The largest sum((x - m)^2) / (n - k): n / (n - k) of the square of half the span."""
    x = b.first
    axes = axes_of(b, len(x.shape))
    count = prod(x.shape[axis] for axis in axes)
    less = b.number("correction")
    unbiased = b.attributes.get("unbiased", True)
    less = (1.0 if unbiased else 0.0) if less is None else less
    span = (x.high.max(axes, keepdims=True) - x.low.min(axes, keepdims=True)) / 2
    slack = 2 * summed(count + 8)
    off = slack * x.amax if x.is_finite else 0.0
    share = count / (count - less) if count > less else inf
    return ((span + off) ** 2 * share * (1 + slack)), axes


def variance(b: Operands) -> list[Bound]:
    """From 0 to the square of half the span (Popoviciu), and the mean, which is in the hull."""
    most, axes = _deviation(b)
    made = [Bound.between(b.shape, 0.0, _kept(b, most, axes), b.first.lost)]
    return [*made, averaged(b)] if len(b.shapes) > 1 else made


def deviation(b: Operands) -> Bound:
    """The root of the variance."""
    most, axes = _deviation(b)
    return Bound.between(b.shape, 0.0, np.sqrt(_kept(b, most, axes)), b.first.lost)


def differences(b: Operands) -> Bound:
    """What entries differ by: the span, twice as much again for each time."""
    found = hull([Bound.between((), x.low.min(), x.high.max(), x.lost) for x in b.tensors], ())
    times = int(b.number("n") or b.attributes.get("n") or 1)
    reach = float(found.high - found.low) * 2.0 ** (times - 1) * (1 + summed(2 * times))
    return Bound.between(b.shape, -reach, reach, found.lost)


def pooled_length(b: Operands) -> Bound:
    """(sum |x|^p)^(1/p) over windows of n: n^(1/p) max |x|, by channels."""
    x, order = b.first, float(b.attributes.get("p", 2))
    count = prod(b.attributes.get("kernel_shape") or x.shape[2:])
    size = x.size.max(tuple(range(2, len(x.shape))), keepdims=True)
    reach = size * count ** (1 / order) * (1 + 2 * summed(count + 8))
    return Bound.between(b.shape, 0.0, reach, x.lost)


def normalised_length(b: Operands) -> Bound:
    """x / ||x||_2 along an axis, in FP32 inside: no more than 1, and a quarter more where FP32
    flushes the squares of an x under 2^-70."""
    if int(b.attributes.get("p", 2)) != 2:
        return Bound.unknown(b.shape, f"{b.name}, whose norm is another")
    return Bound.between(b.shape, -1.25, 1.25)


def partly_normalised(b: Operands) -> Bound:
    """x / (k + a / n sum x^2)^p, for k > 0 and a, p >= 0: no more than |x| / k^p."""
    x = b.first
    bias, power = (float(b.attributes.get(n, e)) for n, e in (("bias", 1.0), ("beta", 0.75)))
    factor = b.number("alpha")
    if bias <= 0 or power < 0 or (factor is not None and factor < 0):
        return Bound.unknown(b.shape, f"{b.name}, whose divisor may be 0")
    share = bias**-power * (1 + 1e-5)
    ends = np.minimum(x.low, 0.0) * share, np.maximum(x.high, 0.0) * share
    made = Bound.between(b.shape, *ends, x.lost)
    return replace(made, lengths=(x.longest.times(share),))
