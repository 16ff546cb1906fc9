"""Files of tensors, read and written one tensor at a time.

A .safetensors file is the length of its header in 8 bytes, the header, a JSON object with type,
shape and place of each tensor, and the tensors, without a gap between them
(https://github.com/huggingface/safetensors#format). What the package writes has to be in memory
whole; here, each tensor is asked for when it is its turn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from halfsafe.errors import BadInput
from halfsafe.frontends.torch.constants import Constant, Loaded, fresh

TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The format's names of types."""

NAMES = {dtype: name for name, dtype in TYPES.items()}

LARGEST_HEADER = 100_000_000
"""Bytes that the package allows a header to have."""


def write_tensors(path: str | Path, tensors: Mapping[str, Constant]) -> None:
    """Writes tensors to a .safetensors file, reading each when it is its turn.

    Wider types come first, as the package has it, so that each tensor is aligned to its type.
    Raises BadInput for a type that the format does not have.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in order:
        source = tensors[name]
        if source.dtype not in NAMES:
            raise BadInput(f"'{name}' is {source.dtype}, which no .safetensors file holds")
        begin, end = end, end + source.size * source.dtype.itemsize
        place = {"shape": list(source.shape), "data_offsets": [begin, end]}
        header[name] = {"dtype": NAMES[source.dtype], **place}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(_bytes(tensors[name].read()))


def _bytes(x: Tensor) -> memoryview:
    """A tensor's bytes in memory."""
    held: Any = x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(held)


@dataclass(frozen=True)
class WeightsFile:
    """A .safetensors file, of which the header is in memory: (type, shape, where it begins)."""

    path: Path
    held: Mapping[str, tuple[torch.dtype, tuple[int, ...], int]]

    @classmethod
    def open(cls, path: Path) -> WeightsFile:
        """Raises BadInput for what is no such file, or is cut off."""
        try:
            with open(path, "rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if length > LARGEST_HEADER:
                    raise ValueError(f"a header of {length} bytes")
                header: dict[str, Any] = json.loads(file.read(length))
            header.pop("__metadata__", None)
            held = {name: _place(found, 8 + length) for name, found in header.items()}
            end = max((start + _length(d, s) for d, s, start in held.values()), default=0)
            if path.stat().st_size < end:
                raise ValueError(f"{path.stat().st_size} bytes, where {end} are listed")
        except OSError as error:
            raise BadInput(f"cannot read '{path}': {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"'{path}' is no whole .safetensors file: {error}") from error
        return cls(path, held)

    def read(self, name: str) -> Tensor:
        """A new tensor, in the type of the file.

        Its memory is that of any other new tensor, and not a view of the file: kernels may compute
        other bits where operands are aligned otherwise.
        """
        dtype, shape, start = self.held[name]
        made = fresh(torch.Size(shape), dtype)
        if made.numel():
            with open(self.path, "rb") as file:
                file.seek(start)
                if file.readinto(_bytes(made)) != _length(dtype, shape):
                    raise BadInput(f"'{self.path}' ends within '{name}': it has changed meanwhile")
        return made

    def constant(self, name: str, dtype: torch.dtype | None = None) -> Constant:
        """A tensor of the file, to be read when it is needed, in a type of the reader's."""
        own, shape, _ = self.held[name]
        return Loaded(torch.Size(shape), dtype or own, lambda: self.read(name))


def _place(found: Mapping[str, Any], data: int) -> tuple[torch.dtype, tuple[int, ...], int]:
    dtype, shape = TYPES[found["dtype"]], tuple(found["shape"])
    begin, end = found["data_offsets"]
    if end - begin != _length(dtype, shape):
        raise ValueError(f"{end - begin} bytes for {shape} of {found['dtype']}")
    return dtype, shape, data + begin


def _length(dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    return prod(shape) * dtype.itemsize
