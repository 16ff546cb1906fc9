"""Bounds of every value of a network, for every input of a domain, from its constants alone.

What is known of a tensor is a `Bound`; a family of operators says how those of operands bound an
output, in a line of mathematics (`families`, `linear`, `norms`, `moving`), an operator is a name in
a table (`aten`, `onnx`), and one walker (`interpreter`) goes through the graph.
docs/certificates.md has the proofs.
"""
