"""What a command line names as package.module:callable."""

from __future__ import annotations

import importlib
import sys
import traceback
from typing import Any

from halfsafe.errors import BadInput, HalfsafeError, first_line


def call(spec: str) -> Any:
    """What the named callable returns. Raises BadInput."""
    target = find(spec)
    try:
        return target()
    except HalfsafeError:
        raise
    except Exception as error:
        raise BadInput(f"'{spec}' fails: {located(error)}") from error


def find(spec: str) -> Any:
    """The named callable. Raises BadInput."""
    module_name, _, name = spec.partition(":")
    if not (module_name and name):
        raise BadInput(f"'{spec}' is not package.module:callable, nor a file that halfsafe reads")
    sys.path.insert(0, "")
    try:
        target = importlib.import_module(module_name)
        for part in name.split("."):
            target = getattr(target, part)
    except (ImportError, AttributeError) as error:
        raise BadInput(f"cannot find '{spec}': {error}") from error
    except Exception as error:
        raise BadInput(f"importing '{module_name}' fails: {located(error)}") from error
    if not callable(target):
        raise BadInput(f"'{spec}' is a {type(target).__name__}, not a callable")
    return target


def located(error: Exception) -> str:
    """An error in the user's code on one line, with the place where it was raised."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{first_line(error)} at {frame.filename}:{frame.lineno}"
