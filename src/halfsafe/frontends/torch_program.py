"""A captured PyTorch model: evaluated node by node, edited, and turned back into a module."""

# torch.fx and torch.export are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false
# pyright: reportPrivateUsage=false

from __future__ import annotations

import operator
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import frexp, isfinite
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.fx.node import map_aggregate
from torch.random import fork_rng
from torch.utils import _pytree as pytree

from halfsafe.edits import steps
from halfsafe.errors import BadInput, first_line
from halfsafe.frontends.torch_door import add_doors, check_doors
from halfsafe.graph import Graph, Kind, Node, Value
from halfsafe.samples import Call

Store = Callable[[str, Tensor], Tensor]
"""Called with each floating value as it is computed; what it returns is used from there on."""

Role = Literal["parameter", "buffer", "constant"]
"""What a constant was in the user's model; a "constant" is in no state_dict."""

aten = torch.ops.aten


@dataclass(frozen=True)
class Program:
    """A functional graph of ATen calls over named constants. Never mutated.

    `deployed` is the dtype that marks, in the graph's metadata and arguments, what is stored in
    the deployed format: bfloat16 for a capture in bfloat16. `constants` hold FP32 and integers,
    `bodies` the branches of conditions.
    """

    fx: fx.Graph
    constants: Mapping[str, Tensor]
    deployed: torch.dtype
    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec
    argument_names: tuple[str, ...]
    roles: Mapping[str, Role]
    bodies: Mapping[str, nn.Module] = field(default_factory=dict[str, nn.Module])

    @cached_property
    def graph(self) -> Graph:
        """The same network as halfsafe's own frozen graph."""
        return read_graph(self.fx, self.constants, self.deployed)

    @property
    def needs_float32(self) -> bool:
        """Whether an input has to be given in FP32."""
        return any(n.meta.get(NEEDS_FLOAT32) for n in self.fx.find_nodes(op="placeholder"))

    def module(self, dtype: torch.dtype = torch.float32, *, share: bool = True) -> fx.GraphModule:
        """A new module that computes in `dtype` what is deployed, and takes the user's arguments.

        With `share`, constants are the program's own, and thereby the user's, where their dtype
        allows it. The module raises BadInput for sizes other than those that the graph holds.
        """
        return self._module(dtype, share, add_doors)

    def _module(
        self, dtype: torch.dtype, share: bool, finish: Callable[[fx.Graph], None]
    ) -> fx.GraphModule:
        graph = fx.Graph()
        graph.output(graph.graph_copy(self.fx, {}))
        module = fx.GraphModule(nn.Module(), fx.Graph(), "Halfsafe")
        for name, body in self.bodies.items():
            module.add_module(name, body)
        fits = {n.target: is_deployed(n, self.deployed) for n in graph.find_nodes(op="get_attr")}
        for name, deployed in fits.items():
            if name in self.bodies:
                continue
            tensor = self.constants[str(name)]
            role = self.roles.get(str(name), "constant")
            tensor = tensor.to(dtype) if deployed else tensor
            _assign(module, str(name), tensor if share else tensor.clone(), role)
        for node in graph.nodes:
            node.args = _with_dtype(node.args, self.deployed, dtype)
            node.kwargs = _with_dtype(node.kwargs, self.deployed, dtype)
        if dtype != torch.float32:
            _cast_inputs(graph, self.deployed, dtype)
            _limit_bounds(graph, self.deployed, torch.finfo(dtype).max)
            _split_factors(graph, self.deployed, torch.finfo(dtype))
        finish(graph)
        graph.set_codegen(
            _PyTreeCodeGen(_PyTreeInfo(list(self.argument_names), self.in_spec, self.out_spec))
        )
        module.graph = graph  # set last: a GraphModule copies buffers without their persistence
        return module.eval()

    @cached_property
    def draws(self) -> bool:
        """Whether the graph draws random numbers."""
        return any(draws(node) for node in self.fx.nodes)

    @cached_property
    def runnable(self) -> fx.GraphModule:
        """The module in FP32, for interpreters of its graph."""
        return self._module(torch.float32, True, lambda _: None)

    def evaluate(
        self,
        call: Call,
        store: Store | None = None,
        interpreter: fx.Interpreter | None = None,
    ) -> list[Any]:
        """The flat outputs in FP32 arithmetic, each floating value passing through `store`.

        Another interpreter of `runnable` may stand in. No value is kept longer than the graph needs
        it. Raises BadInput if the sample's structure or shapes are not those of the captured one.
        """
        flat = self.flatten(call)
        check_doors(self.fx, flat, call.number)
        evaluation = interpreter or _Evaluation(self.runnable, store)
        try:
            with torch.no_grad(), same_draws(self.draws):
                outputs = evaluation.run(*flat, enable_io_processing=False)
        except (RuntimeError, IndexError, MemoryError) as error:
            check_memory(call, error)
            raise BadInput(
                f"sample {call.number} does not fit the graph captured from sample 0: "
                f"{first_line(error)}; give all samples one shape, or pass dynamic_shapes"
            ) from error
        return list(outputs)

    def flatten(self, call: Call) -> list[Any]:
        """A sample as the flat list of graph inputs."""
        kwargs = call.kwargs
        expected = self.in_spec.child(1).context
        if set(kwargs) == set(expected):
            kwargs = {name: kwargs[name] for name in expected}
        flat, spec = pytree.tree_flatten((tuple(call.args), kwargs))
        if spec != self.in_spec:
            raise BadInput(
                f"sample {call.number} has {_structure(spec)}, sample 0 had "
                f"{_structure(self.in_spec)}: give all samples the same structure"
            )
        return flat

    def unflatten(self, outputs: Sequence[Any]) -> Any:
        """Flat outputs in the structure that the user's model returns."""
        return pytree.tree_unflatten(list(outputs), self.out_spec)

    def with_graph(self, graph: fx.Graph, constants: Mapping[str, Tensor]) -> Program:
        """The same interface around another graph."""
        return replace(self, fx=graph, constants=constants)


def draws(node: fx.Node) -> bool:
    """Whether an operator draws random numbers."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


@contextmanager
def same_draws(enabled: bool = True) -> Generator[None]:
    """Within it, random numbers are the same each time; those of the user go on afterwards."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with fork_rng(devices, enabled=enabled):
        if enabled:
            for generator in (
                torch.default_generator,
                *torch.cuda.default_generators[: len(devices)],
            ):
                generator.manual_seed(0)
        yield


def check_memory(call: Call, error: BaseException) -> None:
    """Raises BadInput if an error is that memory does not suffice."""
    full = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    if full or "can't allocate memory" in str(error):
        raise BadInput(
            f"sample {call.number} needs more memory than there is: {first_line(error)}; pass "
            "smaller samples or a part of the model"
        ) from error


def is_deployed(node: fx.Node, deployed: torch.dtype) -> bool:
    """Whether a node's value is stored in the deployed format."""
    found = node.meta.get("val")
    return isinstance(found, Tensor) and found.dtype == deployed


def read_graph(graph: fx.Graph, constants: Mapping[str, Tensor], deployed: torch.dtype) -> Graph:
    """An FX graph as halfsafe's. Operands get the names of the operator's own schema."""
    return _Reader(constants, deployed).read(graph)


def argument(node: fx.Node, name: str) -> tuple[Any, Callable[[Any], None]]:
    """An operator's argument by schema name ("tensors.0" for an element), and its setter."""
    field, _, index = name.partition(".")
    schema = schema_arguments(node.target, node.args, node.kwargs)
    position = [name for name, _, _ in schema].index(field)

    def read() -> Any:
        return schema_arguments(node.target, node.args, node.kwargs)[position][2]

    def write(new: Any) -> None:
        if index:
            items = list(read())
            items[int(index)] = new
            new = items
        if position < len(node.args):
            node.update_arg(position, new)
        else:
            node.update_kwarg(field, new)

    found = read()
    return (found[int(index)] if index else found), write


_RECURRENT = {getattr(aten, name).input for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")}


def _check_state(x: Tensor, state: Tensor | Sequence[Tensor], *rest: Any) -> None:
    """Raises RuntimeError for a state of another batch: kernels would read beyond its end."""
    batch = x.shape[0 if rest[-1] else 1]
    first = state if isinstance(state, Tensor) else state[0]
    if first.shape[1] != batch:
        raise RuntimeError(f"a state of {first.shape[1]} rows for a batch of {batch}")


class _Evaluation(fx.Interpreter):
    """Runs a graph, passing floating values through `store`; frees them after their last use."""

    def __init__(self, module: fx.GraphModule, store: Store | None) -> None:
        super().__init__(module)
        self._store = store

    def run_node(self, n: fx.Node) -> Any:
        if n.target in _RECURRENT:
            _check_state(*self.fetch_args_kwargs_from_env(n)[0])
        result = super().run_node(n)
        if self._store is None or n.op == "output" or n.target is operator.getitem:
            return result
        if isinstance(result, Tensor):
            name = str(n.target) if n.op == "get_attr" else n.name
            return self._store(name, result) if result.is_floating_point() else result
        if isinstance(result, (tuple, list)):
            parts = enumerate(result)  # pyright: ignore[reportUnknownVariableType]
            return [
                self._store(f"{n.name}.{i}", part)
                if isinstance(part, Tensor) and part.is_floating_point()
                else part
                for i, part in parts
            ]
        return result


class _Reader:
    """Builds a Graph from an fx.Graph."""

    def __init__(self, constants: Mapping[str, Tensor], deployed: torch.dtype) -> None:
        self.constants, self.deployed = constants, deployed
        self.names: dict[fx.Node, str] = {}
        self.values: dict[str, Value] = {}
        self.nodes: list[Node] = []
        self.inputs: list[str] = []
        self.outputs: list[str] = []

    def read(self, graph: fx.Graph) -> Graph:
        for node in graph.nodes:
            match node.op:
                case "placeholder":
                    self.inputs.append(self._value(node, node.name, Kind.INPUT))
                case "get_attr" if str(node.target) not in self.constants:
                    pass  # the branch of a condition
                case "get_attr":
                    self._value(node, str(node.target), Kind.CONSTANT)
                case "output":
                    flat = node.args[0] if isinstance(node.args[0], (tuple, list)) else node.args
                    self.outputs = [self.names[o] for o in flat if isinstance(o, fx.Node)]
                case _ if node.target is operator.getitem:
                    source, index = node.args
                    self.names[node] = f"{self.names[source]}.{index}"
                case _:
                    self._call(node)
        return Graph(tuple(self.nodes), self.values, tuple(self.inputs), tuple(self.outputs))

    def _call(self, node: fx.Node) -> None:
        operands: dict[str, str] = {}
        attributes: dict[str, Any] = {}
        floating = _touches_floats(node)
        for name, kind, found in schema_arguments(node.target, node.args, node.kwargs):
            for key, item in items(name, found, fx.Node):
                if isinstance(item, fx.Node):
                    if item in self.names:
                        operands[key] = self.names[item]
                elif floating and is_number(kind) and isinstance(item, (int, float)):
                    operands[key] = self._literal(node, key, float(item))
                else:
                    attributes[key] = item
        found = node.meta.get("val")
        self.names[node] = node.name
        if isinstance(found, (tuple, list)):
            outputs = tuple(
                self._add(f"{node.name}.{i}", Kind.ACTIVATION, part)
                for i, part in enumerate(found)  # pyright: ignore[reportUnknownArgumentType]
            )
        else:
            outputs = (self._add(node.name, Kind.ACTIVATION, found),)
        self.nodes.append(
            Node(
                name=node.name,
                op=_operator_name(node),
                inputs=operands,
                outputs=outputs,
                attributes=attributes,
                module=module_path(node),
                line=source_line(node),
                moves=bool(node.all_input_nodes)
                and moves(node.target, found, node.all_input_nodes[0].meta.get("val")),
            )
        )

    def _value(self, node: fx.Node, name: str, kind: Kind) -> str:
        self.names[node] = name
        return self._add(name, kind, node.meta.get("val"))

    def _add(self, name: str, kind: Kind, found: Any) -> str:
        is_tensor = isinstance(found, Tensor)
        floating = is_tensor and found.dtype.is_floating_point
        bounded = floating and found.dtype == self.deployed
        shape = tuple(_hint(size) for size in found.shape) if is_tensor else ()
        self.values[name] = Value(name, kind, floating, bounded, shape)
        return name

    def _literal(self, node: fx.Node, key: str, number: float) -> str:
        name = f"{node.name}.{key}"
        self.values[name] = Value(name, Kind.LITERAL, True, number=number)
        return name


def schema_arguments(
    target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[tuple[str, str, Any]]:
    """(name, type, value) of every argument of an operator, defaults included."""
    if not isinstance(target, torch._ops.OpOverload):  # pyright: ignore
        given = [*enumerate(args), *kwargs.items()]
        return [(str(name), "", found) for name, found in given]
    return [
        (
            a.name,
            str(a.type),
            args[i] if i < len(args) else kwargs.get(a.name, a.default_value),
        )
        for i, a in enumerate(target._schema.arguments)
    ]


def items(name: str, found: Any, kind: type) -> list[tuple[str, Any]]:
    """A list that holds any of a kind, element by element; anything else as it is."""
    if isinstance(found, (list, tuple)) and any(isinstance(x, kind) for x in found):
        return [(f"{name}.{i}", x) for i, x in enumerate(found)]
    return [(name, found)]


def is_number(kind: str) -> bool:
    """Whether an argument's type allows a number: Python numbers stand in for tensors as well."""
    return kind.removeprefix("Optional[").removesuffix("]") in ("number", "float", "Tensor")


def _touches_floats(node: fx.Node) -> bool:
    found = [node.meta.get("val"), *(n.meta.get("val") for n in node.all_input_nodes)]
    tensors = (t for t in pytree.tree_leaves(found) if isinstance(t, Tensor))
    return any(t.dtype.is_floating_point for t in tensors)


def _operator_name(node: fx.Node) -> str:
    target: Any = node.target
    if isinstance(target, torch._ops.OpOverload):  # pyright: ignore
        return str(target.overloadpacket)
    return f"python.{getattr(target, '__name__', target)}"


_COPIES = {"aten.clone", "aten._unsafe_view", "aten.contiguous", "aten.lift_fresh_copy"}


def moves(target: Any, made: Any, source: Any) -> bool:
    """Whether an operator's output holds only entries of its input, in the same format."""
    if not isinstance(target, torch._ops.OpOverload) or not isinstance(source, Tensor):  # pyright: ignore
        return False
    returns = target._schema.returns
    view = (
        bool(returns) and returns[0].alias_info is not None and not returns[0].alias_info.is_write
    )
    one_format = not isinstance(made, Tensor) or made.dtype == source.dtype
    return (view or str(target.overloadpacket) in _COPIES) and one_format


def module_path(node: fx.Node) -> str:
    """The qualified name of the user's module that a node comes from."""
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""


def source_line(node: fx.Node) -> str:
    """File and line of the innermost frame of the user's code."""
    frames = [
        line.strip()
        for line in (node.meta.get("stack_trace") or "").splitlines()
        if line.strip().startswith("File ")
    ]
    if not frames:
        return ""
    path, _, rest = frames[-1].removeprefix('File "').partition('"')
    number = rest.removeprefix(", line ").partition(",")[0]
    return f"{path}:{number}"


def _hint(size: Any) -> int:
    return size if isinstance(size, int) else int(size.node.hint or 1)


def _with_dtype(arguments: Any, old: torch.dtype, new: torch.dtype) -> Any:
    return map_aggregate(arguments, lambda a: new if a is old else a)  # type: ignore


NEEDS_FLOAT32 = "halfsafe.needs_float32"
"""Marks, in an input's metadata, that an island reads it in FP32."""


def _cast_inputs(graph: fx.Graph, deployed: torch.dtype, dtype: torch.dtype) -> None:
    """Inputs are cast to what is deployed, but for those that have to come in FP32."""
    for node in graph.find_nodes(op="placeholder"):
        if node.meta.get(NEEDS_FLOAT32):
            with graph.inserting_after(node):
                made = graph.call_function(in_float32, (node, node.name))
        elif is_deployed(node, deployed):
            with graph.inserting_after(node):
                made = graph.call_function(aten.to.dtype, (node, dtype))
        else:
            continue
        made.meta = dict(node.meta)
        node.replace_all_uses_with(made, lambda user, made=made: user is not made)


def in_float32(x: Tensor, name: str) -> Tensor:
    """An input that is read in FP32, as it is. Raises BadInput if its bits are gone already."""
    if isinstance(x, fx.Proxy):  # whoever traces the module symbolically keeps the check
        return x.tracer.create_proxy("call_function", in_float32, (x, name), {})  # type: ignore
    if x.dtype in (torch.float16, torch.bfloat16):
        raise BadInput(
            f"input '{name}' is {str(x.dtype).removeprefix('torch.')}: an operator needs more bits "
            "of it than that has, so pass it in float32"
        )
    return x


_CLAMPS = {
    aten.clamp.default,
    aten.clamp_min.default,
    aten.clamp_max.default,
    aten.hardtanh.default,
}


def _limit_bounds(graph: fx.Graph, deployed: torch.dtype, limit: float) -> None:
    """Clip bounds that the dtype cannot hold become its largest number: no value lies beyond it."""
    for node in graph.nodes:
        if node.target in _CLAMPS and is_deployed(node, deployed):
            node.args = map_aggregate(  # type: ignore[assignment]
                node.args,
                lambda a: min(max(a, -limit), limit) if isinstance(a, float) else a,
            )


def _split_factors(graph: fx.Graph, deployed: torch.dtype, limits: torch.finfo) -> None:
    """A factor that the dtype cannot hold becomes its significand, and powers of two behind it.

    PyTorch's kernels compute with numbers in FP32, but exporters store them in the dtype of what
    they multiply, where 1e6 is inf. Powers of two are exact, so that nothing is rounded twice.
    """
    for node in list(graph.nodes):
        if node.target in _SUMS and is_deployed(node, deployed):
            _multiply_first(graph, node, limits)
    for node in list(graph.nodes):
        if node.target not in _FACTORS or not is_deployed(node, deployed):
            continue
        factor = node.args[1]
        if not isinstance(factor, (int, float)) or not isfinite(factor) or not factor:
            continue
        if limits.smallest_normal <= abs(factor) <= limits.max:
            continue
        significand, exponent = frexp(factor)
        node.update_arg(1, significand)
        users, made = list(node.users), node
        for step in steps(exponent * _FACTORS[node.target]):
            with graph.inserting_after(made):
                made = graph.call_function(aten.mul.Tensor, (made, 2.0**step))
            made.meta = dict(node.meta)
        for user in users:
            user.replace_input_with(node, made)


_FACTORS = {aten.mul.Tensor: 1, aten.div.Tensor: -1}
_SUMS = {aten.add.Tensor, aten.sub.Tensor}


def _multiply_first(graph: fx.Graph, node: fx.Node, limits: torch.finfo) -> None:
    """a + c b as a + (c b), where kernels in the dtype refuse the c."""
    alpha, write = argument(node, "alpha")
    addend, replace_addend = argument(node, "other")
    if not isinstance(alpha, (int, float)) or abs(alpha) <= limits.max:
        return
    if not isinstance(addend, fx.Node):
        replace_addend(float(addend) * alpha)
    else:
        with graph.inserting_before(node):
            made = graph.call_function(aten.mul.Tensor, (addend, float(alpha)))
        made.meta = dict(node.meta)
        replace_addend(made)
    write(1)


def _assign(root: nn.Module, name: str, tensor: Tensor, role: Role) -> None:
    """Registers a constant under its qualified name, as what it was in the user's model."""
    *path, leaf = name.split(".")
    for part in path:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    if role == "parameter":
        root.register_parameter(leaf, nn.Parameter(tensor.detach(), requires_grad=False))
    else:
        root.register_buffer(leaf, tensor.detach(), persistent=role == "buffer")


class _Leaf:
    def __repr__(self) -> str:
        return "*"


def _structure(spec: pytree.TreeSpec) -> str:
    """``(*, *) and {'mask': *}``: arguments and keyword arguments, a star for each leaf."""
    args, kwargs = pytree.tree_unflatten([_Leaf()] * spec.num_leaves, spec)
    return f"{args} and {kwargs}"
