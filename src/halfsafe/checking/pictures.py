"""Convolutions, pools, borders, and what is between entries of a picture."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product
from math import prod, sqrt
from typing import Any

import numpy as np

from halfsafe.checking.boxes import (
    Convolution,
    Steps,
    all_of,
    along,
    beside,
    boxes_of,
    knows,
    under_kernel,
)
from halfsafe.checking.calls import Call, sums
from halfsafe.checking.known import TINY, Array, Boxes, Known, U, V, between, both

CUBIC = 1.375
"""sum |w| of four cubic weights, 1 + 2 |a| t (1 - t) at t = 1/2, for a = -3/4."""


def numbers(c: Call, rank: int, *names: str) -> list[int]:
    """An option of each axis, 1 where there is none."""
    given: Any = next((n for name in names if (n := c.node.attributes.get(name))), 1)
    found = [int(n) for n in np.ravel(given)]
    return found * rank if len(found) == 1 else found


def constants(c: Call) -> tuple[Array, Array] | None:
    """Middle and half width of weights, which may be computed of constants."""
    held = c.array("weight")
    if held is not None:
        return held.astype(np.float64), np.zeros(1)
    w = c["weight"]
    if not np.isfinite(w.amax):
        return None
    low, high = (np.broadcast_to(e, w.shape) for e in (w.low, w.high))
    return (low + high) / 2, (high - low) / 2


def convolution(c: Call) -> Known:
    """Intervals over a window, of which a border of zeros is a part."""
    if c.node.attributes.get("transposed"):
        return transposed(c)
    found = constants(c)
    if found is None or found[0].ndim != len(c["input"].shape):
        return c.unknown()
    groups = numbers(c, 1, "groups", "group")[0]
    shape = (groups, -1, *found[0].shape[1:])
    w, off = found[0].reshape(shape), np.broadcast_to(found[1], found[0].shape).reshape(shape)
    steps, one = steps_of(c, w), (1,) * (w.ndim - 3)
    taps = [a.reshape(*a.shape[:3], -1) for a in (w, off)]
    made = windows(c, taps[0], taps[1], steps.reads(one))
    return convolved(c, made, w, steps, turned=False)


def steps_of(c: Call, w: Array) -> Steps:
    """Of weights (groups, out, into, *kernel)."""
    names = ("stride", "strides"), ("dilation", "dilations")
    stride, apart = (tuple(numbers(c, w.ndim - 3, *n)) for n in names)
    return Steps(w.shape[3:], stride, apart)


def convolved(c: Call, made: Known, w: Array, steps: Steps, *, turned: bool) -> Known:
    """What is known of boxes of it, of weights that are constants."""
    if c.array("weight") is None or not np.isfinite(made.amax):
        return made
    held, n = c.array("bias"), prod(w.shape[2:]) + 1
    bias = c["bias"].size.ravel() if held is None and "bias" in c.given else np.zeros(1)
    bias = np.broadcast_to(bias if held is None else np.abs(held).ravel(), c.shape[1:2])
    more = (sums(n) + 1.01 * U) * bias + TINY * (bias > 0)
    conv = Convolution(w, bias, steps, boxes_of(c["input"]), turned, c.refined, more=more)
    return replace(made, conv=conv)


def transposed(c: Call) -> Known:
    """Taps k meet in one output where k d is the same modulo the stride."""
    found = constants(c)
    if found is None or found[0].ndim != len(c["input"].shape):
        return c.unknown()
    groups, rank = numbers(c, 1, "groups", "group")[0], found[0].ndim - 2
    w, off = (np.broadcast_to(a, found[0].shape) for a in found)
    w, off = (a.reshape(groups, -1, *a.shape[1:]).swapaxes(1, 2) for a in (w, off))
    steps = steps_of(c, w)
    phases: list[Array] = [np.arange(n) * d % s
              for n, d, s in zip(steps.kernel, steps.apart, steps.stride, strict=True)]  # fmt: skip
    made: list[Known] = []
    for one in product(*(np.unique(p) for p in phases)):
        taps = np.ix_(*(np.flatnonzero(p == k) for p, k in zip(phases, one, strict=True)))
        chosen = [a[(..., *taps)].reshape(*a.shape[:3], -1) for a in (w, off)]
        made.append(windows(c, chosen[0], chosen[1], steps.spread((1,) * rank)))
    low, high = np.minimum.reduce([m.low for m in made]), np.maximum.reduce([m.high for m in made])
    whole = between(c.shape, low, high, c["input"].lost)
    return convolved(c, whole, w, steps, turned=True)


def windows(c: Call, w: Array, spare: Array, box: tuple[int, ...]) -> Known:
    """sum w x + c of weights (groups, out, into, taps) that are off by `spare`, where 0 is an x."""
    x, ends = c["input"], c["bias"] if "bias" in c.given else between((1,), 0.0, 0.0)
    bias = c.array("bias")
    if bias is not None:
        ends = between((bias.size,), bias.ravel(), bias.ravel())
    if not np.isfinite(x.amax) or not np.isfinite(ends.amax):
        return c.unknown()
    groups, out, into, taps = w.shape
    places = (0, *range(2, len(x.shape)))
    low, high = np.minimum(x.low.min(places), 0.0), np.maximum(x.high.max(places), 0.0)
    low, high = (np.broadcast_to(e, (x.shape[1],)).reshape(groups, 1, into) for e in (low, high))
    up, down = np.maximum(w, 0).sum(-1), np.minimum(w, 0).sum(-1)
    least, most = ((up * p + down * q).sum(-1).ravel() for p, q in ((low, high), (high, low)))
    b = [np.broadcast_to(e.ravel(), (groups * out,)) for e in (ends.low, ends.high)]
    size = np.maximum(*np.abs(b))
    size = size + 2.0**-14 * (size != 0)
    n, amax = into * taps, max(-low.min(), high.max())
    off = (sums(n + 1) + 1.01 * U) * ((np.abs(w).sum((2, 3)).ravel() + 2.0**-14 * n) * amax + size)
    off = off + 1.01 * (spare.sum(-1) * np.maximum(-low, high)).sum(-1).ravel()
    shape = (1, -1, *(1,) * (len(c.shape) - 2))
    low, high = least + b[0] - off, most + b[1] + off
    made = between(c.shape, low.reshape(shape), high.reshape(shape), x.lost)
    if spare.any() or c.array("weight") is None:
        return made
    positive = bool((x.low >= 0).all())
    down, up = under_kernel(w, boxes_of(x)(box), np.maximum(*np.abs(b)), positive=positive)
    ends = (b[0] - down).reshape(shape), (b[1] + up).reshape(shape)
    return both(made, between(c.shape, *ends))


def weight_norm(c: Call) -> list[Known]:
    """g v / ||v|| of what is stored: each factor is as far off as it can be."""
    v, g = c.array("v"), c.array("g")
    axis = int(c.node.attributes.get("dim", 0))
    if v is None or g is None:
        return [c.unknown()]
    v = v.astype(np.float64)
    others = tuple(i for i in range(v.ndim) if axis == -1 or i != axis % v.ndim)
    norm = np.sqrt((v**2).sum(others, keepdims=True))
    g, n = g.astype(np.float64).reshape(norm.shape), v.size // norm.size
    shorter = norm * (1 - U - sums(n + 8)) - TINY * np.sqrt(n)
    if not (shorter > 0).all():
        return [c.unknown()]
    most = (np.abs(g) * (1 + U) + TINY) * (np.abs(v) * (1 + U) + TINY) / shorter * (1 + sums(8))
    middle = g * v / norm
    off = most - np.abs(middle)
    spread = between(c.shape, middle - off, middle + off)
    reach = norm * (1 + U + sums(n + 8)) + TINY * np.sqrt(n)
    return [spread, *(between(c.graph.values[o].shape, 0.0, reach) for o in c.node.outputs[1:])]


def places(c: Call) -> tuple[int, ...]:
    """The axes of a picture: as many as the operator's name says, as there may be no batch."""
    rank = len(c.first.shape)
    found = next((int(n) for n in re.findall(r"([123])d\b", c.node.op)), rank - 2)
    return tuple(range(rank - found, rank))


def largest_of(c: Call) -> Known:
    """In the hull of what windows see, and of 0."""
    return replace(pooled(c, 0), boxes=pools(c, means=False))


def pools(c: Call, *, means: bool) -> tuple[Boxes, ...]:
    """An entry of each window, or a mean of n, whose square is no more than the mean of squares."""
    x, options, op = c.first, c.node.attributes, c.node.op.lower()
    rank = len(c.shape) - 2
    if not knows(x) or len(places(c)) != rank or len(x.shape) != rank + 2 or "unpool" in op:
        return ()
    if prod(c.shape[2:]) == 1:
        n, whole = prod(x.shape[2:]), "global" in op or "adaptive" in op
        share = (1 + sums(n + 2)) / sqrt(n) if means and whole else 1.0
        return (along(boxes_of(x), c.shape, lambda box: x.shape[2:], share),)
    named = next((n for n in ("kernel_size", "kernel_shape") if options.get(n)), None)
    if named is None:
        return ()
    kernel = numbers(c, rank, named)
    moves = any(options.get(n) for n in ("stride", "strides"))
    stride = numbers(c, rank, "stride", "strides") if moves or "onnx" in op else kernel
    steps = Steps(tuple(kernel), tuple(stride), tuple(numbers(c, rank, "dilation", "dilations")))
    share = sqrt(steps.often)
    border = [options.get(n) for n in ("padding", "pads", "ceil_mode")]
    border = any(np.any(b) for b in border if b is not None)
    if means and not border and options.get("auto_pad") in (None, "NOTSET", "VALID"):
        share *= (1 + sums(prod(kernel) + 2)) / sqrt(prod(kernel))
    return (along(boxes_of(x), c.shape, steps.reads, share),)


def larger(c: Call, *, linear: bool) -> tuple[Boxes, ...]:
    """A picture t times as large along each axis: each entry as often, or with weights that sum to
    t, in outputs whose weights sum to 1."""
    x = c.first
    if not knows(x) or c.shape[:2] != x.shape[:2]:
        return ()
    given = [v for k, v in c.node.attributes.items() if "scale" in k]
    given += [c.array(k) for k in c.given if "scale" in k]
    scales = [float(n) for v in given if v is not None for n in np.ravel(v) if n is not None]
    times = [n / m for n, m in zip(c.shape[2:], x.shape[2:], strict=True)]
    if any(n != int(n) for n in times + scales):
        return ()
    whole = [int(n) for n in times]

    def reads(box: tuple[int, ...]) -> tuple[int, ...]:
        each = zip(box, whole, strict=True)
        return tuple((n - 1) // t + 3 if linear else -((1 - n) // t) + 1 for n, t in each)

    return (along(boxes_of(x), c.shape, reads, sqrt(prod(whole)) * (1 + 32 * V)),)


def averages(c: Call) -> Known:
    """The same, and what a mean of n is off."""
    options, x = c.node.attributes, c.first
    if options.get("divisor_override") is not None:
        return c.unknown()
    names = [n for n in ("kernel_size", "kernel_shape") if options.get(n)]
    kernel = numbers(c, len(places(c)), *names) if names else [x.shape[a] for a in places(c)]
    return replace(pooled(c, prod(kernel) + 1), boxes=pools(c, means=True))


def pooled(c: Call, n: int) -> Known:
    """The hull by channels, and what sums of n are off."""
    x = c.first
    low, high = x.low.min(places(c), keepdims=True), x.high.max(places(c), keepdims=True)
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    off = sums(n) * np.maximum(-low, high) if n else 0.0
    return between(c.shape, low - off, high + off, x.lost)


def weighed(c: Call, axes: tuple[int, ...], gain: float, *, zero: bool = False) -> Known:
    """sum w x, sum w = 1, sum |w| = s: the middle of the hull, and s times half its width."""
    x = c.first
    low, high = x.low.min(axes, keepdims=True), x.high.max(axes, keepdims=True)
    low, high = (np.minimum(low, 0.0), np.maximum(high, 0.0)) if zero else (low, high)
    if not np.isfinite(x.amax):
        return between(c.shape, low, high, x.lost) if gain == 1 else c.unknown()
    off = sums(64) * gain * np.maximum(np.abs(low), np.abs(high)) + (gain - 1) * (high - low) / 2
    return between(c.shape, low - off, high + off, x.lost)


def linear_between(c: Call) -> Known:
    """The nearest entry, or what is linear between entries."""
    made = weighed(c, places(c), 1.0)
    middles = not c.node.attributes.get("align_corners") and "_aa" not in c.node.op
    linear = "nearest" not in c.node.op
    return replace(made, boxes=larger(c, linear=linear)) if middles else made


def cubic_between(c: Call) -> Known:
    """What is cubic between entries, along each axis."""
    return weighed(c, places(c), CUBIC ** len(places(c)))


def sampled(c: Call) -> Known:
    """Entries at places that come in, and what is between them; 0 is around."""
    options, axes = c.node.attributes, tuple(range(2, len(c.first.shape)))
    cubic = options.get("mode", options.get("interpolation_mode", 0)) in (2, "cubic", "bicubic")
    return weighed(c, axes, CUBIC ** len(axes) if cubic else 1.0, zero=True)


def resized(c: Call) -> Known:
    """The same along axes that are stretched."""
    options, rank = c.node.attributes, len(c.first.shape)
    mode, how = options.get("mode", "nearest"), options.get("coordinate_transformation_mode", "")
    if how == "tf_crop_and_resize":
        return c.unknown()
    axes, scales = tuple(range(rank)), options.get("scales", c.array("scales"))
    stretched = options.get("keep_aspect_ratio_policy", "stretch") == "stretch"
    if how != "tf_half_pixel_for_nn" and stretched:
        among = [int(a) % rank for a in options.get("axes") or axes]
        if "sizes" in c.given:
            axes = tuple(a for a in axes if c.shape[a] != c.first.shape[a])
        elif scales is not None and np.size(scales) == len(among):
            axes = tuple(a for a, s in zip(among, np.ravel(scales).tolist(), strict=True) if s != 1)
    if mode != "cubic":
        near = how or "half_pixel", options.get("nearest_mode", "round_prefer_floor")
        usual = near in (("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"))
        alike = mode == "nearest" and (usual or c.node.op == "onnx.Upsample")
        middles = near[0] in ("half_pixel", "pytorch_half_pixel") and not options.get("antialias")
        made = weighed(c, axes, 1.0)
        if not alike and not (mode == "linear" and middles):
            return made
        return replace(made, boxes=larger(c, linear=not alike))
    a = float(options.get("cubic_coeff_a", -0.75))
    if options.get("exclude_outside") or options.get("antialias") or not -1 <= a <= 0:
        return c.unknown()
    return weighed(c, axes, (1 + abs(a) / 2) ** len(axes))


def padded(c: Call) -> Known:
    """x, and around it a number or entries of x; along axes without a border all stays."""
    x, options, rank = c.first, c.node.attributes, len(c.first.shape)
    axes = tuple(range(rank))
    torch = options.get("pad", options.get("padding"))
    pads = options.get("pads", c.array("index"))
    if torch is not None:
        axes = tuple(rank - 1 - i for i in range(len(torch) // 2) if any(torch[2 * i : 2 * i + 2]))
    elif pads is not None and not c.computes("axes"):
        chosen = c.array("axes")
        among: list[int] = list(axes) if chosen is None else chosen.ravel().tolist()
        sizes: list[int] = np.ravel(pads).tolist()
        pairs = zip(among, sizes[: len(among)], sizes[len(among) :], strict=True)
        axes = tuple(a % rank for a, p, q in pairs if p or q)
    low, high = x.low.min(axes, keepdims=True), x.high.max(axes, keepdims=True)
    mode = options.get("mode", "constant")
    if "padding" in options or mode not in ("constant", b"constant"):
        return between(c.shape, low, high, x.lost)
    stated = c.number("value") or 0.0
    value = c["value"] if "value" in c.given else between((), stated, stated)
    low, high = np.minimum(low, value.low.min()), np.maximum(high, value.high.max())
    made = between(c.shape, low, high, x.lost or value.lost)
    if value.amax:
        return made
    boxes = tuple(beside(c.shape, [b]) for b in all_of(x))
    return replace(made, lengths=((lambda: x.length),), boxes=boxes)


def cut(c: Call) -> Known:
    """Entries of x where they were, or 0."""
    x = c.first
    made = between(c.shape, np.minimum(x.low, 0.0), np.maximum(x.high, 0.0), x.lost)
    return replace(made, lengths=((lambda: x.length),), boxes=all_of(x))
