"""Functions of one entry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import inf, sqrt

import numpy as np
from scipy.special import erf

from halfsafe.checking.arithmetic import times_form
from halfsafe.checking.boxes import all_of, beside
from halfsafe.checking.calls import Call
from halfsafe.checking.known import TINY, Array, Known, U, V, between, rounded


def _hard(x: Array) -> Array:
    return x * np.minimum(np.maximum(x + 3, 0.0), 6.0) / 6


GATES: Mapping[str, tuple[Callable[[Array], Array], float, float, float]] = {
    "relu": (lambda x: np.maximum(x, 0.0), 0.0, 0.0, 0.0),
    "gelu": (lambda x: x * (1 + erf(x / sqrt(2))) / 2, -0.752, -0.1701, 6e-4),
    "silu": (lambda x: x / (1 + np.exp(-x)), -1.2785, -0.2785, 1e-6),
    "hardswish": (_hard, -1.5, -0.3751, 1e-6),
    "mish": (lambda x: x * np.tanh(np.logaddexp(0.0, x)), -1.1924, -0.3089, 1e-6),
}
"""x g(x), 0 <= g <= 1: where it turns, no more than what it is there, and what kernels add."""


def gated(name: str) -> Callable[[Call], Known]:
    """One of these; of all but one g - 1/2 is odd."""
    return lambda c: gate_of(c.shape, c.first, *GATES[name], even=name != "mish")


def gate_of(
    shape: tuple[int, ...],
    x: Known,
    f: Callable[[Array], Array],
    turn: float,
    lowest: float,
    error: float,
    *,
    even: bool,
) -> Known:
    """What falls and then rises lies between its ends, and its least value if it turns there."""
    with np.errstate(invalid="ignore", over="ignore"):
        ends = [np.where(np.isneginf(end), 0.0, f(end)) for end in (x.low, x.high)]
    more = np.where(np.isfinite(x.size), x.size, 0.0)
    more = error + 32 * V * more if error else 0.0
    turns = (x.low < turn) & (x.high > turn)
    low = np.where(turns, lowest, np.minimum(*ends) - more)
    low = np.maximum(low, np.where(x.low >= 0, 0.0, np.maximum(x.low, lowest)))
    high = np.minimum(np.maximum(*ends) + more, np.maximum(x.high, 0.0))
    made = under(between(shape, low, high, x.lost), x, 1.0)
    return replace(made, even=even and x.form is not None)


def under(made: Known, x: Known, s: float) -> Known:
    """No entry is larger than s |x|."""
    carrier = x.form or x.carrier
    carrier = times_form(carrier, s) if carrier is not None and s != 1 else carrier
    boxes = tuple(b.times(s) for b in all_of(x))
    return replace(made, carrier=carrier, lengths=((lambda: s * x.length),), boxes=boxes)


def swish(c: Call) -> Known:
    """x sigmoid(a x), whose least value is that of a = 1 over a, for a > 0."""
    slope = c.number("slope")
    if slope is None or slope <= 0:
        return c.unknown()
    error = 1e-6 + 3 * U / slope
    turn, lowest = -1.2785 / slope, -0.2785 / slope - error
    return gate_of(
        c.shape, c.first, lambda x: x / (1 + np.exp(-slope * x)), turn, lowest, error, even=True
    )


def biased_gate(c: Call) -> Known:
    """GELU of a sum, whose gate is computed and may pass 1 by some steps."""
    x = c.first
    if "bias" in c.given:
        bias = c["bias"]
        x = between(c.shape, x.low + bias.low, x.high + bias.high, x.lost or bias.lost)
        x = rounded(x, U + 16 * V, TINY)
    made = gate_of(c.shape, x, *GATES["gelu"], even=False)
    off = 32 * V * x.amax if np.isfinite(x.amax) else 0.0
    return between(c.shape, made.low - off, made.high + off, x.lost)


def glu(c: Call) -> Known:
    """a sigmoid(b) of both halves: from 0 to a."""
    x = c.first
    axis = int(c.node.attributes.get("dim", -1)) % len(x.shape)
    half = slice(0, 1 if x.low.shape[axis] == 1 else x.shape[axis] // 2)
    low = x.low[(*(slice(None),) * axis, half)]
    half = slice(0, 1 if x.high.shape[axis] == 1 else x.shape[axis] // 2)
    high = x.high[(*(slice(None),) * axis, half)]
    made = between(c.shape, np.minimum(low, 0.0), np.maximum(high, 0.0), x.lost)
    boxes = tuple(beside(c.shape, [b]) for b in all_of(x))
    return replace(made, lengths=((lambda: x.length),), boxes=boxes)


def leaky(c: Call) -> Known:
    """x, or s x under 0, of a number s that may be stored."""
    found = [s for n in ("negative_slope", "alpha") if (s := c.number(n)) is not None]
    s = found[0] if found else 0.01
    off = abs(s) * U + TINY
    return bent(c.shape, c.first, between((), s - off, s + off))


def learned(c: Call) -> Known:
    """The same of an s by channels."""
    slope = c["slope" if "slope" in c.given else "weight"]
    if "weight" in c.given and len(slope.shape) == 1:
        shape = (-1, *(1,) * max(len(c.shape) - 2, 0))
        slope = between(c.shape, slope.low.reshape(shape), slope.high.reshape(shape), slope.lost)
    return bent(c.shape, c.first, slope) if np.isfinite(slope.amax) else c.unknown()


def bent(shape: tuple[int, ...], x: Known, s: Known) -> Known:
    """In pieces linear: extreme at the ends of x and of s, or at 0."""
    ends: list[Array] = []
    for end in (x.low, x.high):
        for slope in (s.low, s.high):
            with np.errstate(invalid="ignore"):
                below = np.where(slope == 0, 0.0, slope * np.minimum(end, 0.0))
            ends.append(np.where(end >= 0, end, below))
    ends.append(np.clip(0.0, x.low, x.high) * np.where((x.low < 0) & (x.high > 0), 0.0, np.nan))
    ends = list(np.broadcast_arrays(*ends))
    made = between(shape, np.fmin.reduce(ends), np.fmax.reduce(ends), x.lost)
    return under(made, x, max(1.0, s.amax)) if x.shape == shape else made


def exponential(a: float, s: float = 1.0) -> Callable[[Call], Known]:
    """s x above 0, s a (exp(t x) - 1) under it, which rises and is under s max(1, a t) |x|.

    Numbers may be stored: each is off by 2^-11 of itself, and so is the result at most.
    """

    def rule(c: Call) -> Known:
        scales = [n for k in ("gamma", "scale") if (n := c.number(k)) is not None]
        alphas = [n for k in ("alpha", "threshold") if (n := c.number(k)) is not None]
        scale, alpha = (scales or [s])[0], (alphas or [a])[0]
        t = c.number("input_scale")
        t = 1.0 if t is None else t
        if "celu" in c.node.op.lower():
            t = 1 / alpha if alpha else 0.0
        return rising_unit(c, alpha, scale, t) if min(alpha, scale, t) > 0 else c.unknown()

    return rule


def rising_unit(c: Call, a: float, s: float, t: float) -> Known:
    """The same of the numbers."""
    x = c.first

    def of(end: Array, sign: float) -> Array:
        found = s * np.where(end > 0, end, a * np.expm1(t * np.minimum(end, 0.0)))
        share = np.where(end > 0, U, 3 * U) * np.abs(np.where(np.isfinite(found), found, 0.0))
        return found + sign * (share + np.where(end < 0, 1e-6 * s * a, 0.0))

    made = between(c.shape, of(x.low, -1.0), of(x.high, 1.0), x.lost)
    return under(made, x, s * max(1.0, a * t) * (1 + 4 * U))


def softplus(c: Call) -> Known:
    """max(x, 0) <= log(1 + exp(s x)) / s, which rises."""
    x, s = c.first, c.number("beta")
    s = 1.0 if s is None else s
    if s <= 0:
        return c.unknown()
    return between(c.shape, np.maximum(x.low, 0), np.logaddexp(0, s * x.high) / s, x.lost)


def squared(c: Call) -> Known:
    """x^2."""
    made = magnitude(c)
    return between(c.shape, made.low**2, made.high**2, made.lost)


def even_rising(f: Callable[[Array], Array]) -> Callable[[Call], Known]:
    """f(|x|)."""

    def rule(c: Call) -> Known:
        made = magnitude(c)
        with np.errstate(over="ignore"):
            return between(c.shape, f(made.low), f(made.high), made.lost)

    return rule


def to_whole(c: Call) -> Known:
    """To whole numbers, or to some digits, which rises."""
    digits = int(c.number("decimals") or 0)
    x = c.first
    return between(c.shape, np.round(x.low, digits), np.round(x.high, digits), x.lost)


def shrunk(c: Call) -> Known:
    """0, or x moved towards 0 by less than it is."""
    x, bias = c.first, c.number("bias") or 0.0
    threshold = c.number("threshold")
    if not 0 <= bias <= (threshold if threshold is not None else 0.5 if bias else 0.0):
        return c.unknown()
    return under(between(c.shape, np.minimum(x.low, 0.0), np.maximum(x.high, 0.0), x.lost), x, 1.0)


def remainder(c: Call) -> Known:
    """a - n b, smaller than b: of the sign of a, or of b."""
    x, y = c["self"], c["other"]
    low, high = min(float(y.low.min()), 0.0), max(float(y.high.max()), 0.0)
    if "fmod" in c.node.op or c.node.attributes.get("fmod"):
        low, high = (
            np.maximum(-y.amax, np.minimum(x.low, 0)),
            np.minimum(y.amax, np.maximum(x.high, 0)),
        )
    return between(c.shape, low, high, x.lost or y.lost)


def mixed(c: Call) -> Known:
    """a + w (b - a)."""
    x, y, w = c["self"], c["end"], c["weight"]
    if not all(np.isfinite(z.amax) for z in (x, y, w)):
        return c.unknown()
    steps = [p * q for p in (y.low - x.high, y.high - x.low) for q in (w.low, w.high)]
    steps = list(np.broadcast_arrays(*steps))
    off = 2 * U * (x.amax + (x.amax + y.amax) * w.amax)
    low, high = x.low + np.minimum.reduce(steps) - off, x.high + np.maximum.reduce(steps) + off
    return between(c.shape, low, high, x.lost or y.lost or w.lost)


def finite(c: Call) -> Known:
    """x, or a number in place of what is none."""
    x, number = c.first, c.number("nan") or 0.0
    return between(c.shape, np.minimum(x.low, number), np.maximum(x.high, number), x.lost)


def thresholded(c: Call) -> Known:
    """x, or a number."""
    x = c.first
    if "value" not in c.given:
        return shrunk(c)
    low, high = (np.minimum(x.low, c["value"].low), np.maximum(x.high, c["value"].high))
    return between(c.shape, low, high, x.lost)


def rising(
    f: Callable[[Array], Array], least: float = -inf, more: float = 0.0, most: float = inf
) -> Callable[[Call], Known]:
    """From the ends of the interval, where it is above `least` and under `most`."""

    def rule(c: Call) -> Known:
        x = c.first
        if not ((x.low > least).all() and (x.high < most).all()) and (least, most) != (-inf, inf):
            return c.unknown()
        with np.errstate(all="ignore"):
            low, high = f(x.low) - more, f(x.high) + more
        return between(c.shape, low, high, x.lost)

    return rule


def falling(f: Callable[[Array], Array], *, below: bool = False) -> Callable[[Call], Known]:
    """The same of one that falls, for what is above 0, or all below it."""

    def rule(c: Call) -> Known:
        x = c.first
        if not ((x.low > 0) | ((x.high < 0) & below)).all():
            return c.unknown()
        return between(c.shape, f(x.high), f(x.low), x.lost)

    return rule


def within(low: float, high: float) -> Callable[[Call], Known]:
    """Between two numbers, whatever comes in."""
    return lambda c: between(c.shape, low, high)


def wave(f: Callable[[Array], Array], crest: float) -> Callable[[Call], Known]:
    """A sine or cosine, whose crests are at an angle and whole turns from it, troughs between."""

    def rule(c: Call) -> Known:
        x = c.first
        if not x.amax <= 2.0**21:
            return between(c.shape, -1.0, 1.0)
        ends = [f(x.low), f(x.high)]
        low, high = (end - crest for end in (x.low, x.high))
        to_crest, to_trough = (-(low - half) % (2 * np.pi) for half in (0.0, np.pi))
        width = high - low + 1e-6
        top = np.where(to_crest <= width, 1.0, np.minimum(np.maximum(*ends) + 1e-6, 1.0))
        bottom = np.where(to_trough <= width, -1.0, np.maximum(np.minimum(*ends) - 1e-6, -1.0))
        return between(c.shape, bottom, top)

    return rule


def magnitude(c: Call) -> Known:
    """|x|."""
    x = c.first
    low = np.where((x.low < 0) & (x.high > 0), 0.0, np.minimum(np.abs(x.low), np.abs(x.high)))
    made = between(c.shape, low, x.size, x.lost)
    return replace(made, lengths=((lambda: x.length),), boxes=all_of(x))


def clipped(c: Call) -> Known:
    """min(max(x, a), b), which is under |x| where 0 is between a and b."""
    low, high, lost = c.first.low, c.first.high, c.first.lost
    zero = between(c.first.shape, 0.0, 0.0)
    for names, how in ((("min", "min_val"), np.maximum), (("max", "max_val"), np.minimum)):
        for name in names:
            limit = c[name] if name in c.given else None
            number = c.node.attributes.get(name) if limit is None else None
            if limit is not None:
                low, high = how(low, limit.low), how(high, limit.high)
                zero = between(c.shape, how(zero.low, limit.low), how(zero.high, limit.high))
                lost = lost or limit.lost
            elif isinstance(number, (int, float)):
                low, high = how(low, number), how(high, number)
                zero = between(c.shape, how(zero.low, number), how(zero.high, number))
    made = between(c.shape, low, high, lost)
    return under(made, c.first, 1.0) if zero.amax == 0 and c.first.shape == c.shape else made


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x))."""
    return 1 / (1 + np.exp(-x))


def softsign(x: Array) -> Array:
    """x / (1 + |x|)."""
    return np.sign(x) * (1 - 1 / (1 + np.abs(x)))
