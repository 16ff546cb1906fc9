"""A captured PyTorch model: evaluated node by node, edited, and turned back into a module."""

# torch.fx and torch.export are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false
# pyright: reportPrivateUsage=false

from __future__ import annotations

import operator
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import RLock
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.random import fork_rng

from halfsafe.errors import BadInput, first_line
from halfsafe.frontends.torch import arithmetic
from halfsafe.frontends.torch.constants import Constants, Held
from halfsafe.frontends.torch.door import add_doors, check_call, check_doors
from halfsafe.frontends.torch.half import NEEDS_FLOAT32, in_dtype
from halfsafe.frontends.torch.private import TreeSpec, taking, tree_flatten, tree_unflatten
from halfsafe.frontends.torch.reader import read_graph, size_of
from halfsafe.frontends.torch.run import Evaluation
from halfsafe.frontends.torch.schema import draws, is_deployed
from halfsafe.graph import Graph
from halfsafe.measure import Arithmetic, Lanes, Store
from halfsafe.samples import Call

Role = Literal["parameter", "buffer", "constant"]
"""What a constant was in the user's model; a "constant" is in no state_dict."""


@dataclass(frozen=True)
class Program:
    """A functional graph of ATen calls over named constants. Never mutated.

    `deployed` is the dtype that marks, in the graph's metadata and arguments, what is stored in
    the deployed format: bfloat16 for a capture in bfloat16. `constants` are FP32 and integers, and
    are read when they are needed; `bodies` are the branches of conditions.
    """

    fx: fx.Graph
    constants: Constants
    deployed: torch.dtype
    in_spec: TreeSpec
    out_spec: TreeSpec
    argument_names: tuple[str, ...]
    roles: Mapping[str, Role]
    bodies: Mapping[str, nn.Module] = field(default_factory=dict[str, nn.Module])

    @property
    def graph(self) -> Graph:
        """The same network as halfsafe's own frozen graph."""
        return self._graph

    @cached_property
    def _graph(self) -> Graph:
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
        graph = self._copied()
        module = fx.GraphModule(nn.Module(), fx.Graph(), "Halfsafe")
        for name, body in self.bodies.items():
            module.add_module(name, body)
        fits = {n.target: is_deployed(n, self.deployed) for n in graph.find_nodes(op="get_attr")}
        for name, deployed in fits.items():
            if name in self.bodies:
                continue
            source = self.constants.sources[str(name)]
            made = source.read_as(dtype) if deployed else source.read()
            if not share and isinstance(source, Held) and made is source.tensor:
                made = made.clone()
            _assign(module, str(name), made, self.roles.get(str(name), "constant"))
        in_dtype(graph, self.deployed, dtype)
        add_doors(graph)
        graph.set_codegen(taking(self.argument_names, self.in_spec, self.out_spec))
        module.graph = graph  # set last: a GraphModule copies buffers without their persistence
        return module.eval()

    def without_values(self) -> Program:
        """The same for who asks for shapes and types alone: no constant is read."""
        return self.with_graph(self.fx, self.constants.unread())

    @cached_property
    def draws(self) -> bool:
        """Whether the graph draws random numbers."""
        return any(draws(node) for node in self.fx.nodes)

    @cached_property
    def _in_float32(self) -> fx.Graph:
        """The graph in FP32, to be interpreted."""
        graph = self._copied()
        in_dtype(graph, self.deployed, torch.float32)
        return graph

    def _copied(self) -> fx.Graph:
        graph = fx.Graph()
        graph.output(graph.graph_copy(self.fx, {}))
        return graph

    @property
    def arithmetic(self) -> Arithmetic:
        """PyTorch's."""
        return arithmetic

    @property
    def stored(self) -> frozenset[str]:
        """The values that are rounded when they are stored."""
        return self.graph.rounded

    def evaluate(self, call: Call, store: Store, lanes: int = 1) -> list[Lanes]:
        """The flat outputs in FP32 arithmetic on each lane, each tensor passing through `store`.

        No value is kept longer than the graph needs it. Raises BadInput if the sample's structure
        or shapes are not those of the captured one.
        """
        return self.evaluate_all([call], [store], lanes)[0]

    def evaluate_all(
        self, calls: Sequence[Call], stores: Sequence[Store], lanes: int = 1
    ) -> list[list[Lanes]]:
        """The same of several samples side by side: constants are read once for all of them.

        What draws numbers runs on one after the other.
        """
        if self.draws and len(calls) > 1:
            return [self.evaluate(*each, lanes) for each in zip(calls, stores, strict=True)]
        graph, held = self._in_float32, dict[fx.Node, Any]()
        runs = [
            Evaluation(graph, self.bodies, self.constants, held, store, lanes, self._fitting(call))
            for call, store in zip(calls, stores, strict=True)
        ]
        with torch.no_grad(), same_draws(self.draws):
            for node in graph.nodes:
                for call, run in zip(calls, runs, strict=True):
                    try:
                        run.step(node)
                    except (RuntimeError, IndexError, MemoryError) as error:
                        raise _misfit(call, error) from error
                held.clear()
        return [run.outputs for run in runs]

    def run_node(self, name: str, values: Mapping[str, Tensor]) -> list[Tensor]:
        """What one operator gives in FP32, of values by their names in `graph`.

        Constants that are not among these are its own. Raises RuntimeError for what does not fit.
        """
        (node,) = (n for n in self._in_float32.nodes if n.name == name)

        def value_of(n: fx.Node) -> Any:
            key = _key(n)
            if key in values:
                return values[key]
            return self.constants[key] if key in self.constants else size_of(n.meta["val"])

        args, kwargs = map_arg((node.args, node.kwargs), value_of)
        with torch.no_grad():
            found = node.target(*args, **kwargs)
        return list(found) if isinstance(found, (tuple, list)) else [found]

    def _fitting(self, call: Call) -> list[Any]:
        """A sample as graph inputs. Raises BadInput where the graph was not captured for it."""
        if not call.computed:
            check_call(call)
        flat = self.flatten(call)
        check_doors(self.fx, flat, call.number)
        return flat

    def run(self, call: Call) -> list[Any]:
        """The flat outputs in FP32."""
        return [x for (x,) in self.evaluate(call, lambda _, lanes: lanes)]

    def flatten(self, call: Call) -> list[Any]:
        """A sample as the flat list of graph inputs."""
        kwargs = call.kwargs
        expected = self.in_spec.child(1).context
        if set(kwargs) == set(expected):
            kwargs = {name: kwargs[name] for name in expected}
        flat, spec = tree_flatten((tuple(call.args), kwargs))
        if spec != self.in_spec:
            raise BadInput(
                f"sample {call.number} has {_structure(spec)}, sample 0 had "
                f"{_structure(self.in_spec)}: give all samples the same structure"
            )
        return flat

    def unflatten(self, outputs: Sequence[Any]) -> Any:
        """Flat outputs in the structure that the user's model returns."""
        return tree_unflatten(list(outputs), self.out_spec)

    def with_graph(self, graph: fx.Graph, constants: Constants) -> Program:
        """The same interface around another graph."""
        return replace(self, fx=graph, constants=constants)


_DRAWING = RLock()
"""Held by the thread whose numbers are drawn: generators belong to the whole process."""


@contextmanager
def same_draws(enabled: bool = True) -> Generator[None]:
    """Within it, random numbers are the same each time; those of the user go on afterwards."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with _DRAWING if enabled else nullcontext(), fork_rng(devices, enabled=enabled):
        if enabled:
            for generator in (
                torch.default_generator,
                *torch.cuda.default_generators[: len(devices)],
            ):
                generator.manual_seed(0)
        yield


def _key(node: fx.Node) -> str:
    """How halfsafe's graph calls what a node gives."""
    if node.target is operator.getitem:
        source, index = node.args
        return f"{_key(source)}.{index}"  # pyright: ignore[reportArgumentType]
    return str(node.target) if node.op == "get_attr" else node.name


def _misfit(call: Call, error: Exception) -> BadInput:
    """What is to be said of a sample on which the graph does not run."""
    check_memory(call, error)
    return BadInput(
        f"sample {call.number} does not fit the graph captured from sample 0: "
        f"{first_line(error)}; give all samples one shape, or pass dynamic_shapes"
    )


def check_memory(call: Call, error: BaseException) -> None:
    """Raises BadInput if an error is that memory does not suffice."""
    full = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    if full or "can't allocate memory" in str(error):
        raise BadInput(
            f"sample {call.number} needs more memory than there is: {first_line(error)}; pass "
            "smaller samples or a part of the model"
        ) from error


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


def _structure(spec: TreeSpec) -> str:
    """``(*, *) and {'mask': *}``: arguments and keyword arguments, a star for each leaf."""
    args, kwargs = tree_unflatten([_Leaf()] * spec.num_leaves, spec)
    return f"{args} and {kwargs}"
