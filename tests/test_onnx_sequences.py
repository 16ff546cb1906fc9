"""Sequences and optionals: what several arrays have in common is one exponent."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

import halfsafe
from halfsafe.edits import Insert, ScaleOutput
from halfsafe.errors import BadInput, EditError
from halfsafe.formats import FLOAT32
from halfsafe.frontends.onnx.flatten import flatten
from halfsafe.frontends.onnx.half import to_float16
from halfsafe.frontends.onnx.run import Evaluator, as_it_is
from halfsafe.frontends.onnx.source import OnnxSource
from halfsafe.graph import Use
from halfsafe.samples import Call
from tests.test_frontend_onnx import run

CHUNKS = """
    h = MatMul (x, w)
    two = Constant <value_int = 2> ()
    s = SplitToSequence <axis = 1> (h, two)
    one = Constant <value_int = 1> ()
    a = SequenceAt (s, one)
    shorter = SequenceErase (s, one)
    longer = SequenceInsert (shorter, a)
    n = SequenceLength (longer)
    c = ConcatFromSequence <axis = 1> (longer)
    y = MatMul (c, back)
"""

BUILT = """
    h = MatMul (x, w)
    r = Relu (h)
    s = SequenceConstruct (h, r)
    c = ConcatFromSequence <axis = 0> (s)
    y = MatMul (c, back)
"""

GROWN = """
    trips = Constant <value_int = 3> ()
    yes = Constant <value = bool {1}> ()
    none = SequenceEmpty <dtype = 1> ()
    h = MatMul (x, w)
    last, s = Loop (trips, yes, h, none) <
        body = step (int64 i, bool go, float[N, 4] state, seq(float[N, 4]) had)
            => (bool again, float[N, 4] next, seq(float[N, 4]) has) {
            again = Identity (go)
            next = Abs (state)
            has = SequenceInsert (had, next)
        }
    >
    c = ConcatFromSequence <axis = 0> (s)
    y = MatMul (c, back)
"""

MAYBE = """
    h = MatMul (x, w)
    o = Optional (h)
    there = OptionalHasElement (o)
    c = OptionalGetElement (o)
    y = MatMul (c, back)
"""

SHOWN = """
    h = MatMul (x, w)
    two = Constant <value_int = 2> ()
    s = SplitToSequence <axis = 1> (h, two)
    y = MatMul (h, back)
"""


def network(body: str, outputs: str = "float[M, 2] y", opset: int = 17) -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : {opset}]>'
        f"net (float[N, 4] x) => ({outputs}) {{{body}}}"
    )
    rng = np.random.default_rng(0)
    held = {"w": 5e4 * rng.normal(size=(4, 4)), "back": 1e-5 * rng.normal(size=(4, 2))}
    arrays = {name: x.astype(np.float32) for name, x in held.items()}
    model.graph.initializer.extend(numpy_helper.from_array(x, n) for n, x in arrays.items())
    return model


def samples() -> list[Mapping[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.normal(size=(2, 4)).astype(np.float32)} for _ in range(3)]


def leaves(found: Any) -> Iterator[np.ndarray]:
    for x in found if isinstance(found, list) else [found]:
        yield from leaves(x) if isinstance(x, list) else [x]


def same(found: Any, known: Any) -> bool:
    pairs = zip(leaves(found), leaves(known), strict=True)
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in pairs)


@pytest.mark.parametrize("body", [CHUNKS, BUILT, GROWN, MAYBE], ids="CBGM")
def test_an_exponent_passes_through_a_sequence(body: str):
    model, given = network(body), samples()
    fixed = halfsafe.fix(model, given)
    assert not fixed.report.insertions
    assert same(run(fixed.model, given[0]), run(model, given[0]))
    half = fixed.half()
    onnx.checker.check_model(half, full_check=True)
    (strict,) = (
        x for (x,) in Evaluator(flatten(ir.from_proto(half))).run(call(given[0]), as_it_is)
    )
    (known,) = run(model, given[0])
    assert np.abs(strict - known).max() < 2e-3 * np.abs(known).max()
    assert not [n for n in half.graph.node if n.op_type == "Cast"][2:]


@pytest.mark.parametrize("body", [CHUNKS, BUILT, GROWN, MAYBE], ids="CBGM")
def test_what_is_in_a_sequence_is_measured(body: str):
    report = halfsafe.inspect(network(body), samples())
    assert ("overflow", "onnx.MatMul") in [(fault.kind, fault.op) for fault in report.faults]
    sequence = "o" if body == MAYBE else "s"
    assert report.values[sequence].range.amax == report.values["h"].range.amax


def test_a_sequence_is_an_output():
    model, given = network(SHOWN, "float[M, 2] y, seq(float[N, 2]) s"), samples()
    for x in given:
        x["x"] /= 16
    fixed = halfsafe.fix(model, given)
    assert same(run(fixed.model, given[0]), run(model, given[0]))
    assert same(run(fixed.half(), given[0])[1:], run(model, given[0])[1:]) is False  # rounded


@pytest.mark.parametrize("amplitude", [1, 1e7])
def test_a_sequence_is_an_input(amplitude: float):
    model = network("c = ConcatFromSequence <axis = 0> (x) h = MatMul (c, w) y = MatMul (h, back)")
    kind = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None)
    model.graph.input[0].type.CopyFrom(onnx.helper.make_sequence_type_proto(kind))
    given = [{"x": [x["x"] * np.float32(amplitude), x["x"][:1]]} for x in samples()]
    fixed = halfsafe.fix(model, given)
    (known,) = run(model, given[0])
    assert same(run(fixed.model, given[0]), [known])
    assert np.abs(run(fixed.half(), given[0])[0] - known).max() < 2e-3 * np.abs(known).max()
    with pytest.raises(BadInput, match="'x' is a sequence: pass a list of arrays"):
        halfsafe.fix(model, samples())


@pytest.mark.parametrize("body", [CHUNKS, GROWN], ids="CG")
def test_a_multiplication_goes_to_each_element(body: str):
    model, x = network(body), samples()[0]
    source = OnnxSource.open(model, call(x))
    reader = next(node for node in source.graph.nodes if node.op == "onnx.ConcatFromSequence")
    use = Use(reader.name, "self")
    halved = source.apply([Insert(reader.inputs["self"], use, -1), ScaleOutput("y", 0, 1, False)])
    assert same(halved.program.run(call(x)), run(model, x))
    assert same(list(halved.evaluate(call(x), FLOAT32)), list(source.evaluate(call(x), FLOAT32)))
    half = to_float16(halved.program.model, float32=halved.program.float32)
    onnx.checker.check_model(ir.to_proto(half), full_check=True)
    assert run(half, x)[0].shape == run(model, x)[0].shape


def test_a_sequence_of_an_old_opset_is_not_scaled():
    source = OnnxSource.open(network(CHUNKS, opset=13), call(samples()[0]))
    reader = next(node for node in source.graph.nodes if node.op == "onnx.ConcatFromSequence")
    with pytest.raises(EditError, match="export the model at opset 17 or later"):
        source.apply([Insert(reader.inputs["self"], Use(reader.name, "self"), -1)])


def call(x: Mapping[str, np.ndarray]) -> Call:
    return Call((), dict(x))
