"""An ONNX model as the pipeline sees it."""

# onnx_ir is only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import onnx
import onnx_ir as ir

from halfsafe.atomic import atomically
from halfsafe.edits import Edit
from halfsafe.errors import BadInput, FoldError, first_line
from halfsafe.formats import FLOAT16, FloatFormat
from halfsafe.frontends.onnx.arithmetic import arrays, chunks, range_of, rounded
from halfsafe.frontends.onnx.draws import unseeded
from halfsafe.frontends.onnx.edit import apply
from halfsafe.frontends.onnx.half import drop_identities, to_float16
from halfsafe.frontends.onnx.opset import raise_old
from halfsafe.frontends.onnx.parts import operator_name, parts
from halfsafe.frontends.onnx.program import (
    OnnxProgram,
    Sessions,
    check,
    check_data,
    flatten,
    initialisers,
    load,
    open_program,
)
from halfsafe.frontends.onnx.run import Evaluator, as_it_is, constant
from halfsafe.frontends.onnx.sessions import (
    check_versions,
    data_files,
    fits_session,
    session,
)
from halfsafe.frontends.onnx.values import bodies_of, called, is_cast, values_of
from halfsafe.measure import Measuring
from halfsafe.ranges import Range
from halfsafe.rules import LAWS
from halfsafe.rules.traits import COMPARES
from halfsafe.samples import Call
from halfsafe.source import Arrays, Kernels

Given = str | Path | onnx.ModelProto | ir.Model


@dataclass(frozen=True)
class OnnxSource(Measuring[OnnxProgram]):
    """The user's model, untouched, and the flat program made of it."""

    given: Given
    model: ir.Model
    name: str
    program: OnnxProgram
    captured_exactly: bool
    notes: tuple[str, ...] = ()

    @classmethod
    def open(cls, given: Given, call: Call) -> Self:
        """Reads, checks and flattens a model. Raises BadInput and CaptureError."""
        model = _model(given)
        name = Path(given).stem if isinstance(given, (str, Path)) else str(model.graph.name)
        _check_text(model)
        check_versions(model)
        raised = raise_old(model)
        program = open_program(raised, call)
        _check_constants(program)
        notes = (*_raised(model, raised), *_closed(program), *_drawn(model))
        opened = cls(given, model, name, program, captured_exactly=True, notes=notes)
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
        if all(map(_bit_equal, by_nodes, known)):
            return True
        return all(map(_bit_equal, arrays(self.program.run(call)), known))

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

    @cached_property
    def _converted(self) -> HalfFile:
        return HalfFile(to_float16(self.program.model, float32=self.program.float32))

    def half_outputs(self, call: Call) -> Arrays:
        return self._converted.half_outputs(call)

    def is_half(self, candidate: Any) -> bool:
        model = _model(candidate)
        computed = (output for node in model.graph for output in node.outputs)
        used = (v for v in model.graph.initializers.values() if not _only_cast(v))
        values = (*used, *model.graph.inputs, *computed)
        cast = (n.attributes.get_int("to", 0) for n in model.graph if n.op_type == "Cast")
        return ir.DataType.FLOAT16 in cast or any(v.dtype == ir.DataType.FLOAT16 for v in values)

    def running(self, candidate: Any) -> HalfFile:
        return HalfFile(_model(candidate), tuple(str(v.name) for v in self.model.graph.outputs))

    def forms(self, original: Self, deployed: Self, call: Call, dynamic_shapes: Any) -> OnnxForms:
        read = data_files(self.model)
        return OnnxForms(original.given, self.program, deployed.program, call, read)


@dataclass(frozen=True)
class HalfFile:
    """A model in FP16, as it is.

    It is judged with its nodes run one by one, so that every value is rounded as it is stored: ONNX
    Runtime's CPU provider keeps FP32 between the FP16 nodes of a whole model, and hides overflow.
    """

    model: ir.Model
    names: tuple[str, ...] = ()
    kernels: Kernels = "strict"

    @cached_property
    def _order(self) -> list[int]:
        """Outputs in the order of `names`, where the file has these in another one."""
        own = [str(value.name) for value in self.model.graph.outputs]
        same = sorted(own) == sorted(self.names)
        return [own.index(name) for name in self.names] if same else list(range(len(own)))

    @cached_property
    def _nodes(self) -> Evaluator:
        return Evaluator(flatten(self.model))

    @cached_property
    def _sessions(self) -> Sessions:
        return Sessions(self.model)

    def check(self) -> None:
        """Raises BadInput where ONNX Runtime does not take the model whole."""
        if fits_session(self.model):
            session(self.model)

    def evaluate(self, call: Call, fmt: FloatFormat) -> Arrays:
        if fmt != FLOAT16:
            raise NotImplementedError(f"a model in FP16 cannot be evaluated in {fmt.name}")
        found = arrays(x for (x,) in self._nodes.run(call, as_it_is))
        return [found[i] for i in self._order]

    def half_outputs(self, call: Call) -> Arrays:
        found = arrays(self._sessions.run(call))
        return [found[i] for i in self._order]


@dataclass(frozen=True)
class OnnxForms:
    """The fixed model as FP32 and as FP16, each of the kind that was given.

    `read` are the files beside the given one that constants are read from; if there are any,
    constants are written beside the new file too.
    """

    given: Given
    exact: OnnxProgram
    deployed: OnnxProgram
    call: Call
    read: frozenset[Path]

    def float32(self) -> Any:
        return self._like_given(self.exact.model)

    def half(self) -> Any:
        return self._like_given(self._half())

    def half_outputs(self, call: Call) -> Arrays:
        """What the file gives, its nodes run one by one; it must load whole, too."""
        return self._delivered.evaluate(call, FLOAT16)

    @cached_property
    def _delivered(self) -> HalfFile:
        made = HalfFile(self._half())
        made.check()
        return made

    def state_dict(self) -> dict[str, Any]:
        raise FoldError("an ONNX model has no state_dict: use fixed.model or fixed.save('x.onnx')")

    def apply_to(self, model: Any) -> Any:
        raise FoldError("constants of an ONNX model are in its file: use fixed.save('x.onnx')")

    def save(
        self,
        path: Path,
        dtype: Literal["float16", "float32"],
        io: Literal["float32", "float16"],
        labels: Mapping[str, Mapping[str, str]],
    ) -> None:
        """Writes a .onnx file, whole or not at all, with labels as metadata of the nodes."""
        if path.suffix != ".onnx":
            raise BadInput(f"cannot write '{path}': give it the suffix .onnx")
        if _data_of(path).resolve() in self.read:
            raise BadInput(
                f"cannot write '{path}': the model still reads its constants from "
                f"'{_data_of(path).name}' there; give it another name"
            )
        model = self._half(io) if dtype == "float16" else self.exact.model.clone()
        _label(model, labels)
        write(model, path, beside=bool(self.read), check=lambda file: self._check(model, file))

    def _check(self, model: ir.Model, file: Path) -> None:
        """Raises BadInput unless what was written gives the bits of what was proved."""
        call, written = _of_its_types(model, self.call), load(file)
        found, meant = (
            [x for (x,) in Evaluator(flatten(each)).run(call, as_it_is)]
            for each in (written, model)
        )
        if not all(map(_bit_equal, found, meant)):
            raise BadInput("the file that was written gives other outputs than what was proved")

    def _half(self, io: Literal["float32", "float16"] = "float32") -> ir.Model:
        converted = to_float16(self.deployed.model, float32=self.deployed.float32, io=io)
        drop_identities(converted)
        return converted

    def _like_given(self, model: ir.Model) -> Any:
        return ir.to_proto(model) if isinstance(self.given, onnx.ModelProto) else model


def _of_its_types(model: ir.Model, call: Call) -> Call:
    """A sample with floating arrays in the types that a model's inputs have."""
    inputs = [value for value in model.graph.inputs if value.name not in model.graph.initializers]
    names = [str(value.name) for value in inputs]
    given = {**dict(zip(names, call.args, strict=False)), **call.kwargs}
    types = {
        str(v.name): v.dtype.numpy() for v in inputs if v.dtype and v.dtype.is_floating_point()
    }
    cast = {k: np.asarray(x).astype(types[k]) if k in types else x for k, x in given.items()}
    return Call((), cast, call.number)


def _only_cast(value: ir.Value) -> bool:
    """Whether a value is stored in its type, but nothing computes with it before a Cast."""
    return all(is_cast(node) for node, _ in value.uses())


def _label(model: ir.Model, labels: Mapping[str, Mapping[str, str]]) -> None:
    """Adds labels to the nodes; where a node has several outputs, with their numbers."""
    for node in model.graph.all_nodes():
        several = len(node.outputs) > 1
        for i, output in enumerate(node.outputs):
            for key, text in labels.get(str(output.name), {}).items():
                node.metadata_props[f"{key}.{i}" if several else key] = text


def _data_of(path: Path) -> Path:
    """The file beside a model's own that its constants are written to."""
    return path.with_name(f"{path.name}.data")


def write(
    model: ir.Model,
    path: Path,
    *,
    beside: bool = False,
    check: Callable[[Path], None] = lambda _: None,
) -> None:
    """Saves a model whole or not at all; constants beside it, in ``.data``, if one message cannot
    hold them or the caller says so. What was written is checked before it takes its place.

    Raises BadInput where the folder cannot be written to.
    """

    def whole(partial: str) -> None:
        ir.save(model, partial, format="protobuf")
        check(Path(partial))

    if fits_session(model) and not beside:
        atomically(path, whole)
        return
    data = _data_of(path)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            ir.save(model, Path(folder) / path.name, external_data=data.name)
            check(Path(folder) / path.name)
            made = Path(folder) / data.name
            if made.stat().st_size:  # small constants stay in the model's own file
                made.replace(data)
            (Path(folder) / path.name).replace(path)
    except OSError as error:
        raise BadInput(f"cannot write '{path}': {first_line(error)}") from error


def _model(given: Any) -> ir.Model:
    """A model with all its data. Raises BadInput."""
    model = _read(given)
    check_data(model)
    return model


def _read(given: Any) -> ir.Model:
    if isinstance(given, ir.Model):
        return given
    if isinstance(given, onnx.ModelProto):
        try:
            read = ir.from_proto(given)
            read.graph.sort()  # ONNX Runtime takes nodes in any order, the checker does not
            check(ir.to_proto(read))
            return read
        except Exception as error:
            raise BadInput(f"the model is not valid ONNX: {first_line(error)}") from error
    return load(given)


def _raised(model: ir.Model, raised: ir.Model) -> list[str]:
    """A note where the program is at another opset than the file."""
    before, after = model.opset_imports.get(""), raised.opset_imports.get("")
    if before == after:
        return []
    return [f"raised from opset {before} to {after}, where a law can scale all numbers"]


def _check_text(model: ir.Model) -> None:
    """Raises BadInput for names that are not UTF-8, which protobuf reads as bytes."""
    of_values = (value.name for value in values_of(model))
    of_nodes = ((n.name, n.op_type, n.domain) for n in model.graph.all_nodes())
    names: Iterator[Any] = chain(model.opset_imports, of_values, chain.from_iterable(of_nodes))
    for name in names:
        if isinstance(name, bytes):
            raise BadInput(f"the file is damaged: the name {name!r} is not UTF-8")


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


def _bit_equal(a: Any, b: Any) -> bool:
    return np.array_equal(a, b, equal_nan=np.asarray(a).dtype.kind == "f")
