"""What the original gives on each sample, computed once: all else is compared with that."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np

from halfsafe.formats import FLOAT32, FloatFormat
from halfsafe.samples import Call
from halfsafe.source import Arrays, Source

IN_MEMORY = 2**25
"""Bytes of outputs that stay in memory; those of further samples go to a temporary file."""

IN_FILES = 2**32
"""Bytes of outputs that go to files; those of further samples are computed again when needed."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Outputs of the user's own model, of its graph in FP32, and of its graph at the floor."""

    own: Arrays
    graph: Arrays
    floor: Arrays


class References:
    """The references of a model, by sample. What measuring computes on its way is kept."""

    def __init__(self, original: Source, floor: FloatFormat) -> None:
        self.original, self.floor = original, floor
        self.lanes = (FLOAT32, floor)
        self._kept: dict[int, Reference | tuple[IO[bytes], int]] = {}
        self._in_memory = self._in_files = 0

    def keep(self, call: Call, outputs: Sequence[Arrays]) -> Reference:
        """The reference with the graph's outputs on both lanes; kept, if there is room for it."""
        graph, floor = outputs
        found = Reference(self.original.reference(call, graph), graph, floor)
        own = () if found.own is graph else found.own
        arrays = [*graph, *floor, *own]
        size = sum(x.nbytes for x in arrays)
        if self._in_memory + size <= IN_MEMORY:
            self._kept[call.number] = found
            self._in_memory += size
        elif self._in_files + size <= IN_FILES and not any(x.dtype.hasobject for x in arrays):
            self._kept[call.number] = _written(arrays), len(graph)
            self._in_files += size
        return found

    def of(self, call: Call) -> Reference:
        """The outputs on one sample. Raises BadInput for a misfit one."""
        kept = self._kept.get(call.number)
        if kept is None:
            return self.keep(call, self.original.evaluate_on([call], self.lanes)[0])
        if isinstance(kept, Reference):
            return kept
        file, count = kept
        arrays = _read(file)
        graph, floor, own = arrays[:count], arrays[count : 2 * count], arrays[2 * count :]
        return Reference(own or graph, graph, floor)


def _written(arrays: Sequence[Any]) -> IO[bytes]:
    """A file without a name, which is gone with whoever holds it."""
    file = TemporaryFile()  # noqa: SIM115
    for x in arrays:
        np.save(file, x, allow_pickle=False)
    return file


def _read(file: IO[bytes]) -> Arrays:
    end, found = os.fstat(file.fileno()).st_size, list[Any]()
    file.seek(0)
    while file.tell() < end:
        found.append(np.load(file, allow_pickle=False))
    return found
