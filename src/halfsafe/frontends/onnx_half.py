"""Converts an ONNX model to FP16, with a Cast only where the standard or the caller demands one.

Every operator's inputs and outputs fall into groups that have one type in common: what its schema
allows in FP32 only, and all the rest; an If, a Loop or a Scan has a group for each position that it
hands through its body. The rest is FP16 unless the caller names one of its outputs. A value has the
type of the group that makes it; where a reader's group differs, one Cast stands between them.
Constants belong to no group: they are stored in the type, or both types, that their readers want.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx
import onnx.defs
import onnx.helper
import onnx.shape_inference
import onnx.version_converter
import onnx_ir as ir

from halfsafe.errors import BadInput, first_line

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16

NEWEST_OPSET = 23
"""Opsets above it are not asked for: deployed engines do not read them yet."""

LARGE = 1024
"""Initialisers of more bytes are kept out of the protobuf that onnx's C++ passes work on."""

DTYPE_ATTRIBUTES = ("to", "dtype", "output_datatype", "output_dtype")
"""Attributes that state the element type of an output."""

Use = tuple[ir.Node | ir.Graph, int]
"""An input of a node, or an output of a graph."""

_Port = Use | ir.Value

KEPT = re.compile("QLinear|QuantizeLinear|DequantizeLinear|^BitCast$|^MeanVarianceNormalization$")
"""Operators that stay in FP32: quantised ones with their scales, one that reads bits, and one that
onnx defines with FP32 constants."""

GENERATED = re.compile("^Random|^EyeLike$|^MelWeightMatrix$")
"""Operators whose output stays in FP32, since onnxruntime has no FP16 form of them on a CPU."""


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
    _refuse(model, float32)
    half = model.clone()
    half.opset_imports.setdefault("", NEWEST_OPSET)
    _settle_inputs(half)
    _complete_types(half)
    half = _raise_opset(half, float32)
    _Conversion(half, frozenset(float32), HALF if io == "float16" else FLOAT).apply()
    return half


@dataclass(eq=False)
class _Group:
    """Ports that have one type in common; its precision is theirs."""

    uses: list[Use] = field(default_factory=list[Use])
    values: list[ir.Value] = field(default_factory=list[ir.Value])
    precision: ir.DataType = HALF
    opset: int | None = None
    """The later opset that allows FP16 here, if this one does not."""
    rim: bool = False
    """An input or output of the model."""

    @property
    def follows(self) -> bool:
        """Shape, Greater or Cast give the same type for either: they take what they are given."""
        return not self.values and not self.rim


class _Conversion:
    def __init__(self, model: ir.Model, float32: Collection[str], rim: ir.DataType) -> None:
        self.model, self.graph = model, model.graph
        self.nodes = list(model.graph.all_nodes())
        self.names = _Names(model)
        self.constants = {
            value: _tensor(value)
            for value in _values(model)
            if _is_constant(value) and _is_float(value)
        }
        self.readers = _readers(model)
        self.makes: dict[ir.Value, _Group] = {}
        self.reads: dict[Use, _Group] = {}
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
            value.type = _typed(value.type, group.precision)
        for value, tensor in self.constants.items():
            self._store(value, tensor)
        for value, uses in list(self.readers.items()):
            if value in self.makes:
                self._connect(value, uses)
        for node in self.nodes:
            _set_attributes(node, self.model.opset_imports, self.makes)
        _drop_casts(self.model)

    # Groups and their precision

    def _all_groups(self, rim: ir.DataType, float32: Collection[str]) -> Iterator[_Group]:
        for value in self.graph.inputs:
            if _is_float(value):
                yield _Group(values=[value], precision=rim, rim=value.name not in float32)
        for index, value in enumerate(self.graph.outputs):
            if _is_float(value):
                yield _Group(uses=[(self.graph, index)], precision=rim, rim=True)
        for node in self.nodes:
            yield from _groups(node, self.model.opset_imports)

    def _register(self, group: _Group) -> None:
        self.makes.update(dict.fromkeys(group.values, group))
        self.reads.update(dict.fromkeys(group.uses, group))

    def _keep_named_outputs(self, float32: Collection[str]) -> None:
        for index, value in enumerate(self.graph.outputs):
            if value.name in float32 and _is_float(value):
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
        sizes: set[ir.Value] = set()
        for node in self.nodes:
            if node.op_type in ("Shape", "Size") or self._is_size(node, sizes):
                sizes.update(node.outputs)
        casts = {n.outputs[0] for n in self.nodes if _is_cast(n) and not _is_float(_read((n, 0)))}
        for value in self._latest_first((sizes | casts) & self.makes.keys()):
            group = self.makes[value]
            uses = [use for made in group.values for use in self.readers[made]]
            if not any(self._wants_half(use, sizes) for use in uses):
                group.precision = FLOAT

    def _latest_first(self, values: set[ir.Value]) -> Iterator[ir.Value]:
        for node in reversed(self.nodes):
            yield from (value for value in node.outputs if value in values)

    def _is_size(self, node: ir.Node, sizes: set[ir.Value]) -> bool:
        """Whether a node computes from sizes and constants alone."""
        inputs = [value for value in node.inputs if value is not None]
        return not _bodies(node) and all(
            value in sizes or value.is_initializer() or _is_constant(value) for value in inputs
        )

    def _wants_half(self, use: Use, sizes: set[ir.Value]) -> bool:
        """A reader that follows has no wish of its own, unless its other operand is no size."""
        group = self.reads[use]
        if group.precision is FLOAT:
            return False
        operands = {_read(other) for other in group.uses} - self.constants.keys()
        return not group.follows or (len(operands) > 1 and not operands <= sizes)

    def _let_follow(self) -> None:
        """Readers of any type take the better of what they are given, and cost no Cast by it.

        A model's input does not count as better than the values inside, which it is rounded with.
        """
        for group in set(self.reads.values()):
            sources = [self.makes[v] for v in map(_read, group.uses) if v in self.makes]
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
            _set_tensor(value, _in_half(tensor))
        others = [use for use, dtype in wanted.items() if dtype is not own]
        if others:
            other = tensor if own is HALF else _in_half(tensor)
            clone = self._constant_beside(value, other)
            for use in others:
                _rewire(use, clone)

    def _constant_beside(self, value: ir.Value, tensor: ir.TensorProtocol) -> ir.Value:
        name = self.names(f"{value.name}_{_short(tensor.dtype)}")
        clone = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=_copied(value.shape))
        clone.metadata_props.update(value.metadata_props)
        tensor = ir.Tensor(tensor.numpy(), name=name, doc_string=tensor.doc_string)
        producer = value.producer()
        if producer is None:
            clone.const_value = tensor
            _graph(value).register_initializer(clone)
        else:
            attribute = ir.AttrTensor("value", tensor)
            node = ir.Node("", "Constant", [], [attribute], outputs=[clone], name=self.names(name))
            _graph(value).insert_after(producer, node)
        return clone

    def _connect(self, value: ir.Value, uses: list[Use]) -> None:
        """One Cast of a value for all readers that want the other type; outputs keep their name."""
        others = [use for use in uses if self.reads[use].precision is not value.dtype]
        if not others:
            return
        dtype = self.reads[others[0]].precision
        name = f"{value.name}_{_short(dtype)}"
        if any(owner is self.graph for owner, _ in others):
            name, value.name = value.name, self.names(f"{value.name}_{_short(value.dtype)}")
        else:
            name = self.names(name)
        cast = self._cast(value, dtype, name)
        for use in others:
            _rewire(use, cast)

    def _cast(self, value: ir.Value, dtype: ir.DataType, name: str | None) -> ir.Value:
        cast = ir.Value(name=name, type=_typed(value.type, dtype), shape=_copied(value.shape))
        to = ir.AttrInt64("to", dtype)
        node = ir.Node("", "Cast", [value], [to], outputs=[cast], name=self.names(f"Cast_{name}"))
        graph, producer = _graph(value), value.producer()
        if producer is not None:
            graph.insert_after(producer, node)
        elif len(graph):
            graph.insert_before(graph[0], node)
        else:
            graph.append(node)
        return cast


# Groups of one node


def _groups(node: ir.Node, opsets: dict[str, int]) -> Iterator[_Group]:
    if node.domain == "" and node.op_type == "Constant":
        return
    if node.domain == "" and node.op_type in BODIES:
        for ports in BODIES[node.op_type](node, opsets):
            group = _Group()
            for port in ports:
                if isinstance(port, ir.Value):
                    group.values += [port] if _is_float(port) else []
                else:
                    group.uses += [port] if _is_float(_read(port)) else []
            yield group
    else:
        yield from _schema_groups(node, opsets)


def _schema_groups(node: ir.Node, opsets: dict[str, int]) -> Iterable[_Group]:
    """One group for what is FP32 in every case, one for the rest.

    Type parameters are not told apart: Attention and RMSNormalization have several, but their
    definitions only hold when those agree. Operators that state their output's type are different.
    """
    schema = None if KEPT.search(node.op_type) or node.domain else _schema(node, opsets[""])
    states = schema is not None and (
        node.op_type == "CastLike" or not schema.attributes.keys().isdisjoint(DTYPE_ATTRIBUTES)
    )
    groups: dict[str, _Group] = defaultdict(_Group)
    for made, values in enumerate((node.inputs, node.outputs)):
        for index, value in enumerate(values):
            if value is None or not _is_float(value):
                continue
            text = _type_text(value.type, "float16")
            parameter = _formal(schema, made, index)
            free = parameter is not None and text in parameter.types
            key = parameter.type_str if parameter and states else "free" if free else "fixed"
            group = groups[key]
            if made:
                group.values.append(value)
            else:
                group.uses.append((node, index))
            if not free:
                group.precision = FLOAT
                group.opset = schema and _later_opset(node, made, index, text)
    for group in groups.values():
        if group.values and GENERATED.search(node.op_type):
            group.precision = FLOAT
    return groups.values()


def _schema(node: ir.Node, opset: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:
        return None


def _formal(
    schema: onnx.defs.OpSchema | None, made: int, index: int
) -> onnx.defs.OpSchema.FormalParameter | None:
    """The schema's parameter for an input (`made` is 0) or an output (1); the last may repeat."""
    if schema is None:
        return None
    parameters = schema.outputs if made else schema.inputs
    return parameters[min(index, len(parameters) - 1)] if parameters else None


def _later_opset(node: ir.Node, made: int, index: int, text: str) -> int | None:
    newest = _schema(node, NEWEST_OPSET)
    parameter = _formal(newest, made, index)
    if newest is None or newest.deprecated or parameter is None or text not in parameter.types:
        return None
    return newest.since_version


def _if_ports(node: ir.Node, opsets: dict[str, int]) -> Iterator[list[_Port]]:
    """y_i = then_i or else_i."""
    for index, value in enumerate(node.outputs):
        yield [value, *((body, index) for body in _bodies(node))]


def _loop_ports(node: ir.Node, opsets: dict[str, int]) -> Iterator[list[_Port]]:
    """(trip, condition, state) -> body(i, condition, state) = (condition, state, scanned)."""
    (body,) = _bodies(node)
    states = len(body.inputs) - 2
    for index, value in enumerate(node.outputs):
        ports: list[_Port] = [value, (body, 1 + index)]
        if index < states:
            ports += [(node, 2 + index), body.inputs[2 + index]]
        yield ports


def _scan_ports(node: ir.Node, opsets: dict[str, int]) -> Iterator[list[_Port]]:
    """(state, sequence) -> body(state, element) = (state, scanned)."""
    (body,) = _bodies(node)
    first = 1 if opsets.get("", 1) < 9 else 0
    states = len(body.inputs) - node.attributes["num_scan_inputs"].as_int()
    for index, value in enumerate(body.inputs):
        ports: list[_Port] = [(node, first + index), value]
        yield ports if index >= states else [*ports, (body, index), node.outputs[index]]
    for index in range(states, len(body.outputs)):
        yield [(body, index), node.outputs[index]]


def _map_ports(node: ir.Node, opsets: dict[str, int]) -> Iterator[list[_Port]]:
    """y_i = [body(x, ...) for x in sequence]."""
    (body,) = _bodies(node)
    for index, value in enumerate(body.inputs):
        yield [(node, index), value]
    for index, value in enumerate(node.outputs):
        yield [(body, index), value]


BODIES: dict[str, Callable[[ir.Node, dict[str, int]], Iterator[list[_Port]]]] = {
    "If": _if_ports,
    "Loop": _loop_ports,
    "Scan": _scan_ports,
    "SequenceMap": _map_ports,
}
"""Which ports of an operator and of its bodies have one type."""


# Before the conversion


def _refuse(model: ir.Model, float32: Collection[str]) -> None:
    for function in model.functions.values():
        raise BadInput(f"local function '{function.name}': inline it first (onnx_ir's InlinePass)")
    if missing := set(float32) - {value.name for value in _values(model)}:
        raise BadInput(f"no value is named '{min(missing)}'; float32 takes names of the model")
    for node in model.graph.all_nodes():
        if _bodies(node) and (node.domain or node.op_type not in BODIES):
            raise BadInput(f"{_called(node)} has a body of unknown meaning; expand the operator")


def _settle_inputs(model: ir.Model) -> None:
    for value in list(model.graph.inputs):
        if value.is_initializer():
            model.graph.inputs.remove(value)
            model.ir_version = max(model.ir_version, 4)


def _complete_types(model: ir.Model) -> None:
    """Types that the file leaves out are inferred. Raises BadInput where that cannot be done."""
    if all(value.type for value in _values(model)):
        return
    try:
        inferred = ir.from_proto(onnx.shape_inference.infer_shapes(_without_weights(model)))
    except Exception as error:
        raise BadInput(f"onnx cannot infer the model's types: {first_line(error)}") from error
    for graph, known in zip(model.graphs(), inferred.graphs(), strict=True):
        types = {value.name: value for value in _graph_values(known)}
        for value in _graph_values(graph):
            if value.type is None and value.name in types:
                value.type, value.shape = types[value.name].type, types[value.name].shape
    for value in _readers(model, every=True):
        if value.type is None:
            producer = value.producer()
            maker = f" ({_called(producer)})" if producer else ""
            raise BadInput(f"the type of '{value.name}'{maker} is unknown; add it to value_info")


def _without_weights(model: ir.Model) -> onnx.ModelProto:
    """The model for onnx's C++ passes, which take 2 GB at most; large constants become inputs."""
    light = model.clone()
    for name, value in list(light.graph.initializers.items()):
        tensor = _tensor(value)
        if tensor.nbytes > LARGE or isinstance(tensor, ir.ExternalTensor):
            del light.graph.initializers[name]
            light.graph.inputs.append(value)
    return ir.to_proto(light)


def _raise_opset(model: ir.Model, float32: Collection[str]) -> ir.Model:
    """The model in the opset in which its operators have FP16; most models are in it already."""
    wanted = [
        (group.opset, node)
        for node in model.graph.all_nodes()
        for group in _groups(node, model.opset_imports)
        if group.opset and not any(value.name in float32 for value in group.values)
    ]
    if not wanted:
        return model
    opset, node = max(wanted, key=lambda pair: pair[0])
    try:
        proto = onnx.version_converter.convert_version(_without_weights(model), opset)
        converted = ir.from_proto(proto)
    except Exception as error:
        raise BadInput(
            f"{_called(node)} has FP16 from opset {opset} on, and onnx cannot convert the model "
            f"from opset {model.opset_imports['']} ({first_line(error)}); name the node's output "
            "in float32"
        ) from error
    _restore(converted, model)
    _complete_types(converted)
    return converted


def _restore(converted: ir.Model, model: ir.Model) -> None:
    """What onnx's converter leaves out: large constants, metadata, the IR version it needs."""
    graph, before = converted.graph, model.graph
    for value in list(graph.inputs)[len(before.inputs) :]:
        graph.inputs.remove(value)
        value.const_value = before.initializers[str(value.name)].const_value
        graph.register_initializer(value)
    values = {value.name: value for value in _values(model)}
    for value in _values(converted):
        if (old := values.get(value.name)) is not None:
            value.type, value.shape = old.type, old.shape
            value.metadata_props.update(old.metadata_props)
    for node in graph.all_nodes():
        old = values.get(node.outputs[0].name) if node.outputs else None
        if old is not None and (producer := old.producer()) is not None:
            node.name, node.doc_string = producer.name, producer.doc_string
            node.metadata_props.update(producer.metadata_props)
    graph.metadata_props.update(before.metadata_props)
    converted.metadata_props.update(model.metadata_props)
    opsets = [onnx.helper.make_opsetid(*item) for item in converted.opset_imports.items()]
    needed = onnx.helper.find_min_ir_version_for(opsets, ignore_unknown=True)
    converted.ir_version = max(model.ir_version, needed)


# After the conversion


def _set_attributes(node: ir.Node, opsets: dict[str, int], makes: Collection[ir.Value]) -> None:
    """Attributes that hold or state the type of an output."""
    made = [value for value in node.outputs if value in makes]
    if not made or _bodies(node):
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
            node.attributes[name] = ir.AttrTensor(name, _in_half(value))
        elif attribute.type is ir.AttributeType.TYPE_PROTO and value.type.dtype is FLOAT:
            typed = ir.TypeAndShape(_typed(value.type, HALF), value.shape)
            node.attributes[name] = ir.AttrTypeProto(name, typed)


def _state_dtype(node: ir.Node, opsets: dict[str, int], dtype: ir.DataType) -> None:
    """An attribute that is left out means its default, or the type of an input."""
    schema = _schema(node, opsets.get(node.domain, 1))
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
    casts = [node for node in model.graph.all_nodes() if _is_cast(node)]
    for node in casts:
        source, target = _read((node, 0)), node.outputs[0]
        widening = source.producer()
        if target.dtype is HALF and source.dtype is FLOAT and widening and _is_cast(widening):
            widened = _read((widening, 0))
            if widened.dtype is HALF:
                node.replace_input_with(0, widened)
                source = widened
        if source.dtype is target.dtype and source.dtype in (FLOAT, HALF):
            _bypass(source, target)
    for node in reversed(casts):
        if not node.outputs[0].uses() and not node.outputs[0].is_graph_output():
            _graph(node.outputs[0]).remove(node, safe=True)


def _bypass(source: ir.Value, target: ir.Value) -> None:
    """Readers of the target read the source, unless it is an output that the source cannot be."""
    if not target.is_graph_output():
        target.replace_all_uses_with(source)
    elif source.producer() and source.graph is target.graph and not source.is_graph_output():
        target.replace_all_uses_with(source, replace_graph_outputs=True)
        source.name, target.name = target.name, source.name


# Values, types and tensors


class _Names:
    """Names that no value and no node of the model has."""

    def __init__(self, model: ir.Model) -> None:
        self.taken = {value.name for value in _values(model)}
        self.taken |= {node.name for node in model.graph.all_nodes()}

    def __call__(self, wanted: str) -> str:
        name, count = wanted, 1
        while name in self.taken:
            name, count = f"{wanted}_{count}", count + 1
        self.taken.add(name)
        return name


def _graph_values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in model.graphs():
        yield from _graph_values(graph)


def _readers(model: ir.Model, every: bool = False) -> dict[ir.Value, list[Use]]:
    """Who reads each FP32 value, or every value."""
    readers: dict[ir.Value, list[Use]] = defaultdict(list)
    for owner in (*model.graph.all_nodes(), *model.graphs()):
        values = owner.inputs if isinstance(owner, ir.Node) else owner.outputs
        for index, value in enumerate(values):
            if value is not None and (every or _is_float(value)):
                readers[value].append((owner, index))
    return readers


def _read(use: Use) -> ir.Value:
    owner, index = use
    value = owner.inputs[index] if isinstance(owner, ir.Node) else owner.outputs[index]
    assert value is not None
    return value


def _rewire(use: Use, value: ir.Value) -> None:
    owner, index = use
    if isinstance(owner, ir.Node):
        owner.replace_input_with(index, value)
    else:
        owner.outputs[index] = value


def _bodies(node: ir.Node) -> list[ir.Graph]:
    bodies: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type is ir.AttributeType.GRAPH:
            bodies.append(attribute.as_graph())
        elif attribute.type is ir.AttributeType.GRAPHS:
            bodies += attribute.as_graphs()
    return bodies


def _called(node: ir.Node) -> str:
    return f"{node.op_type} '{node.name or node.outputs[0].name}'"


def _graph(value: ir.Value) -> ir.Graph:
    graph = value.graph
    assert isinstance(graph, ir.Graph)
    return graph


def _is_float(value: ir.Value) -> bool:
    return value.dtype is FLOAT


def _is_cast(node: ir.Node) -> bool:
    return node.domain == "" and node.op_type == "Cast"


def _is_constant(value: ir.Value) -> bool:
    producer = value.producer()
    if producer is not None:
        return producer.domain == "" and producer.op_type == "Constant"
    return value.is_initializer()


def _typed(kind: ir.TypeProtocol | None, dtype: ir.DataType) -> ir.TypeProtocol:
    """A new type, since onnx_ir shares types between a model and its clone."""
    match kind:
        case ir.SequenceType():
            return ir.SequenceType(_typed(kind.elem_type, dtype), denotation=kind.denotation)
        case ir.OptionalType():
            return ir.OptionalType(_typed(kind.elem_type, dtype), denotation=kind.denotation)
        case ir.SparseTensorType():
            return ir.SparseTensorType(dtype, denotation=kind.denotation)
        case _:
            return ir.TensorType(dtype, denotation=kind.denotation if kind else None)


def _type_text(kind: ir.TypeProtocol | None, element: str) -> str:
    """The type as schemas write it."""
    match kind:
        case ir.SequenceType():
            return f"seq({_type_text(kind.elem_type, element)})"
        case ir.OptionalType():
            return f"optional({_type_text(kind.elem_type, element)})"
        case ir.SparseTensorType():
            return f"sparse_tensor({element})"
        case _:
            return f"tensor({element})"


def _short(dtype: ir.DataType | None) -> str:
    return "fp16" if dtype is HALF else "fp32"


def _copied(shape: ir.Shape | None) -> ir.Shape | None:
    return None if shape is None else shape.copy()


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    """What a constant holds."""
    producer = value.producer()
    if producer is None:
        if value.const_value is None:
            raise BadInput(f"initialiser '{value.name}' has no data; save the model with its data")
        return value.const_value
    (attribute,) = producer.attributes.values()
    if attribute.type is ir.AttributeType.TENSOR:
        return attribute.as_tensor()
    return ir.tensor(np.array(attribute.value, np.float32))


def _set_tensor(value: ir.Value, tensor: ir.TensorProtocol) -> None:
    value.type = _typed(value.type, tensor.dtype)
    producer = value.producer()
    if producer is None:
        value.const_value = tensor
    else:
        producer.attributes.clear()
        producer.attributes.add(ir.AttrTensor("value", tensor))


def _in_half(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Rounded to nearest even; what is beyond the range becomes infinite."""
    with np.errstate(over="ignore", under="ignore"):
        array = tensor.numpy().astype(np.float16)
    half = ir.Tensor(array, name=tensor.name, doc_string=tensor.doc_string)
    half.metadata_props.update(tensor.metadata_props)
    return half
