"""halfsafe inspect: where FP16 breaks a network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from halfsafe.cli.options import (
    REPORTS,
    AsJson,
    Batch,
    Headroom,
    Model,
    Preprocess,
    Samples,
    check_output,
    processes,
)
from halfsafe.cli.shown import after_writing, command, mending, say_next, show, waiting, warn, write
from halfsafe.faults import FaultKind
from halfsafe.inspection import inspect
from halfsafe.loading import load
from halfsafe.sample_files import Supplied
from halfsafe.verdict import Answer


def inspect_command(
    model: Model,
    samples: Samples = None,
    preprocess: Preprocess = None,
    batch: Batch = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Write the report: .json for tools, .html for people."),
    ] = None,
    as_json: AsJson = False,
    ignore: Annotated[
        list[FaultKind],
        typer.Option(help="Faults of this kind do not fail the run; may be given several times."),
    ] = [FaultKind.LATENT],  # noqa: B006
    strict: Annotated[
        bool, typer.Option("--strict", help="Faults that harm no output fail the run as well.")
    ] = False,
    headroom: Headroom = 1,
    ranges_only: Annotated[
        bool, typer.Option(help="Run FP32 alone, in less than half of the time. Never says safe.")
    ] = False,
) -> None:
    """Find where FP16 breaks MODEL: every value's range, every fault's producer. Changes nothing.

    Exit status 1 if a fault harms an output, so that it can gate CI. Under torchrun each process
    takes a part of the samples: torchrun --nproc-per-node 2 -m halfsafe inspect MODEL --samples S

    Example: halfsafe inspect mypackage.zoo:detector --samples samples/ -o report.html
    """
    check_output(output, REPORTS)
    supplied = Supplied(samples, preprocess, batch)
    loaded, inputs, notes = load(model, supplied)
    warn(notes)
    together, first = processes()
    with waiting() as progress:
        found = inspect(
            loaded,
            inputs,
            headroom=headroom,
            distributed=together,
            ranges_only=ranges_only,
            progress=progress,
        )
    found = replace(found, command=command(), notes=(*notes, *found.notes))
    counted = [f for f in found.faults if f.kind not in ignore and (strict or f.harms)]
    # outputs may be wrong though no value stands out
    harmed = not found.faults and found.answer in (Answer.NOT_SAFE, Answer.LIMITED)
    status = 1 if counted or harmed else 0
    if not first:
        raise typer.Exit(status)
    if output:
        write(found, output)
    show(found, as_json)
    if not as_json:
        say_next(mending(f"{model}{supplied}") if status else after_writing(output, "-o"))
    raise typer.Exit(status)
