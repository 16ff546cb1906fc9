"""What an operator's outputs are like, whatever comes in."""

from __future__ import annotations

from halfsafe.graph import Graph

BOUNDED = {
    **dict.fromkeys(
        """
        aten.sigmoid aten.softmax aten._softmax aten.hardsigmoid
        Sigmoid Softmax HardSigmoid Hardmax com.microsoft.BiasSoftmax
        """.split(),
        1,
    ),
    **dict.fromkeys("aten.lstm aten.gru LSTM GRU".split(), 2),
}
"""Operators whose first outputs, so many of them, are weights between 0 and 1 or weighted by such:
an entry near 0 is small beside 1. A sine or a tanh near 0 is as large as what it is of."""


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
