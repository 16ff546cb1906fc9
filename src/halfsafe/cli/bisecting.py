"""halfsafe bisect: the operator that spoils a network on an engine."""

from __future__ import annotations

import os
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Annotated

import typer

from halfsafe.bisect import USUAL, Options, bisected
from halfsafe.cli.options import (
    ENGINES,
    REPORTS,
    AsJson,
    Batch,
    Model,
    Preprocess,
    Samples,
    check_output,
)
from halfsafe.cli.shown import after_writing, command, mending, say_next, show, waiting, warn, write
from halfsafe.loading import load, load_metric
from halfsafe.report.report import Report
from halfsafe.sample_files import Supplied


def bisect_command(
    model: Model,
    samples: Samples = None,
    preprocess: Preprocess = None,
    batch: Batch = None,
    engine: Annotated[str, typer.Option(help=f"Where FP16 runs: {ENGINES}.")] = "strict",
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Write the report: .json for tools, .html for people."),
    ] = None,
    metric: Annotated[
        str,
        typer.Option(
            help="What is asked of outputs: max_rel, max_abs, top-1, cosine, or "
            "package.module:callable of two lists of arrays."
        ),
    ] = "max_rel",
    tolerance: Annotated[float, typer.Option(help="Largest METRIC that is of use.")] = USUAL,
    mend: Annotated[
        bool, typer.Option("--fix", help="Let the planner mend the first culprit, and go on.")
    ] = False,
    rank: Annotated[
        int, typer.Option(min=0, help="Rank so many operators, each alone in FP16.")
    ] = 0,
    profile: Annotated[
        Path | None,
        typer.Option(help="Add what the engine's kernels bear to this .json, for fix --profile."),
    ] = None,
    time_limit: Annotated[
        float, typer.Option(min=0, help="Seconds after which the interval so far is told.")
    ] = inf,
    cache: Annotated[
        Path | None, typer.Option(help="Where outcomes are kept.", show_default="~/.cache/halfsafe")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Take and keep no outcomes: run everything.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Find the operator that spoils MODEL on a real engine: FP16 ahead of it, FP32 behind.

    Prefixes of the graph run on the engine, the remainder in FP32, until one operator is left; it
    goes to FP32, and the search goes on until the outputs are right. An interrupted run goes on
    where it was. Exit status 1 if there is a culprit.

    Example: halfsafe bisect model.onnx --samples samples.npz --engine onnxruntime
    """
    check_output(output, REPORTS)
    check_output(profile, (".json",))
    supplied = Supplied(samples, preprocess, batch)
    loaded, inputs, notes = load(model, supplied)
    warn(notes)
    with waiting() as progress:
        options = Options(
            metric=load_metric(metric),
            tolerance=tolerance,
            fix=mend,
            rank=rank,
            profile=profile,
            cache=None if fresh else cache or cache_folder(),
            time_limit=time_limit,
            progress=progress,
        )
        found = replace(bisected(loaded, inputs, engine, options), command=command())
    found = replace(found, notes=(*notes, *found.notes))
    found = advised(found, f"{model}{supplied}", engine, profile)
    if output:
        write(found, output)
    show(found, as_json)
    if not as_json:
        say_next(after_writing(output, "-o") if found.safe else advice_of(found))
    raise typer.Exit(0 if found.safe else 1)


def advised(report: Report, model: str, engine: str, profile: Path | None) -> Report:
    """With what mends the culprits, or measures the engine's own kernels where these are to blame.

    Nothing where the network is within the tolerance.
    """
    found = report.bisection
    if found is None or found.within:
        return report
    own = found.complete and not all(culprit.predicted for culprit in found.culprits)
    if profile is not None:
        advice = mending(f"{model} --engine {engine} --profile {profile}")
    elif own:
        advice = f"{command()} --profile {engine}.json"
    else:
        advice = mending(model)
    return replace(report, bisection=replace(found, advice=advice))


def advice_of(report: Report) -> str:
    """What a bisection says to try next."""
    return "" if report.bisection is None else report.bisection.advice


def cache_folder() -> Path:
    """Where outcomes are kept: $XDG_CACHE_HOME/halfsafe, or ~/.cache/halfsafe."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "halfsafe"
