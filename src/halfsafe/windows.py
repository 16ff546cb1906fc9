"""The exponents at which a value may be stored: from `low` on it fits, up to `high` precisely.

A value x is stored as x 2^-k. The smaller k, the larger its largest entry: below `low` that leaves
the format. The larger k, the deeper its small entries sink: an entry of binade b is rounded in
steps of 2^(b - m), m the bits of a mantissa, but never in finer ones than those of subnormals,
2^(e - m + k) at exponent k, e the least binade. With n_b entries in binade b,

    loss(k)^2 = sum_b n_b max(4^(b - m), 4^(e - m + k)) / sum_b n_b 4^(b - m)

is how much the rounding error of the whole tensor grows for want of range. It is 1 where no entry
sinks, and rises with k; `high` is the last exponent at which it is small. So each window comes from
one histogram (`Range.rounding_loss`), and an empty one names a value that FP16 cannot hold at any
exponent: its span is too wide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil, inf, log2
from typing import Literal

from halfsafe.formats import FLOAT16, FLOAT32, FloatFormat
from halfsafe.garbage import uncollected
from halfsafe.graph import Graph, Kind, Node, Use
from halfsafe.ranges import Range, Ranges
from halfsafe.rules import Unknown, traits_of

Precision = Literal["none", "whole", "each"]
"""Error that does not count, counts against the whole tensor, or against each entry."""

ANY = 10_000
"""Stands for no bound at all."""


@dataclass(frozen=True, slots=True)
class Window:
    """`low` keeps the headroom and `least` only just fits; `high` is the limit of precision and
    `comfort` the exponent up to which practically nothing is lost."""

    low: int = -ANY
    least: int = -ANY
    high: int = ANY
    comfort: int = ANY

    def __and__(self, other: Window) -> Window:
        return Window(
            max(self.low, other.low),
            max(self.least, other.least),
            min(self.high, other.high),
            min(self.comfort, other.comfort),
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """How windows are drawn.

    `headroom` bits are left above amax. `loss` is how much the rounding error of one tensor may
    grow over an unlimited exponent range before its exponent counts as too large; `comfort` is the
    growth that is not worth avoiding. A tensor that loses more than `loss` as it is may stay so
    (lifting it is a wish) up to the growth `ruin`, from which on it counts as an underflow.
    `inside` gives, by operator, the largest magnitude of operands that its kernel bears. `bounds`
    are magnitudes that values do not pass whatever comes in: these are wished to fit, as headroom
    is, and take its place.
    """

    format: FloatFormat = FLOAT16
    headroom: int = 1
    loss: float = 1.15
    comfort: float = 1.005
    ruin: float = 32.0
    inside: Mapping[str, float] = field(default_factory=dict[str, float])
    bounds: Mapping[str, float] = field(default_factory=dict[str, float])


@uncollected()
def windows(graph: Graph, ranges: Ranges, limits: Limits) -> dict[Unknown, Window]:
    """The windows of values as they are made (by name) and as they are read (by use).

    A value that has to serve several uses has the narrowest of their windows; where a Mul is
    inserted in front of one use, only that use's own window counts behind it.
    """
    found: dict[Unknown, Window] = {}
    drawn: dict[tuple[int, bool, int], _Drawing] = {}  # values that only move share their range
    for name, value in graph.values.items():
        measured = ranges.get(name)
        if not value.floating or measured is None:
            continue
        if value.number is not None:
            for use in graph.consumers[name]:
                found[use] = _literal_window(graph, use, value.number, measured, limits)
                if value.bounded and value.number:
                    found[use] &= _Drawing(True, measured, limits, 0).window(_needs(graph, use))
            continue
        headroom = limits.headroom if value.kind == Kind.ACTIVATION else 0
        headroom = 0 if name in limits.bounds else headroom
        measured = _above_floor(graph, name, measured)
        key = id(measured), value.bounded, headroom
        draw = drawn.setdefault(key, _Drawing(value.bounded, measured, limits, headroom))
        everything: set[Precision] = {"whole"} if name in graph.outputs else set()
        for use in graph.consumers[name]:
            needs = _needs(graph, use)
            everything |= needs
            eps = _epsilon(graph, use)
            found[use] = draw.exact if _saturates(graph, use) else draw.window(needs, eps)
        if value.kind == Kind.CONSTANT:
            continue
        wished = Window()
        if value.bounded and name in limits.bounds:
            wished = _whatever_comes_in(limits.bounds[name], measured, limits)
        found[name] = draw.window(everything) & wished
        for use in graph.consumers[name]:
            borne = _borne(graph, use, measured, limits)
            found[use] &= borne & wished  # where a Mul is inserted, its product is stored as well
            found[name] &= borne
    return found


def _whatever_comes_in(bound: float, measured: Range, limits: Limits) -> Window:
    """What it takes for a value to fit up to its bound; nothing where what samples show would not
    be precise then, since no plan holds that."""
    least = limits.format.bits_above(bound) if bound else 0
    precise = measured.amax * 2.0**-least >= limits.format.smallest_normal
    return Window(low=least) if bound and precise else Window()


def _borne(graph: Graph, use: Use, measured: Range, limits: Limits) -> Window:
    """What the kernel of an operator asks of what it computes from, beyond that it fits."""
    limit = limits.inside.get(graph.by_name[use.node].op)
    if limit is None or measured.amax <= limit:
        return Window()
    least = ceil(log2(measured.amax / limit))
    return Window(low=least + limits.headroom, least=least)


def _needs(graph: Graph, use: Use) -> set[Precision]:
    """The precision that a use asks for; operators that only move entries ask for their readers."""
    node = graph.by_name[use.node]
    traits = traits_of(node)
    if use.operand in traits.addends and _rounds(graph, node):
        return {"none"}
    if traits.moves and use.operand in ("self", "input", "tensor"):
        readers = [reader for output in node.outputs for reader in graph.consumers[output]]
        shown = any(output in graph.outputs for output in node.outputs)
        found: set[Precision] = {"whole"} if shown or not readers else {"none"}
        return found.union(*(_needs(graph, reader) for reader in readers))
    return {"each"} if use.operand in traits.relative else {"whole"}


def _rounds(graph: Graph, node: Node) -> bool:
    """Whether an operator's result is stored in the format: a sum in FP32 hides no loss."""
    return any(graph.values[output].bounded for output in node.outputs)


def _saturates(graph: Graph, use: Use) -> bool:
    return traits_of(graph.by_name[use.node]).saturates


def _epsilon(graph: Graph, use: Use) -> float:
    """The epsilon that a normalisation adds to an operand; 0 where there is none."""
    value = graph.by_name[use.node].inputs.get("eps")
    return 0.0 if value is None else abs(graph.values[value].number or 0.0)


def floor_operand(graph: Graph, node: Node) -> str | None:
    """The operand that keeps an operator's output from 0: eps in x + eps, clamp's min.

    Entries there carry no information, and do not have to be kept precise.
    """
    if not traits_of(node).floors:
        return None
    numbers = {o: graph.values[v].number for o, v in node.inputs.items() if o != "alpha"}
    return next((o for o, n in numbers.items() if n is not None and 0 < n < 1e-2), None)


def _above_floor(graph: Graph, name: str, measured: Range) -> Range:
    """A range less the entries at the floor of the operator that made it, or its source."""
    node = graph.producers.get(name)
    while node is not None and node.moves:
        node = graph.producers.get(next(iter(node.inputs.values())))
    operand = floor_operand(graph, node) if node else None
    if node is None or operand is None:
        return measured
    return measured.without(graph.values[node.inputs[operand]].number or 0.0)


FILLS = ("value", "fill_value")
"""Operands that are numbers to fill entries with."""


class _Drawing:
    """Draws the windows of one value: exact in FP32, fitting, and precise enough for a use."""

    def __init__(self, bounded: bool, measured: Range, limits: Limits, headroom: int) -> None:
        self.exact = _float32_window(measured)
        self.bounded = bounded and measured.amax > 0
        self.measured, self.limits = measured, limits
        least = limits.format.bits_above(measured.amax) if self.bounded else -ANY
        self.fits = self.exact & Window(low=least + headroom if self.bounded else -ANY, least=least)
        self._precise: dict[tuple[bool, float], Window] = {}

    def window(self, needs: set[Precision], eps: float = 0.0) -> Window:
        """For what needs this precision, where eps is added to each entry."""
        if not self.bounded or needs <= {"none"}:
            return self.fits
        key = "each" in needs, eps
        if key not in self._precise:
            limits, (relative, _) = self.limits, key
            high, ruin, comfort = self.measured.highest_exponents(
                (limits.loss, limits.ruin, limits.comfort),
                limits.format,
                relative=relative,
                beside=eps,
            )
            self._precise[key] = Window(high=max(high, min(ruin, 0)), comfort=comfort)
        return self.fits & self._precise[key]


def _float32_window(measured: Range) -> Window:
    """Where scaling is exact in FP32: nothing overflows, nothing normal becomes subnormal."""
    if not measured.amax:
        return Window()
    top = FLOAT32.bits_above(measured.amax)
    normal = [b for b in measured.binades if b >= FLOAT32.min_binade]
    bottom = min(normal) - FLOAT32.min_binade if normal else 0
    return Window(low=top, least=top, high=max(bottom, 0), comfort=max(bottom, 0))


def _literal_window(
    graph: Graph, use: Use, number: float, measured: Range, limits: Limits
) -> Window:
    """A scalar operand is not stored in the deployed format, but should not vanish in a sum."""
    if number == 0 or abs(number) == inf or number != number:
        return Window()
    exact = _float32_window(measured)
    node = graph.by_name[use.node]
    if use.operand in FILLS and any(graph.values[o].bounded for o in node.outputs):
        fits = limits.format.bits_above(abs(number))  # an entry of what is stored, if it is used
        exact = exact & Window(low=fits, least=fits)
    if use.operand not in traits_of(node).addends or not graph.values[node.outputs[0]].bounded:
        return exact
    vanishes = max(measured.binades) - (limits.format.min_binade - limits.format.mantissa_bits)
    return exact & Window(comfort=max(vanishes, 0))


def bits_lost(window: Window, exponent: int) -> int:
    """How far an exponent lies outside the hard part of a window, in bits; 0 inside."""
    return max(window.least - exponent, exponent - window.high, 0)


Windows = Mapping[Unknown, Window]
