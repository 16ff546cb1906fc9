"""Hooks on a whole hierarchy of modules, and the report on what they have seen."""

# Hooks are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from halfsafe.deviation import Comparison, Deviation
from halfsafe.errors import BadInput
from halfsafe.faults import FaultKind
from halfsafe.formats import FLOAT16
from halfsafe.frontends.torch.arithmetic import range_of
from halfsafe.graph import Graph, Kind, Node, Value
from halfsafe.ranges import Range, merge
from halfsafe.report.gather import observed
from halfsafe.report.report import Report
from halfsafe.watching.calls import OperatorMode, Run, measuring
from halfsafe.watching.sketch import is_measurable
from halfsafe.watching.transitions import Transition

HALF = (torch.float16, torch.bfloat16)


class _Thread(threading.local):
    run: Run | None = None
    mode: OperatorMode | None = None


class Watcher:
    """Sees every call of a model's modules. Calls in several threads are kept apart until they end.

    Raises BadInput for what is no module, and for a `report` before any call.
    """

    def __init__(
        self,
        model: Any,
        operators: bool,
        listener: Callable[[Transition], object] | None,
        headroom: int,
        entries: int | None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise BadInput(f"the model is a {type(model).__name__}: pass a torch.nn.Module")
        self._model, self._operators, self._listener = model, operators, listener
        self._headroom, self._entries = headroom, entries
        self._held = [*model.named_parameters(), *model.named_buffers()]
        self._names = {id(x): name for name, x in self._held}
        self._handles: list[RemovableHandle] = []
        self._thread = _Thread()
        self._lock = threading.Lock()
        self._samples = 0
        self._nodes: dict[str, Node] = {}
        self._values: dict[str, Value] = {}
        self._ranges: dict[str, Range] = {}
        self._dtypes: dict[str, Any] = {}
        self._moved: dict[str, str] = {}
        self._outputs: dict[str, None] = {}
        self._on_host = all(x.is_cpu for _, x in self._held)

    def attach(self) -> None:
        """Puts a hook before and after every module."""
        for path, module in self._model.named_modules():
            before = self._before(path or type(module).__name__, module)
            self._handles += [
                module.register_forward_pre_hook(before, with_kwargs=True),
                module.register_forward_hook(self._after, with_kwargs=True, always_call=True),
            ]

    def detach(self) -> None:
        """Takes all hooks away again."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self._thread.mode is not None:  # the call was interrupted
            self._thread.mode.__exit__(None, None, None)
        self._thread.run = self._thread.mode = None

    def report(self) -> Report:
        """The ranges of all values and the faults, over all calls so far."""
        with self._lock:
            if not self._samples:
                raise BadInput("the model was not called while it was watched: nothing to report")
            graph = self._graph()
            ranges = self._ranges | {
                name: range_of(x)
                for name, x in self._held
                if name in graph.values and is_measurable(x)
            }
            for name, source in self._moved.items():
                if source in ranges:
                    ranges[name] = ranges[source]
            return observed(
                tool="watch",
                model=type(self._model).__name__,
                command="with halfsafe.watch(model) as log: model(x)",
                samples=self._samples,
                headroom=self._headroom,
                graph=graph,
                ranges=ranges,
                compared=self._compared(ranges),
                notes=self._notes(),
            )

    # Hooks

    def _before(self, path: str, module: nn.Module) -> Callable[[nn.Module, Any, Any], None]:
        op = _kind(module)

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if torch.compiler.is_compiling():
                return
            run = self._thread.run
            outermost = run is None
            if run is None:
                with self._lock:
                    self._samples += 1
                    sample = self._samples - 1
                seen = self._nodes, self._values
                self._thread.run = run = Run(sample, self._entries, self._names, seen)
            with measuring():
                given = {f"input.{i}" if i else "input": x for i, x in enumerate(args)} | kwargs
                run.enter(path, op, given)
            if outermost and self._operators:
                self._thread.mode = OperatorMode(run)
                self._thread.mode.__enter__()

        return hook

    def _after(self, _: nn.Module, __: Any, ___: Any, result: Any) -> None:
        run = self._thread.run
        if run is None or torch.compiler.is_compiling():
            return
        if len(run.frames) == 1 and self._thread.mode is not None:
            mode, self._thread.mode = self._thread.mode, None
            mode.__exit__(None, None, None)
        with measuring():
            run.leave(result)
            if not run.frames:
                self._thread.run = None
                self._settle(run)
                self._commit(run)
            elif self._listener is not None and self._on_host:
                self._settle(run)

    def _settle(self, run: Run) -> None:
        """Reads what was measured so far, and tells the listener what that means."""
        run.settle()
        if self._listener is not None:
            nodes = list(run.nodes.values())
            for node in nodes[run.told :]:
                for transition in _transitions(node, run, exact=self._operators):
                    self._listener(transition)
            run.told = len(nodes)

    def _commit(self, run: Run) -> None:
        """Makes what one call has shown part of the whole."""
        with self._lock:
            for name, node in run.nodes.items():
                known = self._nodes.get(name)
                if known is node:
                    continue
                if known is None or not node.inputs.keys() <= known.inputs.keys():
                    inputs = {**known.inputs, **node.inputs} if known else node.inputs
                    self._nodes[name] = replace(node, inputs=inputs)
            for name, value in run.values.items():
                self._values.setdefault(name, value)
            self._dtypes |= run.dtypes
            self._moved |= run.moved
            self._outputs |= run.outputs
            self._ranges = merge(self._ranges, run.ranges)

    # Reporting

    def _graph(self) -> Graph:
        """What was seen as a graph; a module reads its own parameters as constants."""
        nodes = [*self._nodes.values()]
        if not self._operators:
            nodes = [replace(n, inputs={**n.inputs, **self._own(n)}) for n in nodes]
        read = {value for node in nodes for value in node.inputs.values()}
        values = {
            name: Value(
                name, Kind.CONSTANT, is_measurable(x), self._stored(x.dtype), tuple(x.shape)
            )
            for name, x in self._held
            if name in read
        }
        for name, value in self._values.items():
            bounded = value.floating and self._stored(self._dtypes.get(name))
            values[name] = replace(value, bounded=bounded)
        inputs = [name for name, value in values.items() if value.kind == Kind.INPUT]
        return Graph(tuple(nodes), values, tuple(inputs), tuple(self._outputs))

    def _own(self, node: Node) -> dict[str, str]:
        """The parameters and buffers of the module that a node is a call of."""
        if node.op.endswith(".forward"):
            return {}
        return self._parts.get(node.module, {})

    @cached_property
    def _parts(self) -> dict[str, dict[str, str]]:
        """Floating parameters and buffers by module and by their names in it."""
        found: dict[str, dict[str, str]] = {}
        for name, x in self._held:
            path, _, leaf = name.rpartition(".")
            if is_measurable(x):
                found.setdefault(path or type(self._model).__name__, {})[leaf] = name
        return found

    def _stored(self, dtype: torch.dtype | None) -> bool:
        """Whether a dtype is the one that is deployed: FP16 in a model that is in FP16 already."""
        if dtype is None or not dtype.is_floating_point:
            return False
        return dtype in HALF or not self._is_half

    @cached_property
    def _is_half(self) -> bool:
        return any(x.dtype in HALF for _, x in self._held)

    def _compared(self, ranges: dict[str, Range]) -> dict[str, Comparison]:
        """What FP16 itself has lost: nothing but inf and NaN can be told without a reference."""
        return {
            name: Comparison(
                half=Deviation(nonfinite=found.nonfinite, count=found.count),
                differing=found.nonfinite,
            )
            for name, found in ranges.items()
            if found.nonfinite and self._dtypes.get(name) == torch.float16
        }

    def _notes(self) -> tuple[str, ...]:
        if self._entries is None:
            return ()
        return (f"amax is exact, histograms are of some {self._entries} entries of each tensor",)


def _transitions(node: Node, run: Run, *, exact: bool) -> Iterator[Transition]:
    """Faults that begin or end at a node.

    Unless operators are seen exactly, what a container or functional code ends is not known.
    """
    before = {_fault(run.ranges.get(v)) for v in node.inputs.values()} - {None}
    after = {_fault(run.ranges.get(v)) for v in node.outputs} - {None}
    ends = before if exact or not any(k.startswith("part.") for k in node.inputs) else set()
    amax = max((run.ranges[v].amax for v in node.outputs if v in run.ranges), default=0.0)
    for begins, kinds in ((True, after - before), (False, ends - after)):
        for kind in kinds:
            assert kind is not None
            yield Transition(begins, kind, node.name, node.op, amax, run.sample)


def _fault(measured: Range | None) -> FaultKind | None:
    """What is wrong with a tensor as a whole, for all that its extremes tell."""
    if measured is None or not (measured.amax or measured.nonfinite):
        return None
    if measured.nonfinite or measured.amax > FLOAT16.max:
        return FaultKind.OVERFLOW
    return FaultKind.UNDERFLOW if measured.amax < FLOAT16.smallest_normal else None


def _kind(module: nn.Module) -> str:
    """What a module is: ``nn.Linear`` for PyTorch's own, the class for one of the user's."""
    kind = type(module)
    own = kind.__module__.startswith("torch.nn.")
    return f"nn.{kind.__name__}" if own else kind.__name__
