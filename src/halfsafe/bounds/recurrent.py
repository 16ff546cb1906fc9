"""Bounds of recurrent layers, whose gates are between 0 and 1, with their own functions alone."""

from __future__ import annotations

from math import ceil, isfinite

from halfsafe.bounds.bound import Bound
from halfsafe.bounds.operands import Computed, Operands
from halfsafe.bounds.rounding import ROUNDED, STEPS

WHOLE = 2048
"""Up to which FP16 has all whole numbers: none of them is passed by rounding."""


def _steps(b: Operands) -> int:
    """How long the sequence is. Raises Computed for one of a branch that no sample takes."""
    shape, first = b.first.shape, b.attributes.get("layout") or b.attributes.get("batch_first")
    if len(shape) < 2:
        raise Computed(f"{b.name}, of a shape that is not known")
    return max(shape[1 if first and len(shape) > 2 else 0], 1)


def _state(b: Operands, *names: str) -> float:
    """The largest entry of a state at the beginning, 0 where there is none."""
    return next((b[name].amax for name in names if name in b), 0.0)


def _has(b: Operands, *functions: str) -> bool:
    """Whether the functions are those, in each direction."""
    given = b.attributes.get("activations")
    names = [x.decode() if isinstance(x, bytes) else str(x) for x in given or functions]
    times = len(names) // len(functions)
    return [name.lower() for name in names] == [name.lower() for name in functions] * times


def lstm(b: Operands) -> list[Bound]:
    """h = o tanh(c), |h| <= 1; c = f c + i tanh(.), |c_t| <= |c_0| + t: rounding passes no whole
    number that FP16 has."""
    if not _has(b, "Sigmoid", "Tanh", "Tanh"):
        return [Bound.unknown(shape, f"{b.name}, whose functions are others") for shape in b.shapes]
    if "hx.1" in b and b.shapes[1] != b.shapes[2]:
        return [Bound.unknown(shape, f"{b.name}, which projects") for shape in b.shapes]
    steps, start = _steps(b), _state(b, "cell", "hx.1", "6")
    most = ((ceil(start) if isfinite(start) else start) + steps) * STEPS**steps
    if most > WHOLE:
        most = most * (1 + ROUNDED) ** (2 * steps)
    spans = zip(b.shapes, (STEPS, STEPS, most), strict=False)
    return [Bound.between(shape, -end, end) for shape, end in spans]


def gru(b: Operands) -> list[Bound]:
    """h = (1 - z) tanh(.) + z h, in the hull of -1, 1 and h_0: rounding passes neither 1 nor an
    entry of h_0, which FP16 has, and FP32 adds little at each step."""
    if not _has(b, "Sigmoid", "Tanh"):
        return [Bound.unknown(shape, f"{b.name}, whose functions are others") for shape in b.shapes]
    reach = max(_state(b, "state", "hx"), 1.0) * STEPS ** _steps(b)
    return [Bound.between(shape, -reach, reach) for shape in b.shapes]


def rnn(b: Operands) -> list[Bound]:
    """h = tanh(.): between -1 and 1."""
    if not _has(b, "Tanh"):
        return [Bound.unknown(shape, f"{b.name}, whose functions are others") for shape in b.shapes]
    return [Bound.between(shape, -STEPS, STEPS) for shape in b.shapes]
