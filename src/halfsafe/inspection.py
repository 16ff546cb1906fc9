"""Where FP16 breaks a model: every value measured in FP32, and run in FP16 beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import chain, islice
from typing import Any

from halfsafe.deviation import Comparison, merge_comparisons
from halfsafe.errors import BadInput
from halfsafe.frontends import open_model, process_group
from halfsafe.progress import Counted
from halfsafe.ranges import Range, merge
from halfsafe.report.data import Tool
from halfsafe.report.gather import observed
from halfsafe.report.report import Report
from halfsafe.rules.traits import natural_scale
from halfsafe.samples import SOME, Call, calls, length_of
from halfsafe.sharing import ALONE, shared
from halfsafe.source import Arrays, Progress, Source
from halfsafe.verdict import Finding, findings_of


def inspect(
    model: Any,
    samples: Any,
    *,
    headroom: int = 1,
    dynamic_shapes: Any = None,
    distributed: bool = False,
    weights: Any = None,
    ranges_only: bool = False,
    progress: Progress = lambda _: None,
) -> Report:
    """The range of every value, and every fault with its producer. Nothing is changed.

    `samples` is one sample (a tensor, a tuple of positional arguments or a dict of keyword
    arguments) or an iterable of them, taken one by one. The network runs once for each, in FP32, in
    FP16 and rounded to 11 bits side by side, so that a value that is finite and wrong is found
    where it is born. `headroom` is the number of bits above the largest magnitude seen within which
    an overflow counts as latent. With `distributed`, each of the n processes of a torch.distributed
    group takes every nth sample, and all of them return the report on all samples. `weights` are
    those of a module on the meta device, as `fix` takes them. With `ranges_only` the network runs
    in FP32 alone, in less than half of the time: what does not fit is found, and not what becomes
    of it or what only needs more bits, so that such a report is never safe. Raises BadInput and
    CaptureError.
    """
    if headroom < 0:
        raise BadInput(f"headroom is {headroom}: give a number of bits, 0 or more")
    stream = calls(samples)
    first = next(stream)
    progress = Counted(progress, length_of(samples))
    streamed = isinstance(samples, Iterator)  # its samples are not held
    others = list[Call]() if streamed else list(islice(calls(samples), 1, SOME))
    progress("capturing")
    source = open_model(model, first, dynamic_shapes, others, weights)
    if not any(v.floating for v in source.graph.values.values()):
        raise BadInput("the model computes with integers only: FP16 cannot hurt it")
    count = _Count(chain([first], stream))
    group = process_group() if distributed else ALONE
    look = _measure if ranges_only else _compare
    parts = shared(group, count, lambda own: look(source, own, progress))
    group.leave()
    seen = reduce(_Seen.__or__, parts)
    notes = ["FP16 was not run: ranges tell what does not fit, and not what needs more bits"]
    return _report(source, seen, "inspect", count.seen, headroom, notes * ranges_only)


def observe(source: Source, all_calls: Iterable[Call], progress: Progress, tool: Tool) -> Report:
    """The same of a model that is open, for another tool that begins with it.

    Where FP16 does not run to the end, since it spoils an index, values are measured in FP32 alone.
    """
    count, why = _Count(all_calls), list[str]()
    try:
        seen = _compare(source, count, progress)
    except BadInput as error:
        count = _Count(all_calls)
        seen = _measure(source, count, progress)
        why.append(f"FP16 does not run to the end of the graph: {error}")
    return _report(source, seen, tool, count.seen, headroom=1, notes=why)


def _report(
    source: Source,
    seen: _Seen,
    tool: Tool,
    samples: int,
    headroom: int,
    notes: Iterable[str] = (),
) -> Report:
    return observed(
        tool=tool,
        model=source.name,
        command=f"halfsafe.{tool}(model, samples)",
        samples=samples,
        headroom=headroom,
        graph=source.graph,
        ranges=source.constants() | seen.ranges,
        compared=seen.compared,
        findings=seen.findings,
        notes=(*source.notes, *notes),
    )


@dataclass(frozen=True)
class _Seen:
    """What some samples have shown: of every value, and of every output of every sample."""

    ranges: dict[str, Range]
    compared: dict[str, Comparison]
    findings: tuple[Finding, ...]

    def __or__(self, other: _Seen) -> _Seen:
        return _Seen(
            merge(self.ranges, other.ranges),
            merge_comparisons(self.compared, other.compared),
            tuple(sorted((*self.findings, *other.findings), key=lambda f: (f.sample, f.output))),
        )


def _measure(source: Source, all_calls: Iterable[Call], progress: Progress) -> _Seen:
    return _Seen(source.measure(all_calls, progress), {}, ())


def _compare(source: Source, all_calls: Iterable[Call], progress: Progress) -> _Seen:
    graph, findings = source.graph, list[Finding]()
    scales = [natural_scale(graph, name) for name in graph.outputs]

    def show(call: Call, reference: Arrays, half: Arrays, floor: Arrays) -> None:
        findings.extend(findings_of(graph.outputs, scales, call.number, reference, half, floor))

    ranges, compared = source.compare(all_calls, progress, show)
    return _Seen(ranges, compared, tuple(findings))


class _Count:
    """Counts calls as they go by."""

    def __init__(self, source: Iterable[Call]) -> None:
        self._source, self.seen = source, 0

    def __iter__(self) -> Iterator[Call]:
        for call in self._source:
            self.seen += 1
            yield call
