"""A network of a directory as the pipeline sees it: captured, and with what may change in it."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from halfsafe.checkpoint import tensors_in
from halfsafe.edits import Edit
from halfsafe.frontends.huggingface.delivery import NetworkDelivery, recipe_of
from halfsafe.frontends.huggingface.folder import Network
from halfsafe.frontends.huggingface.names import Names
from halfsafe.frontends.huggingface.outputs import View
from halfsafe.frontends.huggingface.settings import Governed, governed
from halfsafe.frontends.torch.expressible import keeping_epsilons, restriction
from halfsafe.frontends.torch.source import TorchSource
from halfsafe.rescaling import shapes_of
from halfsafe.restriction import Restriction


@dataclass(frozen=True)
class Expressible:
    """What a plan for a captured network has to keep to, and how it is delivered.

    `view` is of the outputs that were captured, since somebody deploys them.
    """

    network: Network
    original: TorchSource
    view: View
    names: Names
    governed: Governed

    @classmethod
    def of(cls, network: Network, original: TorchSource, view: View) -> Self:
        """Finds out which settings give which of the network's numbers, and what files hold."""
        values = original.graph.values.values()
        numbers = {v.number for v in values if v.number is not None and v.floating}
        model = original.model
        names = Names.of(model, shapes_of(tensors_in(network.path)), str(network.path))
        return cls(network, original, view, names, governed(model, numbers))

    def restrictions(self) -> list[Restriction]:
        """From the strictest on: epsilons that no setting gives left as they are, then all."""
        program = self.original.program
        found = restriction(self.original.opened, program, self.names.held, self._setting)
        kept = [keeping_epsilons(found, program, every=every) for every in (False, True)]
        return [found, *(each for each in kept if each.kept)]

    def _setting(self, attribute: str) -> str | None:
        path, _ = self.governed.get(attribute, ("", 0.0))
        return path or None

    def deliver(self, edits: Sequence[Edit]) -> NetworkDelivery:
        """The network with a plan's edits. Raises FoldError where its class has no place."""
        original = self.original
        after = original.apply(edits) if edits else original
        recipe = recipe_of(self.network, self.names, original, after, self.governed)
        size = original.program.constants.size
        return NetworkDelivery(self.network, recipe, self.view, size)
