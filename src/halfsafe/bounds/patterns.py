"""Norms that are written out: x / sqrt(mean(x^2) + eps), whatever makes x, as T5 and Llama have it.

Whatever x is, the result is u with ||u||_2 = sqrt(sum x^2 / (mean(x^2) + eps)) <= sqrt(d). That is
no matter of bounds of x: it is seen from the operators.
"""

from __future__ import annotations

from math import sqrt

from halfsafe.graph import Graph, Node

SAME = frozenset("aten._to_copy aten.to aten.type_as aten.clone aten.alias onnx.Cast".split())
"""Operators whose output is their first operand, in another format."""

STEPS = (1 + 2.0**-11) ** 5
"""What storing the square, its mean, the sum with epsilon, the root and what it is one over may add
to a quotient, if each is off by 2^-11 of itself."""


def normalised(graph: Graph, node: Node) -> float | None:
    """The radius of the ball that a product or quotient is in; None for what is no norm.

    Where the square is stored in FP16 it may be 0 of an x that is not: then epsilon has to be more
    than what is lost so, and it is not taken for a norm where it is not.
    """
    for operand in ("self", "other"):
        other = {"self": "other", "other": "self"}[operand]
        if operand not in node.inputs or other not in node.inputs:
            continue
        x = _source(graph, node.inputs[operand])
        multiplied = node.op in ("aten.mul", "onnx.Mul")
        if not multiplied and (node.op not in ("aten.div", "onnx.Div") or operand == "other"):
            continue
        root = _root(graph, node.inputs[other], inverse=multiplied)
        found = None if root is None else _mean_of_squares(graph, root, x)
        if found is not None:
            return found
    return None


def _root(graph: Graph, value: str, *, inverse: bool) -> Node | None:
    """What makes a square root, or one over it."""
    node = graph.producers.get(_source(graph, value))
    if inverse and node is not None:
        if node.op == "aten.rsqrt":
            return node
        if node.op not in ("aten.reciprocal", "onnx.Reciprocal"):
            return None
        node = graph.producers.get(_source(graph, _first(node)))
    return node if node is not None and node.op in ("aten.sqrt", "onnx.Sqrt") else None


def _mean_of_squares(graph: Graph, root: Node, x: str) -> float | None:
    added = graph.producers.get(_source(graph, _first(root)))
    if added is None or added.op not in ("aten.add", "onnx.Add"):
        return None
    ends = [_source(graph, added.inputs[name]) for name in ("self", "other")]
    epsilon = next((n for e in ends if (n := graph.values[e].number)), None)
    means = [graph.producers[e] for e in ends if e in graph.producers]
    if epsilon is None or epsilon <= 0 or len(means) != 1:
        return None
    (mean,) = means
    if mean.op not in ("aten.mean", "onnx.ReduceMean") or not _over_last(graph, mean):
        return None
    squared = graph.producers.get(_source(graph, _first(mean)))
    if squared is None or not _squares(graph, squared, x):
        return None
    stored = any(graph.values[n.outputs[0]].bounded for n in (squared, mean, added, root))
    if stored and epsilon < 2.0**-24:
        return None
    width = graph.values[x].shape[-1]
    return sqrt(width) * STEPS


def _first(node: Node) -> str:
    return next(iter(node.inputs.values()))


def _source(graph: Graph, value: str) -> str:
    """What a value is a copy of."""
    node = graph.producers.get(value)
    while node is not None and node.op in SAME:
        value = _first(node)
        node = graph.producers.get(value)
    return value


def _over_last(graph: Graph, mean: Node) -> bool:
    """Whether a mean is over the last axis, which stays, and others of size 1 at most."""
    shape, made = (graph.values[v].shape for v in (_first(mean), mean.outputs[0]))
    return len(shape) > 0 and shape[-1] > 1 and made == (*shape[:-1], 1)


def _squares(graph: Graph, node: Node, x: str) -> bool:
    """Whether a node is x * x, or x to the power of 2."""
    read = [_source(graph, value) for value in node.inputs.values()]
    if node.op in ("aten.pow", "onnx.Pow"):
        exponent = graph.values[read[-1]].number if len(read) > 1 else None
        return read[0] == x and exponent == 2
    if node.op in ("aten.mul", "onnx.Mul"):
        return read == [x, x]
    return node.op in ("aten.square",) and read == [x]
