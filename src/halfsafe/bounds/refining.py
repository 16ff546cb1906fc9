"""Makes bounds tighter where they are the one thing in the way, as long as there is time.

A network is gone through with inequalities that cost little. Where a value is left that may be
larger than FP16 holds, two things are tried of what is on the way to it. Intervals of inputs of few
entries are cut into pieces, four times as many each time (`splitting`). Then gains of convolutions,
which are bounded in a moment, and within some percent in a thousand times as long
(`gains.sharp_gain`), are told sharply, those first that promise most bits a second, and twice as
many each time. It ends when all fits, when nothing is left, or when there is no time for the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod

from halfsafe.bounds.bound import Bound
from halfsafe.bounds.interpreter import Constants, Interpreter
from halfsafe.bounds.sharpening import Gains
from halfsafe.bounds.splitting import PIECES, hulls, that_can_be_cut
from halfsafe.formats import FLOAT16
from halfsafe.progress import Progress

FIRST = 4
"""How many convolutions are told sharply at first, and pieces are made."""


@dataclass(frozen=True)
class Refined:
    """What is known of every value, for which operators sharply, by how many pieces along each
    entry of an input, and how that ended, in words."""

    bounds: dict[str, Bound]
    operators: tuple[str, ...] = ()
    cuts: Mapping[str, int] = field(default_factory=dict[str, int])
    ended: str = ""


def refined(
    network: Constants,
    domain: Mapping[str, Bound],
    seconds: float,
    progress: Progress = lambda _: None,
) -> Refined:
    """Bounds of all values, refined for so long at most where FP16 does not hold them."""
    found = _Refining(network, domain, seconds, progress)
    if seconds > 0:
        found.cut()
        found.sharpen()
    operators = tuple(sorted(found.gains.sharp))
    return Refined(found.bounds, operators, found.cuts, "; ".join(found.ended))


class _Refining:
    """What is known so far, and what it took."""

    def __init__(
        self, network: Constants, domain: Mapping[str, Bound], seconds: float, progress: Progress
    ) -> None:
        self.network, self.domain, self.progress = network, domain, progress
        self.gains = Gains(promises=seconds > 0)
        self.known: dict[str, Bound] = {}
        self.cuts: dict[str, int] = {}
        self.ended: list[str] = []
        self._seconds, began = seconds, self.gains.clock()
        self.bounds = self._walk()
        self._piece = self.gains.clock() - began
        self.gains.deadline = self.gains.clock() + seconds

    def _walk(self) -> dict[str, Bound]:
        return Interpreter(self.network, self.domain, self.gains, self.known).walk(self.progress)

    @property
    def _left(self) -> float:
        return self.gains.deadline - self.gains.clock()

    def cut(self) -> None:
        """Cuts inputs on the way to values that do not fit; a piece takes no longer than a walk."""
        count = FIRST
        while count <= PIECES and (names := self._on_the_way(that_can_be_cut(self.domain))):
            entries = {name: prod(self.domain[name].shape) for name in names}
            cuts = {name: max(2, round(count ** (1 / n))) for name, n in entries.items()}
            pieces = sum(cuts[name] ** n for name, n in entries.items())
            if pieces * self._piece > self._left:
                self.ended.append(f"{', '.join(names)}: not cut into {pieces} pieces, for which "
                                  f"{self._seconds:g} seconds are too few")  # fmt: skip
                break
            self.progress("refining")
            began = self.gains.clock()
            for name in names:
                self.known |= hulls(self.network, self.domain, name, cuts[name])
            self._piece = (self.gains.clock() - began) / pieces
            self.cuts |= cuts
            self.bounds, count = self._walk(), 4 * count

    def sharpen(self) -> None:
        """Tells gains of convolutions sharply, more of them each time."""
        count, gains = FIRST, self.gains
        while todo := self._promising():
            chosen = self._in_time(todo)[:count]
            if not chosen:
                self.ended.append(f"{len(todo)} convolutions were not refined: "
                                  f"{self._seconds:g} seconds are too few")  # fmt: skip
                break
            self.progress("refining")
            gains.sharp.update(chosen)
            self.bounds, count = self._walk(), 2 * count

    def _promising(self) -> list[str]:
        """Convolutions on the way to a value that may be too large, those first that promise
        most."""
        each = self.gains.promises
        found = self._on_the_way(n for n in each if n not in self.gains.sharp)
        return sorted(found, key=lambda name: each[name].seconds / each[name].bits)

    def _in_time(self, names: list[str]) -> list[str]:
        """Those of which the gains can be told within the time that is left."""
        chosen: list[str] = []
        left = self._left
        for name in names:
            left -= self.gains.promises[name].seconds
            if left > 0:
                chosen.append(name)
        return chosen

    def _on_the_way(self, names: Iterable[str]) -> list[str]:
        """Operators and inputs from which a value comes that may be larger than FP16 holds."""
        graph, passed = self.network.graph, set[str]()
        needed = {
            name
            for name, bound in self.bounds.items()
            if graph.values[name].bounded and bound.is_finite and bound.amax > FLOAT16.max
        }
        for node in reversed(graph.nodes):
            if needed.intersection(node.outputs):
                needed.update(node.inputs.values())
                passed.add(node.name)
        passed |= needed.intersection(graph.inputs)
        return [name for name in names if name in passed]
