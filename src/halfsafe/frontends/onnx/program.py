"""An ONNX model as a graph, evaluated node by node in ONNX Runtime."""

# onnx_ir and onnxruntime are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from contextlib import suppress
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
from halfsafe.frontends.onnx import arithmetic
from halfsafe.frontends.onnx.attention import write_scales
from halfsafe.frontends.onnx.draws import model_draws
from halfsafe.frontends.onnx.opset import infer_types
from halfsafe.frontends.onnx.parts import Part, numbers_of, parts
from halfsafe.frontends.onnx.run import (
    Evaluator,
    as_it_is,
    by_element,
    constant,
    feeds_of,
)
from halfsafe.frontends.onnx.sessions import Elements, captured, embedded, fits_session, session
from halfsafe.frontends.onnx.values import (
    Names,
    graph_values,
    is_cast,
    tensor_of,
    value_at,
    values_of,
)
from halfsafe.graph import Graph, Kind, Node, Value
from halfsafe.measure import Arithmetic, Lanes, Store
from halfsafe.rules import LAWS
from halfsafe.rules.traits import CASTS
from halfsafe.samples import Call

Array = NDArray[Any]


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

    @property
    def graph(self) -> Graph:
        """The same network as halfsafe's own frozen graph."""
        return self._graph

    @cached_property
    def _graph(self) -> Graph:
        return _Reader(self).read()

    @cached_property
    def scalars(self) -> frozenset[str]:
        """Initialisers of one number, which the graph has as literals."""
        held = self.model.graph.initializers.items()
        return frozenset(name for name, value in held if _is_scalar(value))

    @cached_property
    def _sessions(self) -> Sessions:
        return Sessions(self.model)

    @cached_property
    def _evaluator(self) -> Evaluator:
        return Evaluator(self.model)

    def run(self, call: Call) -> list[Array]:
        """Outputs of the model as it is. Raises BadInput for a misfit sample."""
        if fits_session(self.model):
            return self._sessions.run(call)
        return [x for (x,) in self.evaluate(call, as_it_is)]

    @property
    def arithmetic(self) -> Arithmetic:
        """NumPy's."""
        return arithmetic

    @property
    def stored(self) -> frozenset[str]:
        """What is rounded when it is stored: values, and numbers that are literals."""
        return self.graph.rounded | (self.scalars - self.float32)

    def evaluate(self, call: Call, store: Store, lanes: int = 1) -> list[Lanes]:
        """Outputs, computed node by node on several lanes, as Evaluator.run gives them.

        `store` is called with each element of a sequence.
        """
        return self._evaluator.run(call, by_element(store), lanes)


@dataclass(frozen=True)
class Sessions:
    """A whole model in ONNX Runtime: in one session, or one for each run of a model that draws."""

    model: ir.Model

    @cached_property
    def _kept(self) -> Any:
        return None if model_draws(self.model) else session(self.model)

    def run(self, call: Call) -> list[Array]:
        """Outputs of the model. Raises BadInput for a misfit sample."""
        feeds = feeds_of(self.model, call)
        running = self._kept or session(self.model)
        try:
            return running.run(None, feeds)
        except Exception as error:
            raise BadInput(f"sample {call.number} does not fit: {first_line(error)}") from error


def open_program(model: ir.Model, call: Call) -> OnnxProgram:
    """Flattens a model, and runs it on one sample to see every value's type and shape."""
    flat = flatten(model)
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, np.dtype[Any]] = {}
    types: dict[str, ir.TypeProtocol] = {}

    def see(name: str, found: Any) -> None:
        if found is not None:
            shapes[name], dtypes[name], types[name] = found.shape, found.dtype, _type_of(found)

    Evaluator(flat).run(call, as_it_is, see=see)
    with suppress(BadInput):
        infer_types(flat)  # which knows what may be missing
    for value in values_of(flat):
        if value.type is None:
            value.type = types.get(str(value.name))
    for value in (value for part in parts(flat.graph) for value in part.outputs):
        if value.name and value.name not in dtypes and value.dtype is not None:
            dtypes[value.name] = value.dtype.numpy()  # in a branch that the sample does not take
    half = [name for name, dtype in dtypes.items() if dtype == np.float16]
    if half:
        raise BadInput(
            f"'{half[0]}' is already float16: pass the FP32 model, the values that rounding lost "
            "cannot be found again"
        )
    write_scales(flat, shapes)
    return OnnxProgram(flat, shapes, dtypes)


def _type_of(found: Any) -> ir.TypeProtocol:
    """The type of a value that running has shown, where the file does not tell it."""
    text = found.dtype.kind in "OUS"
    kind = ir.TensorType(ir.DataType.STRING if text else ir.DataType.from_numpy(found.dtype))
    return ir.SequenceType(kind) if isinstance(found, Elements) else kind


def flatten(model: ir.Model) -> ir.Model:
    """A copy without functions and Constant nodes, with unique names."""
    copy = _copy(model)
    for node in ir.traversal.RecursiveGraphIterator(copy.graph):
        held = node.attributes.get("value")
        if node.op_type == "Constant" and held is not None:  # lifting renames the tensor
            tensor = ir.Tensor(held.as_tensor().numpy(), dtype=held.as_tensor().dtype)
            node.attributes["value"] = ir.AttrTensor("value", tensor)
    for run in (
        passes.InlinePass(),
        _BodiesPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.LiftSubgraphInitializersToMainGraphPass(),
        _StoredPass(),
        passes.RemoveInitializersFromInputsPass(),
        passes.TopologicalSortPass(),
        passes.NameFixPass(),
        passes.RemoveUnusedNodesPass(),
    ):
        try:
            copy = run(copy).model
        except Exception as error:
            raise CaptureError(f"{type(run).__name__} fails: {first_line(error)}") from error
    return copy


class _BodiesPass(ir.passes.InPlacePass):
    """Bodies of operators get types, names of their own, and outputs that they compute themselves.

    An Identity stands where an output is what the body was given, or a constant.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        bodies = [graph for graph in model.graphs() if graph is not model.graph]
        if bodies:
            passes.NameFixPass()(model)
            with suppress(BadInput):  # bodies without types are not looked into
                infer_types(model)
        taken = {value.name for value in graph_values(model.graph)}
        named = {node.name for node in model.graph}
        for body in bodies:
            for i, value in enumerate(body.outputs):
                producer = value.producer()
                if producer is None or producer.graph is not body or producer.op_type == "Constant":
                    body.outputs[i] = _identity(body, value)
            for value in list(graph_values(body)):  # an initialiser is listed by its name
                value.name = _unique(str(value.name), taken)
            for node in body:
                node.name = _unique(str(node.name), named)
        return ir.passes.PassResult(model, modified=bool(bodies))


_NARROW = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


class _StoredPass(ir.passes.InPlacePass):
    """A constant that is stored in another type and cast to FP32 is a constant in FP32."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        casts = [node for node in model.graph.all_nodes() if is_cast(node) and _widens(node)]
        names, made = Names(model), dict[ir.Value, ir.Value]()
        for node in casts:
            source, target = value_at((node, 0)), node.outputs[0]
            if source not in made:
                made[source] = _in_float32(model.graph, source, names(f"{source.name}.float32"))
            held = made[source]
            if target.is_graph_output():
                node.op_type = "Identity"
                node.attributes.clear()
                node.replace_input_with(0, held)
            else:
                target.replace_all_uses_with(held)
        return ir.passes.PassResult(model, modified=bool(casts))


def _widens(cast: ir.Node) -> bool:
    source = value_at((cast, 0))
    to = cast.attributes["to"].as_int()
    return source.is_initializer() and source.dtype in _NARROW and to == ir.DataType.FLOAT


def _in_float32(graph: ir.Graph, source: ir.Value, name: str) -> ir.Value:
    """An initialiser as Cast gives it, computed when it is needed."""
    tensor = tensor_of(source)

    def cast() -> ir.Tensor[Any]:
        with np.errstate(over="ignore", under="ignore"):
            return ir.Tensor(tensor.numpy().astype(np.float32), name=name)

    kind, shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(tensor.shape.numpy())
    lazy = ir.LazyTensor(cast, dtype=kind.dtype, shape=shape, name=name, cache=False)
    value = ir.Value(name=name, shape=shape, type=kind, const_value=lazy)
    graph.register_initializer(value)
    return value


def _identity(body: ir.Graph, value: ir.Value) -> ir.Value:
    """A copy of a value, computed in a body."""
    output = ir.Value(name=f"{value.name}.given", shape=value.shape, type=value.type)
    body.append(ir.Node("", "Identity", [value], outputs=[output], name=f"{value.name}.given"))
    return output


def _unique(wanted: str, taken: set[str | None]) -> str:
    """A name that is not taken yet; an output that is left out has none."""
    name, count = wanted, 1
    while wanted and name in taken:
        name, count = f"{wanted}_{count}", count + 1
    taken.add(name)
    return name


def _copy(model: ir.Model) -> ir.Model:
    """A copy in topological order, which files that ONNX Runtime takes are not always in.

    Its tensors have names of their own: those of the argument stay as they are.
    """
    try:
        copy = embedded(model).clone()
    except RuntimeError:
        copy = ir.from_proto(ir.to_proto(model))
        copy.graph.sort()
    for value in (value for graph in copy.graphs() for value in graph.initializers.values()):
        if value.const_value is not None:
            value.const_value = _renamable(value.const_value)
    return copy


def _renamable(tensor: ir.TensorProtocol) -> ir.LazyTensor:
    shape = ir.Shape(tensor.shape.numpy())
    return ir.LazyTensor(lambda: tensor, dtype=tensor.dtype, shape=shape, name=tensor.name)


def check(model: onnx.ModelProto | Path) -> None:
    """Raises what onnx's checker does, but for what ONNX Runtime takes all the same."""
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        if not any(words in str(error) for words in _TAKEN):
            raise


_TAKEN = ("is deprecated in domain_version", "Field 'shape' of 'type' is required")
"""What onnx's checker says of operators that still run, and of outputs without shapes."""


def check_data(model: ir.Model) -> None:
    """Raises BadInput where a file of constants is missing, or shorter than they are."""
    held = (v.const_value for graph in model.graphs() for v in graph.initializers.values())
    for tensor in (tensor for tensor in held if isinstance(tensor, ir.ExternalTensor)):
        path = Path(tensor.path)
        if not path.is_file():
            raise BadInput(f"there is no file '{path}', which holds '{tensor.name}'")
        end, size = (tensor.offset or 0) + tensor.nbytes, path.stat().st_size
        if end > size:
            raise BadInput(
                f"'{path}' has {size} bytes, and '{tensor.name}' ends at {end}: it was cut off, "
                "copy it again"
            )


def load(source: str | Path) -> ir.Model:
    """Reads and checks a file. Raises BadInput on one line for whatever is wrong with it."""
    path = Path(source)
    if not path.is_file():
        raise BadInput(f"there is no file '{path}'")
    try:
        check(path)
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
        nodes = tuple(self._node(part) for part in parts(self.source))
        outputs = [str(output.name) for output in self.source.outputs]
        for name in outputs:
            if name not in self.values:
                self._add(name, Kind.CONSTANT)
        return Graph(nodes, self.values, tuple(inputs), tuple(outputs))

    def _node(self, part: Part) -> Node:
        name, node = part.name, part.node
        found = {
            key: self._operand(f"{name}.{key}", str(value_at(place).name))
            for key, place in part.operands.items()
        }
        for i, inner in enumerate(captured(node) if part.entries is None else ()):
            found[f"captured.{i}"] = self._operand(f"{name}.captured.{i}", inner)
        numbers = numbers_of(node)
        for operand, number in numbers.values():
            found[operand] = f"{name}.{operand}"
            self.values[found[operand]] = Value(found[operand], Kind.LITERAL, True, number=number)
        attributes: dict[str, Any] = {"entries": part.entries}
        if part.entries is None:
            attributes = {k: a.value for k, a in node.attributes.items() if k not in numbers}
        outputs = tuple(self._output(part, i) for i in range(len(part.outputs)))
        return Node(
            name=name,
            op=part.op,
            inputs=found,
            outputs=outputs,
            attributes=attributes,
            module=_module(node),
            line=_line(node),
            moves=self._moves(part.op, found, outputs),
        )

    def _output(self, part: Part, index: int) -> str:
        """The name of an output; one that is left out, or that nobody reads, keeps its place, as a
        value of nothing.
        """
        value = part.outputs[index]
        read = part.entries is not None or value.uses() or value.is_graph_output()
        if value.name and read:
            return self._add(value.name, Kind.ACTIVATION)
        name = f"{part.name}.absent.{index}"
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
        if law is None or not law.traits.moves or op in CASTS or len(outputs) != 1:
            return False
        source = self.values.get(next(iter(inputs.values()), ""))
        return source is not None and source.bounded == self.values[outputs[0]].bounded


def _is_scalar(value: ir.Value) -> bool:
    held = value.const_value
    return held is not None and held.size == 1 and held.dtype == ir.DataType.FLOAT


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
