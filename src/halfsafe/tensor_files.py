"""Files of tensors, read and written a piece at a time, by whoever has no framework at hand.

A .safetensors file is the length of its header in 8 bytes, the header, a JSON object with type,
shape and place of each tensor, and the tensors, without a gap between them
(https://github.com/huggingface/safetensors#format). What the package writes has to be in memory
whole; here, no more of a tensor is in memory than is being worked on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any, NamedTuple

from halfsafe.errors import BadInput

SIZES = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2"), 1),
}
"""Bytes of an entry, by the format's names of types."""

FLOATING = frozenset(["F64", "F32", "F16", "BF16"])
"""Types of which an entry can be multiplied by a power of two."""

LARGEST_HEADER = 100_000_000
"""Bytes that the package allows a header to have."""

PIECE = 2**20
"""Bytes of a tensor that are in memory at a time."""


class Entry(NamedTuple):
    """A tensor in a file: type, shape, and where its bytes begin, counted from the file's start."""

    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def length(self) -> int:
        """Bytes."""
        return prod(self.shape) * SIZES[self.dtype]


@dataclass(frozen=True)
class TensorFile:
    """A .safetensors file, of which the header is in memory."""

    path: Path
    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]
    head: bytes

    @classmethod
    def open(cls, path: Path) -> TensorFile:
        """Raises BadInput for what is no such file, or is cut off."""
        try:
            with open(path, "rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if length > LARGEST_HEADER:
                    raise ValueError(f"a header of {length} bytes")
                text = file.read(length)
            header: dict[str, Any] = json.loads(text)
            metadata: dict[str, str] = header.pop("__metadata__", {})
            entries = {name: _entry(found, 8 + length) for name, found in header.items()}
            end = max((e.start + e.length for e in entries.values()), default=0)
            if path.stat().st_size < end:
                raise ValueError(f"{path.stat().st_size} bytes, where {end} are listed")
        except OSError as error:
            raise BadInput(f"cannot read '{path}': {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"'{path}' is no whole .safetensors file: {error}") from error
        return cls(path, entries, metadata, length.to_bytes(8, "little") + text)

    def pieces(self, name: str) -> Iterator[memoryview]:
        """A tensor's bytes, so many at a time, each gone when the next is asked for.

        Raises BadInput where the file has changed.
        """
        entry = self.entries[name]
        left, buffer = entry.length, memoryview(bytearray(min(PIECE, entry.length)))
        with open(self.path, "rb") as file:
            file.seek(entry.start)
            while left:
                piece = buffer[: min(PIECE, left)]
                if file.readinto(piece) != len(piece):
                    raise self._changed(name)
                left -= len(piece)
                yield piece

    def copy(self, name: str, target: IO[bytes]) -> None:
        """Writes a tensor's bytes as they are to the end of a file, by the system where it can."""
        entry = self.entries[name]
        done = 0
        target.flush()
        with open(self.path, "rb") as file, suppress(OSError, AttributeError):
            while done < entry.length:
                count = os.copy_file_range(
                    file.fileno(), target.fileno(), entry.length - done, entry.start + done
                )
                if not count:
                    raise self._changed(name)
                done += count
        target.seek(0, os.SEEK_END)
        if not done:  # the system cannot, or there is nothing
            for piece in self.pieces(name):
                target.write(piece)
        elif done < entry.length:
            raise BadInput(f"cannot copy '{name}' out of '{self.path}'")

    def _changed(self, name: str) -> BadInput:
        return BadInput(f"'{self.path}' ends within '{name}': it has changed meanwhile")

    @property
    def is_dense(self) -> bool:
        """Whether its tensors lie one after the other without a gap, as the format has it."""
        end = len(self.head)
        for name in self.in_order:
            if self.entries[name].start != end:
                return False
            end += self.entries[name].length
        return True

    @property
    def in_order(self) -> Sequence[str]:
        """The names as their tensors lie in the file."""
        return sorted(self.entries, key=lambda name: self.entries[name].start)


def _entry(found: Mapping[str, Any], data: int) -> Entry:
    entry = Entry(found["dtype"], tuple(found["shape"]), data + found["data_offsets"][0])
    begin, end = found["data_offsets"]
    if end - begin != entry.length:
        raise ValueError(f"{end - begin} bytes for {entry.shape} of {entry.dtype}")
    return entry


def header(
    tensors: Iterable[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str]
) -> bytes:
    """The head of a file that holds tensors of these names, types and shapes, in this order.

    Raises BadInput for a type that the format does not have.
    """
    found: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, dtype, shape in tensors:
        if dtype not in SIZES:
            raise BadInput(f"'{name}' is {dtype}, which no .safetensors file holds")
        begin, end = end, end + prod(shape) * SIZES[dtype]
        found[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(found, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write(path: str | Path, head: bytes, pieces: Iterable[bytes | bytearray | memoryview]) -> None:
    """Writes a file of a head and of the bytes of its tensors."""
    with open(path, "wb") as file:
        file.write(head)
        for piece in pieces:
            file.write(piece)
