"""All that halfsafe uses of PyTorch's private parts; other files import it from here.

A new release of PyTorch may change any of these. tests/test_private.py holds each of them to what
is relied on.
"""

# What is private has no types.
# pyright: reportPrivateUsage=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import builtins
import sys
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import get_ident
from traceback import StackSummary
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.fx.proxy import TracerBase
from torch.utils import _python_dispatch
from torch.utils import _pytree as pytree

# Structures

TreeSpec = pytree.TreeSpec
"""The structure of nested containers without what they hold."""

tree_flatten = pytree.tree_flatten
"""What nested containers hold as a flat list, and their structure."""

tree_unflatten = pytree.tree_unflatten
"""The reverse."""

tree_leaves = pytree.tree_leaves
"""What nested containers hold as a flat list."""

tree_leaves_with_path = pytree.tree_leaves_with_path
"""The same, with where each leaf lies."""

keystr = pytree.keystr
"""Where a leaf lies in Python's own notation."""

tree_map = pytree.tree_map
"""Nested containers with a function's result in place of each leaf."""

tree_map_only = pytree.tree_map_only
"""The same for leaves of one type."""


@contextmanager
def unwarned_tracing() -> Generator[None]:
    """Within it, TorchScript's tracer does not warn of what Python does with sizes."""
    if not torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # pyright: ignore
        yield


def register_container(
    kind: type,
    flatten: Callable[[Any], tuple[list[Any], Any]],
    unflatten: Callable[[Iterable[Any], Any], Any],
    names: Callable[[Any], Sequence[str]],
) -> None:
    """Lets all of the above look inside a container of halfsafe's own, whose parts have names."""

    def with_paths(held: Any) -> Any:
        leaves, context = flatten(held)
        return list(zip(map(pytree.GetAttrKey, names(context)), leaves, strict=True)), context

    pytree.register_pytree_node(
        kind,
        flatten,
        unflatten,
        serialized_type_name=f"{kind.__module__}.{kind.__qualname__}",
        flatten_with_keys_fn=with_paths,
    )


@contextmanager
def registered(kinds: Mapping[type, tuple[Any, Any] | None]) -> Generator[None]:
    """Within it, torch.export looks inside these kinds; its registry is as before then.

    With each that is no dataclass are what takes one apart, into what it holds and the rest, and
    what puts these together.
    """
    made: dict[type, tuple[str, object]] = {}
    try:
        for kind, opening in kinds.items():
            name = f"halfsafe.{kind.__module__}.{kind.__qualname__}.{id(kind)}"
            if opening is None:
                torch.export.register_dataclass(kind, serialized_type_name=name)
            else:
                pytree.register_pytree_node(kind, *opening, serialized_type_name=name)
            made[kind] = name, pytree.SUPPORTED_NODES[kind]
        yield
    finally:
        for kind, (name, node) in made.items():
            if pytree.SUPPORTED_NODES.get(kind) is node:  # else someone else's by now
                del pytree.SUPPORTED_NODES[kind]
                del pytree.SUPPORTED_SERIALIZED_TYPES[kind]
            pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE.pop(name, None)


# Operators

OpOverload = torch._ops.OpOverload
"""One ATen operator, as captured graphs call it and dispatch modes see it."""

HigherOrderOperator = torch._ops.HigherOrderOperator
"""An operator with bodies, as torch.cond."""

TO_COPY = torch.ops.aten._to_copy.default
"""A cast."""

ASSERT_TENSOR_METADATA = torch.ops.aten._assert_tensor_metadata.default
"""What torch.export puts before a cast; it computes nothing."""

DECOMPOSED_BATCH_NORM = torch.ops.aten._native_batch_norm_legit_no_training.default
"""What decomposing makes of a batch norm in eval mode."""


def arguments_of(op: Any) -> Sequence[Any]:
    """An operator's arguments as its schema has them: name, type and default value."""
    return op._schema.arguments if isinstance(op, OpOverload) else ()


def returns_of(op: Any) -> Sequence[Any]:
    """An operator's results as its schema has them: which of them alias an argument."""
    return op._schema.returns


def writes(op: Any) -> bool:
    """Whether an operator writes to one of its arguments."""
    return bool(op._schema.is_mutable)


def name_of(op: Any) -> str:
    """An operator's name without namespace and overload: ``relu``."""
    return str(op._opname)


def is_composite(op: Any) -> bool:
    """Whether PyTorch itself computes an operator by others."""
    return bool(
        torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), "CompositeImplicitAutograd")
    )


TorchDispatchMode = _python_dispatch.TorchDispatchMode
"""Base of what sees every operator that a thread computes."""


# Tensors and modules


def version_of(x: Tensor) -> int:
    """How often a tensor was written to."""
    return int(x._version)


def types_only() -> Any:
    """A mode in which tensors have shapes and types, and nothing is computed."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode(allow_non_fake_inputs=True)


def with_tensors(module: nn.Module, change: Callable[[Tensor], Tensor]) -> nn.Module:
    """Changes all parameters and buffers of a module in place."""
    return module._apply(change)


BatchNorm = nn.modules.batchnorm._BatchNorm
"""The base of BatchNorm in all dimensions."""

PARTS_OF_FORWARD = ("_conv_forward", "_output_padding")
"""What forward() of a convolution calls, and a subclass could override."""


def convolve(conv: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What a convolution computes, its padding mode included, with another weight and bias."""
    return conv._conv_forward(x, weight, bias)


def output_padding(conv: Any, x: Tensor, output_size: list[int] | None) -> list[int]:
    """How a transposed convolution pads its output to have a size."""
    spatial = len(conv.kernel_size)
    return conv._output_padding(
        x, output_size, conv.stride, conv.padding, conv.kernel_size, spatial, conv.dilation
    )


def check_dimensions(norm: Any, x: Tensor) -> None:
    """Raises ValueError for an input of another rank than a BatchNorm takes."""
    norm._check_input_dim(x)


# Graphs


def taking(names: Sequence[str], in_spec: TreeSpec, out_spec: TreeSpec) -> Any:
    """What makes the forward() of a graph over flat values take and give structures."""
    return _PyTreeCodeGen(_PyTreeInfo(list(names), in_spec, out_spec))


def any_size() -> AbstractContextManager[Any]:
    """While exporting: a size of 0 or 1 in the sample is one like any other."""
    import torch.fx.experimental._config as config

    options: Any = config
    known = hasattr(options, "backed_size_oblivious")
    return options.patch(backed_size_oblivious=True) if known else nullcontext()


_FRAMES = "_filter_traceback_frames"


@contextmanager
def remembering(kept: Callable[[StackSummary], StackSummary]) -> Generator[None]:
    """Within it, nodes that this thread traces remember the frames that `kept` gives."""
    here, original = get_ident(), vars(TracerBase)[_FRAMES]

    def frames(self: Any, found: StackSummary) -> Any:
        return kept(found) if get_ident() == here else original(self, found)

    setattr(TracerBase, _FRAMES, frames)
    try:
        yield
    finally:
        setattr(TracerBase, _FRAMES, original)


@contextmanager
def without_graphs_on_stderr() -> Generator[None]:
    """Within it, torch.export does not print the graph so far where it fails in this thread."""
    import torch.export._trace
    import torch.fx.graph_module

    here = get_ident()

    def printed(*args: Any, **kwargs: Any) -> None:
        if get_ident() != here or kwargs.get("file") is not sys.stderr:
            builtins.print(*args, **kwargs)

    printing = [vars(module) for module in (torch.export._trace, torch.fx.graph_module)]
    for names in printing:
        names["print"] = printed
    try:
        yield
    finally:
        for names in printing:
            names.pop("print", None)


def seen_as_constant(function: Callable[..., Any]) -> None:
    """Lets torch.export in strict mode call a function once, and keep what it gives.

    What torch.compiler.assume_constant_result does, which imports the compiler to do it.
    """
    function.__dict__["_dynamo_marked_constant"] = True
