"""ONNX Runtime, for whole models and for one node at a time."""

# onnx_ir and onnxruntime are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from halfsafe.errors import BadInput, first_line
from halfsafe.frontends.onnx.draws import draws, seed

Array = NDArray[Any]

PROTOBUF_LIMIT = 2**31 - 2**20
"""Bytes that one message can hold, with some room for the nodes."""


def session(model: ir.Model, *, optimised: bool = False) -> Any:
    """A session on the CPU, by default without any rewriting of the graph; all of a model draw the
    same numbers.

    Raises BadInput where ONNX Runtime does not take the model.
    """
    options, model = _options(optimised), embedded(model)
    try:
        if fits_session(model):
            proto = ir.to_proto(model)
            seed(chain(proto.graph.node, *(function.node for function in proto.functions)))
            return _opened(proto.SerializeToString(), options)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            ir.save(model, path, external_data="model.onnx.data")
            return _opened(path, options)
    except Exception as error:
        raise BadInput(f"ONNX Runtime does not take the model: {first_line(error)}") from error


def _opened(model: bytes | Path, options: Any) -> Any:
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def fits_session(model: ir.Model) -> bool:
    """Whether a model's constants fit into one message, and several copies of them into memory."""
    held = (value.const_value for value in model.graph.initializers.values())
    return sum(tensor.nbytes for tensor in held if tensor is not None) < PROTOBUF_LIMIT


def data_files(model: ir.Model) -> frozenset[Path]:
    """The files beside the model's own in which constants lie."""
    held = (value.const_value for value in model.graph.initializers.values())
    return frozenset(Path(t.path).resolve() for t in held if isinstance(t, ir.ExternalTensor))


OLDEST = 7
"""The first opset of which ONNX Runtime has all operators."""


def check_versions(model: ir.Model) -> None:
    """Raises BadInput for an opset or an IR version that ONNX Runtime does not read."""
    opset, name = model.opset_imports.get("", OLDEST), f"ONNX Runtime {ort.__version__}"
    newest = _newest(onnx.defs.onnx_opset_version(), lambda version: _reads(version, 8))
    if not OLDEST <= opset <= newest:
        raise BadInput(
            f"the model is at opset {opset}, and {name} reads {OLDEST} to {newest}: "
            "export it at one of these, or try onnx.version_converter"
        )
    newest = _newest(onnx.IR_VERSION, lambda version: _reads(OLDEST, version))
    if (model.ir_version or newest) > newest:
        raise BadInput(
            f"the model has IR version {model.ir_version}, and {name} reads up to {newest}: "
            f"set model.ir_version = {newest} if it uses nothing newer"
        )


def _newest(known: int, reads: Callable[[int], bool]) -> int:
    return next(version for version in range(known, 0, -1) if reads(version))


@lru_cache
def _reads(opset: int, ir_version: int) -> bool:
    """Whether ONNX Runtime takes a model of these versions."""
    x, y = (onnx.helper.make_tensor_value_info(name, 1, [1]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Neg", ["x"], ["y"])], "g", [x], [y])
    imports = [onnx.helper.make_opsetid("", opset)]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=ir_version)
    try:
        _opened(model.SerializeToString(), _options(optimised=False))
    except Exception:
        return False
    return True


def embedded(model: ir.Model) -> ir.Model:
    """The model without references to other files; their tensors are in memory while read."""
    if not data_files(model):
        return model
    copy = model.clone()
    for value in copy.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = _read_each_time(value.const_value)
    return copy


def _read_each_time(tensor: ir.ExternalTensor) -> ir.LazyTensor:
    """Maps the file anew for each reader: pages that were read go when their reader does."""

    def mapped() -> ir.ExternalTensor:
        return ir.ExternalTensor(
            tensor.location,
            tensor.offset,
            tensor.length,
            tensor.dtype,
            shape=tensor.shape,
            name=tensor.name or "",
            base_dir=tensor.base_dir,
        )

    return ir.LazyTensor(mapped, dtype=tensor.dtype, shape=tensor.shape, name=tensor.name)


def _options(optimised: bool) -> Any:
    """Threads sleep while they wait: there is a session for each kind of operator."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    )
    return options


_tensor_info = onnx.helper.make_tensor_value_info


class Elements(list[Any]):
    """A sequence: arrays that share a type, which it has even if there are none."""

    def __init__(self, found: Iterable[Array], dtype: np.dtype[Any]) -> None:
        super().__init__(found)
        self.dtype = dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """That of all entries in one row."""
        return (sum(x.size for x in self),)


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
        made = onnx.helper.make_tensor_sequence_value_info if sequence else _tensor_info
        inputs.append(made(name, onnx.helper.np_dtype_to_tensor_dtype(dtype), None))
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = onnx.helper.make_graph([node], "node", inputs, outputs)
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)
    options = _options(optimised=False)
    if not HEAVY.search(node.op_type):
        options.intra_op_num_threads = 1
    return _opened(model.SerializeToString(), options)


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
