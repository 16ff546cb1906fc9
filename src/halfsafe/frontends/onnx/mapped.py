"""ONNX files whose constants are never all in memory: mapped when read, streamed when written.

A file is a protobuf message, in which tensors lie as runs of bytes. Of a message's wire format
(protobuf.dev/programming-guides/encoding) little has to be known to find them: a field is a tag,
which is its number and how it ends, and what it holds; messages are held as a length and their
fields. `_walk` goes down to the tensors, and copies all else as it is.

Reading, a tensor of the file is replaced by a reference to where it lies, as ONNX has them for
constants in other files: what is left is small, whatever the size of the model. Writing, the model
is made small in the same way, and the bytes of each tensor are put where its reference was. So
there is one copy of a constant at a time, below 2 GiB as above.
"""

# onnx_ir is only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from halfsafe.errors import BadInput

Array = NDArray[Any]

LARGE = 1024
"""Bytes from which on a tensor is left where it lies."""

KEPT = 2**16
"""Bytes below which a tensor that has been read stays in memory: mapping it takes longer."""

Piece = memoryview | ir.TensorProtocol
"""What a file is made of: bytes, and tensors, whose bytes are not there yet."""

Change = Callable[[memoryview, int], "list[Piece] | None"]
"""Given a tensor's message and where it lies, what takes its place; None where it stays."""

_Fields = Mapping[int, str]

READ: Mapping[str, _Fields] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 11: "graph"},
}
"""Where tensors are, by kind of message and number of the field (onnx.proto)."""

WRITTEN: Mapping[str, _Fields] = {"model": {7: "graph"}, "graph": {5: "tensor"}}
"""The same for the constants of a graph alone."""

FLOAT_DATA, RAW_DATA = 4, 9
"""Fields of a tensor that hold its entries; packed FP32 numbers are the same bytes in both."""

TOKEN = "halfsafe"
"""The location of a tensor that is written in its place."""


def read(path: Path) -> onnx.ModelProto:
    """A file's message with large tensors as references into the file, by its absolute path.

    Raises ValueError for what is no message.
    """
    if not path.stat().st_size:
        raise ValueError("the file is empty")
    with path.open("rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    whole = path.absolute()
    pieces = _walk(data, 0, "model", READ, LARGE, lambda t, at: _refer(t, at, whole))
    return onnx.ModelProto.FromString(
        b"".join(bytes(p) for p in pieces if isinstance(p, memoryview))
    )


def write(model: ir.Model, path: str | Path) -> None:
    """Writes a model to one file, its constants one after the other.

    Raises ValueError where they are more than one message holds.
    """
    light, tensors = without_tensors(model)
    data = memoryview(light.SerializeToString())
    pieces = _walk(data, 0, "model", WRITTEN, 0, lambda t, _: _restored(t, tensors))
    with Path(path).open("wb") as file:
        for piece in pieces:
            file.write(piece if isinstance(piece, memoryview) else piece.tobytes())


def without_tensors(
    model: ir.Model, least: int = LARGE
) -> tuple[onnx.ModelProto, list[ir.TensorProtocol]]:
    """A model's message with its large constants as references by number, and these constants.

    Large are those of `least` bytes, and all that are in files. What bodies, functions and
    attributes have in files is in the message, since nothing else can hold it.
    """
    light, tensors = model.clone(), list[ir.TensorProtocol]()
    for graph in every_graph(light):
        for value in graph.initializers.values():
            held = value.const_value
            if held is None or held.dtype == ir.DataType.STRING:
                continue
            in_file = isinstance(held, ir.ExternalTensor)
            if graph is light.graph and (in_file or held.nbytes >= least):
                value.const_value = _numbered(held, len(tensors))
                tensors.append(held)
            elif in_file:
                value.const_value = _in_memory(held)
    for node in chain.from_iterable(every_graph(light)):
        for name, attribute in list(node.attributes.items()):
            if attribute.type is not ir.AttributeType.TENSOR:
                continue
            held = attribute.as_tensor()
            if isinstance(held, ir.ExternalTensor):
                node.attributes[name] = ir.AttrTensor(name, _in_memory(held))
    return ir.to_proto(light), tensors


def every_graph(model: ir.Model) -> Iterator[ir.Graph]:
    """The graphs of a model and of its functions, with all bodies in them."""
    yield from model.graphs()
    for function in model.functions.values():
        yield function.graph
        yield from function.subgraphs()


def _numbered(held: ir.TensorProtocol, number: int) -> ir.ExternalTensor:
    """A reference by number in place of a tensor."""
    return ir.ExternalTensor(
        TOKEN, number, held.nbytes, held.dtype, shape=ir.Shape(held.shape.numpy()),
        name=held.name or "", doc_string=held.doc_string, metadata_props=dict(held.metadata_props),
    )  # fmt: skip


def _in_memory(tensor: ir.TensorProtocol) -> ir.Tensor[Any]:
    return ir.Tensor(remapped(tensor).numpy(), dtype=tensor.dtype, name=tensor.name)


def in_one_folder(
    tensors: Sequence[ir.TensorProtocol],
) -> tuple[Path, list[ir.ExternalTensor]] | None:
    """Tensors that lie in files of one folder, with that; None where some lie elsewhere, behind a
    link, or begin where a number in memory may not."""
    folders, found = set[Path](), list[ir.ExternalTensor]()
    for tensor in tensors:
        if not isinstance(tensor, ir.ExternalTensor):
            return None
        path = Path(tensor.path).absolute()
        if (tensor.offset or 0) % max(int(tensor.dtype.itemsize), 1) or path.resolve() != path:
            return None
        folders.add(path.parent)
        found.append(tensor)
    return (folders.pop(), found) if len(folders) == 1 else None


ALIGNED = 64
"""Bytes of a line of a processor's cache: tensors that are written begin at a multiple."""


def written_to(path: Path, tensors: Sequence[ir.TensorProtocol]) -> list[ir.ExternalTensor]:
    """Writes tensors to a file, one after the other; what is returned lies there."""
    found: list[ir.ExternalTensor] = []
    with path.open("wb") as file:
        for tensor in tensors:
            file.seek(-file.tell() % ALIGNED, os.SEEK_CUR)
            made = remapped(tensor)
            found.append(
                ir.ExternalTensor(
                    path.name, file.tell(), tensor.nbytes, tensor.dtype,
                    shape=ir.Shape(tensor.shape.numpy()), name="", base_dir=path.parent,
                )
            )  # fmt: skip
            file.write(made.tobytes())
    return found


def refer(model: onnx.ModelProto, tensors: Sequence[ir.ExternalTensor]) -> None:
    """Makes references by number, as `without_tensors` gives them, those to files in a folder."""
    for value in model.graph.initializer:
        entries = {entry.key: entry.value for entry in value.external_data}
        if entries.get("location") == TOKEN:
            tensor = tensors[int(entries["offset"])]
            del value.external_data[:]
            place = (Path(tensor.path).name, tensor.offset or 0, tensor.nbytes)
            for key, text in zip(("location", "offset", "length"), place, strict=True):
                value.external_data.add(key=key, value=str(text))


def same(a: ir.Model, b: ir.Model) -> bool:
    """Whether two models are one message, byte for byte, constants included."""
    (of_a, held_by_a), (of_b, held_by_b) = (without_tensors(each, 0) for each in (a, b))
    texts = [proto.SerializeToString(deterministic=True) for proto in (of_a, of_b)]
    pairs = zip(held_by_a, held_by_b, strict=False)
    return texts[0] == texts[1] and all(
        remapped(x).tobytes() == remapped(y).tobytes() for x, y in pairs
    )


def remapped(tensor: ir.TensorProtocol) -> ir.LazyTensor:
    """The same tensor under a name of its own; a large one that lies in a file is mapped anew for
    each reader, so that pages that were read go when their reader does.

    Whoever reads it raises BadInput where the file is not what it was. That its path does not lead
    out of the model's folder is checked by the first reader.
    """
    if not isinstance(tensor, ir.ExternalTensor):
        shape = ir.Shape(tensor.shape.numpy())
        return ir.LazyTensor(lambda: tensor, dtype=tensor.dtype, shape=shape, name=tensor.name)
    known, place = _stamp(tensor), (tensor.location, tensor.base_dir)
    kept: ir.TensorProtocol | None = None

    def found() -> ir.TensorProtocol:
        nonlocal place, kept
        if _stamp(tensor) != known:
            raise BadInput(
                f"'{tensor.path}', which holds '{tensor.name}', has changed since it was read: "
                "start again with the new one"
            )
        if kept is not None:
            return kept
        (location, folder), shape = place, ir.Shape(tensor.shape.numpy())
        made = ir.ExternalTensor(
            location, tensor.offset, tensor.length, tensor.dtype, shape=shape,
            name=tensor.name or "", base_dir=folder,
        )  # fmt: skip
        x = made.numpy()
        place = str(tensor.path), ""  # where onnx_ir has no folder to check, it checks nothing
        if tensor.nbytes < KEPT:
            kept = ir.Tensor(x.copy(), dtype=tensor.dtype, shape=shape, name=tensor.name)
        return kept or made

    shape = ir.Shape(tensor.shape.numpy())
    return ir.LazyTensor(found, dtype=tensor.dtype, shape=shape, name=tensor.name)


def _stamp(tensor: ir.ExternalTensor) -> tuple[int, int, int] | None:
    """What tells one state of a file from another; None where there is none."""
    try:
        found = os.stat(tensor.path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def aligned(x: Array) -> Array:
    """The array itself, or a copy where it does not begin at a multiple of the size of an entry:
    kernels rely on that, and in a message tensors begin anywhere."""
    return x if x.flags.aligned else x.copy()


def _refer(tensor: memoryview, at: int, path: Path) -> list[Piece] | None:
    """A tensor's message with a reference to its entries, `at` bytes into the file."""
    held = [f for f in _fields(tensor) if f[0] in (FLOAT_DATA, RAW_DATA) and f[3] - f[2] >= LARGE]
    if len(held) != 1:
        return None
    ((number, tag, start, end),) = held
    light = onnx.TensorProto.FromString(bytes(tensor[:tag]) + bytes(tensor[end:]))
    if number == FLOAT_DATA and light.data_type != onnx.TensorProto.FLOAT:
        return None
    if light.data_location == onnx.TensorProto.EXTERNAL:
        return None
    light.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", path), ("offset", at + start), ("length", end - start)):
        light.external_data.add(key=key, value=str(value))
    return [memoryview(light.SerializeToString())]


def _restored(tensor: memoryview, tensors: list[ir.TensorProtocol]) -> list[Piece] | None:
    """A tensor's message with its entries in place of a reference by number."""
    light = onnx.TensorProto.FromString(bytes(tensor))
    entries = {entry.key: entry.value for entry in light.external_data}
    if entries.get("location") != TOKEN:
        return None
    held = tensors[int(entries["offset"])]
    for field in ("external_data", "data_location"):
        light.ClearField(field)
    head = light.SerializeToString() + _varint(RAW_DATA << 3 | 2) + _varint(held.nbytes)
    return [memoryview(head), held]


def _walk(
    data: memoryview,
    at: int,
    kind: str,
    schema: Mapping[str, _Fields],
    least: int,
    change: Change,
) -> list[Piece]:
    """A message in pieces, `at` bytes into its file, with its tensors changed.

    What has fewer bytes than `least` is not looked into.
    """
    pieces, copied = list[Piece](), 0
    for number, tag, start, end in _fields(data):
        inner = schema[kind].get(number)
        if inner is None or end - start < least:
            continue
        held = data[start:end]
        if inner == "tensor":
            made = change(held, at + start)
        else:
            made = _walk(held, at + start, inner, schema, least, change)
        if made is None:
            continue
        size = sum(piece.nbytes for piece in made)
        head = _varint(number << 3 | 2) + _varint(size)
        pieces += [data[copied:tag], memoryview(head), *made]
        copied = end
    return [*pieces, data[copied:]]


def _fields(data: memoryview) -> Iterator[tuple[int, int, int, int]]:
    """Of each field its number, where its tag begins, and where what it holds begins and ends."""
    at, size = 0, len(data)
    while at < size:
        tag = at
        key, at = _number(data, at)
        match key & 7:
            case 0:
                start, (_, at) = at, _number(data, at)
            case 1:
                start, at = at, at + 8
            case 2:
                length, start = _number(data, at)
                at = start + length
            case 5:
                start, at = at, at + 4
            case _:
                raise ValueError("the file is no protobuf message")
        if at > size:
            raise ValueError("the file ends within a field: it was cut off")
        yield key >> 3, tag, start, at


def _number(data: memoryview, at: int) -> tuple[int, int]:
    """The varint that begins here, and where it ends."""
    number = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("the file is no protobuf message, or was cut off")
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at


def _varint(number: int) -> bytes:
    found = bytearray()
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])
