"""What users pass as `samples`: one sample, or any iterable of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from math import inf, prod
from typing import Any, NamedTuple

from halfsafe.errors import BadInput

MADE_UP = "samples are made up"
"""How a note begins that says so."""

SOME = 8
"""Samples that are looked at for sizes that vary."""


class Call(NamedTuple):
    """One sample as the arguments of forward(); `number` is its place among the samples.

    What a network has `computed` itself, and hands on to a part of it, may hold inf and NaN. Of a
    `streamed` one the arrays may be others' as soon as the next is drawn.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    number: int = 0
    computed: bool = False
    streamed: bool = False

    def holding(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """The same sample in other arrays: of another type, or on another device."""
        return Call(args, kwargs, self.number, self.computed, self.streamed)


@dataclass(frozen=True)
class Made:
    """Samples of a user who gave none, what of them is made up, and what else is to be said."""

    samples: list[dict[str, Any]]
    made_up: list[str] = field(default_factory=list[str])
    told: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a report says of them."""
        return (*self.told, *(f"{MADE_UP}: {what}" for what in self.made_up))


def calls(samples: Any) -> Iterator[Call]:
    """Samples as calls, lazily; a DataLoader or a generator is never held in memory.

    A tensor is the only argument, a tuple the positional ones, a mapping the keyword ones; any
    other iterable is a collection of samples. Raises BadInput for anything else, and for none.

    >>> [call.kwargs for call in calls([{"x": 1}, {"x": 2}])]
    [{'x': 1}, {'x': 2}]
    """
    if _is_sample(samples):
        yield _call(samples, 0)
        return
    try:  # a torch Dataset has __getitem__ alone, and is no Iterable
        several = iter(samples)
    except TypeError:
        raise BadInput(
            f"samples is a {type(samples).__name__}: pass a tensor, a tuple of positional "
            "arguments, a dict of keyword arguments, or an iterable of these"
        ) from None
    index, streamed = -1, isinstance(samples, Iterator)
    for index, sample in enumerate(several):
        given = tuple(sample) if isinstance(sample, list) else sample  # pyright: ignore
        yield _call(given, index, streamed)
    if index < 0:
        raise BadInput("samples is empty: ranges are measured on samples, so pass at least one")


class Samples:
    """The user's samples: read for measuring and for the proof, as often as needed.

    Of three or more samples the last is held out of measuring; the proof is on all of them. A
    collection or a DataLoader is iterated anew each time and never held in memory; a one-shot
    iterator has to be.
    """

    def __init__(self, samples: Any) -> None:
        one_shot = isinstance(samples, Iterator)
        self._samples: Any = list(samples) if one_shot else samples  # pyright: ignore
        self.first = next(calls(self._samples))
        self.count = 0
        self.known = length_of(self._samples)

    def __iter__(self) -> Iterator[Call]:
        return calls(self._samples)

    @property
    def some(self) -> list[Call]:
        """A few samples beside the first: sizes on which they differ are no constants."""
        return list(islice(self, 1, SOME))

    @property
    def unmeasured(self) -> int:
        """How many were held out of measuring; known once `measured` is exhausted."""
        return int(self.count > 2)

    def kept_out(self) -> Iterator[Call]:
        """The samples that `measured` leaves out; known once that is exhausted."""
        return islice(self, self.count - self.unmeasured, None)

    def measured(self) -> Iterator[Call]:
        """The samples to measure; `count` is that of all samples when it is exhausted."""
        self.count = 0
        recent: list[Call] = []
        for call in self:
            self.count += 1
            recent.append(call)
            if len(recent) > 2:
                yield recent.pop(0)
        yield from recent[:-1] if self.unmeasured else recent


def batches(calls: Iterable[Call], size: int, most: float = inf) -> Iterator[list[Call]]:
    """Calls in lists of a size, the last one of what is left; one that is streamed, or has more
    entries than `most`, is alone."""
    batch: list[Call] = []
    for call in calls:
        alone = call.streamed or entries(call.args) + entries(call.kwargs) > most
        if batch and alone:
            yield batch
            batch = []
        batch.append(call)
        if alone or len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def entries(given: Any) -> int:
    """How many entries the arrays have that are anywhere within arguments.

    >>> import numpy as np
    >>> entries(({"a": np.zeros((2, 3))}, [np.zeros(4), None, 5]))
    10
    """
    if hasattr(given, "shape"):
        return prod(given.shape)
    if isinstance(given, Mapping):
        return entries(tuple(given.values()))  # pyright: ignore[reportUnknownArgumentType]
    return sum(map(entries, given)) if isinstance(given, (tuple, list)) else 0  # pyright: ignore


def length_of(samples: Any) -> int | None:
    """How many samples there are, where that can be told before they have been seen."""
    if _is_sample(samples):
        return 1
    try:
        return len(samples)
    except TypeError:
        return None


def _is_sample(sample: Any) -> bool:
    return hasattr(sample, "shape") or isinstance(sample, (tuple, Mapping))


def _call(sample: Any, index: int, streamed: bool = False) -> Call:
    if isinstance(sample, Mapping):
        return Call((), dict(sample), index, streamed=streamed)  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(sample, tuple):
        return Call(sample, {}, index, streamed=streamed)  # pyright: ignore[reportUnknownArgumentType]
    if hasattr(sample, "shape"):
        return Call((sample,), {}, index, streamed=streamed)
    kind = type(sample).__name__
    raise BadInput(f"sample {index} is a {kind}: pass a tensor, a tuple or a dict")
