"""halfsafe certify: what no value passes, whatever comes in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from halfsafe.certify import SECONDS, certify
from halfsafe.cli.options import (
    Batch,
    Domain,
    Model,
    Preprocess,
    Samples,
    check_output,
    spans_of,
)
from halfsafe.cli.shown import command, mending, out, say_next, waiting
from halfsafe.loading import load
from halfsafe.sample_files import Supplied


def certify_command(
    model: Model,
    samples: Samples = None,
    preprocess: Preprocess = None,
    batch: Batch = None,
    domain: Domain = [],  # noqa: B006
    refine: Annotated[
        float,
        typer.Option(
            min=0,
            help="Seconds for which bounds are refined at most, where one does not fit.",
        ),
    ] = SECONDS,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the certificate as .json.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the certificate as JSON, and nothing else.")
    ] = False,
) -> None:
    """Bound every value of MODEL for every input of a domain, from the weights alone.

    A sample lends its shapes, and is not run. Exit status 1 if FP16 may not hold some value.

    Example: halfsafe certify encoder.onnx --samples samples.npz -o certificate.json

    Example: halfsafe certify mypackage.zoo:vit --domain pixel_values=-3:3
    """
    check_output(output, (".json",))
    spans = spans_of(domain)
    supplied = Supplied(samples, preprocess, batch)
    loaded, inputs, _ = load(model, supplied)
    with waiting() as progress:
        found = certify(loaded, spans, sample=inputs, refine=refine, progress=progress)
    if output:
        found.save(output)
    if as_json:
        print(json.dumps(found.to_json(), allow_nan=False))
    else:
        out.print(found.text(), markup=False, highlight=False, soft_wrap=True)
        saved = f"{command()} -o certificate.json"
        say_next(saved if found.certified else mending(f"{model}{supplied}"))
    raise typer.Exit(0 if found.certified else 1)
