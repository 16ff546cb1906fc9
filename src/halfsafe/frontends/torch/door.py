"""Sizes and numbers that a captured graph holds as constants are checked where a call comes in.

Python computes with sizes while a model is captured: a mean that is written as a sum over a size
holds the size of the sample. A call with another one would give a wrong number, and say nothing.
"""

# torch.fx is only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from halfsafe.errors import BadInput
from halfsafe.frontends.torch.private import keystr, tree_leaves_with_path, unwarned_tracing
from halfsafe.samples import Call

HELD = "halfsafe.held"
"""In an input's metadata: what of it the graph holds, ((axis, size), ...) or (number,)."""


def door(given: Any, name: str, held: tuple[Any, ...]) -> None:
    """Raises BadInput for an input that is not as the graph holds it.

    >>> import torch
    >>> door(torch.ones(3, 4), "x", ((1, 4),))
    >>> door(7, "count", (8,))
    Traceback (most recent call last):
    halfsafe.errors.BadInput: 'count' is 7, and the graph holds the 8 of sample 0: capture with 7
    """
    if isinstance(given, fx.Proxy):  # whoever traces the module symbolically keeps the check
        given.tracer.create_proxy("call_function", door, (given, name, held), {})
        return
    if not isinstance(given, Tensor):
        if held and given != held[0]:
            raise BadInput(
                f"'{name}' is {given}, and the graph holds the {held[0]} of sample 0: capture with "
                f"{given}"
            )
        return
    for axis, size in held:
        if not _has_size(given, axis, size):
            raise BadInput(
                f"axis {axis} of '{name}' has {given.shape[axis]} entries, and the graph holds the "
                f"{size} of sample 0; pass samples that differ on that axis, or name it in "
                "dynamic_shapes"
            )


def _has_size(given: Tensor, axis: int, size: int) -> bool:
    """TorchScript's tracer keeps no check, and warns of each; that of its example is made."""
    with unwarned_tracing():
        return bool(given.shape[axis] == size)


def add_doors(graph: fx.Graph) -> None:
    """Puts the check of each input behind the inputs."""
    inputs = list(graph.find_nodes(op="placeholder"))
    for node in reversed(inputs):
        if node.meta.get(HELD):
            with graph.inserting_after(inputs[-1]):
                graph.call_function(door, (node, node.name, node.meta[HELD]))


def check_doors(graph: fx.Graph, flat: Sequence[Any], number: int) -> None:
    """The same for the flat inputs of a sample."""
    for node, given in zip(graph.find_nodes(op="placeholder"), flat, strict=True):
        try:
            door(given, node.name, node.meta.get(HELD, ()))
        except BadInput as error:
            raise BadInput(f"sample {number} does not fit: {error}") from None


def check_call(call: Call) -> None:
    """Raises BadInput for nonfinite samples."""
    for path, leaf in tree_leaves_with_path((call.args, call.kwargs)):
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            bad = int((~torch.isfinite(leaf)).sum())
            if bad:
                where = keystr(path[1:])
                raise BadInput(
                    f"sample {call.number}{where} holds {bad} NaN or inf: pass finite samples"
                )
