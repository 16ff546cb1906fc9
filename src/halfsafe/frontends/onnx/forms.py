"""Gate forms of ONNX operators: a carrier at any exponent, and a gate or a rest that saturates.

Each form is the same function of real numbers. What a form clips is constant in FP32 beyond the
bound, and -inf and NaN come out as they did.
"""

# onnx_ir is only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from math import pi, sqrt
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from halfsafe.errors import EditError

FAR = 2.0**14
"""Gates are constant beyond it, and it leaves room in FP16 at exponents from -1 to 28."""

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

    Raises EditError for a form that ONNX does not have, and where the operator is not in FP32 or
    the opset is too old for the form.
    """
    lowering = LOWERINGS.get(form)
    if lowering is None:
        raise EditError(f"{node.name}: ONNX graphs have no form '{form}'")
    found = _Operator(editor, node)
    found.check()
    lowering(found)


class _Operator:
    """The operator that is replaced, and the nodes that are put in front of it."""

    def __init__(self, editor: Editor, node: ir.Node) -> None:
        self.editor, self.node = editor, node
        self.opset = editor.graph.opset_imports.get("", 1)
        first = node.inputs[0]
        assert first is not None
        self.x = first
        self.wide = str(first.name) in editor.float32

    def check(self) -> None:
        """Raises EditError where the new nodes would not be valid ONNX."""
        what = f"{self.node.name} ({self.node.op_type})"
        dtype = self.editor.dtypes.get(str(self.x.name))
        if dtype != np.float32:
            raise EditError(f"{what} is in {dtype}: gate forms are made in float32 alone")
        if self.opset < OLDEST_OPSET:
            raise EditError(
                f"{what} is of opset {self.opset}, gate forms need {OLDEST_OPSET} or later: "
                "convert the model with onnx.version_converter"
            )

    def call(self, op: str, *operands: ir.Value | float) -> ir.Value:
        """A new node in front, of the operator's shape and module; numbers become initialisers."""
        name = self._fresh(f"{self.node.outputs[0].name}.{op.lower()}")
        made = self.editor.before(self.node, op, self._values(operands), name, self.x)
        _maker(made).metadata_props.update(self.node.metadata_props)
        return made

    def clipped(self, x: ir.Value, low: float, high: float | None = None) -> ir.Value:
        """min(max(x, low), high); Clip takes its bounds as inputs from opset 11 on."""
        if self.opset >= 11:
            return self.call("Clip", x, low, *(() if high is None else (high,)))
        above = self.call("Max", x, low)
        return above if high is None else self.call("Min", above, high)

    def largest(self, x: ir.Value) -> ir.Value:
        """max(x) over the axes of a softmax, which are kept as axes of size 1."""
        axes = self._axes()
        top = self.call("ReduceMax", x)
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

    def kept(self, x: ir.Value) -> ir.Value:
        """The operator itself, on another operand."""
        made = self.call(self.node.op_type, x)
        _maker(made).attributes.update(self.node.attributes)
        return made

    def become(self, op: str, *operands: ir.Value | float) -> None:
        """The operator turns into the last one of its form."""
        node, values = self.node, self._values(operands)
        node.domain, node.op_type = "", op
        node.attributes.clear()
        node.resize_inputs(len(values))
        for index, value in enumerate(values):
            node.replace_input_with(index, value)

    def _axes(self) -> list[int]:
        """A softmax is over one axis; before opset 13, over that axis and all that follow."""
        rank = len(self.editor.shapes[str(self.x.name)])
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


def _gelu(op: _Operator) -> None:
    """gelu(x) = x (1 + erf(x / sqrt(2))) / 2, of x + bias where there is one; or its tanh form."""
    x = op.x
    if len(op.node.inputs) > 1 and (bias := op.node.inputs[1]) is not None:
        x = op.call("Add", x, bias)
    held = op.node.attributes.get("approximate")
    by_tanh = op.node.op_type == "FastGelu" or (held is not None and held.as_string() == "tanh")
    op.become("Mul", x, _tanh_gate(op, x) if by_tanh else _erf_gate(op, x))


def _erf_gate(op: _Operator, x: ir.Value) -> ir.Value:
    """(1 + erf(x / sqrt(2))) / 2; the number next to x takes its exponent."""
    line = op.call("Mul", op.clipped(x, -FAR, FAR), sqrt(0.5))
    return op.call("Mul", op.call("Add", op.call("Erf", line), 1.0), 0.5)


def _tanh_gate(op: _Operator, x: ir.Value) -> ir.Value:
    """(1 + tanh(u)) / 2 = sigmoid(2u), and for v = 2 sqrt(2/pi) x, 2u = v (1 + 0.044715 pi/8 v^2).

    The number in v takes x's exponent. At 64, 2u is 18770, which FP16 holds.
    """
    line = op.call("Mul", op.clipped(x, -64.0, 64.0), 2.0 * sqrt(2.0 / pi))
    square = op.call("Mul", line, line)
    bend = op.call("Add", op.call("Mul", square, 0.044715 * pi / 8.0), 1.0)
    return op.call("Sigmoid", op.call("Mul", line, bend))


def _hardswish(op: _Operator) -> None:
    """hardswish(x) = x max(0, min(1, x/6 + 1/2))."""
    gate = op.call("HardSigmoid", op.x)
    for name, number in (("alpha", 1.0 / 6.0), ("beta", 0.5)):
        _maker(gate).attributes[name] = ir.AttrFloat32(name, number)
    op.become("Mul", op.x, gate)


def _mish(op: _Operator) -> None:
    """mish(x) = x tanh(log(1 + exp(x)))."""
    near = op.clipped(op.x, -FAR, FAR)
    op.become("Mul", op.x, op.call("Tanh", op.call("Softplus", near)))


def _softmax(op: _Operator) -> None:
    """softmax(x) = softmax(max(x - max(x), -2^14)): differences that large are 0 after exp."""
    below = op.call("Sub", op.x, op.largest(op.x))
    op.node.replace_input_with(0, op.clipped(below, -FAR))


def _log_softmax(op: _Operator) -> None:
    """log_softmax(x) = d + max(log_softmax(max(d, -2^14))) for d = x - max(x), whose max is 0."""
    below = op.call("Sub", op.x, op.largest(op.x))
    rest = op.kept(op.clipped(below, -FAR))
    op.become("Add", below, op.largest(rest))


def _elu(op: _Operator) -> None:
    """elu(x) = max(x, 0) + elu(min(x, 0)), the latter constant below -2^14."""
    op.become("Add", op.call("Relu", op.x), op.kept(op.clipped(op.x, -FAR, 0.0)))


def _selu(op: _Operator) -> None:
    """selu(x) = gamma max(x, 0) + selu(min(x, 0)), the latter constant below -2^14."""
    held = op.node.attributes.get("gamma")
    gamma = 1.05070098 if held is None else held.as_float()
    positive = op.call("Mul", op.call("Relu", op.x), gamma)
    op.become("Add", positive, op.kept(op.clipped(op.x, -FAR, 0.0)))


def _softplus(op: _Operator) -> None:
    """softplus(x) = max(x, 0) + softplus(-|x|), the latter 0 beyond 2^14."""
    size = op.call("Abs", op.clipped(op.x, -FAR, FAR))
    op.become("Add", op.call("Relu", op.x), op.kept(op.call("Mul", size, -1.0)))


LOWERINGS: dict[str, Callable[[_Operator], None]] = {
    "elu": _elu,
    "gelu": _gelu,
    "hardswish": _hardswish,
    "log_softmax": _log_softmax,
    "mish": _mish,
    "selu": _selu,
    "softmax": _softmax,
    "softplus": _softplus,
}
