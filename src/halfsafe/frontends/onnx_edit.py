"""Edits as changes to an ONNX graph. Each gives a new program; no tensor is changed."""

# onnx_ir is only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from halfsafe.edits import (
    Edit,
    Fold,
    Insert,
    Island,
    Lower,
    Replace,
    ScaleInput,
    ScaleOutput,
    SetNumber,
)
from halfsafe.errors import EditError
from halfsafe.frontends.onnx_program import OnnxProgram, numbers_of, operand_names
from halfsafe.frontends.onnx_run import captured
from halfsafe.graph import Use

Array = NDArray[Any]

CLIP = 2.0**14
"""Where saturating operators are constant."""


def apply(program: OnnxProgram, edits: Iterable[Edit]) -> OnnxProgram:
    """The program with all edits made. Raises EditError for a form that ONNX does not have."""
    editor = _Editor(program)
    for edit in edits:
        editor.make(edit)
    return editor.program()


def _steps(bits: int) -> list[int]:
    """Factors that FP16 holds, one after the other.

    >>> _steps(17), _steps(-3)
    ([14, 3], [-3])
    """
    sign = 1 if bits > 0 else -1
    whole, rest = divmod(abs(bits), 14)
    return [sign * 14] * whole + [sign * rest] * bool(rest)


class _Editor:
    """A copy of a program that is being changed."""

    def __init__(self, program: OnnxProgram) -> None:
        self._program = program
        self.model = program.model.clone()
        self.graph = self.model.graph
        self.nodes = {str(node.name): node for node in self.graph}
        self.float32 = set(program.float32)
        self.shapes, self.dtypes = dict(program.shapes), dict(program.dtypes)

    def program(self) -> OnnxProgram:
        """The edited copy, without the constants that nothing reads any more."""
        inner = {name for node in self.graph for name in captured(node)}
        for name, value in list(self.graph.initializers.items()):
            if not value.uses() and not value.is_graph_output() and name not in inner:
                del self.graph.initializers[name]
        return replace(
            self._program,
            model=self.model,
            shapes=self.shapes,
            dtypes=self.dtypes,
            float32=frozenset(self.float32),
        )

    def make(self, edit: Edit) -> None:
        match edit:
            case Fold():
                self._fold(edit.use, edit.exponent)
            case SetNumber():
                self._number(edit.use, edit.number * 2.0**-edit.exponent, f"x2^{-edit.exponent}")
            case Insert():
                self._insert(edit)
            case ScaleInput():
                self._scale_input(edit)
            case ScaleOutput():
                self._scale_output(edit)
            case Replace():
                self._replace(edit)
            case Island():
                self._island(edit)
            case Lower():
                raise EditError(f"{edit.node}: ONNX graphs have no form '{edit.form}'")

    # Constants

    def _fold(self, use: Use, exponent: int) -> None:
        held = self._read(use)
        name = f"{held.name}.x2^{-exponent}"
        self._reads(use, self._constant(name, held, lambda x: np.ldexp(x, -exponent)))

    def _number(self, use: Use, number: float, suffix: str) -> None:
        node = self.nodes[use.node]
        names = {operand: key for key, (operand, _) in numbers_of(node).items()}
        key = names.get(use.operand)
        if key is not None:
            known = node.attributes.get(key)
            if known is not None and known.type == ir.AttributeType.TENSOR:
                tensor = known.as_tensor().numpy()
                made = ir.tensor(np.full_like(tensor, number), name=key)
                node.attributes[key] = ir.AttrTensor(key, made)
            else:
                node.attributes[key] = ir.AttrFloat32(key, number)
            return
        held = self._read(use)
        name = f"{held.name}.{suffix}"
        self._reads(use, self._constant(name, held, lambda x: np.full_like(x, number)))

    def _replace(self, edit: Replace) -> None:
        node = self.nodes[edit.use.node]
        if edit.use.operand not in operand_names(node) or self._read(edit.use).name in (
            self._program.scalars
        ):
            self._number(edit.use, edit.new, f"replaced.{edit.new:.9g}")
            return

        def limited(x: Array) -> Array:
            return np.clip(x, -abs(edit.new), abs(edit.new)).astype(x.dtype)

        held = self._read(edit.use)
        name = f"{held.name}.replaced.{edit.new:.9g}"
        self._reads(edit.use, self._constant(name, held, limited))

    def _constant(self, name: str, source: ir.Value, change: Callable[[Array], Array]) -> ir.Value:
        """A changed copy of an initialiser, computed when it is needed."""
        known = self.graph.initializers.get(name)
        if known is not None:
            return known
        tensor = source.const_value
        assert tensor is not None

        def changed() -> ir.Tensor[Any]:
            return ir.Tensor(change(tensor.numpy()).astype(tensor.numpy().dtype), name=name)

        shape = ir.Shape(tensor.shape.numpy())
        lazy = ir.LazyTensor(changed, dtype=tensor.dtype, shape=shape, name=name, cache=False)
        value = ir.Value(name=name, shape=shape, type=ir.TensorType(tensor.dtype), const_value=lazy)
        self.graph.register_initializer(value)
        if source.name in self.float32:
            self.float32.add(name)
        return value

    def _scalar(self, number: float, *, in_float32: bool) -> ir.Value:
        name = f"halfsafe.{number:.6g}{'.float32' * in_float32}"
        if in_float32:
            self.float32.add(name)
        known = self.graph.initializers.get(name)
        if known is None:
            tensor = ir.tensor(np.array(number, np.float32), name=name)
            kind = ir.TensorType(tensor.dtype)
            known = ir.Value(name=name, shape=ir.Shape(()), type=kind, const_value=tensor)
            self.graph.register_initializer(known)
        return known

    # Operators

    def _insert(self, edit: Insert) -> None:
        node, source = self.nodes[edit.use.node], self._read(edit.use)
        name = f"{edit.use.node}.{edit.use.operand}"
        wide = source.name in self.float32
        if edit.clip:
            bound = CLIP * 2.0**-edit.bits
            limits = [self._scalar(b, in_float32=wide) for b in (-bound, bound)]
            source = self._before(node, "Clip", [source, *limits], f"{name}.clipped", source)
        for i, bits in enumerate(_steps(edit.bits)):
            factor = self._scalar(2.0**bits, in_float32=wide)
            scaled = f"{name}.scaled{f'.{i}' * bool(i)}"
            source = self._before(node, "Mul", [source, factor], scaled, source)
        self._reads(edit.use, source)

    def _scale_input(self, edit: ScaleInput) -> None:
        """The input and the product are in FP32; what the network reads is stored in FP16."""
        source = next(v for v in self.graph.inputs if v.name == edit.value)
        readers = list(source.uses())
        first = next(iter(self.graph))
        factor = self._scalar(2.0**edit.bits, in_float32=True)
        scaled = self._before(first, "Mul", [source, factor], f"{edit.value}.scaled", source)
        stored = self._before(first, "Identity", [scaled], f"{edit.value}.stored", source)
        for node, index in readers:
            node.replace_input_with(index, stored)
        self.float32 |= {edit.value, f"{edit.value}.scaled"}

    def _scale_output(self, edit: ScaleOutput) -> None:
        """The scaled value takes the output's name; what is stored gets another one."""
        stored = self.graph.outputs[edit.index]
        if stored.is_graph_input():
            return  # an input that is an output as well is shown as it came, not as it is stored
        name = str(stored.name)
        stored.name = f"{name}.stored"
        self.shapes[stored.name] = self.shapes[name]
        self.dtypes[stored.name] = self.dtypes[name]
        if name in self.float32:
            self.float32.add(stored.name)
        wide = edit.in_float32 or len(_steps(edit.bits)) > 1
        factor = self._scalar(2.0**edit.bits, in_float32=wide)
        shown = self._after("Mul", [stored, factor], name, stored)
        self.graph.outputs[edit.index] = shown
        if wide:
            self.float32.add(name)

    def _island(self, edit: Island) -> None:
        """The nodes read and give FP32; an Identity stands where FP16 ends and where it begins."""
        inside = {id(self.nodes[name]) for name in edit.nodes}
        lifted: dict[str, ir.Value] = {}
        for node in (self.nodes[name] for name in edit.nodes):
            for index, value in enumerate(node.inputs):
                if value is None or id(value.producer()) in inside or not self._is_stored(value):
                    continue
                name = str(value.name)
                if name not in lifted:
                    lifted[name] = self._before(node, "Identity", [value], f"{name}.float32", value)
                    self.float32.add(f"{name}.float32")
                node.replace_input_with(index, lifted[name])
            for output in node.outputs:
                if not self._is_stored(output):
                    continue
                outer = [(n, i) for n, i in output.uses() if id(n) not in inside]
                if outer:
                    back = self._after("Identity", [output], f"{output.name}.stored", output)
                    for reader, index in outer:
                        reader.replace_input_with(index, back)
                self.float32.add(str(output.name))

    def _is_stored(self, value: ir.Value) -> bool:
        """Whether a value is computed, and stored in FP16."""
        name = str(value.name)
        computed = name not in self.graph.initializers
        return computed and self.dtypes.get(name) == np.float32 and name not in self.float32

    def _before(
        self, node: ir.Node, op: str, inputs: list[ir.Value], name: str, like: ir.Value
    ) -> ir.Value:
        made = self._made(op, inputs, name, like)
        self.graph.insert_before(node, made)
        return made.outputs[0]

    def _after(self, op: str, inputs: list[ir.Value], name: str, like: ir.Value) -> ir.Value:
        made = self._made(op, inputs, name, like)
        producer = inputs[0].producer()
        if producer is None:
            self.graph.insert_before(next(iter(self.graph)), made)
        else:
            self.graph.insert_after(producer, made)
        return made.outputs[0]

    def _made(self, op: str, inputs: list[ir.Value], name: str, like: ir.Value) -> ir.Node:
        output = ir.Value(name=name, shape=like.shape, type=like.type)
        node = ir.Node("", op, inputs, outputs=[output], name=f"halfsafe.{name}")
        self.nodes[str(node.name)] = node
        source = str(like.name)
        self.shapes[name] = self.shapes.get(source, ())
        self.dtypes[name] = self.dtypes.get(source, np.dtype(np.float32))
        if source in self.float32:
            self.float32.add(name)
        return node

    def _read(self, use: Use) -> ir.Value:
        node = self.nodes[use.node]
        present = [value for value in node.inputs if value is not None]
        return present[operand_names(node).index(use.operand)]

    def _reads(self, use: Use, value: ir.Value) -> None:
        node = self.nodes[use.node]
        places = [i for i, held in enumerate(node.inputs) if held is not None]
        node.replace_input_with(places[operand_names(node).index(use.operand)], value)
