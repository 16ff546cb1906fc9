"""The command line: parses, calls, renders."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from halfsafe.bisect import USUAL, Options, bisected
from halfsafe.errors import BadInput, HalfsafeError, first_line
from halfsafe.faults import FaultKind
from halfsafe.fix import fix, verify
from halfsafe.inspection import inspect
from halfsafe.loading import load, load_metric, load_model, located
from halfsafe.progress import Step
from halfsafe.report.report import Report
from halfsafe.verdict import TOLERANCE, Answer

ENGINES = (
    "strict, torch[-cuda, -compiled, -tensorrt], onnxruntime[-cuda, -tensorrt], openvino, "
    "tensorrt[-rtx]"
)

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Makes trained networks safe in half precision, exactly.",
    epilog="Exit status: 0 safe, 1 faults found or left, 2 misuse, 3 a crash of halfsafe itself.",
)
out, err = Console(), Console(stderr=True)

Model = Annotated[
    str,
    typer.Argument(
        help="x.onnx, x.pt2, or package.module:callable that returns a model, or (model, samples)."
    ),
]
Samples = Annotated[
    str | None,
    typer.Option(help="package.module:callable, .npz, .safetensors, or a folder of .npz files."),
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


@app.callback()
def root() -> None:
    """Finds where FP16 breaks a network, fixes it by powers of two, and proves it."""


@app.command("fix")
def fix_command(
    model: Model,
    samples: Samples = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="fixed.onnx; fixed.pt2 (program), fixed.safetensors (weights)."
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write the report: .json for tools, .html for people.")
    ] = None,
    dtype: Annotated[
        Literal["float16", "float32"],
        typer.Option(help="What OUTPUT holds: the FP16 deployable or the rescaled FP32 model."),
    ] = "float16",
    io: Annotated[
        Literal["float32", "float16"],
        typer.Option(help="Type of floating inputs and outputs of an .onnx file in FP16."),
    ] = "float32",
    headroom: Headroom = 1,
    engine: Annotated[
        str, typer.Option(help=f"Where FP16 runs for the proof: {ENGINES}.")
    ] = "strict",
    profile: Annotated[
        Path | None, typer.Option(help="What the engine's kernels bear: bisect --profile wrote it.")
    ] = None,
    tolerance: Tolerance = TOLERANCE,
    metric: ByMetric = None,
    as_json: AsJson = False,
) -> None:
    """Rescale MODEL so that it runs in FP16, prove it, and write it.

    Under torchrun each process measures and proves a part of the samples:
    torchrun --nproc-per-node 2 -m halfsafe fix MODEL --samples S -o OUT

    Example: halfsafe fix model.onnx --samples samples.npz -o model_fp16.onnx
    """
    check_output(output, (".onnx", ".pt2", ".safetensors"))
    check_output(report, REPORTS)
    loaded, inputs = load(model, samples)
    together, first = processes()
    with waiting() as progress:
        fixed = fix(
            loaded,
            inputs,
            headroom=headroom,
            tolerance=tolerance,
            metric=load_metric(metric),
            engine=engine,
            profile=profile,
            distributed=together,
            progress=progress,
        )
        found = replace(fixed.report, command=command())
        if not first:
            raise typer.Exit(0 if found.safe else 1)
        if output:
            progress(f"writing {output}")
            fixed.save(output, dtype=dtype, io=io)
        if report:
            write(found, report)
    show(found, as_json)
    if not as_json:
        say_next(after_writing(report, "--report"))
    raise typer.Exit(0 if found.safe else 1)


@app.command("inspect")
def inspect_command(
    model: Model,
    samples: Samples = None,
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

    Example: halfsafe inspect mypackage.zoo:detector --samples images/ -o report.html
    """
    check_output(output, REPORTS)
    loaded, inputs = load(model, samples)
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
    found = replace(found, command=command())
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
        given = f" --samples {samples}" if samples else ""
        say_next(mending(f"{model}{given}") if status else after_writing(output, "-o"))
    raise typer.Exit(status)


@app.command("verify")
def verify_command(
    model: Model,
    candidate: Annotated[str, typer.Argument(help="What was made of it, in FP16 or in FP32.")],
    samples: Samples = None,
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

    loaded, inputs = load(model, samples)
    other, _ = load_model(candidate)
    given = f" --samples {samples}" if samples else ""
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
        say_next(f"deploy {candidate}" if proof.safe else f"halfsafe fix {model}{given}")
    raise typer.Exit(0 if proof.safe else 1)


@app.command("bisect")
def bisect_command(
    model: Model,
    samples: Samples = None,
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
    loaded, inputs = load(model, samples)
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
    given = f" --samples {samples}" if samples else ""
    found = advised(found, f"{model}{given}", engine, profile)
    if output:
        write(found, output)
    show(found, as_json)
    if not as_json:
        say_next(after_writing(output, "-o") if found.safe else advice_of(found))
    raise typer.Exit(0 if found.safe else 1)


@app.command("report")
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


def show(report: Report, as_json: bool = False) -> None:
    """Prints a report to the terminal, or as JSON."""
    from halfsafe.report.text import renderable

    if as_json:
        print(json.dumps(report.to_json(), allow_nan=False))
    else:
        out.print(renderable(report))


def write(report: Report, path: Path) -> None:
    """Writes a report; the suffix picks the renderer."""
    if path.suffix == ".html":
        report.html(path)
    else:
        report.save(path)


def processes() -> tuple[bool, bool]:
    """Whether torchrun has started several processes, and whether this is the one that speaks."""
    together = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return together, not together or os.environ.get("RANK", "0") == "0"


def command() -> str:
    """The command line that this process was started with."""
    return shlex.join(["halfsafe", *sys.argv[1:]])


def after_writing(path: Path | None, option: str) -> str:
    """What to do with a report that was written, or how to get one."""
    if path is None:
        return f"{command()} {option} report.html"
    if path.suffix == ".html":
        return f"open {path} in a browser"
    return f"halfsafe report {path} -o {path.with_suffix('.html')}"


def mending(model: str) -> str:
    """The command that mends a model, which is given with its samples."""
    fixed = "fixed.onnx" if model.partition(" ")[0].endswith(".onnx") else "fixed.pt2"
    return f"halfsafe fix {model} -o {fixed}"


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


def say_next(what: str) -> None:
    """The last line: the next command."""
    out.print(f"Next: {what}", style="dim", markup=False, highlight=False, soft_wrap=True)


def check_output(path: Path | None, suffixes: tuple[str, ...]) -> None:
    """Refuses, before any work is done, what could not be written after it."""
    if path is None:
        return
    if path.suffix not in suffixes:
        raise BadInput(f"cannot write '{path}': give it the suffix {' or '.join(suffixes)}")
    if not path.parent.is_dir():
        raise BadInput(f"cannot write '{path}': the folder '{path.parent}' does not exist")


class Bar:
    """A line that says what is being done, how much of it is left, and how long that may take."""

    follows = True

    def __init__(self, bars: Bars) -> None:
        self._bars, self._stage = bars, ""
        self._task = bars.add_task("starting", total=None)

    def __call__(self, what: str) -> None:
        stage = what.stage if isinstance(what, Step) else what
        if stage != self._stage:  # the estimate is of this stage alone
            self._stage = stage
            self._bars.reset(self._task, total=None)
        done, total = (what.done, what.total) if isinstance(what, Step) else (0, 0)
        self._bars.update(self._task, description=what, completed=done, total=total or None)


@contextmanager
def waiting() -> Generator[Callable[[str], None]]:
    """Says on a terminal, and nowhere else, how far the work within has come."""
    if not err.is_terminal:
        yield lambda _: None
        return
    left = TimeRemainingColumn(elapsed_when_finished=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=20), left)
    with Bars(*columns, console=err, transient=True) as bars:
        yield Bar(bars)


def main() -> None:
    """Entry point. A user's error is one line and exit status 2, a crash of ours one line and 3.

    With HALFSAFE_TRACEBACK set, a crash shows where it happened.
    """
    try:
        app()
    except HalfsafeError as error:
        _fail(f"error: {error}", error, 2)
    except MemoryError as error:
        _fail(f"error: out of memory: {first_line(error)}; use smaller samples", error, 2)
    except Exception as error:
        if os.environ.get("HALFSAFE_TRACEBACK"):
            raise
        said = f"halfsafe crashed: {located(error)}; set HALFSAFE_TRACEBACK=1 to see more"
        _fail(f"{said}, and please report it", error, 3)


def _fail(said: str, error: BaseException, status: int) -> NoReturn:
    err.print(said, style="red", markup=False, highlight=False, soft_wrap=True)
    raise SystemExit(status) from error
