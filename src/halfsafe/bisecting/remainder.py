"""What follows a cut, computed in FP32 from what is handed over there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from halfsafe.bisecting.cuts import Cut
from halfsafe.formats import FLOAT32
from halfsafe.samples import Call
from halfsafe.source import Arrays, Part

Values = Mapping[str, Any]
"""Values of a graph by name: arrays, or what else a sample has."""


class Remainder:
    """The second part of a network, in FP32."""

    def __init__(self, network: Part, cut: Cut) -> None:
        self.network, self.cut = network, cut

    @cached_property
    def _part(self) -> Part:
        return self.network.extract((*self.cut.handed, *self.cut.inputs), self.cut.outputs)

    def outputs(self, call: Call, handed: Values, reference: Arrays) -> Arrays:
        """The network's outputs; one that no operator makes is that of the reference."""
        found = {**handed, **self._made(call, handed)}
        names: Sequence[str] = self.network.graph.outputs
        return [found.get(name, known) for name, known in zip(names, reference, strict=True)]

    def _made(self, call: Call, handed: Values) -> Values:
        if not self.cut.outputs:
            return {}
        given = self.network.given(call)
        values = {**handed, **{name: given[name] for name in self.cut.inputs}}
        made = self._part.evaluate(self.network.arguments(values), FLOAT32)
        return dict(zip(self.cut.outputs, made, strict=True))
