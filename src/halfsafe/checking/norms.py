"""Normalisations, behind which what is normalised is of a ball."""

from __future__ import annotations

from dataclasses import replace
from math import prod, sqrt

import numpy as np

from halfsafe.checking.boxes import boxes_of, knows
from halfsafe.checking.calls import Call, sums
from halfsafe.checking.known import MORE, TINY, Boxes, Known, U, between, nothing
from halfsafe.checking.linear import behind_norm


def layer_norm(c: Call) -> Known:
    """g u + b, u no longer than sqrt(d)."""
    axes = c.node.attributes.get("normalized_shape")
    width = prod(axes) if axes else prod(c.shape[int(c.node.attributes.get("axis", -1)) :])
    g, b = as_given(c, "weight"), as_given(c, "bias")
    if not all(np.isfinite(x.amax) for x in (g, b) if x is not None):
        return c.unknown()
    if width != c.shape[-1]:
        return spread(c, sqrt(width), g, b)
    return behind_norm(c.shape, g, b, sqrt(width))


def as_given(c: Call, operand: str) -> Known | None:
    """A gain or shift: a constant as it is, what is known of one that is computed."""
    array = c.array(operand)
    if array is None:
        return c[operand] if operand in c.given else None
    return between(array.shape, array, array)


def spread(c: Call, radius: float, g: Known | None, b: Known | None) -> Known:
    """Each entry of u is no larger than u is long."""
    gain = np.ones(1) if g is None else g.size
    low, high = (np.zeros(1), np.zeros(1)) if b is None else (b.low, b.high)
    reach = radius * (1 + 2 * sums(int(radius**2) + 8)) * gain
    size = np.maximum(np.abs(low), np.abs(high))
    reach = reach + 1.01 * U * (reach + size) + (1 + radius) * TINY
    return between(c.shape, low - reach, high + reach)


def by_channels(c: Call, radius: float, width: int) -> Known:
    """The same of gains by channels, or by groups of them; all of a group is no longer than the
    radius times its largest gain."""
    g, b = (_of_channels(c, operand) for operand in ("weight", "bias"))
    if not all(np.isfinite(x.amax) for x in (g, b) if x is not None):
        return c.unknown()
    made, n = spread(c, radius, g, b), c.shape[1]
    if len(c.shape) < 3:
        return made
    gain = np.broadcast_to(1.0 if g is None else g.size.ravel(), (n,))
    own = 0.0 if b is None else float(np.linalg.norm(np.broadcast_to(b.size.ravel(), (n,))))
    longest = float(np.linalg.norm(gain.reshape(-1, width).max(1)))
    longest *= radius * (1 + 2 * sums(int(radius**2) + 8))

    def way(box: tuple[int, ...]) -> float:
        each = sqrt(prod(box))
        return (longest + own * each) * (1 + 1.01 * U) * MORE + (1 + radius) * TINY * sqrt(n) * each

    return replace(made, boxes=(Boxes(c.shape, [way]),))


def _of_channels(c: Call, operand: str) -> Known | None:
    """One of groups is repeated for the channels of each."""
    found = as_given(c, operand)
    if found is None:
        return None
    ends = [np.broadcast_to(e, found.shape).ravel() for e in (found.low, found.high)]
    shape = (1, c.shape[1], *(1,) * (len(c.shape) - 2))
    low, high = (e.repeat(c.shape[1] // e.size).reshape(shape) for e in ends)
    return between(shape, low, high)


def group_norm(c: Call) -> Known:
    """u is no longer than the root of how many entries a group has."""
    groups = next(n for k in ("num_groups", "group", "") if (n := c.number(k) or not k))
    return by_channels(c, sqrt(prod(c.shape[1:]) / float(groups)), c.shape[1] // int(groups))


def instance_norm(c: Call) -> Known:
    """The same of a channel."""
    if not c.node.attributes.get("use_input_stats", True):
        return batch_norm(c)
    return by_channels(c, sqrt(prod(c.shape[2:])), 1)


def batch_norm(c: Call) -> Known:
    """(x - m) g / sqrt(v + eps) + b, by channels."""
    x, shape = c["input"], (1, -1, *(1,) * (len(c.shape) - 2))
    mean, var, g, b = (c.array(n) for n in ("running_mean", "running_var", "weight", "bias"))
    options = c.node.attributes
    trains = options.get("training") or options.get("training_mode") or c.computes("weight", "bias")
    if mean is None or var is None or trains or not np.isfinite(x.amax):
        return c.unknown()
    wide = var.astype(np.float64) + (c.number("eps") or 0.0)
    if not (wide > 0).all():
        return c.unknown()
    one = np.ones(len(wide))
    gain, bias = (e if a is None else a.astype(np.float64) for a, e in ((g, one), (b, 0 * one)))
    scale, m, bias = (a.reshape(shape) for a in (1 / np.sqrt(wide), mean.astype(np.float64), bias))
    factor = gain.reshape(shape) * scale
    ends, offset = (x.low * factor, x.high * factor), bias - m * factor
    reach = x.size + np.abs(m)
    off = (4 * U + TINY / float(wide.min())) * (reach * np.abs(factor) + np.abs(bias))
    off = off + TINY * (1 + (reach + 1) * scale)
    low, high = np.minimum(*ends) + offset - off, np.maximum(*ends) + offset + off
    made = between(c.shape, low, high, x.lost)
    if not knows(x):
        return made
    share = 4 * U + TINY / float(wide.min())
    reach = reach.max((0, *range(2, reach.ndim)), keepdims=True)
    more = np.abs(offset) + share * (np.abs(m * factor) + np.abs(bias))
    more = (more + TINY * (1 + (reach + 1) * scale)).ravel()
    factor, own = factor.ravel(), float(np.linalg.norm(more))
    most, boxes = float(np.abs(factor).max()) * (1 + share), boxes_of(x)

    def way(box: tuple[int, ...]) -> float:
        return (most * boxes(box) + own * sqrt(prod(box))) * MORE

    conv = None if x.conv is None else x.conv.scaled(factor, more, 1 + share)
    return replace(made, boxes=(Boxes(c.shape, [way], [boxes]),), conv=conv)


def norm_of_sum(c: Call) -> list[Known]:
    """A norm of a sum, which is the last output."""
    g, shift = as_given(c, "weight"), as_given(c, "bias")
    if g is None or not all(np.isfinite(x.amax) for x in (g, shift) if x is not None):
        return [c.unknown()]
    parts = [c[n] for n in ("input", "skip", "addend") if n in c.given]
    off = sums(3) * sum(p.size for p in parts)
    low, high = sum(p.low for p in parts) - off, sum(p.high for p in parts) + off
    norm = behind_norm(c.shape, g, shift, sqrt(c.shape[-1]))
    shapes = [c.graph.values[o].shape for o in c.node.outputs]
    made = [norm, *(nothing(s, f"{c.node}, a statistic") for s in shapes[1:3])]
    lost = next((p.lost for p in parts if p.lost), "")
    return [*made, *(between(s, low, high, lost) for s in shapes[3:])]


def norm_of_rows(c: Call) -> list[Known]:
    """A norm of a sum of rows of tables, which is the last output."""
    tables = [c.array(n) for n in ("word", "position", "segment") if n in c.given]
    if c.computes("weight", "bias") or any(t is None for t in tables):
        return [c.unknown()]
    held = [t.astype(np.float64) for t in tables if t is not None]
    off = sum(2 * U * np.abs(t).max(0) + TINY for t in held)
    low, high = sum(t.min(0) for t in held) - off, sum(t.max(0) for t in held) + off
    norm = behind_norm(c.shape, as_given(c, "weight"), as_given(c, "bias"), sqrt(c.shape[-1]))
    shapes = [c.graph.values[o].shape for o in c.node.outputs]
    made = [norm, *(nothing(s, f"{c.node}, a mask") for s in shapes[1:2])]
    return [*made, *(between(s, low, high) for s in shapes[2:])]
