"""Makes bounds tighter where they are the one thing in the way, as long as there is time.

A gain of a convolution is bounded in a moment, and within some percent in a thousand times as long
(`gains.sharp_gain`). So a network is gone through with the first; where a value is left that may be
larger than FP16 holds, the convolutions on the way to it whose gains were asked for are told
sharply, those first that promise most bits a second, and twice as many each time. It ends when all
fits, when no convolution is left, or when there is no time for the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from halfsafe.bounds.bound import Bound
from halfsafe.bounds.interpreter import Constants, Interpreter
from halfsafe.bounds.sharpening import Gains
from halfsafe.formats import FLOAT16
from halfsafe.graph import Graph
from halfsafe.progress import Progress

FIRST = 4
"""How many convolutions are told sharply at first."""


@dataclass(frozen=True)
class Refined:
    """What is known of every value, for which operators sharply, and how that ended, in words."""

    bounds: dict[str, Bound]
    operators: tuple[str, ...] = ()
    ended: str = ""


def refined(
    network: Constants,
    domain: Mapping[str, Bound],
    seconds: float,
    progress: Progress = lambda _: None,
) -> Refined:
    """Bounds of all values, refined for so long at most where FP16 does not hold them."""
    gains = Gains(promises=seconds > 0)
    bounds = Interpreter(network, domain, gains).walk(progress)
    gains.deadline = gains.clock() + seconds
    count, ended = FIRST, ""
    while seconds > 0 and (todo := _promising(network.graph, bounds, gains)):
        chosen = _in_time(todo, gains, gains.deadline - gains.clock())[:count]
        if not chosen:
            ended = f"{len(todo)} convolutions were not refined: {seconds:g} seconds are too few"
            break
        progress("refining")
        gains.sharp.update(chosen)
        bounds, count = Interpreter(network, domain, gains).walk(progress), 2 * count
    return Refined(bounds, tuple(sorted(gains.sharp)), ended)


def _promising(graph: Graph, bounds: Mapping[str, Bound], gains: Gains) -> list[str]:
    """Convolutions on the way to a value that may be too large, those first that promise most."""
    needed = {
        name
        for name, bound in bounds.items()
        if graph.values[name].bounded and bound.is_finite and bound.amax > FLOAT16.max
    }
    found: list[str] = []
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs):
            needed.update(node.inputs.values())
            if node.name in gains.promises and node.name not in gains.sharp:
                found.append(node.name)
    each = gains.promises
    return sorted(found, key=lambda name: each[name].seconds / each[name].bits)


def _in_time(names: list[str], gains: Gains, seconds: float) -> list[str]:
    """Those of which the gains can be told within a time."""
    chosen: list[str] = []
    for name in names:
        seconds -= gains.promises[name].seconds
        if seconds > 0:
            chosen.append(name)
    return chosen
