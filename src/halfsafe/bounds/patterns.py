"""What is written out in several operators, and says more together than one by one.

Norms, x / sqrt(mean(x^2) + eps), as T5 and Llama have them: whatever x is, the result is u with
||u||_2 = sqrt(sum x^2 / (mean(x^2) + eps)) <= sqrt(d). Means by a mask, sum(m h) / max(sum(m), e),
as encoders of sentences have them: |sum(m h)| <= max |h| sum(m) for m >= 0. Parts of a sum,
x / sum(x), as mixtures of experts weigh those that they pick: between 0 and 1 for x >= 0; of a
mean, x / (mean(x) + eps), as ConvNeXt V2 weighs channels: between 0 and n.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any, NamedTuple

import numpy as np

from halfsafe.bounds.gains import Array
from halfsafe.graph import Graph, Node

Arrays = Callable[[str], Array]
"""The entries of what depends on no input."""

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
    if "alpha" in added.inputs and graph.values[added.inputs["alpha"]].number != 1:
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
    while node is not None and node.op in SAME and not _truncates(graph, node):
        value = _first(node)
        node = graph.producers.get(value)
    return value


def _truncates(graph: Graph, node: Node) -> bool:
    """Whether a cast makes whole numbers of others."""
    return graph.values[_first(node)].floating and not graph.values[node.outputs[0]].floating


def _over_last(graph: Graph, mean: Node) -> bool:
    """Whether a mean is over the last axis, which stays, and others of size 1 at most."""
    shape, made = (graph.values[v].shape for v in (_first(mean), mean.outputs[0]))
    return len(shape) > 0 and shape[-1] > 1 and made == (*shape[:-1], 1)


def _squares(graph: Graph, node: Node, x: str) -> bool:
    """Whether a node is x * x, or x to the power of 2."""
    read = [_source(graph, value) for value in node.inputs.values()]
    if node.op in ("aten.pow", "onnx.Pow"):
        exponent = graph.values[read[-1]].number if len(read) > 1 else None
        return exponent == 2 and _alike(graph, read[0], x)
    if node.op in ("aten.mul", "onnx.Mul"):
        return len(read) == 2 and all(_alike(graph, value, x) for value in read)
    return node.op in ("aten.square",) and _alike(graph, read[0], x)


def _alike(graph: Graph, a: str, b: str, depth: int = 3) -> bool:
    """Whether two values are the same, or the same operators make them of the same."""
    a, b = _source(graph, a), _source(graph, b)
    if a == b:
        return True
    one, other = graph.producers.get(a), graph.producers.get(b)
    if one is None or other is None or not depth or one.op != other.op or _draws(one):
        return False
    if one.attributes != other.attributes or one.inputs.keys() != other.inputs.keys():
        return False
    pairs = zip(one.inputs.values(), other.inputs.values(), strict=True)
    return all(_equal_numbers(graph, *p) or _alike(graph, *p, depth - 1) for p in pairs)


def _draws(node: Node) -> bool:
    return any(word in node.op.lower() for word in ("rand", "bernoulli", "dropout"))


def _equal_numbers(graph: Graph, a: str, b: str) -> bool:
    number = graph.values[a].number
    return number is not None and number == graph.values[b].number


# Means by a mask

SPREAD = SAME | frozenset("aten.unsqueeze aten.expand onnx.Unsqueeze onnx.Expand".split())
"""Operators whose output has the entries of their first operand, once or several times."""

SUMS = ("aten.sum", "onnx.ReduceSum")
MEANS = ("aten.mean", "onnx.ReduceMean")


def averaged(graph: Graph, node: Node, arrays: Arrays) -> tuple[str, str, Node] | None:
    """The h and m of a quotient sum(m h) / y with y >= sum(m), over the same axes, and what makes
    sum(m)."""
    if node.op not in ("aten.div", "onnx.Div") or not {"self", "other"} <= set(node.inputs):
        return None
    above = graph.producers.get(_source(graph, node.inputs["self"]))
    below = _at_least(graph, graph.producers.get(_source(graph, node.inputs["other"])))
    if above is None or below is None or above.op not in SUMS or below.op not in SUMS:
        return None
    weighed = graph.producers.get(_source(graph, _first(above)))
    if weighed is None or weighed.op not in ("aten.mul", "onnx.Mul"):
        return None
    if _axes_of(above, arrays) != _axes_of(below, arrays) or not _axes_of(above, arrays):
        return None
    mask = _source(graph, _first(below))
    for weight, other in (("self", "other"), ("other", "self")):
        if _source(graph, weighed.inputs[weight]) == mask:
            return weighed.inputs[other], mask, below
    return None


class Part(NamedTuple):
    """What x / y may be at most, for y >= sum(x) or mean(x), before rounding, and how many are
    added."""

    most: float
    terms: int


def part_of_sum(graph: Graph, node: Node) -> Part | None:
    """Of a quotient by a sum or mean over axes that stay; None for other quotients."""
    if node.op not in ("aten.div", "onnx.Div") or not {"self", "other"} <= set(node.inputs):
        return None
    below = _at_least(graph, graph.producers.get(_source(graph, node.inputs["other"])))
    if below is None or below.op not in SUMS + MEANS or node.attributes.get("rounding_mode"):
        return None
    x, y, divisor = (graph.values[v] for v in (_first(below), *below.outputs, node.inputs["other"]))
    if y.shape != divisor.shape or len(x.shape) != len(y.shape) or not y.size:
        return None
    if not _alike(graph, node.inputs["self"], x.name):
        return None
    count = x.size // y.size
    return Part(count if below.op in MEANS else 1.0, count)


def _at_least(graph: Graph, node: Node | None) -> Node | None:
    """What a node gives no less than: of max(x, e), or x + e with e >= 0, that of x, else
    itself."""
    clipped = ("aten.clamp", "aten.clamp_min", "onnx.Clip", "aten.maximum", "onnx.Max")
    if node is not None and node.op in ("aten.add", "onnx.Add"):
        return _more(graph, node)
    if node is None or node.op not in clipped:
        return node
    if "max" in node.inputs or node.attributes.get("max") is not None:
        return node
    return graph.producers.get(_source(graph, _first(node)))


def _more(graph: Graph, added: Node) -> Node | None:
    """What makes the x of x + e, for a number e >= 0."""
    ends = [_source(graph, added.inputs[name]) for name in ("self", "other")]
    numbers = [n for end in ends if (n := graph.values[end].number) is not None]
    alpha = graph.values[added.inputs["alpha"]].number if "alpha" in added.inputs else 1.0
    if len(numbers) != 1 or numbers[0] < 0 or alpha != 1:
        return added
    return next(graph.producers.get(end) for end in ends if graph.values[end].number is None)


def counts(graph: Graph, node: Node, arrays: Arrays) -> bool:
    """Whether a sum is over the second axis, whole, of whole numbers that come in."""
    if _axes_of(node, arrays) != (1,):
        return False
    value = _first(node)
    shape = graph.values[value].shape
    while (maker := graph.producers.get(value)) is not None and maker.op in SPREAD:
        value = _first(maker)
    is_input = value in graph.inputs and not graph.values[value].floating
    return is_input and graph.values[value].shape == shape[:2]


def _axes_of(node: Node, arrays: Arrays) -> tuple[int, ...]:
    given: Any = node.attributes.get("dim", node.attributes.get("axes"))
    if given is None and "axes" in node.inputs:
        given = arrays(node.inputs["axes"])
    return () if given is None else tuple(np.ravel(given).tolist())
