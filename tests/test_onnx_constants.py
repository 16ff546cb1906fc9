"""Constants as files have them: stored in other types, and with infinite bounds."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import halfsafe
from halfsafe.errors import BadInput
from halfsafe.frontends.onnx.source import OnnxSource
from halfsafe.samples import Call
from tests.test_frontend_onnx import run

STORED = """
    w = Cast <to = 1> (stored)
    h = MatMul (x, w)
    again = Cast <to = 1> (stored)
    g = MatMul (h, again)
    small = Constant <value_float = 1e-10> ()
    y = Mul (g, small)
"""

BRANCHED = """
    zero = Constant <value_float = 0.0> ()
    sum = ReduceSum <keepdims = 0> (x)
    positive = Greater (sum, zero)
    h = If (positive) <
        then_branch = taken () => (float[N, 4] p) { w = Cast <to = 1> (stored) p = MatMul (x, w) },
        else_branch = other () => (float[N, 4] q) { q = Abs (x) }
    >
    small = Constant <value_float = 1e-10> ()
    y = Mul (h, small)
"""

SHOWN = STORED.replace("again", "z")
BOTH = "float[N, 4] y, float[4, 4] z"

TYPES = [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE]


def network(body: str, outputs: str = "float[N, 4] y", **held: Any) -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 17]> net (float[N, 4] x) => ({outputs}) {{{body}}}'
    )
    kept = {n: numpy_helper.from_array(x, n) for n, x in held.items() if isinstance(x, np.ndarray)}
    tensors = {**{n: t for n, t in held.items() if n not in kept}, **kept}
    model.graph.initializer.extend(tensors.values())
    return model


def weights(dtype: int) -> TensorProto:
    numbers = 1e3 * np.random.default_rng(0).normal(size=(4, 4)) / 3
    return helper.make_tensor("stored", dtype, (4, 4), numbers.reshape(-1))


def samples() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"x": 100 * rng.normal(size=(2, 4)).astype(np.float32)} for _ in range(3)]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("body", "outputs"), [(STORED, "float[N, 4] y"), (BRANCHED, "float[N, 4] y"), (SHOWN, BOTH)]
)
def test_a_constant_that_is_only_cast_is_in_float32(body: str, outputs: str, dtype: int):
    model, given = network(body, outputs, stored=weights(dtype)), samples()
    fixed = halfsafe.fix(model, given)
    for x in given:
        assert all(map(np.array_equal, run(fixed.model, x), run(model, x)))
    assert not [i for i in fixed.model.graph.initializer if i.data_type == dtype]
    held = [i for i in fixed.half().graph.initializer if i.name.startswith("stored")]
    assert held and {i.data_type for i in held} == {TensorProto.FLOAT16}


def test_a_name_that_is_taken_is_left_alone():
    own = np.eye(4, dtype=np.float32)
    body = STORED.replace("x, w", "x, x1").replace("h =", "x1 = Add (w, v.float32) h =")
    body = body.replace("v.float32", "taken")
    model = network(body, stored=weights(TensorProto.FLOAT16), taken=own)
    model.graph.initializer[-1].name = "stored.float32"
    add = next(node for node in model.graph.node if node.op_type == "Add")
    add.input[1] = "stored.float32"
    x = samples()[0]
    source = OnnxSource.open(model, Call((), dict(x)))
    assert np.array_equal(source.program.run(Call((), dict(x)))[0], run(model, x)[0])


def test_a_double_beyond_float32_is_refused_as_an_infinite_weight():
    stored = np.full((4, 4), 1e300)
    with pytest.raises(BadInput, match=r"'stored\.float32' holds 16 NaN or inf"):
        halfsafe.fix(network(STORED, stored=stored), samples())


def test_what_computes_in_float16_is_still_refused():
    body = STORED.replace("Cast <to = 1> (stored)", "Cast <to = 1> (s)", 1)
    body = "s = Add (stored, stored)" + body
    with pytest.raises(BadInput, match="already float16"):
        halfsafe.fix(network(body, stored=weights(TensorProto.FLOAT16)), samples())


def test_a_candidate_with_stored_constants_is_in_float32():
    model = network(STORED, stored=weights(TensorProto.FLOAT16))
    source = OnnxSource.open(model, Call((), dict(samples()[0])))
    assert not source.is_half(model)
    assert source.is_half(halfsafe.fix(model, samples()).half())


BOUNDED = """
    h = Mul (x, big)
    low = Max (h, none)
    b = Min (low, pinf)
    y = Mul (b, small)
"""

CLIPPED = "h = Mul (x, big) b = Clip (h, tiny, pinf) y = Mul (b, small)"

MOVED = """
    h = Mul (x, big)
    shape = Shape (h)
    wide = Expand (pinf, shape)
    positive = Greater (h, tiny)
    c = Where (positive, h, wide)
    b = Min (c, h)
    y = Mul (b, small)
"""


def bounded(body: str) -> onnx.ModelProto:
    numbers = {"big": 1e5, "small": 1e-5, "tiny": 64.0, "pinf": np.inf, "none": -np.inf}
    return network(body, **{n: np.array(x, np.float32) for n, x in numbers.items() if n in body})


@pytest.mark.parametrize("body", [BOUNDED, CLIPPED, MOVED], ids="BCM")
def test_a_bound_may_be_infinite(body: str):
    model, given = bounded(body), samples()
    fixed = halfsafe.fix(model, given)
    assert fixed.report.safe
    for x in given:
        assert np.array_equal(run(fixed.model, x)[0], run(model, x)[0])
        assert np.isfinite(run(fixed.half(), x)[0]).all()
    report = halfsafe.inspect(model, given)
    assert not [fault for fault in report.faults if fault.kind == "nonfinite"]


@pytest.mark.parametrize(
    "body",
    [
        "b = Add (x, pinf) y = Min (b, x)",
        "b = Min (x, pinf) y = Add (b, pinf)",
        "shape = Shape (x) b = Expand (pinf, shape) y = Mul (x, b)",
    ],
)
def test_a_weight_may_not_be_infinite(body: str):
    with pytest.raises(BadInput, match="'pinf' holds 1 NaN or inf"):
        halfsafe.fix(bounded(body), samples())


def test_a_bound_may_not_be_nan():
    model = network("y = Min (x, bound)", bound=np.array(np.nan, np.float32))
    with pytest.raises(BadInput, match="'bound' holds 1 NaN or inf"):
        halfsafe.fix(model, samples())
