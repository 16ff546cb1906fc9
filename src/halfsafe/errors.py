"""What halfsafe raises: on one line the thing, the number and the next step."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager


class HalfsafeError(Exception):
    """Base of all errors meant for users; the command line prints it and exits with status 2."""


class BadInput(HalfsafeError, ValueError):
    """The model or the samples cannot be used as they are."""


class CaptureError(HalfsafeError):
    """The model cannot be turned into a graph."""


class PlanError(HalfsafeError):
    """The rules and the windows have no common solution."""


class EditError(HalfsafeError):
    """An operator cannot be computed in the form that was tried."""


class FoldError(HalfsafeError):
    """The plan cannot be expressed in the original model's own constants."""


@contextmanager
def needing(extra: str, what: str) -> Generator[None]:
    """Within it, a package that is not installed is a BadInput that names the extra to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == "halfsafe":
            raise
        raise BadInput(
            f"{what} need the package {package}: pip install 'halfsafe[{extra}]'"
        ) from error


def first_line(error: BaseException) -> str:
    """Anyone's error as part of one of ours.

    >>> first_line(KeyError("x")), first_line(ValueError("too long\\nand more"))
    ("KeyError: 'x'", 'ValueError: too long')
    """
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
