"""Bisects a network on an engine: which operator is the first to spoil the outputs, and what else.

whole      the network uncut on the engine: within the tolerance, there is nothing to find
predict    the same search in strict evaluation, which costs no build
search     prefixes on the engine, the remainder in FP32, beginning at what was predicted
keep       the culprit, and what its harm reaches, goes to FP32 (or the planner mends it)
again      until the network uncut is within the tolerance
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import version
from math import inf
from pathlib import Path
from typing import Any

from halfsafe.bisecting.cuts import Cuts
from halfsafe.bisecting.hunt import USUAL, Hunt, Planner
from halfsafe.bisecting.memory import Memory, digest_of
from halfsafe.bisecting.ranking import ranked
from halfsafe.bisecting.record import Alone, Bisection, Culprit
from halfsafe.bisecting.remainder import Remainder
from halfsafe.bisecting.trials import Log, OutOfTime, Question
from halfsafe.engines import Engine, engine_of, version_of
from halfsafe.engines.profile import Profile
from halfsafe.engines.strict import Strict
from halfsafe.errors import BadInput
from halfsafe.formats import FLOAT32, FLOOR
from halfsafe.frontends import open_model
from halfsafe.inspection import observe
from halfsafe.mending import mended
from halfsafe.prepare import Preparation
from halfsafe.proof import Standard, check_reference
from halfsafe.references import References
from halfsafe.report.report import Report
from halfsafe.samples import Call, Samples
from halfsafe.source import Arrays, Progress, Source
from halfsafe.verdict import Metric, metric_of
from halfsafe.windows import Limits


@dataclass(frozen=True, kw_only=True)
class Bisected(Culprit):
    """The first culprit, the `others`, and the report on all that was tried."""

    others: tuple[Culprit, ...]
    report: Report

    @property
    def bisection(self) -> Bisection:
        """All that was tried, and found."""
        assert self.report.bisection is not None
        return self.report.bisection

    @property
    def builds(self) -> int:
        """How often the engine has built something."""
        return self.bisection.builds


def bisect(
    model: Any,
    samples: Any,
    engine: str | Engine = "strict",
    *,
    metric: str | Metric = "max_rel",
    tolerance: float = USUAL,
    fix: bool = False,
    rank: int = 0,
    profile: str | Path | None = None,
    dynamic_shapes: Any = None,
    cache: str | Path | None = None,
    time_limit: float = inf,
    progress: Progress = lambda _: None,
) -> Bisected | None:
    """The first operator after which the outputs leave the tolerance on an engine.

    None where the whole network is within it. Prefixes of the graph run in FP16 on the `engine`
    (`halfsafe.engines.names()`), the remainder in FP32, in PyTorch or in ONNX Runtime. `model` and
    `samples` are those of `halfsafe.fix`; the worst sample decides. `metric` measures outputs
    beside those in FP32: "max_rel", "max_abs", "top-1", "cosine" or a callable of two lists of
    arrays, and `tolerance` is its largest value that is of use. Where rounding to 11 bits alone is
    beyond the tolerance, operators that cost more than twice as much are the culprits, and the
    report tells so; if there are none, the first that leaves the tolerance is.

    Each culprit is kept in FP32 with what it harms, and the search goes on until the network uncut
    is within the tolerance; with `fix`, the planner mends the first one, and what is left is found.
    `rank` single operators that hurt the most, all others in FP32, are in the report. What the
    engine's kernels bear is added to the file `profile`, which `halfsafe.fix` takes. Outcomes are
    kept in the folder `cache`, and not run again. After `time_limit` seconds the interval found so
    far is returned. Raises BadInput and CaptureError.
    """
    options = Options(
        metric, tolerance, fix, rank, profile, dynamic_shapes, cache, time_limit, progress
    )
    report = bisected(model, samples, engine, options)
    found = report.bisection
    if found is None or not found.culprits:
        return None
    first, *others = found.culprits
    fields = {name: getattr(first, name) for name in Culprit.__dataclass_fields__}
    return Bisected(**fields, others=tuple(others), report=report)


@dataclass(frozen=True)
class Options:
    """What `bisect` takes by name."""

    metric: str | Metric = "max_rel"
    tolerance: float = USUAL
    fix: bool = False
    rank: int = 0
    profile: str | Path | None = None
    dynamic_shapes: Any = None
    cache: str | Path | None = None
    time_limit: float = inf
    progress: Progress = lambda _: None


def bisected(model: Any, samples: Any, engine: str | Engine, options: Options) -> Report:
    """The report on a bisection, whether or not there is a culprit; arguments as `bisect` has."""
    runs_in, question = engine_of(engine), _Question(options)
    supply, progress = Samples(samples), options.progress
    log = Log(progress, options.time_limit)
    progress("capturing")
    source = open_model(model, supply.first, options.dynamic_shapes, supply.some)
    _check(source)
    report = observe(source, supply, progress, tool="bisect")
    asked = question.of(source, supply)
    _check_draws(source, asked, supply.first)
    log.memory = Memory(_folder(options.cache), *_identity(source, supply, runs_in))
    planner = _planner(supply, progress) if options.fix else None
    measures = options.profile is not None
    hunt = Hunt(source, runs_in, asked, log, report.faults, planner, measures)
    hunt.run()
    if not log.trials:
        raise BadInput(
            f"{options.time_limit:g} s were over before the network ran once on '{runs_in.name}': "
            "give more"
        )
    if options.profile is not None:
        _add_to(Path(options.profile), hunt)
    return replace(report, bisection=_record(hunt, question, _alone(hunt, options.rank)))


def _record(hunt: Hunt, question: _Question, alone: tuple[Alone, ...]) -> Bisection:
    log, engine = hunt.log, hunt.engine
    return Bisection(
        engine=engine.name,
        version=version_of(engine),
        metric=question.name,
        tolerance=question.tolerance,
        operators=len(hunt.source.graph.nodes),
        error=hunt.error,
        mended=hunt.mended,
        floor=hunt.floor,
        complete=hunt.complete,
        builds=log.builds,
        seconds=log.seconds,
        culprits=tuple(hunt.culprits),
        trials=tuple(log.trials),
        alone=alone,
        notes=(*hunt.notes, *log.notes),
    )


class _Question:
    """The metric and the tolerance that the user has chosen. Raises BadInput."""

    def __init__(self, options: Options) -> None:
        self.name, metric = metric_of(options.metric)
        self.tolerance = options.tolerance
        if metric is None or not 0 <= self.tolerance < inf:
            raise BadInput(
                f"tolerance is {self.tolerance}: give the largest value of '{self.name}' to accept"
            )
        self.metric = metric

    def of(self, source: Source, supply: Samples) -> Question:
        """The same asked of a network's outputs on samples."""
        references = {call.number: _reference(source, call) for call in supply}
        return Question(supply, references, self.metric, self.tolerance)


def _check(source: Source) -> None:
    """Raises BadInput for what cannot be bisected."""
    if not any(value.floating for value in source.graph.values.values()):
        raise BadInput("the model computes with integers only: FP16 cannot hurt it")


def _check_draws(source: Source, question: Question, call: Call) -> None:
    """Raises BadInput where a remainder draws other random numbers than the whole network."""
    cuts = Cuts(source)
    for quarter in range(1, 4 if source.draws else 0):
        cut = cuts.at(cuts.last * quarter // 4)
        handed = {}
        if cut.handed:
            values = source.extract(None, cut.handed).evaluate(call, FLOAT32)
            handed = dict(zip(cut.handed, values, strict=True))
        reference = question.references[call.number]
        found = Remainder(source, cut).outputs(call, handed, reference)
        if question.error(call.number, found) > question.tolerance:
            raise BadInput(
                "the model draws random numbers, and a part of it draws others than the whole: "
                "pass them as an input"
            )


def _reference(source: Source, call: Call) -> Arrays:
    """The outputs in FP32. Raises BadInput where they are not finite, or are no arrays."""
    found = source.evaluate(call, FLOAT32)
    check_reference(found, call.number)
    if len(found) != len(source.graph.outputs):
        raise BadInput("the model returns numbers that are no tensors: return tensors alone")
    return found


def _identity(source: Source, supply: Samples, engine: Engine) -> tuple[str, ...]:
    """What an outcome depends on."""
    given = [digest_of(source.given(call)) for call in supply]
    return (source.fingerprint(), *given, engine.name, version_of(engine), version("halfsafe"))


def _folder(cache: str | Path | None) -> Path | None:
    return None if cache is None else Path(cache)


def _planner(supply: Samples, progress: Progress) -> Planner:
    def planned(source: Source) -> Source:
        references = References(source, FLOOR)
        preparation = Preparation(references, supply, Limits(), progress)
        prepared, _ = mended(references, preparation, supply, Standard(), Strict(), progress)
        return prepared.deployed(source)

    return planned


def _add_to(path: Path, hunt: Hunt) -> None:
    """Adds what the kernels of culprits bear to a profile, which is made where there is none."""
    known = Profile.load(path) if path.exists() else hunt.engine.profile
    name, version = hunt.engine.name, version_of(hunt.engine)
    if known.engine not in ("", name):
        raise BadInput(f"'{path}' is the profile of '{known.engine}', not of '{name}'")
    found = Profile(known.stores, hunt.inside, name, version)
    (found | known).save(path)


def _alone(hunt: Hunt, rank: int) -> tuple[Alone, ...]:
    """The single operators that hurt the most, of those for which there was time."""
    found: list[Alone] = []
    bench = hunt.bench(hunt.source)
    call = next(call for call in hunt.question.supply if call.number == bench.worst)
    try:
        for each in ranked(bench, call) if rank else ():
            found.append(each)
    except OutOfTime:
        hunt.notes.append(f"time ran out after {len(found)} single operators")
    return tuple(sorted(found, key=lambda a: -a.error)[:rank])
