"""Makes a graph compute in half precision: its casts, bounds and factors."""

# torch.fx and torch.export are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false
# pyright: reportPrivateUsage=false

from __future__ import annotations

from math import copysign, frexp, isfinite
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate

from halfsafe.edits import steps
from halfsafe.errors import BadInput
from halfsafe.frontends.torch.schema import argument, aten, is_deployed

NEEDS_FLOAT32 = "halfsafe.needs_float32"
"""Marks, in an input's metadata, that an island reads it in FP32."""


def in_dtype(graph: fx.Graph, deployed: torch.dtype, dtype: torch.dtype) -> None:
    """Makes a graph compute in `dtype` what is marked as deployed."""
    for node in graph.nodes:
        node.args, node.kwargs = map_aggregate(  # type: ignore[assignment]
            (node.args, node.kwargs), lambda a: _said_in(a, deployed, dtype)
        )
    if dtype != torch.float32:
        _cast_inputs(graph, deployed, dtype)
        _limit_bounds(graph, deployed, torch.finfo(dtype).max)
        _split_factors(graph, deployed, torch.finfo(dtype))


def _said_in(a: Any, deployed: torch.dtype, dtype: torch.dtype) -> Any:
    """An argument that is the deployed dtype, or its largest number, as `finfo(x.dtype).min` is in
    a model's code, as it would be in another dtype. In FP32 that number is left as it is."""
    if a is deployed:
        return dtype
    if dtype != torch.float32 and isinstance(a, float) and abs(a) == torch.finfo(deployed).max:
        return copysign(torch.finfo(dtype).max, a)
    return a


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
