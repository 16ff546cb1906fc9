"""What a model takes and gives, flat: tensors in containers, and in dataclasses.

pytree does not know dataclasses unless someone registers them, for the whole process. So none is
registered for longer than torch.export runs: everywhere else, a `Parts` stands for one.
"""

# pytree is only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import Any, TypeVar

import torch
from torch import Tensor

from halfsafe.deviation import largest_difference
from halfsafe.frontends.torch.arithmetic import arrays
from halfsafe.frontends.torch.private import (
    TreeSpec,
    keystr,
    register_container,
    tree_flatten,
    tree_leaves,
    tree_leaves_with_path,
    tree_map,
)

T = TypeVar("T")


@dataclass(frozen=True)
class Parts:
    """The fields of a dataclass, in a container that pytree knows; its structure gives it back."""

    kind: type
    names: tuple[str, ...]
    absent: tuple[str, ...]
    held: tuple[Any, ...]


def _taken_apart(parts: Parts) -> tuple[list[Any], Any]:
    return list(parts.held), (parts.kind, parts.names, parts.absent)


def _put_together(held: Iterable[Any], context: Any) -> Any:
    kind, names, absent = context
    return kind(**dict(zip(names, held, strict=True)), **dict.fromkeys(absent))


register_container(Parts, _taken_apart, _put_together, lambda context: context[1])


def _opened(outputs: Any) -> Any:
    """The same with Parts in place of dataclasses that pytree does not know."""
    if not any(map(_is_dataclass, tree_leaves(outputs))):
        return outputs
    return tree_map(_part, outputs)


def _is_dataclass(leaf: Any) -> bool:
    return dataclasses.is_dataclass(leaf) and not isinstance(leaf, type)


def _part(held: Any) -> Any:
    """A leaf, opened. Fields that are None are no leaves, as torch.export has it."""
    if not _is_dataclass(held):
        return held
    found = {f.name: getattr(held, f.name) for f in dataclasses.fields(held) if f.init}
    given = {name: _opened(x) for name, x in found.items() if x is not None}
    absent = tuple(name for name in found if name not in given)
    return Parts(type(held), tuple(given), absent, tuple(given.values()))


def flat(outputs: Any) -> list[Any]:
    """What lies in containers and dataclasses.

    >>> @dataclass
    ... class Scored:
    ...     boxes: Any
    ...     score: Any = None
    >>> flat({"a": 1, "b": (Scored(2, 3), 4), "c": Scored([5])})
    [1, 2, 3, 4, 5]
    """
    return tree_leaves(_opened(outputs))


def structure(outputs: Any) -> TreeSpec:
    """How to put flat outputs together again."""
    return tree_flatten(_opened(outputs))[1]


def places_of(outputs: Any) -> tuple[str, ...]:
    """Where each flat output lies in the structure that a model returns.

    Its number, in a container that pytree knows without names for its parts.
    """
    opened = _opened(outputs)
    try:
        return tuple(keystr(path) for path, _ in tree_leaves_with_path(opened))
    except ValueError:
        return tuple(str(i) for i in range(len(tree_leaves(opened))))


def dataclasses_in(outputs: Any) -> set[type]:
    """The dataclasses among outputs that pytree does not know."""
    found: set[type] = set()
    for leaf in tree_leaves(outputs):
        if _is_dataclass(leaf):
            fields = [getattr(leaf, field.name) for field in dataclasses.fields(leaf)]
            found |= {type(leaf), *dataclasses_in(fields)}
    return found


def cast(tree: T, dtype: torch.dtype) -> T:
    """Arguments or outputs with their floating tensors in a dtype."""

    def converted(x: Any) -> Any:
        return x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x

    return tree_map(converted, tree)


def difference(found: list[Any], expected: list[Any]) -> float:
    """0.0 for bit-equal flat outputs (NaN equals NaN), else the largest difference of an entry.

    That is relative to the largest entry of its output; inf where dtypes, shapes or numbers that
    are not in tensors differ.
    """
    if len(found) != len(expected) or not all(map(_alike, found, expected)):
        return inf
    return largest_difference(arrays(found), arrays(expected))


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype
    return not isinstance(a, Tensor) and not isinstance(b, Tensor) and bool(a == b)
