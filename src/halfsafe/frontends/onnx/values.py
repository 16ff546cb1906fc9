"""Values, types and tensors of an ONNX model, as the FP16 conversion needs them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from halfsafe.errors import BadInput
from halfsafe.frontends.onnx.casts import to_half
from halfsafe.frontends.onnx.mapped import aligned

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16

Place = tuple[ir.Node | ir.Graph, int]
"""An input of a node, or an output of a graph."""


def qualified(domain: str, op_type: str) -> str:
    """An operator's name with that of its dialect, ONNX's own or another.

    >>> qualified("", "Conv"), qualified("com.microsoft", "FastGelu")
    ('onnx.Conv', 'com.microsoft.FastGelu')
    """
    return f"{domain or 'onnx'}.{op_type}"


class Names:
    """Names that no value and no node of the model has."""

    def __init__(self, model: ir.Model) -> None:
        self.taken = {value.name for value in values_of(model)}
        self.taken |= {node.name for node in model.graph.all_nodes()}

    def __call__(self, wanted: str) -> str:
        name, count = wanted, 1
        while name in self.taken:
            name, count = f"{wanted}_{count}", count + 1
        self.taken.add(name)
        return name


def graph_values(graph: ir.Graph) -> Iterator[ir.Value]:
    """All values of one graph, its bodies not included."""
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def values_of(model: ir.Model) -> Iterator[ir.Value]:
    """All values of a model and of its bodies."""
    for graph in model.graphs():
        yield from graph_values(graph)


def readers_of(model: ir.Model, every: bool = False) -> dict[ir.Value, list[Place]]:
    """Who reads each FP32 value, or every value."""
    readers: dict[ir.Value, list[Place]] = defaultdict(list)
    for owner in (*model.graph.all_nodes(), *model.graphs()):
        values = owner.inputs if isinstance(owner, ir.Node) else owner.outputs
        for index, value in enumerate(values):
            if value is not None and (every or is_float(value)):
                readers[value].append((owner, index))
    return readers


def value_at(use: Place) -> ir.Value:
    """The value that a use reads."""
    owner, index = use
    value = owner.inputs[index] if isinstance(owner, ir.Node) else owner.outputs[index]
    assert value is not None
    return value


def rewire(use: Place, value: ir.Value) -> None:
    """Lets a use read another value."""
    owner, index = use
    if isinstance(owner, ir.Node):
        owner.replace_input_with(index, value)
    else:
        owner.outputs[index] = value


def bodies_of(node: ir.Node) -> list[ir.Graph]:
    """The graphs among an operator's attributes."""
    bodies: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type is ir.AttributeType.GRAPH:
            bodies.append(attribute.as_graph())
        elif attribute.type is ir.AttributeType.GRAPHS:
            bodies += attribute.as_graphs()
    return bodies


def called(node: ir.Node) -> str:
    """An operator as messages name it."""
    return f"{node.op_type} '{node.name or node.outputs[0].name}'"


def graph_of(value: ir.Value) -> ir.Graph:
    """The graph that a value belongs to."""
    graph = value.graph
    assert isinstance(graph, ir.Graph)
    return graph


def is_float(value: ir.Value) -> bool:
    """Whether a value is FP32, in a sequence or an optional as well."""
    return value.dtype is FLOAT


def is_cast(node: ir.Node) -> bool:
    """Whether an operator is the standard's Cast."""
    return node.domain == "" and node.op_type == "Cast"


def is_constant(value: ir.Value) -> bool:
    """Whether a value is an initialiser, or made by a Constant."""
    producer = value.producer()
    if producer is not None:
        return producer.domain == "" and producer.op_type == "Constant"
    return value.is_initializer()


def typed(kind: ir.TypeProtocol | None, dtype: ir.DataType) -> ir.TypeProtocol:
    """A new type, since onnx_ir shares types between a model and its clone."""
    match kind:
        case ir.SequenceType():
            return ir.SequenceType(typed(kind.elem_type, dtype), denotation=kind.denotation)
        case ir.OptionalType():
            return ir.OptionalType(typed(kind.elem_type, dtype), denotation=kind.denotation)
        case ir.SparseTensorType():
            return ir.SparseTensorType(dtype, denotation=kind.denotation)
        case _:
            return ir.TensorType(dtype, denotation=kind.denotation if kind else None)


def type_text(kind: ir.TypeProtocol | None, element: str) -> str:
    """The type as schemas write it."""
    match kind:
        case ir.SequenceType():
            return f"seq({type_text(kind.elem_type, element)})"
        case ir.OptionalType():
            return f"optional({type_text(kind.elem_type, element)})"
        case ir.SparseTensorType():
            return f"sparse_tensor({element})"
        case _:
            return f"tensor({element})"


def short_name(dtype: ir.DataType | None) -> str:
    """What new names say of a type."""
    return "fp16" if dtype is HALF else "fp32"


def copied(shape: ir.Shape | None) -> ir.Shape | None:
    """A shape that can be changed without changing another."""
    return None if shape is None else shape.copy()


def tensor_of(value: ir.Value) -> ir.TensorProtocol:
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


def set_tensor(value: ir.Value, tensor: ir.TensorProtocol) -> None:
    """Gives a constant another tensor, and its type."""
    value.type = typed(value.type, tensor.dtype)
    producer = value.producer()
    if producer is None:
        value.const_value = tensor
    else:
        producer.attributes.clear()
        producer.attributes.add(ir.AttrTensor("value", tensor))


LARGE = 2**20
"""A constant of more bytes is rounded when it is written, so that only one is in memory."""


def in_half(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Rounded to nearest even; what is beyond the range becomes infinite."""

    def rounded() -> ir.TensorProtocol:
        return ir.Tensor(to_half(aligned(tensor.numpy())), name=tensor.name)

    shape = ir.Shape(tensor.shape.numpy())
    late = ir.LazyTensor(rounded, dtype=HALF, shape=shape, name=tensor.name)
    found: ir.TensorProtocol = late if tensor.nbytes > LARGE else rounded()
    found.doc_string = tensor.doc_string
    found.metadata_props.update(tensor.metadata_props)
    return found


class Elements(list[Any]):
    """A sequence: arrays that share a type, which it has even if there are none."""

    def __init__(self, found: Iterable[NDArray[Any]], dtype: np.dtype[Any]) -> None:
        super().__init__(found)
        self.dtype = dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """That of all entries in one row."""
        return (sum(x.size for x in self),)
