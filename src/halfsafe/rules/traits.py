"""What an operator's outputs are like, whatever comes in."""

from __future__ import annotations

from halfsafe.graph import Graph

BOUNDED = {
    **dict.fromkeys(
        """
        aten.sigmoid aten.softmax aten._softmax aten.tanh aten.erf aten.sin aten.cos
        aten.hardsigmoid Sigmoid Softmax Tanh Erf Sin Cos HardSigmoid Hardmax
        com.microsoft.BiasSoftmax
        """.split(),
        1,
    ),
    **dict.fromkeys("aten.lstm aten.gru aten.rnn_tanh LSTM GRU".split(), 2),
}
"""Operators whose first outputs lie between -1 and 1, and how many of them: an entry near 0 is
small beside that. The cell of an LSTM, its third, has no bound."""


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
