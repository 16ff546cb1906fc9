"""One operator at a time in ONNX Runtime."""

# onnx_ir and onnxruntime are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from halfsafe.frontends.onnx.draws import draws, seed
from halfsafe.frontends.onnx.runtime import opened, options_of
from halfsafe.frontends.onnx.values import Elements

Array = NDArray[Any]

tensor_info = onnx.helper.make_tensor_value_info

Opsets = tuple[tuple[str, int], ...]

HEAVY = re.compile("Conv|Gemm|MatMul|Einsum|Attention|LSTM|GRU|RNN|^If$|^Loop$|^Scan$")
"""Operators that get threads of their own."""


class OneNode:
    """One operator, ready to be run on the values that it reads."""

    def __init__(self, node: ir.Node, opsets: Opsets) -> None:
        self.node, self.opsets, self._text = node, opsets, _bare(node)
        self.draws = draws(node)
        self._feeds = {f"i{i}": str(v.name) for i, v in enumerate(node.inputs) if v is not None}
        self._feeds |= {name: name for name in captured(node)}
        self._present = [bool(output.name) for output in node.outputs]

    @property
    def reads(self) -> tuple[str, ...]:
        """The values that it reads, those that its bodies capture included, each once."""
        return tuple(dict.fromkeys(self._feeds.values()))

    def __call__(self, values: Mapping[str, Array], own: dict[OneNode, Any]) -> list[Any]:
        """Its outputs, None for those that it does not have; `own` are sessions of this run."""
        feeds = {key: values[name] for key, name in self._feeds.items()}
        if self.node.domain == "" and self.node.op_type in _OPTIONAL:
            return [_OPTIONAL[self.node.op_type](*feeds.values())]
        types = tuple((key, x.dtype, isinstance(x, Elements)) for key, x in feeds.items())
        if self.draws and self not in own:
            own[self] = _open(self._text, types, self.opsets)
        one = own[self] if self.draws else _session_of(self._text, types, self.opsets)
        results = map(_typed, one.run(None, feeds), one.get_outputs())
        return [next(results) if present else None for present in self._present]


def _typed(found: Any, output: Any) -> Any:
    """A result, a sequence with the type of its elements, which ONNX Runtime calls by C's names."""
    if not isinstance(found, list):
        return found
    name = output.type.removeprefix("seq(tensor(").rstrip(")")
    return Elements(found, np.dtype({"float": "float32", "string": "object"}.get(name, name)))


def _has_element(found: Any = None) -> Array:
    return np.array(found is not None)


def _element(found: Any = None) -> Any:
    return found


_OPTIONAL: Mapping[str, Callable[..., Any]] = {
    "Optional": _element,
    "OptionalGetElement": _element,
    "OptionalHasElement": _has_element,
}
"""Operators on what may be missing, which is None: ONNX Runtime asks for types of it."""


def _bare(node: ir.Node) -> bytes:
    """A node without the names that tell it from others like it."""
    proto = ir.to_proto(node)
    seed([proto])
    for i, name in enumerate(proto.input):
        proto.input[i] = f"i{i}" if name else ""
    for i, name in enumerate(proto.output):
        proto.output[i] = f"o{i}" if name else ""
    for field in ("name", "doc_string", "metadata_props"):
        proto.ClearField(field)
    return proto.SerializeToString(deterministic=True)


Types = tuple[tuple[str, np.dtype[Any], bool], ...]
"""Of each value that is read its name, the type of its entries, and whether it is a sequence."""


def _open(text: bytes, types: Types, opsets: Opsets) -> Any:
    """A session of one operator."""
    node = onnx.NodeProto.FromString(text)
    inputs: list[onnx.ValueInfoProto] = []
    for name, dtype, sequence in types:
        made = onnx.helper.make_tensor_sequence_value_info if sequence else tensor_info
        inputs.append(made(name, onnx.helper.np_dtype_to_tensor_dtype(dtype), None))
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = onnx.helper.make_graph([node], "node", inputs, outputs)
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)
    options = options_of(optimised=False)
    if not HEAVY.search(node.op_type):
        options.intra_op_num_threads = 1
    return opened(model.SerializeToString(), options)


_session_of = lru_cache(maxsize=1024)(_open)
"""One that is shared by all nodes with the same attributes and types."""


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
