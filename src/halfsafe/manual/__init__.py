"""Tools for who rescales by hand: single modules, regions between modules, functions by name."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from halfsafe.manual.modules import rescaled

__all__ = ["rescaled"]


def __getattr__(name: str) -> Any:
    """`rescaled` and its modules are imported when they are asked for, and torch with them."""
    from halfsafe.manual import modules

    return getattr(modules, name)
