"""Which line of the user's code computes something."""

from __future__ import annotations

import inspect
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import fx

import halfsafe

_OWN = tuple(str(Path(package.__file__ or "").parent) for package in (torch, halfsafe))


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
    lines = map(str.strip, (node.meta.get("stack_trace") or "").splitlines())
    frames = [line for line in lines if line.startswith("File ")]
    if not frames:
        return ""
    path, _, rest = frames[-1].removeprefix('File "').partition('"')
    number = rest.removeprefix(", line ").partition(",")[0]
    return f"{path}:{number}"


def module_path(node: fx.Node) -> str:
    """The qualified name of the user's module that a node comes from."""
    stack: dict[str, tuple[str, Any]] = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""
