"""From torch.export's own program to halfsafe's: constants named, what says nothing dropped."""

# torch.fx and torch.export are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx.node import map_aggregate

from halfsafe.errors import CaptureError
from halfsafe.frontends.torch.bodies import widen_bodies
from halfsafe.frontends.torch.constants import Constant, Constants, Held
from halfsafe.frontends.torch.lines import source_line
from halfsafe.frontends.torch.private import (
    ASSERT_TENSOR_METADATA,
    DECOMPOSED_BATCH_NORM,
    TreeSpec,
    arguments_of,
    name_of,
    tree_map,
)
from halfsafe.frontends.torch.program import Program, Role
from halfsafe.frontends.torch.schema import argument, aten


def read_exported(
    exported: ExportedProgram,
    tensors: Mapping[str, Constant],
    dtype: torch.dtype,
    outputs: TreeSpec | None,
) -> Program:
    """A program with the FP32 model's `tensors`, from what was exported in a dtype.

    `outputs` is their structure, unless it is the one that torch.export has found.
    """
    graph = fx.Graph()
    graph.output(graph.graph_copy(exported.graph, {}))
    constants, roles = _hold_constants(graph, exported, tensors)
    _drop_side_outputs(graph, exported)
    bodies = widen_bodies(graph, exported.graph_module, dtype)
    _simplify(graph)
    _check_dtypes(graph)
    graph = _with_own_names(graph)
    if dtype == torch.float32 and not bodies:
        dtype = _mark_deployed(graph)
    in_spec, out_spec = exported.call_spec.in_spec, outputs or exported.call_spec.out_spec
    assert in_spec is not None and out_spec is not None
    names = [f"arg_{i}" for i in range(in_spec.child(0).num_children)]
    return Program(
        fx=graph,
        constants=constants,
        deployed=dtype,
        in_spec=in_spec,
        out_spec=out_spec,
        argument_names=(*names, *in_spec.child(1).context),
        roles=roles,
        bodies=bodies,
    )


def _hold_constants(
    graph: fx.Graph, exported: ExportedProgram, tensors: Mapping[str, Constant]
) -> tuple[Constants, dict[str, Role]]:
    """Constants become attributes with the FP32 model's values; user inputs stay placeholders."""
    constants: dict[str, Constant] = {}
    roles: dict[str, Role] = {}
    placeholders = list(graph.find_nodes(op="placeholder"))
    for node, spec in zip(placeholders, exported.graph_signature.input_specs, strict=True):
        if spec.kind == InputKind.USER_INPUT:
            continue
        name = str(spec.target)
        roles[name] = _role(spec.kind, bool(spec.persistent))
        constants[name] = tensors[name] if name in tensors else _lifted(exported, name)
        with graph.inserting_before(node):
            attribute = graph.create_node("get_attr", name, name=node.name)
        attribute.meta = dict(node.meta)
        node.replace_all_uses_with(attribute)
        graph.erase_node(node)
    return Constants(constants), roles


def _lifted(exported: ExportedProgram, name: str) -> Constant:
    """A constant that is no tensor of the model's, but was made in its code."""
    held: Any = exported.constants.get(name)
    if not isinstance(held, Tensor):
        raise CaptureError(f"the constant '{name}' is a {type(held).__name__}, not a tensor")
    return Held.of(_real(held.detach()))


def _mark_deployed(graph: fx.Graph) -> torch.dtype:
    """Writes bfloat16 where a graph captured in FP32 has FP32: all of it is deployed.

    Without a mark of its own, nothing could be told from what an island or the rim keeps in FP32.
    """

    def mark(x: Any) -> Any:
        if isinstance(x, Tensor) and x.dtype == torch.float32:
            return x.to(torch.bfloat16)
        return torch.bfloat16 if x is torch.float32 else x

    for node in graph.nodes:
        if "val" in node.meta:
            node.meta["val"] = tree_map(mark, node.meta["val"])
        node.args = map_aggregate(node.args, mark)  # type: ignore[assignment]
        node.kwargs = map_aggregate(node.kwargs, mark)  # type: ignore[assignment]
    return torch.bfloat16


def _with_own_names(graph: fx.Graph) -> fx.Graph:
    """The same graph, in which constants hold their names, so that no other value can have one.

    A number that an operator reads is the value "clamp.min", which a constant in a module named
    clamp could be as well: its module's name is taken, too. Copies of a graph keep names taken.
    """
    fresh = fx.Graph()
    named: dict[fx.Node, fx.Node] = {}
    for node in graph.find_nodes(op="get_attr"):
        outermost = str(node.target).partition(".")[0]
        named[node] = fresh.create_node("get_attr", node.target, name=outermost)
        named[node].meta = dict(node.meta)
    fresh.output(fresh.graph_copy(graph, named))
    for node in fresh.find_nodes(op="placeholder"):
        node.target = node.name  # else an argument and a constant can share a Python variable
    return fresh


def _drop_side_outputs(graph: fx.Graph, exported: ExportedProgram) -> None:
    """Keeps what the user sees; a buffer that the model writes to makes it stateful."""
    (output,) = graph.find_nodes(op="output")
    specs = exported.graph_signature.output_specs
    mutated = [s.target for s in specs if s.kind == OutputKind.BUFFER_MUTATION]
    if mutated:
        raise CaptureError(
            f"forward() writes to the buffer '{mutated[0]}': a rescaled model must be stateless, "
            "so pass that state as an argument"
        )
    output.args = (tuple(output.args[0]),)


def _simplify(graph: fx.Graph) -> None:
    """Drops metadata asserts and copies that dropout leaves; writes what is left open out."""
    for node in list(graph.nodes):
        if node.target is ASSERT_TENSOR_METADATA:
            graph.erase_node(node)
        elif node.target is aten.clone.default and "memory_format" not in node.kwargs:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif node.target is DECOMPOSED_BATCH_NORM:
            _single_batch_norm(graph, node)
        elif node.target is aten.cat.default:
            _without_nothing(graph, node)
        elif node.target in _UNWRITTEN:
            _write_zeros(node)
        elif node.target is aten.relu6.default:
            _become(graph, node, aten.hardtanh.default, (node.args[0], 0.0, 6.0))
        elif node.target is aten.rms_norm.default:
            eps, write = argument(node, "eps")
            if eps is None:
                write(torch.finfo(torch.float32).eps)
        elif node.target is aten.scaled_dot_product_attention.default:
            scale, write = argument(node, "scale")
            if scale is None:
                write(1.0 / float(node.args[0].meta["val"].shape[-1]) ** 0.5)
        elif _is_factory(node):
            dtype, write = argument(node, "dtype")
            if dtype is None:
                write(node.meta["val"].dtype)
    graph.eliminate_dead_code()


def _without_nothing(graph: fx.Graph, node: fx.Node) -> None:
    """Joins no empty tensor of one dimension, as a cache begins with: torch.cat leaves it out."""
    tensors, *rest = cast("tuple[list[fx.Node], Any]", node.args)
    held = [x for x in tensors if x.meta["val"].shape != (0,)]
    if held and len(held) < len(tensors):
        node.args = (held, *rest)
        if len(held) == 1:
            node.replace_all_uses_with(held[0])
            graph.erase_node(node)


_UNWRITTEN = {
    aten.empty.memory_format: aten.zeros.default,
    aten.empty_like.default: aten.zeros_like.default,
    aten.new_empty.default: aten.new_zeros.default,
}
"""Operators that give whatever lies in memory, to be written to, and those that give zeros."""


def _write_zeros(node: fx.Node) -> None:
    """Zeros in place of what lies in memory by chance, whose ranges would be measured."""
    node.target = _UNWRITTEN[cast("Any", node.target)]
    known = {argument.name for argument in arguments_of(node.target)}
    node.kwargs = {name: x for name, x in node.kwargs.items() if name in known}


def _is_factory(node: fx.Node) -> bool:
    """Whether a call makes a tensor of a dtype of its own, as torch.full does."""
    reads = any(isinstance(n.meta.get("val"), Tensor) for n in node.all_input_nodes)
    return not reads and any(a.name == "dtype" for a in arguments_of(node.target))


_ONE_DTYPE = {
    getattr(aten, name)
    for name in """linear mm bmm matmul mv dot addmm baddbmm convolution conv1d conv2d conv3d
    conv_transpose1d conv_transpose2d conv_transpose3d scaled_dot_product_attention
    batch_norm layer_norm native_layer_norm group_norm native_group_norm""".split()
}


def _check_dtypes(graph: fx.Graph) -> None:
    """Raises CaptureError for mixed operands that kernels refuse; capturing lets some pass."""
    for node in graph.nodes:
        if getattr(node.target, "overloadpacket", None) in _ONE_DTYPE:
            operands = (n.meta["val"] for n in node.all_input_nodes)
            names = sorted({_name(x.dtype) for x in operands if x.dtype.is_floating_point})
            if len(names) > 1:
                raise CaptureError(
                    f"{node.name} at {source_line(node)} mixes {' and '.join(names)}"
                )


def _single_batch_norm(graph: fx.Graph, node: fx.Node) -> None:
    """The user's batch_norm, with one output, in place of its decomposition, with three."""
    *arguments, momentum, eps = node.args
    (output,) = [user for user in node.users if user.args[1] == 0]
    _become(graph, output, aten.batch_norm.default, (*arguments, False, momentum, eps, True), node)
    graph.erase_node(node)


def _become(
    graph: fx.Graph, node: fx.Node, target: Any, args: tuple[Any, ...], like: fx.Node | None = None
) -> None:
    """Puts another call, with the same value, in place of a node."""
    with graph.inserting_before(node):
        call = graph.create_node("call_function", target, args, name=name_of(target))
    call.meta = {**(like or node).meta, "val": node.meta["val"]}
    node.replace_all_uses_with(call)
    graph.erase_node(node)


def _role(kind: InputKind, persistent: bool) -> Role:
    if kind == InputKind.PARAMETER:
        return "parameter"
    return "buffer" if kind == InputKind.BUFFER and persistent else "constant"


def _real(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
