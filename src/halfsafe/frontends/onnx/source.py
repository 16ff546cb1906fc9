"""An ONNX model as the pipeline sees it."""

# onnx_ir is only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from halfsafe.chunks import chunks
from halfsafe.deviation import bit_equal
from halfsafe.edits import Edit
from halfsafe.errors import BadInput
from halfsafe.formats import FLOAT16
from halfsafe.frontends.onnx.arithmetic import arrays, range_of, rounded
from halfsafe.frontends.onnx.deliver import HalfFile, OnnxDelivery
from halfsafe.frontends.onnx.draws import model_draws, unseeded
from halfsafe.frontends.onnx.edit import apply
from halfsafe.frontends.onnx.extract import extract, steps
from halfsafe.frontends.onnx.feeds import feeds_of
from halfsafe.frontends.onnx.file import Given, check_text, model_of
from halfsafe.frontends.onnx.half import to_float16
from halfsafe.frontends.onnx.opset import raise_old
from halfsafe.frontends.onnx.parts import operator_name, parts
from halfsafe.frontends.onnx.program import OnnxProgram, open_program
from halfsafe.frontends.onnx.run import constant
from halfsafe.frontends.onnx.runtime import Sessions, check_versions, data_files
from halfsafe.frontends.onnx.values import bodies_of, called, is_cast
from halfsafe.graph import Kind
from halfsafe.measure import Measuring, fingerprint
from halfsafe.ranges import Range
from halfsafe.rules import LAWS
from halfsafe.rules.traits import COMPARES
from halfsafe.samples import Call
from halfsafe.source import Arrays

Shapes = tuple[tuple[int, ...], ...]


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

    def array(self, constant: str) -> NDArray[Any]:
        return self.program.array(constant)

    def run_node(self, node: str, values: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        return self.program.run_node(node, values)

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
    held: dict[str, Range] = field(default_factory=dict[str, Range])
    """Ranges of constants by name, which an edit that changes one changes too."""

    _alike: set[Shapes] = field(default_factory=set[Shapes])
    """Shapes of samples on which the graph has given the file's bits."""

    @classmethod
    def open(cls, given: Given, call: Call) -> Self:
        """Reads, checks and flattens a model. Raises BadInput and CaptureError."""
        model = model_of(given)
        name = Path(given).stem if isinstance(given, (str, Path)) else str(model.graph.name)
        check_text(model)
        check_versions(model)
        raised = raise_old(model)
        program, outputs = open_program(raised, call)
        held = _ranges_of_constants(program)
        notes = (*_raised(model, raised), *_closed(program), *_drawn(model))
        opened = cls(program, given, model, name, captured_exactly=True, notes=notes, held=held)
        computed = arrays(outputs)
        if bit_equal(opened.reference(call, computed), computed):
            return opened
        note = "the flat graph is not bit-equal to the file"
        return replace(opened, captured_exactly=False, notes=(*notes, note))

    def constants(self) -> dict[str, Range]:
        """Ranges of the initialisers, each looked at once, and of single numbers."""
        values = self.graph.values.items()
        for name, value in values:
            if value.kind == Kind.CONSTANT and value.floating and name not in self.held:
                self.held[name] = range_of(constant(self.program.model, name))
        return {
            **{name: self.held[name] for name, _ in values if name in self.held},
            **{name: Range.of(v.number) for name, v in values if v.number is not None},
        }

    @property
    def holds_half(self) -> bool:
        held = (constant(self.program.model, n) for n in self.program.model.graph.initializers)
        parts = (part for x in held if x.dtype == np.float32 for part in chunks(x))
        return all(np.array_equal(rounded(part, FLOAT16), part) for part in parts)

    def apply(self, edits: Iterable[Edit]) -> Self:
        return replace(self, program=apply(self.program, edits))

    def reference(self, call: Call, computed: Arrays | None = None) -> Arrays:
        """Outputs of the file in one session, which is not kept.

        The nodes of the graph are those of the file. Where there are no others, which functions
        and bodies are, and they have given its bits on a sample of the same shapes, they do again.
        """
        feeds = feeds_of(self.model, call)
        shapes = tuple(getattr(x, "shape", ()) for x in feeds.values())
        if computed is not None and shapes in self._alike:
            return computed
        found = arrays(Sessions(self.model).fed(feeds, call.number))
        if computed is not None and self._is_plain and bit_equal(found, computed):
            self._alike.add(shapes)
        return found

    @cached_property
    def _is_plain(self) -> bool:
        """Whether a file is nothing but operators one after the other, none of which draws."""
        inner = any(bodies_of(node) for node in self.model.graph)
        return not (inner or self.model.functions or model_draws(self.model))

    def is_half(self, candidate: Any) -> bool:
        model = model_of(candidate)
        computed = (output for node in model.graph for output in node.outputs)
        used = (v for v in model.graph.initializers.values() if not _only_cast(v))
        values = (*used, *model.graph.inputs, *computed)
        cast = (n.attributes.get_int("to", 0) for n in model.graph if n.op_type == "Cast")
        return ir.DataType.FLOAT16 in cast or any(v.dtype == ir.DataType.FLOAT16 for v in values)

    def running(self, candidate: Any) -> HalfFile:
        return HalfFile(model_of(candidate), tuple(str(v.name) for v in self.model.graph.outputs))

    def deliver(self, original: Self, deployed: Self, call: Call) -> OnnxDelivery:
        own = {Path(self.file).resolve()} if isinstance(self.file, (str, Path)) else set[Path]()
        read = data_files(self.model) - own
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


def _ranges_of_constants(program: OnnxProgram) -> dict[str, Range]:
    """Ranges of the initialisers, one in memory at a time.

    Raises BadInput for one that holds NaN, or +inf as no bound; -inf may be a mask.
    """
    found: dict[str, Range] = {}
    for name, value in program.model.graph.initializers.items():
        x = constant(program.model, name)
        if x.dtype.kind != "f":
            continue
        found[name] = range_of(x)
        if found[name].nonfinite:
            nan = sum(int(np.isnan(c).sum()) for c in chunks(x))
            bad = nan + sum(int(np.isposinf(c).sum()) for c in chunks(x))
            if nan or (bad and not _is_bound(value)):
                raise BadInput(f"'{name}' holds {bad} NaN or inf: repair the checkpoint first")
    return found


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
