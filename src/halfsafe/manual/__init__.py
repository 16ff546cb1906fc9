"""Tools for who rescales by hand: single modules, regions between modules, functions by name."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from halfsafe.manual.modules import rescaled

__all__ = ["rescaled"]


def __getattr__(name: str) -> Any:
    """`rescaled` is imported when it is asked for, and torch with it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("halfsafe.manual.modules"), name)
