"""Edits as changes to an ONNX graph. Each gives a new program; no tensor is changed."""

# onnx_ir is only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
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
    steps,
)
from halfsafe.errors import EditError
from halfsafe.formats import FLOAT32
from halfsafe.frontends.onnx.forms import lower
from halfsafe.frontends.onnx.one_node import captured
from halfsafe.frontends.onnx.parts import Part, numbers_of, parts
from halfsafe.frontends.onnx.program import OnnxProgram
from halfsafe.frontends.onnx.values import FLOAT, Place, graph_of, rewire, value_at
from halfsafe.graph import Use

Array = NDArray[Any]

CLIP = 2.0**14
"""Where saturating operators are constant."""

MAPS = 17
"""The first opset that computes something of each element of a sequence."""


def apply(program: OnnxProgram, edits: Iterable[Edit]) -> OnnxProgram:
    """The program with all edits made. Raises EditError for a gate form that cannot be made."""
    editor = _Editor(program)
    for edit in edits:
        editor.make(edit)
    return editor.program()


def times_power(x: Array, bits: int) -> Array:
    """x times 2^bits: a product with a power of two that FP32 has is as exact, and quicker."""
    if x.dtype == np.float32 and abs(bits) < FLOAT32.max_binade:
        return x * np.float32(2.0**bits)
    return np.ldexp(x, bits)


class _Editor:
    """A copy of a program that is being changed."""

    def __init__(self, program: OnnxProgram) -> None:
        self._program = program
        self.model = program.model.clone()
        self.graph = self.model.graph
        self.parts = {part.name: part for part in parts(self.graph)}
        self.nodes = {name: part.node for name, part in self.parts.items()}
        self.float32 = set(program.float32)
        self.shapes, self.dtypes = dict(program.shapes), dict(program.dtypes)

    def program(self) -> OnnxProgram:
        """The edited copy, without the constants that nothing reads any more."""
        inner = {name for node in self.graph for name in captured(node)}
        for name, value in list(self.graph.initializers.items()):
            if not value.uses() and not value.is_graph_output() and name not in inner:
                del self.graph.initializers[name]
                self.float32.discard(name)
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
                lower(self, self.nodes[edit.node], edit.form)

    # Constants

    def _fold(self, use: Use, exponent: int) -> None:
        held = self._read(use)
        name = f"{held.name}.x2^{-exponent}"
        self._reads(use, self._constant(name, held, lambda x: times_power(x, -exponent)))

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
        operands = self.parts[edit.use.node].operands
        if edit.use.operand not in operands or self._read(edit.use).name in self._program.scalars:
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
            x = tensor.numpy()
            return ir.Tensor(change(x).astype(x.dtype, copy=False), name=name)

        shape = ir.Shape(tensor.shape.numpy())
        lazy = ir.LazyTensor(changed, dtype=tensor.dtype, shape=shape, name=name, cache=False)
        value = ir.Value(name=name, shape=shape, type=ir.TensorType(tensor.dtype), const_value=lazy)
        self.graph.register_initializer(value)
        if source.name in self.float32:
            self.float32.add(name)
        return value

    def scalar(self, number: float, *, in_float32: bool) -> ir.Value:
        name = f"halfsafe.{number:.9g}{'.float32' * in_float32}"
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
        (reader, _), source = self._place(edit.use), self._read(edit.use)
        name = f"{edit.use.node}.{edit.use.operand}"
        wide = source.name in self.float32
        if edit.clip:
            bound = CLIP * 2.0**-edit.bits
            limits = [self.scalar(b, in_float32=wide) for b in (-bound, bound)]
            source = self.before(reader, "Clip", [source, *limits], f"{name}.clipped", source)
        for i, bits in enumerate(steps(edit.bits)):
            factor = self.scalar(2.0**bits, in_float32=wide)
            scaled = f"{name}.scaled{f'.{i}' * bool(i)}"
            source = self.before(reader, "Mul", [source, factor], scaled, source)
        self._reads(edit.use, source)

    def _scale_input(self, edit: ScaleInput) -> None:
        """The input and the product are in FP32; what the network reads is stored in FP16."""
        source = next(v for v in self.graph.inputs if v.name == edit.value)
        readers = list(source.uses())
        first = next(iter(self.graph))
        factor = self.scalar(2.0**edit.bits, in_float32=True)
        scaled = self.before(first, "Mul", [source, factor], f"{edit.value}.scaled", source)
        stored = self.before(first, "Identity", [scaled], f"{edit.value}.stored", source)
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
        wide = edit.in_float32 or len(steps(edit.bits)) > 1
        factor = self.scalar(2.0**edit.bits, in_float32=wide)
        shown = self._after("Mul", [stored, factor], name, stored)
        self.graph.outputs[edit.index] = shown
        if wide:
            self.float32.add(name)

    def _island(self, edit: Island) -> None:
        """The nodes read and give FP32; an Identity stands where FP16 ends and where it begins.

        The network's inputs are given in FP32, and are read as they are.
        """
        inside = self._closed_under_bodies(edit.nodes)
        places = {place for part in inside for place in part.operands.values()}
        read = {id(value_at(place)): value_at(place) for place in places}
        for value in read.values():
            if value.is_graph_input() and self._is_stored(value):
                self._keep_input(value, places)
        made = {id(value) for part in inside for value in part.outputs}
        for place in [place for part in inside for place in part.operands.values()]:
            held = value_at(place)
            if held.name in self.graph.initializers and held.dtype is FLOAT:
                name = f"{held.name}.float32"
                self.float32.add(name)
                rewire(place, self._constant(name, held, lambda x: x))
        lifted: dict[tuple[str, int], ir.Value] = {}
        for place in (place for part in inside for place in part.operands.values()):
            value, graph = value_at(place), _graph_around(place)
            if id(value) in made or not self._is_stored(value):
                continue
            name, key = str(value.name), (str(value.name), id(graph))
            if key not in lifted:
                name = self._unused(f"{name}.float32")
                lifted[key] = self.before(place[0], "Identity", [value], name, value)
                self.float32.add(name)
            rewire(place, lifted[key])
        for value in (value for part in inside for value in part.outputs):
            if not self._is_stored(value):
                continue
            outer = [place for place in value.uses() if place not in places]
            if outer:
                back = self._after("Identity", [value], f"{value.name}.stored", value)
                for place in outer:
                    rewire(place, back)
            self.float32.add(str(value.name))

    def _keep_input(self, value: ir.Value, inside: Collection[Place]) -> None:
        """An input stays in FP32; whoever else reads it gets it rounded."""
        outer = [place for place in value.uses() if place not in inside]
        if value.is_graph_output():
            outer += [(self.graph, i) for i, v in enumerate(self.graph.outputs) if v is value]
        if outer:
            rounded = self._after("Identity", [value], self._unused(f"{value.name}.half"), value)
            for place in outer:
                rewire(place, rounded)
        self.float32.add(str(value.name))

    def _closed_under_bodies(self, names: Iterable[str]) -> list[Part]:
        """The parts of these names, in order; what enters a body and what leaves it go together."""
        nodes = {id(self.nodes[name]) for name in names}
        return [part for part in parts(self.graph) if id(part.node) in nodes]

    def _unused(self, wanted: str) -> str:
        name, count = wanted, 1
        while name in self.shapes:
            name, count = f"{wanted}.{count}", count + 1
        return name

    def _is_stored(self, value: ir.Value) -> bool:
        """Whether a value is computed, and stored in FP16."""
        name = str(value.name)
        computed = name not in self.graph.initializers
        return computed and self.dtypes.get(name) == np.float32 and name not in self.float32

    def before(
        self,
        node: ir.Node | ir.Graph,
        op: str,
        inputs: list[ir.Value],
        name: str,
        like: ir.Value,
    ) -> ir.Value:
        """A new operator in front of another, or at the end of a body."""
        made = self._made(op, inputs, name, like)
        if isinstance(node, ir.Graph):
            node.append(made)
        else:
            _graph_around((node, 0)).insert_before(node, made)
        return made.outputs[0]

    def _after(self, op: str, inputs: list[ir.Value], name: str, like: ir.Value) -> ir.Value:
        made = self._made(op, inputs, name, like)
        producer, graph = inputs[0].producer(), graph_of(inputs[0])
        if producer is None:
            graph.insert_before(next(iter(graph)), made)
        else:
            graph.insert_after(producer, made)
        return made.outputs[0]

    def _made(self, op: str, inputs: list[ir.Value], name: str, like: ir.Value) -> ir.Node:
        output = ir.Value(name=name, shape=like.shape, type=like.type)
        node = ir.Node("", op, inputs, outputs=[output], name=f"halfsafe.{name}")
        if op == "Mul" and isinstance(like.type, ir.SequenceType):
            self._map(node, like.type)
        self.nodes[str(node.name)] = node
        source = str(like.name)
        self.shapes[name] = self.shapes.get(source, ())
        self.dtypes[name] = self.dtypes.get(source, np.dtype(np.float32))
        if source in self.float32:
            self.float32.add(name)
        return node

    def _map(self, node: ir.Node, kind: ir.SequenceType) -> None:
        """A product of a sequence is that of each element. Raises EditError before opset 17."""
        opset = self.graph.opset_imports.get("", 1)
        if opset < MAPS:
            raise EditError(
                f"{node.name}: a sequence has to be scaled, which opset {opset} cannot: export the "
                f"model at opset {MAPS} or later"
            )
        name, inner = str(node.outputs[0].name), ir.TensorType(kind.dtype)
        x, factor, y = (ir.Value(name=f"{name}.{n}", type=inner) for n in ("x", "factor", "each"))
        product = ir.Node("", "Mul", [x, factor], outputs=[y], name=f"halfsafe.{name}.each")
        if value_at((node, 1)).name in self.float32:
            self.float32 |= {str(factor.name), str(y.name)}
        node.op_type = "SequenceMap"
        body = ir.Graph([x, factor], [y], nodes=[product], name=f"{name}.body")
        node.attributes["body"] = ir.AttrGraph("body", body)

    def _place(self, use: Use) -> Place:
        return self.parts[use.node].operands[use.operand]

    def _read(self, use: Use) -> ir.Value:
        return value_at(self._place(use))

    def _reads(self, use: Use, value: ir.Value) -> None:
        rewire(self._place(use), value)


def _graph_around(place: Place) -> ir.Graph:
    """The graph in which something can be put in front of a place."""
    owner, _ = place
    graph = owner if isinstance(owner, ir.Graph) else owner.graph
    assert isinstance(graph, ir.Graph)
    return graph
