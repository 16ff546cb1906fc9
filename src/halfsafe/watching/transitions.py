"""What a watched model tells while it runs, and who is told."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from halfsafe.faults import FaultKind


@dataclass(frozen=True, slots=True)
class Transition:
    """A fault that begins or ends at a module: its inputs are in range and its output is not, or
    the other way round."""

    begins: bool
    kind: FaultKind
    where: str
    op: str
    amax: float
    sample: int

    def __str__(self) -> str:
        verb = "begins" if self.begins else "ends"
        return f"{self.kind} {verb} at {self.where} ({self.op}): amax {self.amax:.3g}"


Listener = Callable[[Transition], object] | logging.Logger | Literal["progress"] | None
"""Who is told of transitions: a function, a logger (as warnings), or a line on standard error."""


@contextmanager
def listening(listener: Listener) -> Generator[Callable[[Transition], object] | None]:
    """A listener of any kind as a function."""
    if isinstance(listener, logging.Logger):
        yield lambda transition: listener.warning("%s", transition)
    elif listener == "progress":
        from rich.console import Console

        console = Console(stderr=True)
        with console.status("watching") as status:
            yield lambda t: status.update(f"watching, sample {t.sample}: {t}")
    else:
        yield listener
