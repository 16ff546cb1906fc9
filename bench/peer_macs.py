"""What an ONNX file computes in FP32, from the shapes and types that one sample shows."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir

from bench.onnx_accuracy import left_in_float32
from halfsafe.frontends.onnx.flatten import flatten
from halfsafe.frontends.onnx.run import Evaluator
from halfsafe.samples import Call

Shape = tuple[int, ...]
Seen = tuple[Shape, np.dtype[Any]]
Count = Callable[[ir.Node, list[Shape], Shape], int]

UNNAMED = "αβγδεζηθ"
"""Indices that stand for an ellipsis in an Einsum."""


def _conv(node: ir.Node, given: list[Shape], made: Shape) -> int:
    return prod(made) * prod(given[1][1:])


def _conv_transpose(node: ir.Node, given: list[Shape], made: Shape) -> int:
    return prod(given[0]) * prod(given[1][1:])


def _gemm(node: ir.Node, given: list[Shape], made: Shape) -> int:
    return prod(made) * given[0][-2 if node.attributes.get_int("transA", 0) else -1]


def _matmul(node: ir.Node, given: list[Shape], made: Shape) -> int:
    return prod(made) * given[0][-1]


def _einsum(node: ir.Node, given: list[Shape], made: Shape) -> int:
    """One for each combination of all indices, those under an ellipsis included."""
    sizes: dict[str, int] = {}
    terms = str(node.attributes.get_string("equation")).split("->")[0].replace(" ", "").split(",")
    for term, shape in zip(terms, given, strict=True):
        hidden = len(shape) - len(term.replace("...", ""))
        full = term.replace("...", UNNAMED[len(UNNAMED) - hidden :])
        for index, size in zip(full, shape, strict=True):
            sizes[index] = max(size, sizes.get(index, 1))
    return prod(sizes.values())


def _attention(node: ir.Node, given: list[Shape], made: Shape) -> int:
    """Q K' and then P V, over all keys."""
    return (prod(given[0]) + prod(made)) * given[1][-2]


COUNTS: dict[str, Count] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Einsum": _einsum,
    "Attention": _attention,
}


def macs(model: ir.Model, seen: Mapping[str, Seen]) -> tuple[int, int]:
    """Multiply-accumulates of a flat model, and those whose operands are FP32."""
    total, in_float32 = 0, 0
    for node in model.graph:
        given = [seen[str(v.name)] for v in node.inputs if v is not None and v.name in seen]
        if node.op_type in COUNTS and len(given) > 1:
            made = seen[str(node.outputs[0].name)]
            count = COUNTS[node.op_type](node, [shape for shape, _ in given], made[0])
            total += count
            in_float32 += count if given[0][1] == np.float32 else 0
    return total, in_float32


def left(model: ir.Model, feeds: dict[str, Any]) -> dict[str, Any]:
    """Casts inside, and shares of operators and of multiply-accumulates in FP32.

    Constants are no operators, and subgraphs of control flow are not counted.
    """
    flat = flatten(model)
    seen = see(flat, feeds)
    total, in_float32 = macs(flat, seen)
    operators, casts = left_in_float32(flat)
    return {
        "float32_operators": operators,
        "share_nodes_float32": round(operators / max(len(flat.graph), 1), 4),
        "macs": total,
        "share_macs_float32": round(in_float32 / max(total, 1), 4),
        "casts_inside": casts,
    }


def see(model: ir.Model, feeds: dict[str, Any]) -> dict[str, Seen]:
    """Runs a flat model node by node, and gives its floating values their types."""
    seen: dict[str, Seen] = {}

    def store(name: str, found: tuple[Any, ...]) -> tuple[Any, ...]:
        seen[name] = found[0].shape, found[0].dtype
        return found

    Evaluator(model).run(Call((), feeds), store)
    for node in model.graph:
        for value in (*node.inputs, *node.outputs):
            if value is not None and value.name in seen:
                value.dtype = ir.DataType.from_numpy(seen[value.name][1])
    return seen
