"""Bounds of attention, as operators of its own: a row is in the hull of those of the values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from halfsafe.bounds.bound import Bound
from halfsafe.bounds.linear import mapped, mixed
from halfsafe.bounds.moving import over_all
from halfsafe.bounds.operands import Operands
from halfsafe.bounds.rounding import ROUNDED


def attention(b: Operands) -> Bound:
    """softmax(q k^T) v: a row is in the hull of v's rows, of each head. A row that is masked whole
    is not looked at."""
    return mixed(b.shape, b["value"], b["key"].shape[-2])


def cached_attention(b: Operands) -> list[Bound]:
    """The same with values of before, and a bias that is added to them; and what is kept for
    later."""
    if "value" not in b:
        return _packed(b)
    value = b["value"]
    if "bias" in b:
        value = _biased(b, value)
    made = _mixed(b, value)
    kept = [
        _kept(b, new, old, shape)
        for new, old, shape in zip(
            (b["key"] if "bias" not in b else None, value),
            ("past_key", "past_value"),
            b.shapes[1:3],
            strict=False,
        )
    ]
    return [made, *kept]


def _packed(b: Operands) -> list[Bound]:
    """Queries, keys and values in one: within the hull of all."""
    x = b["query"]
    if len(x.shape) != 3 or "bias" in b:
        return [Bound.unknown(shape, f"{b.name}, whose operands are packed") for shape in b.shapes]
    made = _mixed(b, over_all([x], x.shape))
    rotated = over_all([_turned(b, x)], x.shape)
    kept = zip((rotated, x), ("past_key", "past_value"), b.shapes[1:3], strict=False)
    return [made, *(_kept(b, new, old, shape) for new, old, shape in kept)]


def _turned(b: Operands, x: Bound) -> Bound:
    """Keys that may be turned by angles inside, which makes them sqrt(2) larger at most, or by as
    much as tables say."""
    if not b.attributes.get("do_rotary"):
        return x
    factor = (b["cos"].amax + b["sin"].amax if "cos" in b and "sin" in b else 2.0) + 4 * ROUNDED
    reach = x.amax * max(factor, 1.0)
    return Bound.between(x.shape, -reach, reach, x.lost)


def _kept(b: Operands, new: Bound | None, old: str, shape: tuple[int, ...]) -> Bound:
    if new is None:
        return Bound.unknown(shape, f"{b.name}, whose keys have a bias")
    new = _turned(b, new) if old == "past_key" else new
    zero = Bound.between((), 0.0, 0.0)  # where nothing has been kept so far
    return over_all([new, zero, *([b[old]] if old in b else [])], shape)


def _biased(b: Operands, value: Bound) -> Bound:
    """Values of which the last part of a bias is added."""
    width = value.shape[-1]
    bias = b.constant("bias").astype(np.float64).ravel()[-width:]
    if len(value.shape) != 3:
        return Bound.unknown(value.shape, f"{b.name}, whose values have a bias by heads")
    off = ROUNDED * np.abs(bias) + ROUNDED
    low, high = value.low + bias - off, value.high + bias + off
    return Bound.between(value.shape, low, high, value.lost)


def _mixed(b: Operands, value: Bound) -> Bound:
    """Averages of values, those of before among them, with 0 where a sink takes a part."""
    count = value.shape[-2] + (b["past_value"].shape[-2] if "past_value" in b else 0)
    plain = b.op == "onnx.Attention" and "past_value" not in b and value.shape[-1] == b.shape[-1]
    if plain and len(value.shape) == len(b.shape):
        return mixed(b.shape, value, count)
    of = [value, *([b["past_value"]] if "past_value" in b else [])]
    if "GroupQuery" in b.op:
        of.append(Bound.between((), 0.0, 0.0))
    if len(of) == 1 and value.shape[-1] == b.shape[-1] and len(value.shape) == len(b.shape):
        return mixed(b.shape, value, count)
    whole = over_all(of, (1, 1, count, 1))
    made = mixed((1, 1, count, 1), whole, count)
    return Bound.between(b.shape, float(made.low.min()), float(made.high.max()), made.lost)


def projected_attention(b: Operands) -> list[Bound]:
    """The same, of values that are the last part of a projection."""
    x, weight, bias = b["input"], b.constant("weight"), b.known("bias")
    sizes = b.attributes.get("qkv_hidden_sizes")
    width = int(sizes[-1]) if sizes else weight.shape[1] // 3
    last = None if bias is None else bias.ravel()[-width:]
    value = mapped(b, x, weight[:, -width:].T, last)
    if "past" not in b:
        made = mixed(b.shape, value.stored(ROUNDED, ROUNDED**2), x.shape[-2])
        whole = mapped(b, x, weight.T, bias)
        return [replace(made, summed=value.summed),
                *(over_all([whole], shape) for shape in b.shapes[1:2])]  # fmt: skip
    whole = over_all([mapped(b, x, weight.T, bias), b["past"]], (1, 1, 1, 1))
    count = x.shape[-2] + b["past"].shape[-2]
    made = mixed((1, 1, count, 1), over_all([whole], (1, 1, count, 1)), count)
    first = Bound.between(b.shape, float(made.low.min()), float(made.high.max()), made.lost)
    return [first, *(over_all([whole], shape) for shape in b.shapes[1:2])]
