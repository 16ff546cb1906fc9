"""halfsafe fix: rescales a model, proves it, and writes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from halfsafe.cli.options import (
    ENGINES,
    REPORTS,
    AsJson,
    Batch,
    ByMetric,
    Domain,
    Headroom,
    Model,
    Preprocess,
    Samples,
    Tolerance,
    check_output,
    processes,
    spans_of,
)
from halfsafe.cli.shown import after_writing, command, say_next, show, waiting, warn, write
from halfsafe.directory import check_target, fix_directory
from halfsafe.errors import BadInput
from halfsafe.fix import Fixed, fix
from halfsafe.loading import load, load_metric
from halfsafe.report.report import Report
from halfsafe.sample_files import Supplied
from halfsafe.samples import MADE_UP
from halfsafe.verdict import TOLERANCE

FILES = (".onnx", ".pt2", ".safetensors", ".engine")


def fix_command(
    model: Model,
    samples: Samples = None,
    preprocess: Preprocess = None,
    batch: Batch = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="fixed.onnx; fixed.engine (TensorRT); fixed.pt2 (program), fixed.safetensors "
            "(weights); of a directory, a new one.",
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write the report: .json for tools, .html for people.")
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(help="Write the plan by itself as .json, for halfsafe apply."),
    ] = None,
    dtype: Annotated[
        Literal["float16", "float32"] | None,
        typer.Option(
            help="What OUTPUT holds: the FP16 deployable, as files do by default, or the rescaled "
            "FP32 model. A directory keeps the types that it has."
        ),
    ] = None,
    io: Annotated[
        Literal["float32", "float16"],
        typer.Option(help="Type of floating inputs and outputs of an .onnx file in FP16."),
    ] = "float32",
    timing_cache: Annotated[
        Path | None, typer.Option(help="Of an .engine: a file that is read and written.")
    ] = None,
    headroom: Headroom = 1,
    engine: Annotated[
        str, typer.Option(help=f"Where FP16 runs for the proof: {ENGINES}.")
    ] = "strict",
    profile: Annotated[
        Path | None, typer.Option(help="What the engine's kernels bear: bisect --profile wrote it.")
    ] = None,
    keep_fp32: Annotated[
        list[str],
        typer.Option(
            help="Operators to keep in FP32, by node, operator or module, * for anything; may be "
            "given several times."
        ),
    ] = [],  # noqa: B006
    exclude: Annotated[
        list[str],
        typer.Option(
            help="Operators to leave as they are, in FP16, their constants untouched; named as "
            "those of --keep-fp32."
        ),
    ] = [],  # noqa: B006
    certificate: Annotated[
        Path | None,
        typer.Option(
            help="Leave room for every input of --domain, and write how far that went as .json."
        ),
    ] = None,
    domain: Domain = [],  # noqa: B006
    tolerance: Tolerance = TOLERANCE,
    metric: ByMetric = None,
    as_json: AsJson = False,
) -> None:
    """Rescale MODEL so that it runs in FP16, prove it, and write it.

    Under torchrun each process measures and proves a part of the samples:
    torchrun --nproc-per-node 2 -m halfsafe fix MODEL --samples S -o OUT

    Example: halfsafe fix model.onnx --samples samples.npz -o model_fp16.onnx

    Example: halfsafe fix my-t5-directory -o my-t5-fp16
    """
    check_output(report, REPORTS)
    check_output(recipe, (".json",))
    check_output(certificate, (".json",))
    if domain and not certificate:
        raise BadInput("--domain is for --certificate: give the file to write")
    asked = {
        "headroom": headroom,
        "tolerance": tolerance,
        "metric": load_metric(metric),
        "engine": engine,
        "profile": profile,
        "exclude": exclude,
    }
    supplied = Supplied(samples, preprocess, batch)
    if Path(model).is_dir():
        if keep_fp32:
            raise BadInput("--keep-fp32 is for files and modules: a directory holds no islands")
        if certificate:
            raise BadInput("--certificate is for files and modules: load the network, and pass it")
        found = _directory(model, supplied, output, recipe, dtype, asked)
    else:
        save = _Saving(output, dtype or "float16", io, timing_cache, recipe, certificate)
        if certificate:
            asked["certify"] = spans_of(domain)
        found = {"": _model(model, supplied, save, {**asked, "keep_fp32": keep_fp32})}
    written, safe = _write(found, report), all(each.safe for each in found.values())
    if as_json:
        several = {name: each.to_json() for name, each in found.items()}
        print(json.dumps(several.get("", several), allow_nan=False))
    else:
        for each in found.values():
            show(each)
        say_next(_next(model, output if safe else None, report and written[0]))
    raise typer.Exit(0 if safe else 1)


@dataclass(frozen=True)
class _Saving:
    """What is written of a model, and how."""

    output: Path | None
    dtype: Literal["float16", "float32"]
    io: Literal["float32", "float16"]
    timing_cache: Path | None
    recipe: Path | None
    certificate: Path | None

    def write(self, fixed: Fixed) -> tuple[str, ...]:
        """Writes it all; notes on what was written."""
        if self.recipe:
            fixed.recipe().save(self.recipe)
        if self.certificate and fixed.certificate:
            fixed.certificate.save(self.certificate)
        if self.output is None:
            return ()
        if self.output.suffix == ".engine":
            return (fixed.save_engine(self.output, self.timing_cache),)
        fixed.save(self.output, dtype=self.dtype, io=self.io)
        return ()


def _model(model: str, supplied: Supplied, save: _Saving, asked: Mapping[str, Any]) -> Report:
    """Fixes a model, and writes it; of several processes, the first one does."""
    check_output(save.output, FILES)
    loaded, inputs, notes = load(model, supplied)
    warn(notes)
    together, first = processes()
    with waiting() as progress:
        fixed = fix(loaded, inputs, distributed=together, progress=progress, **asked)
        if not first:
            raise typer.Exit(0 if fixed.report.safe else 1)
        progress(f"writing {save.output}" if save.output else "writing")
        written = save.write(fixed)
    notes = (*notes, *fixed.report.notes, *written)
    return replace(fixed.report, command=command(), notes=notes)


def _directory(
    model: str,
    supplied: Supplied,
    output: Path | None,
    recipe: Path | None,
    dtype: Literal["float16", "float32"] | None,
    asked: Mapping[str, Any],
) -> dict[str, Report]:
    """Fixes each network of a directory, and writes another one."""
    if processes()[0]:
        raise BadInput("a directory is fixed by one process: leave out torchrun")
    if output:
        check_target(output)
    inputs = supplied.raw()
    with waiting() as progress:
        fixed = fix_directory(model, inputs, progress=progress, **asked)
        if recipe:
            fixed.recipe().save(recipe)
        if output:
            progress(f"writing {output}")
            fixed.save(output, dtype=dtype)
    for each in fixed.reports.values():
        warn(note for note in each.notes if note.startswith(MADE_UP))
    warn(
        f"{name} is copied as it is, and nobody knows how it does in FP16" for name in fixed.copied
    )
    return {name: replace(each, command=command()) for name, each in fixed.reports.items()}


def _write(found: Mapping[str, Report], path: Path | None) -> list[Path]:
    """Writes a report, or one for each network of a pipeline: ``report-unet.html``."""
    if path is None:
        return []
    paths = [path.with_stem(f"{path.stem}-{name}" if name else path.stem) for name in found]
    for each, to in zip(found.values(), paths, strict=True):
        write(each, to)
    return paths


def _next(model: str, output: Path | None, report: Path | None) -> str:
    """What to do with what was written."""
    if output is not None and Path(model).is_dir():
        return f"from_pretrained('{output}', dtype=torch.float16)"
    return after_writing(report, "--report")
