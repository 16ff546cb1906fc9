"""Operators that draw numbers: each run of a model, in each precision, draws the same ones.

A generator belongs to a session and goes on from run to run, so that models that draw are run in
sessions of their own. An operator without a seed gets one while it is run here, by the name of what
it draws; the files that are written have none, as before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from zlib import crc32

import onnx
import onnx_ir as ir

from halfsafe.frontends.onnx.values import bodies_of, qualified
from halfsafe.rules.traits import DRAWS

SEEDS = 2**20
"""Seeds are of type float, which holds smaller whole numbers exactly."""


def draws(node: ir.Node) -> bool:
    """Whether an operator draws numbers, itself or in its bodies."""
    itself = qualified(node.domain, node.op_type) in DRAWS or (node.domain == "" and _trains(node))
    return itself or any(draws(inner) for body in bodies_of(node) for inner in body)


def _trains(node: ir.Node) -> bool:
    """Whether an operator changes its own constants: a session is then not what it was, either."""
    held = node.attributes.get("training_mode")
    return node.op_type == "BatchNormalization" and held is not None and held.as_int() != 0


def model_draws(model: ir.Model) -> bool:
    """Whether a model draws numbers."""
    of_functions = (node for function in model.functions.values() for node in function)
    return any(map(draws, (*model.graph, *of_functions)))


def unseeded(model: ir.Model) -> list[ir.Node]:
    """The operators that draw other numbers in each run of the file."""
    drawing = (n for n in model.graph.all_nodes() if qualified(n.domain, n.op_type) in DRAWS)
    return [node for node in drawing if "seed" not in node.attributes]


def seed(nodes: Iterable[onnx.NodeProto]) -> None:
    """Gives operators without a seed one, in place."""
    for node in _every(nodes):
        known = any(attribute.name == "seed" for attribute in node.attribute)
        if qualified(node.domain, node.op_type) in DRAWS and not known:
            number = float(crc32(node.output[0].encode()) % SEEDS)
            node.attribute.append(onnx.helper.make_attribute("seed", number))


def _every(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _every(graph.node)
