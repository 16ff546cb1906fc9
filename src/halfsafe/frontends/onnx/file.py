"""Reads and writes ONNX files, whole or not at all."""

# onnx_ir and onnxruntime are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from halfsafe.atomic import atomically
from halfsafe.errors import BadInput, first_line
from halfsafe.frontends.onnx import mapped
from halfsafe.frontends.onnx.mapped import every_graph, without_tensors
from halfsafe.frontends.onnx.runtime import fits_message
from halfsafe.frontends.onnx.values import values_of

Given = str | Path | onnx.ModelProto | ir.Model


def model_of(given: Any) -> ir.Model:
    """A model with all its data. Raises BadInput."""
    model = _read(given)
    check_data(model)
    return model


def _read(given: Any) -> ir.Model:
    if isinstance(given, ir.Model):
        return given
    if isinstance(given, onnx.ModelProto):
        try:
            read = ir.from_proto(given)
            read.graph.sort()  # ONNX Runtime takes nodes in any order, the checker does not
            check(without_tensors(read)[0])
            return read
        except Exception as error:
            raise BadInput(f"the model {_fault(error, 'valid ONNX')}") from error
    return load(given)


def check(model: onnx.ModelProto) -> None:
    """Raises what onnx's checker does, but for what ONNX Runtime takes all the same.

    Tensors that are not in the message are taken for empty ones.
    """
    light = onnx.ModelProto()
    light.CopyFrom(model)
    for tensor in _tensors(light.graph, *light.functions):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _empty(tensor)
    try:
        onnx.checker.check_model(light)
    except onnx.checker.ValidationError as error:
        if not any(words in str(error) for words in _TAKEN):
            raise


def _tensors(*graphs: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.TensorProto]:
    """The constants of graphs and functions, and of all bodies in them."""
    for graph in graphs:
        if isinstance(graph, onnx.GraphProto):
            yield from graph.initializer
        for attribute in chain.from_iterable(node.attribute for node in graph.node):
            yield from (attribute.t, *attribute.tensors)
            yield from _tensors(attribute.g, *attribute.graphs)


def _empty(tensor: onnx.TensorProto) -> None:
    for field in ("external_data", "data_location", "dims"):
        tensor.ClearField(field)
    tensor.dims.append(0)


_TAKEN = (
    "is deprecated in domain_version",
    "Field 'shape' of 'type' is required",
    "in initializer but not in graph input",
)
"""What onnx's checker says of operators that still run, and of outputs without shapes."""


def check_data(model: ir.Model) -> None:
    """Raises BadInput where a file of constants is missing, or shorter than they are, and for a
    constant of another size than its type and shape say."""
    for tensor in _external_tensors(model):
        path = Path(tensor.path)
        if not path.is_file():
            raise BadInput(f"there is no file '{path}', which holds '{tensor.name}'")
        if tensor.length not in (None, tensor.nbytes):
            raise BadInput(
                f"'{tensor.name}' has {tensor.length} bytes, and {tensor.nbytes} by its type and "
                "shape: the file is damaged, copy it again"
            )
        end, size = (tensor.offset or 0) + tensor.nbytes, path.stat().st_size
        if end > size:
            raise BadInput(
                f"'{path}' has {size} bytes, and '{tensor.name}' ends at {end}: it was cut off, "
                "copy it again"
            )


def load(source: str | Path) -> ir.Model:
    """Reads and checks a file. Raises BadInput on one line for whatever is wrong with it."""
    path = Path(source)
    if not path.is_file():
        raise BadInput(f"there is no file '{path}'")
    try:
        proto = mapped.read(path)
        check(proto)
        return _placed(ir.from_proto(proto), path)
    except Exception as error:
        raise BadInput(f"'{path}' {_fault(error, 'a valid ONNX model')}") from error


def _fault(error: BaseException, wanted: str) -> str:
    """What was wrong at first: onnx_ir tells on each level in which message it was, and some that
    are valid it does not read."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, NotImplementedError):
        return f"cannot be read: {str(error).partition('. ')[0]}"
    return f"is not {wanted}: {first_line(error)}"


def _placed(model: ir.Model, path: Path) -> ir.Model:
    """The model with what lies in other files looked for beside its own, and nowhere else.

    Raises ValueError for a file that is not there.
    """
    folder = path.absolute().parent
    for tensor in _external_tensors(model):
        if tensor.location == str(path.absolute()):
            continue  # it lies in the model's own file
        tensor.base_dir = str(folder)
        place = Path(tensor.path).resolve()
        if not place.is_relative_to(folder.resolve()):
            raise ValueError(f"'{tensor.location}', which holds '{tensor.name}', is not beside it")
        if not place.is_file():
            raise ValueError(f"there is no file '{tensor.path}', which holds '{tensor.name}'")
    return model


def _external_tensors(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    graphs = list(every_graph(model))
    held: list[Any] = [v.const_value for g in graphs for v in g.initializers.values()]
    for node in chain.from_iterable(graphs):
        for attribute in node.attributes.values():
            if attribute.type is ir.AttributeType.TENSOR:
                held.append(attribute.as_tensor())
    return (tensor for tensor in held if isinstance(tensor, ir.ExternalTensor))


def check_text(model: ir.Model) -> None:
    """Raises BadInput for names that are not UTF-8, which protobuf reads as bytes."""
    of_values = (value.name for value in values_of(model))
    of_nodes = ((n.name, n.op_type, n.domain) for n in model.graph.all_nodes())
    names: Iterator[Any] = chain(model.opset_imports, of_values, chain.from_iterable(of_nodes))
    for name in names:
        if isinstance(name, bytes):
            raise BadInput(f"the file is damaged: the name {name!r} is not UTF-8")


def label(model: ir.Model, labels: Mapping[str, Mapping[str, str]]) -> None:
    """Adds labels to the nodes; where a node has several outputs, with their numbers."""
    for node in model.graph.all_nodes():
        several = len(node.outputs) > 1
        for i, output in enumerate(node.outputs):
            for key, text in labels.get(str(output.name), {}).items():
                node.metadata_props[f"{key}.{i}" if several else key] = text


def data_of(path: Path) -> Path:
    """The file beside a model's own that its constants are written to."""
    return path.with_name(f"{path.name}.data")


def save(model: ir.Model, path: Path) -> None:
    """Writes a model, its constants beside it if one message cannot hold them."""
    if fits_message(model):
        mapped.write(model, path)
    else:
        ir.save(model, path, external_data=data_of(path).name)


def write(
    model: ir.Model,
    path: Path,
    *,
    beside: bool = False,
    check: Callable[[Path], None] = lambda _: None,
) -> None:
    """Saves a model whole or not at all; constants beside it, in ``.data``, if one message cannot
    hold them or the caller says so. What was written is checked before it takes its place.

    Raises BadInput where the folder cannot be written to.
    """

    def whole(partial: str) -> None:
        mapped.write(model, partial)
        check(Path(partial))

    if fits_message(model) and not beside:
        atomically(path, whole)
        return
    data = data_of(path)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            ir.save(model, Path(folder) / path.name, external_data=data.name)
            check(Path(folder) / path.name)
            made = Path(folder) / data.name
            if made.stat().st_size:  # small constants stay in the model's own file
                made.replace(data)
            (Path(folder) / path.name).replace(path)
    except OSError as error:
        raise BadInput(f"cannot write '{path}': {first_line(error)}") from error
