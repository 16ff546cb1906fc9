"""Applies a recipe to files: tensor by tensor, no network run, no framework imported.

An entry times a power of two has the same significand, so that it is exact unless it leaves the
range of its type. That is looked at, piece by piece, and what would not be exact is refused with
the name of the tensor: a checkpoint in FP32 or bfloat16, which have the range of FP32, practically
never is; one in FP16 may be, and is then written in FP32, or rounded, if that is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ldexp
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from halfsafe.errors import BadInput
from halfsafe.recipe import Shape
from halfsafe.tensor_files import FLOATING, TensorFile, header

DTYPES = {"float16": "F16", "float32": "F32"}
"""What floating tensors can be written in, and how the format calls it."""

_NUMPY = {"F64": np.float64, "F32": np.float32, "F16": np.float16}

Floats = NDArray[Any]


@dataclass(frozen=True)
class Rescaling:
    """Exponents of a file's tensors, and the type in which floating ones are written.

    None keeps each tensor's own. With `rounds`, entries may be rounded to that type.
    """

    exponents: Mapping[str, int]
    dtype: str | None = None
    rounds: bool = False

    def written(self, dtype: str) -> str:
        """The type in which a tensor of a type is written."""
        return self.dtype if self.dtype and dtype in FLOATING else dtype

    def file(self, source: TensorFile, path: str | Path, progress: Callable[[int], None]) -> None:
        """Writes a file with the rescaled tensors, and everything else as it is.

        `progress` is called with bytes. Raises BadInput for what cannot be written exactly.
        """
        order = source.in_order
        kinds = {name: self.written(source.entries[name].dtype) for name in order}
        alike = all(kinds[name] == source.entries[name].dtype for name in order)
        if alike and source.is_dense:
            head = source.head
        else:
            found = ((name, kinds[name], source.entries[name].shape) for name in order)
            head = header(found, source.metadata)
        with open(path, "wb") as file:
            file.write(head)
            for name in order:
                self._write(source, name, file)
                progress(source.entries[name].length)

    def _write(self, source: TensorFile, name: str, file: IO[bytes]) -> None:
        dtype, k = source.entries[name].dtype, self.exponents.get(name, 0)
        to = self.written(dtype)
        if not k and to == dtype:
            source.copy(name, file)
            return
        if dtype not in FLOATING:
            raise BadInput(f"'{name}' in '{source.path}' is {dtype}: it cannot be rescaled")
        for piece in source.pieces(name):
            if to != dtype or not _shifted(piece, dtype, k):
                file.write(self._rescaled(name, piece, dtype, to, k))
            else:
                file.write(piece)

    def _rescaled(self, name: str, piece: memoryview, dtype: str, to: str, k: int) -> memoryview:
        values = decoded(piece, dtype)
        made = _scaled(values, k)
        encoded = _encoded(made, to)
        if not self.rounds:
            back = decoded(encoded.data, to)
            if not np.array_equal(_scaled(back, -k), values, equal_nan=True):
                raise BadInput(
                    f"'{name}' times 2^{-k} is not exact in {to}: write it in another type "
                    "(--dtype float32), or rounded as FP16 computes with it (--dtype float16)"
                )
        return encoded.data.cast("B")


BITS = {
    "F64": (np.uint64, 52),
    "F32": (np.uint32, 23),
    "F16": (np.uint16, 10),
    "BF16": (np.uint16, 7),
}
"""How NumPy reads the bits of an entry, and how many of them are its significand."""


def _shifted(piece: memoryview, dtype: str, k: int) -> bool:
    """Multiplies entries by 2**-k in place, if all are 0 or normal, and stay so; whether they are.

    In a normal number, the exponent is a field of bits above the significand, from which k is
    subtracted. That is several times quicker than multiplying, and never rounds.
    """
    unsigned, significand = BITS[dtype]
    bits = np.frombuffer(piece, unsigned)
    width = 8 * bits.itemsize
    sizes = bits & unsigned(2 ** (width - 1) - 1)
    least, most = int(sizes.min()), int(sizes.max())
    zeros = sizes == 0 if not least else None
    if zeros is not None:
        least = int(sizes.min(initial=2**width - 1, where=~zeros))
    step, infinite = k << significand, 2 ** (width - 1) - (1 << significand)
    if not (1 << significand) <= min(least, least - step) <= max(most, most - step) < infinite:
        return False
    np.subtract(bits, unsigned(step % 2**width), out=bits, where=True if zeros is None else ~zeros)
    return True


def decoded(piece: Any, dtype: str) -> Floats:
    """Entries as numbers that NumPy computes with; bfloat16 is the upper half of FP32."""
    if dtype != "BF16":
        return np.frombuffer(piece, _NUMPY[dtype])
    return (np.frombuffer(piece, np.uint16).astype(np.uint32) << 16).view(np.float32)


def _encoded(values: Floats, dtype: str) -> NDArray[Any]:
    """Entries in a type of the format, rounded to the nearest, ties to even."""
    if dtype != "BF16":
        with np.errstate(over="ignore", invalid="ignore"):
            return np.ascontiguousarray(values, _NUMPY[dtype])
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    nan = np.isnan(values)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(nan, np.uint16(0x7FC0), rounded) if nan.any() else rounded


def _scaled(values: Floats, k: int) -> Floats:
    """values * 2**-k; FP16 is widened, so that nothing is rounded on the way."""
    if not k:
        return values
    wide = values if values.dtype.itemsize > 2 else values.astype(np.float32)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if abs(k) < 126:
            return wide * wide.dtype.type(ldexp(1.0, -k))
        return np.ldexp(wide, -k)


def shapes_of(files: Mapping[str, TensorFile]) -> dict[str, Shape]:
    """The shape of each tensor."""
    return {name: file.entries[name].shape for name, file in files.items()}
