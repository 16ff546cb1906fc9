"""Samples shared out over processes: each sees every nth, and all know what all have seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from halfsafe.errors import HalfsafeError
from halfsafe.samples import Call

T = TypeVar("T")


class Group(Protocol):
    """Processes that each see a part of the samples."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def gather(self, mine: T) -> list[T]:
        """What every process gives, in the order of their ranks; all have to take part."""
        ...

    def leave(self) -> None:
        """Ends what joining began."""
        ...


@dataclass(frozen=True)
class Alone:
    """One process, which sees all of them."""

    rank: int = 0
    size: int = 1

    def gather(self, mine: T) -> list[T]:
        """What this process gives."""
        return [mine]

    def leave(self) -> None:
        """Nothing was joined."""


ALONE = Alone()


def shared(group: Group, calls: Iterable[Call], work: Callable[[Iterable[Call]], T]) -> list[T]:
    """What each process makes of its part of the samples; an error in one is raised in all."""
    mine: T | HalfsafeError
    try:
        mine = work(call for call in calls if call.number % group.size == group.rank)
    except HalfsafeError as error:
        mine = error
    found: list[T] = []
    for part in group.gather(mine):
        if isinstance(part, HalfsafeError):
            raise part
        found.append(part)
    return found
