"""An FX graph as halfsafe's own frozen one."""

# torch.fx and torch.export are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false
# pyright: reportPrivateUsage=false

from __future__ import annotations

import operator
from collections.abc import Container
from typing import Any

import torch
from torch import Tensor, fx

from halfsafe.frontends.torch.lines import module_path, source_line
from halfsafe.frontends.torch.private import tree_leaves
from halfsafe.frontends.torch.schema import is_number, items, moves, operator_name, schema_arguments
from halfsafe.graph import Graph, Kind, Node, Value


def read_graph(graph: fx.Graph, constants: Container[str], deployed: torch.dtype) -> Graph:
    """An FX graph as halfsafe's. Operands get the names of the operator's own schema."""
    return _Reader(constants, deployed).read(graph)


class _Reader:
    """Builds a Graph from an fx.Graph."""

    def __init__(self, constants: Container[str], deployed: torch.dtype) -> None:
        self.constants, self.deployed = constants, deployed
        self.names: dict[fx.Node, str] = {}
        self.values: dict[str, Value] = {}
        self.nodes: list[Node] = []
        self.inputs: list[str] = []
        self.outputs: list[str] = []

    def read(self, graph: fx.Graph) -> Graph:
        for node in graph.nodes:
            match node.op:
                case "placeholder":
                    self.inputs.append(self._value(node, node.name, Kind.INPUT))
                case "get_attr" if str(node.target) not in self.constants:
                    pass  # the branch of a condition
                case "get_attr":
                    self._value(node, str(node.target), Kind.CONSTANT)
                case "output":
                    flat = node.args[0] if isinstance(node.args[0], (tuple, list)) else node.args
                    self.outputs = [self.names[o] for o in flat if isinstance(o, fx.Node)]
                case _ if node.target is operator.getitem:
                    source, index = node.args
                    self.names[node] = f"{self.names[source]}.{index}"
                case _:
                    self._call(node)
        return Graph(tuple(self.nodes), self.values, tuple(self.inputs), tuple(self.outputs))

    def _call(self, node: fx.Node) -> None:
        operands: dict[str, str] = {}
        attributes: dict[str, Any] = {}
        floating = _touches_floats(node)
        for name, kind, found in schema_arguments(node.target, node.args, node.kwargs):
            for key, item in items(name, found, fx.Node):
                if isinstance(item, fx.Node):
                    if item in self.names:
                        operands[key] = self.names[item]
                elif floating and is_number(kind) and isinstance(item, (int, float)):
                    operands[key] = self._literal(node, key, float(item))
                else:
                    attributes[key] = item
        found = node.meta.get("val")
        self.names[node] = node.name
        if isinstance(found, (tuple, list)):
            outputs = tuple(
                self._add(f"{node.name}.{i}", Kind.ACTIVATION, part)
                for i, part in enumerate(found)  # pyright: ignore[reportUnknownArgumentType]
            )
        else:
            outputs = (self._add(node.name, Kind.ACTIVATION, found),)
        self.nodes.append(
            Node(
                name=node.name,
                op=operator_name(node),
                inputs=operands,
                outputs=outputs,
                attributes=attributes,
                module=module_path(node),
                line=source_line(node),
                moves=bool(node.all_input_nodes)
                and moves(node.target, found, node.all_input_nodes[0].meta.get("val")),
            )
        )

    def _value(self, node: fx.Node, name: str, kind: Kind) -> str:
        self.names[node] = name
        return self._add(name, kind, node.meta.get("val"))

    def _add(self, name: str, kind: Kind, found: Any) -> str:
        is_tensor = isinstance(found, Tensor)
        floating = is_tensor and found.dtype.is_floating_point and found.dtype.itemsize > 1
        bounded = floating and found.dtype in (self.deployed, torch.float16)
        shape = tuple(size_of(size) for size in found.shape) if is_tensor else ()
        self.values[name] = Value(name, kind, floating, bounded, shape)
        return name

    def _literal(self, node: fx.Node, key: str, number: float) -> str:
        name = f"{node.name}.{key}"
        self.values[name] = Value(name, Kind.LITERAL, True, number=number)
        return name


def _touches_floats(node: fx.Node) -> bool:
    found = [node.meta.get("val"), *(n.meta.get("val") for n in node.all_input_nodes)]
    tensors = (t for t in tree_leaves(found) if isinstance(t, Tensor))
    return any(t.dtype.is_floating_point for t in tensors)


def size_of(size: Any) -> int:
    """A size, one that is free as it is in the first sample."""
    return size if isinstance(size, int) else int(size.node.hint or 1)
