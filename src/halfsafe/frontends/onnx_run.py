"""ONNX Runtime, for whole models and for one node at a time."""

# onnx_ir and onnxruntime are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

Array = NDArray[Any]

PROTOBUF_LIMIT = 2**31 - 2**20
"""Bytes that one message can hold, with some room for the nodes."""


def session(model: ir.Model, *, optimised: bool = False) -> Any:
    """A session on the CPU, by default without any rewriting of the graph."""
    options, model = _options(optimised), embedded(model)
    size = sum(t.const_value.nbytes for t in model.graph.initializers.values() if t.const_value)
    providers = ["CPUExecutionProvider"]
    if size < PROTOBUF_LIMIT:
        text = ir.to_proto(model).SerializeToString()
        return ort.InferenceSession(text, options, providers=providers)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        ir.save(model, path, external_data="model.onnx.data")
        return ort.InferenceSession(path, options, providers=providers)


def embedded(model: ir.Model) -> ir.Model:
    """The model with external tensors as arrays, which stay on the disk until they are read."""
    held = {name: value.const_value for name, value in model.graph.initializers.items()}
    outside = {name: t for name, t in held.items() if isinstance(t, ir.ExternalTensor)}
    if not outside:
        return model
    copy = model.clone()
    for name, tensor in outside.items():
        mapped = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=name)
        copy.graph.initializers[name].const_value = mapped
    return copy


def _options(optimised: bool) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    )
    return options


Opsets = tuple[tuple[str, int], ...]


def run_node(node: ir.Node, values: Mapping[str, Array], opsets: Opsets) -> list[Any]:
    """What one node gives for the values that it reads; None for outputs that it does not have."""
    names = [None if value is None else str(value.name) for value in node.inputs]
    feeds = {f"i{i}": values[name] for i, name in enumerate(names) if name is not None}
    feeds |= {name: values[name] for name in captured(node)}
    types = tuple(
        (key, int(onnx.helper.np_dtype_to_tensor_dtype(x.dtype))) for key, x in feeds.items()
    )
    results = iter(_session_of(_bare(node), types, opsets).run(None, feeds))
    return [next(results) if output.name else None for output in node.outputs]


def _bare(node: ir.Node) -> bytes:
    """A node without the names that tell it from others like it."""
    proto = ir.to_proto(node)
    for i, name in enumerate(proto.input):
        proto.input[i] = f"i{i}" if name else ""
    for i, name in enumerate(proto.output):
        proto.output[i] = f"o{i}" if name else ""
    for field in ("name", "doc_string", "metadata_props"):
        proto.ClearField(field)
    return proto.SerializeToString(deterministic=True)


@lru_cache(maxsize=1024)
def _session_of(text: bytes, types: tuple[tuple[str, int], ...], opsets: Opsets) -> Any:
    """A session of one operator, shared by all nodes with the same attributes and types."""
    node = onnx.NodeProto.FromString(text)
    value = onnx.helper.make_tensor_value_info
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = onnx.helper.make_graph(
        [node], "node", [value(name, kind, None) for name, kind in types], outputs
    )
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)
    return ort.InferenceSession(
        model.SerializeToString(), _options(optimised=False), providers=["CPUExecutionProvider"]
    )


def captured(node: ir.Node) -> list[str]:
    """The values of the graph around it that a node's subgraphs read."""
    found: dict[str, None] = {}
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            found.update(dict.fromkeys(_free(attribute.as_graph())))
        elif attribute.type == ir.AttributeType.GRAPHS:
            found.update(dict.fromkeys(n for g in attribute.as_graphs() for n in _free(g)))
    return list(found)


def _free(graph: ir.Graph) -> list[str]:
    """Names that a graph reads and does not define."""
    defined = {str(v.name) for v in graph.inputs} | set(graph.initializers)
    read: dict[str, None] = {}
    for node in graph:
        names = [str(v.name) for v in node.inputs if v is not None]
        read.update(dict.fromkeys(n for n in (*names, *captured(node)) if n not in defined))
        defined |= {str(v.name) for v in node.outputs}
    outputs = [str(v.name) for v in graph.outputs]
    return list(dict.fromkeys([*read, *(n for n in outputs if n not in defined)]))
