"""What operators are like beside their equations, each said once for both dialects.

What a whole family has is said in TRAITS, a family a line; what some operators of a family have,
by name below, with that of its dialect in front.
"""

from __future__ import annotations

from collections.abc import Mapping

from halfsafe.graph import Graph
from halfsafe.rules import families as f
from halfsafe.rules.algebra import Law, Rule, Traits

TRAITS: Mapping[Rule, Traits] = {
    f.movement: Traits(moves=True, passes=True),
    f.homogeneous: Traits(passes=True),
    f.aligned: Traits(masks=True, floors=True),
    f.total: Traits(masks=True, floors=True, addends=("self", "other")),
    f.product: Traits(masks=True),
    f.fill: Traits(masks=True),
    f.quotient: Traits(relative=("other",)),
    f.reciprocal: Traits(relative=("self",), inverts=True),
    f.power: Traits(inverts=True),
    f.whole_power: Traits(inverts=True),
    f.square_root: Traits(relative=("self",)),
    f.inverse_square_root: Traits(relative=("self",)),
    f.logarithm: Traits(relative=("self",)),
    f.affine: Traits(addends=("bias",)),
    f.activated_affine: Traits(addends=("bias", "addend")),
    f.matrix_sum: Traits(addends=("self",)),
    f.grouped_product: Traits(addends=("bias",)),
    f.batch_norm: Traits(relative=("running_var",), addends=("running_mean", "bias")),
    f.normalisation: Traits(addends=("bias",)),
    f.skip_normalisation: Traits(addends=("input", "skip", "addend", "bias")),
    f.embedding_normalisation: Traits(addends=("word", "position", "segment", "bias")),
    f.projected_attention: Traits(addends=("bias",)),
    f.saturating: Traits(saturates=True),
    f.softmax: Traits(absorbs=True),
}
"""The traits of each family that has any."""


def law(rule: Rule) -> Law:
    """The law of a family, with its traits."""
    return Law(rule, TRAITS.get(rule, Traits()))


BOUNDED = {
    **dict.fromkeys(
        """
        aten.sigmoid aten.softmax aten._softmax aten.hardsigmoid
        onnx.Sigmoid onnx.Softmax onnx.HardSigmoid onnx.Hardmax com.microsoft.BiasSoftmax
        """.split(),
        1,
    ),
    **dict.fromkeys("aten.lstm aten.gru onnx.LSTM onnx.GRU".split(), 2),
}
"""Operators whose first outputs, so many of them, are weights between 0 and 1 or weighted by such:
an entry near 0 is small beside 1. A sine or a tanh near 0 is as large as what it is of."""

STORES_INSIDE = frozenset(
    """
    aten.einsum aten._euclidean_dist aten.mse_loss aten.smooth_l1_loss aten.huber_loss
    aten.soft_margin_loss aten.binary_cross_entropy_with_logits
    """.split()
)
"""Operators whose kernels store squares, products or losses on the way, which no graph shows.
A law of the result says nothing of them."""

COUNTS = frozenset(["aten.arange"])
"""Operators that make whole numbers of numbers written into the code."""

COMPARES = frozenset(
    """
    onnx.Min onnx.Max onnx.Clip onnx.Where onnx.Pad onnx.Equal onnx.Less onnx.LessOrEqual
    onnx.Greater onnx.GreaterOrEqual
    """.split()
)
"""Operators that compare or choose: an inf that they read need not be what they give."""

CASTS = frozenset(["onnx.Cast", "onnx.CastLike"])
"""Operators of the family `movement` that may change the type of what they move."""

DRAWS = frozenset(
    """
    onnx.RandomNormal onnx.RandomNormalLike onnx.RandomUniform onnx.RandomUniformLike
    onnx.Bernoulli onnx.Multinomial
    """.split()
)
"""Operators that draw random numbers. Those of ATen say so themselves, by a tag."""


def natural_scale(graph: Graph, output: str) -> float:
    """1.0 for a value that is bounded by 1 whatever comes in, also when its entries have been moved
    since; 0.0 for any other, which has no scale but its own.
    """
    node = graph.producers.get(output)
    while node is not None and node.moves:
        output = next(iter(node.inputs.values()))
        node = graph.producers.get(output)
    if node is None:
        return 0.0
    return 1.0 if output in node.outputs[: BOUNDED.get(node.op, 0)] else 0.0
