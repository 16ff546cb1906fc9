"""An ONNX model as a graph, evaluated node by node in ONNX Runtime."""

# onnx_ir and onnxruntime are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common as passes

from halfsafe.errors import BadInput, CaptureError, first_line
from halfsafe.frontends.onnx_run import Opsets, captured, embedded, run_node, session
from halfsafe.graph import Graph, Kind, Node, Value
from halfsafe.rules import LAWS
from halfsafe.rules.onnx import SIGNATURES, operands
from halfsafe.samples import Call

Array = NDArray[Any]

Lanes = tuple[Any, ...]
"""One value several times over: as FP32 has it, as FP16 has it, at the floor."""

Store = Callable[[str, Lanes], Lanes]
"""Called with each floating value as it is computed; what it returns is used from there on."""


@dataclass(frozen=True)
class OnnxProgram:
    """A model with one flat graph over named initialisers. Never mutated.

    `float32` names values that the deployed model computes in FP32; `shapes` and `dtypes` are those
    that the first sample shows.
    """

    model: ir.Model
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, np.dtype[Any]]
    float32: frozenset[str] = frozenset()

    @cached_property
    def graph(self) -> Graph:
        """The same network as halfsafe's own frozen graph."""
        return _Reader(self).read()

    @cached_property
    def scalars(self) -> frozenset[str]:
        """Initialisers of one number, which the graph has as literals."""
        held = self.model.graph.initializers.items()
        return frozenset(name for name, value in held if _is_scalar(value))

    @cached_property
    def _session(self) -> Any:
        return session(self.model)

    def run(self, call: Call) -> list[Array]:
        """Outputs of the whole model in one session. Raises BadInput for a misfit sample."""
        return run_whole(self._session, self.model, call)

    def evaluate(self, call: Call, store: Store, lanes: int = 1) -> list[Lanes]:
        """Outputs, computed node by node on several lanes, floating values passing through `store`.

        No value is kept longer than the graph needs it. Raises BadInput for a misfit sample.
        """
        return evaluate(self.model, call, store, lanes)


def run_whole(session: Any, model: ir.Model, call: Call) -> list[Array]:
    """Outputs of a model in a session of it. Raises BadInput for a misfit sample."""
    feeds = feeds_of(model, call)
    try:
        return session.run(None, feeds)
    except Exception as error:
        raise BadInput(f"sample {call.number} does not fit: {first_line(error)}") from error


def evaluate(model: ir.Model, call: Call, store: Store, lanes: int = 1) -> list[Lanes]:
    """Runs a model's nodes one after the other."""
    opsets = tuple(sorted(model.opset_imports.items()))
    keep = {str(output.name) for output in model.graph.outputs}
    last = {name: i for i, node in enumerate(model.graph) for name in reads(node)}
    values: dict[str, Lanes] = {}

    def put(name: str, found: Lanes) -> None:
        floating = isinstance(found[0], np.ndarray) and found[0].dtype.kind == "f"
        values[name] = store(name, found) if floating else found

    def fetch(name: str) -> Lanes:
        if name not in values:
            put(name, (constant(model, name),) * lanes)
        return values[name]

    for name, x in feeds_of(model, call).items():
        put(name, (x,) * lanes)
    for i, node in enumerate(model.graph):
        given = {name: fetch(name) for name in reads(node)}
        try:
            results = _on_lanes(node, given, lanes, opsets)
        except Exception as error:
            raise BadInput(
                f"{node.op_type} '{node.name}' fails on sample {call.number}: {first_line(error)}"
            ) from error
        for output, found in zip(node.outputs, results, strict=True):
            if output.name and (output.name in last or output.name in keep):
                put(output.name, found)
        for name in given:
            if last[name] == i and name not in keep:
                del values[name]
    return [fetch(str(output.name)) for output in model.graph.outputs]


def _on_lanes(node: ir.Node, given: Mapping[str, Lanes], lanes: int, opsets: Opsets) -> list[Lanes]:
    """A node's outputs on each lane; where all lanes read the same, it is computed once."""
    same = all(x is found[0] for found in given.values() for x in found)
    runs = [
        run_node(node, {name: found[lane] for name, found in given.items()}, opsets)
        for lane in range(1 if same else lanes)
    ]
    each = runs * lanes if same else runs
    return list(zip(*each, strict=True))


def reads(node: ir.Node) -> list[str]:
    """The values that a node reads, those that its subgraphs capture included."""
    direct = [str(value.name) for value in node.inputs if value is not None]
    return list(dict.fromkeys([*direct, *captured(node)]))


def constant(model: ir.Model, name: str) -> Array:
    """The array of an initialiser."""
    held = model.graph.initializers.get(name)
    if held is None or held.const_value is None:
        raise BadInput(f"nothing computes '{name}', and the file holds no tensor of that name")
    return held.const_value.numpy()


def feeds_of(model: ir.Model, call: Call) -> dict[str, Array]:
    """A sample as arrays by input name. Raises BadInput for missing, unknown or misfit ones."""
    inputs = [value for value in model.graph.inputs if value.name not in model.graph.initializers]
    names = [str(value.name) for value in inputs]
    if len(call.args) > len(names):
        raise BadInput(f"sample {call.number} has {len(call.args)} arrays for inputs {names}")
    given = {**dict(zip(names, call.args, strict=False)), **call.kwargs}
    if set(given) != set(names):
        raise BadInput(f"sample {call.number} has {sorted(given)}, the model takes {names}")
    return {str(v.name): _fitting(v, np.asarray(given[str(v.name)]), call.number) for v in inputs}


def _fitting(value: ir.Value, x: Array, sample: int) -> Array:
    """An array of the input's own type; NumPy's default FP64 becomes FP32."""
    expected = value.dtype.numpy() if value.dtype else x.dtype
    if x.dtype == np.float64 and expected == np.float32:
        x = x.astype(np.float32)
    if x.dtype != expected:
        raise BadInput(
            f"sample {sample}: input '{value.name}' is {x.dtype}, the model takes {expected}"
        )
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        bad = int((~np.isfinite(x)).sum())
        raise BadInput(f"sample {sample}: '{value.name}' holds {bad} NaN or inf: pass finite ones")
    return np.asarray(x, order="C")


def open_program(model: ir.Model, call: Call) -> OnnxProgram:
    """Flattens a model, and runs it on one sample to see every value's type and shape."""
    flat = flatten(model)
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, np.dtype[Any]] = {}

    def see(name: str, found: Lanes) -> Lanes:
        shapes[name], dtypes[name] = found[0].shape, found[0].dtype
        return found

    evaluate(flat, call, see)
    half = [name for name, dtype in dtypes.items() if dtype == np.float16]
    if half:
        raise BadInput(
            f"'{half[0]}' is already float16: pass the FP32 model, the values that rounding lost "
            "cannot be found again"
        )
    return OnnxProgram(flat, shapes, dtypes)


def flatten(model: ir.Model) -> ir.Model:
    """A copy without functions and Constant nodes, with attributes written out and unique names."""
    copy = _copy(model)
    for node in ir.traversal.RecursiveGraphIterator(copy.graph):
        held = node.attributes.get("value")
        if node.op_type == "Constant" and held is not None:  # lifting renames the tensor
            tensor = ir.Tensor(held.as_tensor().numpy(), dtype=held.as_tensor().dtype)
            node.attributes["value"] = ir.AttrTensor("value", tensor)
    for run in (
        passes.InlinePass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.RemoveInitializersFromInputsPass(),
        passes.AddDefaultAttributesPass(),
        passes.TopologicalSortPass(),
        passes.NameFixPass(),
        passes.RemoveUnusedNodesPass(),
    ):
        try:
            copy = run(copy).model
        except Exception as error:
            raise CaptureError(f"{type(run).__name__} fails: {first_line(error)}") from error
    return copy


def _copy(model: ir.Model) -> ir.Model:
    """A copy in topological order, which files that ONNX Runtime takes are not always in."""
    try:
        return embedded(model).clone()
    except RuntimeError:
        copy = ir.from_proto(ir.to_proto(model))
        copy.graph.sort()
        return copy


def load(source: str | Path) -> ir.Model:
    """Reads and checks a file. Raises BadInput on one line for whatever is wrong with it."""
    path = Path(source)
    if not path.is_file():
        raise BadInput(f"there is no file '{path}'")
    try:
        onnx.checker.check_model(path)
        return ir.load(path)
    except Exception as error:
        raise BadInput(f"'{path}' is not a valid ONNX model: {first_line(error)}") from error


class _Reader:
    """Builds a Graph from a flat ir.Graph."""

    def __init__(self, program: OnnxProgram) -> None:
        self.program, self.source = program, program.model.graph
        self.values: dict[str, Value] = {}
        self.constants = set(self.source.initializers)

    def read(self) -> Graph:
        inputs = [str(v.name) for v in self.source.inputs if v.name not in self.constants]
        for name in inputs:
            self._add(name, Kind.INPUT)
        nodes = tuple(self._node(node) for node in self.source)
        outputs = [str(output.name) for output in self.source.outputs]
        for name in outputs:
            if name not in self.values:
                self._add(name, Kind.CONSTANT)
        return Graph(nodes, self.values, tuple(inputs), tuple(outputs))

    def _node(self, node: ir.Node) -> Node:
        name, op = str(node.name), operator_name(node)
        found: dict[str, str] = {}
        present = [value for value in node.inputs if value is not None]
        for key, value in zip(operand_names(node), present, strict=True):
            found[key] = self._operand(f"{name}.{key}", str(value.name))
        for i, inner in enumerate(captured(node)):
            found[f"captured.{i}"] = self._operand(f"{name}.captured.{i}", inner)
        numbers = numbers_of(node)
        for operand, number in numbers.values():
            found[operand] = f"{name}.{operand}"
            self.values[found[operand]] = Value(found[operand], Kind.LITERAL, True, number=number)
        attributes = {k: a.value for k, a in node.attributes.items() if k not in numbers}
        outputs = tuple(self._output(node, i) for i in range(len(node.outputs)))
        return Node(
            name=name,
            op=op,
            inputs=found,
            outputs=outputs,
            attributes=attributes,
            module=_module(node),
            line=_line(node),
            moves=self._moves(op, found, outputs),
        )

    def _output(self, node: ir.Node, index: int) -> str:
        """The name of an output; one that is left out keeps its place, as a value of nothing."""
        name = node.outputs[index].name
        if name:
            return self._add(name, Kind.ACTIVATION)
        name = f"{node.name}.absent.{index}"
        self.values[name] = Value(name, Kind.ACTIVATION, False)
        return name

    def _operand(self, literal: str, name: str) -> str:
        """A value that is read; a constant of one number is a literal, though FP16 stores it."""
        if name not in self.constants:
            return name
        if name in self.program.scalars:
            held = constant(self.program.model, name)
            bounded = name not in self.program.float32
            number = float(held.reshape(()))
            self.values[literal] = Value(literal, Kind.LITERAL, True, bounded, (), number)
            return literal
        if name not in self.values:
            self._add(name, Kind.CONSTANT)
        return name

    def _add(self, name: str, kind: Kind) -> str:
        program = self.program
        if kind == Kind.CONSTANT:
            held = program.model.graph.initializers[name].const_value
            assert held is not None
            shape, dtype = tuple(held.shape.numpy()), held.dtype.numpy()
        else:
            shape, dtype = program.shapes.get(name, ()), program.dtypes.get(name)
        floating = dtype is not None and dtype.kind == "f"
        bounded = dtype == np.float32 and name not in program.float32
        self.values[name] = Value(name, kind, floating, bounded, shape)
        return name

    def _moves(self, op: str, inputs: Mapping[str, str], outputs: tuple[str, ...]) -> bool:
        law = LAWS.get(op)
        if law is None or law.family != "movement" or op.startswith("Cast") or len(outputs) != 1:
            return False
        source = self.values.get(next(iter(inputs.values()), ""))
        return source is not None and source.bounded == self.values[outputs[0]].bounded


def _is_scalar(value: ir.Value) -> bool:
    held = value.const_value
    return held is not None and held.size == 1 and held.dtype == ir.DataType.FLOAT


def operator_name(node: ir.Node) -> str:
    """``Conv`` for the standard's own operators, ``com.microsoft.FastGelu`` for others."""
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


def operand_names(node: ir.Node) -> list[str]:
    """Names of the operands that are there, in their order."""
    names = operands(operator_name(node), len(node.inputs))
    return [n for n, value in zip(names, node.inputs, strict=True) if value is not None]


def numbers_of(node: ir.Node) -> dict[str, tuple[str, float]]:
    """Attributes that a law may scale, with their operands and their numbers, defaults included."""
    signature = SIGNATURES.get(operator_name(node))
    found: dict[str, tuple[str, float]] = {}
    for key, (operand, default) in (signature.numbers if signature else {}).items():
        attribute = node.attributes.get(key)
        if attribute is None:
            number = default
        elif attribute.type == ir.AttributeType.TENSOR:
            number = float(attribute.as_tensor().numpy().reshape(()))
        else:
            number = float(attribute.as_float())
        if number is not None:
            found[key] = operand, number
    return found


def _module(node: ir.Node) -> str:
    """The exporter's module path, where it has left one."""
    try:
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
    except (ValueError, SyntaxError):
        return ""
    return str(scopes[-2]) if isinstance(scopes, list) and len(scopes) > 1 else ""


def _line(node: ir.Node) -> str:
    """File and line of the user's code, where the exporter has left them."""
    trace = node.metadata_props.get("pkg.torch.onnx.stack_trace", "")
    frames = [x.strip() for x in trace.splitlines() if x.strip().startswith("File ")]
    frames = [frame for frame in frames if "/torch/" not in frame] or frames
    if not frames:
        return ""
    path, _, rest = frames[-1].removeprefix('File "').partition('"')
    return f"{path}:{rest.removeprefix(', line ').partition(',')[0]}"


def initialisers(program: OnnxProgram) -> Iterable[tuple[str, Array]]:
    """The constants that the graph reads, one after the other."""
    for name, value in program.graph.values.items():
        if value.kind == Kind.CONSTANT and value.floating:
            yield name, constant(program.model, name)
