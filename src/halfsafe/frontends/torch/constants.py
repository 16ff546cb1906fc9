"""The constants of a program: where each comes from, read when a node needs it and dropped after.

What an edit makes of a constant is not computed when the edit is made. A folded constant is its
source and an exponent, so that an edited program costs no memory: it is multiplied when it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from mmap import mmap

import torch
from torch import Tensor

from halfsafe.frontends.torch.arithmetic import range_of
from halfsafe.ranges import Range

MAPPED = 2**20
"""Bytes from which on a tensor is mapped."""

ONE_STEP = 126
"""The largest exponent whose power of two, and its inverse, FP32 holds as normal numbers."""


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor that can be had. Two are the same if they are one object."""

    shape: torch.Size
    dtype: torch.dtype

    def read(self) -> Tensor:
        """The tensor: the user's own if it is in memory, else a new one. Not to be written to."""
        raise NotImplementedError

    def read_as(self, dtype: torch.dtype) -> Tensor:
        """The same in another type."""
        return self.read().to(dtype)

    @property
    def size(self) -> int:
        """How many entries it has."""
        return self.shape.numel()

    @cached_property
    def range(self) -> Range:
        """Statistics of its magnitudes, measured once."""
        return range_of(self.read())


@dataclass(frozen=True, eq=False)
class Held(Constant):
    """A tensor in memory."""

    tensor: Tensor

    @classmethod
    def of(cls, tensor: Tensor) -> Held:
        return cls(tensor.shape, tensor.dtype, tensor.detach())

    def read(self) -> Tensor:
        return self.tensor


@dataclass(frozen=True, eq=False)
class Loaded(Constant):
    """A tensor that someone loads each time that it is asked for, in the type of its own."""

    load: Callable[[], Tensor]

    def read(self) -> Tensor:
        return self.load().detach().to(self.dtype)


@dataclass(frozen=True, eq=False)
class Scaled(Constant):
    """Another one times 2**-exponent."""

    source: Constant
    exponent: int

    @classmethod
    def of(cls, source: Constant, exponent: int) -> Scaled:
        return cls(source.shape, source.dtype, source, exponent)

    def read(self) -> Tensor:
        tensor = self.source.read()
        return placed_as(scaled(tensor, self.exponent), tensor)


def exponent_of(constant: Constant) -> int:
    """The exponent at which a constant is stored, as edits have folded it."""
    found = 0
    while isinstance(constant, Scaled):
        found, constant = found + constant.exponent, constant.source
    return found


@dataclass(frozen=True, eq=False)
class Limited(Constant):
    """Another one with no finite entry beyond a magnitude; inf stays."""

    source: Constant
    limit: float

    @classmethod
    def of(cls, source: Constant, limit: float) -> Limited:
        return cls(source.shape, source.dtype, source, limit)

    def read(self) -> Tensor:
        tensor = self.source.read()
        return torch.where(tensor.isinf(), tensor, tensor.clamp(-self.limit, self.limit))


@dataclass(frozen=True, eq=False)
class Rounded(Constant):
    """Another one in the deployed type, if it is floating."""

    source: Constant

    @classmethod
    def of(cls, source: Constant, dtype: torch.dtype) -> Rounded:
        kind = dtype if source.dtype.is_floating_point else source.dtype
        return cls(source.shape, kind, source)

    def read(self) -> Tensor:
        return self.source.read_as(self.dtype)


@dataclass(frozen=True, eq=False)
class Unread(Constant):
    """Another one of which only shape and type are of interest."""

    @classmethod
    def of(cls, source: Constant) -> Unread:
        return cls(source.shape, source.dtype)

    def read(self) -> Tensor:
        return self.read_as(self.dtype)

    def read_as(self, dtype: torch.dtype) -> Tensor:
        return torch.empty(self.shape, dtype=dtype)


class Constants(Mapping[str, Tensor]):
    """Constants by name. Looking one up reads it: whoever goes through all holds one at a time.

    >>> weight = Held.of(torch.tensor([3.0, 5.0]))
    >>> Constants({"weight": Scaled.of(weight, 2)})["weight"]
    tensor([0.7500, 1.2500])
    """

    def __init__(self, sources: Mapping[str, Constant]) -> None:
        self.sources = dict(sources)

    def __getitem__(self, name: str) -> Tensor:
        return self.sources[name].read()

    def __contains__(self, name: object) -> bool:
        return name in self.sources

    def __iter__(self) -> Iterator[str]:
        return iter(self.sources)

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def size(self) -> int:
        """How many entries they have, shared ones counted once."""
        return sum(source.size for source in set(self.sources.values()))

    def unread(self) -> Constants:
        """The same names, shapes and types, for who asks for no values."""
        return Constants({name: Unread.of(source) for name, source in self.sources.items()})


def fresh(shape: torch.Size, dtype: torch.dtype, stride: Sequence[int] | None = None) -> Tensor:
    """A new tensor on the CPU, not initialised, dense in memory.

    A large one is mapped: pages that nobody touches are not there, and all of them go back as soon
    as it is dropped, where a heap keeps what lies below anything that is still in use.
    """
    length = shape.numel() * dtype.itemsize
    if length < MAPPED:
        made = torch.empty(shape.numel(), dtype=dtype)
    else:
        made = torch.frombuffer(mmap(-1, length), dtype=dtype)
    return made.view(shape) if stride is None else made.as_strided(shape, stride)


ALIGNED = 64
"""Bytes to which PyTorch aligns the tensors that it makes."""


def placed_as(made: Tensor, source: Tensor) -> Tensor:
    """A tensor at the alignment of another one.

    A product of a matrix and a vector sums up in another order at another alignment, in which
    tensors are that lie as a file has them. What is rescaled would differ by that alone.

    >>> odd = torch.zeros(9)[1:]
    >>> placed_as(torch.ones(8), odd).data_ptr() % 64 == odd.data_ptr() % 64
    True
    """
    if made.device.type != "cpu" or source.device.type != "cpu" or not made.is_contiguous():
        return made
    size = made.itemsize
    if (source.data_ptr() - made.data_ptr()) % ALIGNED == 0 or source.data_ptr() % size:
        return made
    room = fresh(torch.Size((made.numel() + ALIGNED // size,)), made.dtype)
    start = (source.data_ptr() - room.data_ptr()) % ALIGNED // size
    return room[start : start + made.numel()].view(made.shape).copy_(made)


def scaled(tensor: Tensor, exponent: int) -> Tensor:
    """tensor * 2**-exponent, in as many steps as factors need that FP32 holds.

    >>> scaled(torch.tensor([1.0]), -3), scaled(scaled(torch.tensor([1.0]), 200), -200)
    (tensor([8.]), tensor([0.]))
    """
    made = tensor
    while exponent:
        step = max(-ONE_STEP, min(exponent, ONE_STEP))
        made = tensor * 2.0**-step if made is tensor else made.mul_(2.0**-step)
        exponent -= step
    return made
