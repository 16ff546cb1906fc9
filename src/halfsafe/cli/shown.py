"""What is printed and written: reports, progress, and the next command."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars

from halfsafe.progress import Step
from halfsafe.report.report import Report
from halfsafe.samples import MADE_UP

out, err = Console(), Console(stderr=True)


def show(report: Report, as_json: bool = False) -> None:
    """Prints a report to the terminal, or as JSON."""
    from halfsafe.report.text import renderable

    if as_json:
        print(json.dumps(report.to_json(), allow_nan=False))
    else:
        out.print(renderable(report))


def write(report: Report, path: Path) -> None:
    """Writes a report; the suffix picks the renderer."""
    if path.suffix == ".html":
        report.html(path)
    else:
        report.save(path)


def command() -> str:
    """The command line that this process was started with."""
    return shlex.join(["halfsafe", *sys.argv[1:]])


def after_writing(path: Path | None, option: str) -> str:
    """What to do with a report that was written, or how to get one."""
    if path is None:
        return f"{command()} {option} report.html"
    if path.suffix == ".html":
        return f"open {path} in a browser"
    return f"halfsafe report {path} -o {path.with_suffix('.html')}"


def mending(model: str) -> str:
    """The command that mends a model, which is given with its samples."""
    given = Path(model.partition(" ")[0])
    fixed = "fixed.onnx" if given.suffix == ".onnx" else "fixed.pt2"
    return f"halfsafe fix {model} -o {f'{given.name}-fp16' if given.is_dir() else fixed}"


def warn(notes: Iterable[str]) -> None:
    """Says, loudly, what a user should not overlook."""
    for note in notes:
        made = "; ranges are those of made-up samples, pass --samples"
        said = f"{note}{made if note.startswith(MADE_UP) else ''}"
        err.print(f"warning: {said}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def say_next(what: str) -> None:
    """The last line: the next command."""
    out.print(f"Next: {what}", style="dim", markup=False, highlight=False, soft_wrap=True)


class Bar:
    """A line that says what is being done, how much of it is left, and how long that may take."""

    follows = True

    def __init__(self, bars: Bars) -> None:
        self._bars, self._stage = bars, ""
        self._task = bars.add_task("starting", total=None)

    def __call__(self, what: str) -> None:
        stage = what.stage if isinstance(what, Step) else what
        if stage != self._stage:  # the estimate is of this stage alone
            self._stage = stage
            self._bars.reset(self._task, total=None)
        done, total = (what.done, what.total) if isinstance(what, Step) else (0, 0)
        self._bars.update(self._task, description=what, completed=done, total=total or None)


@contextmanager
def waiting() -> Generator[Callable[[str], None]]:
    """Says on a terminal, and nowhere else, how far the work within has come."""
    if not err.is_terminal:
        yield lambda _: None
        return
    left = TimeRemainingColumn(elapsed_when_finished=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=20), left)
    with Bars(*columns, console=err, transient=True) as bars:
        yield Bar(bars)


@contextmanager
def counting() -> Generator[Callable[[int], None]]:
    """Says on a terminal, and nowhere else, how many bytes the work within has written."""
    if not err.is_terminal:
        yield lambda _: None
        return
    columns = (SpinnerColumn(), TextColumn("writing"), DownloadColumn(), TransferSpeedColumn())
    with Bars(*columns, console=err, transient=True) as bars:
        task = bars.add_task("writing", total=None)
        yield lambda count: bars.update(task, advance=count)
