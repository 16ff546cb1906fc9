"""Branches of torch.cond: graphs of their own inside a graph, which compute in FP32.

A condition is one node without a law. What its branches store is not seen, so that they must not
store in FP16: what enters is cast to FP32, what leaves is cast back, with a factor of 1 in FP32 on
either side for a plan to change.
"""

# torch.fx is only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate, map_arg

from halfsafe.errors import CaptureError
from halfsafe.frontends.torch.lines import source_line
from halfsafe.frontends.torch.private import TO_COPY, HigherOrderOperator, name_of, tree_map
from halfsafe.frontends.torch.schema import aten, is_deployed

_COND = torch.ops.higher_order.cond


def widen_bodies(
    graph: fx.Graph, owner: fx.GraphModule, deployed: torch.dtype
) -> dict[str, nn.Module]:
    """Puts casts around every condition in place; gives the branches by name, in FP32.

    Raises CaptureError for operators with bodies of another kind.
    """
    bodies: dict[str, nn.Module] = {}
    for node in list(graph.nodes):
        if not isinstance(node.target, HigherOrderOperator):
            continue
        if node.target is not _COND:
            raise CaptureError(
                f"{node.name} at {source_line(node)} is torch.ops.higher_order.{node.target}, a "
                "loop or body that cannot be looked into: of these, only torch.cond can be used"
            )
        for branch in node.args[1:3]:
            bodies[str(branch.target)] = _in_float32(owner.get_submodule(branch.target), deployed)
        _cast_operands(graph, node, deployed)
        _cast_results(graph, node, deployed)
    return bodies


def _in_float32(body: Any, deployed: torch.dtype) -> nn.Module:
    """A branch, and those within it, with FP32 in place of the deployed format."""
    body = copy.deepcopy(body)
    for module in body.modules():
        if isinstance(module, fx.GraphModule):
            for node in module.graph.nodes:
                for name in ("args", "kwargs"):
                    found = map_aggregate(
                        getattr(node, name), lambda a: torch.float32 if a is deployed else a
                    )
                    setattr(node, name, found)
            module.recompile()
    return body


def _cast_operands(graph: fx.Graph, node: fx.Node, deployed: torch.dtype) -> None:
    made: dict[fx.Node, fx.Node] = {}
    for source in node.all_input_nodes:
        if is_deployed(source, deployed):
            with graph.inserting_before(node):
                made[source] = _call(graph, TO_COPY, source, dtype=torch.float32)
                made[source] = _call(graph, aten.mul.Tensor, made[source], 1.0)
    node.args = map_arg(node.args, lambda n: made.get(n, n))


def _cast_results(graph: fx.Graph, node: fx.Node, deployed: torch.dtype) -> None:
    def wide(x: Any) -> Any:
        return x.float() if isinstance(x, Tensor) and x.dtype == deployed else x

    node.meta["val"] = tree_map(wide, node.meta["val"])
    for part in list(node.users):
        if is_deployed(part, deployed):
            part.meta["val"] = wide(part.meta["val"])
            readers = list(part.users)
            with graph.inserting_after(part):
                scaled = _call(graph, aten.mul.Tensor, part, 1.0)
            with graph.inserting_after(scaled):
                cast = _call(graph, TO_COPY, scaled, dtype=deployed)
            for reader in readers:
                reader.replace_input_with(part, cast)


def _call(graph: fx.Graph, target: Any, source: fx.Node, *args: Any, **kwargs: Any) -> fx.Node:
    """A call on one node, with the metadata that reading needs."""
    node = graph.create_node("call_function", target, (source, *args), kwargs, name=name_of(target))
    kept = ("nn_module_stack", "stack_trace")
    node.meta = {name: found for name, found in source.meta.items() if name in kept}
    node.meta["val"] = target(source.meta["val"], *args, **kwargs)
    return node
