"""A fix in the original's own terms: what to load into a module of the same class."""

# torch.fx and torch.export are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from halfsafe.errors import FoldError
from halfsafe.frontends.torch.constants import Constant, Held, exponent_of
from halfsafe.frontends.torch.model import Opened
from halfsafe.frontends.torch.program import Program
from halfsafe.frontends.torch.schema import argument
from halfsafe.graph import Kind, Node
from halfsafe.recipe import Recipe, Setting


@dataclass(frozen=True)
class Folded:
    """Tensors of the original's state_dict, read when needed, and attributes of its modules.

    `untied` are names of one tensor of the model under which different ones are needed.
    """

    tensors: dict[str, Constant]
    attributes: dict[str, float]
    untied: tuple[str, ...] = ()

    def recipe(self, architecture: str, settings: Mapping[str, Setting] | None = None) -> Recipe:
        """The exponents alone, each tensor under the first of its names."""
        first: dict[Constant, str] = {}
        for name, source in self.tensors.items():
            first.setdefault(source, name)
        return Recipe(
            architecture,
            {name: tuple(source.shape) for source, name in first.items()},
            {name: k for source, name in first.items() if (k := exponent_of(source))},
            settings or {},
            {name: first[x] for name, x in self.tensors.items() if first[x] != name},
        )

    @classmethod
    def read(cls, opened: Opened, before: Program, after: Program) -> Folded:
        """Compares the two captures. Raises FoldError where they differ in more than constants."""
        model = opened.module
        names = _tied_names(model)
        filed: dict[str, Constant] = {}
        attributes: dict[str, float] = {}
        for old, new in _same_calls(before.fx, after.fx):
            node = before.graph.by_name[old.name]
            for operand, value in node.inputs.items():
                found = before.graph.values[value]
                stored, _ = argument(new, operand)
                if found.kind == Kind.CONSTANT and found.floating:
                    source = after.constants.sources[str(stored.target)]
                    changed = source is not before.constants.sources[value]
                    _file(filed, names, node, value, source, changed)
                elif found.number is not None and stored != found.number:
                    name = attribute(model, node.module, operand, found.number)
                    if name is None or attributes.get(name, stored) != stored:
                        raise FoldError(
                            f"{node} needs {operand}={stored} in place of {found.number}, which is "
                            "written into the code of the model: use fixed.model instead"
                        )
                    attributes[name] = float(stored)
        for group in names.values():
            sources = {filed[name] for name in group if name in filed}
            if len(sources) == 1:  # under a name by which no operator reads it, too
                filed |= dict.fromkeys(group, sources.pop())
        untied = [n for group in names.values() if len({filed.get(n) for n in group}) > 1
                  for n in group]  # fmt: skip
        ours: dict[str, Tensor] = model.state_dict()
        known = {name: opened.tensors.get(name) or Held.of(x) for name, x in ours.items()}
        tensors = {name: filed.get(name, source) for name, source in known.items()}
        return cls(tensors, attributes, tuple(dict.fromkeys(untied)))

    def trial(self, opened: Opened) -> nn.Module:
        """A copy of a model with these tensors, each read when it is needed, and attributes."""
        made = opened.lent(self.tensors)
        self._set_attributes(made)
        return made

    def apply(self, model: nn.Module) -> None:
        """Changes a model in place."""
        ours = model.state_dict(keep_vars=True)
        if set(ours) != set(self.tensors):
            odd = sorted(set(ours) ^ set(self.tensors))[0]
            raise FoldError(f"'{odd}' is in one state_dict only: use a model of the same class")
        for name, source in self.tensors.items():
            parent, _, leaf = name.rpartition(".")
            owner: Any = model.get_submodule(parent)
            fresh = source.read().clone()
            if isinstance(ours[name], nn.Parameter):
                fresh = nn.Parameter(fresh, requires_grad=ours[name].requires_grad)
            setattr(owner, leaf, fresh)
        self._set_attributes(model)

    def _set_attributes(self, model: nn.Module) -> None:
        for name, number in self.attributes.items():
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, number)


def _same_calls(before: fx.Graph, after: fx.Graph) -> list[tuple[fx.Node, fx.Node]]:
    """The calls of two graphs, pair by pair. Raises FoldError if one has calls of its own."""
    calls = [
        [n for n in g.nodes if n.op == "call_function" and n.target is not operator.getitem]
        for g in (before, after)
    ]
    old_names = {n.name for n in calls[0]}
    added = next((n for n in calls[1] if n.name not in old_names), None)
    if added is not None:
        raise FoldError(
            f"the plan needs an operator that the model does not have ({added.name}): constants "
            "alone do not suffice, use fixed.model instead"
        )
    by_name = {n.name: n for n in calls[1]}
    return [(n, by_name[n.name]) for n in calls[0] if n.name in by_name]


def _tied_names(model: nn.Module) -> dict[str, list[str]]:
    """All qualified names of each parameter or buffer, by any one of them."""
    groups: dict[int, list[str]] = {}
    everything = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    for name, tensor in everything:
        groups.setdefault(id(tensor), []).append(name)
    return {name: group for group in groups.values() for name in group}


def _file(
    filed: dict[str, Constant],
    tied: Mapping[str, list[str]],
    node: Node,
    constant: str,
    source: Constant,
    changed: bool,
) -> None:
    """Files a constant under the names by which the reading module knows it."""
    names = tied.get(constant, [])
    own = [name for name in names if name.rpartition(".")[0] == node.module] or names
    if changed and not own:
        raise FoldError(f"'{constant}' is made inside forward(): use fixed.model instead")
    for name in own:
        if filed.setdefault(name, source) is not source:
            raise FoldError(
                f"'{name}' is needed at two exponents, one of them by {node}: use fixed.model "
                "instead, which holds a clone"
            )


def attribute(model: nn.Module, module: str, operand: str, number: float) -> str | None:
    """The attribute of a module that holds a number, preferring one named like the operand."""
    owner = model.get_submodule(module)
    held = [
        name for name, found in vars(owner).items() if isinstance(found, float) and found == number
    ]
    named = [name for name in held if operand.partition("_")[0] in name] or held
    return f"{module}.{named[0]}".lstrip(".") if named else None
