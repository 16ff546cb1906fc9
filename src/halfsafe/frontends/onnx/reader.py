"""A flat ONNX graph as halfsafe's own frozen one."""

# onnx_ir and onnxruntime are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from halfsafe.frontends.onnx.one_node import captured
from halfsafe.frontends.onnx.parts import Part, numbers_of, parts
from halfsafe.frontends.onnx.private import module_path, stack_trace
from halfsafe.frontends.onnx.run import constant
from halfsafe.frontends.onnx.values import value_at
from halfsafe.graph import Graph, Kind, Node, Value, innermost
from halfsafe.rules import LAWS
from halfsafe.rules.traits import CASTS


def is_scalar(value: ir.Value) -> bool:
    """Whether an initialiser is one number, which the graph has as a literal."""
    held = value.const_value
    return held is not None and held.size == 1 and held.dtype == ir.DataType.FLOAT


@dataclass(frozen=True)
class Seen:
    """What is known of a model's values: shapes and types on one sample, and what is in FP32."""

    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, np.dtype[Any]]
    float32: frozenset[str]


def read_graph(model: ir.Model, seen: Seen) -> Graph:
    """A model with one flat graph as halfsafe's."""
    return _Reader(model, seen).read()


class _Reader:
    """Builds a Graph from a flat ir.Graph."""

    def __init__(self, model: ir.Model, seen: Seen) -> None:
        self.model, self.seen, self.source = model, seen, model.graph
        self.values: dict[str, Value] = {}
        self.constants = set(self.source.initializers)
        held = self.source.initializers.items()
        self.scalars = {name for name, value in held if is_scalar(value)}

    def read(self) -> Graph:
        inputs = [str(v.name) for v in self.source.inputs if v.name not in self.constants]
        for name in inputs:
            self._add(name, Kind.INPUT)
        nodes = tuple(self._node(part) for part in parts(self.source))
        outputs = [str(output.name) for output in self.source.outputs]
        for name in outputs:
            if name not in self.values:
                self._add(name, Kind.CONSTANT)
        return Graph(nodes, self.values, tuple(inputs), tuple(outputs))

    def _node(self, part: Part) -> Node:
        name, node = part.name, part.node
        found = {
            key: self._operand(f"{name}.{key}", str(value_at(place).name))
            for key, place in part.operands.items()
        }
        for i, inner in enumerate(captured(node) if part.entries is None else ()):
            found[f"captured.{i}"] = self._operand(f"{name}.captured.{i}", inner)
        numbers = numbers_of(node)
        for operand, number in numbers.values():
            found[operand] = f"{name}.{operand}"
            self.values[found[operand]] = Value(found[operand], Kind.LITERAL, True, number=number)
        attributes: dict[str, Any] = {"entries": part.entries}
        if part.entries is None:
            attributes = {k: a.value for k, a in node.attributes.items() if k not in numbers}
        outputs = tuple(self._output(part, i) for i in range(len(part.outputs)))
        return Node(
            name=name,
            op=part.op,
            inputs=found,
            outputs=outputs,
            attributes=attributes,
            module=module_path(node),
            line=innermost(stack_trace(node)),
            moves=self._moves(part.op, found, outputs),
        )

    def _output(self, part: Part, index: int) -> str:
        """The name of an output; one that is left out, or that nobody reads, keeps its place, as a
        value of nothing.
        """
        value = part.outputs[index]
        read = part.entries is not None or value.uses() or value.is_graph_output()
        if value.name and read:
            return self._add(value.name, Kind.ACTIVATION)
        name = f"{part.name}.absent.{index}"
        self.values[name] = Value(name, Kind.ACTIVATION, False)
        return name

    def _operand(self, literal: str, name: str) -> str:
        """A value that is read; a constant of one number is a literal, though FP16 stores it."""
        if name not in self.constants:
            return name
        if name in self.scalars:
            held = constant(self.model, name)
            bounded = name not in self.seen.float32
            number = float(held.reshape(()))
            self.values[literal] = Value(literal, Kind.LITERAL, True, bounded, (), number)
            return literal
        if name not in self.values:
            self._add(name, Kind.CONSTANT)
        return name

    def _add(self, name: str, kind: Kind) -> str:
        seen = self.seen
        if kind == Kind.CONSTANT:
            held = self.source.initializers[name].const_value
            assert held is not None
            shape, dtype = tuple(held.shape.numpy()), held.dtype.numpy()
        else:
            shape, dtype = seen.shapes.get(name, ()), seen.dtypes.get(name)
        floating = dtype is not None and dtype.kind == "f"
        bounded = dtype == np.float32 and name not in seen.float32
        self.values[name] = Value(name, kind, floating, bounded, shape)
        return name

    def _moves(self, op: str, inputs: Mapping[str, str], outputs: tuple[str, ...]) -> bool:
        law = LAWS.get(op)
        if law is None or not law.traits.moves or op in CASTS or len(outputs) != 1:
            return False
        source = self.values.get(next(iter(inputs.values()), ""))
        return source is not None and source.bounded == self.values[outputs[0]].bounded
