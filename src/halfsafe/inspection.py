"""Where FP16 breaks a model: every value measured in FP32, and run in FP16 beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from halfsafe.deviation import Comparison, merge_comparisons
from halfsafe.errors import BadInput, HalfsafeError
from halfsafe.frontends import open_model, process_group
from halfsafe.ranges import Range, merge
from halfsafe.report.model import Report, observed
from halfsafe.samples import Call, calls
from halfsafe.source import Group, Progress, Source


def inspect(
    model: Any,
    samples: Any,
    *,
    headroom: int = 1,
    dynamic_shapes: Any = None,
    distributed: bool = False,
    progress: Progress = lambda _: None,
) -> Report:
    """The range of every value, and every fault with its producer. Nothing is changed.

    `samples` is one sample (a tensor, a tuple of positional arguments or a dict of keyword
    arguments) or an iterable of them, taken one by one. The network runs once for each, in FP32, in
    FP16 and rounded to 11 bits side by side, so that a value that is finite and wrong is found
    where it is born. `headroom` is the number of bits above the largest magnitude seen within which
    an overflow counts as latent. With `distributed`, each of the n processes of a torch.distributed
    group takes every nth sample, and all of them return the report on all samples.
    Raises BadInput and CaptureError.
    """
    if headroom < 0:
        raise BadInput(f"headroom is {headroom}: give a number of bits, 0 or more")
    stream = calls(samples)
    first = next(stream)
    progress("capturing")
    source = open_model(model, first, dynamic_shapes)
    if not any(v.floating for v in source.graph.values.values()):
        raise BadInput("the model computes with integers only: FP16 cannot hurt it")
    count = _Count(chain([first], stream))
    if distributed:
        ranges, compared = _compare_together(source, count, process_group(), progress)
    else:
        ranges, compared = source.compare(count, progress)
    return observed(
        tool="inspect",
        model=source.name,
        command="halfsafe.inspect(model, samples)",
        samples=count.seen,
        headroom=headroom,
        graph=source.graph,
        ranges=source.constants() | ranges,
        compared=compared,
        notes=source.notes,
    )


Observed = tuple[dict[str, Range], dict[str, Comparison]]


def _compare_together(
    source: Source, all_calls: Iterable[Call], group: Group, progress: Progress
) -> Observed:
    """Each process compares its part of the samples; an error in one is raised in all."""
    mine: Observed | HalfsafeError
    try:
        own = (call for call in all_calls if call.number % group.size == group.rank)
        mine = source.compare(own, progress)
    except HalfsafeError as error:
        mine = error
    ranges: dict[str, Range] = {}
    compared: dict[str, Comparison] = {}
    parts = group.gather(mine)
    group.leave()
    for part in parts:
        if isinstance(part, HalfsafeError):
            raise part
        ranges = merge(ranges, part[0])
        compared = merge_comparisons(compared, part[1])
    return ranges, compared


class _Count:
    """Counts calls as they go by."""

    def __init__(self, source: Iterable[Call]) -> None:
        self._source, self.seen = source, 0

    def __iter__(self) -> Iterator[Call]:
        for call in self._source:
            self.seen += 1
            yield call
