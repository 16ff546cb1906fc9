"""halfsafe verify: how good somebody's FP16 model is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from halfsafe.cli.options import ENGINES, Batch, ByMetric, Model, Preprocess, Samples, Tolerance
from halfsafe.cli.shown import out, say_next, waiting, warn
from halfsafe.fix import verify
from halfsafe.loading import load, load_metric, load_model
from halfsafe.sample_files import Supplied
from halfsafe.verdict import TOLERANCE


def verify_command(
    model: Model,
    candidate: Annotated[str, typer.Argument(help="What was made of it, in FP16 or in FP32.")],
    samples: Samples = None,
    preprocess: Preprocess = None,
    batch: Batch = None,
    tolerance: Tolerance = TOLERANCE,
    metric: ByMetric = None,
    engine: Annotated[str | None, typer.Option(help=f"Where CANDIDATE runs: {ENGINES}.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the proof as JSON, and nothing else.")
    ] = False,
) -> None:
    """Compare CANDIDATE, whoever made it, with MODEL in FP32 and with what FP16 can reach.

    An ONNX candidate in FP16 is run strictly, every value rounded as it is stored, and once more by
    ONNX Runtime's CPU provider, which computes in FP32 between nodes and so hides overflow.

    Example: halfsafe verify model.onnx model_fp16.onnx --samples samples.npz
    """
    from halfsafe.report.text import proof_table
    from halfsafe.report.words import conclusion

    supplied = Supplied(samples, preprocess, batch)
    loaded, inputs, notes = load(model, supplied)
    warn(notes)
    is_directory = Path(candidate).is_dir()
    other = load(candidate, supplied).model if is_directory else load_model(candidate)[0]
    with waiting() as progress:
        progress("verifying")
        proof = verify(
            loaded,
            other,
            inputs,
            tolerance=tolerance,
            metric=load_metric(metric),
            engine=engine,
            progress=progress,
        )
    if as_json:
        print(json.dumps({**proof.to_json(), "safe": proof.safe}, allow_nan=False))
    else:
        out.print(proof_table(proof))
        out.print(conclusion(proof), markup=False, highlight=False, soft_wrap=True)
        say_next(f"deploy {candidate}" if proof.safe else f"halfsafe fix {model}{supplied}")
    raise typer.Exit(0 if proof.safe else 1)
