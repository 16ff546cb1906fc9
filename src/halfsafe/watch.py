"""Watches any eager module while it runs: no export, no change, the same report."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from halfsafe.errors import BadInput
from halfsafe.faults import FaultKind
from halfsafe.report.model import Report


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


class Log(Protocol):
    """What has been seen so far."""

    def report(self) -> Report:
        """The ranges of all values and the faults, over all calls so far."""
        ...


@contextmanager
def watch(
    model: Any,
    *,
    operators: bool = False,
    on_transition: Listener = None,
    headroom: int = 1,
    entries: int | None = 1024,
) -> Generator[Log]:
    """Measures what goes in and out of every module of an eager model, whatever dtype it has.

    Every call of the model within the context is a sample; `log.report()` gives the same report as
    `inspect`, with module calls for operators, or the functional operators between modules too if
    `operators` is set. Largest magnitudes are exact; histograms are drawn from about `entries`
    entries of each tensor, from all of them if None. The model's results do not change, and
    tensors on a GPU are read once a call, not once a module. Raises BadInput for what is no module.

    >>> import halfsafe, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()).eval()
    >>> with halfsafe.watch(model) as log:
    ...     output = model(torch.full((1, 4), 1e6))
    >>> log.report().faults[0].op
    'input'
    """
    if not any(kind.__module__.startswith("torch.") for kind in type(model).__mro__):
        raise BadInput(f"the model is a {type(model).__name__}: pass a torch.nn.Module")
    from halfsafe.frontends.torch_watch import Watcher

    with _listening(on_transition) as listener:
        watcher = Watcher(model, operators, listener, headroom, entries)
        try:
            watcher.attach()
            yield watcher
        finally:
            watcher.detach()


@contextmanager
def _listening(listener: Listener) -> Generator[Callable[[Transition], object] | None]:
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
