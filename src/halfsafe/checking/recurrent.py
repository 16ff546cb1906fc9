"""Recurrent layers with their own functions, whose gates are from 0 to 1."""

from __future__ import annotations

from math import ceil, inf

from halfsafe.checking.calls import Call
from halfsafe.checking.known import Known, U, V, between

STEP = 1 + 32 * V
"""What some operations in FP32 may add."""


def usual(c: Call, *functions: str) -> bool:
    """Whether these are the functions of each direction, of a sequence whose shape is known."""
    given = c.node.attributes.get("activations") or functions
    names = [(x.decode() if isinstance(x, bytes) else str(x)).lower() for x in given]
    known = len(c.first.shape) > 1
    return known and names == list(functions) * (len(names) // len(functions))


def steps(c: Call) -> int:
    """How long the sequence is."""
    options, shape = c.node.attributes, c.first.shape
    first = (options.get("layout") or options.get("batch_first")) and len(shape) > 2
    return max(shape[1 if first else 0], 1)


def spans(c: Call, *reaches: float) -> list[Known]:
    """Both ways from 0."""
    shapes = [c.graph.values[o].shape for o in c.node.outputs]
    return [between(s, -r, r) for s, r in zip(shapes, reaches, strict=False)]


def lstm(c: Call) -> list[Known]:
    """h = o tanh(c); c = f c + i tanh(.) is 1 larger each time, from a whole number that rounding
    does not pass up to 2048."""
    if not usual(c, "sigmoid", "tanh", "tanh"):
        return [c.unknown()]
    shapes = [c.graph.values[o].shape for o in c.node.outputs]
    if "hx.1" in c.given and shapes[1] != shapes[2]:  # h is a projection of that
        return [c.unknown()]
    n, start = steps(c), next((c[k].amax for k in ("cell", "hx.1", "6") if k in c.given), 0.0)
    most = (ceil(start) + n) * STEP**n if start < inf else inf
    return spans(c, STEP, STEP, most if most <= 2048 else most * (1 + U) ** (2 * n))


def gru(c: Call) -> list[Known]:
    """h = (1 - z) tanh(.) + z h: in the hull of -1, 1 and the first h."""
    if not usual(c, "sigmoid", "tanh"):
        return [c.unknown()]
    start = next((c[k].amax for k in ("state", "hx", "5") if k in c.given), 0.0)
    return spans(c, *(max(start, 1.0) * STEP ** steps(c),) * 2)


def rnn(c: Call) -> list[Known]:
    """h = tanh(.)."""
    return spans(c, STEP, STEP) if usual(c, "tanh") else [c.unknown()]
