"""What is over axes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf, prod, sqrt

import numpy as np

from halfsafe.checking.boxes import along, boxes_of, knows
from halfsafe.checking.calls import Call, sums
from halfsafe.checking.known import Array, Known, V, between


def reduced(how: str) -> Callable[[Call], Known]:
    """A sum, or what is in the hull."""

    def rule(c: Call) -> Known:
        x, axes = c.first, c.axes()
        n = prod(x.shape[a] for a in axes)
        if how == "sum":
            low, high = (
                e.sum(axes, keepdims=True) * (n / prod(e.shape[a] for a in axes))
                for e in (x.low, x.high)
            )
        else:
            low, high = x.low.min(axes, keepdims=True), x.high.max(axes, keepdims=True)
        off = sums(n) * np.maximum(np.abs(low), np.abs(high))
        if (x.low < 0).any() and (x.high > 0).any():
            off = sums(n) * x.amax * n
        low = np.maximum(low - off, 0.0 if (x.low >= 0).all() else -inf)
        high = high + off
        if len(c.shape) < len(x.shape):
            low, high = np.squeeze(low, axes), np.squeeze(high, axes)
        made = between(c.shape, low, high, x.lost)
        if how == "sum" or not knows(x) or axes != tuple(range(2, len(x.shape))):
            return made
        mean = "mean" in c.node.op.lower()
        share, boxes = (1 + sums(n + 2)) / sqrt(n) if mean else 1.0, boxes_of(x)
        if len(c.shape) == 2:
            return replace(made, lengths=((lambda: share * boxes(x.shape[2:])),))
        return replace(made, boxes=(along(boxes, c.shape, lambda box: x.shape[2:], share),))

    return rule


def over(x: Known, size: Array, axes: tuple[int, ...]) -> Array:
    """The sum of what is of each entry, along axes."""
    return size.sum(axes, keepdims=True) * prod(x.shape[a] / size.shape[a] for a in axes)


def kept(c: Call, ends: tuple[Array, Array], lost: str) -> Known:
    """With the axes, or without."""
    axes = c.axes()
    low, high = (np.squeeze(e, axes) if e.ndim > len(c.shape) else e for e in ends)
    return between(c.shape, low, high, lost)


def length(order: float | None = None) -> Callable[[Call], Known]:
    """(sum |x|^p)^(1/p), p >= 1; powers that FP32 flushes are of an |x| under 2^(-149/p)."""

    def rule(c: Call) -> Known:
        found = [p for n in ("ord", "p") if (p := c.number(n)) is not None]
        p = order or (found[0] if found else 2.0)
        return normed(c, p) if p >= 1 else c.unknown()

    return rule


def normed(c: Call, p: float) -> Known:
    """The same of one p."""
    x, axes = c.first, c.axes()
    n = prod(x.shape[a] for a in axes)
    least = np.where((x.low < 0) & (x.high > 0), 0.0, np.minimum(np.abs(x.low), np.abs(x.high)))
    low, high, lost = least.max(axes, keepdims=True), x.size.max(axes, keepdims=True), 0.0
    if p < inf:
        with np.errstate(over="ignore"):
            low, high = (over(x, e**p, axes) ** (1 / p) for e in (least, x.size))
        lost = n * 2.0 ** (-148 / p) if p > 1 else 0.0
    if p == 2 and axes == (len(x.shape) - 1,):
        high = np.minimum(high, x.length)
    off = 2 * sums(n + 8)
    return kept(c, (np.maximum(low * (1 - off) - lost, 0.0), high * (1 + off)), x.lost)


def squares(c: Call) -> Known:
    """sum x^2."""
    root = normed(c, 2.0)
    return between(c.shape, root.low**2, root.high**2, root.lost)


def log_sum_exp(c: Call) -> Known:
    """From the largest x to log n more."""
    x, axes = c.first, c.axes()
    n = prod(x.shape[a] for a in axes)
    off = sums(n + 8) + 16 * V * (1 + (x.amax if np.isfinite(x.amax) else 0.0))
    low, high = x.low.max(axes, keepdims=True), x.high.max(axes, keepdims=True)
    return kept(c, (low - off, high + np.log(n) + off), x.lost)


def multiplied(c: Call) -> Known:
    """No product of n entries, or fewer, is more than max(1, |x|)^n."""
    x = c.first
    n = prod(x.shape[a] for a in c.axes())
    with np.errstate(over="ignore"):
        reach = float(np.float64(max(x.amax, 1.0)) ** n) * (1 + sums(n))
    return between(c.shape, 0.0 if (x.low >= 0).all() else -reach, reach, x.lost)


def partly(c: Call) -> Known:
    """Sums of some: from those of all that may be negative to those of all that may not."""
    x, axes = c.first, c.axes()
    off = sums(prod(x.shape[a] for a in axes)) * over(x, x.size, axes)
    low, high = over(x, np.minimum(x.low, 0.0), axes), over(x, np.maximum(x.high, 0.0), axes)
    return kept(c, (low - off, high + off), x.lost)


def variance(root: bool = False) -> Callable[[Call], Known | list[Known]]:
    """n / (n - k) of the square of half the span at most (Popoviciu), and the mean."""

    def rule(c: Call) -> Known | list[Known]:
        x, axes = c.first, c.axes()
        n, less = prod(x.shape[a] for a in axes), c.number("correction")
        if less is None:
            less = 1.0 if c.node.attributes.get("unbiased", True) else 0.0
        if n <= less or not np.isfinite(x.amax):
            return c.unknown()
        off = 2 * sums(n + 8)
        low, high = x.low.min(axes, keepdims=True), x.high.max(axes, keepdims=True)
        most = ((high - low) / 2 + off * x.amax) ** 2 * n / (n - less) * (1 + off)
        most = np.sqrt(most) if root else most
        made = kept(c, (np.zeros_like(most), most), x.lost)
        mean = kept(c, (low - off * x.amax, high + off * x.amax), x.lost)
        return [made, mean] if len(c.node.outputs) > 1 else made

    return rule


def differences(c: Call) -> Known:
    """Each time the span is twice as wide: the first is from low - high to high - low."""
    parts = [c.walk[v] for v in c.tensors]
    span = max(float(p.high.max()) for p in parts) - min(float(p.low.min()) for p in parts)
    times = int(c.number("n") or 1)
    reach = span * 2.0 ** (times - 1) * (1 + sums(2 * times))
    return between(c.shape, -reach, reach, next((p.lost for p in parts if p.lost), ""))


def several(mean: bool) -> Callable[[Call], Known]:
    """The sum of all operands, or their mean."""

    def rule(c: Call) -> Known:
        parts = [c.walk[v] for v in c.given.values()]
        off = sums(len(parts) + 1) * sum(p.size for p in parts)
        low, high = sum(p.low for p in parts) - off, sum(p.high for p in parts) + off
        n = len(parts) if mean else 1
        return between(c.shape, low / n, high / n, next((p.lost for p in parts if p.lost), ""))

    return rule


def local_response(c: Call) -> Known:
    """x / (k + a mean(x^2))^p is no more than |x| / k^p, for k > 0 and a, p >= 0."""
    x, options = c.first, c.node.attributes
    k, p, a = float(options.get("bias", 1.0)), float(options.get("beta", 0.75)), c.number("alpha")
    if k <= 0 or p < 0 or (a or 0.0) < 0:
        return c.unknown()
    share = k**-p * (1 + 1e-5)
    low, high = share * np.minimum(x.low, 0.0), share * np.maximum(x.high, 0.0)
    return replace(between(c.shape, low, high, x.lost), lengths=((lambda: x.length * share),))


def of_length_one(c: Call) -> Known:
    """x / ||x||_2: 1, or a quarter more where FP32 rounds squares to its least number."""
    plain = int(c.node.attributes.get("p", 2)) == 2
    return between(c.shape, -1.25, 1.25) if plain else c.unknown()


def pooled(c: Call) -> Known:
    """(sum |x|^p)^(1/p) of n is no more than n^(1/p) max |x|, by channels."""
    x, p = c.first, float(c.node.attributes.get("p", 2))
    n = prod(c.node.attributes.get("kernel_shape") or x.shape[2:])
    reach = x.size.max(tuple(range(2, len(x.shape))), keepdims=True) * n ** (1 / p)
    return between(c.shape, 0.0, reach * (1 + 2 * sums(n + 8)), x.lost) if p >= 1 else c.unknown()
