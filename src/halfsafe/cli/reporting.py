"""halfsafe report: a saved report once more."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from halfsafe.cli.options import REPORTS, check_output
from halfsafe.cli.shown import after_writing, say_next, show, write
from halfsafe.errors import BadInput
from halfsafe.report.report import Report


def report_command(
    path: Annotated[
        Path, typer.Argument(help="A report in JSON, of halfsafe inspect, fix or bisect.")
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write it as .html, or again as .json.")
    ] = None,
    model_explorer: Annotated[
        Path | None,
        typer.Option(help="Write node data for Google's Model Explorer, as .json."),
    ] = None,
) -> None:
    """Show a saved report again. Exit status 1 if it says that the model is not safe.

    Example: halfsafe report report.json -o report.html
    """
    check_output(output, REPORTS)
    check_output(model_explorer, (".json",))
    if not path.is_file():
        raise BadInput(f"there is no report '{path}'")
    report = Report.load(path)
    if output:
        write(report, output)
    if model_explorer:
        report.model_explorer(model_explorer)
    show(report)
    say_next(after_writing(output, "-o"))
    raise typer.Exit(0 if report.safe else 1)
