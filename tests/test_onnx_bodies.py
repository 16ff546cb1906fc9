"""If, Loop and Scan: their bodies are run, tied to what is around them, and rescaled with it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest

import halfsafe
from bench.onnx_nodes import random_plan
from halfsafe.edits import Edit, Island
from halfsafe.engines import engine_of
from halfsafe.frontends.onnx.parts import parts
from halfsafe.frontends.onnx.source import OnnxSource
from halfsafe.rewrite import rewrite
from halfsafe.samples import Call
from halfsafe.windows import Limits
from tests.test_frontend_onnx import run, text_model

Feeds = Mapping[str, np.ndarray]

BRANCHES = """
    one = Constant <value_float = 1.0> ()
    sum = ReduceSum <keepdims = 0> (x)
    positive = Greater (sum, one)
    c = Constant <value = float[4] {1e5, -2e5, 3e5, 1e5}> ()
    big = Mul (x, c)
    y = If (positive) <
        then_branch = taken () => (float[N, 4] h) { h = Relu (big) },
        else_branch = other () => (float[N, 4] h) { d = Constant <value_float = 7.0> ()
            g = Mul (big, d) h = Neg (g) }
    >
    small = Constant <value_float = 1e-5> ()
    z = Mul (y, small)
"""

GIVEN = """
    one = Constant <value_float = 1.0> ()
    sum = ReduceSum <keepdims = 0> (x)
    positive = Greater (sum, one)
    y = If (positive) <
        then_branch = taken () => (float[4] h) {
            h = Constant <value = float[4] {1e5, 2e5, 3e5, 1}> () },
        else_branch = other () => (float[4] h) {
            h = Constant <value = float[4] {1e5, 1e5, 1e5, 9}> () }
    >
    small = Constant <value_float = 1e-5> ()
    z = Mul (y, small)
"""

LOOP = """
    trips = Constant <value_int = 3> ()
    yes = Constant <value = bool {1}> ()
    weight = Constant <value = float[4, 4] {9, -8, 7, 6, 5, 9, -8, 7, 6, 5, 9, 8, -7, 6, 5, 9}> ()
    bias = Constant <value = float[4] {1e3, -1e2, 1e3, 1e2}> ()
    start = Relu (x)
    last, each = Loop (trips, yes, start) <
        body = step (int64 i, bool go, float[N, 4] state)
            => (bool again, float[N, 4] next, float[N, 4] seen) {
            again = Identity (go)
            grown = MatMul (state, weight)
            shifted = Add (grown, bias)
            next = Relu (shifted)
            seen = Neg (next)
        }
    >
    small = Constant <value_float = 1e-4> ()
    z = Mul (last, small)
    tiny = Mul (each, small)
"""

SCAN = """
    zero = Constant <value = float[4] {0, 0, 0, 0}> ()
    c = Constant <value = float[4] {1e5, -2e5, 3e5, 1e5}> ()
    big = Mul (x, c)
    total, parts = Scan <num_scan_inputs = 2, scan_input_directions = [0, 1],
        scan_output_axes = [1], scan_output_directions = [1],
        body = step (float[4] before, float[4] row, float[4] back)
            => (float[4] after, float[4] out) {
            both = Add (row, back)
            after = Add (before, both)
            out = Max (after, row)
        }> (zero, big, big)
    small = Constant <value_float = 1e-6> ()
    z = Mul (total, small)
    tiny = Mul (parts, small)
"""

NESTED = """
    trips = Constant <value_int = 4> ()
    start = Relu (x)
    c = Constant <value = float[4] {1e5, -2e5, 3e5, 1e5}> ()
    last = Loop (trips, , start) <
        body = step (int64 i, bool go, float[N, 4] state) => (bool again, float[N, 4] next) {
            again = Identity (go)
            odd = Constant <value_int = 1> ()
            is = Equal (i, odd)
            next = If (is) <
                then_branch = grow () => (float[N, 4] h) { h = Mul (state, c) },
                else_branch = keep () => (float[N, 4] h) { h = Abs (state) }
            >
        }
    >
    small = Constant <value_float = 1e-4> ()
    z = Mul (last, small)
"""

ONE = "float[N, 4] x) => (float[N, M] z)"
TWO = "float[N, 4] x) => (float[N, M] z, float[A, B, C] tiny)"
MODELS = {
    "branches": text_model(BRANCHES, ONE),
    "given": text_model(GIVEN, "float[N, 4] x) => (float[M] z)"),
    "loop": text_model(LOOP, TWO),
    "scan": text_model(SCAN, "float[N, 4] x) => (float[M] z, float[A, B] tiny)"),
    "nested": text_model(NESTED, ONE),
}


def samples(shift: float = 1.0) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [{"x": (random.standard_normal((3, 4)) + shift).astype(np.float32)} for _ in range(3)]


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> onnx.ModelProto:
    return MODELS[request.param]


@pytest.mark.parametrize("shift", [1.0, -1.0])
def test_bodies_run_node_by_node_as_in_one_session(model: onnx.ModelProto, shift: float):
    feeds = samples(shift)[0]
    source = OnnxSource.open(model, Call((), feeds))
    found = source.program.evaluate(Call((), feeds), lambda _, lanes: lanes)
    for (lane,), expected in zip(found, run(model, feeds), strict=True):
        assert np.array_equal(lane, expected)


def test_random_exponents_in_bodies_are_exact(model: onnx.ModelProto):
    feeds = samples()[0]
    source = OnnxSource.open(model, Call((), feeds))
    ranges = source.measure([Call((), feeds)], lambda _: None) | source.constants()
    inside = [
        v
        for p in parts(source.program.model.graph)
        if p.node.graph.name != "net"
        for v in p.outputs
    ]
    moved = 0
    for seed in range(8):
        plan = random_plan(source.graph, seed)
        moved += any(plan.exponents.get(value.name) for value in inside)
        edited = source.apply(rewrite(source.graph, plan, ranges, Limits())).program
        for shift in (1.0, -1.0):  # takes the other branch, which the ranges do not know
            for other in samples(shift):
                assert all(map(np.array_equal, edited.run(Call((), other)), run(model, other)))
    assert moved


def test_what_overflows_in_a_body_is_rescaled_with_what_is_around_it(model: onnx.ModelProto):
    fixed = halfsafe.fix(model, samples())
    proof = fixed.report.verification
    assert proof.before_nonfinite
    assert proof.bit_equal
    assert proof.safe, fixed.report.text()
    assert proof.ratio < 1.2
    assert fixed.report.islands == ()
    half = fixed.half()
    onnx.checker.check_model(half, full_check=True)
    held = samples()[-1]
    for found, expected in zip(run(half, held), run(model, held), strict=True):
        assert np.allclose(found, expected, rtol=2e-2, atol=1e-2 * np.abs(expected).max())
    for other in samples(-1.0):
        assert all(map(np.array_equal, run(fixed.model, other), run(model, other)))


def test_a_loop_that_never_runs_gives_empty_stacks():
    model = text_model(LOOP.replace("value_int = 3", "value_int = 0"), TWO)
    feeds = samples()[0]
    source = OnnxSource.open(model, Call((), feeds))
    (last,), (each,) = source.program.evaluate(Call((), feeds), lambda _, lanes: lanes)
    assert np.array_equal(last, run(model, feeds)[0])
    assert each.shape[0] == 0


def test_a_branch_that_no_sample_takes_is_noted():
    report = halfsafe.inspect(MODELS["branches"], samples())
    (note,) = report.notes
    assert note.startswith("2 values, the first of them node_6_1 (onnx.Mul)")
    assert halfsafe.inspect(MODELS["branches"], [*samples(), *samples(-1.0)]).notes == ()


def test_faults_in_a_body_are_named():
    report = halfsafe.inspect(MODELS["loop"], samples())
    (fault, *_) = report.faults
    assert (fault.kind, fault.op) == ("overflow", "onnx.MatMul")


def test_a_body_without_types_is_pinned_and_run_whole():
    own = "product = MatMul (state, weight) grown = com.microsoft.QuickGelu (product)"
    model = text_model(LOOP.replace("grown = MatMul (state, weight)", own), TWO)
    report = halfsafe.fix(model, samples()).report
    assert report.verification.bit_equal
    loop = next(node for node in report.graph.nodes if node.op == "onnx.Loop")
    assert "captured.0" in loop.inputs
    assert report.notes[0].startswith("1 operators with bodies of unknown types are pinned, Loop")
    assert not any(node.op.endswith("QuickGelu") for node in report.graph.nodes)
    assert {report.values[name].exponent for name in loop.outputs} == {0}


def test_an_island_around_a_loop_reads_and_gives_float32():
    model = text_model(LOOP.replace("{1e3, -1e2, 1e3, 1e2}", "{1, 2, 3, 4}"), TWO)
    feeds = {"x": samples()[0]["x"] * np.float32(1e-2)}
    source = OnnxSource.open(model, Call((), feeds))
    (loop,) = (node for node in source.graph.nodes if node.op == "onnx.Loop")
    edits: list[Edit] = [Island((loop.name,), "test")]
    edited = source.apply(edits)
    assert {"state", "last", "each"} <= set(edited.program.float32)
    assert all(map(np.array_equal, edited.program.run(Call((), feeds)), run(model, feeds)))
    for half, expected in zip(
        engine_of("onnxruntime").build(edited).run(Call((), feeds)), run(model, feeds), strict=True
    ):
        assert np.allclose(half, expected, rtol=1e-2, atol=1e-3)


SHOWN_TWICE = """
    zero = Constant <value_float = 0.0> ()
    sum = ReduceSum <keepdims = 0> (x)
    positive = Greater (sum, zero)
    z, again = If (positive) <
        then_branch = taken () => (float[N, 4] h, float[N, 4] hn) {
            r = Relu (x) h = Identity (r) hn = Identity (r) },
        else_branch = other () => (float[N, 4] g, float[N, 4] gn) {
            g = Abs (x) gn = Identity (g) }
    >
"""

NESTED_TWICE = """
    zero = Constant <value_float = 0.0> ()
    sum = ReduceSum <keepdims = 0> (x)
    positive = Greater (sum, zero)
    z, again = If (positive) <
        then_branch = taken () => (float[N, 4] h, float[N, 4] i) {
            h = Relu (x)
            i = If (positive) <
                then_branch = same () => (float[N, 4] s) { s = Identity (h) },
                else_branch = outer () => (float[N, 4] o) { o = Identity (x) }
            > },
        else_branch = other () => (float[N, 4] g, float[N, 4] gn) {
            g = Identity (x) gn = Identity (x) }
    >
"""


@pytest.mark.parametrize("body", [SHOWN_TWICE, NESTED_TWICE], ids=["twice", "nested"])
def test_a_value_leaves_a_body_more_than_once(body: str):
    model = text_model(body, "float[N, 4] x) => (float[N, 4] z, float[N, 4] again)")
    for sign in (1, -1):
        x = sign * np.ones((2, 4), np.float32)
        fixed = halfsafe.fix(model, {"x": x})
        half = fixed.half()
        onnx.checker.check_model(half, full_check=True)
        known = run(model, {"x": x})
        assert all(map(np.array_equal, run(half, {"x": x}), known))
        assert all(map(np.array_equal, run(fixed.model, {"x": x}), known))


def test_initialisers_of_bodies_have_names_of_their_own():
    model = text_model(BRANCHES, ONE)
    node = next(node for node in model.graph.node if node.op_type == "If")
    for attribute in node.attribute:
        body = attribute.g
        added = onnx.helper.make_node("Mul", [body.node[-1].output[0], "own"], ["scaled"])
        body.node.append(added)
        held = [np.full(4, 2, np.float32), np.full(4, 3, np.float32)]
        names = ["own", "spare"]
        body.initializer.extend(map(onnx.numpy_helper.from_array, held, names))
        body.output[0].name = "scaled"
    x, before = samples()[0], model.SerializeToString(deterministic=True)
    fixed = halfsafe.fix(model, samples())
    assert model.SerializeToString(deterministic=True) == before
    assert all(map(np.array_equal, run(fixed.model, x), run(model, x)))


@pytest.mark.parametrize("place", ["a node", "an initialiser", "a function"])
@pytest.mark.parametrize("beside", [False, True])
def test_large_constants_of_bodies_are_read_from_a_file(place: str, beside: bool, tmp_path: Path):
    """Of a kilobyte and more: these stay in the file."""
    wide = np.full((4, 300), 1e3, np.float32)
    held = onnx.numpy_helper.from_array(wide, "wide")
    model = text_model("z = Identity (x)", "float[N, 4] x) => (float[1, 1] z)")
    matmul = onnx.helper.make_node("MatMul", ["x", "wide"], ["h"])
    constant = onnx.helper.make_node("Constant", [], ["wide"], value=held)
    total = onnx.helper.make_node("ReduceSum", ["h"], ["out"], keepdims=1)
    if place == "a function":
        imports = [*model.opset_import]
        made = onnx.helper.make_function(
            "own", "Sum", ["x"], ["out"], [constant, matmul, total], imports
        )
        model.functions.append(made)
        model.opset_import.append(onnx.helper.make_opsetid("own", 1))
        nodes = [onnx.helper.make_node("Sum", ["x"], ["z"], domain="own")]
    else:
        inner, within = ([constant], []) if place == "a node" else ([], [held])
        out = onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, None)
        branch = onnx.helper.make_graph([*inner, matmul, total], "branch", [], [out], within)
        yes = onnx.numpy_helper.from_array(np.array(True), "yes")
        model.graph.initializer.append(yes)
        taken = {"then_branch": branch, "else_branch": branch}
        nodes = [onnx.helper.make_node("If", ["yes"], ["z"], **taken)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    path, made = tmp_path / "given.onnx", tmp_path / "made.onnx"
    onnx.save(model, path, save_as_external_data=beside, convert_attribute=True, size_threshold=0)
    sample = {"x": np.ones((2, 4), np.float32)}
    fixed = halfsafe.fix(path, [sample])
    assert fixed.report.safe
    fixed.save(made)
    np.testing.assert_allclose(run(onnx.load(made), sample)[0], 2400e3, rtol=1e-3)


def test_what_needs_more_bits_within_a_body_is_computed_in_float32():
    """A series at a level of 1e4 less its mean, in a branch."""
    body = """
        one = Constant <value_float = 1.0> ()
        sum = ReduceSum <keepdims = 0> (x)
        positive = Greater (sum, one)
        z = If (positive) <
            then_branch = taken () => (float[N, 4] h) {
                level = ReduceMean <axes = [1]> (x) d = Sub (x, level) h = Relu (d) },
            else_branch = other () => (float[N, 4] h) { h = Relu (x) }
        >
    """
    model = text_model(body.replace("<axes = [1]> (x)", "(x, rim)"), ONE)
    rim = onnx.numpy_helper.from_array(np.array([1], np.int64), "rim")
    model.graph.initializer.append(rim)
    random = np.random.default_rng(0)
    series = [{"x": (1e4 + random.standard_normal((8, 4))).astype(np.float32)} for _ in range(3)]
    fixed = halfsafe.fix(model, series)
    assert fixed.report.safe
    (found,), (known,) = (run(m, series[0]) for m in (fixed.half(), model))
    assert np.linalg.norm(found - known) < 1e-3 * np.linalg.norm(known)
