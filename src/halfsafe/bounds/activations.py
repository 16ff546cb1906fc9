"""Bounds of functions of one entry: gates, functions that rise, and those of two pieces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf, pi

import numpy as np
from scipy.special import expit, ndtr

from halfsafe.bounds.bound import Bound
from halfsafe.bounds.gains import Array
from halfsafe.bounds.operands import Operands
from halfsafe.bounds.patches import of_parts
from halfsafe.bounds.rounding import ROUNDED, STEPS


@dataclass(frozen=True)
class Gate:
    """x g(x) with 0 <= g(x) <= 1, which falls up to some x, where it is `least` or more, and rises
    from there. It is `even` if g - 1/2 is odd; kernels differ by an `error`."""

    function: Callable[[Array], Array]
    at: float
    least: float
    even: bool = True
    error: float = 1e-6


RELU = Gate(lambda x: np.maximum(x, 0.0), 0.0, 0.0, error=0.0)
GELU = Gate(lambda x: x * ndtr(x), -0.752, -0.1701, error=6e-4)  # its form with tanh is as near
SILU = Gate(lambda x: x * expit(x), -1.2785, -0.2785)
MISH = Gate(lambda x: x * np.tanh(np.logaddexp(0.0, x)), -1.1924, -0.3089, even=False)
HARDSWISH = Gate(lambda x: x * np.clip(x / 6 + 0.5, 0.0, 1.0), -1.5, -0.3751)

SELU = 1.6732632423543772, 1.0507009873554805
"""What SELU is multiplied by under 0, and everywhere."""

FAR = 2.0**20
"""An angle, up to which a sine is told from it: kernels in FP32 turn it by whole turns first."""

ANGLE = pi + 1e-6
"""The largest angle, as it is stored."""


def rising(function: Callable[[Array], Array], at: tuple[float, float] = (-inf, inf),
           error: float = 0.0) -> Callable[[Operands], Bound]:  # fmt: skip
    """f(x) for an f that rises, from the ends of the interval; `error` is what a kernel adds."""

    def bound(b: Operands) -> Bound:
        x = b.first
        lowest, highest = (np.clip(end, *at) for end in (x.low, x.high))
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            low, high = function(lowest) - error, function(highest) + error
        return Bound.between(b.shape, low, high, x.lost if not np.isfinite(high).all() else "")

    return bound


def softplus(b: Operands) -> Bound:
    """log(1 + exp(s x)) / s, which rises, for s > 0; above a threshold x, which is less."""
    x, slope = b.first, b.number("beta")
    slope = 1.0 if slope is None else slope
    if slope <= 0:
        return Bound.unknown(b.shape, f"{b.name}, which falls")
    high = np.logaddexp(0, slope * x.high) / slope
    return Bound.between(b.shape, np.maximum(x.low, 0.0), high, x.lost)


def gate(kind: Gate) -> Callable[[Operands], Bound]:
    """x g(x), from the ends of the interval and its least value; ||x g(x)||_2 <= ||x||_2. If g
    - 1/2 is odd, x g(x) - x / 2 is even, and from 0 to |x| / 2."""
    return lambda b: gated(b.first, kind)


def gated(x: Bound, kind: Gate) -> Bound:
    """The same of a bound."""
    off = (kind.error + (STEPS - 1) * np.where(np.isfinite(x.size), x.size, 0.0)) * (kind.error > 0)
    ends = [_at(end, kind.function) for end in (x.low, x.high)]
    least = np.where(x.low >= kind.at, ends[0], np.where(x.high <= kind.at, ends[1], kind.least))
    low = np.maximum(least - off, np.minimum(x.low, 0.0))
    low = np.where(x.low >= 0, np.maximum(low, 0.0), np.maximum(low, kind.least))
    high = np.minimum(np.maximum(*ends) + off, np.maximum(x.high, 0.0))
    made = under(Bound.between(x.shape, low, high, x.lost), x, 1.0)
    return replace(made, even=kind.even and x.form is not None)


def _at(x: Array, function: Callable[[Array], Array]) -> Array:
    """f(x), which comes to 0 where x has no end below."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where(np.isneginf(x), 0.0, function(x))


def under(made: Bound, x: Bound, factor: float) -> Bound:
    """What is no larger than s |x|, entry by entry."""
    carrier = x.form or x.carrier
    if carrier is not None and factor != 1:
        carrier = carrier.scaled(factor)
    windows = tuple(patches.times(factor) for patches in x.all_windows)
    return replace(made, lengths=(x.longest.times(factor),), carrier=carrier, windows=windows)


def rectified(b: Operands) -> Bound:
    """max(x, 0); ||relu(x)||_2 <= ||x||_2."""
    return gated(b.first, RELU)


def within(low: float, high: float) -> Callable[[Operands], Bound]:
    """Between two numbers, whatever comes in; |f(x)| <= |x| is not used."""
    return lambda b: Bound.between(b.shape, low, high)


def swish(b: Operands) -> Bound:
    """x sigmoid(a x), for a > 0 that of a = 1 over a; for others between x and 0."""
    slope, x = b.number("slope"), b.first
    a = 1.0 if slope is None else slope
    if a <= 0:
        made = Bound.between(x.shape, np.minimum(x.low, 0.0), np.maximum(x.high, 0.0), x.lost)
        return under(made, x, 1.0)
    error = SILU.error + 3 * ROUNDED / a  # of a number that is stored
    return gated(
        x, Gate(lambda x: x * expit(a * x), SILU.at / a, SILU.least / a - error, error=error)
    )


def gated_unit(b: Operands) -> Bound:
    """a sigmoid(b) of the two halves along an axis: from 0 to a."""
    x = b.first
    axis = int(b.attributes.get("dim", -1)) % len(x.shape)
    halves = [end.take(range(x.shape[axis] // 2), axis) for end in x.expanded()]
    low, high = np.minimum(halves[0], 0.0), np.maximum(halves[1], 0.0)
    made = Bound.between(b.shape, low, high, x.lost)
    windows = tuple(of_parts(b.shape, (patches,)) for patches in x.all_windows)
    return replace(made, lengths=(x.longest,), windows=windows)


def leaky(default: float) -> Callable[[Operands], Bound]:
    """max(x, 0) + s min(x, 0) for a number s, which may be stored."""

    def bound(b: Operands) -> Bound:
        slope = next((n for k in ("negative_slope", "alpha") if (n := b.number(k)) is not None),
                     default)  # fmt: skip
        off = abs(slope) * ROUNDED + 2.0**-25
        return _two_sided(b.first, b.shape, Bound.between((), slope - off, slope + off))

    return bound


def learned(b: Operands) -> Bound:
    """max(x, 0) + s min(x, 0), s by channels."""
    slope = b["slope" if "slope" in b else "weight"]
    if "weight" in b and len(slope.shape) == 1:  # of PyTorch: along the second axis
        rank = max(len(b.shape) - 2, 0)
        low, high = (
            end.reshape((-1, *(1 for _ in range(rank)))) for end in (slope.low, slope.high)
        )
        slope = Bound.between(b.shape, low, high, slope.lost)
    return _two_sided(b.first, b.shape, slope)


def _two_sided(x: Bound, shape: tuple[int, ...], slope: Bound) -> Bound:
    """Either x >= 0, or s times an x <= 0; |f(x)| <= max(1, |s|) |x|."""
    if not slope.is_finite:
        return Bound.unknown(shape, slope.lost)
    below = np.minimum(x.low, 0.0), np.minimum(x.high, 0.0)
    ends = [times_zero(p, q) for p in below for q in (slope.low, slope.high)]
    least, most = np.minimum.reduce(ends), np.maximum.reduce(ends)
    low = np.where(x.high <= 0, least, np.minimum(np.maximum(x.low, 0.0), least))
    low = np.where(x.low >= 0, np.maximum(x.low, 0.0), low)
    high = np.where(x.high <= 0, most, np.maximum(x.high, most))
    high = np.where(x.low >= 0, x.high, high)
    made = Bound.between(shape, low, high, x.lost)
    return under(made, x, max(1.0, slope.amax)) if x.shape == shape else made


def times_zero(p: Array, q: Array) -> Array:
    """p q, in which 0 times what is not bounded is 0."""
    with np.errstate(invalid="ignore"):
        return np.where((p == 0) | (q == 0), 0.0, p * q)


def exponential_unit(alpha: float, scale: float = 1.0) -> Callable[[Operands], Bound]:
    """s x for x >= 0, s a (exp(t x) - 1) else, which rises for s, a, t > 0, and is no larger than
    s max(1, a t) |x|. Its numbers may be stored."""

    def bound(b: Operands) -> Bound:
        a, s, t = (_number(b, *of) for of in (("alpha", alpha), ("scale", scale),
                                              ("input_scale", 1.0)))  # fmt: skip
        s = _number(b, "gamma", s)
        if not (a >= 0 and s > 0 and t > 0):
            return Bound.unknown(b.shape, f"{b.name}, which falls")
        return _rising_unit(b.first, a, s, t)

    return bound


def celu(b: Operands) -> Bound:
    """x for x >= 0, a (exp(x / a) - 1) else."""
    a = _number(b, "threshold", _number(b, "alpha", 1.0))
    if a <= 0:
        return Bound.unknown(b.shape, f"{b.name}, which falls")
    return _rising_unit(b.first, a, 1.0, 1 / a)


def _rising_unit(x: Bound, a: float, s: float, t: float) -> Bound:
    def of(end: Array) -> Array:
        return s * np.where(end > 0, end, a * np.expm1(t * np.minimum(end, 0.0)))

    error = s * a * (2 * ROUNDED + 2e-6) * (x.low < 0).any()  # of a number that is stored, and exp
    low, high = of(x.low) - error, of(x.high) + np.where(x.high < 0, error, 0.0)
    made = Bound.between(x.shape, low, high, x.lost if not np.isfinite(high).all() else "")
    return under(made.stored(ROUNDED, 0.0), x, s * max(1.0, a * t) * (1 + 4 * ROUNDED))


def _number(b: Operands, name: str, default: float) -> float:
    found = b.number(name)
    return default if found is None else found


def _zeroed(b: Operands, shift: float = 0.0) -> Bound:
    """x or 0, by how large x is, or x moved towards 0 by a number that is not more."""
    x = b.first
    ends = np.minimum(x.low + shift, 0.0), np.maximum(x.high - shift, 0.0)
    made = Bound.between(b.shape, *ends, x.lost)
    return under(made, x, 1.0)


def shrunk(b: Operands) -> Bound:
    """0 where |x| is small, and elsewhere x, or x moved towards 0."""
    bias = _number(b, "bias", 0.0)
    if 0 <= bias <= _number(b, "threshold", 0.5 if bias else 0.0):
        return _zeroed(b)
    x, reach = b.first, abs(bias) * (1 + ROUNDED)  # past 0, or away from it
    ends = np.minimum(x.low, 0.0) - reach, np.maximum(x.high, 0.0) + reach
    return Bound.between(b.shape, *ends, x.lost)


def thresholded(b: Operands) -> Bound:
    """x, or a number where x is small."""
    if "value" not in b:
        return _zeroed(b)
    x, other = b.first, b["value"]
    ends = np.minimum(x.low, other.low), np.maximum(x.high, other.high)
    return Bound.between(b.shape, *ends, x.lost)


def even_rising(function: Callable[[Array], Array]) -> Callable[[Operands], Bound]:
    """f(|x|) for an f that rises."""

    def bound(b: Operands) -> Bound:
        x = b.first
        least = np.where((x.low < 0) & (x.high > 0), 0.0, np.minimum(np.abs(x.low), np.abs(x.high)))
        with np.errstate(over="ignore"):
            low, high = function(least), function(x.size)
        return Bound.between(b.shape, low, high, x.lost if not np.isfinite(high).all() else "")

    return bound


def defined(function: Callable[[Array], Array], least: float, most: float,
            error: float = 1e-6) -> Callable[[Operands], Bound]:  # fmt: skip
    """f(x) for an f that rises, of an x that is within where it is defined."""

    def bound(b: Operands) -> Bound:
        x = b.first
        if not ((x.low > least) & (x.high < most)).all():
            return Bound.unknown(b.shape, x.lost or f"{b.name} of what may be outside")
        return rising(function, error=error)(b)

    return bound


def turning(phase: float) -> Callable[[Operands], Bound]:
    """sin(x + p), from the ends of the interval and whether a crest or a trough is between."""

    def bound(b: Operands) -> Bound:
        x = b.first
        if x.amax > FAR:
            return Bound.between(b.shape, -1.0, 1.0)
        low, high = x.low + phase - 1e-6, x.high + phase + 1e-6
        ends = np.sin(low), np.sin(high)
        least = np.where(_passes(low, high, -pi / 2), -1.0, np.minimum(*ends) - 1e-6)
        most = np.where(_passes(low, high, pi / 2), 1.0, np.maximum(*ends) + 1e-6)
        return Bound.between(b.shape, np.maximum(least, -1.0), np.minimum(most, 1.0))

    return bound


def _passes(low: Array, high: Array, angle: float) -> Array:
    """Whether an interval has an angle in it, turned by any number of whole turns."""
    return np.floor((high - angle) / (2 * pi)) >= np.ceil((low - angle) / (2 * pi))


def remainder(b: Operands) -> Bound:
    """a - n b: no larger than b; of the sign of one of them."""
    x, y = b["self"], b["other"]
    reach = y.amax * STEPS
    if b.attributes.get("fmod") or "fmod" in b.op:  # which has the sign of a
        ends = np.maximum(-reach, np.minimum(x.low, 0.0)), np.minimum(reach, np.maximum(x.high, 0))
        return Bound.between(b.shape, *ends, x.lost or y.lost)
    low, high = min(float(y.low.min()), 0.0), max(float(y.high.max()), 0.0)
    return Bound.between(b.shape, low * STEPS, high * STEPS, y.lost)


def mixed(b: Operands) -> Bound:
    """a + w (b - a)."""
    x, y, w = b["self"], b["end"], b["weight"]
    ends = [y.low - x.high, y.high - x.low]
    steps = [times_zero(p, q) for p in ends for q in (w.low, w.high)]
    low, high = x.low + np.minimum.reduce(steps), x.high + np.maximum.reduce(steps)
    slack = 4 * ROUNDED * (x.amax + (x.amax + y.amax) * w.amax) if w.is_finite else 0.0
    return Bound.between(b.shape, low - slack, high + slack, x.lost or y.lost or w.lost)


def finite(b: Operands) -> Bound:
    """x, of which NaN and what is infinite are replaced: no x that is bounded has any."""
    x = b.first
    number = _number(b, "nan", 0.0)
    return Bound.between(b.shape, np.minimum(x.low, number), np.maximum(x.high, number), x.lost)


def rounded(b: Operands) -> Bound:
    """To whole numbers, or to some digits, which rises."""
    digits = b.number("decimals") or b.attributes.get("decimals") or 0
    return rising(lambda x: np.round(x, int(digits)))(b)


def biased_gate(kind: Gate) -> Callable[[Operands], Bound]:
    """x g(x) of the sum with a bias."""

    def bound(b: Operands) -> Bound:
        x = b.first
        if "bias" in b:
            ends = x.low + b["bias"].low, x.high + b["bias"].high
            x = Bound.between(b.shape, *ends, x.lost or b["bias"].lost).stored(ROUNDED, 2.0**-25)
        made = gated(x, kind)  # kernels of tanh may pass 1 by some steps of FP32
        off = (STEPS - 1) * x.amax if x.is_finite else 0.0
        return Bound.between(b.shape, made.low - off, made.high + off, made.lost)

    return bound
