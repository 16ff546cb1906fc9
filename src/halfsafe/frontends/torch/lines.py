"""Which line of the user's code computes something."""

from __future__ import annotations

import inspect
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import fx

from halfsafe.graph import innermost

_OWN = str(Path(torch.__file__).parent), str(Path(__file__).parents[2])


@cache
def is_own(file: str) -> bool:
    """Whether a file is PyTorch's or this tool's."""
    return file.startswith(_OWN)


def caller() -> str:
    """File and line of the innermost frame of the user's code."""
    frame = inspect.currentframe()
    while frame is not None and is_own(frame.f_code.co_filename):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else ""


def source_line(node: fx.Node) -> str:
    """File and line of the innermost frame that tracing has left with a node."""
    return innermost(node.meta.get("stack_trace") or "")


def module_path(node: fx.Node) -> str:
    """The qualified name of the user's module that a node comes from."""
    stack: dict[str, tuple[str, Any]] = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""
