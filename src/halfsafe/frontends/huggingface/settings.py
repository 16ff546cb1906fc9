"""Which numbers of a network its configuration holds: found out by building it with others.

A number that an operator reads, an epsilon say, is an attribute of some module, and where that
comes from stands in the code of the class. Nobody has to read it: where a setting of the
configuration has that number, the network is built once more, without values, with another one, and
what has changed by the same factor is what that setting governs.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from math import isfinite
from typing import Any, cast

from torch import nn

from halfsafe.frontends.huggingface.network import built, config_of

FACTOR = 0.25
"""What a setting is multiplied with: a power of two, as a plan would do."""

Governed = Mapping[str, tuple[str, float]]
"""For an attribute by its full name: the setting that it comes from, and what that is."""


def governed(model: nn.Module, numbers: Collection[float]) -> Governed:
    """The attributes of modules that are one of these numbers and come from a setting."""
    known = _attributes(model)
    found: dict[str, tuple[str, float]] = {}
    config = config_of(model)
    for path, number in _floats(config):
        if number not in numbers or number not in known.values():
            continue
        changed = _attributes_with(model, config, path, number * FACTOR)
        for name, was in known.items():
            if was == number and changed.get(name) == number * FACTOR:
                found[name] = path, number
    return found


def _attributes_with(
    model: nn.Module, config: Mapping[str, Any], path: str, number: float
) -> Mapping[str, float]:
    """The attributes of the network with another setting; nothing where it cannot be built."""
    try:
        return _attributes(built(model, _with(config, path, number)))
    except Exception:  # a class that checks its settings may raise anything
        return {}


def _with(config: Mapping[str, Any], path: str, number: float) -> dict[str, Any]:
    """A configuration with one setting changed."""
    first, _, rest = path.partition(".")
    return {**config, first: _with(config[first], rest, number) if rest else number}


def _floats(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Settings that are floating, by their path, those of parts included."""
    for name, found in config.items():
        if isinstance(found, dict):
            yield from _floats(cast("dict[str, Any]", found), f"{prefix}{name}.")
        elif isinstance(found, float) and found and isfinite(found):
            yield f"{prefix}{name}", found


def _attributes(model: nn.Module) -> dict[str, float]:
    """The floating attributes of all modules, by their full names."""
    return {
        f"{path}.{name}".lstrip("."): found
        for path, part in model.named_modules()
        for name, found in vars(part).items()
        if isinstance(found, float)
    }
