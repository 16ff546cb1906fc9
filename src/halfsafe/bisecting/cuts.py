"""Where a network can be cut in two, and what is handed over there."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from halfsafe.graph import Graph, Kind
from halfsafe.source import Part


@dataclass(frozen=True, slots=True)
class Cut:
    """A network in two parts, of which the first has `place` steps.

    `handed` are the values of the first part that the second one reads, or the user. `inputs` are
    the network's own that the second part reads, and `outputs` what it makes.
    """

    place: int
    handed: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Cuts:
    """The places between the steps of a network, from 0, before the first, to `last`."""

    def __init__(self, network: Part) -> None:
        self.graph: Graph = network.graph
        self.steps = tuple(network.steps)
        self.last = len(self.steps)
        self.place_of = {name: i for i, step in enumerate(self.steps) for name in step}
        nodes = self.graph.nodes
        self._made = {out: self.place_of[node.name] for node in nodes for out in node.outputs}
        self._read: dict[str, int] = {}
        for node in nodes:
            for value in node.inputs.values():
                place = self.place_of[node.name]
                self._read[value] = max(place, self._read.get(value, -1))
        self._read |= dict.fromkeys(self.graph.outputs, self.last)
        self.live = self._live()
        self.border = [self._module(i - 1) != self._module(i) for i in range(self.last + 1)]

    def at(self, place: int) -> Cut:
        """The cut behind the first `place` steps."""
        shown = dict.fromkeys(v for v in self.graph.outputs if v in self._made)
        ahead = {name for name, made in self._made.items() if made < place}
        return Cut(
            place,
            tuple(n for n in self._made if n in ahead and self._read.get(n, -1) >= place),
            tuple(n for n in self.graph.inputs if place <= self._read.get(n, -1) < self.last),
            tuple(name for name in shown if name not in ahead),
        )

    def reads(self, place: int) -> list[str]:
        """Inputs and computed values that the last step of the first part reads."""
        nodes = [self.graph.by_name[name] for name in self.steps[place - 1]]
        read = dict.fromkeys(value for node in nodes for value in node.inputs.values())
        return [v for v in read if self._made.get(v, -1) < place - 1 and self._varies(v)]

    def makes(self, place: int) -> list[str]:
        """What the last step of the first part makes, for others to read."""
        return [v for v in self.at(place).handed if self._made[v] == place - 1]

    def _varies(self, value: str) -> bool:
        return self.graph.values[value].kind in (Kind.INPUT, Kind.ACTIVATION)

    def operator(self, place: int) -> str:
        """The node that is the last of the first part; of an operator with bodies, itself."""
        return self.steps[place - 1][-1]

    def cost(self, place: int) -> tuple[int, bool, int]:
        """How bad a place is for a cut: entries that are handed over, then no border of modules.

        What is handed over has to be stored, and an engine that fused operators there would not.
        """
        return self.live[place], not self.border[place], place

    def _live(self) -> list[int]:
        """How many entries are handed over at each place."""
        change = [0] * (self.last + 2)
        for name, made in self._made.items():
            if self._read.get(name, -1) > made:
                change[made + 1] += max(self.graph.values[name].size, 1)
                change[min(self._read[name], self.last) + 1] -= max(self.graph.values[name].size, 1)
        return list(accumulate(change))

    def _module(self, step: int) -> str:
        return self.graph.by_name[self.steps[step][-1]].module if 0 <= step < self.last else ""
