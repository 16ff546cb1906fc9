"""What an ONNX model has to be before it is converted: typed throughout, at an opset with FP16."""

from __future__ import annotations

from collections.abc import Collection

import onnx
import onnx.helper
import onnx.shape_inference
import onnx.version_converter
import onnx_ir as ir

from halfsafe.errors import BadInput, first_line
from halfsafe.frontends.onnx.half_groups import BODIES, groups_of
from halfsafe.frontends.onnx.values import (
    bodies_of,
    called,
    graph_values,
    readers_of,
    tensor_of,
    values_of,
)

OLDEST = 11
"""Before it the bounds of Clip and the value of Pad are attributes, which no law scales."""

LARGE = 1024
"""Initialisers of more bytes are kept out of the protobuf that onnx's C++ passes work on."""


def refuse(model: ir.Model, float32: Collection[str]) -> None:
    """Raises BadInput for what cannot be converted, before anything is."""
    for function in model.functions.values():
        raise BadInput(f"local function '{function.name}': inline it first (onnx_ir's InlinePass)")
    if missing := set(float32) - {value.name for value in values_of(model)}:
        raise BadInput(f"no value is named '{min(missing)}'; float32 takes names of the model")
    for node in model.graph.all_nodes():
        if bodies_of(node) and (node.domain or node.op_type not in BODIES):
            raise BadInput(f"{called(node)} has a body of unknown meaning; expand the operator")


def settle_inputs(model: ir.Model) -> None:
    """Initialisers leave the list of inputs: nobody is to overwrite a converted constant."""
    for value in list(model.graph.inputs):
        if value.is_initializer():
            model.graph.inputs.remove(value)
            model.ir_version = max(model.ir_version, 4)


def complete_types(model: ir.Model) -> None:
    """Types that the file leaves out are inferred. Raises BadInput where that cannot be done."""
    infer_types(model)
    for value in readers_of(model, every=True):
        if value.type is None:
            producer = value.producer()
            maker = f" ({called(producer)})" if producer else ""
            raise BadInput(f"the type of '{value.name}'{maker} is unknown; add it to value_info")


def infer_types(model: ir.Model) -> None:
    """Adds what types onnx can infer. Raises BadInput where it finds a contradiction."""
    if all(value.type for value in values_of(model)):
        return
    try:
        inferred = ir.from_proto(onnx.shape_inference.infer_shapes(_without_weights(model)))
    except Exception as error:
        raise BadInput(f"onnx cannot infer the model's types: {first_line(error)}") from error
    for graph, known in zip(model.graphs(), inferred.graphs(), strict=True):
        types = {value.name: value for value in graph_values(known)}
        for value in graph_values(graph):
            if value.type is None and value.name in types:
                value.type, value.shape = types[value.name].type, types[value.name].shape


def _without_weights(model: ir.Model) -> onnx.ModelProto:
    """The model for onnx's C++ passes, which take 2 GB at most; large constants become inputs."""
    light = model.clone()
    for name, value in list(light.graph.initializers.items()):
        tensor = tensor_of(value)
        if tensor.nbytes > LARGE or isinstance(tensor, ir.ExternalTensor):
            del light.graph.initializers[name]
            light.graph.inputs.append(value)
    return ir.to_proto(light)


def raise_old(model: ir.Model) -> ir.Model:
    """The model at opset 11 or later. Raises BadInput where onnx cannot convert it.

    A model with the Scan of opset 8 stays as it is: onnx does not convert its batches.
    """
    opset = model.opset_imports.get("", OLDEST)
    batched = opset < 9 and any(node.op_type == "Scan" for node in model.graph.all_nodes())
    if opset >= OLDEST or batched:
        return model
    settled = model.clone()
    settle_inputs(settled)
    try:
        return _converted(settled, OLDEST)
    except Exception as error:
        raise BadInput(
            f"the model is at opset {opset}, and onnx cannot convert it to {OLDEST} "
            f"({first_line(error)}); export it at opset {OLDEST} or later"
        ) from error


def raise_opset(model: ir.Model, float32: Collection[str]) -> ir.Model:
    """The model in the opset in which its operators have FP16; most models are in it already."""
    wanted = [
        (group.opset, node)
        for node in model.graph.all_nodes()
        for group in groups_of(node, model.opset_imports)
        if group.opset and not any(value.name in float32 for value in group.values)
    ]
    if not wanted:
        return model
    opset, node = max(wanted, key=lambda pair: pair[0])
    try:
        converted = _converted(model, opset)
    except Exception as error:
        raise BadInput(
            f"{called(node)} has FP16 from opset {opset} on, and onnx cannot convert the model "
            f"from opset {model.opset_imports['']} ({first_line(error)}); name the node's output "
            "in float32"
        ) from error
    complete_types(converted)
    return converted


SETTLED = 4
"""The IR version from which on an initialiser need not be an input, as files before it have it too,
and onnx's converter does not know."""


def _converted(model: ir.Model, opset: int) -> ir.Model:
    """The model as onnx writes it at another opset."""
    proto = _without_weights(model)
    proto.ir_version = max(proto.ir_version, SETTLED)
    converted = ir.from_proto(onnx.version_converter.convert_version(proto, opset))
    _restore(converted, model)
    return converted


def _restore(converted: ir.Model, model: ir.Model) -> None:
    """What onnx's converter leaves out: large constants, metadata, the IR version it needs."""
    graph, before = converted.graph, model.graph
    for value in list(graph.inputs)[len(before.inputs) :]:
        graph.inputs.remove(value)
        value.const_value = before.initializers[str(value.name)].const_value
        graph.register_initializer(value)
    values = {value.name: value for value in values_of(model)}
    for value in values_of(converted):
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
