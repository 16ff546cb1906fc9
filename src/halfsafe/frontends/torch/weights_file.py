"""Files of tensors, read and written one tensor at a time."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from halfsafe.errors import BadInput
from halfsafe.frontends.torch.constants import Constant, Loaded, fresh
from halfsafe.tensor_files import TensorFile, header, write

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


def write_tensors(path: str | Path, tensors: Mapping[str, Constant]) -> None:
    """Writes tensors to a .safetensors file, reading each when it is its turn.

    Wider types come first, as the package has it, so that each tensor is aligned to its type.
    Raises BadInput for a type that the format does not have.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    kinds = ((name, tensors[name]) for name in order)
    head = header(
        ((name, NAMES.get(x.dtype, str(x.dtype)), tuple(x.shape)) for name, x in kinds),
        {"format": "pt"},
    )
    write(path, head, (_bytes(tensors[name].read()) for name in order))


def _bytes(x: Tensor) -> memoryview:
    """A tensor's bytes in memory."""
    held: Any = x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(held)


@dataclass(frozen=True)
class WeightsFile:
    """A .safetensors file whose tensors are read when they are needed."""

    file: TensorFile

    @classmethod
    def open(cls, path: Path) -> WeightsFile:
        """Raises BadInput for what is no such file, or is cut off."""
        return cls(TensorFile.open(path))

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.file.path

    @property
    def names(self) -> list[str]:
        """Its tensors."""
        return list(self.file.entries)

    def read(self, name: str) -> Tensor:
        """A new tensor, in the type of the file.

        Its memory is that of any other new tensor, and not a view of the file: kernels may compute
        other bits where operands are aligned otherwise.
        """
        entry = self.file.entries[name]
        made = fresh(torch.Size(entry.shape), TYPES[entry.dtype])
        if made.numel():
            with open(self.path, "rb") as file:
                file.seek(entry.start)
                if file.readinto(_bytes(made)) != entry.length:
                    raise BadInput(f"'{self.path}' ends within '{name}': it has changed meanwhile")
        return made

    def constant(self, name: str, dtype: torch.dtype | None = None) -> Constant:
        """A tensor of the file, to be read when it is needed, in a type of the reader's."""
        entry = self.file.entries[name]
        kind = dtype or TYPES[entry.dtype]
        return Loaded(torch.Size(entry.shape), kind, lambda: self.read(name))
