"""A model's operators as halfsafe's graph has them: those with bodies come in several parts.

The nodes of a body stand in line with all others. What enters the body of a Loop or a Scan is a
part of its own, and so is what leaves it; of an If, only what leaves.
"""

# onnx_ir is only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from halfsafe.frontends.onnx.values import Place, bodies_of, graph_values, qualified
from halfsafe.rules.onnx import SIGNATURES, operands


@dataclass(frozen=True)
class Part:
    """An operator, or what enters or leaves the bodies of one.

    `operands` are the places at which values are read, `outputs` the values that come out of it.
    `entries` name what a state is inside of a body, where this part leaves it; None where there is
    no body, or none that is looked into.
    """

    name: str
    op: str
    node: ir.Node
    operands: Mapping[str, Place]
    outputs: tuple[ir.Value, ...]
    entries: tuple[str, ...] | None = None


def parts(graph: Iterable[ir.Node]) -> Iterator[Part]:
    """All parts of a graph, or of some nodes, and of the bodies that are looked into, in order."""
    for node in graph:
        if not is_open(node):
            places = {name: (node, i) for name, i in operand_places(node).items()}
            yield Part(str(node.name), operator_name(node), node, places, tuple(node.outputs))
        elif node.op_type == "If":
            yield from _branches(node)
        else:
            yield from _iterated(node)


def is_open(node: ir.Node) -> bool:
    """Whether an operator's bodies are looked into: those of If, Loop and Scan, if they are typed.

    The Scan of opset 8, which has batches, is not.
    """
    if node.domain or node.op_type not in ("If", "Loop", "Scan"):
        return False
    bodies = bodies_of(node)
    takes = len(node.inputs) == len(bodies[0].inputs) or node.op_type == "If"
    return takes and all(value.type is not None for body in bodies for value in graph_values(body))


def states(node: ir.Node) -> int:
    """How many values a Loop or a Scan hands from one iteration to the next."""
    if node.op_type == "Loop":
        return len(node.inputs) - 2
    return len(node.inputs) - node.attributes["num_scan_inputs"].as_int()


def branches(node: ir.Node) -> tuple[ir.Graph, ir.Graph]:
    """The graphs of an If, for true and for false."""
    return (
        node.attributes["then_branch"].as_graph(),
        node.attributes["else_branch"].as_graph(),
    )


def _branches(node: ir.Node) -> Iterator[Part]:
    places: dict[str, Place] = {"condition": (node, 0)}
    for name, body in zip(("then", "else"), branches(node), strict=True):
        yield from parts(body)
        places |= {f"{name}.{i}": (body, i) for i in range(len(body.outputs))}
    yield Part(str(node.name), operator_name(node), node, places, tuple(node.outputs), ())


def _iterated(node: ir.Node) -> Iterator[Part]:
    name, op, count = str(node.name), operator_name(node), states(node)
    (body,) = bodies_of(node)
    first = ["trips", "condition"] if node.op_type == "Loop" else []
    last = ["again"] if node.op_type == "Loop" else []
    named = [f"state.{i}" for i in range(count)]
    sequences = [f"sequence.{i}" for i in range(len(node.inputs) - len(first) - count)]
    scanned = [f"scanned.{i}" for i in range(len(body.outputs) - len(last) - count)]
    enter = {
        key: (node, i)
        for i, key in enumerate([*first, *named, *sequences])
        if node.inputs[i] is not None
    }
    leave = {key: (body, i) for i, key in enumerate([*last, *named, *scanned])}
    entries = tuple(str(v.name) for v in body.inputs[len(first) : len(first) + count])
    yield Part(f"{name}.body", f"{op}.body", node, enter, tuple(body.inputs), ())
    yield from parts(body)
    yield Part(name, op, node, leave, tuple(node.outputs), entries)


def operator_name(node: ir.Node) -> str:
    """``onnx.Conv`` for the standard's own operators, ``com.microsoft.FastGelu`` for others."""
    return qualified(node.domain, node.op_type)


def operand_places(node: ir.Node) -> dict[str, int]:
    """The operands that are there, in their order, with their places among the inputs."""
    names = operands(operator_name(node), len(node.inputs))
    return {name: i for i, name in enumerate(names) if node.inputs[i] is not None}


def numbers_of(node: ir.Node) -> dict[str, tuple[str, float]]:
    """Attributes that a law may scale, with their operands and their numbers, defaults included."""
    signature = SIGNATURES.get(operator_name(node))
    found: dict[str, tuple[str, float]] = {}
    for key, (operand, default) in (signature.numbers if signature else {}).items():
        attribute = node.attributes.get(key)
        if attribute is None:
            number = default
        elif attribute.type == ir.AttributeType.TENSOR:
            number = float(attribute.as_tensor().numpy().reshape(()))
        else:
            number = float(attribute.as_float())
        if number == 0 and default is None:
            number = None  # which also asks for the operator's own
        if number is not None:
            found[key] = operand, number
    return found
