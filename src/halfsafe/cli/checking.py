"""halfsafe check: a certificate, proved once more by other code."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from halfsafe.checking import check
from halfsafe.cli.options import Batch, Preprocess, Samples
from halfsafe.cli.shown import mending, out, say_next, waiting
from halfsafe.loading import load
from halfsafe.sample_files import Supplied

SHOWN = 10
"""Reasons that are told one by one."""


def check_command(
    certificate: Annotated[Path, typer.Argument(help="A certificate that halfsafe wrote, .json.")],
    model: Annotated[str, typer.Argument(help="The model it is of.")],
    samples: Samples = None,
    preprocess: Preprocess = None,
    batch: Batch = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was found as JSON, and nothing else.")
    ] = False,
) -> None:
    """Prove each bound of a CERTIFICATE once more, by a second implementation that shares no code
    with the first but what reads MODEL.

    Exit status 1 if the certificate is of another model, or some bound is not confirmed.

    Example: halfsafe check certificate.json encoder.onnx
    """
    supplied = Supplied(samples, preprocess, batch)
    loaded, inputs, _ = load(model, supplied)
    with waiting() as progress:
        found = check(certificate, loaded, sample=inputs, progress=progress)
    if as_json:
        print(json.dumps(asdict(found)))
    elif found.confirmed:
        said = f"confirmed: the bounds of all {found.values} values hold, by other code"
        out.print(said, markup=False, highlight=False, soft_wrap=True)
    else:
        said = [f"not confirmed, because of {len(found.why)}:", *found.why[:SHOWN]]
        out.print("\n  ".join(said), markup=False, highlight=False, soft_wrap=True)
    if not as_json:
        say_next(f"halfsafe certify {model}{supplied} -o {certificate}" if found.why
                 else mending(f"{model}{supplied}"))  # fmt: skip
    raise typer.Exit(0 if found.confirmed else 1)
