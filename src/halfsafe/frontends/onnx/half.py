"""Converts an ONNX model to FP16, with a Cast only where the standard or the caller demands one.

Every operator's inputs and outputs fall into groups that have one type in common: what its schema
allows in FP32 only, and all the rest; an If, a Loop or a Scan has a group for each position that it
hands through its body. The rest is FP16 unless the caller names one of its outputs. A value has the
type of the group that makes it; where a reader's group differs, one Cast stands between them.
Constants belong to no group: they are stored in the type, or both types, that their readers want.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from halfsafe.frontends.onnx.half_groups import (
    DTYPE_ATTRIBUTES,
    NEWEST_OPSET,
    Group,
    groups_of,
    schema_of,
    sizes_of,
)
from halfsafe.frontends.onnx.opset import complete_types, raise_opset, refuse, settle_inputs
from halfsafe.frontends.onnx.values import (
    FLOAT,
    HALF,
    Names,
    Place,
    bodies_of,
    copied,
    graph_of,
    in_half,
    is_cast,
    is_constant,
    is_float,
    readers_of,
    rewire,
    set_tensor,
    short_name,
    tensor_of,
    typed,
    value_at,
    values_of,
)


def to_float16(
    model: ir.Model,
    *,
    float32: Collection[str] = (),
    io: Literal["float32", "float16"] = "float32",
) -> ir.Model:
    """The model with every FLOAT value in FLOAT16; the argument is left as it was.

    Values named in `float32` stay FLOAT and are computed so. Constants need not be named, they
    follow their readers; an initialiser listed among the inputs is a constant and leaves that list.
    With `io="float32"` inputs and outputs keep their type, with `"float16"` they change theirs too.
    Raises BadInput for local functions, unknown names, values of unknown type, and an operator that
    needs a later opset which onnx cannot convert the model to.
    """
    refuse(model, float32)
    half = model.clone()
    half.opset_imports.setdefault("", NEWEST_OPSET)
    settle_inputs(half)
    complete_types(half)
    half = raise_opset(half, float32)
    _Conversion(half, frozenset(float32), HALF if io == "float16" else FLOAT).apply()
    return half


class _Conversion:
    def __init__(self, model: ir.Model, float32: Collection[str], rim: ir.DataType) -> None:
        self.model, self.graph = model, model.graph
        self.nodes = list(model.graph.all_nodes())
        self.names = Names(model)
        self.constants = {
            value: tensor_of(value)
            for value in values_of(model)
            if is_constant(value) and is_float(value)
        }
        self.readers = readers_of(model)
        self.makes: dict[ir.Value, Group] = {}
        self.reads: dict[Place, Group] = {}
        for group in self._all_groups(rim, float32):
            if any(value.name in float32 for value in group.values):
                group.precision = FLOAT
            self._register(group)
        self._keep_named_outputs(float32)
        self._join_sequences()
        self._keep_exact()
        self._let_follow()

    def apply(self) -> None:
        """Rewrites the model in place."""
        for value, group in self.makes.items():
            value.type = typed(value.type, group.precision)
        for value, tensor in self.constants.items():
            self._store(value, tensor)
        for value, uses in list(self.readers.items()):
            if value in self.makes:
                self._connect(value, uses)
        for node in self.nodes:
            _set_attributes(node, self.model.opset_imports, self.makes)
        _drop_casts(self.model)

    # Groups and their precision

    def _all_groups(self, rim: ir.DataType, float32: Collection[str]) -> Iterator[Group]:
        for value in self.graph.inputs:
            if is_float(value):
                yield Group(values=[value], precision=rim, rim=value.name not in float32)
        for index, value in enumerate(self.graph.outputs):
            if is_float(value):
                yield Group(uses=[(self.graph, index)], precision=rim, rim=True)
        for node in self.nodes:
            yield from groups_of(node, self.model.opset_imports)

    def _register(self, group: Group) -> None:
        self.makes.update(dict.fromkeys(group.values, group))
        self.reads.update(dict.fromkeys(group.uses, group))

    def _keep_named_outputs(self, float32: Collection[str]) -> None:
        for index, value in enumerate(self.graph.outputs):
            if value.name in float32 and is_float(value):
                self.reads[self.graph, index].precision = FLOAT

    def _join_sequences(self) -> None:
        """A sequence cannot be cast: whoever makes it and whoever reads it agree."""
        for value in list(self.makes):
            if isinstance(value.type, ir.TensorType):
                continue
            for use in self.readers[value]:
                ours, theirs = self.makes[value], self.reads[use]
                if ours is not theirs:
                    ours.uses += theirs.uses
                    ours.values += theirs.values
                    ours.rim |= theirs.rim
                    if theirs.precision is FLOAT:
                        ours.precision = FLOAT
                    self._register(ours)

    def _keep_exact(self) -> None:
        """Sizes, and casts of integers, stay FP32 while nobody reads them in FP16.

        Resize reads such sizes. In FP16 they would be rounded above 2048.
        """
        sizes = sizes_of(self.nodes)
        casts = {n.outputs[0] for n in self.nodes if is_cast(n) and not is_float(value_at((n, 0)))}
        for value in self._latest_first((sizes | casts) & self.makes.keys()):
            group = self.makes[value]
            uses = [use for made in group.values for use in self.readers[made]]
            if not any(self._wants_half(use, sizes) for use in uses):
                group.precision = FLOAT

    def _latest_first(self, values: set[ir.Value]) -> Iterator[ir.Value]:
        for node in reversed(self.nodes):
            yield from (value for value in node.outputs if value in values)

    def _wants_half(self, use: Place, sizes: set[ir.Value]) -> bool:
        """A reader that follows has no wish of its own, unless its other operand is no size."""
        group = self.reads[use]
        if group.precision is FLOAT:
            return False
        operands = {value_at(other) for other in group.uses} - self.constants.keys()
        return not group.follows or (len(operands) > 1 and not operands <= sizes)

    def _let_follow(self) -> None:
        """Readers of any type take the better of what they are given, and cost no Cast by it.

        A model's input does not count as better than the values inside, which it is rounded with.
        """
        for group in set(self.reads.values()):
            sources = [self.makes[v] for v in map(value_at, group.uses) if v in self.makes]
            if not group.follows or not sources:
                continue
            better = [source for source in sources if source.precision is FLOAT]
            if len(better) == len(sources) or any(not source.rim for source in better):
                group.precision = FLOAT

    # Rewriting

    def _store(self, value: ir.Value, tensor: ir.TensorProtocol) -> None:
        """A constant in the type, or both types, that its readers want."""
        wanted = {use: self.reads[use].precision for use in self.readers[value]}
        rim = {dtype for (owner, _), dtype in wanted.items() if owner is self.graph}
        own = HALF if HALF in wanted.values() or not wanted else FLOAT
        own = FLOAT if FLOAT in rim else own
        if own is HALF:
            set_tensor(value, in_half(tensor))
        others = [use for use, dtype in wanted.items() if dtype is not own]
        if others:
            other = tensor if own is HALF else in_half(tensor)
            clone = self._constant_beside(value, other)
            for use in others:
                rewire(use, clone)

    def _constant_beside(self, value: ir.Value, tensor: ir.TensorProtocol) -> ir.Value:
        name = self.names(f"{value.name}_{short_name(tensor.dtype)}")
        clone = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=copied(value.shape))
        clone.metadata_props.update(value.metadata_props)
        tensor = ir.Tensor(tensor.numpy(), name=name, doc_string=tensor.doc_string)
        producer = value.producer()
        if producer is None:
            clone.const_value = tensor
            graph_of(value).register_initializer(clone)
        else:
            attribute = ir.AttrTensor("value", tensor)
            node = ir.Node("", "Constant", [], [attribute], outputs=[clone], name=self.names(name))
            graph_of(value).insert_after(producer, node)
        return clone

    def _connect(self, value: ir.Value, uses: list[Place]) -> None:
        """One Cast of a value for all readers that want the other type; outputs keep their name."""
        others = [use for use in uses if self.reads[use].precision is not value.dtype]
        if not others:
            return
        dtype = self.reads[others[0]].precision
        name = f"{value.name}_{short_name(dtype)}"
        if any(owner is self.graph for owner, _ in others):
            name, value.name = value.name, self.names(f"{value.name}_{short_name(value.dtype)}")
        else:
            name = self.names(name)
        cast = self._cast(value, dtype, name)
        for use in others:
            rewire(use, cast)

    def _cast(self, value: ir.Value, dtype: ir.DataType, name: str | None) -> ir.Value:
        cast = ir.Value(name=name, type=typed(value.type, dtype), shape=copied(value.shape))
        to = ir.AttrInt64("to", dtype)
        node = ir.Node("", "Cast", [value], [to], outputs=[cast], name=self.names(f"Cast_{name}"))
        graph, producer = graph_of(value), value.producer()
        if producer is not None:
            graph.insert_after(producer, node)
        elif len(graph):
            graph.insert_before(graph[0], node)
        else:
            graph.append(node)
        return cast


def _set_attributes(node: ir.Node, opsets: dict[str, int], makes: Collection[ir.Value]) -> None:
    """Attributes that hold or state the type of an output."""
    made = [value for value in node.outputs if value in makes]
    if not made or bodies_of(node):
        return
    dtype = HALF if any(value.dtype is HALF for value in made) else FLOAT
    _state_dtype(node, opsets, dtype)
    if dtype is FLOAT:
        return
    if node.domain == "" and node.op_type == "ConstantOfShape" and "value" not in node.attributes:
        node.attributes.add(ir.AttrTensor("value", ir.tensor(np.zeros(1, np.float16))))
    for name, attribute in list(node.attributes.items()):
        value: Any = attribute.value
        if attribute.type is ir.AttributeType.TENSOR and value.dtype is FLOAT:
            node.attributes[name] = ir.AttrTensor(name, in_half(value))
        elif attribute.type is ir.AttributeType.TYPE_PROTO and value.type.dtype is FLOAT:
            kind = ir.TypeAndShape(typed(value.type, HALF), value.shape)
            node.attributes[name] = ir.AttrTypeProto(name, kind)


def _state_dtype(node: ir.Node, opsets: dict[str, int], dtype: ir.DataType) -> None:
    """An attribute that is left out means its default, or the type of an input."""
    schema = schema_of(node, opsets.get(node.domain, 1))
    for name in DTYPE_ATTRIBUTES:
        if schema is None or name not in schema.attributes:
            continue
        present = node.attributes.get(name)
        default = schema.attributes[name].default_value.i
        implied = {default} if default else {value.dtype for value in node.inputs if value}
        if dtype not in implied if present is None else present.as_int() == FLOAT:
            node.attributes[name] = ir.AttrInt64(name, dtype)


def _drop_casts(model: ir.Model) -> None:
    """FP16 -> FP32 -> FP16 is the identity; Casts to what a value is already have no effect."""
    casts = [node for node in model.graph.all_nodes() if is_cast(node)]
    for node in casts:
        source, target = value_at((node, 0)), node.outputs[0]
        widening = source.producer()
        if target.dtype is HALF and source.dtype is FLOAT and widening and is_cast(widening):
            widened = value_at((widening, 0))
            if widened.dtype is HALF:
                node.replace_input_with(0, widened)
                source = widened
        if source.dtype is target.dtype and source.dtype in (FLOAT, HALF):
            _bypass(source, target)
    for node in reversed(casts):
        if not node.outputs[0].uses() and not node.outputs[0].is_graph_output():
            graph_of(node.outputs[0]).remove(node, safe=True)


def drop_identities(model: ir.Model) -> None:
    """Readers of a copy read what it is a copy of, in place."""
    nodes = [n for n in model.graph.all_nodes() if n.domain == "" and n.op_type == "Identity"]
    for node in nodes:
        _bypass(value_at((node, 0)), node.outputs[0])
    for node in reversed(nodes):
        if not node.outputs[0].uses() and not node.outputs[0].is_graph_output():
            graph_of(node.outputs[0]).remove(node, safe=True)


def _bypass(source: ir.Value, target: ir.Value) -> None:
    """Readers of the target read the source, unless it is an output that the source cannot be."""
    if not target.is_graph_output():
        target.replace_all_uses_with(source)
    elif source.producer() and source.graph is target.graph and not source.is_graph_output():
        target.replace_all_uses_with(source, replace_graph_outputs=True)
        source.name, target.name = target.name, source.name
