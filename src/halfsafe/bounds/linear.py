"""Bounds of linear maps: products, convolutions, tables, and averages by a softmax's weights."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

import numpy as np

from halfsafe.bounds.bound import (
    Array,
    Bound,
    Form,
    groups,
    hull,
    largest_gain,
    positions,
)
from halfsafe.bounds.moving import moved
from halfsafe.bounds.operands import Operands
from halfsafe.bounds.rounding import FLUSHED, ROUNDED, UNIT, summed

WEIGHTS = 2.0**-10
"""What rounding may add to weights of a softmax that sum to 1, stored in FP16: each is off by
2^-11 of itself, and those under 2^-14 by 2^-25 at most, of which `convex` counts how many."""


def linear(b: Operands) -> Bound:
    """x W^T + c."""
    return mapped(b, b["input"], b.constant("weight"), b.known("bias"))


def matrix_product(b: Operands) -> Bound:
    """A B: of a constant B a linear map of rows; of rows of weights that are convex, their hull; of
    others |a b| <= ||a||_2 ||b||_2."""
    x, y = b.tensors
    weight = next((b.known(name) for name in ("other", "mat2") if b.is_known(name)), None)
    if weight is not None and weight.ndim == 2:
        return mapped(b, x, weight.T, None)
    if x.convex and len(y.shape) > 1:
        return _mixed(b.shape, y, x.shape[-1])
    return _inner(b, x, y)


def _inner(b: Operands, x: Bound, y: Bound) -> Bound:
    """Rows of one times columns of the other."""
    terms = x.shape[-1]
    columns = _transposed(y)
    by_length = x.length * columns.length
    by_entries = terms * x.amax * y.amax
    found = min(by_length, by_entries) * (1 + summed(terms))
    return Bound.between(b.shape, -found, found, x.lost or y.lost if not np.isfinite(found) else "")


def _transposed(y: Bound) -> Bound:
    """The last two axes exchanged."""

    def turned(array: Array) -> Array:
        return np.swapaxes(array, -1, -2)

    if len(y.shape) < 2:
        return y
    shape = (*y.shape[:-2], y.shape[-1], y.shape[-2])
    form = y.form
    if form is not None:
        form = replace(form, index=turned(form.index), ball=turned(form.ball))
    return Bound(shape, turned(y.low), turned(y.high), form, lost=y.lost)


def biased_product(b: Operands) -> Bound:
    """c + A B."""
    if any(b.number(name) not in (None, 1.0) for name in ("alpha", "beta")):
        return Bound.unknown(b.shape, f"{b.name}, which has factors")
    return mapped(b, b["mat1"], b.constant("mat2").T, b.constant("self"))


def mapped(b: Operands, x: Bound, weight: Array, bias: Array | None) -> Bound:
    """W x + c for the rows of x, the least of three: of intervals W m +- |W| d; of a form, W c +-
    r ||W A||_2 for each ball; of lengths, ||W_i||_2 ||x||_2."""
    weight = weight.astype(np.float64)
    c = np.zeros(len(weight)) if bias is None else np.asarray(bias, np.float64).ravel()
    size, terms, stored = np.abs(weight), weight.shape[1], _as_stored(weight)
    x_low, x_high = (np.broadcast_to(e, (*e.shape[:-1], terms)) for e in (x.low, x.high))
    off = summed(terms + 1) + ROUNDED * (1 + summed(terms + 1))
    if x.is_finite:
        middle, half = (x_low + x_high) / 2, (x_high - x_low) / 2
        centre, reach = middle @ weight.T + c, half @ size.T
        reach = reach + off * (x.size.max() * stored.sum(axis=1) + np.abs(c))
        made = Bound.between(b.shape, centre - reach, centre + reach)
    else:
        made = Bound.unknown(b.shape, x.lost)
    if x.form is not None:
        made = made.meeting(_mapped_form(b.shape, x, x.form, weight, c, off))
    else:
        longest = np.linalg.norm(weight, axis=1) + off * np.linalg.norm(stored, axis=1)
        reach = longest * x.length * (1 + 1e-9) + np.abs(c) * off
        if np.isfinite(reach).all():
            made = made.meeting(Bound.between(b.shape, c - reach, c + reach))
    gain = float(np.linalg.norm(c))
    longer = (lambda: _longest(weight, x.length, off) + gain * (1 + off),)
    return replace(made, lengths=(*made.lengths, *longer), _length=[])


def _as_stored(weight: Array) -> Array:
    """What a share of 2^-11 of is what FP16 adds to weights: |w|, and 2^-14 for its subnormals."""
    return np.abs(weight) + FLUSHED / ROUNDED


def _longest(weight: Array, length: float, off: float) -> float:
    """||W x||_2, W off by so much of each entry: sigma(W) and the length of what it is off by."""
    return (largest_gain(weight) + off * float(np.linalg.norm(_as_stored(weight)))) * length


def _mapped_form(
    shape: tuple[int, ...], x: Bound, form: Form, weight: Array, bias: Array, off: float
) -> Bound:
    """A linear map of an affine form; a form again where a row is of one ball."""
    rows = x.rows_of(form)
    centres: list[Array] = []
    reaches: list[Array] = []
    product = np.zeros((0, 0))
    size, stored = np.abs(weight), _as_stored(weight)
    single = False
    for index, ball in rows:
        parts = groups(index, ball)
        columns = [ball == one for one in np.unique(ball)]
        reach = size @ form.error[index]
        for chosen, column in zip(parts, columns, strict=True):
            product = form.times(weight[:, column], chosen)
            reach = reach + form.radius * np.linalg.norm(product, axis=1)
        inside = off * (stored @ (np.abs(form.centre) + form.spread)[index] + np.abs(bias))
        centres.append(weight @ form.centre[index] + bias)
        reaches.append((reach + inside) * (1 + 1e-9))
        single = len(parts) == 1
    lead = np.broadcast_shapes(form.index.shape[:-1], form.ball.shape[:-1])
    centre, reach = (np.stack(x).reshape(*lead, -1) for x in (centres, reaches))
    made = Bound.between(shape, centre - reach, centre + reach)
    if len(rows) > 1 or not single:
        return made
    index, _ = rows[0]
    inside = off * (stored @ (np.abs(form.centre) + form.spread)[index] + np.abs(bias))
    error = size @ form.error[index] + inside
    last = (*(1 for _ in shape[:-1]), len(weight))
    return replace(
        made,
        form=Form(
            centre=centres[0],
            rows=product,
            error=error,
            radius=form.radius,
            index=np.arange(len(weight)).reshape(last),
            ball=np.zeros(last, np.int64),
        ),
    )


def convolution(b: Operands) -> Bound:
    """sum over a window of W x + c, of intervals; where the border is filled up, 0 is among x."""
    weight, x = b.constant("weight"), b["input"]
    if weight.ndim != len(x.shape) or not x.is_finite:
        return Bound.unknown(b.shape, x.lost or f"{b.name}, which has no batch")
    weight = weight.astype(np.float64).reshape(len(weight), weight.shape[1], -1)
    groups_of = int(b.attributes.get("groups", b.attributes.get("group", 1)) or 1)
    bias = b.known("bias")
    c = np.zeros(len(weight)) if bias is None else bias.astype(np.float64).ravel()
    axis = len(x.shape) - len(b.shape) + 1
    spatial = tuple(i for i in range(len(x.shape)) if i not in (axis - 1, axis))
    low, high = x.low.min((*spatial, axis - 1)), x.high.max((*spatial, axis - 1))
    low, high = (np.broadcast_to(end, (x.shape[axis],)) for end in (low, high))
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)  # a border of zeros
    up, down = np.maximum(weight, 0).sum(axis=2), np.minimum(weight, 0).sum(axis=2)
    made_low, made_high = np.empty(len(weight)), np.empty(len(weight))
    out, into = len(weight) // groups_of, weight.shape[1]
    for g in range(groups_of):
        rows, channels = slice(g * out, (g + 1) * out), slice(g * into, (g + 1) * into)
        least, most = low[channels], high[channels]
        made_low[rows] = up[rows] @ least + down[rows] @ most
        made_high[rows] = up[rows] @ most + down[rows] @ least
    terms = into * weight.shape[2]
    slack = (summed(terms + 1) + 1.01 * ROUNDED) * (
        FLUSHED / ROUNDED * terms * np.maximum(np.abs(low), high).max(initial=0)
        + np.abs(weight).sum(axis=(1, 2)) * np.maximum(np.abs(low), high).max(initial=0)
        + np.abs(c)
    )
    shape = (1, len(weight), *(1 for _ in b.shape[2:]))
    ends = (made_low + c - slack).reshape(shape), (made_high + c + slack).reshape(shape)
    return Bound.between(b.shape, *ends)


def looked_up(b: Operands) -> Bound:
    """Rows of a table: each column between its least and its largest entry, each row no longer than
    the longest."""
    return rows_of(b, b.constant("weight"), b["indices"])


def rows_of(b: Operands, table: Array, ids: Bound) -> Bound:
    """Some rows of a table."""
    table = table.astype(np.float64)
    first, last = max(ids.low.min(), 0), min(ids.high.max(), len(table) - 1)
    if ids.low.min() < 0:  # in ONNX these count from the end
        last = len(table) - 1
    rows = table[int(first) : int(last) + 1]
    longest = float(np.linalg.norm(rows, axis=1).max(initial=0.0))
    made = Bound.between(b.shape, rows.min(axis=0), rows.max(axis=0))
    return replace(made, lengths=(lambda: longest,)).stored(ROUNDED, FLUSHED)


def gathered(b: Operands) -> Bound | list[Bound]:
    """Entries along an axis: of known places, or rows of a table by numbers that come in."""
    if b.is_known("index"):
        return moved(b)
    if b.is_known("self") and b.attributes.get("axis", 0) == 0 and b.constant("self").ndim == 2:
        return rows_of(b, b.constant("self"), b["index"])
    x = b["self"]
    return Bound.between(b.shape, float(x.low.min()), float(x.high.max()), x.lost)


def hull_of_all(b: Operands) -> Bound:
    """The largest or the least of several is one of them."""
    return hull(b.tensors, b.shape)


def general_product(b: Operands) -> Bound:
    """alpha A B + beta c, B a constant, alpha and beta 1."""
    if b.attributes.get("transA") or any(b.number(n) not in (None, 1.0) for n in ("alpha", "beta")):
        return Bound.unknown(b.shape, f"{b.name}, which has factors")
    weight = b.constant("weight")
    weight = weight if b.attributes.get("transB") else weight.T
    bias = b.known("bias")
    if bias is not None and bias.size != len(weight):
        if bias.size != 1:
            return Bound.unknown(b.shape, f"{b.name}, whose bias is a matrix")
        bias = np.broadcast_to(bias.ravel(), b.shape[-1:])
    return mapped(b, b["input"], weight, bias)


# Softmax and attention


def softmax(b: Operands) -> Bound:
    """exp(x_i) / sum exp(x_j): between 0 and 1, and their sum is 1, along the last axis here.

    Which axis that is where ONNX leaves it out depends on the opset.
    """
    axis = b.attributes.get("dim", b.attributes.get("axis"))
    made = Bound.between(b.shape, 0.0, 1 + 16 * UNIT)
    return replace(made, convex=axis in (-1, len(b.shape) - 1))


def log_softmax(b: Operands) -> Bound:
    """x - max - log sum exp(x - max): from -(span + log n) to 0."""
    x = b.first
    span = float(x.high.max() - x.low.min()) if x.is_finite else inf
    terms = b.shape[-1] if b.shape else 1
    return Bound.between(b.shape, -(span + np.log(terms)) * (1 + 16 * UNIT), 16 * UNIT, x.lost)


def attention(b: Operands) -> Bound:
    """softmax(q k^T) v: a row is in the hull of v's rows, of each head. A row that is masked whole
    is not looked at."""
    return _mixed(b.shape, b["value"], b["key"].shape[-2])


def _one_ball(form: Form, width: int) -> bool:
    """Whether all entries of a row are of one ball."""
    return form.ball.shape[-1] == width and bool((form.ball == form.ball[..., :1]).all())


def _mixed(shape: tuple[int, ...], value: Bound, count: int) -> Bound:
    """Convex combinations of n rows, by weights that are rounded: c + A v with v in the ball, since
    a ball is convex; each combination has a v of its own."""
    off = WEIGHTS + count * 2.0**-25 + 2 * summed(count)

    def over(array: Array, how: Any) -> Array:
        found = how(array, axis=-2, keepdims=True)
        heads = shape[-3] if len(shape) > 2 else 1
        if found.ndim > 2 and 1 < found.shape[-3] < heads:  # several of queries share one of keys
            found = np.repeat(found, heads // found.shape[-3], axis=-3)
        return found

    amax = over(value.size, np.max)
    low, high = over(value.low, np.min), over(value.high, np.max)
    made = Bound.between(shape, low - off * amax, high + off * amax, value.lost)
    form = value.form
    longest = (lambda: value.length * (1 + off),)
    if form is None or form.index.shape[-2] > 1 or not _one_ball(form, value.shape[-1]):
        return replace(made, lengths=longest)
    index = over(form.index, np.max)
    lead = tuple(n if size > 1 else 1 for n, size in zip(shape[:-2], index.shape[:-2], strict=True))
    heads = shape[-3] if len(shape) > 2 else 1
    lead = (*lead[:-1], heads) if lead else lead
    ball = np.broadcast_to(positions((*lead, 1, 1)), (*lead, 1, value.shape[-1]))
    error = off * (np.abs(form.centre) + form.spread)
    mixed = replace(form, index=index, ball=ball, error=form.error + error)
    return replace(made, form=mixed, lengths=longest)
