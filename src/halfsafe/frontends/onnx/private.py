"""All that halfsafe relies on of what PyTorch's exporter writes into a file beside the graph.

The keys are the exporter's own; tests/test_private.py holds them to what is relied on.
"""

from __future__ import annotations

import ast
from typing import Any, cast

import onnx_ir as ir

STACK_TRACE = "pkg.torch.onnx.stack_trace"
"""The frames of the user's code that a node comes from, as Python prints them."""

NAME_SCOPES = "pkg.torch.onnx.name_scopes"
"""The names of the modules around a node, outermost first, and its own, as a Python list."""


def stack_trace(node: ir.Node) -> str:
    """The frames that the exporter has left with a node, if any."""
    return node.metadata_props.get(STACK_TRACE, "")


def module_path(node: ir.Node) -> str:
    """The exporter's module path, where it has left one."""
    try:
        scopes: Any = ast.literal_eval(node.metadata_props.get(NAME_SCOPES, "[]"))
    except (ValueError, SyntaxError):
        return ""
    found = cast("list[object]", scopes) if isinstance(scopes, list) else []
    return str(found[-2]) if len(found) > 1 else ""
