"""What torch says of its operators: their arguments by name, and whether they only move entries."""

# torch.fx and torch.export are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from halfsafe.frontends.torch.private import OpOverload, arguments_of, returns_of

aten = torch.ops.aten


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


def schema_arguments(
    target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[tuple[str, str, Any]]:
    """(name, type, value) of every argument of an operator, defaults included."""
    if not isinstance(target, OpOverload):
        given = [*enumerate(args), *kwargs.items()]
        return [(str(name), "", found) for name, found in given]
    return [
        (
            a.name,
            str(a.type),
            args[i] if i < len(args) else kwargs.get(a.name, a.default_value),
        )
        for i, a in enumerate(arguments_of(target))
    ]


def items(name: str, found: Any, kind: type) -> list[tuple[str, Any]]:
    """A list that holds any of a kind, element by element; anything else as it is."""
    if isinstance(found, (list, tuple)) and any(isinstance(x, kind) for x in found):
        return [(f"{name}.{i}", x) for i, x in enumerate(found)]
    return [(name, found)]


def is_number(kind: str) -> bool:
    """Whether an argument's type allows a number: Python numbers stand in for tensors as well."""
    return kind.removeprefix("Optional[").removesuffix("]") in ("number", "float", "Tensor")


def operator_name(node: fx.Node) -> str:
    """``aten.relu``; a function of Python's is ``python.getitem``."""
    target: Any = node.target
    if isinstance(target, OpOverload):
        return str(target.overloadpacket)
    return f"python.{getattr(target, '__name__', target)}"


_COPIES = {"aten.clone", "aten._unsafe_view", "aten.contiguous", "aten.lift_fresh_copy"}


def moves(target: Any, made: Any, source: Any) -> bool:
    """Whether an operator's output holds only entries of its input, in the same format."""
    if not isinstance(target, OpOverload) or not isinstance(source, Tensor):
        return False
    returns = returns_of(target)
    view = (
        bool(returns) and returns[0].alias_info is not None and not returns[0].alias_info.is_write
    )
    one_format = not isinstance(made, Tensor) or made.dtype == source.dtype
    return (view or str(target.overloadpacket) in _COPIES) and one_format


_NOT_DRAWN = {"dropout_p": 0, "train": False, "training": False}
"""Arguments with which an operator that may draw random numbers draws none."""


def draws(node: fx.Node) -> bool:
    """Whether an operator draws random numbers, as attention does not whose dropout is 0."""
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    given = schema_arguments(node.target, node.args, node.kwargs)
    return not any(name in _NOT_DRAWN and x == _NOT_DRAWN[name] for name, _, x in given)


def is_deployed(node: fx.Node, deployed: torch.dtype) -> bool:
    """Whether a node's value is stored in the deployed format."""
    found = node.meta.get("val")
    return isinstance(found, Tensor) and found.dtype == deployed
