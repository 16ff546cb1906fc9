"""A program in FP32, in FP16 and at the floor, side by side, node by node, in one pass."""

# torch.fx and torch.export are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate
from torch.random import fork_rng

from halfsafe.deviation import Comparison, Deviation, merge_comparisons, of_integers
from halfsafe.frontends.torch.measure import Observer
from halfsafe.frontends.torch.program import Program
from halfsafe.frontends.torch.strict import to_eleven_bits, to_float16
from halfsafe.ranges import Range, merge
from halfsafe.samples import Call


@dataclass(frozen=True, slots=True)
class Lanes:
    """One value three times: as FP32 has it, as FP16 has it, and rounded to 11 bits."""

    lanes: tuple[Any, Any, Any]


def compare(
    program: Program,
    calls: Iterable[Call],
    progress: Callable[[str], None] = lambda _: None,
    shown: Callable[[Call, Any, Any, Any], None] = lambda *_: None,
) -> tuple[dict[str, Range], dict[str, Comparison]]:
    """Ranges in FP32, and how far FP16 and the floor are from it, value by value.

    One pass a sample; no value of any lane is kept longer than the graph needs it, so that the
    memory is that of three evaluations. Raises BadInput for a misfit sample.
    """
    ranges: dict[str, Range] = {}
    compared: dict[str, Comparison] = {}
    for i, call in enumerate(calls):
        progress(f"comparing sample {i + 1} in FP16 with FP32")
        seen = _Comparing(program, call)
        program.evaluate(call, interpreter=seen)
        shown(call, *seen.outputs)
        ranges = merge(ranges, seen.observer.found)
        compared = merge_comparisons(compared, seen.compared)
    return ranges, compared


class _Comparing(fx.Interpreter):
    """Runs every node on three lanes, and compares what they give."""

    def __init__(self, program: Program, call: Call) -> None:
        super().__init__(program.runnable)
        self.observer = Observer(program, "full", call.number)
        self.compared: dict[str, Comparison] = {}
        self.outputs: tuple[Any, Any, Any] = ((), (), ())
        self._rounded = program.graph.rounded
        self._floating = {n for n, v in program.graph.values.items() if v.floating}

    def run_node(self, n: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n.op in ("placeholder", "get_attr"):
            results = (getattr(self, n.op)(n.target, args, kwargs),) * 3
        else:
            results = self._on_every_lane(n, args, kwargs)
        if n.op == "output":
            self.outputs = results
            return results[0]
        if n.target is operator.getitem:
            return Lanes(results)
        if isinstance(results[0], (tuple, list)):
            by_part = zip(*results, strict=True)
            parts = [self._stored(f"{n.name}.{i}", part) for i, part in enumerate(by_part)]
            first, second, third = zip(*parts, strict=True)
            return Lanes((first, second, third))
        return Lanes(self._stored(str(n.target) if n.op == "get_attr" else n.name, results))

    def _on_every_lane(self, n: fx.Node, args: Any, kwargs: Any) -> tuple[Any, Any, Any]:
        """What a node gives on each lane, from the same random numbers where it draws any."""

        def on(lane: int) -> Any:
            given, named = map_aggregate(
                (args, kwargs), lambda a: a.lanes[lane] if isinstance(a, Lanes) else a
            )
            return getattr(self, n.op)(n.target, given, named)

        with fork_rng(enabled=_draws(n)):
            first = on(0)
        with fork_rng(enabled=_draws(n)):
            second = on(1)
        return first, second, on(2)

    def _stored(self, name: str, results: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        """The lanes as they are stored, once they have been measured and compared."""
        reference, half, floor = results
        if not isinstance(reference, Tensor):
            return results
        if name not in self._floating:
            self.compared[name] = of_integers(
                *(x.numpy(force=True) for x in (half, floor, reference))
            )
            return results
        if name in self._rounded:
            half, floor = to_float16(half), to_eleven_bits(floor)
        self.observer(name, reference)
        source = self.observer.inherits.get(name)
        self.compared[name] = self.compared.get(source or "") or Comparison(
            _deviation(half, reference), _deviation(floor, reference), _differing(half, floor)
        )
        return reference, half, floor


def _draws(node: fx.Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _deviation(candidate: Tensor, reference: Tensor) -> Deviation:
    """As `halfsafe.deviation.deviation`; a shape that depends on rounding has nothing to compare.

    >>> _deviation(torch.tensor([1.0, torch.inf]), torch.tensor([2.0, 2.0]))
    Deviation(squared_error=1.0, squared_norm=8.0, nonfinite=1, count=2)
    """
    if candidate.shape != reference.shape:
        return Deviation(nonfinite=reference.numel(), count=reference.numel())
    wide = reference.double()
    difference = candidate.double() - wide
    counted = torch.isfinite(wide)
    squared = difference.square_()
    broken = counted & ~torch.isfinite(squared)
    return Deviation(
        squared_error=float(torch.where(counted & ~broken, squared, 0.0).sum()),
        squared_norm=float(torch.where(counted, wide, 0.0).square_().sum()),
        nonfinite=int(broken.sum()),
        count=int(counted.sum()),
    )


def _differing(half: Tensor, floor: Tensor) -> int:
    """Entries that are not the same; NaN is the same as NaN."""
    if half.shape != floor.shape:
        return half.numel()
    return int(((half != floor) & ~(half.isnan() & floor.isnan())).sum())
