"""A part of an ONNX network as a model of its own, with the same constants."""

# onnx_ir is only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from halfsafe.frontends.onnx.one_node import captured
from halfsafe.frontends.onnx.parts import parts
from halfsafe.frontends.onnx.program import OnnxProgram
from halfsafe.frontends.onnx.values import values_of


def extract(
    program: OnnxProgram, inputs: Sequence[str] | None, outputs: Sequence[str]
) -> OnnxProgram:
    """The part of a program that computes `outputs` from `inputs`, or from its own inputs."""
    model = program.model
    own = [str(v.name) for v in model.graph.inputs if v.name not in model.graph.initializers]
    graph = ir.convenience.extract(model.graph, own if inputs is None else inputs, outputs)
    part = ir.Model(graph, ir_version=model.ir_version, producer_name=model.producer_name)
    held = {str(value.name) for value in values_of(part)}
    return replace(program, model=part, float32=program.float32 & held)


def steps(program: OnnxProgram) -> tuple[tuple[str, ...], ...]:
    """The nodes of the graph, those together between which nothing can be cut.

    An operator and what is in its bodies are one step, and so is all that stands between where a
    sequence, or another value that is no tensor, is made and where it is last read.
    """
    found: list[tuple[str, ...]] = []
    end, nodes = -1, list(program.model.graph)
    for i, (node, last) in enumerate(zip(nodes, _last_readers(nodes), strict=True)):
        names = tuple(part.name for part in parts([node]))
        if i <= end:
            found[-1] += names
        else:
            found.append(names)
        end = max(end, last)
    return tuple(found)


def _last_readers(nodes: Sequence[ir.Node]) -> list[int]:
    """The place of the last node that reads something of each that cannot be handed over."""
    makers = {
        str(value.name): i
        for i, node in enumerate(nodes)
        for value in node.outputs
        if value.type is not None and not isinstance(value.type, ir.TensorType)
    }
    shown = [
        any(value.is_graph_output() and str(value.name) in makers for value in node.outputs)
        for node in nodes
    ]
    last = [len(nodes) - 1 if out else i for i, out in enumerate(shown)]
    for i, node in enumerate(nodes):
        names = (str(value.name) for value in node.inputs if value is not None)
        for name in (*names, *captured(node)):
            if name in makers:
                last[makers[name]] = max(i, last[makers[name]])
    return last
