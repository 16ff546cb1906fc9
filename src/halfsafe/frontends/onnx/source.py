"""An ONNX model as the pipeline sees it."""

# onnx_ir is only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx_ir as ir

from halfsafe.deviation import same
from halfsafe.edits import Edit
from halfsafe.errors import BadInput
from halfsafe.formats import FLOAT16
from halfsafe.frontends.onnx.arithmetic import arrays, chunks, range_of, rounded
from halfsafe.frontends.onnx.deliver import HalfFile, OnnxDelivery
from halfsafe.frontends.onnx.draws import model_draws, unseeded
from halfsafe.frontends.onnx.edit import apply
from halfsafe.frontends.onnx.extract import extract, steps
from halfsafe.frontends.onnx.feeds import feeds_of
from halfsafe.frontends.onnx.file import Given, check_text, model_of
from halfsafe.frontends.onnx.flatten import flatten
from halfsafe.frontends.onnx.half import to_float16
from halfsafe.frontends.onnx.opset import raise_old
from halfsafe.frontends.onnx.parts import operator_name, parts
from halfsafe.frontends.onnx.program import OnnxProgram, initialisers, open_program
from halfsafe.frontends.onnx.run import Evaluator, as_it_is, constant
from halfsafe.frontends.onnx.runtime import Sessions, check_versions, data_files, fits_session
from halfsafe.frontends.onnx.values import bodies_of, called, is_cast
from halfsafe.measure import Measuring, fingerprint
from halfsafe.ranges import Range
from halfsafe.rules import LAWS
from halfsafe.rules.traits import COMPARES
from halfsafe.samples import Call
from halfsafe.source import Arrays


@dataclass(frozen=True)
class OnnxPart(Measuring[OnnxProgram]):
    """A program that runs in FP32 and in FP16."""

    program: OnnxProgram

    @property
    def steps(self) -> Sequence[tuple[str, ...]]:
        return steps(self.program)

    @property
    def draws(self) -> bool:
        return model_draws(self.program.model)

    def fingerprint(self) -> str:
        model = self.program.model
        names = sorted(model.graph.initializers)
        return fingerprint(self.graph, ((name, constant(model, name)) for name in names))

    def extract(self, inputs: Sequence[str] | None, outputs: Sequence[str]) -> OnnxPart:
        return OnnxPart(extract(self.program, inputs, outputs))

    def arguments(self, values: Mapping[str, Any]) -> Call:
        return Call((), dict(values), computed=True)

    def given(self, call: Call) -> Mapping[str, Any]:
        return feeds_of(self.program.model, call)

    @cached_property
    def _converted(self) -> HalfFile:
        return HalfFile(to_float16(self.program.model, float32=self.program.float32))

    def half(self) -> HalfFile:
        return self._converted


@dataclass(frozen=True)
class OnnxSource(OnnxPart):
    """The user's model, untouched, and the flat program made of it."""

    file: Given
    model: ir.Model
    name: str
    captured_exactly: bool
    notes: tuple[str, ...] = ()

    @classmethod
    def open(cls, given: Given, call: Call) -> Self:
        """Reads, checks and flattens a model. Raises BadInput and CaptureError."""
        model = model_of(given)
        name = Path(given).stem if isinstance(given, (str, Path)) else str(model.graph.name)
        check_text(model)
        check_versions(model)
        raised = raise_old(model)
        program = open_program(raised, call)
        _check_constants(program)
        notes = (*_raised(model, raised), *_closed(program), *_drawn(model))
        opened = cls(program, given, model, name, captured_exactly=True, notes=notes)
        if not fits_session(model):
            return opened._noted("over 2 GiB: proved node by node, not in one session")
        if opened._is_exact(call):
            return opened
        differs = replace(opened, captured_exactly=False)
        return differs._noted("the flat graph is not bit-equal to the file")

    def _noted(self, note: str) -> Self:
        return replace(self, notes=(*self.notes, note))

    def _is_exact(self, call: Call) -> bool:
        """Whether the flat graph gives the file's bits: node by node, or else in one session."""
        known = self.reference(call)
        by_nodes = arrays(x for (x,) in self.program.evaluate(call, as_it_is))
        if all(map(same, by_nodes, known)):
            return True
        return all(map(same, arrays(self.program.run(call)), known))

    def constants(self) -> dict[str, Range]:
        """Ranges of the initialisers, one in memory at a time, and of single numbers."""
        values = self.graph.values.items()
        return {
            **{name: range_of(x) for name, x in initialisers(self.program)},
            **{name: Range.of(v.number) for name, v in values if v.number is not None},
        }

    @property
    def holds_half(self) -> bool:
        held = (constant(self.program.model, n) for n in self.program.model.graph.initializers)
        parts = (part for x in held if x.dtype == np.float32 for part in chunks(x))
        return all(np.array_equal(rounded(part, FLOAT16), part) for part in parts)

    def apply(self, edits: Iterable[Edit]) -> Self:
        return replace(self, program=apply(self.program, edits))

    @cached_property
    def _original(self) -> Sessions:
        return Sessions(self.model)

    def reference(self, call: Call) -> Arrays:
        if fits_session(self.model):
            return arrays(self._original.run(call))
        outputs = Evaluator(flatten(self.model)).run(call, as_it_is)
        return arrays(x for (x,) in outputs)

    def is_half(self, candidate: Any) -> bool:
        model = model_of(candidate)
        computed = (output for node in model.graph for output in node.outputs)
        used = (v for v in model.graph.initializers.values() if not _only_cast(v))
        values = (*used, *model.graph.inputs, *computed)
        cast = (n.attributes.get_int("to", 0) for n in model.graph if n.op_type == "Cast")
        return ir.DataType.FLOAT16 in cast or any(v.dtype == ir.DataType.FLOAT16 for v in values)

    def running(self, candidate: Any) -> HalfFile:
        return HalfFile(model_of(candidate), tuple(str(v.name) for v in self.model.graph.outputs))

    def deliver(
        self, original: Self, deployed: Self, call: Call, dynamic_shapes: Any
    ) -> OnnxDelivery:
        read = data_files(self.model)
        return OnnxDelivery(original.file, self.program, deployed.program, call, read)


def _drawn(model: ir.Model) -> list[str]:
    """A note where operators draw other numbers in each run of the file."""
    names = [called(node) for node in unseeded(model)]
    if not names:
        return []
    return [
        f"{len(names)} operators draw numbers without a seed, {min(names)} among them: measured "
        "and proved on the numbers of one seed"
    ]


def _closed(program: OnnxProgram) -> list[str]:
    """A note where bodies are not looked into."""
    nodes = {part.node for part in parts(program.model.graph) if part.entries is None}
    names = [called(node) for node in nodes if bodies_of(node)]
    if not names:
        return []
    return [
        f"{len(names)} operators with bodies of unknown types are pinned, {min(names)} among them: "
        "onnx cannot infer what they hold"
    ]


def _check_constants(program: OnnxProgram) -> None:
    """Raises BadInput for initialisers that hold NaN, or +inf as no bound; -inf may be a mask."""
    for name, value in program.model.graph.initializers.items():
        x = constant(program.model, name)
        if x.dtype.kind == "f":
            bad = sum(int((np.isnan(c) | np.isposinf(c)).sum()) for c in chunks(x))
            nan = bad and sum(int(np.isnan(c).sum()) for c in chunks(x))
            if nan or (bad and not _is_bound(value)):
                raise BadInput(f"'{name}' holds {bad} NaN or inf: repair the checkpoint first")


def _is_bound(value: ir.Value) -> bool:
    """Whether all that reads a value, wherever its entries are moved, compares or chooses."""
    for node, _ in value.uses():
        law = LAWS.get(operator_name(node))
        moved = law is not None and law.traits.moves and all(map(_is_bound, node.outputs))
        if operator_name(node) not in COMPARES and not moved:
            return False
    return not value.is_graph_output()


def _only_cast(value: ir.Value) -> bool:
    """Whether a value is stored in its type, but nothing computes with it before a Cast."""
    return all(is_cast(node) for node, _ in value.uses())


def _raised(model: ir.Model, raised: ir.Model) -> list[str]:
    """A note where the program is at another opset than the file."""
    before, after = model.opset_imports.get(""), raised.opset_imports.get("")
    if before == after:
        return []
    return [f"raised from opset {before} to {after}, where a law can scale all numbers"]
