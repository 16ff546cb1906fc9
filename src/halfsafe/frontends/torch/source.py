"""A PyTorch model as the pipeline sees it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from halfsafe.deviation import Comparison
from halfsafe.edits import Edit
from halfsafe.errors import CaptureError
from halfsafe.frontends.torch.capture import capture, check_call, run_model
from halfsafe.frontends.torch.compare import compare
from halfsafe.frontends.torch.deliver import TorchModel, arrays
from halfsafe.frontends.torch.edit import apply
from halfsafe.frontends.torch.measure import measure, measure_constants
from halfsafe.frontends.torch.program import Program
from halfsafe.frontends.torch.strict import evaluate_rounded, to_eleven_bits, to_float16
from halfsafe.graph import Graph
from halfsafe.ranges import Range
from halfsafe.samples import Call
from halfsafe.source import Arrays, Kernels, Precision, Progress, Shown
from halfsafe.verdict import CAPTURED


@dataclass(frozen=True)
class TorchSource:
    """The user's module, untouched, and the program captured from it."""

    model: nn.Module
    program: Program
    captured_exactly: bool
    notes: tuple[str, ...]

    @classmethod
    def open(
        cls,
        model: nn.Module,
        call: Call,
        dynamic_shapes: Any = None,
        others: Sequence[Call] = (),
    ) -> Self:
        """Captures a module, sizes on which `others` differ free. Raises BadInput, CaptureError."""
        found = capture(model, call, dynamic_shapes, others)
        if found.difference > CAPTURED:
            raise CaptureError(
                f"torch.export gives another function than {type(model).__name__}: their outputs "
                f"differ by {found.difference:.2g} in FP32 on sample 0; forward() may ask whether "
                "it is exported, or draw numbers"
            )
        return cls(model, found.program, found.difference == 0, found.notes)

    @property
    def name(self) -> str:
        return type(self.model).__name__

    @property
    def graph(self) -> Graph:
        return self.program.graph

    def measure(self, calls: Iterable[Call], progress: Progress) -> dict[str, Range]:
        return measure(self.program, _checked(calls), progress=progress)

    def compare(
        self, calls: Iterable[Call], progress: Progress, shown: Shown | None = None
    ) -> tuple[dict[str, Range], dict[str, Comparison]]:
        def show(call: Call, *lanes: Sequence[Any]) -> None:
            if shown is not None:
                shown(call, *(arrays(lane) for lane in lanes))

        return compare(self.program, _checked(calls), progress, show)

    def constants(self) -> dict[str, Range]:
        return measure_constants(self.program)

    @property
    def holds_half(self) -> bool:
        held = (x for x in self.program.constants.values() if x.dtype == torch.float32)
        return all(torch.equal(to_float16(x), x) for x in held)

    def apply(self, edits: Iterable[Edit]) -> Self:
        return replace(self, program=apply(self.program, edits))

    def reference(self, call: Call) -> Arrays:
        check_call(call)
        return arrays(pytree.tree_leaves(run_model(self.model, call)))

    def evaluate(self, call: Call, precision: Precision) -> Arrays:
        match precision:
            case "float32":
                return arrays(self.program.evaluate(call))
            case "float16":
                return arrays(evaluate_rounded(self.program, call, to_float16))
            case "floor":
                return arrays(evaluate_rounded(self.program, call, to_eleven_bits))

    def half_outputs(self, call: Call) -> Arrays:
        return arrays(pytree.tree_leaves(run_model(self.program.module(torch.float16), call)))

    def is_half(self, candidate: Any) -> bool:
        return isinstance(candidate, nn.Module) and any(
            p.dtype == torch.float16 for p in candidate.parameters()
        )

    def running(self, candidate: Any) -> HalfModule:
        return HalfModule(candidate, _places(self.program.unflatten(self.program.graph.outputs)))

    def forms(self, original: Self, deployed: Self, call: Call, dynamic_shapes: Any) -> TorchModel:
        return TorchModel(
            original.model,
            original.program,
            self.program,
            deployed.program,
            call,
            dynamic_shapes,
        )


@dataclass(frozen=True)
class HalfModule:
    """A module in FP16, run by PyTorch's own kernels on inputs cast to FP16."""

    module: nn.Module
    places: tuple[str, ...] = ()
    kernels: Kernels = "half"

    def evaluate(self, call: Call, precision: Precision) -> Arrays:
        raise NotImplementedError(f"a module in FP16 cannot be evaluated in {precision}")

    def half_outputs(self, call: Call) -> Arrays:
        def cast(x: Any) -> Any:
            return x.half() if isinstance(x, Tensor) and x.is_floating_point() else x

        args, kwargs = pytree.tree_map(cast, (call.args, call.kwargs))
        found = run_model(self.module, Call(args, kwargs))
        leaves, own = pytree.tree_leaves(found), _places(found)
        if sorted(own) == sorted(self.places):  # the keys of a dict may be in another order
            leaves = [leaves[own.index(place)] for place in self.places]
        return arrays(leaves)


def _places(outputs: Any) -> tuple[str, ...]:
    """Where each flat output lies in the structure that a model returns."""
    return tuple(pytree.keystr(path) for path, _ in pytree.tree_leaves_with_path(outputs))


def _checked(calls: Iterable[Call]) -> Iterable[Call]:
    for call in calls:
        check_call(call)
        yield call
