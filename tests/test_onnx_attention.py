"""Attentions whose scale the file leaves to the operator: the number is written out, to the bit."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import halfsafe
from halfsafe.frontends.onnx.source import OnnxSource
from halfsafe.samples import Call
from tests.test_frontend_onnx import run

_rng = np.random.default_rng(0)


def x(*shape: int) -> np.ndarray:
    return _rng.normal(size=shape).astype(np.float32)


def network(op: str, domain: str, inputs: list[Any], outputs: int, **attributes: Any):
    """An attention over floating inputs that are 600 times as large."""
    feeds = {f"i{j}": found for j, found in enumerate(inputs) if found is not None}
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(f.dtype), f.shape)
        for n, f in feeds.items()
    ]
    nodes = [helper.make_node("Mul", [f"i{j}", "large"], [f"l{j}"]) for j in (0, 1)]
    names = ["l0", "l1", *(f"i{j}" if inputs[j] is not None else "" for j in range(2, len(inputs)))]
    made = ["y", *(f"o{j}" for j in range(1, outputs))]
    nodes.append(helper.make_node(op, names, made, domain=domain, **attributes))
    graph = helper.make_graph(
        nodes,
        "attention",
        infos,
        [helper.make_tensor_value_info("y", 1, list("ABCD")[: np.ndim(inputs[0])])],
        [onnx.numpy_helper.from_array(np.array(600, np.float32), "large")],
    )
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10), feeds


def cases(size: int, **scale: float) -> list[tuple[onnx.ModelProto, dict[str, np.ndarray]]]:
    two, cache = 2 * size, np.zeros((1, 1, 3, size), np.float32)
    lengths = [np.array([2], np.int32), np.array([3], np.int32)]
    found = [
        network("MultiHeadAttention", "com.microsoft", [x(2, 5, two), x(2, 6, two), x(2, 6, two)],
                1, num_heads=2, **scale),
        network("Attention", "com.microsoft", [x(2, 5, 7), x(7, 3 * two), x(3 * two)], 1,
                num_heads=2, **scale),
    ]  # fmt: skip
    if size % 8 == 0:
        heads = [x(1, 3, two), x(1, 3, size), x(1, 3, size), cache, cache, *lengths]
        found.append(network("GroupQueryAttention", "com.microsoft", heads, 3, num_heads=2,
                             kv_num_heads=1, **scale))  # fmt: skip
    if not scale:
        found += [
            network("Attention", "", [x(2, 5, two), x(2, 6, two), x(2, 6, two)], 1,
                    q_num_heads=2, kv_num_heads=2),
            network("Attention", "", [x(2, 2, 5, size), x(2, 2, 6, size), x(2, 2, 6, size)], 1),
        ]  # fmt: skip
    return found


@pytest.mark.parametrize("scale", [{}, {"scale": 0.0}], ids=["left out", "zero"])
@pytest.mark.parametrize("size", [3, 8, 24, 64])
def test_the_scale_is_written_out_to_the_bit(size: int, scale: dict[str, float]):
    for model, feeds in cases(size, **scale):
        source = OnnxSource.open(model, Call((), feeds))
        assert source.captured_exactly and not source.notes
        (literal,) = (n for n, v in source.graph.values.items() if n.endswith(".scale"))
        assert source.graph.values[literal].number == pytest.approx(size**-0.5)


@pytest.mark.parametrize("scale", [{}, {"scale": 0.0}], ids=["left out", "zero"])
def test_large_queries_and_keys_take_an_exponent(scale: dict[str, float]):
    for model, feeds in cases(8, **scale):
        fixed = halfsafe.fix(model, feeds)
        assert np.array_equal(run(fixed.model, feeds)[0], run(model, feeds)[0])


def test_a_scale_of_zero_that_is_not_looked_at_pins_queries_and_keys():
    """In a branch that no sample takes, the size of a head is not known."""
    (model, feeds), *_ = cases(8, scale=0.0)
    body = helper.make_graph(
        list(model.graph.node), "body", [], [helper.make_tensor_value_info("y", 1, [2, 5, 16])]
    )
    other = helper.make_node("Identity", ["i0"], ["other"])
    rest = helper.make_graph(
        [other], "rest", [], [helper.make_tensor_value_info("other", 1, [2, 5, 16])]
    )
    choice = helper.make_node("If", ["yes"], ["out"], then_branch=rest, else_branch=body)
    del model.graph.node[:]
    model.graph.node.append(choice)
    model.graph.output[0].name = "out"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "yes"))
    source = OnnxSource.open(model, Call((), feeds))
    assert not [name for name in source.graph.values if name.endswith(".scale")]
