"""A bisection for a terminal: who is to blame, how that is known, and what mends it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from halfsafe.bisecting.record import Alone, Bisection, Culprit
from halfsafe.report.bisection import (
    HEADINGS,
    about,
    asked,
    cost,
    errors,
    figures,
    heading,
    is_open,
    mended,
    runs,
    values,
    verdict,
    whole,
)
from halfsafe.report.grammar import counted
from halfsafe.report.words import short

SHOWN = 8
"""Operators in FP32 that are named; the JSON report has all."""

RUNS = 24
"""Runs that are shown."""


def parts_of(found: Bisection) -> Iterator[RenderableType]:
    """From top to bottom."""
    style = "bold green" if found.within else "bold red"
    yield Text(f"Bisection on {asked(found)}", style="bold")
    yield Text(verdict(found), style=style)
    yield _totals(found)
    for note in found.notes:
        yield Text(f"note: {note}", style="yellow")
    for number, culprit in enumerate(found.culprits, 1):
        yield Text()
        yield Text.assemble((f"Culprit {number}", "bold red"), f"  {heading(found, culprit)}")
        yield from (Padding(part, (0, 0, 0, 2)) for part in _culprit(found, culprit))
    if found.trials:
        yield Text()
        yield Text(f"Runs, and which of {found.operators} operators are left", style="bold")
        yield _runs(found)
    if found.alone:
        yield Text()
        yield Text("Alone in FP16, all others in FP32, the worst first", style="bold")
        yield _alone(found.alone)
    yield Text()


def _totals(found: Bisection) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_row("error of the whole network", whole(found))
    how, error, most = mended(found)
    if how:
        table.add_row(f"error {how}", f"{error}, {most}")
    table.add_row("cost", f"{counted(found.builds, 'build')} {cost(found)}")
    return table


def _culprit(found: Bisection, culprit: Culprit) -> Iterator[RenderableType]:
    """Where it is written, errors and reason, values in both precisions, and what mends it."""
    if culprit.line and not is_open(culprit):
        yield Text(short(culprit.line), style="dim")
    yield Text(errors(found, culprit))
    if culprit.reason and not is_open(culprit):
        yield Text(culprit.reason, style="dim")
    shown = values(culprit)
    if shown:
        table = _table(("", "value", *HEADINGS), left=2)
        for role, value in shown:
            table.add_row(role, value.name, *figures(value))
        yield table
    if culprit.kept:
        more = len(culprit.kept) - SHOWN
        rest = f" and {more} more" if more > 0 else ""
        yield Text(f"in FP32 instead: {', '.join(culprit.kept[:SHOWN])}{rest}")


def _runs(found: Bisection) -> Table:
    """The interval as it shrinks, a run a row."""
    table = _table(("FP16 up to", "place", "in FP32", "error", "left"), left=1)
    every = list(runs(found))
    for run in every[:RUNS]:
        style = "green" if run.good else "red"
        kept = str(run.trial.kept or "")
        place = f"{run.trial.place} of {run.steps}"
        table.add_row(run.what, place, kept, Text(run.figure, style=style), run.left)
    if len(every) > RUNS:
        table.add_row(f"... and {len(every) - RUNS} more, in the JSON report")
    return table


def _alone(found: Sequence[Alone]) -> Table:
    table = _table(("operator", "error"), left=1)
    for each in found[:SHOWN]:
        what = f"{each.node} ({about(each.op, each.module)})"
        table.add_row(what, f"{each.error:.3g}{f', refused: {each.why}' if each.why else ''}")
    if len(found) > SHOWN:
        table.add_row(f"... and {len(found) - SHOWN} more, in the JSON report")
    return table


def _table(headings: Sequence[str], left: int) -> Table:
    """Without lines; the first columns are words, the others figures."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
    for i, each in enumerate(headings):
        words = i < left
        table.add_column(each, justify="left" if words else "right", overflow="fold")
    return table
