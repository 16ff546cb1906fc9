"""ONNX models: read, measured, rescaled, proved and written."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import nn

import halfsafe
from bench.architectures import ARCHITECTURES
from halfsafe import BadInput, FoldError
from halfsafe.edits import Replace
from halfsafe.frontends.onnx import runtime
from halfsafe.frontends.onnx.edit import apply
from halfsafe.frontends.onnx.feeds import feeds_of
from halfsafe.frontends.onnx.flatten import flatten
from halfsafe.frontends.onnx.half import to_float16 as convert
from halfsafe.frontends.onnx.program import open_program
from halfsafe.frontends.onnx.run import Evaluator, as_it_is
from halfsafe.graph import Use
from halfsafe.samples import Call


def text_model(body: str, header: str = "float[N, 4] x) => (float[N, M] y)") -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]> net ({header} {{{body}}}'
    )


GROWN = """
    weight = Constant <value = float[4, 3] {2e5, -1e5, 3e5, 1e5, 2e5, -3e5, 4e5, 1e5, 2e5, 1e5,
        -2e5, 1e5}> ()
    bias = Constant <value = float[3] {1e5, -2e5, 3e5}> ()
    back = Constant <value = float[3, 2] {1e-5, -2e-5, 3e-5, 1e-5, 2e-5, -1e-5}> ()
    h = Gemm (x, weight, bias)
    r = Relu (h)
    y = MatMul (r, back)
"""


def samples(n: int = 3, width: int = 4) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [{"x": random.standard_normal((5, width)).astype(np.float32)} for _ in range(n)]


def run(model, feeds: dict[str, np.ndarray], *, optimised: bool = False) -> list[np.ndarray]:
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    options = ort.SessionOptions()
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    ).run(None, feeds)


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    onnx.save(model, folder / "net.onnx")
    return folder / "net.onnx"


@pytest.fixture(params=["path", "ModelProto", "ir.Model"])
def given(request, tmp_path):
    proto = text_model(GROWN)
    forms = {"path": saved(proto, tmp_path), "ModelProto": proto, "ir.Model": ir.from_proto(proto)}
    return forms[request.param]


# The main job


def test_fixed_and_bit_equal_with_and_without_optimisations(given):
    fixed = halfsafe.fix(given, samples())
    assert fixed.report.safe, fixed.report.text()
    assert fixed.report.verification.before_nonfinite
    assert not fixed.report.insertions
    original = text_model(GROWN)
    for feeds in samples():
        for optimised in (False, True):
            found = run(fixed.model, feeds, optimised=optimised)
            assert np.array_equal(found[0], run(original, feeds, optimised=optimised)[0])


def test_the_form_is_that_of_the_argument(given):
    fixed = halfsafe.fix(given, samples())
    kind = onnx.ModelProto if isinstance(given, onnx.ModelProto) else ir.Model
    assert isinstance(fixed.model, kind)
    assert isinstance(fixed.half(), kind)


def test_the_argument_is_not_changed(tmp_path):
    path = saved(text_model(GROWN), tmp_path)
    before = path.read_bytes()
    halfsafe.fix(path, samples())
    assert path.read_bytes() == before
    model = ir.from_proto(text_model(GROWN))
    text = ir.to_proto(model).SerializeToString(deterministic=True)
    halfsafe.fix(model, samples())
    assert ir.to_proto(model).SerializeToString(deterministic=True) == text


def test_the_deployable_is_pure_float16(tmp_path):
    fixed = halfsafe.fix(text_model(GROWN), samples())
    fixed.save(tmp_path / "half.onnx")
    onnx.checker.check_model(tmp_path / "half.onnx", full_check=True)
    graph = onnx.load(tmp_path / "half.onnx").graph
    assert {t.data_type for t in graph.initializer} == {onnx.TensorProto.FLOAT16}
    casts = [n for n in graph.node if n.op_type == "Cast"]
    assert len(casts) == 2
    outputs = run(onnx.load(tmp_path / "half.onnx"), samples()[0])
    assert np.isfinite(outputs[0]).all()


GRID = """
    start = Constant <value = float {0.0}> ()
    step = Constant <value = float {1.0}> ()
    axis = Constant <value = int64 {1}> ()
    sizes = Shape (x)
    width = Gather (sizes, axis)
    limit = Cast <to = 1> (width)
    [columns] columns = Range (start, limit, step)
    grid = Add (x, columns)
    y = Relu (grid)
"""
"""The anchor grid of YOLO: whole numbers in floats, for which the standard has no FP16."""


def test_what_the_standard_has_in_float32_only_is_in_the_report(tmp_path):
    fixed = halfsafe.fix(text_model(GRID), samples())
    assert fixed.report.safe
    (note,) = (n for n in fixed.report.notes if "the standard has no FP16 there" in n)
    assert "1 Range, the first of them Range 'columns'; Casts between them and FP16: 1" in note
    fixed.save(tmp_path / "half.onnx")
    graph = onnx.load(tmp_path / "half.onnx").graph
    casts = [(node.input[0], node.output[0]) for node in graph.node if node.op_type == "Cast"]
    rim = [("x", "x_fp16"), ("y_fp16", "y")]
    assert sorted(casts) == [("columns", "columns_fp16"), ("width", "limit"), *rim]
    assert not halfsafe.fix(text_model(GROWN), samples()).report.notes


def test_the_rescaled_float32_model_is_written_too(tmp_path):
    fixed = halfsafe.fix(text_model(GROWN), samples())
    fixed.save(tmp_path / "full.onnx", dtype="float32")
    feeds = samples()[0]
    found = run(onnx.load(tmp_path / "full.onnx"), feeds)
    assert np.array_equal(found[0], run(text_model(GROWN), feeds)[0])


def test_inspect_names_the_node():
    report = halfsafe.inspect(text_model(GROWN), samples())
    faults = {(str(f.kind), f.op) for f in report.faults if f.op != "constant"}
    assert faults == {("overflow", "onnx.Gemm")}
    assert not report.unknown_ops


def test_verify_takes_files(tmp_path):
    path = saved(text_model(GROWN), tmp_path)
    fixed = halfsafe.fix(path, samples())
    fixed.save(tmp_path / "half.onnx")
    proof = halfsafe.verify(path, tmp_path / "half.onnx", samples())
    assert proof.safe
    assert halfsafe.verify(path, fixed.model, samples()).bit_equal


def test_a_file_has_ranges_and_exponents_where_viewers_show_them(tmp_path):
    fixed = halfsafe.fix(text_model(GROWN), samples())
    fixed.save(tmp_path / "half.onnx")
    (gemm,) = (n for n in onnx.load(tmp_path / "half.onnx").graph.node if n.op_type == "Gemm")
    found = {p.key: p.value for p in gemm.metadata_props}
    h = fixed.report.values["h"]
    assert found["halfsafe.exponent"] == str(h.exponent)
    assert float(found["halfsafe.amax"]) == pytest.approx(h.range.amax, rel=1e-3)


HIDDEN = """
    many = Constant <value_float = 3e4> ()
    few = Constant <value_float = 6.2e-5> ()
    h = Mul (x, many)
    r = Add (h, h)
    y = Mul (r, few)
"""


def test_a_broken_file_is_found_though_onnxruntime_hides_it():
    """Converted as it is; the CPU provider computes in FP32 between nodes, other devices do not."""
    model = ir.from_proto(text_model(HIDDEN))
    feeds = [{"x": 2 + np.abs(one["x"])} for one in samples()]
    proof = halfsafe.verify(model, convert(model), feeds)
    assert proof.after_nonfinite == sum(one["x"].size for one in feeds)
    assert not proof.own_nonfinite
    assert 0 < proof.own < 1e-2
    assert not proof.safe


def test_a_model_too_large_for_one_message(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "PROTOBUF_LIMIT", 16)
    fixed = halfsafe.fix(text_model(GROWN), samples())
    fixed.save(tmp_path / "big.onnx", dtype="float32")
    assert [p.name for p in tmp_path.iterdir()] == ["big.onnx"]  # all constants are small
    assert halfsafe.verify(text_model(GROWN), tmp_path / "big.onnx", samples()).bit_equal
    again = halfsafe.fix(tmp_path / "big.onnx", samples())
    assert again.report.safe


def test_names_that_are_not_text(tmp_path):
    data = text_model(GROWN).SerializeToString().replace(b"com.microsoft", b"com.micro\xffoft")
    (tmp_path / "net.onnx").write_bytes(data)
    with pytest.raises(BadInput, match=r"the file is damaged: the name b'com.micro\\xffoft'"):
        halfsafe.fix(tmp_path / "net.onnx", samples())


def test_constants_in_the_file_are_written_into_it(tmp_path):
    """Also over the file itself, of which nothing can be read any more then."""
    path = tmp_path / "net.onnx"
    onnx.save(text_model(GROWN), path)
    fixed = halfsafe.fix(path, samples())
    fixed.save(tmp_path / "other.onnx")
    fixed.save(path)
    assert path.read_bytes() == (tmp_path / "other.onnx").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.onnx", "other.onnx"]


def test_a_file_that_changes_while_it_is_read(tmp_path):
    path = tmp_path / "net.onnx"
    wide = onnx.helper.make_tensor("w", 1, [4, 2**17], np.ones(2**19, np.float32))
    model = text_model("y = MatMul (x, w)")
    model.graph.initializer.append(wide)
    onnx.save(model, path)
    fixed = halfsafe.fix(path, samples())
    wide.float_data[0] = 2.0
    del model.graph.initializer[:]
    model.graph.initializer.append(wide)
    onnx.save(model, path)
    with pytest.raises(BadInput, match="has changed since it was read"):
        fixed.save(tmp_path / "half.onnx")
    assert not (tmp_path / "half.onnx").exists()


def test_constants_beside_the_file_are_written_beside_it(tmp_path):
    model = ir.from_proto(text_model("y = MatMul (x, w)", "float[N, 64] x) => (float[N, 64] y)"))
    tensor = ir.tensor(np.eye(64, dtype=np.float32), name="w")
    weight = ir.Value(name="w", shape=tensor.shape, type=ir.TensorType(tensor.dtype))
    weight.const_value = tensor
    model.graph[0].replace_input_with(1, weight)
    model.graph.register_initializer(weight)
    ir.save(model, tmp_path / "net.onnx", external_data="net.onnx.data")
    fixed = halfsafe.fix(tmp_path / "net.onnx", samples(width=64))
    fixed.save(tmp_path / "half.onnx")
    assert (tmp_path / "half.onnx.data").stat().st_size >= 64 * 64 * 2
    session = ort.InferenceSession(tmp_path / "half.onnx", providers=["CPUExecutionProvider"])
    (feeds,) = samples(1, width=64)
    assert np.allclose(session.run(None, feeds)[0], feeds["x"], rtol=1e-3)
    before = (tmp_path / "net.onnx.data").read_bytes()
    with pytest.raises(BadInput, match=r"still reads its constants from 'net\.onnx\.data'"):
        fixed.save(tmp_path / "net.onnx")
    assert (tmp_path / "net.onnx.data").read_bytes() == before


@pytest.mark.parametrize("name", ["resnet", "vit", pytest.param("llama", marks=pytest.mark.slow)])
def test_an_exported_architecture_is_fixed_to_the_floor(name, tmp_path):
    model, inputs = ARCHITECTURES[name].build()
    path = tmp_path / f"{name}.onnx"
    torch.onnx.export(model, (), path, kwargs=inputs[0], dynamo=True, verbose=False)
    feeds = [{key: x.numpy() for key, x in one.items()} for one in inputs]
    fixed = halfsafe.fix(path, feeds)
    assert fixed.report.safe, fixed.report.text()
    assert fixed.report.verification.before_nonfinite
    assert fixed.report.verification.ratio < 1.2
    assert any(node.module.count(".") > 1 for node in fixed.report.graph.nodes)
    for optimised in (False, True):
        expected = run(onnx.load(path), feeds[-1], optimised=optimised)
        found = run(fixed.model, feeds[-1], optimised=optimised)
        assert all(map(np.array_equal, found, expected))


def test_an_island_at_the_output_ends_the_search_and_is_finite():
    model = text_model("big = Constant <value_float = 1e9> () h = Mul (x, big) y = Atan (h)")
    fixed = halfsafe.fix(model, {"x": np.arange(4, dtype=np.float32)[None]})
    assert fixed.report.islands
    assert fixed.report.safe, fixed.report.text()
    half = fixed.half()
    onnx.checker.check_model(half, full_check=True)
    assert "Identity" not in {node.op_type for node in half.graph.node}


def test_an_input_beyond_the_range_is_scaled_before_it_is_cast():
    model = text_model("small = Constant <value_float = 1e-6> () y = Mul (x, small)")
    feeds = [{"x": x["x"] * np.float32(1e6)} for x in samples()]
    fixed = halfsafe.fix(model, feeds)
    assert fixed.report.safe, fixed.report.text()
    (y,) = run(fixed.half(), feeds[0])
    assert np.allclose(y, feeds[0]["x"] * 1e-6, rtol=1e-2)
    ops = [node.op_type for node in fixed.half().graph.node]
    assert ops.index("Mul") < ops.index("Cast")


def test_an_output_of_zeros():
    model = text_model("big = Constant <value_float = 1e9> () h = Mul (x, big) y = Relu (h)")
    fixed = halfsafe.fix(model, {"x": -np.ones((1, 4), np.float32)})
    assert fixed.report.verification.bit_equal


def test_an_input_that_is_an_output_too_is_shown_as_it_came():
    model = text_model(
        "small = Constant <value_float = 1e-6> () y = Mul (x, small)",
        "float[N, 4] x) => (float[N, 4] y, float[N, 4] x)",
    )
    feeds = [{"x": x["x"] * np.float32(1e6)} for x in samples()]
    fixed = halfsafe.fix(model, feeds)
    assert fixed.report.verification.bit_equal
    assert np.array_equal(run(fixed.model, feeds[0])[1], feeds[0]["x"])


def test_one_number_can_be_replaced_differently_for_two_readers():
    body = "eps = Constant <value_float = 1e-12> () h = Add (x, eps) y = Add (h, eps)"
    program = open_program(ir.from_proto(text_model(body)), Call((), samples()[0]))[0]
    first, second = (Use(node.name, "other") for node in program.graph.nodes)
    edits = [Replace(first, 1e-12, 1e-5, ""), Replace(second, 1e-12, 1e-4, "")]
    graph = apply(program, edits).graph
    numbers = [graph.values[node.inputs["other"]].number for node in graph.nodes]
    assert numbers == [float(np.float32(1e-5)), float(np.float32(1e-4))]


def test_a_shape_that_depends_on_rounding():
    model = text_model(
        "i = NonZero (x) f = Cast <to = 1> (i) y = Mul (f, f)", "float[N, 4] x) => (float[A, B] y)"
    )
    x = np.array([[1.0, 1e-9, 2.0, 0.0]], np.float32)
    report = halfsafe.inspect(model, {"x": x})
    assert report.values["f"].comparison.half.nonfinite == 6


def test_a_misfit_sample_is_one_line_for_verify_too():
    model = text_model(GROWN)
    with pytest.raises(BadInput, match=r"does not fit|fails on sample"):
        halfsafe.verify(model, model, [samples()[0], {"x": np.zeros((1, 9), np.float32)}])


def test_a_scalar_input_keeps_its_shape():
    model = text_model("y = Relu (x)", "float x) => (float y)")
    (found,) = feeds_of(ir.from_proto(model), Call((np.float32(1),), {})).values()
    assert found.shape == ()


# Reading


def test_a_number_that_float16_would_lose_is_folded_like_any_constant():
    model = text_model("""
        tiny = Constant <value_float = 1e-9> ()
        huge = Constant <value_float = 1e9> ()
        h = Mul (x, tiny)
        y = Mul (h, huge)
    """)
    fixed = halfsafe.fix(model, samples())
    assert fixed.report.safe, fixed.report.text()
    assert not fixed.report.insertions


def test_an_epsilon_is_seen():
    model = text_model("""
        eps = Constant <value_float = 1e-12> ()
        zero = Constant <value_float = 0.0> ()
        size = ReduceL2 <keepdims = 1> (x)
        safe = Add (size, eps)
        y = Div (x, safe)
    """)
    report = halfsafe.inspect(model, [{"x": np.zeros((2, 4), np.float32)}])
    assert ("epsilon", "onnx.Add") in {(str(f.kind), f.op) for f in report.faults}


CHOICE = """
    zero = Constant <value_float = 0.0> ()
    total = ReduceSum <keepdims = 0> (x)
    positive = Greater (total, zero)
    y = If (positive) <
        then_branch = then () => (float[N, 4] t) { t = Mul (x, total) },
        else_branch = other () => (float[N, 4] e) { e = Neg (x) }
    >
"""


def test_a_subgraph_is_run_with_what_it_captures():
    model = text_model(CHOICE)
    report = halfsafe.inspect(model, samples())
    readers = [report.graph.by_name[use.node].op for use in report.graph.consumers["total"]]
    assert readers == ["onnx.Greater", "onnx.Mul"]
    fixed = halfsafe.fix(model, samples())
    for feeds in samples():
        assert np.array_equal(run(fixed.model, feeds)[0], run(model, feeds)[0])


def test_functions_are_inlined():
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 21, "own" : 1]>
        net (float[N, 4] x) => (float[N, 4] y) { y = own.twice (x) }
        <domain: "own", opset_import: ["" : 21]>
        twice (a) => (b) { b = Add (a, a) }
    """)
    report = halfsafe.inspect(model, samples())
    assert [node.op for node in report.graph.nodes] == ["onnx.Add"]


def test_nodes_one_by_one_give_what_the_whole_model_gives():
    model = ir.from_proto(text_model(GROWN))
    (feeds, *_) = samples()
    call = Call((), feeds)
    found = Evaluator(flatten(model)).run(call, as_it_is)
    assert np.array_equal(found[0][0], run(text_model(GROWN), feeds)[0])


def test_positional_samples_and_float64():
    model = ir.from_proto(text_model(GROWN))
    x = samples()[0]["x"]
    (found,) = feeds_of(model, Call((x.astype(np.float64),), {})).values()
    assert np.array_equal(found, x)
    assert open_program(model, Call((x,), {}))[0].shapes["h"] == (5, 3)


# Misuse


def complaint(*arguments, **options) -> str:
    with pytest.raises(BadInput) as error:
        halfsafe.fix(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_file_that_is_missing_or_truncated(tmp_path):
    assert "there is no file" in complaint(tmp_path / "none.onnx", samples())
    path = saved(text_model(GROWN), tmp_path)
    path.write_bytes(path.read_bytes()[:-40])
    assert "is not a valid ONNX model" in complaint(path, samples())
    path.write_bytes(b"")
    assert "is not a valid ONNX model" in complaint(path, samples())


def test_a_model_that_is_inconsistent():
    model = text_model(GROWN)
    model.graph.node[-1].input[0] = "nowhere"
    assert "not valid ONNX" in complaint(model, samples())


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "missing.bin"])
def test_external_data_outside_the_folder_of_the_model(tmp_path, location):
    model = text_model("y = MatMul (x, w)")
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[4, 3], data_location=1)
    tensor.external_data.add(key="location", value=location)
    model.graph.initializer.append(tensor)
    (tmp_path / "inner").mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(48))
    (tmp_path / "inner" / "net.onnx").write_bytes(model.SerializeToString())
    assert "is not a valid ONNX model" in complaint(tmp_path / "inner" / "net.onnx", samples())


def test_nodes_in_a_circle():
    model = text_model(GROWN)
    first, second = model.graph.node[3], model.graph.node[4]
    first.input[0], second.input[0] = second.output[0], first.output[0]
    assert "cycle" in complaint(model, samples())


def test_weights_that_are_nan():
    body = "w = Constant <value = float[4] {1.0, 2.0, 3.0, 4.0}> () y = Mul (x, w)"
    model = flatten(ir.from_proto(text_model(body)))
    bad = np.array([1, np.nan, 3, np.inf], np.float32)
    model.graph.initializers["w"].const_value = ir.tensor(bad, name="w")
    assert "'w' holds 2 NaN or inf" in complaint(model, samples())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"z": np.zeros((1, 4), np.float32)}, "has ['z'], the model takes ['x']"),
        ({"x": np.zeros((1, 4), np.int64)}, "input 'x' is int64, the model takes float32"),
        ({"x": np.full((1, 4), np.nan, np.float32)}, "holds 4 NaN or inf"),
        ({"x": np.zeros((1, 9), np.float32)}, "fails on sample 0"),
    ],
)
def test_samples_that_do_not_fit(given, said):
    assert said in complaint(text_model(GROWN), given)


@pytest.mark.parametrize("opset", [18, 20])
def test_what_the_checker_refuses_and_onnxruntime_takes(opset):
    """GroupNormalization is deprecated before opset 21, and onnx does not infer its type."""
    body = """
        scale = Constant <value = float[2] {1e3, 2e5}> ()
        bias = Constant <value = float[2] {0, 1}> ()
        g = GroupNormalization <num_groups = 2> (x, scale, bias)
        small = Constant <value_float = 1e-5> ()
        y = Mul (g, small)
    """
    model = text_model(body, "float[1, 4, 3] x) => (float[1, 4, 3] y)")
    model.opset_import[0].version = opset
    model.graph.output[0].type.tensor_type.ClearField("shape")
    feeds = {"x": np.random.default_rng(0).normal(size=(1, 4, 3)).astype(np.float32)}
    fixed = halfsafe.fix(model, feeds)
    assert np.array_equal(run(fixed.model, feeds)[0], run(model, feeds)[0])
    assert np.isfinite(run(fixed.half(), feeds)[0]).all()


@pytest.mark.parametrize("change", ["cut off", "removed"])
@pytest.mark.parametrize("as_path", [True, False])
def test_external_data_that_is_not_all_there(tmp_path, change, as_path):
    model = flatten(ir.from_proto(text_model(GROWN)))
    path = tmp_path / "net.onnx"
    ir.save(model, path, external_data="net.data", size_threshold_bytes=0)
    held, given = tmp_path / "net.data", path if as_path else ir.load(path)
    if change == "removed":
        held.unlink()
    else:
        held.write_bytes(held.read_bytes()[:9])
    said = complaint(given, samples())
    assert "net.data' has 9 bytes, and '" in said if change == "cut off" else "net.data" in said


def test_a_model_in_float16_is_refused():
    model = text_model("y = Relu (x)", "float16[N, 4] x) => (float16[N, 4] y)")
    feeds = {"x": np.zeros((1, 4), np.float16)}
    assert "already float16" in complaint(model, feeds)


def test_what_an_onnx_model_does_not_have(tmp_path):
    fixed = halfsafe.fix(text_model(GROWN), samples())
    with pytest.raises(FoldError, match="no state_dict"):
        fixed.state_dict()
    with pytest.raises(BadInput, match=r"suffix \.onnx"):
        fixed.save(tmp_path / "x.pt2")
    assert not list(tmp_path.iterdir())


def test_a_module_and_a_file_are_fixed_alike(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    with torch.no_grad():
        net[0].weight.mul_(1e6)
        net[2].weight.mul_(1e-6)
    path = tmp_path / "net.onnx"
    x = torch.from_numpy(samples()[0]["x"])
    torch.onnx.export(net, (x,), path, dynamo=True, verbose=False)
    feeds = [s["x"] for s in samples()]
    from_file = halfsafe.fix(path, feeds).report
    from_module = halfsafe.fix(net, [torch.from_numpy(f) for f in feeds]).report
    kinds = [[str(f.kind) for f in report.faults] for report in (from_file, from_module)]
    assert kinds[0] == kinds[1]
    assert from_file.safe == from_module.safe
