"""Every ONNX law is exact, and none is weaker than it should be."""

from dataclasses import replace

import numpy as np
import onnx.defs
import pytest

from halfsafe.graph import Graph, Kind, Node, Value
from halfsafe.rules import equations
from halfsafe.rules.onnx import LAWS, PINNED_BECAUSE, SIGNATURES
from halfsafe.rules.solve import rank
from tests.case import laws, parse, random_exponents, unknowns
from tests.cases_onnx import CASES
from tests.onnx_case import OnnxCase

SCHEMAS = [s for s in onnx.defs.get_all_schemas_with_history() if s.domain == ""]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_op_of_stored_operands_is_bit_equal_to_stored_op(case: OnnxCase):
    expected = case.stored({})
    for seed in range(4):
        k = random_exponents(laws(case.graph), unknowns(case.graph), seed)
        if not any(k.values()):
            continue
        for i, (found, real) in enumerate(zip(case.stored(k), expected, strict=True)):
            shift = k.get("out" if len(expected) == 1 else f"out.{i}", 0)
            back = np.ldexp(found, shift) if shift else found
            assert _same(back, real), f"{case} is not exact at {k}: {back}, expected {real}"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_law_states_the_expected_equations(case: OnnxCase):
    stated = laws(case.graph)
    expected = [parse(e) for e in case.expected]
    assert rank(stated) == rank(expected) == rank(stated + expected), (
        f"{case} states {stated}, expected {case.expected}"
    )


@pytest.mark.parametrize("case", [c for c in CASES if SIGNATURES[c.op].numbers], ids=str)
def test_a_number_that_the_graph_leaves_out_is_at_exponent_0(case: OnnxCase):
    (node,) = case.graph.nodes
    numbers = {operand for operand, _ in SIGNATURES[case.op].numbers.values()}
    rest = {operand: value for operand, value in node.inputs.items() if operand not in numbers}
    without = laws(replace(case.graph, nodes=(replace(node, inputs=rest),)))
    at_0 = [{n: f for n, f in row.items() if n not in numbers} for row in laws(case.graph)]
    assert rank(at_0) <= rank(without) == rank(without + at_0)


def test_every_law_that_states_an_equation_has_a_case():
    bodies = {
        f"onnx.{op}" for op in ("If", "Loop", "Loop.body", "Scan", "Scan.body")
    }  # in tests/test_onnx_bodies.py
    assert sorted(set(LAWS) - set(PINNED_BECAUSE) - {case.op for case in CASES} - bodies) == []


@pytest.mark.parametrize("op", PINNED_BECAUSE)
def test_a_pinned_operator_is_at_exponent_0(op: str):
    values = {name: Value(name, Kind.ACTIVATION, floating=True) for name in "xwy"}
    node = Node("node", op, {"self": "x", "weight": "w"}, ("y",))
    graph = Graph((node,), values, (), ())
    assert {str(e) for e in equations(graph, node, LAWS[op])} == {
        f"k[{name}] == 0" for name in ("node.self", "node.weight", "y")
    }


@pytest.mark.parametrize("extra", ["q_norm", "k_norm", "k_scale", "v_scale"])
def test_heads_that_are_normalised_or_quantised_pin_an_attention(extra: str):
    values = {name: Value(name, Kind.ACTIVATION, floating=True) for name in "qkvny"}
    inputs = {"query": "q", "key": "k", "value": "v", extra: "n"}
    node = Node("node", "com.microsoft.GroupQueryAttention", inputs, ("y",))
    graph = Graph((node,), values, (), ())
    assert rank(laws(graph)) == len(values)


def test_every_operator_that_sees_floating_values_has_a_law():
    latest = [s for s in onnx.defs.get_all_schemas() if s.domain == "" and not s.deprecated]
    assert sorted({f"onnx.{s.name}" for s in latest if _sees_floats(s)} - set(LAWS)) == []


@pytest.mark.parametrize("op", sorted(SIGNATURES))
def test_a_signature_names_every_input_and_the_right_defaults(op: str):
    signature = SIGNATURES[op]
    for schema in (s for s in SCHEMAS if s.name == op and s.since_version >= 11):
        variadic = any(name.endswith("*") for name in signature.inputs)
        assert variadic or len(schema.inputs) <= len(signature.inputs), (
            f"{op}-{schema.since_version}"
        )
        for attribute, (_, default) in signature.numbers.items():
            found = schema.attributes[attribute].default_value
            if default is not None and found.name and found.type == onnx.AttributeProto.FLOAT:
                assert found.f == np.float32(default), f"{op}-{schema.since_version} {attribute}"


def _sees_floats(schema: onnx.defs.OpSchema) -> bool:
    floats = {
        c.type_param_str
        for c in schema.type_constraints
        if any("float" in t or "double" in t for t in c.allowed_type_strs)
    }
    types = [p.type_str for p in (*schema.inputs, *schema.outputs)]
    return any(t in floats or "float" in t for t in types)


def _same(found: object, real: object) -> bool:
    if found is None or real is None:
        return found is real
    return np.array_equal(np.nan_to_num(found), np.nan_to_num(real))
