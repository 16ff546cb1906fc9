"""What is silenced and patched while torch.export runs, for the thread that captures and no other.

torch.export warns, logs, and prints the graph so far when it fails: its error is enough. Filters of
warnings and loggers belong to the whole process, so that what is put there looks at the thread in
which it is asked, and is gone once the export ends. PyTorch itself changes warnings.filters as it
exports, and keeps its state in globals: one thread exports at a time, and others wait.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from threading import RLock, get_ident
from traceback import StackSummary
from typing import Any

from halfsafe.frontends.torch.lines import is_own
from halfsafe.frontends.torch.private import any_size, remembering, without_graphs_on_stderr

EXPORTERS = ("torch.", "onnxscript.", "onnx_ir.")
"""How the names of loggers begin of which one hears while something is exported."""

ALONE = RLock()
"""Held by the thread that exports."""


@contextmanager
def exporting(*, free_sizes: bool = False) -> Generator[None]:
    """Within it, this thread exports quietly, and nodes know the line of the user's code.

    With `free_sizes`, sizes of 0 and 1 are no special ones.
    """
    with (
        ALONE,
        _without_warnings(),
        _without_logs(),
        without_graphs_on_stderr(),
        remembering(_user_frames),
        any_size() if free_sizes else nullcontext(),
    ):
        yield


def _user_frames(frames: StackSummary) -> StackSummary:
    """From forward() on, all of the user's frames.

    Tracers keep frames of functions named forward only; the line that computes something is often
    in a function that forward() calls.
    """
    names = [frame.name for frame in frames]
    start = names.index("forward") if "forward" in names else len(names)
    return StackSummary.from_list([f for f in frames[start:] if not is_own(f.filename)])


class _Mute:
    """Drops what comes from the thread that has made it, until `over`."""

    def __init__(self) -> None:
        self._thread = get_ident()
        self.over = False

    def match(self, _: str) -> bool:
        """As the pattern of a warnings filter, which `warnings` asks for any text."""
        return not self.over and get_ident() == self._thread

    def filter(self, _: logging.LogRecord) -> bool:
        """As a filter of loggers, which are asked in the thread that logs."""
        return not self.match("")


@contextmanager
def _without_warnings() -> Generator[None]:
    """One more filter, in place: a copy of the filters, as catch_warnings makes, is everybody's."""
    mute = _Mute()
    rule = ("ignore", mute, Warning, None, 0)
    before: Any = warnings.filters
    before.insert(0, rule)
    try:
        yield
    finally:
        mute.over = True
        now: Any = warnings.filters  # another list, if someone else is within a catch_warnings
        for filters in (before, now):
            if rule in filters:
                filters.remove(rule)


@contextmanager
def _without_logs() -> Generator[None]:
    """A filter on all loggers of PyTorch and its ONNX exporter, and on their handlers.

    These hear the loggers that are made meanwhile.
    """
    mute = _Mute()
    everyone = logging.root.manager.loggerDict.copy()
    own = [log for name, log in everyone.items() if f"{name}.".startswith(EXPORTERS)]
    places = [log for log in own if isinstance(log, logging.Logger)]
    filtered = [*places, *{handler for place in places for handler in place.handlers}]
    for place in filtered:
        place.addFilter(mute)
    try:
        yield
    finally:
        mute.over = True
        for place in filtered:
            place.removeFilter(mute)
