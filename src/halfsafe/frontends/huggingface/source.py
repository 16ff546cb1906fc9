"""A network of a directory as the pipeline sees it: captured, and with what may change in it."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from halfsafe.edits import Edit, ScaleOutput
from halfsafe.frontends.huggingface.delivery import NetworkDelivery, recipe_of
from halfsafe.frontends.huggingface.folder import Network
from halfsafe.frontends.huggingface.outputs import loose
from halfsafe.frontends.huggingface.settings import Governed, governed
from halfsafe.frontends.torch.expressible import keeping_epsilons, restriction
from halfsafe.frontends.torch.source import TorchSource
from halfsafe.restriction import Restriction


@dataclass(frozen=True)
class Expressible:
    """What a plan for a captured network has to keep to, and how it is delivered."""

    network: Network
    original: TorchSource
    governed: Governed

    @classmethod
    def of(cls, network: Network, original: TorchSource) -> Self:
        """Finds out which settings give which of the network's numbers."""
        values = original.graph.values.values()
        numbers = {v.number for v in values if v.number is not None and v.floating}
        return cls(network, original, governed(original.model, numbers))

    def restrictions(self) -> list[Restriction]:
        """From the strictest on: outputs as they are, states free, epsilons left as they are."""
        found = restriction(self.original.opened, self.original.program, self._setting)
        states = frozenset(loose(self.original.program))
        free = replace(found, loose=states)
        program = self.original.program
        kept = [keeping_epsilons(free, program, every=every) for every in (False, True)]
        return [found, *([free] if states else []), *(each for each in kept if each.kept)]

    def _setting(self, attribute: str) -> str | None:
        path, _ = self.governed.get(attribute, ("", 0.0))
        return path or None

    def deliver(self, edits: Sequence[Edit]) -> NetworkDelivery:
        """The network with a plan's edits. Raises FoldError where its class has no place."""
        shown = {e.index: e.bits for e in edits if isinstance(e, ScaleOutput)}
        inside = [e for e in edits if not isinstance(e, ScaleOutput)]
        after = self.original.apply(inside) if inside else self.original
        recipe = recipe_of(self.network, self.original, after, self.governed)
        return NetworkDelivery(self.network, recipe, shown, self.original.program.constants.size)
