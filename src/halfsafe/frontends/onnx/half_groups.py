"""The groups of inputs and outputs of an ONNX operator that have one type in common."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import onnx.defs
import onnx_ir as ir

from halfsafe.frontends.onnx.values import (
    FLOAT,
    HALF,
    Place,
    bodies_of,
    is_constant,
    is_float,
    type_text,
    value_at,
)

NEWEST_OPSET = 23
"""Opsets above it are not asked for: deployed engines do not read them yet."""

DTYPE_ATTRIBUTES = ("to", "dtype", "output_datatype", "output_dtype")
"""Attributes that state the element type of an output."""

Port = Place | ir.Value

KEPT = re.compile("QLinear|QuantizeLinear|DequantizeLinear|^BitCast$|^MeanVarianceNormalization$")
"""Operators that stay in FP32: quantised ones with their scales, one that reads bits, and one that
onnx defines with FP32 constants."""

GENERATED = re.compile("^Random|^EyeLike$|^MelWeightMatrix$")
"""Operators whose output stays in FP32, since onnxruntime has no FP16 form of them on a CPU."""

BY_STANDARD = f"the standard has no FP16 there up to opset {NEWEST_OPSET}"
BY_DOMAIN = "onnx does not know their domain"
BY_DEFINITION = "they quantise, or are defined with FP32"
BY_KERNEL = "ONNX Runtime has no FP16 form of them on a CPU"
BY_SIZE = "they compute with sizes, which FP16 would round above 2048"
"""Why something has to be FP32, as it is told of several operators."""


@dataclass(eq=False)
class Group:
    """Ports that have one type in common; its precision is theirs."""

    uses: list[Place] = field(default_factory=list[Place])
    values: list[ir.Value] = field(default_factory=list[ir.Value])
    precision: ir.DataType = HALF
    why: str = ""
    """Why it has to be FP32, if it does."""
    opset: int | None = None
    """The later opset that allows FP16 here, if this one does not."""
    rim: bool = False
    """An input or output of the model."""

    @property
    def follows(self) -> bool:
        """Shape, Greater or Cast give the same type for either: they take what they are given."""
        return not self.values and not self.rim


def groups_of(node: ir.Node, opsets: dict[str, int]) -> Iterator[Group]:
    """The groups of one operator, those of its bodies' rims included."""
    if node.domain == "" and node.op_type == "Constant":
        return
    if node.domain == "" and node.op_type in BODIES:
        for ports in BODIES[node.op_type](node, opsets):
            group = Group()
            for port in ports:
                if isinstance(port, ir.Value):
                    group.values += [port] if is_float(port) else []
                else:
                    group.uses += [port] if is_float(value_at(port)) else []
            yield group
    else:
        yield from _schema_groups(node, opsets)


def _schema_groups(node: ir.Node, opsets: dict[str, int]) -> Iterable[Group]:
    """One group for what is FP32 in every case, one for the rest.

    Type parameters are not told apart: Attention and RMSNormalization have several, but their
    definitions only hold when those agree. Operators that state their output's type are different.
    """
    kept = BY_DOMAIN if node.domain else BY_DEFINITION if KEPT.search(node.op_type) else ""
    schema = None if kept else schema_of(node, opsets[""])
    states = schema is not None and (
        node.op_type == "CastLike" or not schema.attributes.keys().isdisjoint(DTYPE_ATTRIBUTES)
    )
    groups: dict[str, Group] = defaultdict(Group)
    for made, values in enumerate((node.inputs, node.outputs)):
        for index, value in enumerate(values):
            if value is None or not is_float(value):
                continue
            text = type_text(value.type, "float16")
            parameter = _formal(schema, made, index)
            free = schema is not None and parameter is not None and _takes(schema, parameter, text)
            key = parameter.type_str if parameter and states else "free" if free else "fixed"
            group = groups[key]
            if made:
                group.values.append(value)
            else:
                group.uses.append((node, index))
            if not free:
                group.precision, group.why = FLOAT, kept or BY_STANDARD
                group.opset = schema and _later_opset(node, made, index, text)
    for group in groups.values():
        if group.values and (GENERATED.search(node.op_type) or _accumulates(node)):
            group.precision, group.why = FLOAT, group.why or BY_KERNEL
    return groups.values()


def _accumulates(node: ir.Node) -> bool:
    """Whether an operator scatters as onnxruntime has no FP16 form of on a CPU."""
    held = node.attributes.get("reduction")
    if node.domain or held is None:
        return False
    every, sums = ("add", "mul", "max", "min"), ("add", "mul")
    return held.as_string() in {"ScatterND": every, "ScatterElements": sums}.get(node.op_type, ())


def schema_of(node: ir.Node, opset: int) -> onnx.defs.OpSchema | None:
    """What the standard says of an operator at an opset; None if it does not know it."""
    try:
        return onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:
        return None


def sizes_of(nodes: Iterable[ir.Node]) -> set[ir.Value]:
    """Sizes, and what is computed from sizes and constants alone."""
    sizes: set[ir.Value] = set()
    for node in nodes:
        inputs = [value for value in node.inputs if value is not None]
        alone = not bodies_of(node) and all(
            value in sizes or value.is_initializer() or is_constant(value) for value in inputs
        )
        if alone or node.op_type in ("Shape", "Size"):
            sizes.update(node.outputs)
    return sizes


def _formal(
    schema: onnx.defs.OpSchema | None, made: int, index: int
) -> onnx.defs.OpSchema.FormalParameter | None:
    """The schema's parameter for an input (`made` is 0) or an output (1); the last may repeat."""
    if schema is None:
        return None
    parameters = schema.outputs if made else schema.inputs
    return parameters[min(index, len(parameters) - 1)] if parameters else None


def _later_opset(node: ir.Node, made: int, index: int, text: str) -> int | None:
    newest = schema_of(node, NEWEST_OPSET)
    parameter = _formal(newest, made, index)
    if newest is None or newest.deprecated or parameter is None:
        return None
    return newest.since_version if _takes(newest, parameter, text) else None


def _takes(
    schema: onnx.defs.OpSchema, parameter: onnx.defs.OpSchema.FormalParameter, text: str
) -> bool:
    """Whether a parameter may be of a type: `parameter.types`, but that fails in onnx 1.20."""
    for constraint in schema.type_constraints:
        if constraint.type_param_str == parameter.type_str:
            return text in constraint.allowed_type_strs
    return text == parameter.type_str


def _if_ports(node: ir.Node, opsets: dict[str, int]) -> Iterator[list[Port]]:
    """y_i = then_i or else_i."""
    for index, value in enumerate(node.outputs):
        yield [value, *((body, index) for body in bodies_of(node))]


def _loop_ports(node: ir.Node, opsets: dict[str, int]) -> Iterator[list[Port]]:
    """(trip, condition, state) -> body(i, condition, state) = (condition, state, scanned)."""
    (body,) = bodies_of(node)
    states = len(body.inputs) - 2
    for index, value in enumerate(node.outputs):
        ports: list[Port] = [value, (body, 1 + index)]
        if index < states:
            ports += [(node, 2 + index), body.inputs[2 + index]]
        yield ports


def _scan_ports(node: ir.Node, opsets: dict[str, int]) -> Iterator[list[Port]]:
    """(state, sequence) -> body(state, element) = (state, scanned)."""
    (body,) = bodies_of(node)
    first = 1 if opsets.get("", 1) < 9 else 0
    states = len(body.inputs) - node.attributes["num_scan_inputs"].as_int()
    for index, value in enumerate(body.inputs):
        ports: list[Port] = [(node, first + index), value]
        yield ports if index >= states else [*ports, (body, index), node.outputs[index]]
    for index in range(states, len(body.outputs)):
        yield [(body, index), node.outputs[index]]


def _map_ports(node: ir.Node, opsets: dict[str, int]) -> Iterator[list[Port]]:
    """y_i = [body(x, ...) for x in sequence]."""
    (body,) = bodies_of(node)
    for index, value in enumerate(body.inputs):
        yield [(node, index), value]
    for index, value in enumerate(node.outputs):
        yield [(body, index), value]


BODIES: dict[str, Callable[[ir.Node, dict[str, int]], Iterator[list[Port]]]] = {
    "If": _if_ports,
    "Loop": _loop_ports,
    "Scan": _scan_ports,
    "SequenceMap": _map_ports,
}
"""Which ports of an operator and of its bodies have one type."""
