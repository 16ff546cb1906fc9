"""What each operator makes of what is known of its operands, and the table of all."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import inf, prod, sqrt

import numpy as np

from halfsafe.checking.arithmetic import plus, power, product, quotient, scaled
from halfsafe.checking.calls import Call, sums
from halfsafe.checking.known import TINY, Array, Known, U, between, nothing, rounded, thin
from halfsafe.checking.linear import affine, attention, layer_norm, log_softmax, matmul, softmax


def gated(lowest: float, *, even: bool = True) -> Callable[[Call], Known]:
    """x g(x), 0 <= g <= 1; `even` if g - 1/2 is odd."""

    def rule(c: Call) -> Known:
        x = c.first
        low = np.where(x.low >= 0, 0.0, np.maximum(x.low, lowest))
        made = between(c.shape, low, np.maximum(x.high, 0.0), x.lost)
        made = replace(made, carrier=x.form or x.carrier, lengths=((lambda: x.length),))
        return replace(made, even=even and x.form is not None)

    return rule


def rising(
    f: Callable[[Array], Array], least: float = -inf, more: float = 0.0
) -> Callable[[Call], Known]:
    """From the ends of the interval, where it is above `least`."""

    def rule(c: Call) -> Known:
        x = c.first
        if not (x.low > least).all() and least > -inf:
            return c.unknown()
        with np.errstate(all="ignore"):
            low, high = f(x.low) - more, f(x.high) + more
        return between(c.shape, low, high, x.lost)

    return rule


def falling(f: Callable[[Array], Array]) -> Callable[[Call], Known]:
    """The same of one that falls, for what is above 0."""

    def rule(c: Call) -> Known:
        x = c.first
        return between(c.shape, f(x.high), f(x.low), x.lost) if (x.low > 0).all() else c.unknown()

    return rule


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
        return between(c.shape, low, high, x.lost)

    return rule


def hull(c: Call) -> Known:
    """One of several."""
    bounds = [c.walk[v] for n, v in c.given.items() if n not in ("condition", "mask")]
    if any(len(b.low.shape) > len(c.shape) for b in bounds):
        return c.unknown()
    ends = [np.broadcast_arrays(*[getattr(b, side) for b in bounds]) for side in ("low", "high")]
    lost = next((b.lost for b in bounds if b.lost), "")
    return between(c.shape, np.minimum.reduce(ends[0]), np.maximum.reduce(ends[1]), lost)


def clipped(c: Call) -> Known:
    """min(max(x, a), b)."""
    low, high = c.first.low, c.first.high
    for names, how in ((("min", "min_val"), np.maximum), (("max", "max_val"), np.minimum)):
        for name in names:
            limit = c[name] if name in c.given else None
            number = c.node.attributes.get(name) if limit is None else None
            if limit is not None:
                low, high = how(low, limit.low), how(high, limit.high)
            elif isinstance(number, (int, float)):
                low, high = how(low, number), how(high, number)
    return between(c.shape, low, high, c.first.lost)


def table(c: Call) -> Known:
    """Rows of a table."""
    name = "weight" if "weight" in c.given else "self"
    found, ids = c.array(name), c["indices" if "indices" in c.given else "index"]
    if found is None or found.ndim != 2 or c.node.attributes.get("axis", 0) != 0:
        return moved(c)[0]
    first = 0 if ids.low.min() < 0 else int(ids.low.min())
    last = (
        len(found) if ids.low.min() < 0 or ids.high.max() > len(found) else int(ids.high.max()) + 1
    )
    rows = found[first:last].astype(np.float64)
    longest = float(np.linalg.norm(rows, axis=1).max(initial=0.0))
    made = replace(between(c.shape, rows.min(0), rows.max(0)), lengths=((lambda: longest),))
    return rounded(made, U, TINY)


def convolution(c: Call) -> Known:
    """Intervals over a window, of which a border of zeros is a part."""
    w, x, bias = c.array("weight"), c["input"], c.array("bias")
    if (
        w is None
        or w.ndim != len(x.shape)
        or not np.isfinite(x.amax)
        or ("bias" in c.given and bias is None)
    ):
        return c.unknown()
    groups = int(c.node.attributes.get("groups", c.node.attributes.get("group", 1)) or 1)
    w = w.astype(np.float64).reshape(groups, -1, w.shape[1], prod(w.shape[2:]))
    places = (0, *range(2, len(x.shape)))
    low, high = np.minimum(x.low.min(places), 0.0), np.maximum(x.high.max(places), 0.0)
    low, high = (np.broadcast_to(e, (x.shape[1],)).reshape(groups, 1, -1) for e in (low, high))
    up, down = np.maximum(w, 0).sum(-1), np.minimum(w, 0).sum(-1)
    b = np.zeros(up.shape[0] * up.shape[1]) if bias is None else bias.astype(np.float64).ravel()
    least, most = ((up * p + down * q).sum(-1).ravel() + b for p, q in ((low, high), (high, low)))
    n, amax = w.shape[2] * w.shape[3], max(-low.min(), high.max())
    off = (sums(n + 1) + 1.01 * U) * (
        (np.abs(w).sum((2, 3)).ravel() + 2.0**-14 * n) * amax + np.abs(b)
    )
    shape = (1, -1, *(1,) * (len(c.shape) - 2))
    return between(c.shape, (least - off).reshape(shape), (most + off).reshape(shape))


def pooled(c: Call) -> Known:
    """In the hull of what windows see, and of 0."""
    x, rank = c.first, len(c.first.shape)
    count = next((int(n) for n in re.findall(r"([123])d\b", c.node.op)), rank - 2)
    places = tuple(range(rank - count, rank))  # there may be no batch
    if c.node.attributes.get("divisor_override") is not None:
        return c.unknown()
    low, high = x.low.min(places, keepdims=True), x.high.max(places, keepdims=True)
    return between(c.shape, np.minimum(low, 0.0), np.maximum(high, 0.0), x.lost)


def moved(c: Call) -> list[Known]:
    """Where entries go is found by moving their numbers."""
    names = [n for n, v in c.given.items()
             if c.graph.values[v].floating and c.graph.values[v].number is None]  # fmt: skip
    others = [v for n, v in c.given.items() if n not in names and c.graph.values[v].number is None]
    parts = [c[n] for n in names]
    lost = next((p.lost for p in parts if p.lost), "")
    shapes = [c.graph.values[o].shape for o in c.node.outputs]
    if not all(c.walk.is_fixed(v) for v in others):
        low, high = min(p.low.min() for p in parts), max(p.high.max() for p in parts)
        return [between(s, low, high, lost) for s in shapes]
    numbers: dict[str, Array] = {}
    start = 2**40
    for name, part in zip(names, parts, strict=True):
        numbers[c.given[name]] = np.arange(start, start + prod(part.shape)).reshape(part.shape)
        start += prod(part.shape)
    fixed = {v: c.walk.array(v) for v in others}
    made = c.walk.source.run_node(c.node.name, {**fixed, **numbers})
    if any(x.dtype != np.int64 or (x < 2**40).any() for x in made):
        return [nothing(s, f"{c.node}, which does more than move") for s in shapes]
    return [gathered(parts, x - 2**40, lost) for x in made]


def gathered(parts: list[Known], place: Array, lost: str) -> Known:
    """Entries by their numbers among those of all parts."""
    low, high = (
        np.concatenate(
            [np.broadcast_to(e, p.shape).ravel() for p, e in zip(parts, ends, strict=True)]
        )[place]
        for ends in ([p.low for p in parts], [p.high for p in parts])
    )
    made = between(place.shape, low, high, lost)
    if len(parts) > 1 or not parts[0].shape or not place.shape or not place.size:
        return replace(made, constant=all(p.constant for p in parts))
    (x,) = parts
    rows = place // x.shape[-1]
    once = bool((rows == rows[..., :1]).all() and (np.diff(np.sort(place, -1), axis=-1) > 0).all())
    if once:
        made = replace(
            made, lengths=((lambda: x.length),), convex=x.convex and place.shape[-1] == x.shape[-1]
        )
    made = replace(made, constant=x.constant)
    if x.form is None:
        return made
    form, apart = (
        x.form,
        [n if m == 1 else 1 for n, m in zip(x.shape, x.form.ball.shape, strict=True)],
    )
    ball = form.ball + (int(form.ball.max()) + 1) * np.arange(prod(apart)).reshape(apart)
    ball = np.broadcast_to(ball, x.shape).ravel()[place]
    at = np.broadcast_to(form.at, x.shape).ravel()[place]
    kept = once and np.array_equal(rows[..., 0].ravel(), np.arange(rows[..., 0].size))
    form = replace(form, at=thin(at), ball=alone(ball))
    if not kept:
        form = replace(form, origin=object(), slip=inf)
    return replace(made, form=form)


def alone(ball: Array) -> Array:
    """Of size 1 along axes on which no two positions share a ball, and the pattern is the same."""
    for axis, n in enumerate(ball.shape):
        first = ball.take([0], axis)
        step = (ball - first).max(
            axis=tuple(i for i in range(ball.ndim) if i != axis), keepdims=True
        )
        same = n > 1 and bool((ball - first == step).all())
        if same and len(np.unique(np.unique(first)[:, None] + step.ravel())) == n * len(
            np.unique(first)
        ):
            ball = first
    return np.unique(ball, return_inverse=True)[1].reshape(ball.shape)


def batch_norm(c: Call) -> Known:
    """(x - m) g / sqrt(v + eps) + b, by channels."""
    x, shape = c["input"], (1, -1, *(1,) * (len(c.shape) - 2))
    mean, var, g, b = (c.array(n) for n in ("running_mean", "running_var", "weight", "bias"))
    if mean is None or var is None or c.node.attributes.get("training") or not np.isfinite(x.amax):
        return c.unknown()
    wide = var.astype(np.float64) + (c.number("eps") or 0.0)
    one = np.ones(len(wide))
    gain, bias = (e if a is None else a.astype(np.float64) for a, e in ((g, one), (b, 0 * one)))
    scale, m, bias = (a.reshape(shape) for a in (1 / np.sqrt(wide), mean.astype(np.float64), bias))
    factor = gain.reshape(shape) * scale
    ends, offset = (x.low * factor, x.high * factor), bias - m * factor
    reach = x.size + np.abs(m)
    off = (4 * U + TINY / float(wide.min())) * (reach * np.abs(factor) + np.abs(bias))
    off = off + TINY * (1 + (reach + 1) * scale)
    return between(c.shape, np.minimum(*ends) + offset - off, np.maximum(*ends) + offset + off)


def group_norm(c: Call) -> Known:
    """g u + b, u no longer than the root of how many entries a group has."""
    groups = int(c.number("num_groups") or c.node.attributes.get("num_groups") or 1)
    radius, shape = sqrt(prod(c.shape[1:]) / groups), (1, -1, *(1,) * (len(c.shape) - 2))
    g, b = c.array("weight"), c.array("bias")
    gain = np.abs(np.ones(c.shape[1]) if g is None else g.astype(np.float64)).reshape(shape)
    centre = (np.zeros(c.shape[1]) if b is None else b.astype(np.float64)).reshape(shape)
    reach = radius * (1 + 2 * sums(int(radius**2) + 8)) * gain
    reach = reach + 1.01 * U * (reach + np.abs(centre)) + (1 + radius) * TINY
    return between(c.shape, centre - reach, centre + reach)


def same(c: Call) -> Known:
    """A copy."""
    return c.unknown() if c.node.attributes.get("train") or "training" in c.given else c.first


def within(low: float, high: float) -> Callable[[Call], Known]:
    """Between two numbers, whatever comes in."""
    return lambda c: between(c.shape, low, high)


def padded(c: Call) -> Known:
    """x, and a number around it."""
    x, value = c.first, c.number("value") or 0.0
    return between(c.shape, min(float(x.low.min()), value), max(float(x.high.max()), value), x.lost)


def magnitude(c: Call) -> Known:
    """|x|."""
    x = c.first
    low = np.where((x.low < 0) & (x.high > 0), 0.0, np.minimum(np.abs(x.low), np.abs(x.high)))
    return replace(between(c.shape, low, x.size, x.lost), lengths=((lambda: x.length),))


def largest(c: Call) -> list[Known]:
    """The first k of a row in order; of n weights that sum to 1, one is 1/n at least."""
    x, n, rank = c.first, c.first.shape[-1], len(c.shape)
    options = c.node.attributes
    axis = options.get("dim", options.get("axis", -1))
    low = np.full((1,) * (rank - 1) + c.shape[-1:], float(x.low.min()))
    sorted_down = options.get("largest", 1) and options.get("sorted", 1)
    if x.convex and axis in (-1, rank - 1) and sorted_down:
        low[..., 0] = max((1 - 2 * U - n * TINY - sums(n)) / n, 0.0)
    return [between(c.shape, low, float(x.high.max()), x.lost)]


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x))."""
    return 1 / (1 + np.exp(-x))


Rule = Callable[[Call], Known | list[Known]]
_NAMES: Mapping[Rule, str] = {
    moved: "alias detach view _unsafe_view reshape flatten unflatten squeeze unsqueeze expand "
    "permute transpose t slice select split split_with_sizes chunk unbind unfold diagonal flip "
    "roll repeat repeat_interleave index index_select cat stack narrow movedim contiguous tile "
    "pixel_shuffle gather pixel_unshuffle "
    "Identity Transpose Reshape Flatten Squeeze Unsqueeze Concat Slice "
    "Split Expand Tile "
    "GatherElements DepthToSpace SpaceToDepth clone lift_fresh_copy",
    same: "_to_copy to type_as dropout Cast Dropout",
    table: "embedding Gather",
    affine: "linear addmm Gemm",
    matmul: "mm bmm matmul MatMul",
    attention: "scaled_dot_product_attention",
    softmax: "softmax _softmax Softmax",
    log_softmax: "log_softmax _log_softmax LogSoftmax",
    layer_norm: "layer_norm native_layer_norm rms_norm LayerNormalization RMSNormalization "
    "SimplifiedLayerNormalization",
    group_norm: "group_norm native_group_norm",
    batch_norm: "batch_norm _native_batch_norm_legit_no_training BatchNormalization",
    convolution: "conv1d conv2d conv3d Conv",
    pooled: "max_pool1d max_pool2d avg_pool1d avg_pool2d adaptive_avg_pool1d adaptive_avg_pool2d "
    "upsample_nearest1d upsample_nearest2d upsample_bilinear2d MaxPool AveragePool "
    "GlobalAveragePool",
    plus(1.0): "add Add",
    plus(-1.0): "sub Sub",
    plus(-1.0, turned=True): "rsub",
    product: "mul Mul",
    quotient: "div true_divide Div",
    power: "pow Pow",
    gated(0.0): "relu Relu",
    gated(-0.1701): "gelu Gelu",
    gated(-0.2785): "silu",
    gated(-0.3751): "hardswish HardSwish",
    gated(-0.3089, even=False): "mish Mish",
    rising(np.exp): "exp Exp",
    rising(np.tanh, more=1e-6): "tanh Tanh",
    rising(sigmoid, more=1e-6): "sigmoid Sigmoid",
    rising(lambda x: np.clip(x / 6 + 0.5, 0, 1)): "hardsigmoid",
    rising(lambda x: np.sqrt(np.maximum(x, 0.0))): "sqrt Sqrt",
    rising(np.log, least=0.0, more=1e-6): "log Log",
    falling(lambda x: 1 / np.sqrt(x)): "rsqrt",
    falling(lambda x: 1 / x): "reciprocal Reciprocal",
    within(-1.0, 1.0): "sin cos erf sign Sin Cos Erf Sign",
    lambda c: scaled(c.first, -1.0): "neg Neg",
    magnitude: "abs Abs",
    clipped: "clamp clip hardtanh Clip",
    hull: "where masked_fill maximum minimum Where Max Min",
    padded: "pad constant_pad_nd",
    largest: "topk TopK",
    reduced("sum"): "sum ReduceSum",
    reduced("hull"): "mean amax amin ReduceMean ReduceMax ReduceMin",
}  # fmt: skip
RULES: Mapping[str, Rule] = {name: rule for rule, names in _NAMES.items() for name in names.split()}
