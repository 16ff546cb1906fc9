"""Gate forms of ONNX operators: the same function, finite in FP16, without an island."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import erf, pi, sqrt
from typing import Any
from zlib import crc32

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import halfsafe
from halfsafe.edits import Lower
from halfsafe.errors import EditError
from halfsafe.forms import FORM_OF
from halfsafe.frontends.onnx.edit import apply
from halfsafe.frontends.onnx.program import OnnxProgram, open_program
from halfsafe.samples import Call

Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """An operator on h, the form that it is put into, and its function in FP64."""

    text: str
    form: str
    exact: Callable[[Array], Array]

    def __str__(self) -> str:
        return self.text


BIAS = np.array([1e5, -2e5, 3.0, 0.0])


def by_tanh(x: Array) -> Array:
    return x * (1 + np.tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) / 2


def by_erf(x: Array) -> Array:
    return x * (1 + np.vectorize(erf)(x / sqrt(2))) / 2


def elu(x: Array, alpha: float = 1.0) -> Array:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def softplus(x: Array) -> Array:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def selu(x: Array) -> Array:
    gamma = 1.0507009873554805
    return np.where(x > 0, gamma * x, gamma * 1.6732632423543772 * np.expm1(np.minimum(x, 0)))


CASES = [
    Case("Gelu (h)", "gelu", by_erf),
    Case('Gelu <approximate = "tanh"> (h)', "gelu", by_tanh),
    Case("com.microsoft.Gelu (h)", "gelu", by_erf),
    Case("com.microsoft.FastGelu (h)", "gelu", by_tanh),
    Case("com.microsoft.FastGelu (h, bias)", "gelu", lambda x: by_tanh(x + BIAS)),
    Case("com.microsoft.BiasGelu (h, bias)", "gelu", lambda x: by_erf(x + BIAS)),
    Case("HardSwish (h)", "hardswish", lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    Case("Mish (h)", "mish", lambda x: x * np.tanh(softplus(x))),
    Case("Elu (h)", "elu", elu),
    Case("Elu <alpha = 2.5> (h)", "elu", lambda x: elu(x, 2.5)),
    Case("Selu (h)", "selu", selu),
    Case("Softplus (h)", "softplus", softplus),
]


GATED = [
    Case("com.microsoft.QuickGelu (h)", "silu", lambda x: x / (1 + np.exp(-1.702 * x))),
    Case("com.microsoft.QuickGelu <alpha = 2.0> (h)", "silu", lambda x: x / (1 + np.exp(-2 * x))),
]
"""Operators with laws, which fix() leaves whole."""


def normalised(text: str) -> Case:
    """A softmax, which is compared with itself."""
    return Case(text, "log_softmax" if text.startswith("Log") else "softmax", lambda x: x)


SOFTMAXES = [normalised(f"{op} (h)") for op in ("Softmax", "LogSoftmax")]


def model(text: str, opset: int = 21, shape: str = "N, 4", back: float = 1e-5) -> onnx.ModelProto:
    """The operator on numbers of order 3e5, and a product that takes them back."""
    down = ", ".join(str(n * back) for n in (2, -1, 3, 1, -2, 1, 1, 3))
    return onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]>
        net (float[{shape}] x) => (float[{shape.rpartition(",")[0]}, 2] y)
        <float up = {{3e5}}, float[4] bias = {{1e5, -2e5, 3, 0}},
         float[4, 2] down = {{{down}}}>
        {{ h = Mul (x, up) g = {text} y = MatMul (g, down) }}
    """)


def alone(text: str, opset: int = 21, shape: str = "N, 4") -> onnx.ModelProto:
    return onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]>
        net (float[{shape}] h) => (float[{shape}] y) <float[4] bias = {{1e5, -2e5, 3, 0}}>
        {{ y = {text} }}
    """)


def draws(*shape: int, n: int = 4) -> list[dict[str, Array]]:
    random = np.random.default_rng(0)
    return [{"x": random.standard_normal(shape).astype(np.float32)} for _ in range(n)]


def program_of(proto: onnx.ModelProto, h: Array) -> OnnxProgram:
    return open_program(ir.from_proto(proto), Call((), {"h": h}))[0]


def lowered(program: OnnxProgram, form: str) -> OnnxProgram:
    return apply(program, [Lower(program.graph.nodes[0].name, form)])


def run(program: OnnxProgram, h: Array) -> Array:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 2
    proto = ir.to_proto(program.model)
    onnx.checker.check_model(proto, full_check=True)
    session = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"h": h})[0]


def assert_fixed(proto: onnx.ModelProto, samples: Any, form: str) -> halfsafe.Report:
    """Finite at the floor, through this form alone."""
    fixed = halfsafe.fix(proto, samples)
    report = fixed.report
    assert report.verification.before_nonfinite, "FP16 did not hurt it"
    assert report.safe, report.text()
    assert report.verification.after_nonfinite == 0
    assert report.verification.ratio <= 1.2, report.verification
    assert report.islands == ()
    assert [f"({form})" in line for line in report.forms] == [True], report.forms
    half = fixed.half()
    onnx.checker.check_model(half, full_check=True)
    types = {v.name: v.type.tensor_type.elem_type for v in half.graph.value_info}
    casts = [node for node in half.graph.node if node.op_type == "Cast"]
    inner = {name for node in half.graph.node for name in node.output} - {"y"}
    assert len(casts) == 2, "FP32 inside"
    assert {types[name] for name in inner & set(types)} <= {onnx.TensorProto.FLOAT16}
    assert onnx.TensorProto.FLOAT not in {t.data_type for t in half.graph.initializer}
    return report


# What it is for


@pytest.mark.parametrize("case", [*CASES, *SOFTMAXES], ids=str)
def test_an_overflow_is_fixed_without_an_island(case):
    back = 1.0 if case.form == "softmax" else 1e-5
    assert_fixed(model(case.text, back=back), draws(32, 4), case.form)


@pytest.mark.parametrize("case", [*CASES, *SOFTMAXES], ids=str)
def test_so_it_is_at_any_exponent(case):
    """A power of two that a stable hash of the operator's name draws."""
    power = 2 + crc32(case.text.encode()) % 6
    back = 1.0 if case.form == "softmax" else 1e-5 * 2.0**-power
    samples = [{"x": s["x"] * np.float32(2.0**power)} for s in draws(32, 4)]
    assert_fixed(model(case.text, back=back), samples, case.form)


@pytest.mark.parametrize("opset", [9, 12, 17, 18])
@pytest.mark.parametrize("axis", [1, 2])
def test_log_softmax_at_every_opset(opset, axis):
    proto = model(f"LogSoftmax <axis = {axis}> (h)", opset, "N, 3, 4")
    assert_fixed(proto, draws(8, 3, 4), "log_softmax")


def test_a_number_in_the_form_takes_the_exponent_of_its_neighbour():
    """GELU and HardSwish cost no multiplication by a power of two."""
    for text in ("Gelu (h)", 'Gelu <approximate = "tanh"> (h)', "HardSwish (h)"):
        assert not halfsafe.fix(model(text), draws(32, 4)).report.insertions


@pytest.mark.parametrize("text", ["Gelu (h)", "Mish (h)", "Elu (h)", "HardSwish (h)"])
def test_numbers_far_beyond_the_range(text):
    proto = model(text)
    samples = [{"x": s["x"] * np.array([1, 1, 1e4, 1e7], np.float32)} for s in draws(32, 4)]
    report = halfsafe.fix(proto, samples).report
    assert report.safe, report.text()
    assert report.verification.ratio < 1.25


def test_scores_with_a_mask_of_minus_infinity():
    proto = model("Where (keep, h, least)", back=1.0)
    proto.graph.node.insert(2, onnx.helper.make_node("Softmax", ["g"], ["p"]))
    proto.graph.node[3].input[0] = "p"
    for name, x in {"keep": [True, False, True, True], "least": np.float32(-np.inf)}.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(x), name))
    assert_fixed(proto, draws(32, 4), "softmax")


def test_values_that_are_too_small_are_not_clipped():
    proto = model("Gelu (h)")
    samples = [{"x": s["x"] * np.float32(1e-15)} for s in draws(32, 4)]
    report = halfsafe.fix(proto, samples).report
    assert report.forms == ()


# The same function


SIZES = [20, 50, 64, 100, 1e4, 2.0**14, 3e5, 1e9]
GRID = np.concatenate([np.linspace(-15, 15, 401), np.multiply(SIZES, -1), SIZES, [0.0, -0.0]])
GRID = np.tile(GRID.astype(np.float32)[:, None], (1, 4))


@pytest.mark.parametrize("case", [*CASES, *GATED], ids=str)
def test_the_form_is_the_same_function(case):
    program = program_of(alone(case.text), GRID)
    found, before = run(lowered(program, case.form), GRID), run(program, GRID)
    with np.errstate(over="ignore"):
        exact = case.exact(GRID.astype(np.float64))
    allowed = 1e-6 * np.maximum(np.abs(exact), 1.0)
    for known in (exact, before):
        worst = np.argmax(np.abs(found - known) / allowed)
        at = GRID.ravel()[worst], found.ravel()[worst], known.ravel()[worst]
        assert (np.abs(found - known) <= allowed).all(), f"{case} of %g is %g, not %g" % at


@pytest.mark.parametrize("case", [*CASES, *GATED], ids=str)
def test_infinities_and_nan_come_out_as_they_did(case):
    program = program_of(alone(case.text), GRID)
    special = np.tile(np.array([[np.inf], [-np.inf], [np.nan]], np.float32), (1, 4))
    found, before = run(lowered(program, case.form), special), run(program, special)
    assert np.array_equal(found, before, equal_nan=True)


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_swish_which_came_with_opset_24(alpha):
    program = program_of(alone(f"Swish <alpha = {alpha}> (h)", 24), GRID)
    found, before = run(lowered(program, "silu"), GRID), run(program, GRID)
    assert np.allclose(found, before, rtol=1e-6, atol=1e-6)


SCORES = np.random.default_rng(1).standard_normal((4, 2, 3, 4)).astype(np.float32)
SCORES *= np.float32([1, 100, 3e5, 1e9])[:, None, None, None]
SCORES[1, 0, 0, :] = 0.0
SCORES[2, 1, :2, 1] = -1e30


@pytest.mark.parametrize("opset", [9, 11, 13, 18])
@pytest.mark.parametrize("axis", [0, 1, 3, -2, None])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_a_softmax_over_any_axis_at_any_opset(op, axis, opset):
    """Before opset 13, all axes from that one on are one, and the default is 1."""
    if axis is not None and axis < 0 and opset < 11:
        pytest.skip("negative axes came with opset 11")
    case = normalised(f"{op} {'' if axis is None else f'<axis = {axis}>'} (h)")
    program = program_of(alone(case.text, opset, "A, 2, 3, 4"), SCORES)
    after = lowered(program, case.form)
    masked = SCORES.copy()
    masked[0, 1, 2, 3] = masked[3, :, 0, :] = -np.inf
    for scores in (SCORES, masked):
        found, before = run(after, scores), run(program, scores)
        assert np.allclose(found, before, rtol=1e-6, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("case", SOFTMAXES, ids=str)
def test_a_row_that_is_masked_throughout_stays_nan(case):
    h = np.array([[-np.inf] * 4, [0, -np.inf, 1, 2]], np.float32)
    program = program_of(alone(case.text), np.zeros((2, 4), np.float32))
    found = run(lowered(program, case.form), h)
    assert np.array_equal(np.isnan(found), np.isnan(run(program, h)))
    assert np.isnan(found[0]).all() and not np.isnan(found[1]).any()


def test_an_operator_in_a_branch():
    proto = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 21]>
        net (float[N, 4] x) => (float[N, 2] y)
        <float up = {3e5}, float zero = {0.0},
         float[4, 2] down = {2e-5, -1e-5, 3e-5, 1e-5, -2e-5, 1e-5, 1e-5, 3e-5}> {
            h = Mul (x, up)
            total = ReduceSum <keepdims = 0> (x)
            positive = Greater (total, zero)
            g = If (positive) <
                then_branch = then () => (float[N, 4] t) { t = LogSoftmax (h) },
                else_branch = other () => (float[N, 4] e) { e = Elu (h) }
            >
            y = MatMul (g, down)
        }
    """)
    samples = [{"x": np.abs(s["x"]) * (-1) ** i} for i, s in enumerate(draws(32, 4))]
    report = halfsafe.fix(proto, samples).report
    assert report.safe and not report.islands, report.text()
    assert len(report.forms) == 2


# What stays as it was


@pytest.mark.parametrize("case", [*CASES, *GATED, *SOFTMAXES], ids=str)
def test_names_shapes_and_types(case):
    h = np.ones((5, 4), np.float32)
    program = program_of(alone(case.text), h)
    after = lowered(program, case.form)
    assert after.graph.outputs == ("y",)
    assert [v.name for v in program.model.graph.outputs] == ["y"], "the argument was changed"
    again = open_program(after.model, Call((), {"h": h}))[0]
    assert {name: again.shapes[name] for name in after.shapes} == after.shapes
    assert {name: again.dtypes[name] for name in after.dtypes} == after.dtypes
    pinned = [n.op for n in after.graph.nodes if n.op == f"onnx.{case.text.split()[0]}"]
    kept = ("elu", "selu", "softplus", "softmax", "log_softmax")
    assert len(pinned) == (1 if case.form in kept else 0)


@pytest.mark.parametrize("case", [*CASES, *GATED, *SOFTMAXES], ids=str)
def test_what_is_computed_in_float32_stays_there(case):
    program = replace(
        program_of(alone(case.text), np.ones((5, 4), np.float32)), float32=frozenset(["h", "y"])
    )
    graph = lowered(program, case.form).graph
    stored = [v.name for v in graph.values.values() if v.bounded and v.name != "bias"]
    assert not stored


def test_two_operators_that_read_the_same():
    proto = model("Gelu (h)")
    (matmul,) = (n for n in proto.graph.node if n.op_type == "MatMul")
    extra = [
        onnx.helper.make_node("Gelu", ["h"], ["g2"], approximate="tanh"),
        onnx.helper.make_node("Add", ["g", "g2"], ["sum"]),
    ]
    matmul.input[0] = "sum"
    nodes = [*proto.graph.node[:-1], *extra, matmul]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    report = halfsafe.fix(proto, draws(32, 4)).report
    assert report.safe and not report.islands and len(report.forms) == 2


def test_a_fixed_model_can_be_lowered_again():
    """The softmax is still there, under its name, and so are the names of its form."""
    program = program_of(alone("Softmax (h)"), GRID)
    once = lowered(program, "softmax")
    (node,) = (n for n in once.graph.nodes if n.op == "onnx.Softmax")
    twice = apply(once, [Lower(node.name, "softmax")])
    assert np.array_equal(run(twice, GRID), run(program, GRID))


class Net(nn.Module):
    """Three activations that overflow, each in a module of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.gelu, self.mish, self.hard = nn.GELU(), nn.Mish(), nn.Hardswish()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x):
        h = self.up(x)
        return self.down(self.gelu(h) + self.mish(h) + self.hard(h))


def test_the_report_still_names_the_modules(tmp_path):
    torch.manual_seed(0)
    net = Net().eval()
    with torch.no_grad():
        net.up.weight.mul_(1e6)
        net.down.weight.mul_(1e-6)
    path, feeds = tmp_path / "net.onnx", [s["x"] for s in draws(32, 4)]
    torch.onnx.export(
        net, (torch.from_numpy(feeds[0]),), path, dynamo=True, opset_version=20, verbose=False
    )
    report = halfsafe.fix(path, feeds).report
    assert report.safe and not report.islands, report.text()
    modules = {
        n.module
        for n in report.graph.nodes
        if n.op in ("onnx.Erf", "onnx.Softplus", "onnx.HardSigmoid")
    }
    assert modules == {"gelu", "mish", "hard"}
    assert all("test_onnx_lower.py" in node.line for node in report.graph.nodes)


# What is refused


def refusal(program: OnnxProgram, form: str) -> str:
    with pytest.raises(EditError) as error:
        lowered(program, form)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(program.graph.nodes[0].name)
    return str(error.value)


def test_every_form_that_is_proposed_for_onnx_exists():
    known = {case.form for case in (*CASES, *GATED, *SOFTMAXES)}
    assert {form for op, form in FORM_OF.items() if not op.startswith("aten.")} == known


def test_a_form_of_another_operator():
    assert "Gelu has no form 'silu'" in refusal(program_of(alone("Gelu (h)"), GRID), "silu")


def test_an_opset_without_the_operators_of_a_form():
    said = refusal(program_of(alone("Softmax (h)", opset=8), GRID), "softmax")
    assert re.search(r"of opset 8, .* need 9 or later: convert", said)


def test_an_operator_in_float64():
    text = re.sub("float", "double", onnx.printer.to_text(alone("Softmax (h)")))
    program = program_of(onnx.parser.parse_model(text), GRID.astype(np.float64))
    assert "is in float64" in refusal(program, "softmax")
