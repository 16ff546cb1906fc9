"""How far long work has come, for people who wait.

Whoever is told gets text, a line for each stage or sample. A `Step` is such a text that also knows
how much has been done of how much. One who `follows` is told of the steps in between as well,
several times a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from halfsafe.samples import Call

INTERVAL = 0.2
"""Seconds between two steps that say no more than how far a stage has come."""


class Step(str):
    """What is being done: samples `done`, parts of one included, of `total`, 0 if that is unknown.

    >>> Step.of("measuring", 2.5, 16)
    'measuring sample 3 of 16'
    """

    done: float
    total: float
    stage: str

    @classmethod
    def of(cls, stage: str, done: float, total: float = 0) -> Step:
        """A step of a stage that goes through samples."""
        number = int(min(done, total - 1) if total else done) + 1
        made = cls(f"{stage} sample {number}" + (f" of {total:.0f}" if total else ""))
        made.stage, made.done, made.total = stage, done, total
        return made


Progress = Callable[[str], None]


@dataclass
class Counted:
    """Tells somebody of steps, with how many samples there are in all."""

    told: Progress
    total: int | None
    _last: str = ""

    @property
    def follows(self) -> bool:
        """Whether steps in between are wanted."""
        return getattr(self.told, "follows", False)

    def __call__(self, what: str) -> None:
        if isinstance(what, Step) and self.total and not what.total:
            what = Step.of(what.stage, what.done, self.total)
        if self.follows or what != self._last:
            self._last = what
            self.told(what)


class Ticks:
    """Tells how far samples side by side have come in a graph, as their values come by."""

    def __init__(self, progress: Progress, stage: str, batch: Sequence[Call], values: int) -> None:
        self._progress, self._stage = progress, stage
        self._first, self._samples = batch[0].number, len(batch)
        self._values, self._seen = max(values, 1), 0
        self._follows: Any = getattr(progress, "follows", False)
        self._next = time.monotonic() + INTERVAL
        progress(Step.of(stage, self._first))

    def tick(self) -> None:
        """One more value."""
        self._seen += 1
        if self._follows and time.monotonic() > self._next:
            self._next = time.monotonic() + INTERVAL
            done = min(self._seen / self._values, self._samples)
            self._progress(Step.of(self._stage, self._first + done))
