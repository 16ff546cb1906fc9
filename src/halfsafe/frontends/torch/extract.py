"""A part of a captured network as a program of its own, with the same constants."""

# torch.fx and torch.export are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from halfsafe.frontends.torch.private import tree_flatten
from halfsafe.frontends.torch.program import Program
from halfsafe.frontends.torch.schema import aten, is_deployed
from halfsafe.samples import Call


def extract(program: Program, inputs: Sequence[str] | None, outputs: Sequence[str]) -> Program:
    """The part of a program that computes `outputs` from `inputs`, or from its own inputs.

    It gives a flat tuple and, of `inputs`, takes positional arguments. Sizes, which are no tensors,
    cross its rim as tensors of one integer. Constants are the program's own.
    """
    graph = fx.Graph()
    graph.output(graph.graph_copy(program.fx, {}))
    part = _Part(graph)
    taken = None if inputs is None else part.take(inputs)
    part.give(outputs)
    part.keep(taken)
    graph.lint()
    _, out_spec = tree_flatten(tuple(outputs))
    program = replace(program, fx=graph, out_spec=out_spec)
    if taken is None:
        return program
    names = tuple(node.name for node in taken)
    _, in_spec = tree_flatten((names, {}))
    return replace(program, in_spec=in_spec, argument_names=names)


def arguments(program: Program, values: Mapping[str, NDArray[Any] | Any]) -> Call:
    """Values of a graph as the positional arguments of a part that takes them."""
    nodes = _Values(program.fx)
    return Call(
        tuple(_taken(x, nodes.of(name), program.deployed) for name, x in values.items()),
        {},
        computed=True,
    )


def _taken(x: Any, node: fx.Node | None, deployed: torch.dtype) -> Any:
    """An array as a tensor of the type in which a graph in FP32 has it; anything else as it is."""
    if not hasattr(x, "__array__") or isinstance(x, Tensor):
        return x
    made = torch.as_tensor(x)
    if node is None or not made.is_floating_point():
        return made
    held: Any = node.meta.get("val")
    return made.to(torch.float32 if is_deployed(node, deployed) else held.dtype)


class _Values:
    """The nodes of a graph by the names that its values have."""

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph
        self.nodes = {node.name: node for node in graph.nodes}

    def of(self, name: str) -> fx.Node | None:
        """The node that gives a value; of several outputs, the first that gets that one."""
        return next(iter(self.all_of(name)), None)

    def all_of(self, name: str) -> list[fx.Node]:
        if name in self.nodes:
            return [self.nodes[name]]
        source, _, index = name.rpartition(".")
        return [
            user
            for user in self.nodes[source].users
            if user.target is operator.getitem and user.args[1] == int(index)
        ]


class _Part:
    """A copy of a graph of which a part is kept."""

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph
        self.values = _Values(graph)

    def take(self, names: Sequence[str]) -> list[fx.Node]:
        """These values become inputs, in their order."""
        (first, *_) = self.graph.nodes
        taken: list[fx.Node] = []
        for name in names:
            with self.graph.inserting_before(first):
                made = self.graph.placeholder(f"taken_{name.replace('.', '_')}")
            self._replace(self.values.all_of(name), made)
            taken.append(made)
        return taken

    def _replace(self, found: Sequence[fx.Node], made: fx.Node) -> None:
        if not found:
            return
        made.meta = dict(found[0].meta)
        source = made
        if not isinstance(found[0].meta.get("val"), Tensor):
            with self.graph.inserting_after(made):
                source = self.graph.call_method("item", (made,))
            source.meta = dict(found[0].meta)
            made.meta = {"val": torch.zeros((), dtype=torch.int64, device="meta")}
        for node in found:
            node.replace_all_uses_with(source, lambda user: user is not source)

    def give(self, names: Sequence[str]) -> None:
        """These values become the outputs."""
        (output,) = self.graph.find_nodes(op="output")
        with self.graph.inserting_before(output):
            output.args = (tuple(self._given(name) for name in names),)

    def _given(self, name: str) -> fx.Node:
        node = self.values.of(name)
        if node is None:  # an output of several that nothing reads
            source, _, index = name.rpartition(".")
            held = self.values.nodes[source]
            node = self.graph.call_function(operator.getitem, (held, int(index)))
            node.meta = {**held.meta, "val": held.meta["val"][int(index)]}
        if isinstance(node.meta.get("val"), Tensor):
            return node
        made = self.graph.call_function(aten.scalar_tensor.default, (node,), {"dtype": torch.int64})
        made.meta = {"val": torch.zeros((), dtype=torch.int64, device="meta")}
        return made

    def keep(self, taken: Sequence[fx.Node] | None) -> None:
        """What nothing reads goes, and of the inputs all that are not `taken`."""
        inputs = self.graph.find_nodes(op="placeholder") if taken is None else taken
        kept = {*inputs, *self.graph.find_nodes(op="output")}
        for node in reversed(list(self.graph.nodes)):
            if not node.users and node not in kept:
                self.graph.erase_node(node)
