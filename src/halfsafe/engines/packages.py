"""Packages that only one engine needs: whether they are there, and which release."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec


def installed(package: str) -> bool:
    """Whether a package can be imported; it is not."""
    return find_spec(package) is not None


def release(package: str) -> str:
    """A package with its version.

    >>> release("nothing_of_that_name")
    'nothing_of_that_name is not installed'
    """
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} is not installed"
