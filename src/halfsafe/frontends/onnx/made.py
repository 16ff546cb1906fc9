"""Samples for a file whose user gives none: drawn, by the names, types and shapes of its inputs."""

# onnx is only partly typed.
# onnxruntime has no types.
# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from halfsafe.drawn import scene, sounds
from halfsafe.errors import BadInput, first_line
from halfsafe.pictures import Takes
from halfsafe.samples import Made

COUNT = 4
"""Samples; the last is kept out of measuring."""

TRIED = ((32, 224), (512, 48), (16_000, 320), (64_000, 640))
"""Lengths of sequences and sides of pictures where the file leaves them open, until one pair runs:
tokens and photographs, frames and lines of text, a second of sound."""

RATE = 16_000
"""Of sound, in samples a second, where a file asks for it."""

PAST = 8
"""Length of what came before a sequence."""


def made_samples(path: Path, batch: int | None = None) -> Made:
    """A few samples, of a batch of 1 where the file leaves it open and no other is asked for.

    Raises BadInput for an input that nobody can make up.
    """
    graph = _graph(path)
    inputs = _inputs(graph)
    vocabularies = _vocabularies(graph)
    session, said = _session(path), ""
    for length, side in TRIED:
        usual, draw = _Sizes(length, side, batch or 1), np.random.default_rng(0)
        shapes = {x.name: usual.shape(x) for x in inputs}
        samples = [
            {x.name: _drawn(x, shapes[x.name], vocabularies, length, draw) for x in inputs}
            for _ in range(COUNT)
        ]
        try:
            session.run(None, samples[0])
        except Exception as error:
            said = said or first_line(error)
            continue
        told = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())
        return Made(samples, [f"inputs are drawn by their names, types and shapes ({told})"])
    raise BadInput(f"no made-up inputs run through '{path}': {said}; pass --samples")


def takes_pictures(path: Path) -> Takes | None:
    """How a file takes a picture; None where it takes none, or something else as well."""
    inputs = _inputs(_graph(path))
    kind = inputs[0].type.tensor_type if len(inputs) == 1 else None
    if kind is None or not kind.HasField("shape"):
        return None
    shape = [d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim]
    return Takes.of(shape, helper.tensor_dtype_to_np_dtype(kind.elem_type), inputs[0].name)


def _graph(path: Path) -> onnx.GraphProto:
    """Raises BadInput."""
    if not path.is_file():
        raise BadInput(f"there is no file '{path}'")
    try:
        return onnx.load(str(path), load_external_data=False).graph
    except Exception as error:
        raise BadInput(f"cannot read '{path}': {first_line(error)}") from error


def _inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """What a user gives: old files list their constants among the inputs."""
    held = {x.name for x in graph.initializer}
    return [x for x in graph.input if x.name not in held]


def _session(path: Path) -> Any:
    options: Any = onnxruntime.SessionOptions()  # pyright: ignore[reportUnknownVariableType]
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BadInput(f"ONNX Runtime does not run '{path}': {first_line(error)}") from error


class _Sizes:
    """Sizes that a file leaves open, each the same wherever it has the same name."""

    def __init__(self, length: int, side: int, batch: int) -> None:
        self._length, self._side, self._batch = length, side, batch
        self._known: dict[str, int] = {}

    def shape(self, value: onnx.ValueInfoProto) -> tuple[int, ...]:
        """An input's shape. Raises BadInput for what is no tensor."""
        kind = value.type
        if not kind.HasField("tensor_type"):
            raise BadInput(f"input '{value.name}' is no tensor: pass --samples")
        if not kind.tensor_type.HasField("shape"):
            raise BadInput(f"the file says no shape of input '{value.name}': pass --samples")
        dims = list(kind.tensor_type.shape.dim)
        return tuple(self._size(dim, axis, len(dims)) for axis, dim in enumerate(dims))

    def _size(self, dim: Any, axis: int, rank: int) -> int:
        if dim.HasField("dim_value") and dim.dim_value > 0:
            return dim.dim_value
        return self._named(dim.dim_param, axis, rank)

    def _named(self, name: str, axis: int, rank: int) -> int:
        """By a size's name; one that is written as a sum is the sum."""
        terms = [term.strip() for term in name.split("+")]
        if len(terms) > 1:
            return sum(int(t) if t.isdecimal() else self._named(t, axis, rank) for t in terms)
        usual = self._usual(name.lower(), axis, rank)
        return self._known.setdefault(name, usual) if name else usual

    def _usual(self, name: str, axis: int, rank: int) -> int:
        if "total" in name:
            return PAST + self._length
        if "past" in name:
            return PAST
        if axis == 0 or "batch" in name:
            return self._batch
        if rank == 4:
            return 3 if axis == 1 else self._side
        return self._length


def _vocabularies(graph: onnx.GraphProto) -> Mapping[str, int]:
    """How many rows the table has that an input picks from."""
    rows = {x.name: x.dims[0] for x in graph.initializer if x.dims}
    return {
        node.input[1]: rows[node.input[0]]
        for node in graph.node
        if node.op_type == "Gather" and node.input[0] in rows
    }


def _drawn(
    value: onnx.ValueInfoProto,
    shape: tuple[int, ...],
    vocabularies: Mapping[str, int],
    length: int,
    draw: np.random.Generator,
) -> NDArray[Any]:
    name, kind = value.name.lower(), value.type.tensor_type.elem_type
    if kind == TensorProto.STRING:
        raise BadInput(f"input '{value.name}' is text: pass --samples")
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    if "mask" in name or dtype.kind == "b":
        return np.ones(shape, dtype)
    if dtype.kind == "f":
        return _floats(shape, draw).astype(dtype)
    if dtype.kind not in "iu":
        raise BadInput(f"input '{value.name}' is {dtype}: pass --samples")
    if "position" in name:
        return np.broadcast_to(np.arange(shape[-1] if shape else 1, dtype=dtype), shape).copy()
    if re.search("type|segment", name):
        return np.zeros(shape, dtype)
    if re.fullmatch("sr|.*rate", name):
        return np.full(shape, RATE, dtype)
    if re.search("length|size", name):
        return np.full(shape, length, dtype)
    return draw.integers(0, vocabularies.get(value.name, 2), shape).astype(dtype)


def _floats(shape: tuple[int, ...], draw: np.random.Generator) -> NDArray[Any]:
    """A picture, where channels are first or last; a sound, where it is long; else noise."""
    seed = int(draw.integers(2**31))
    if len(shape) == 4 and {shape[1], shape[3]} & {1, 3}:
        first = shape[1] in (1, 3)
        height, width = shape[2:] if first else shape[1:3]
        seen = np.stack([scene(seed + i, height, width) for i in range(shape[0])])
        seen = (seen / 127.5 - 1)[..., : shape[1] if first else shape[3]]
        return seen.transpose(0, 3, 1, 2) if first else seen
    if shape and shape[-1] >= TRIED[1][0]:
        heard = sounds(seed, RATE)[0]
        return np.resize(heard, shape) + draw.normal(size=shape) / 1000
    return draw.normal(size=shape)
