"""Bounds of attention, as operators of its own: a row is in the hull of those of the values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from halfsafe.bounds.bound import Bound
from halfsafe.bounds.linear import mapped, mixed
from halfsafe.bounds.moving import over_all
from halfsafe.bounds.operands import Operands
from halfsafe.bounds.rounding import FLUSHED, ROUNDED

NOTHING = Bound.between((), 0.0, 0.0)
"""What a sink of attention gives, and what a cache holds before anything has been kept."""


def attention(b: Operands) -> Bound:
    """softmax(q k^T) v: a row is in the hull of v's rows, of each head. A row that is masked whole
    is not looked at."""
    return mixed(b.shape, b["value"], b["key"].shape[-2])


def cached_attention(b: Operands) -> list[Bound]:
    """The same with values of before, and a bias that is added to them; and what is kept for
    later."""
    odd = any(name in b for name in ("k_scale", "v_scale", "indirection"))
    packed = "value" not in b and ("key" in b or "bias" in b or len(b["query"].shape) != 3)
    if odd or packed:
        return [Bound.unknown(shape, f"{b.name}, whose operands are packed") for shape in b.shapes]
    whole = over_all([b["query"]], b["query"].shape)
    key, value = (b["key"], b["value"]) if "value" in b else (whole, whole)
    if "bias" in b:
        value = _biased(b, value)
    made = [_averaged(b, value)]
    plain = not any(name in b for name in ("bias", "q_norm", "k_norm"))
    for new, old, shape in zip(
        (_turned(b, key), value), ("past_key", "past_value"), b.shapes[1:3], strict=False
    ):
        kept = [new, NOTHING, *([b[old]] if old in b else [])]
        lost = Bound.unknown(shape, f"{b.name}, whose keys are others")
        made.append(over_all(kept, shape) if plain or old == "past_value" else lost)
    return made


def _turned(b: Operands, x: Bound) -> Bound:
    """Keys that may be turned by angles inside, which makes them twice as large at most, or by as
    much as tables say."""
    if not b.attributes.get("do_rotary"):
        return x
    factor = (b["cos"].amax + b["sin"].amax if "cos" in b and "sin" in b else 2.0) + 4 * ROUNDED
    reach = x.amax * max(factor, 1.0)
    return Bound.between(x.shape, -reach, reach, x.lost)


def _biased(b: Operands, value: Bound) -> Bound:
    """Values of which the last part of a bias is added."""
    width = value.shape[-1]
    bias = b.constant("bias").astype(np.float64).ravel()[-width:]
    if len(value.shape) != 3:
        return Bound.unknown(value.shape, f"{b.name}, whose values have a bias by heads")
    off = ROUNDED * np.abs(bias) + FLUSHED
    made = Bound.between(value.shape, value.low + bias - off, value.high + bias + off, value.lost)
    return made.stored(ROUNDED, FLUSHED)


def _averaged(b: Operands, value: Bound) -> Bound:
    """Averages of values, those of before among them."""
    if "past_value" not in b and "GroupQuery" not in b.op and value.shape[-1] == b.shape[-1]:
        if len(value.shape) == len(b.shape) == 4:
            return mixed(b.shape, value, value.shape[-2])
        if len(value.shape) == len(b.shape) == 3:
            return _by_columns(b, value)
    count = value.shape[-2] + (b["past_value"].shape[-2] if "past_value" in b else 0)
    return _over_all(b, [value, NOTHING, *([b["past_value"]] if "past_value" in b else [])], count)


def _by_columns(b: Operands, value: Bound) -> Bound:
    """Of rows of several heads side by side, each of which is averaged in another way: no row of
    them is one of the values, and what is known of those is not of it."""
    return replace(mixed(b.shape, value.plain(), value.shape[-2]), lengths=())


def _over_all(b: Operands, bounds: list[Bound], count: int) -> Bound:
    made = mixed((1, 1, count, 1), over_all(bounds, (1, 1, count, 1)), count)
    return Bound.between(b.shape, float(made.low.min()), float(made.high.max()), made.lost)


def projected_attention(b: Operands) -> list[Bound]:
    """The same, of values that are the last part of a projection."""
    x, weight, bias = b["input"], b.constant("weight"), b.known("bias")
    sizes = b.attributes.get("qkv_hidden_sizes")
    width = int(sizes[-1]) if sizes else weight.shape[1] // 3
    whole = mapped(b, x, weight.T, bias).plain().stored(ROUNDED, FLUSHED)
    if "past" in b or b.shape[-1] != width:
        past = [b["past"]] if "past" in b else []
        count = x.shape[-2] + sum(p.shape[-2] for p in past)
        made = _over_all(b, [whole, *past, NOTHING], count)
        return [made, *(over_all([whole, *past, NOTHING], shape) for shape in b.shapes[1:2])]
    last = None if bias is None else bias.ravel()[-width:]
    value = mapped(b, x, weight[:, -width:].T, last).plain().stored(ROUNDED, FLUSHED)
    made = replace(_by_columns(b, value), summed=whole.summed)
    return [made, *(over_all([whole], shape) for shape in b.shapes[1:2])]
