"""What a model takes and gives, flat: tensors in containers, in dataclasses, and in caches.

pytree does not know dataclasses, nor transformers' caches of keys and values, unless someone
registers them, for the whole process. So none is registered for longer than torch.export runs:
everywhere else, a `Parts` stands for one.
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
from halfsafe.frontends.torch.caches import is_cache, parts_of, rebuilt
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
    """What a dataclass or a cache holds, in a container that pytree knows; `names` and `more` are
    what its structure needs to give it back."""

    kind: type
    names: tuple[str, ...]
    more: tuple[Any, ...]
    held: tuple[Any, ...]


def _taken_apart(parts: Parts) -> tuple[list[Any], Any]:
    return list(parts.held), (parts.kind, parts.names, parts.more)


def _put_together(held: Iterable[Any], context: Any) -> Any:
    kind, names, more = context
    if is_cache(kind):
        return rebuilt(kind, held, more)
    return kind(**dict(zip(names, held, strict=True)), **dict.fromkeys(more))


register_container(Parts, _taken_apart, _put_together, lambda context: context[1])


def _opened(outputs: Any) -> Any:
    """The same with Parts in place of what pytree does not know."""
    if not any(map(_is_closed, tree_leaves(outputs))):
        return outputs
    return tree_map(_part, outputs)


def _is_closed(leaf: Any) -> bool:
    dataclass_ = dataclasses.is_dataclass(leaf) and not isinstance(leaf, type)
    return dataclass_ or is_cache(type(leaf))


def _part(held: Any) -> Any:
    """A leaf, opened. Fields of a dataclass that are None are no leaves, as torch.export has it."""
    if is_cache(type(held)):
        names, values, more = parts_of(held)
        return Parts(type(held), names, more, tuple(map(_opened, values)))
    if not _is_closed(held):
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


def unknown_in(outputs: Any) -> set[type]:
    """The dataclasses and caches among outputs that pytree does not know."""
    found: set[type] = set()
    for leaf in tree_leaves(outputs):
        if is_cache(type(leaf)):
            found |= {type(leaf), *unknown_in(list(parts_of(leaf)[1]))}
        elif _is_closed(leaf):
            fields = [getattr(leaf, field.name) for field in dataclasses.fields(leaf)]
            found |= {type(leaf), *unknown_in(fields)}
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
