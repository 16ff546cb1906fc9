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
from halfsafe.frontends.onnx.runtime import fits_session
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
            check(ir.to_proto(read))
            return read
        except Exception as error:
            raise BadInput(f"the model is not valid ONNX: {first_line(error)}") from error
    return load(given)


def check(model: onnx.ModelProto | Path) -> None:
    """Raises what onnx's checker does, but for what ONNX Runtime takes all the same."""
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        if not any(words in str(error) for words in _TAKEN):
            raise


_TAKEN = ("is deprecated in domain_version", "Field 'shape' of 'type' is required")
"""What onnx's checker says of operators that still run, and of outputs without shapes."""


def check_data(model: ir.Model) -> None:
    """Raises BadInput where a file of constants is missing, or shorter than they are."""
    held = (v.const_value for graph in model.graphs() for v in graph.initializers.values())
    for tensor in (tensor for tensor in held if isinstance(tensor, ir.ExternalTensor)):
        path = Path(tensor.path)
        if not path.is_file():
            raise BadInput(f"there is no file '{path}', which holds '{tensor.name}'")
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
        check(path)
        return ir.load(path)
    except Exception as error:
        raise BadInput(f"'{path}' is not a valid ONNX model: {first_line(error)}") from error


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
        ir.save(model, partial, format="protobuf")
        check(Path(partial))

    if fits_session(model) and not beside:
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
