"""Arguments and options that several commands have, and what is checked of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from halfsafe.errors import BadInput
from halfsafe.pictures import NAMED

ENGINES = (
    "strict, torch[-cuda, -compiled, -tensorrt], onnxruntime[-cuda, -tensorrt], openvino, "
    "tensorrt[-rtx]"
)

Model = Annotated[
    str,
    typer.Argument(
        help="x.onnx, x.pt2, a directory of transformers or diffusers, or package.module:callable "
        "that returns a model, or (model, samples)."
    ),
]
Samples = Annotated[
    str | None,
    typer.Option(
        help="package.module:callable, .npz, .safetensors, a folder of .npz files or of pictures; "
        "for a directory also .txt, a text a line."
    ),
]
Preprocess = Annotated[
    str | None,
    typer.Option(
        help=f"How the model takes pictures: {', '.join(NAMED)}, or package.module:callable from a "
        "PIL image to a sample. A directory's own processor needs none."
    ),
]
Batch = Annotated[
    int | None,
    typer.Option(min=1, help="Pictures in a sample, also of samples that are made up for a file."),
]

Domain = Annotated[
    list[str],
    typer.Option(
        help="An input's least and largest entry, name=-1:1; may be given several times. Whole "
        "numbers are any, masks 0 or 1, where nothing is said."
    ),
]

AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON, and nothing else.")]
Headroom = Annotated[int, typer.Option(min=0, help="Bits left free above amax.")]

Tolerance = Annotated[
    float,
    typer.Option(
        help="Largest relative error of an output, item or row that is of use; or METRIC."
    ),
]
ByMetric = Annotated[
    str | None,
    typer.Option(
        help="Judge by this instead of by errors: top-1 (share of other winners), cosine (1 - the "
        "least), max_rel, max_abs, or package.module:callable of two lists of arrays."
    ),
]

REPORTS = (".json", ".html")


def check_output(path: Path | None, suffixes: tuple[str, ...]) -> None:
    """Refuses, before any work is done, what could not be written after it."""
    if path is None:
        return
    if path.suffix not in suffixes:
        raise BadInput(f"cannot write '{path}': give it the suffix {' or '.join(suffixes)}")
    if not path.parent.is_dir():
        raise BadInput(f"cannot write '{path}': the folder '{path.parent}' does not exist")


def spans_of(domain: list[str]) -> dict[str, tuple[float, float]]:
    """What --domain says, by input: ``x=-1:1``. Raises BadInput."""
    found: dict[str, tuple[float, float]] = {}
    for text in domain:
        name, _, span = text.partition("=")
        low, _, high = span.partition(":")
        try:
            found[name] = float(low), float(high)
        except ValueError:
            raise BadInput(
                f"--domain {text}: write name=least:largest, as pixel_values=-1:1"
            ) from None
    return found


def processes() -> tuple[bool, bool]:
    """Whether torchrun has started several processes, and whether this is the one that speaks."""
    together = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return together, not together or os.environ.get("RANK", "0") == "0"
