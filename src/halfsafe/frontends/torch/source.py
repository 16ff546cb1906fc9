"""A PyTorch model as the pipeline sees it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from halfsafe.edits import Edit
from halfsafe.errors import CaptureError
from halfsafe.formats import FLOAT16, FloatFormat
from halfsafe.frontends.torch.arithmetic import arrays, range_of, rounded
from halfsafe.frontends.torch.capture import capture, run_model
from halfsafe.frontends.torch.deliver import TorchModel
from halfsafe.frontends.torch.door import check_call
from halfsafe.frontends.torch.edit import apply
from halfsafe.frontends.torch.program import Program
from halfsafe.graph import Kind
from halfsafe.measure import Measuring
from halfsafe.ranges import Range
from halfsafe.samples import Call
from halfsafe.source import Arrays, Kernels
from halfsafe.verdict import CAPTURED


@dataclass(frozen=True)
class TorchSource(Measuring[Program]):
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

    def constants(self) -> dict[str, Range]:
        values = self.program.graph.values.values()
        return {
            v.name: range_of(self.program.constants[v.name])
            if v.number is None
            else Range.of(v.number)
            for v in values
            if v.floating and v.kind in (Kind.CONSTANT, Kind.LITERAL)
        }

    @property
    def holds_half(self) -> bool:
        held = (x for x in self.program.constants.values() if x.dtype == torch.float32)
        return all(torch.equal(rounded(x, FLOAT16), x) for x in held)

    def apply(self, edits: Iterable[Edit]) -> Self:
        return replace(self, program=apply(self.program, edits))

    def reference(self, call: Call) -> Arrays:
        check_call(call)
        return arrays(pytree.tree_leaves(run_model(self.model, call)))

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

    def evaluate(self, call: Call, fmt: FloatFormat) -> Arrays:
        raise NotImplementedError(f"a module in FP16 cannot be evaluated in {fmt.name}")

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
