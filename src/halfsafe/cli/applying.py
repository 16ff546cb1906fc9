"""halfsafe apply: a recipe made good for a checkpoint, without running it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from halfsafe.applying import apply_recipe
from halfsafe.cli.shown import counting, out, say_next


def apply_command(
    recipe: Annotated[Path, typer.Argument(help="What halfsafe fix --recipe has written.")],
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="x.safetensors, a folder of them, or a directory of transformers or diffusers; a "
            "LoRA of such as well."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="What to write: the same kind.")],
    dtype: Annotated[
        Literal["float16", "float32"] | None,
        typer.Option(help="Type of what is written; by default each tensor keeps its own."),
    ] = None,
    names: Annotated[
        Path | None,
        typer.Option(help="A .json object of the recipe's names to those of CHECKPOINT."),
    ] = None,
    component: Annotated[
        str, typer.Option(help="Which network of a pipeline's recipe a single file is of.")
    ] = "",
    check: Annotated[
        bool, typer.Option("--check", help="Tell how much room FP16 leaves in what is written.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was done as JSON, and nothing else.")
    ] = False,
) -> None:
    """Rescale CHECKPOINT as RECIPE says: another fine-tune, another shard, a LoRA.

    Tensor by tensor, each bit exact; no network is run, and neither torch nor onnx is needed.

    Example: halfsafe apply t5.json my-t5/model.safetensors -o my-t5-fp16.safetensors
    """
    with counting() as progress:
        done = apply_recipe(
            recipe,
            checkpoint,
            output,
            dtype=dtype,
            names=names,
            component=component,
            check=check,
            progress=progress,
        )
    if as_json:
        print(json.dumps(done.to_json(), allow_nan=False))
    else:
        out.print(done.words(), markup=False, highlight=False, soft_wrap=True)
        say_next(f"use {output} in FP16 as {checkpoint} was used in FP32")
    raise typer.Exit(0 if done.fits else 1)
