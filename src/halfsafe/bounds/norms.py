"""Bounds of normalisations, behind which every row is in a ball."""

from __future__ import annotations

from dataclasses import replace
from math import prod, sqrt

import numpy as np

from halfsafe.bounds.bound import Bound, Form, with_form
from halfsafe.bounds.gains import SLACK, Array
from halfsafe.bounds.operands import Operands
from halfsafe.bounds.patches import Patches
from halfsafe.bounds.rounding import FLUSHED, ROUNDED, summed


def layer_norm(b: Operands) -> Bound:
    """g u + c with ||u||_2 <= sqrt(d): the variance is over d, and epsilon makes u shorter."""
    axes = b.attributes.get("normalized_shape")
    width = prod(axes) if axes else prod(b.shape[int(b.attributes.get("axis", -1)) :])
    if width != b.shape[-1]:
        return _spread(b, sqrt(width))
    return on_ball(b.shape, b.nearly("weight"), b.nearly("bias"), sqrt(width))


Nearly = tuple[Array, Array] | None
"""Entries, and how far off each of them may be."""


def on_ball(shape: tuple[int, ...], gain: Nearly, bias: Nearly, radius: float) -> Bound:
    """g u + c, a ball for each row; computed inside in FP32, in some ten operations of d terms.

    Of gains and shifts that are computed, as 1 + w is, what they may be off adds |dg_i| r + |dc_i|
    to an entry, and max |dg| r + ||dc||_2 to a row.
    """
    width = shape[-1]
    (g, off_g), (c, off_c) = (
        (np.full(width, empty), np.zeros(width))
        if x is None
        else tuple(np.broadcast_to(np.asarray(part, np.float64).ravel(), width) for part in x)
        for x, empty in ((gain, 1.0), (bias, 0.0))
    )
    inside = 1 + 2 * summed(width + 8)
    last = (*(1 for _ in shape[:-1]), width)
    longest = float(np.linalg.norm(np.abs(c) + off_c))
    longest += radius * float((np.abs(g) + off_g).max())
    reach = np.abs(c) + off_c + radius * (np.abs(g) + off_g)
    slip = float(np.linalg.norm(off_c)) + radius * inside * float(off_g.max())
    form = Form(
        centre=c,
        rows=g,
        error=off_c + radius * inside * off_g + 1.01 * ROUNDED * reach + (1 + radius) * FLUSHED,
        radius=radius * inside,
        index=np.arange(width).reshape(last),
        ball=np.zeros(last, np.int64),
        slip=slip + 1.01 * ROUNDED * longest + (sqrt(width) + radius) * FLUSHED,
    )
    return with_form(shape, form)


def _spread(b: Operands, radius: float, width: int | None = None) -> Bound:
    """A norm over more than the last axis: entries are under sqrt(d) each, by channel; of groups of
    some channels, g u over all places is no longer than r max |g|."""
    gain, bias = (_by_channels(b, name) for name in ("weight", "bias"))
    g = 1.0 if gain is None else np.abs(gain[0]) + gain[1]
    c, off = (0.0, 0.0) if bias is None else bias
    inside = 1 + 2 * summed(int(radius**2) + 8)
    shift, reach = np.abs(c) + off, radius * inside * g + off
    reach = reach + 1.01 * ROUNDED * (reach + np.abs(c)) + (1 + radius) * FLUSHED
    if np.ndim(reach) == 1 and len(b.shape) > 2:  # by channels, which are the second axis
        reach, c = (np.reshape(x, (1, -1, *(1 for _ in b.shape[2:]))) if np.ndim(x) else x
                    for x in (reach, c))  # fmt: skip
    made = Bound.between(b.shape, c - reach, c + reach)
    if width is None or len(b.shape) < 3:
        return made
    size = np.broadcast_to(np.ravel(g), b.shape[1:2]).reshape(-1, width)
    longest = radius * inside * float(np.linalg.norm(size.max(axis=1)))
    own = float(np.linalg.norm(np.broadcast_to(np.ravel(shift), b.shape[1:2])))
    off = (1 + radius) * FLUSHED * sqrt(b.shape[1])

    def way(box: tuple[int, ...]) -> float:
        each = sqrt(prod(box))
        return (longest + own * each) * (1 + 1.01 * ROUNDED) * SLACK + off * each

    return replace(made, windows=(Patches(b.shape, (way,)),))


def _by_channels(b: Operands, operand: str) -> Nearly:
    """Of groups, as old ONNX has them, each repeated for the channels of it."""
    found = b.nearly(operand)
    if found is None:
        return None
    middle, off = (np.asarray(x, np.float64) for x in found)
    off = np.broadcast_to(off, middle.shape)
    if middle.ndim != 1 or len(b.shape) < 3 or b.shape[1] % len(middle):
        return middle, off
    times = b.shape[1] // len(middle)
    return middle.repeat(times), off.repeat(times)


def group_norm(b: Operands) -> Bound:
    """g u + c, u in a ball of radius sqrt(d) for each group of channels and all places."""
    given = (b.number(n) or b.attributes.get(n) for n in ("num_groups", "group"))
    count = int(next((n for n in given if n), 1))
    return _spread(b, sqrt(prod(b.shape[1:]) / count), b.shape[1] // count)


def instance_norm(b: Operands) -> Bound:
    """g u + c, u in a ball of radius sqrt(d) for each channel and all places."""
    if not b.attributes.get("use_input_stats", True):
        return batch_norm(b)
    return _spread(b, sqrt(prod(b.shape[2:])), 1)


def skip_norm(b: Operands) -> list[Bound]:
    """A norm of a sum, which is its last output."""
    parts = [b[name] for name in ("input", "skip", "addend") if name in b]
    if "Simplified" not in b.op and "bias" in b and "weight" not in b:
        return [Bound.unknown(shape, b.name) for shape in b.shapes]
    norm = on_ball(b.shape, b.nearly("weight"), b.nearly("bias"), sqrt(b.shape[-1]))
    low, high = sum(x.low for x in parts), sum(x.high for x in parts)
    lost = next((x.lost for x in parts if x.lost), "")
    slack = summed(3) * sum(x.size for x in parts)
    made = [Bound.unknown(shape, f"{b.name}, a statistic") for shape in b.shapes[1:3]]
    found = [norm, *made]
    if len(b.shapes) > 3:
        found.append(Bound.between(b.shapes[3], low - slack, high + slack, lost))
    return found


def embedding_norm(b: Operands) -> list[Bound]:
    """A norm of a sum of rows of tables."""
    norm = on_ball(b.shape, b.nearly("weight"), b.nearly("bias"), sqrt(b.shape[-1]))
    tables = [b.constant(n) for n in ("word", "position", "segment") if n in b]
    low, high = sum(t.min(axis=0) for t in tables), sum(t.max(axis=0) for t in tables)
    slack = 2 * ROUNDED * sum(np.abs(t).max(axis=0) for t in tables) + 4 * FLUSHED
    made = [norm, *(Bound.unknown(shape, f"{b.name}, a mask") for shape in b.shapes[1:2])]
    if len(b.shapes) > 2:
        made.append(Bound.between(b.shapes[2], low - slack, high + slack))
    return made


def batch_norm(b: Operands) -> Bound:
    """(x - m) g / sqrt(v + eps) + c, by channels."""
    x = b["input"]
    trains = b.attributes.get("training") or b.attributes.get("training_mode")
    if not x.is_finite or trains:
        return Bound.unknown(b.shape, x.lost or f"{b.name}, which trains")
    mean, variance = (b.constant(n).astype(np.float64) for n in ("running_mean", "running_var"))
    gain, bias = (b.known(name) for name in ("weight", "bias"))
    epsilon = b.number("eps") or 0.0
    if (variance + epsilon <= 0).any():
        return Bound.unknown(b.shape, f"{b.name}, whose variance is 0")
    factor = (1.0 if gain is None else gain.astype(np.float64)) / np.sqrt(variance + epsilon)
    c = np.zeros_like(mean) if bias is None else bias.astype(np.float64)
    shape = (1, -1, *(1 for _ in b.shape[2:]))
    scale = (1 / np.sqrt(variance + epsilon)).reshape(shape)
    factor, offset = factor.reshape(shape), (c - mean * factor).reshape(shape)
    mean, c = mean.reshape(shape), c.reshape(shape)
    ends = [x.low * factor, x.high * factor]
    off = 4 * ROUNDED + FLUSHED / float((variance + epsilon).min())
    reach = x.size + np.abs(mean)
    slack = off * (reach * np.abs(factor) + np.abs(c)) + FLUSHED * (1 + (reach + 1) * scale)
    low, high = np.minimum(*ends) + offset - slack, np.maximum(*ends) + offset + slack
    made = Bound.between(b.shape, low, high)
    if not x.has_patches:
        return made
    reach = reach.max((0, *range(2, reach.ndim)), keepdims=True)
    beside = np.abs(offset) + off * (np.abs(mean * factor) + np.abs(c))
    beside = (beside + FLUSHED * (1 + (reach + 1) * scale)).ravel()
    patches, factor = x.patches, factor.ravel()
    largest, longest = float(np.abs(factor).max()) * (1 + off), float(np.linalg.norm(beside))

    def way(size: tuple[int, ...]) -> float:
        return (largest * patches(size) + longest * sqrt(prod(size))) * SLACK

    convolved = x.convolved.scaled(factor, beside, 1 + off) if x.convolved else None
    return replace(made, windows=(Patches(b.shape, (way,), (patches,)),), convolved=convolved)
