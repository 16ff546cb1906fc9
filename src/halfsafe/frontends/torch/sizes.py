"""Which sizes of a sample a captured graph holds, and which it takes as they come.

An axis is free where the graph, on the sample with another size there, still gives what the user's
model gives. Axes of one place and one size, of all arguments, are taken to be the same.
"""

# torch.fx and torch.export are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ShapesCollection

from halfsafe.errors import BadInput
from halfsafe.frontends.torch.door import HELD
from halfsafe.frontends.torch.private import tree_leaves, tree_map
from halfsafe.samples import Call

Axis = tuple[int, int]
"""A place among the axes of a tensor, and the size there."""

Holds = Callable[[Call], bool]
"""Whether the graph gives on a call what the user's model gives. Raises where the latter fails."""


def dynamic_where_they_differ(model: nn.Module, call: Call, others: Sequence[Call]) -> Any:
    """What `torch.export.export` takes as dynamic_shapes, for axes on which samples differ.

    None if they do not. Samples of another structure are left to be refused later.
    """
    shapes = ShapesCollection()
    leaves, found = _leaves(call), False
    for i, axes in enumerate(_differing(call, others)):
        if axes:
            shapes[leaves[i]] = dict.fromkeys(axes, Dim.AUTO)
            found = True
    return shapes.dynamic_shapes(model, call.args, call.kwargs) if found else None


def free_sizes(
    model: nn.Module,
    graph: fx.Graph,
    leaves: Sequence[Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """The same for axes that are free in a graph, whose inputs these are; None without any."""
    shapes, found = ShapesCollection(), False
    for node, leaf in zip(graph.find_nodes(op="placeholder"), leaves, strict=True):
        known = node.meta.get("val")
        if isinstance(leaf, Tensor) and isinstance(known, Tensor):
            free = [i for i, size in enumerate(known.shape) if isinstance(size, torch.SymInt)]
            if free:
                shapes[leaf] = dict.fromkeys(free, Dim.AUTO)
                found = True
    return shapes.dynamic_shapes(model, args, kwargs) if found else None


def _leaves(call: Call) -> list[Any]:
    return tree_leaves((call.args, call.kwargs))


def _differing(call: Call, others: Sequence[Call]) -> list[set[int]]:
    """The axes on which others differ, for each leaf of a sample."""
    leaves = _leaves(call)
    found: list[set[int]] = [set() for _ in leaves]
    for other in others:
        given = _leaves(other)
        for axes, one, two in zip(found, leaves, given, strict=len(given) == len(leaves)):
            if isinstance(one, Tensor) and isinstance(two, Tensor) and one.dim() == two.dim():
                axes |= {i for i in range(one.dim()) if one.shape[i] != two.shape[i]}
    return found


def mark_held(graph: fx.Graph, call: Call, others: Sequence[Call], holds: Holds) -> None:
    """Writes into each input's metadata which of its sizes, or which number, the graph holds."""
    inputs, leaves = list(graph.find_nodes(op="placeholder")), _leaves(call)
    apart = next((other for other in others if any(_differing(call, [other]))), None)
    refused = _differing(call, [apart] if apart and not holds(apart) else [])
    open_axes = {
        axis
        for node, leaf, bad in zip(inputs, leaves, refused, strict=True)
        for axis in _static_axes(node, leaf)
        if axis[0] not in bad
    }
    free = _free_of(open_axes, call, holds)
    for node, leaf, bad in zip(inputs, leaves, refused, strict=True):
        if isinstance(leaf, Tensor):
            axes = _static_axes(node, leaf)
            node.meta[HELD] = tuple(a for a in axes if a[0] in bad or a not in free)
        elif isinstance(leaf, (bool, int, float, str)) and not _is_symbol(node):
            node.meta[HELD] = (leaf,)


def _static_axes(node: fx.Node, leaf: Any) -> list[Axis]:
    """The axes of an input whose sizes are numbers in the graph."""
    if not isinstance(leaf, Tensor):
        return []
    shape = node.meta["val"].shape
    return [axis for axis in enumerate(leaf.shape) if isinstance(shape[axis[0]], int)]


def _is_symbol(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), (torch.SymInt, torch.SymFloat, torch.SymBool))


def _free_of(axes: Iterable[Axis], call: Call, holds: Holds) -> set[Axis]:
    """The axes at another size of which the graph holds.

    The largest is tried first, and where the graph holds at half of it, the others are tried on
    that smaller sample; on the whole one only where it does not hold there.
    """
    found: set[Axis] = set()
    small = call
    for axis in sorted(axes, key=lambda axis: (-axis[1], axis[0])):
        other = _holding(axis, small, holds)
        if other is None and small is not call:
            other = _holding(axis, call, holds)
        if other is None:
            continue
        found.add(axis)
        if _entries(other) < _entries(small):
            small = other
    return found


def _entries(call: Call) -> int:
    return sum(x.numel() for x in _leaves(call) if isinstance(x, Tensor))


def _holding(axis: Axis, call: Call, holds: Holds) -> Call | None:
    """A sample of another size at which the graph holds.

    A size that the model itself does not take is none.
    """
    for size in _other_sizes(axis[1]):
        other = _resized(call, axis, size)
        try:
            return other if holds(other) else None
        except BadInput:
            continue
    return None


def _other_sizes(size: int) -> Iterable[int]:
    """Half and double of a size, but never 1, at which much is broadcast."""
    return [n for n in (size // 2 if size % 2 == 0 else 0, 2 * size) if n > 1]


def _resized(call: Call, axis: Axis, size: int) -> Call:
    """A sample whose entries along an axis are repeated, or left out."""
    place, old = axis

    def resized(x: Any) -> Any:
        if not isinstance(x, Tensor) or x.dim() <= place or x.shape[place] != old:
            return x
        return x.index_select(place, torch.arange(size, device=x.device) % old)

    args, kwargs = tree_map(resized, (call.args, call.kwargs))
    return Call(args, kwargs, call.number)
