"""Watches any eager module while it runs: no export, no change, the same report."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Protocol

from halfsafe.errors import BadInput
from halfsafe.report.report import Report
from halfsafe.watching.transitions import Listener, listening


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
    from halfsafe.watching.hooks import Watcher

    with listening(on_transition) as listener:
        watcher = Watcher(model, operators, listener, headroom, entries)
        try:
            watcher.attach()
            yield watcher
        finally:
            watcher.detach()
