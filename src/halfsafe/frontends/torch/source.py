"""A PyTorch model as the pipeline sees it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from numpy.typing import NDArray
from torch import nn

from halfsafe.edits import Edit
from halfsafe.errors import CaptureError
from halfsafe.formats import FLOAT16
from halfsafe.frontends.torch.arithmetic import arrays, rounded
from halfsafe.frontends.torch.capture import capture
from halfsafe.frontends.torch.deliver import HalfModule, TorchDelivery
from halfsafe.frontends.torch.door import check_call
from halfsafe.frontends.torch.edit import apply
from halfsafe.frontends.torch.extract import arguments, extract
from halfsafe.frontends.torch.model import Opened
from halfsafe.frontends.torch.program import Program
from halfsafe.frontends.torch.trees import flat, places_of
from halfsafe.frontends.torch.weights import Weights
from halfsafe.graph import Kind
from halfsafe.measure import Measuring, fingerprint
from halfsafe.ranges import Range
from halfsafe.samples import Call
from halfsafe.source import Arrays
from halfsafe.verdict import CAPTURED


@dataclass(frozen=True)
class TorchPart(Measuring[Program]):
    """A program that runs in FP32 and in FP16."""

    program: Program

    @property
    def steps(self) -> Sequence[tuple[str, ...]]:
        return [(node.name,) for node in self.graph.nodes]

    @property
    def draws(self) -> bool:
        return self.program.draws

    def fingerprint(self) -> str:
        held = self.program.constants
        arrays = ((name, held[name].detach().cpu().numpy()) for name in sorted(held))
        return fingerprint(self.graph, arrays)

    def extract(self, inputs: Sequence[str] | None, outputs: Sequence[str]) -> TorchPart:
        return TorchPart(extract(self.program, inputs, outputs))

    def arguments(self, values: Mapping[str, Any]) -> Call:
        return arguments(self.program, values)

    def given(self, call: Call) -> Mapping[str, Any]:
        return dict(zip(self.graph.inputs, self.program.flatten(call), strict=True))

    def half(self) -> HalfModule:
        return HalfModule(self.program.module(torch.float16), casts=False)

    def array(self, constant: str) -> NDArray[Any]:
        return self.program.constants[constant].detach().cpu().numpy()

    def run_node(self, node: str, values: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        given = {name: torch.as_tensor(x) for name, x in values.items()}
        made = self.program.run_node(node, given)
        return [x.cpu().resolve_conj().resolve_neg().numpy() for x in made]


@dataclass(frozen=True)
class TorchSource(TorchPart):
    """The user's module, untouched, and the program captured from it."""

    opened: Opened
    captured_exactly: bool
    notes: tuple[str, ...]

    @classmethod
    def open(
        cls,
        model: nn.Module,
        call: Call,
        dynamic_shapes: Any = None,
        others: Sequence[Call] = (),
        weights: Weights | None = None,
        *,
        runs: bool = True,
    ) -> Self:
        """Captures a module, sizes on which `others` differ free. Raises BadInput, CaptureError."""
        opened = Opened.of(model, weights)
        found = capture(opened, call, dynamic_shapes, others, runs=runs)
        if found.difference > CAPTURED:
            raise CaptureError(
                f"torch.export gives another function than {type(model).__name__}: their outputs "
                f"differ by {found.difference:.2g} in FP32 on sample 0; forward() may ask whether "
                "it is exported, or draw numbers"
            )
        return cls(found.program, opened, found.difference == 0, found.notes)

    @property
    def model(self) -> nn.Module:
        """The user's own."""
        return self.opened.module

    @property
    def name(self) -> str:
        return self.opened.name

    def constants(self) -> dict[str, Range]:
        values = self.program.graph.values.values()
        return {
            v.name: self.program.constants.sources[v.name].range
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

    def reference(self, call: Call, computed: Arrays | None = None) -> Arrays:
        del computed  # of another sample than the first, the graph may be another function
        check_call(call)
        return arrays(flat(self.opened.run(call)))

    def is_half(self, candidate: Any) -> bool:
        return isinstance(candidate, nn.Module) and any(
            p.dtype == torch.float16 for p in candidate.parameters()
        )

    def running(self, candidate: Any) -> HalfModule:
        leaves = [str(i) for i in range(self.program.out_spec.num_leaves)]
        return HalfModule(candidate, places_of(self.program.unflatten(leaves)))

    def deliver(self, original: Self, deployed: Self, call: Call) -> TorchDelivery:
        return TorchDelivery(
            original.opened,
            original.program,
            self.program,
            deployed.program,
            call,
        )
