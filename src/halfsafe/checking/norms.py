"""Normalisations, behind which what is normalised is of a ball."""

from __future__ import annotations

from dataclasses import replace
from math import prod, sqrt

import numpy as np

from halfsafe.checking.boxes import boxes_of, knows
from halfsafe.checking.calls import Call, sums
from halfsafe.checking.known import MORE, TINY, Array, Boxes, Known, U, between, nothing
from halfsafe.checking.linear import behind_norm


def layer_norm(c: Call) -> Known:
    """g u + b, u no longer than sqrt(d)."""
    axes = c.node.attributes.get("normalized_shape")
    width = prod(axes) if axes else prod(c.shape[int(c.node.attributes.get("axis", -1)) :])
    if c.computes("weight", "bias"):
        return c.unknown()
    g, b = c.array("weight"), c.array("bias")
    if width != c.shape[-1]:
        return spread(c, sqrt(width), g, b)
    return behind_norm(c.shape, g, b, sqrt(width))


def spread(c: Call, radius: float, g: Array | None, b: Array | None) -> Known:
    """Each entry of u is no larger than u is long."""
    gain = np.abs(np.ones(1) if g is None else g.astype(np.float64))
    centre = np.zeros(1) if b is None else b.astype(np.float64)
    reach = radius * (1 + 2 * sums(int(radius**2) + 8)) * gain
    reach = reach + 1.01 * U * (reach + np.abs(centre)) + (1 + radius) * TINY
    return between(c.shape, centre - reach, centre + reach)


def by_channels(c: Call, radius: float, width: int) -> Known:
    """The same of gains by channels, or by groups of them; all of a group is no longer than the
    radius times its largest gain."""
    if c.computes("weight", "bias"):
        return c.unknown()
    shape, found = (1, -1, *(1,) * (len(c.shape) - 2)), [c.array("weight"), c.array("bias")]
    g, b = (None if a is None else a.repeat(c.shape[1] // a.size).reshape(shape) for a in found)
    made, n = spread(c, radius, g, b), c.shape[1]
    if len(c.shape) < 3:
        return made
    gain = np.broadcast_to(1.0 if g is None else np.abs(g.astype(np.float64)).ravel(), (n,))
    own = float(np.linalg.norm(np.zeros(1) if b is None else b.astype(np.float64)))
    longest = float(np.linalg.norm(gain.reshape(-1, width).max(1)))
    longest *= radius * (1 + 2 * sums(int(radius**2) + 8))

    def way(box: tuple[int, ...]) -> float:
        each = sqrt(prod(box))
        return (longest + own * each) * (1 + 1.01 * U) * MORE + (1 + radius) * TINY * sqrt(n) * each

    return replace(made, boxes=(Boxes(c.shape, [way]),))


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
    if c.computes("weight", "bias") or "weight" not in c.given:
        return [c.unknown()]
    parts = [c[n] for n in ("input", "skip", "addend") if n in c.given]
    off = sums(3) * sum(p.size for p in parts)
    low, high = sum(p.low for p in parts) - off, sum(p.high for p in parts) + off
    norm = behind_norm(c.shape, c.array("weight"), c.array("bias"), sqrt(c.shape[-1]))
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
    norm = behind_norm(c.shape, c.array("weight"), c.array("bias"), sqrt(c.shape[-1]))
    shapes = [c.graph.values[o].shape for o in c.node.outputs]
    made = [norm, *(nothing(s, f"{c.node}, a mask") for s in shapes[1:2])]
    return [*made, *(between(s, low, high) for s in shapes[2:])]
