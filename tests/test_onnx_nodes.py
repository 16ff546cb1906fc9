"""The ONNX standard's own node tests, a handful of them; bench/onnx_nodes.py runs them all."""

import math
from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from bench.onnx_nodes import (
    LIGHT,
    REACH,
    NodeTest,
    light,
    node_tests,
    outcome,
    pinned,
    random_plan,
    reason_to_skip,
)
from halfsafe.frontends.onnx.source import OnnxSource
from halfsafe.rules import equations, law_of

NAMES = (
    "test_averagepool_2d_pads",
    "test_basic_conv_with_padding",
    "test_batchnorm_epsilon",
    "test_concat_2d_axis_1",
    "test_gemm_all_attributes",
    "test_layer_normalization_3d_axis1_epsilon",
    "test_prelu_broadcast",
    "test_reduce_sum_keepdims_random",
    "test_where_example",
)


@cache
def known() -> dict[str, NodeTest]:
    return {test.name: test for test in node_tests()}


def opened(test: NodeTest) -> OnnxSource:
    return OnnxSource.open(test.model, test.call)


def assert_met_at_random_exponents(test: NodeTest) -> None:
    found = outcome(test)
    assert not found.error, f"{test.name}: {found.error}"
    assert found.identity and found.random and found.bit_equal
    assert found.edits, f"{test.name}: no value was stored at another exponent"


@pytest.mark.parametrize("name", NAMES)
def test_the_expected_outputs_at_random_exponents(name):
    test = known()[name]
    assert reason_to_skip(test) is None
    assert_met_at_random_exponents(test)


@pytest.mark.parametrize("name", [n for n in NAMES if "averagepool" not in n])
def test_the_expected_outputs_with_folded_initialisers(name):
    variant = known()[name].with_initialisers()
    assert variant is not None
    assert len(variant.feeds) == 1
    assert_met_at_random_exponents(variant)


def test_an_operator_without_other_inputs_has_no_initialisers():
    assert known()["test_relu"].with_initialisers() is None


def test_random_exponents_satisfy_the_equations():
    graph = opened(known()["test_gemm_all_attributes"]).graph
    plan = random_plan(graph, 0)
    exponents = {**plan.exponents, **plan.uses}
    (node,) = graph.nodes
    for equation in equations(graph, node, law_of(node)):
        assert sum(f * exponents[u] for u, f in equation.terms.items()) == 0, str(equation)
    assert max(map(abs, exponents.values())) == REACH


def test_pinned_operators_are_told_from_free_ones():
    found = [pinned(opened(known()[f"test_{name}"]).graph) for name in ("exp", "relu")]
    assert found == [{"onnx.Exp": True}, {"onnx.Relu": False}]


def test_skips_have_reasons():
    reasons = Counter(map(reason_to_skip, (known()[f"test_{n}"] for n in ("and2d", "relu"))))
    assert reasons == {"no FP32 input": 1, None: 1}


def test_wrong_outputs_are_found():
    test = known()["test_relu"]
    wrong = replace(test, expected=[np.asarray(test.expected[0]) + 1])
    assert reason_to_skip(wrong) == "ONNX Runtime gives other outputs than the standard expects"
    assert "identity: output 0 is off by 1" in outcome(wrong).error


def test_a_packaged_architecture_stays_bit_equal():
    row = light(LIGHT / "light_shufflenet.onnx", samples=1)
    assert row["bit_equal"] and row["bit_equal_optimised"], row
    assert row["after_nonfinite"] == 0
    assert math.isfinite(row["after"])
