"""Captures a PyTorch model with torch.export, seen as the low-precision model that it becomes.

The capture is made on a bfloat16 copy, so that the model's own upcasts to FP32 are visible; a
float16 copy would not do, because models carry float16-only clamps. It is then read with the FP32
weights, and must be bit-equal to the user's model on the first sample; if it is not, a capture in
FP32 is tried, where those upcasts cannot be seen.
"""

# torch.fx and torch.export are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false
# pyright: reportPrivateUsage=false

from __future__ import annotations

import copy
import dataclasses
import logging
import traceback
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import (
    AbstractContextManager,
    contextmanager,
    nullcontext,
    redirect_stderr,
    suppress,
)
from dataclasses import dataclass
from functools import partial
from io import StringIO
from math import inf
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx.node import map_aggregate
from torch.fx.proxy import TracerBase
from torch.utils import _pytree as pytree

from halfsafe.errors import BadInput, CaptureError, first_line
from halfsafe.formats import FLOAT32
from halfsafe.frontends.torch.bodies import widen_bodies
from halfsafe.frontends.torch.complexes import ComplexInFloat32, has_complex
from halfsafe.frontends.torch.door import check_call
from halfsafe.frontends.torch.lines import is_own, source_line
from halfsafe.frontends.torch.program import Program, Role, check_memory, same_draws
from halfsafe.frontends.torch.schema import argument, aten
from halfsafe.frontends.torch.sizes import any_size, dynamic_where_they_differ, mark_held
from halfsafe.frontends.torch.split import splitting
from halfsafe.samples import Call


@dataclass(frozen=True)
class Capture:
    """A program, how far its FP32 outputs are from the model's, and what the user should know."""

    program: Program
    difference: float
    notes: tuple[str, ...]


def capture(
    model: nn.Module, call: Call, dynamic_shapes: Any = None, others: Sequence[Call] = ()
) -> Capture:
    """Captures `model` for calls like `call`, and of any size on axes on which `others` differ.

    A capture in bfloat16 that is as close to the model as one in FP32 is preferred, since it shows
    the model's own upcasts. Raises BadInput for a model or sample that cannot be used as it is, and
    CaptureError, with the line of the user's code, when torch.export cannot follow the model.
    """
    check_model(model)
    check_call(call)
    reference = run_model(model, call)
    _register_dataclasses(reference)
    expected = pytree.tree_leaves(reference)
    found = None
    if dynamic_shapes is None:
        found = _dynamic_capture(model, call, others, expected)
    if found is None:
        found = _capture(model, call, expected, dynamic_shapes)
    mark_held(found.program.fx, call, others, partial(_holds, model, found))
    return found


def _dynamic_capture(
    model: nn.Module, call: Call, others: Sequence[Call], expected: list[Any]
) -> Capture | None:
    """A capture of any size on axes on which samples differ; None where there is no such one."""
    shapes = dynamic_where_they_differ(model, call, others)
    if shapes is None:
        return None
    with suppress(CaptureError, BadInput), any_size():
        found = _capture(model, call, expected, shapes)
        if all(_holds(model, found, other) for other in others[:2]):
            return found
    return None


def _holds(model: nn.Module, found: Capture, call: Call) -> bool:
    """Whether a captured graph gives on a call what the model gives. Raises where that fails."""
    wanted = pytree.tree_leaves(run_model(model, call))
    try:
        made = found.program.run(call)
    except BadInput:
        return False
    return difference(made, wanted) <= max(_SAME_FUNCTION, 2 * found.difference)


_SAME_FUNCTION = 1e-4
"""How far, over their largest entry, outputs may be from the model's at a size not captured."""


def _capture(model: nn.Module, call: Call, expected: list[Any], dynamic_shapes: Any) -> Capture:
    reason = "it is not bit-equal to the model"
    low, distance = None, inf
    try:
        low = _export(model, call, torch.bfloat16, dynamic_shapes)
        distance = difference(low.run(call), expected)
    except (CaptureError, RuntimeError) as error:  # some kernels take bfloat16 only
        low, reason = None, first_line(error)
    if low is not None and distance == 0:
        return Capture(low, 0.0, ())
    full = _export(model, call, torch.float32, dynamic_shapes)
    _check_float32(model, full, reason)
    full_distance = difference(full.run(call), expected)
    if low is not None and distance <= 2 * full_distance:
        return Capture(low, distance, (_inexact(distance),))
    note = f"the model's own casts to FP32 are not seen, since a bfloat16 capture fails: {reason}"
    notes = (note, _inexact(full_distance)) if full_distance else (note,)
    return Capture(full, full_distance, notes)


def _check_float32(model: nn.Module, program: Program, reason: str) -> None:
    """Raises CaptureError where FP32 has to be told from what is stored, and cannot be."""
    odd = "complex values" if has_complex([n.meta.get("val") for n in program.fx.nodes]) else ""
    odd = odd or ("torch.cond" if program.bodies else "")
    if odd:
        raise CaptureError(
            f"{type(model).__name__} computes with {odd}, which has to stay in FP32, and a capture "
            f"in bfloat16, which would show what else does, fails: {reason}"
        )


def _inexact(distance: float) -> str:
    return (
        f"the captured graph differs from the model by {distance:.1e} in FP32 (kernels that fuse "
        "what torch.export does not); the proof compares with the captured graph"
    )


def load_exported(path: Path) -> tuple[nn.Module, Any]:
    """The module in a .pt2 file, and the example inputs that torch.export keeps with it.

    The inputs are None if they are both positional and named. Raises BadInput.
    """
    if not path.is_file():
        raise BadInput(f"there is no file '{path}'")
    try:
        with _quietly():
            exported = torch.export.load(path)
            module = exported.module()
    except Exception as error:
        raise BadInput(
            f"cannot read '{path}' with torch.export.load: {first_line(error)}"
        ) from error
    for part in module.modules():
        part.training = False  # an exported program has no modes, and says that it trains
    args, kwargs = exported.example_inputs or ((), {})
    return module, None if bool(args) == bool(kwargs) else args or kwargs


def run_model(model: Callable[..., Any], call: Call) -> Any:
    """The user's own model on one sample, in FP32. Raises BadInput when the sample does not fit."""
    try:
        with torch.no_grad(), same_draws():
            return model(*call.args, **call.kwargs)
    except Exception as error:
        check_memory(call, error)
        raise BadInput(
            f"{type(model).__name__} itself fails on sample {call.number}: {first_line(error)}; "
            "pass what its forward() takes"
        ) from error


def check_model(model: Any) -> None:
    """Raises BadInput for what is not an nn.Module in eval mode with finite FP32 weights."""
    if not isinstance(model, nn.Module):
        raise BadInput(f"the model is a {type(model).__name__}, not a torch.nn.Module")
    if model.training:
        raise BadInput(
            f"{type(model).__name__} is in training mode: call model.eval() first, since only "
            "inference can be rescaled exactly"
        )
    inner = next((name for name, m in model.named_modules() if m.training), None)
    if inner is not None:
        raise BadInput(f"submodule '{inner}' is in training mode: call model.eval() first")
    tensors = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in tensors:
        if isinstance(tensor, nn.Parameter) and tensor.dtype == torch.float64:
            raise BadInput(f"'{name}' is float64: pass the FP32 model, model.float()")
        if tensor.dtype in (torch.float16, torch.bfloat16):
            raise BadInput(
                f"'{name}' is already {_name(tensor.dtype)}: pass the FP32 model, the values that "
                "rounding lost cannot be found again"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            allowed = not isinstance(tensor, nn.Parameter) and not bool(torch.isnan(tensor).any())
            if not allowed:  # a buffer may hold the -inf of an attention mask
                bad = int((~torch.isfinite(tensor)).sum())
                raise BadInput(f"'{name}' holds {bad} NaN or inf: repair the checkpoint first")


def difference(found: list[Any], expected: list[Any]) -> float:
    """0.0 for bit-equal flat outputs (NaN equals NaN), else the largest relative difference."""
    if len(found) != len(expected):
        return inf
    return max((_distance(a, b) for a, b in zip(found, expected, strict=True)), default=0.0)


def _distance(a: Any, b: Any) -> float:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return 0.0 if a == b else inf
    if a.shape != b.shape or a.dtype != b.dtype:
        return inf
    if not a.is_floating_point():
        return 0.0 if torch.equal(a, b) else inf
    same = (a == b) | (a.isnan() & b.isnan())
    if bool(same.all()):
        return 0.0
    apart = torch.where(same, 0.0, (a - b).abs())
    largest = float(b.nan_to_num(0.0, 0.0, 0.0).abs().max())
    return float(apart.nan_to_num(inf).max()) / max(largest, FLOAT32.smallest_normal)


def _export(model: nn.Module, call: Call, dtype: torch.dtype, dynamic_shapes: Any) -> Program:
    cast = _caster(dtype)
    args, kwargs = pytree.tree_map(cast, (call.args, call.kwargs))
    try:
        with torch.no_grad(), _quietly(), _whole_tracebacks(), _casting(dtype):
            source = model if dtype == torch.float32 else _copy_in(dtype, model)
            exported = torch.export.export(
                source, args, kwargs, dynamic_shapes=dynamic_shapes, strict=False
            )
    except Exception as error:
        raise CaptureError(_explain(model, error)) from error
    try:
        return _program(_decomposed(model, exported, splitting()), model, dtype)
    except Exception:  # a composite that decides by its data, say, stays whole
        return _program(_decomposed(model, exported, {}), model, dtype)


def _casting(dtype: torch.dtype) -> AbstractContextManager[object]:
    """Casts around complex values where a model is captured in less than FP32."""
    return nullcontext() if dtype == torch.float32 else ComplexInFloat32(dtype)


def _copy_in(dtype: torch.dtype, model: nn.Module) -> nn.Module:
    """A copy of a model in another format; what is complex stays as it is."""
    return copy.deepcopy(model)._apply(_caster(dtype))


def _decomposed(
    model: nn.Module, exported: ExportedProgram, table: Mapping[Any, Callable[..., Any]]
) -> ExportedProgram:
    """The program in functional ATen operators, split as the table says."""
    try:
        with torch.no_grad(), _quietly(), _whole_tracebacks():
            return exported.run_decompositions(dict(table))
    except Exception as error:
        raise CaptureError(_explain(model, error)) from error


@contextmanager
def _quietly() -> Generator[None]:
    """torch.export warns, logs, and prints the graph so far when it fails: its error is enough."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stderr(StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextmanager
def _whole_tracebacks() -> Generator[None]:
    """Lets nodes remember the line of the user's code they come from.

    Tracers keep frames of functions named forward only; the line that computes something is often
    in a function that forward() calls.
    """

    def user_frames(self: Any, user_stack_summary: traceback.StackSummary) -> Any:
        names = [frame.name for frame in user_stack_summary]
        start = names.index("forward") if "forward" in names else len(names)
        frames = user_stack_summary[start:]
        kept = [frame for frame in frames if not is_own(frame.filename)]
        return traceback.StackSummary.from_list(kept)

    with patch.object(TracerBase, "_filter_traceback_frames", user_frames):
        yield


def _program(exported: ExportedProgram, model: nn.Module, dtype: torch.dtype) -> Program:
    """Constants become attributes with the FP32 model's values; user inputs stay placeholders."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(exported.graph, {}))
    constants: dict[str, Tensor] = {}
    roles: dict[str, Role] = {}
    originals = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    placeholders = list(graph.find_nodes(op="placeholder"))
    for node, spec in zip(placeholders, exported.graph_signature.input_specs, strict=True):
        if spec.kind == InputKind.USER_INPUT:
            continue
        name = str(spec.target)
        roles[name] = _role(spec.kind, bool(spec.persistent))
        held: Any = originals.get(name, exported.constants.get(name))
        if not isinstance(held, Tensor):
            raise CaptureError(f"the constant '{name}' is a {type(held).__name__}, not a tensor")
        constants[name] = _real(held.detach())
        with graph.inserting_before(node):
            attribute = graph.create_node("get_attr", name, name=node.name)
        attribute.meta = dict(node.meta)
        node.replace_all_uses_with(attribute)
        graph.erase_node(node)
    _drop_side_outputs(graph, exported)
    bodies = widen_bodies(graph, exported.graph_module, dtype)
    _simplify(graph)
    _check_dtypes(graph)
    graph = _with_own_names(graph)
    if dtype == torch.float32 and not bodies:
        dtype = _mark_deployed(graph)
    in_spec, out_spec = exported.call_spec.in_spec, exported.call_spec.out_spec
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
            node.meta["val"] = pytree.tree_map(mark, node.meta["val"])
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
    """Drops metadata asserts and the copies that dropout leaves; writes hidden defaults out."""
    for node in list(graph.nodes):
        if node.target is aten._assert_tensor_metadata.default:
            graph.erase_node(node)
        elif node.target is aten.clone.default and "memory_format" not in node.kwargs:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif node.target is aten._native_batch_norm_legit_no_training.default:
            _single_batch_norm(graph, node)
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


def _is_factory(node: fx.Node) -> bool:
    """Whether a call makes a tensor of a dtype of its own, as torch.full does."""
    schema = getattr(node.target, "_schema", None)
    reads = any(isinstance(n.meta.get("val"), Tensor) for n in node.all_input_nodes)
    return schema is not None and not reads and any(a.name == "dtype" for a in schema.arguments)


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
        call = graph.create_node("call_function", target, args, name=target._opname)
    call.meta = {**(like or node).meta, "val": node.meta["val"]}
    node.replace_all_uses_with(call)
    graph.erase_node(node)


def _register_dataclasses(outputs: Any) -> None:
    """Lets torch.export see inside dataclasses that forward() returns."""
    if dataclasses.is_dataclass(outputs) and pytree.tree_leaves(outputs) == [outputs]:
        kind = type(outputs) if not isinstance(outputs, type) else outputs
        torch.export.register_dataclass(kind)
        for field in dataclasses.fields(outputs):
            _register_dataclasses(getattr(outputs, field.name))


def _role(kind: InputKind, persistent: bool) -> Role:
    if kind == InputKind.PARAMETER:
        return "parameter"
    return "buffer" if kind == InputKind.BUFFER and persistent else "constant"


def _real(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def _caster(dtype: torch.dtype) -> Callable[[Any], Any]:
    def cast(leaf: Any) -> Any:
        floating = isinstance(leaf, Tensor) and leaf.is_floating_point()
        return leaf.to(dtype) if floating else leaf

    return cast


def _explain(model: nn.Module, error: Exception) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not is_own(f.filename)]
    where = f" at {frames[-1].filename}:{frames[-1].lineno} ({frames[-1].line})" if frames else ""
    return (
        f"torch.export cannot follow {type(model).__name__}{where}: {first_line(error)}; "
        "replace data-dependent Python by torch.where or torch.cond, or pass a wrapper module "
        "whose forward() is the exportable part"
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
