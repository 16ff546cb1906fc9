"""Caches of keys and values, as models of transformers give them.

A generating model of transformers gives, by default, what it has computed of each layer's keys and
values, in an object of its own. A DynamicCache has layers with keys and values, and is made of such
again; an EncoderDecoderCache is two of them.
"""

# transformers is optional.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

PAIR = "EncoderDecoderCache"
"""The cache that is made of two others, and what it calls them."""

HALVES = ("self_attention_cache", "cross_attention_cache")

KINDS = ("DynamicCache", PAIR)

Opened = tuple[tuple[str, ...], tuple[Any, ...], tuple[Any, ...]]
"""Names of what a cache holds, that itself, and what else is needed to make it again."""


def is_cache(kind: type) -> bool:
    """Whether a class is one of the caches that are known here."""
    return kind.__module__ == "transformers.cache_utils" and kind.__name__ in KINDS


def parts_of(cache: Any) -> Opened:
    """What a cache holds. Layers without keys hold nothing."""
    if type(cache).__name__ == PAIR:
        return HALVES, tuple(getattr(cache, name) for name in HALVES), ()
    names, values, windows = list[str](), list[Any](), list[int | None]()
    for i, layer in enumerate(cache.layers):
        if layer.keys is not None:
            names += [f"layers[{i}].keys", f"layers[{i}].values"]
            values += [layer.keys, layer.values]
            windows.append(getattr(layer, "sliding_window", None))
    return tuple(names), tuple(values), tuple(windows)


def rebuilt(kind: type, values: Iterable[Any], windows: Iterable[int | None]) -> Any:
    """A cache of a kind that holds these; one that was never made, if they are no tensors."""
    held, windows = list(values), list(windows)
    if not all(isinstance(x, Tensor) or is_cache(type(x)) for x in held):
        return unmade(kind, held, windows)
    if kind.__name__ == PAIR:
        return kind(*held)
    return kind(list(zip(held[::2], held[1::2], map(_window, windows), strict=True)))


def _window(size: int | None) -> Any:
    """As the class reads it: a tensor, or nothing."""
    return None if size is None else torch.tensor(size)


def opening(kind: type) -> tuple[Any, Any]:
    """How torch.export is to look inside a cache.

    It puts together what it has traced, to take it apart once more. A cache that is made makes
    tensors, which would be traced as well: so it gets one that was never made, and holds the same.
    """

    def taken_apart(cache: Any) -> tuple[list[Any], Any]:
        names, values, windows = parts_of(cache)
        return list(values), (names, windows)

    return taken_apart, lambda values, context: unmade(kind, list(values), context[1])


def unmade(kind: type, held: Sequence[Any], windows: Iterable[int | None]) -> Any:
    """An object of a kind of cache that holds these, of which nothing is computed."""
    cache: Any = object.__new__(kind)
    if kind.__name__ == PAIR:
        vars(cache).update(zip(HALVES, held, strict=True))
        return cache
    pairs = zip(held[::2], held[1::2], windows, strict=True)
    layers = [SimpleNamespace(keys=k, values=v, sliding_window=w) for k, v, w in pairs]
    vars(cache)["layers"] = layers
    return cache
