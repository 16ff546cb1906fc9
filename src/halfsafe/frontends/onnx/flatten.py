"""A file as one flat graph: no functions, no Constant nodes, names that are unique."""

# onnx_ir and onnxruntime are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from halfsafe.errors import BadInput, CaptureError, first_line
from halfsafe.frontends.onnx.mapped import remapped
from halfsafe.frontends.onnx.opset import infer_types
from halfsafe.frontends.onnx.values import Names, graph_values, is_cast, tensor_of, value_at


def flatten(model: ir.Model) -> ir.Model:
    """A copy without functions and Constant nodes, with unique names."""
    copy = _copy(model)
    for node in ir.traversal.RecursiveGraphIterator(copy.graph):
        held = node.attributes.get("value")
        if node.op_type == "Constant" and held is not None:  # lifting renames the tensor
            node.attributes["value"] = ir.AttrTensor("value", remapped(held.as_tensor()))
    for run in (
        passes.InlinePass(),
        _BodiesPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.LiftSubgraphInitializersToMainGraphPass(),
        _StoredPass(),
        passes.RemoveInitializersFromInputsPass(),
        passes.TopologicalSortPass(),
        passes.NameFixPass(),
        passes.RemoveUnusedNodesPass(),
    ):
        try:
            copy = run(copy).model
        except Exception as error:
            raise CaptureError(f"{type(run).__name__} fails: {first_line(error)}") from error
    return copy


class _BodiesPass(ir.passes.InPlacePass):
    """Bodies of operators get types, names of their own, and outputs that they compute themselves.

    An Identity stands where an output is what the body was given, or a constant.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        bodies = [graph for graph in model.graphs() if graph is not model.graph]
        if bodies:
            passes.NameFixPass()(model)
            with suppress(BadInput):  # bodies without types are not looked into
                infer_types(model)
        taken = {value.name for value in graph_values(model.graph)}
        named = {node.name for node in model.graph}
        for body in bodies:
            for i, value in enumerate(body.outputs):
                producer = value.producer()
                if producer is None or producer.graph is not body or producer.op_type == "Constant":
                    body.outputs[i] = _identity(body, value)
            for value in list(graph_values(body)):  # an initialiser is listed by its name
                value.name = _unique(str(value.name), taken)
            for node in body:
                node.name = _unique(str(node.name), named)
        return ir.passes.PassResult(model, modified=bool(bodies))


_NARROW = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


class _StoredPass(ir.passes.InPlacePass):
    """A constant that is stored in another type and cast to FP32 is a constant in FP32."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        casts = [node for node in model.graph.all_nodes() if is_cast(node) and _widens(node)]
        names, made = Names(model), dict[ir.Value, ir.Value]()
        for node in casts:
            source, target = value_at((node, 0)), node.outputs[0]
            if source not in made:
                made[source] = _in_float32(model.graph, source, names(f"{source.name}.float32"))
            held = made[source]
            if target.is_graph_output():
                node.op_type = "Identity"
                node.attributes.clear()
                node.replace_input_with(0, held)
            else:
                target.replace_all_uses_with(held)
        return ir.passes.PassResult(model, modified=bool(casts))


def _widens(cast: ir.Node) -> bool:
    source = value_at((cast, 0))
    to = cast.attributes["to"].as_int()
    return source.is_initializer() and source.dtype in _NARROW and to == ir.DataType.FLOAT


def _in_float32(graph: ir.Graph, source: ir.Value, name: str) -> ir.Value:
    """An initialiser as Cast gives it, computed when it is needed."""
    tensor = tensor_of(source)

    def cast() -> ir.Tensor[Any]:
        with np.errstate(over="ignore", under="ignore"):
            return ir.Tensor(tensor.numpy().astype(np.float32), name=name)

    kind, shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(tensor.shape.numpy())
    lazy = ir.LazyTensor(cast, dtype=kind.dtype, shape=shape, name=name, cache=False)
    value = ir.Value(name=name, shape=shape, type=kind, const_value=lazy)
    graph.register_initializer(value)
    return value


def _identity(body: ir.Graph, value: ir.Value) -> ir.Value:
    """A copy of a value, computed in a body."""
    output = ir.Value(name=f"{value.name}.given", shape=value.shape, type=value.type)
    body.append(ir.Node("", "Identity", [value], outputs=[output], name=f"{value.name}.given"))
    return output


def _unique(wanted: str, taken: set[str | None]) -> str:
    """A name that is not taken yet; an output that is left out has none."""
    name, count = wanted, 1
    while wanted and name in taken:
        name, count = f"{wanted}_{count}", count + 1
    taken.add(name)
    return name


def _copy(model: ir.Model) -> ir.Model:
    """A copy in topological order, which files that ONNX Runtime takes are not always in.

    Its tensors have names of their own: those of the argument stay as they are.
    """
    try:
        copy = model.clone()
    except RuntimeError:
        copy = ir.from_proto(ir.to_proto(model))
        copy.graph.sort()
    for value in (value for graph in copy.graphs() for value in graph.initializers.values()):
        if value.const_value is not None:
            value.const_value = remapped(value.const_value)
    return copy
