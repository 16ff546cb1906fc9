"""A value carried divided by a power of two from one module to another, and folded."""

# Hooks are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import threading
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from halfsafe.errors import BadInput, FoldError
from halfsafe.frontends.torch.private import tree_leaves, tree_map
from halfsafe.graph import Kind
from halfsafe.manual.carrying import Carrying, Trace, is_floating
from halfsafe.rules import traits_of
from halfsafe.rules.solve import COMPUTED, Row, least, reads, stated


class _Thread(threading.local):
    mode: Carrying | None = None
    without_gradients: torch.no_grad | None = None


class Region:
    """What lies between two modules, while it is carried at an exponent.

    Raises BadInput for what is no module, for names that it does not have, and, while the model
    runs, for an operator through which the exponent does not pass.
    """

    def __init__(self, model: Any, start: str, ends: Sequence[str], exponent: int) -> None:
        if not isinstance(model, nn.Module):
            raise BadInput(f"the model is a {type(model).__name__}: pass a torch.nn.Module")
        self._model, self._exponent = model, exponent
        self._start = _submodule(model, start)
        self._ends = [_submodule(model, name) for name in ends]
        self._names = f"{start} to {' and '.join(ends)}"
        self._handles: list[RemovableHandle] = []
        self._thread = _Thread()
        self._trace: Trace | None = None

    @property
    def operators(self) -> tuple[str, ...]:
        """The operators through which the value was carried in the last call, in order."""
        return tuple(node.op for node in self._trace.nodes) if self._trace else ()

    def attach(self) -> None:
        """Puts hooks on the model and on the modules at which the region begins and ends."""
        model = self._model
        self._handles = [
            model.register_forward_pre_hook(self._begin, prepend=True),
            self._start.register_forward_pre_hook(self._divide, with_kwargs=True),
            *(end.register_forward_hook(self._multiply) for end in self._ends),
            model.register_forward_hook(self._finish, always_call=True),
        ]

    def detach(self) -> None:
        """Takes all hooks away again; also in the middle of a call that was interrupted."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._leave()

    def fold(self) -> None:
        """Makes it permanent: the model's own constants are changed, and nothing runs more.

        The first constants that the value meets divide, the last ones multiply. Raises FoldError
        where constants do not suffice, before any is changed, and BadInput before the first call.
        """
        if self._trace is None:
            raise BadInput(
                f"nothing has run from {self._names} yet: call the model once, then fold"
            )
        exponents = _solve(self._trace, self._exponent)
        held = {**dict(self._model.named_parameters()), **dict(self._model.named_buffers())}
        self.detach()
        with torch.no_grad():
            for name, k in exponents.items():
                held[name].mul_(2.0**-k)

    # Hooks

    def _begin(self, *_: Any) -> None:
        """Gradients are left out: they would be those of other constants."""
        self._leave()
        mode, without_gradients = Carrying(self._model, self._exponent), torch.no_grad()
        mode.__enter__()
        without_gradients.__enter__()
        self._thread.mode, self._thread.without_gradients = mode, without_gradients

    def _divide(self, _: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        mode = self._thread.mode

        def entered(x: Any) -> Any:
            return mode.enter(x) if mode and is_floating(x) else x

        return tree_map(entered, (args, kwargs))

    def _multiply(self, _: nn.Module, __: Any, result: Any) -> Any:
        mode = self._thread.mode
        if mode is None:
            return result
        tensors = [x for x in tree_leaves(result) if is_floating(x)]
        if mode.trace.entries and not any(map(mode.is_divided, tensors)):
            raise BadInput(f"what enters the region from {self._names} does not end divided")

        def left(x: Any) -> Any:
            return mode.leave(x) if is_floating(x) else x

        return tree_map(left, result)

    def _finish(self, _: nn.Module, __: Any, result: Any) -> None:
        mode = self._thread.mode
        self._leave()
        if mode is None or result is None:
            return
        if any(mode.is_divided(x) for x in tree_leaves(result) if is_floating(x)):
            raise BadInput(
                f"a value of the region from {self._names} leaves the model divided by "
                f"2**{self._exponent}: end the region at a module that all of it goes through"
            )
        self._trace = mode.trace

    def _leave(self) -> None:
        """Ends what this thread is in."""
        thread = self._thread
        if thread.mode is not None and thread.without_gradients is not None:
            thread.without_gradients.__exit__(None, None, None)
            thread.mode.__exit__(None, None, None)
            thread.mode = thread.without_gradients = None


def _submodule(model: nn.Module, name: str) -> nn.Module:
    known = dict(model.named_modules())
    if name not in known:
        close = get_close_matches(name, known, n=1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        raise BadInput(f"{type(model).__name__} has no module '{name}'{hint}")
    return known[name]


def _solve(trace: Trace, exponent: int) -> dict[str, int]:
    """Exponents of constants by which the trace is divided inside, and nothing at its rim.

    Raises FoldError where there are none.
    """
    graph, rim = trace.graph, _rim(trace)
    inside = [name for name in _divided(trace) if name not in rim]
    outside = {*trace.entries, *trace.exits, *trace.plain, *trace.read_outside} & {*graph.values}
    literals = [use for use, _ in reads(graph, (Kind.LITERAL,))]
    as_made: list[Row] = [{use: 1, name: -1} for use, name in reads(graph, _WITH_CONSTANTS)]
    solution = least(
        [*stated(graph), *as_made],
        {**dict.fromkeys(inside, exponent), **dict.fromkeys([*outside, *literals], 0)},
        reach=abs(exponent),
        small=[name for name, v in graph.values.items() if v.floating and name not in inside],
    )
    if solution is None:
        raise FoldError(
            "the constants do not suffice: begin and end the region at operators with weights, and "
            "none that other parts of the model read too; or keep the region as a context"
        )
    constants = [n for n, v in graph.values.items() if v.kind == Kind.CONSTANT]
    return {name: k for name in constants if (k := solution.get(name, 0))}


_WITH_CONSTANTS = (*COMPUTED, Kind.CONSTANT)
"""A constant has one exponent here: folding changes the model's own, and clones none."""


def _divided(trace: Trace) -> list[str]:
    """The values that are computed from what enters."""
    reached = set(trace.entries)
    for node in trace.nodes:
        if reached & set(node.inputs.values()):
            reached |= {o for o in node.outputs if trace.values[o].floating}
    return [name for name in trace.values if name in reached]


def _rim(trace: Trace) -> set[str]:
    """Values that are nothing but one that enters or leaves, moved or through a homogeneous one."""
    found = {*trace.entries, *trace.exits}
    passing = [n for n in trace.nodes if traits_of(n).passes]
    for node in passing:
        if found & set(node.inputs.values()):
            found |= set(node.outputs)
    for node in reversed(passing):
        if found & set(node.outputs):
            found |= set(node.inputs.values())
    return found
