"""Bounds of linear maps: products, convolutions, tables, and averages by a softmax's weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import inf, isfinite, prod, sqrt
from typing import Any

import numpy as np

from halfsafe.bounds.bound import ONCE, Bound, Form, Length, groups, hull, positions
from halfsafe.bounds.gains import (
    BLOCK,
    SLACK,
    Array,
    largest_gain,
    multiplied,
    narrowed,
    row_lengths,
)
from halfsafe.bounds.moving import moved
from halfsafe.bounds.operands import Computed, Operands
from halfsafe.bounds.rounding import FLUSHED, ROUNDED, UNIT, summed

WHOLE = 2**20
"""Entries up to which a matrix is held in FP64 while it is looked at."""

WEIGHTS = 2.0**-10
"""What rounding may add to weights of a softmax that sum to 1, stored in FP16: each is off by
2^-11 of itself, and those under 2^-14 by 2^-25 at most, of which `convex` counts how many."""


def linear(b: Operands) -> Bound:
    """x W^T + c; of W and c that are computed of constants, within what is known of them."""
    weight, off = weights(b)
    bias = b.known("bias") if b.is_known("bias") or "bias" not in b else None
    made = mapped(b, b["input"], weight, bias)
    if off is None and (bias is not None or "bias" not in b):
        return made
    slack = 0.0 if off is None else off.sum(axis=1) * b["input"].amax * SLACK
    if bias is None and "bias" in b:
        slack = slack + summed(2) * (made.amax + b["bias"].amax)
    low, high, lost = made.low - slack, made.high + slack, made.lost
    if bias is None and "bias" in b:
        low, high, lost = low + b["bias"].low, high + b["bias"].high, lost or b["bias"].lost
    return Bound.between(b.shape, low, high, lost)


def weights(b: Operands) -> tuple[Array, Array | None]:
    """Weights that are constants; of others that are bounded the middle, and how far off they are.
    Raises Computed where nothing is known of them."""
    if b.is_known("weight"):
        return b.constant("weight"), None
    bound = b["weight"]
    if not bound.is_finite:
        raise Computed(bound.lost or f"{b.name}, whose weight is computed")
    low, high = bound.expanded()
    return (low + high) / 2, (high - low) / 2


def matrix_product(b: Operands) -> Bound:
    """A B: of a constant B a linear map of rows; of rows of weights whose sum is 1, or less, their
    hull, or that of them and 0; of others |a b| <= ||a||_2 ||b||_2."""
    x, y = b.tensors
    weight = next((b.known(name) for name in ("other", "mat2") if b.is_known(name)), None)
    if weight is not None and weight.ndim == 2:
        return mapped(b, x, weight.T, None)
    if (x.convex or x.under) and len(y.shape) > 1:
        return mixed(b.shape, y, x.shape[-1], whole=x.convex)
    return _inner(b, x, y)


def _inner(b: Operands, x: Bound, y: Bound) -> Bound:
    """Rows of one times columns of the other."""
    terms = x.shape[-1]
    columns = _transposed(y)
    by_length = x.length * columns.length
    by_entries = terms * x.amax * y.amax
    found = min(by_length, by_entries) * (1 + summed(terms))
    lost, by = "" if isfinite(found) else x.lost or y.lost, "intervals"
    made = Bound.between(b.shape, -found, found, lost, "lengths" if by_length < by_entries else by)
    return replace(made, summed=found if isfinite(found) else None)


def _transposed(y: Bound) -> Bound:
    """The last two axes exchanged."""

    def turned(array: Array) -> Array:
        return np.swapaxes(array, -1, -2)

    if len(y.shape) < 2:
        return y
    shape = (*y.shape[:-2], y.shape[-1], y.shape[-2])
    form = y.form
    if form is not None:
        turns = turned(form.index), turned(form.ball)
        form = replace(form, index=turns[0], ball=turns[1], source=next(ONCE), slip=inf)
    return Bound(shape, turned(y.low), turned(y.high), form, lost=y.lost)


def mapped(b: Operands, x: Bound, weight: Array, bias: Array | None) -> Bound:
    """W x + c for the rows of x, the least of three: of intervals W m +- |W| d; of a form, W c +-
    r ||W A||_2 for each ball; of lengths, ||W_i||_2 ||x||_2."""
    matrix = Matrix(weight, bias)
    off, c = matrix.off, matrix.bias
    made = _mapped_entries(b.shape, x, matrix)
    if x.form is not None:
        mapped = _mapped_form(b.shape, x, x.form, matrix, keep=b.is_read)
        made = made.meeting(mapped)
    else:
        reach = (matrix.lengths + off * matrix.lengths_stored) * x.length * SLACK
        reach = reach + off * matrix.bias_stored
        if np.isfinite(reach).all():
            made = made.meeting(Bound.between(b.shape, c - reach, c + reach, by="lengths"))
        if x.even and x.carrier is not None and x.carrier.is_plain:
            made = made.meeting(_mapped_halves(b.shape, x, x.carrier, matrix))
    made = replace(made, summed=matrix.summed(x))
    if made.form is not None:  # which says no more
        return made
    own = float(np.linalg.norm(c)) + off * float(np.linalg.norm(matrix.bias_stored))
    return replace(made, lengths=(_mapped_length(matrix, x.longest, own),))


def _mapped_length(matrix: Matrix, longest: Length, own: float) -> Length:
    """||W x + c||, W off by so much of each entry: sigma(W) ||x||, and the lengths of what is off
    and of c. W and the length of x are held until it is asked for, not the rest of a Matrix."""
    off = matrix.off * float(np.linalg.norm(matrix.lengths_stored))
    weight = matrix.weight
    return Length(lambda: (largest_gain(weight) + off) * longest() + own)


def _mapped_halves(shape: tuple[int, ...], x: Bound, form: Form, matrix: Matrix) -> Bound:
    """W (z / 2 + e) + c for a form z and 0 <= e <= |z| / 2: the first part as it is mapped, and
    -||W-||_2 ||z||_2 / 2 <= W e <= ||W+||_2 ||z||_2 / 2, with the entries of one sign each."""
    index, ball = form.index.ravel(), form.ball.ravel()
    reach, errors, _ = matrix.of_form(form, index, ball, form.length, keep=False)
    centre = matrix.times(form.centre)[0] / 2 + matrix.bias
    up, down = matrix.one_sided()
    around = reach / 2 + errors + 1e-6 * matrix.lengths * form.length
    low = centre - (around + down * form.length / 2) * SLACK
    high = centre + (around + up * form.length / 2) * SLACK
    off = matrix.off * (matrix.lengths_stored * x.length + matrix.bias_stored)
    return Bound.between(shape, low - off, high + off, by="halves")


class Matrix:
    """Weights W and a bias c, and what of their rows bounds are made of, some rows at a time: of a
    large one no copy in FP64 is ever held whole.

    What FP16 adds to weights is a share of 2^-11 of |w| + 2^-14, the second for its subnormals; so
    it is of a bias.
    """

    def __init__(self, weight: Array, bias: Array | None) -> None:
        self.weight = weight
        self.rows, self.terms = weight.shape
        self.bias = np.zeros(self.rows) if bias is None else np.asarray(bias, np.float64).ravel()
        self.bias_stored = np.abs(self.bias) + (FLUSHED / ROUNDED if bias is not None else 0.0)
        self.off = summed(self.terms + 1) + ROUNDED * (1 + summed(self.terms + 1))
        self._wide = weight.astype(np.float64, copy=False) if weight.size <= WHOLE else None
        self.lengths = row_lengths(weight if self._wide is None else self._wide)
        self.lengths_stored = self.lengths + FLUSHED / ROUNDED * sqrt(self.terms)

    def blocks(self) -> Iterator[tuple[slice, Array]]:
        """Rows in FP64, and which."""
        for start in range(0, self.rows, BLOCK):
            rows = slice(start, min(start + BLOCK, self.rows))
            if self._wide is not None:
                yield rows, self._wide[rows]
            else:
                yield rows, self.weight[rows].astype(np.float64)

    def times(self, *vectors: Array) -> list[Array]:
        """W v for some v."""
        made = [np.empty((*v.shape[:-1], self.rows)) for v in vectors]
        for rows, weight in self.blocks():
            for found, vector in zip(made, vectors, strict=True):
                found[..., rows] = vector @ weight.T
        return made

    def size_times(self, *vectors: Array) -> list[Array]:
        """|W| v for some v."""
        made = [np.empty((*v.shape[:-1], self.rows)) for v in vectors]
        for rows, weight in self.blocks():
            size = np.abs(weight)
            for found, vector in zip(made, vectors, strict=True):
                found[..., rows] = vector @ size.T
        return made

    def one_sided(self) -> tuple[Array, Array]:
        """||w||_2 of the entries above 0 of each row, and of those under it."""
        parts = [
            (row_lengths(np.maximum(w, 0.0)), row_lengths(np.minimum(w, 0.0)))
            for _, w in self.blocks()
        ]
        up, down = (np.concatenate(side) for side in zip(*parts, strict=True))
        return up, down

    def of_form(
        self, form: Form, index: Array, ball: Array, length: float, *, keep: bool
    ) -> tuple[Array, Array, Array | None]:
        """Of a row of entries: r ||(W A)_i||_2, over all its balls; what their errors and rounding
        add, |W| e or ||W_i||_2 ||e||_2; and the rows of W A, if they are of one ball."""
        spread = (np.abs(form.centre) + form.spread)[index]
        errors, inside = self.size_times(form.error[index], spread)
        inside = inside + FLUSHED / ROUNDED * spread.sum()
        errors = np.minimum(errors, self.lengths * form.slip)
        inside = np.minimum(inside, self.lengths_stored * length)
        errors = errors + self.off * (inside + self.bias_stored)
        parts = [form.factor(chosen) for chosen in groups(index, ball)]
        columns = [ball == one for one in np.unique(ball)]
        reach, held = np.zeros(self.rows), None
        if keep and len(parts) == 1:
            held = np.empty((self.rows, form.rows.shape[-1]), np.float32)
        for start in range(0, self.rows, BLOCK):
            rows = slice(start, min(start + BLOCK, self.rows))
            for part, column in zip(parts, columns, strict=True):
                chosen = self.weight[rows] if column.all() else self.weight[rows, column]
                product, off = multiplied(chosen, part)
                lengths = row_lengths(product)
                reach[rows] += form.radius * (lengths + off)
                if held is not None:
                    held[rows], lost = narrowed(product, form.radius, lengths)
                    errors[rows] += lost + form.radius * off
        return reach, errors, held

    def summed(self, x: Bound) -> float | None:
        """sum |w_j x_j| + |c|, the least of sum |w_j| max |x_j| (Hoelder), ||w||_2 ||x||_2 (Cauchy
        and Schwarz) and, behind a norm with gain g, r ||w g||_2 + sum |w_j c_j|."""
        whole = np.broadcast_to(x.size, (*x.size.shape[:-1], self.terms))
        size: list[Array] = [whole] if x.is_finite else []
        if x.form is not None and x.form.is_plain and x.form.rows.ndim == 1:
            *found, beside = self.size_times(*size, np.abs(x.form.centre) + x.form.error)
            found.append(x.form.radius * self._scaled_lengths(x.form.rows) + beside)
        else:
            found = self.size_times(*size)
            if x.form is None and isfinite(x.length):
                found.append(self.lengths * x.length)
        if not found:
            return None
        least = min(float((sums + np.abs(self.bias)).max(initial=0.0)) for sums in found)
        return least * (1 + 2 * self.off) + FLUSHED * (1 + self.terms * min(x.amax, x.length))

    def _scaled_lengths(self, gain: Array) -> Array:
        return np.concatenate([row_lengths(weight * gain) for _, weight in self.blocks()])


def _mapped_entries(shape: tuple[int, ...], x: Bound, matrix: Matrix) -> Bound:
    if not x.is_finite:
        return Bound.unknown(shape, x.lost)
    ends: list[Array] = [(x.low + x.high) / 2, (x.high - x.low) / 2]
    wide: list[Array] = [np.broadcast_to(end, (*end.shape[:-1], matrix.terms)) for end in ends]
    (middle, half), one = wide, np.broadcast_to(1.0, matrix.terms)
    centre = matrix.times(middle)[0] + matrix.bias
    reach, stored = matrix.size_times(half, one)
    stored = x.amax * (stored + FLUSHED / ROUNDED * matrix.terms)
    reach = reach + matrix.off * (stored + matrix.bias_stored)
    return Bound.between(shape, centre - reach, centre + reach)


def _mapped_form(
    shape: tuple[int, ...], x: Bound, form: Form, matrix: Matrix, *, keep: bool
) -> Bound:
    """A linear map of an affine form; a form again, to keep, where a row is of one ball."""
    centres: list[Array] = []
    reaches: list[Array] = []
    errors, held = np.zeros(0), None
    entries = x.rows_of(form)
    length = x.length if form.rows.ndim == 1 else inf  # of others it takes long
    for index, ball in entries:
        keeping = keep and len(entries) == 1
        reach, errors, held = matrix.of_form(form, index, ball, length, keep=keeping)
        centres.append(matrix.times(form.centre[index])[0] + matrix.bias)
        reaches.append((reach + errors) * SLACK)
    lead = np.broadcast_shapes(form.index.shape[:-1], form.ball.shape[:-1])
    centre, reach = (np.stack(rows).reshape(*lead, -1) for rows in (centres, reaches))
    made = Bound.between(shape, centre - reach, centre + reach, by="balls")
    if held is None:
        return made
    last = (*(1,) * len(shape[:-1]), matrix.rows)
    mapped = Form(
        centre=centres[0],
        rows=held,
        error=errors,
        radius=form.radius,
        index=positions(last),
        ball=np.zeros(last, np.int64),
        source=form.source if x.shape[:-1] == shape[:-1] else next(ONCE),
    )
    return replace(made, form=mapped)


def looked_up(b: Operands) -> Bound:
    """Rows of a table: each column between its least and its largest entry, each row no longer than
    the longest."""
    return rows_of(b, b.constant("weight"), b["indices"])


def rows_of(b: Operands, table: Array, ids: Bound) -> Bound:
    """Some rows of a table."""
    first, last = max(ids.low.min(), 0), min(ids.high.max(), len(table) - 1)
    if ids.low.min() < 0:  # in ONNX these count from the end
        last = len(table) - 1
    rows = table[int(first) : int(last) + 1]
    longest = float(row_lengths(rows).max(initial=0.0))
    made = Bound.between(b.shape, rows.min(axis=0), rows.max(axis=0), by="tables")
    return replace(made, lengths=(lambda: longest,)).stored(ROUNDED, FLUSHED)


def gathered(b: Operands) -> Bound | list[Bound]:
    """Entries along an axis: of known places, or rows of a table by numbers that come in."""
    if b.is_known("index"):
        return moved(b)
    if b.is_known("self") and b.attributes.get("axis", 0) == 0 and b.constant("self").ndim == 2:
        return rows_of(b, b.constant("self"), b["index"])
    x = b["self"]
    return Bound.between(b.shape, float(x.low.min()), float(x.high.max()), x.lost)


def general_product(b: Operands) -> Bound:
    """alpha A B + beta c, B a constant."""
    alpha, beta = (1.0 if (n := b.number(k)) is None else n for k in ("alpha", "beta"))
    if b.attributes.get("transA"):
        return Bound.unknown(b.shape, f"{b.name}, which turns its first factor")
    by_rows = not b.is_known("bias") or b.constant("bias").size == b.shape[-1]
    computed = b.attributes.get("transB") and not b.is_known("weight")
    if alpha == beta == 1 and computed and by_rows:
        return linear(b)
    weight = b.constant("weight")
    weight = weight if b.attributes.get("transB") else weight.T
    bias = b.known("bias")
    if bias is not None and bias.size != len(weight):
        if bias.size != 1:
            return Bound.unknown(b.shape, f"{b.name}, whose bias is a matrix")
        bias = np.broadcast_to(bias.ravel(), b.shape[-1:])
    if alpha == beta == 1:
        return mapped(b, b["input"], weight, bias)
    c = None if bias is None else beta * bias.astype(np.float64)
    made, x = mapped(b, b["input"], alpha * weight.astype(np.float64), c), b["input"]
    # each part, |alpha A B| <= |sum| + |beta c|, is off by itself, though the sum may be small
    parts = made.size + 2 * np.abs(0.0 if c is None else c)
    off = 2 * ROUNDED * parts + FLUSHED * (abs(alpha) + abs(beta) + 1) * (
        1 + weight.shape[1] * x.amax
    )
    found = Bound.between(b.shape, made.low - off, made.high + off, made.lost, made.by)
    if made.summed is None or not alpha:
        return found
    before = max(1.0, 1 / abs(alpha)) * (1 + 4 * ROUNDED)  # alpha may come behind the sum
    return replace(found, summed=made.summed * before)


def fused_general_product(b: Operands) -> Bound:
    """The same, and a function behind it."""
    name = b.attributes.get("activation")
    if name in ("Tanh", "Sigmoid"):
        return Bound.between(b.shape, -1.0 if name == "Tanh" else 0.0, 1.0)
    made = general_product(b)
    if name == "Relu":
        return Bound.between(b.shape, np.maximum(made.low, 0), np.maximum(made.high, 0), made.lost)
    return made if not name else Bound.unknown(b.shape, f"{b.name}, behind which is {name}")


def factored_product(b: Operands) -> Bound:
    """alpha A B, either of them turned."""
    x, y = b["self"], b["other"]
    turned = b.attributes.get("transA"), b.attributes.get("transB")
    if any(b.attributes.get(key) for key in ("transBatchA", "transBatchB")):
        return Bound.unknown(b.shape, f"{b.name}, which turns batches")
    x, y = (_transposed(z) if t else z for z, t in zip((x, y), turned, strict=True))
    made = _inner(b, x, y)
    factor = b.number("factor")
    factor = 1.0 if factor is None else factor
    ends = factor * made.low, factor * made.high
    made = Bound.between(b.shape, np.minimum(*ends), np.maximum(*ends), made.lost, made.by)
    return made.stored(ROUNDED, 0.0)


def added_product(b: Operands) -> Bound:
    """beta c + alpha A B, A and B computed; of batches that are added, the sum."""
    first, second = (
        next(b[n] for n in names if n in b)
        for names in (("mat1", "batch1", "mat"), ("mat2", "batch2", "vec"))
    )
    alpha, beta = (1.0 if (n := b.number(k)) is None else n for k in ("alpha", "beta"))
    made, c = _inner(b, first, second), b["self"]
    batches = first.shape[0] if len(first.shape) > len(b.shape) and "batch1" in b else 1
    reach = abs(alpha) * batches * made.amax * (1 + summed(batches + 4))
    ends = beta * c.low, beta * c.high
    low, high = np.minimum(*ends) - reach, np.maximum(*ends) + reach
    slack = (ROUNDED * abs(beta) + summed(4)) * c.amax + ROUNDED * reach
    return Bound.between(b.shape, low - slack, high + slack, made.lost or c.lost)


def biased_product(b: Operands) -> Bound:
    """c + A B."""
    plain = all(b.number(name) in (None, 1.0) for name in ("alpha", "beta"))
    if plain and b.is_known("mat2") and b.is_known("self") and b.constant("self").ndim == 1:
        return mapped(b, b["mat1"], b.constant("mat2").T, b.constant("self"))
    return added_product(b)


def inner_product(b: Operands) -> Bound:
    """<a, b>, or those of the rows of a."""
    x, y = b.tensors
    return _inner(b, x, y)


def outer_product(b: Operands) -> Bound:
    """a_i b_j."""
    x, y = b.tensors
    reach = x.amax * y.amax if x.is_finite and y.is_finite else inf
    return Bound.between(b.shape, -reach, reach, x.lost or y.lost)


def grouped_product(b: Operands) -> Bound:
    """Each row times one of several matrices: within the hull of what all would give."""
    x = b["self"]
    stack = b.constant("mat2")
    if stack.ndim != 3 or "bias" in b:
        return Bound.unknown(b.shape, f"{b.name}, whose groups are others")
    none = Bound.between(b.shape, 0.0, 0.0)  # of rows that are in no group
    return hull([none, *(mapped(b, x, weight.T, None) for weight in stack)], b.shape)


def contracted(b: Operands) -> Bound:
    """sum over letters that are left out of a b ...: of n products, n max |a| max |b| ..., and of
    one letter that is the last of two operands, ||a||_2 ||b||_2."""
    terms = str(b.attributes["equation"]).replace(" ", "").split("->")
    read, bounds = terms[0].split(","), b.every
    if len(terms) != 2 or "." in terms[0] or len(read) != len(bounds):
        return Bound.unknown(b.shape, f"{b.name}, whose letters are left out")
    sizes = {
        k: n for key, x in zip(read, bounds, strict=True) for k, n in zip(key, x.shape, strict=True)
    }
    left = [k for k in sizes if k not in terms[1]]
    count = prod(sizes[k] for k in left)
    found = count * prod(x.amax for x in bounds) if all(x.is_finite for x in bounds) else inf
    by_length = inf
    if len(bounds) == 2 and left and all(key.endswith(left[0]) for key in read) and len(left) == 1:
        by_length = bounds[0].length * bounds[1].length
    reach = min(found, by_length) * (1 + summed(count + len(bounds)) + ROUNDED * (len(bounds) > 2))
    lost = next((x.lost for x in bounds if x.lost), "")
    return Bound.between(b.shape, -reach, reach, "" if isfinite(reach) else lost)


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
    axis = int(b.attributes.get("dim", b.attributes.get("axis", 1))) % max(len(b.shape), 1)
    after = b.shape[axis : axis + 1] if b.op.startswith("aten") else b.shape[axis:]
    terms = prod(after)  # of ONNX before opset 13 all axes from that one on, 1 where it is left out
    return Bound.between(b.shape, -(span + np.log(terms)) * (1 + 16 * UNIT), 16 * UNIT, x.lost)


def _one_ball(form: Form, width: int) -> bool:
    """Whether all entries of a row are of one ball."""
    return form.ball.shape[-1] == width and bool((form.ball == form.ball[..., :1]).all())


def mixed(shape: tuple[int, ...], value: Bound, count: int, *, whole: bool = True) -> Bound:
    """Convex combinations of n rows, by weights that are rounded: c + A v with v in the ball, since
    a ball is convex; each combination has a v of its own. Of weights that are not the `whole`, of
    which the sum s is 1 or less, s c + A v: c / 2 to within |c| / 2."""
    off = WEIGHTS + count * 2.0**-25 + 2 * summed(count)

    def over(array: Array, how: Any) -> Array:
        found = how(array, axis=-2, keepdims=True)
        heads = shape[-3] if len(shape) > 2 else 1
        if found.ndim > 2 and 1 < found.shape[-3] < heads:  # several of queries share one of keys
            found = np.repeat(found, heads // found.shape[-3], axis=-3)
        return found

    amax = over(value.size, np.max)
    low, high = over(value.low, np.min), over(value.high, np.max)
    if not whole:
        low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    made = Bound.between(shape, low - off * amax, high + off * amax, value.lost, "hulls")
    form = value.form
    longest = (value.longest.times(1 + off),)
    if form is None or form.index.shape[-2] > 1 or not _one_ball(form, value.shape[-1]):
        return replace(made, lengths=longest)
    index = over(form.index, np.max)
    lead = tuple(n if size > 1 else 1 for n, size in zip(shape[:-2], index.shape[:-2], strict=True))
    heads = shape[-3] if len(shape) > 2 else 1
    lead = (*lead[:-1], heads) if lead else lead
    ball = np.broadcast_to(positions((*lead, 1, 1)), (*lead, 1, value.shape[-1]))
    error = off * (np.abs(form.centre) + form.spread)
    centre, error = form.centre, form.error + error
    if not whole:
        centre, error = centre / 2, error + np.abs(centre) / 2
    new: dict[str, Any] = {"index": index, "ball": ball, "source": next(ONCE), "slip": inf}
    return replace(made, form=replace(form, centre=centre, error=error, **new), lengths=longest)
