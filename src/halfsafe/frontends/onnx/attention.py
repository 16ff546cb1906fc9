"""Attention's scale, 1 / sqrt(size of a head), which operators compute where a file leaves it out.

It is written out, so that a law can scale it: queries and keys may then take any exponent.
"""

# onnx_ir is only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt

import numpy as np
import onnx_ir as ir

from halfsafe.frontends.onnx.parts import operand_places, operator_name

Shapes = Mapping[str, tuple[int, ...]]


def write_scales(model: ir.Model, shapes: Shapes) -> None:
    """Writes out the scales of attentions whose operands have these shapes, in place."""
    for node in model.graph.all_nodes():
        size = _SIZES.get(operator_name(node), _unknown)(node, shapes)
        if size and not _stated(node):
            node.attributes["scale"] = ir.AttrFloat32("scale", _default(node, size))


def _stated(node: ir.Node) -> bool:
    """Whether a file states the scale; to the operators of ONNX Runtime 0 means their own."""
    held = node.attributes.get("scale")
    return held is not None and (not node.domain or held.as_float() != 0)


def _default(node: ir.Node, size: int) -> float:
    """The scale as the operator's kernel computes it, to the bit."""
    return (
        float(1 / np.sqrt(np.float32(size))) if node.domain else float(np.float32(1 / sqrt(size)))
    )


def _unknown(node: ir.Node, shapes: Shapes) -> int:
    del node, shapes
    return 0


def _heads(node: ir.Node, shapes: Shapes) -> int:
    """Queries with an axis of heads, or with all heads in the last axis."""
    shape = _shape(node, "query", shapes)
    if len(shape) > 3:
        return shape[-1]
    count = _integer(node, "num_heads") or _integer(node, "q_num_heads")
    if "key" not in operand_places(node):  # which are packed into the queries
        count += 2 * _integer(node, "kv_num_heads")
    return shape[-1] // count if shape and count else 0


def _projected(node: ir.Node, shapes: Shapes) -> int:
    """Queries, keys and values that a weight makes side by side, the queries first."""
    sizes = node.attributes.get("qkv_hidden_sizes")
    shape, count = _shape(node, "weight", shapes), _integer(node, "num_heads")
    hidden = sizes.as_ints()[0] if sizes else shape[-1] // 3 if shape else 0
    return hidden // count if count else 0


_SIZES = {
    "onnx.Attention": _heads,
    "com.microsoft.MultiHeadAttention": _heads,
    "com.microsoft.GroupQueryAttention": _heads,
    "com.microsoft.Attention": _projected,
}
"""The size of a head by operator; 0 where it is not known."""


def _integer(node: ir.Node, name: str) -> int:
    held = node.attributes.get(name)
    return 0 if held is None else held.as_int()


def _shape(node: ir.Node, operand: str, shapes: Shapes) -> tuple[int, ...]:
    place = operand_places(node).get(operand)
    value = None if place is None else node.inputs[place]
    if value is None:
        return ()
    if value.const_value is not None:
        return tuple(value.const_value.shape.numpy())
    return shapes.get(str(value.name), ())
