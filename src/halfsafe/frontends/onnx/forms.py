"""Gate forms in ONNX: `halfsafe.forms.Renderer` over nodes of an ONNX graph."""

# onnx_ir is only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from halfsafe.errors import EditError
from halfsafe.forms import FORM_OF, Operator, Term, Word, render
from halfsafe.frontends.onnx.values import qualified

OLDEST_OPSET = 9
"""Erf exists, and Max and Min take a number."""


class Editor(Protocol):
    """What a form needs of the editor: the graph, what is known of its values, and new nodes."""

    graph: ir.Graph
    nodes: dict[str, ir.Node]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, np.dtype[Any]]
    float32: set[str]

    def before(
        self, node: ir.Node, op: str, inputs: list[ir.Value], name: str, like: ir.Value
    ) -> ir.Value: ...

    def scalar(self, number: float, *, in_float32: bool) -> ir.Value: ...


def lower(editor: Editor, node: ir.Node, form: str) -> None:
    """Puts an operator into its gate form, in place: its output is the same value as before.

    Raises EditError for a form that the operator does not have, and where it is not in FP32 or the
    opset is too old for the form.
    """
    operator = qualified(node.domain, node.op_type)
    if FORM_OF.get(operator) != form:
        raise EditError(f"{node.name}: {operator} has no form '{form}'")
    found = _Renderer(editor, node)
    found.check()
    render(form, found)


OPERATORS: Mapping[Word, str] = {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "clip": "Clip",
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "hardsigmoid": "HardSigmoid",
    "tanh": "Tanh",
    "erf": "Erf",
    "softplus": "Softplus",
    "largest": "ReduceMax",
}
"""The operator that each word is, but for `kept`."""

_NUMBERS: Mapping[str, tuple[str, str, float]] = {
    "Selu": ("scale", "gamma", 1.05070098),
    "Swish": ("slope", "alpha", 1.0),
    "QuickGelu": ("slope", "alpha", 1.702),
}
"""Numbers of an operator: what a form calls it, its attribute and its default."""


class _Renderer:
    """The operator that is replaced, and the nodes that are put in front of it."""

    def __init__(self, editor: Editor, node: ir.Node) -> None:
        self.editor, self.node = editor, node
        self.opset = editor.graph.opset_imports.get("", 1)
        first = node.inputs[0]
        assert first is not None
        self.first = first
        self.wide = str(first.name) in editor.float32

    @property
    def operator(self) -> Operator:
        """Its numbers, and whether it is a GELU by tanh."""
        op, held = self.node.op_type, self.node.attributes
        numbers: dict[str, float] = {}
        if op in _NUMBERS:
            name, attribute, default = _NUMBERS[op]
            numbers[name] = held[attribute].as_float() if attribute in held else default
        approximate = held.get("approximate")
        by_tanh = approximate is not None and approximate.as_string() == "tanh"
        return Operator(Term(), **numbers, by_tanh=by_tanh or op == "FastGelu")

    def read(self) -> ir.Value:
        """What the operator is of: its first input, plus a bias where it has one."""
        bias = self.node.inputs[1] if len(self.node.inputs) > 1 else None
        return self.first if bias is None else self._node("Add", self.first, bias)

    def check(self) -> None:
        """Raises EditError where the new nodes would not be valid ONNX."""
        what = f"{self.node.name} ({self.node.op_type})"
        dtype = self.editor.dtypes.get(str(self.first.name))
        if dtype != np.float32:
            raise EditError(f"{what} is in {dtype}: gate forms are made in float32 alone")
        if self.opset < OLDEST_OPSET:
            raise EditError(
                f"{what} is of opset {self.opset}, gate forms need {OLDEST_OPSET} or later: "
                "convert the model with onnx.version_converter"
            )

    def call(self, word: Word, *operands: ir.Value | float) -> ir.Value:
        """A new node in front, of the operator's shape and module; numbers become initialisers."""
        values = self._values(operands)
        match word:
            case "clip":
                return self._clipped(*values)
            case "largest":
                return self._largest(*values)
            case "kept":
                made = self._node(self.node.op_type, *values)
                _maker(made).attributes.update(self.node.attributes)
                return made
            case _:
                made = self._node(OPERATORS[word], *values)
        if word == "hardsigmoid":
            for name, number in (("alpha", 1.0 / 6.0), ("beta", 0.5)):
                _maker(made).attributes[name] = ir.AttrFloat32(name, number)
        return made

    def become(self, word: Word, *operands: ir.Value | float) -> None:
        """The operator turns into the last one of its form, or reads what comes before that."""
        node, values = self.node, self._values(operands)
        if word != "kept":
            node.domain, node.op_type = "", OPERATORS[word]
            node.attributes.clear()
            node.resize_inputs(len(values))
        for index, value in enumerate(values):
            node.replace_input_with(index, value)

    def _node(self, op: str, *values: ir.Value) -> ir.Value:
        name = self._fresh(f"{self.node.outputs[0].name}.{op.lower()}")
        made = self.editor.before(self.node, op, list(values), name, self.first)
        _maker(made).metadata_props.update(self.node.metadata_props)
        return made

    def _clipped(self, x: ir.Value, low: ir.Value, *high: ir.Value) -> ir.Value:
        """Clip takes its bounds as inputs from opset 11 on."""
        if self.opset >= 11:
            return self._node("Clip", x, low, *high)
        above = self._node("Max", x, low)
        return self._node("Min", above, *high) if high else above

    def _largest(self, x: ir.Value) -> ir.Value:
        """max(x) over the axes of a softmax, which are kept as axes of size 1."""
        axes = self._axes()
        top = self._node("ReduceMax", x)
        node, name = _maker(top), str(top.name)
        node.attributes["keepdims"] = ir.AttrInt64("keepdims", 1)
        if self.opset < 18:
            node.attributes["axes"] = ir.AttrInt64s("axes", axes)
        else:
            node.resize_inputs(2)
            node.replace_input_with(1, self._integers(f"{name}.axes", axes))
        shape = self.editor.shapes[name]
        self.editor.shapes[name] = tuple(1 if i in axes else n for i, n in enumerate(shape))
        if top.shape is not None:
            top.shape = ir.Shape([1 if i in axes else n for i, n in enumerate(top.shape)])
        return top

    def _axes(self) -> list[int]:
        """A softmax is over one axis; before opset 13, over that axis and all that follow."""
        rank = len(self.editor.shapes[str(self.first.name)])
        held = self.node.attributes.get("axis")
        default = -1 if self.opset >= 13 else 1
        axis = (default if held is None else held.as_int()) % rank
        return [axis] if self.opset >= 13 else list(range(axis, rank))

    def _integers(self, name: str, numbers: list[int]) -> ir.Value:
        tensor = ir.tensor(np.array(numbers, np.int64), name=name)
        kind, shape = ir.TensorType(tensor.dtype), ir.Shape([len(numbers)])
        value = ir.Value(name=name, type=kind, shape=shape, const_value=tensor)
        self.editor.graph.register_initializer(value)
        return value

    def _values(self, operands: tuple[ir.Value | float, ...]) -> list[ir.Value]:
        return [
            x if isinstance(x, ir.Value) else self.editor.scalar(x, in_float32=self.wide)
            for x in operands
        ]

    def _fresh(self, wanted: str) -> str:
        name, count = wanted, 0
        while name in self.editor.shapes:
            count += 1
            name = f"{wanted}.{count}"
        return name


def _maker(made: ir.Value) -> ir.Node:
    node = made.producer()
    assert node is not None
    return node
