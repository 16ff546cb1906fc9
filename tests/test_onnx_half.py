"""Conversion of ONNX models to FP16: where Casts stand, and that every operator survives it."""

import re
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx.backend.test.loader
import onnx.defs
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import nn

from halfsafe.errors import BadInput
from halfsafe.frontends.onnx.half import to_float16
from halfsafe.frontends.onnx.half_groups import KEPT, NEWEST_OPSET, schema_of
from halfsafe.frontends.onnx.kept import kept, kept_words

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


def read(text, opset=18):
    return ir.from_proto(
        onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> {text}')
    )


def session(proto):
    """Without layout optimisations: onnxruntime 1.31 crashes in them on FP16 transformers."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def convert(model, **options):
    """The converted model, after what every conversion must hold."""
    before = ir.to_proto(model).SerializeToString()
    half = to_float16(model, **options)
    assert ir.to_proto(model).SerializeToString() == before, "the argument was changed"
    proto = ir.to_proto(half)
    onnx.checker.check_model(proto, full_check=True)
    session(proto)
    return half


def values(model):
    return {
        value.name: value
        for graph in model.graphs()
        for value in (
            *graph.inputs,
            *graph.initializers.values(),
            *(output for node in graph for output in node.outputs),
        )
    }


def types(model):
    return {name: value.dtype for name, value in values(model).items()}


def casts(model):
    """Each Cast as 'source -> target'."""
    return sorted(
        f"{node.inputs[0].name} -> {node.outputs[0].name}"
        for node in model.graph.all_nodes()
        if node.op_type == "Cast"
    )


def assert_casts(model, *expected):
    assert casts(model) == sorted(expected)


def run(model, **feed):
    return session(ir.to_proto(model)).run(None, feed)


def node(model, op):
    (found,) = (n for n in model.graph.all_nodes() if n.op_type == op)
    return found


# Initialisers, attributes, dtypes


def test_initialisers_round_to_nearest_even():
    weights = "<float[5] w = {2049, 2051, 1e5, 1e-9, -0.1}>"
    half = convert(read(f"g (float[5] x) => (float[5] y) {weights} {{y = Add(x, w)}}"))
    w = values(half)["w"].const_value.numpy()
    assert w.dtype == np.float16
    assert w.tolist() == [2048, 2052, np.inf, 0, float(np.float16(-0.1))]
    assert_casts(half, "x -> x_fp16", "y_fp16 -> y")


def test_external_data_is_read_and_the_file_stays(tmp_path):
    weight = np.linspace(-3, 3, 4096, dtype=np.float32)
    model = read("g (float[4096] x) => (float[4096] y) <float[4096] w> {y = Mul(x, w)}")
    model.graph.inputs[:] = model.graph.inputs[:1]
    w = model.graph[0].inputs[1]
    w.const_value = ir.tensor(weight, name="w")
    model.graph.register_initializer(w)
    ir.save(model, tmp_path / "m.onnx", external_data="m.data")
    half = convert(ir.load(tmp_path / "m.onnx"))
    assert np.array_equal(values(half)["w"].const_value.numpy(), weight.astype(np.float16))
    assert (tmp_path / "m.data").stat().st_size == 4 * 4096


@pytest.mark.parametrize("literal", ["value = float {2.5}", "value_float = 2.5"])
def test_constant_nodes(literal):
    half = convert(
        read(f"g (float[3] x) => (float[3] y) {{c = Constant<{literal}>() y = Mul(x, c)}}")
    )
    assert types(half)["c"] is HALF
    assert node(half, "Constant").attributes["value"].as_tensor().numpy() == np.float16(2.5)
    assert_casts(half, "x -> x_fp16", "y_fp16 -> y")


def test_constant_list():
    half = convert(
        read(
            "g (float[2] x) => (float[2] y) "
            "{c = Constant<value_floats = [1.0, 2.0]>() y = Mul(x, c)}"
        )
    )
    assert np.array_equal(run(half, x=np.float32([3, 4]))[0], [3, 8])


@pytest.mark.parametrize("attribute", ["", "<value = float[1] {3.0}>"])
def test_constant_of_shape(attribute):
    half = convert(
        read(
            "g (float[2] x, int64[1] n) => (float[2] y) "
            f"{{c = ConstantOfShape{attribute}(n) y = Add(x, c)}}"
        )
    )
    assert node(half, "ConstantOfShape").attributes["value"].as_tensor().dtype is HALF
    assert_casts(half, "x -> x_fp16", "y_fp16 -> y")


@pytest.mark.parametrize(
    "call",
    [
        "Bernoulli(x)",
        "CastLike(i, x)",
        "HannWindow(two)",
        "BlackmanWindow<output_datatype = 1>(two)",
    ],
)
def test_operators_that_state_a_type(call):
    half = convert(
        read(
            "g (float[2] x, int64[2] i) => (float[2] y) <int64 two = {2}> "
            f"{{r = {call} s = Add(x, r) y = Mul(s, r)}}"
        )
    )
    assert types(half)["r"] is HALF
    assert_casts(half, "x -> x_fp16", "y_fp16 -> y")


@pytest.mark.parametrize(
    "call",
    [
        "RandomNormal<shape = [2]>()",
        "RandomUniform<shape = [2], dtype = 1>()",
        "RandomNormalLike<dtype = 1>(i)",
        "RandomUniformLike(x)",
    ],
)
def test_generators_stay_in_fp32(call):
    half = convert(
        read(
            "g (float[2] x, int64[2] i) => (float[2] y) "
            f"{{r = {call} a = Relu(x) s = Add(a, r) y = Mul(s, r)}}"
        )
    )
    assert_casts(half, "r -> r_fp16", "x -> x_fp16", "y_fp16 -> y")


def test_casts_of_integers():
    text = "g (int64[2] i) => (float[2] y, float[2] z) "
    text += "{y = Cast<to = 1>(i) f = Cast<to = 1>(i) z = Exp(f)}"
    half = convert(read(text))
    assert_casts(half, "i -> y", "i -> f", "z_fp16 -> z")
    assert types(half)["f"] is HALF


def test_types_shapes_and_metadata_stay():
    model = read(
        "g (float[N, C] x) => (float[N, C] y) <float[N, C] h> "
        "{[first] h = Relu(x) [second] y = Exp(h)}"
    )
    model.graph[0].metadata_props["pkg.torch.onnx.stack_trace"] = "line 3"
    half = convert(model)
    assert node(half, "Relu").metadata_props["pkg.torch.onnx.stack_trace"] == "line 3"
    assert [n.name for n in half.graph if n.op_type != "Cast"] == ["first", "second"]
    assert str(values(half)["h"].shape) == "[N,C]"
    assert {v.name: str(v.shape) for v in half.graph.inputs} == {"x": "[N,C]"}
    assert types(half) == {"x": FLOAT, "x_fp16": HALF, "h": HALF, "y_fp16": HALF, "y": FLOAT}


def test_new_names_are_unique():
    half = convert(
        read("g (float[2] x) => (float[2] y) {x_fp16 = Relu(x) z = Abs(x_fp16) y = Add(z, x)}")
    )
    assert_casts(half, "x -> x_fp16_1", "y_fp16 -> y")


# What the standard allows in FP32 only


RESIZE = (
    "g (float[1, 1, 2, 2] x) => (float[1, 1, A, B] y) <float[4] s = {1, 1, 2, 2}> "
    '{r = Resize<mode = "nearest">(x, , s) y = Relu(r)}'
)


def test_resize_scales_stay():
    half = convert(read(RESIZE))
    assert types(half)["s"] is FLOAT
    assert_casts(half, "x -> x_fp16", "y_fp16 -> y")


def test_a_constant_with_both_kinds_of_readers_is_cloned():
    text = RESIZE.replace("y = Relu(r)", "t = Slice(s, one, two) y = Mul(r, t)").replace(
        "> {", ", int64[1] one = {2}, int64[1] two = {3}> {"
    )
    half = convert(read(text))
    assert (types(half)["s"], types(half)["s_fp32"]) == (HALF, FLOAT)
    assert_casts(half, "x -> x_fp16", "y_fp16 -> y")


def test_a_constant_node_with_both_kinds_of_readers_is_cloned():
    text = "g (float[1,1,2,2] x) => (float[A,B,C,D] y) {"
    text += (
        "s = Constant<value_floats = [1.0, 1.0, 2.0, 2.0]>() one = Constant<value_floats = [0.5]>()"
    )
    text += 'r = Resize<mode = "nearest">(x, , s) t = ReduceSum(s) y = Mul(r, t)}'
    assert Counter(types(convert(read(text))).values())[FLOAT] == 3


def test_sizes_on_their_way_to_resize_stay_in_fp32():
    half = convert(
        read(
            "g (float[1, 1, H, W] x, float[K, L] t) => (float[1, 1, A, B] y) "
            "<float[2] one = {1, 1}, float[2] by = {3, 3}> "
            "{n = Shape(t) f = Cast<to = 1>(n) q = Div(f, by) "
            's = Concat<axis = 0>(one, q) r = Resize<mode = "nearest">(x, , s) y = Relu(r)}'
        )
    )
    assert {types(half)[name] for name in ("f", "q", "s", "one", "by")} == {FLOAT}
    assert_casts(half, "n -> f", "x -> x_fp16", "y_fp16 -> y")


def test_a_computed_scale_is_cast():
    half = convert(
        read(
            "g (float[1, 1, H, W] x, float[4] z) => (float[1, 1, A, B] y) "
            '{s = Exp(z) r = Resize<mode = "nearest">(x, , s) y = Relu(r)}'
        )
    )
    assert_casts(half, "x -> x_fp16", "z -> z_fp16", "s -> s_fp32", "y_fp16 -> y")


def test_an_operator_without_fp16_is_computed_in_fp32():
    half = convert(
        read("g (float[2] x) => (float[2] y) {a = Relu(x) b = Celu(a) c = Celu(b) y = Abs(c)}")
    )
    assert_casts(half, "x -> x_fp16", "a -> a_fp32", "c -> c_fp16", "y_fp16 -> y")


def test_quantised_operators_stay_in_fp32():
    half = convert(
        read(
            "g (float[2] x) => (float[2] y) <float s = {0.1}, uint8 z = {128}> {a = Relu(x) "
            "q = QuantizeLinear(a, s, z) d = DequantizeLinear(q, s, z) y = Abs(d)}",
            opset=21,
        )
    )
    assert types(half)["s"] is FLOAT
    assert_casts(half, "x -> x_fp16", "a -> a_fp32", "d -> d_fp16", "y_fp16 -> y")


def test_other_domains_stay_in_fp32():
    text = (
        '<ir_version: 8, opset_import: ["": 18, "ai.onnx.ml": 3]> g (float[2] x) => (float[2] y) '
    )
    text += "<float[2] b> {a = Relu(x) "
    text += "b = ai.onnx.ml.Scaler<offset = [0.5], scale = [2.0]>(a) y = Abs(b)}"
    half = convert(ir.from_proto(onnx.parser.parse_model(text)))
    assert_casts(half, "x -> x_fp16", "a -> a_fp32", "b -> b_fp16", "y_fp16 -> y")


# What is told of that

STANDARD = "FP32, since the standard has no FP16 there up to opset 23"


def assert_told(model, *expected):
    """Each note holds the text, and there are no others."""
    notes = kept_words(model)
    told = len(notes) == len(expected) and all(
        text in note for text, note in zip(expected, notes, strict=True)
    )
    assert told, notes


def test_operators_that_the_standard_has_in_fp32_only_are_told():
    text = "g (float[2] x, int64 n) => (float[2] y, float[N] z) <float o = {0}, float i = {1}> {"
    text += "a = Relu(x) [first] b = Celu(a) c = Celu(b) y = Abs(c) "
    text += "f = Cast<to = 1>(n) r = Range(o, f, i) z = Neg(r)}"
    half = convert(read(text))
    assert_casts(
        half, "x -> x_fp16", "a -> a_fp32", "c -> c_fp16", "n -> f", "r -> r_fp16", "y_fp16 -> y",
        "z_fp16 -> z",
    )  # fmt: skip
    found = "2 Celu, 1 Range, the first of them Celu 'first'; Casts between them and FP16: 3"
    assert_told(half, f"{STANDARD}: {found}")


def test_an_operator_of_fp32_at_the_rim_costs_no_cast():
    half = convert(read("g (float[2] x) => (float[2] y) {y = Celu(x)}"))
    assert_told(half, f"{STANDARD}: 1 Celu, the first of them Celu 'y'; Casts between them and")
    assert not casts(half)


def test_computed_scales_are_told_and_constant_ones_are_not():
    assert_told(convert(read(RESIZE)))
    text = "g (float[1, 1, H, W] x, float[4] z) => (float[1, 1, A, B] y) "
    text += '{s = Exp(z) [up] r = Resize<mode = "nearest">(x, , s) y = Relu(r)}'
    assert_told(convert(read(text)), "1 Resize, the first of them Resize 'up'; Casts between them")


def test_other_reasons_for_fp32_are_told_one_by_one():
    text = '<ir_version: 8, opset_import: ["": 21, "ai.onnx.ml": 3]> g (float[2] x) => (float[2] y)'
    text += "<float s = {0.1}, uint8 z = {128}, float[2] b> {q = QuantizeLinear(x, s, z) "
    text += "d = DequantizeLinear(q, s, z) r = RandomUniformLike(d) "
    text += "b = ai.onnx.ml.Scaler<offset = [0.5], scale = [2.0]>(r) y = Abs(b)}"
    assert_told(
        convert(ir.from_proto(onnx.parser.parse_model(text))),
        "or are defined with FP32: 1 DequantizeLinear, 1 QuantizeLinear, the first of them Quant",
        "ONNX Runtime has no FP16 form of them on a CPU: 1 RandomUniformLike",
        "onnx does not know their domain: 1 Scaler, the first of them Scaler 'b'; Casts between "
        "them and FP16: 1",
    )


def test_what_the_model_itself_computes_in_fp64_is_told():
    text = "g (float[2] x) => (double[2] y, float[2] z) <double w = {2}> {"
    text += "a = Relu(x) b = Cast<to = 11>(a) [wide] c = Mul(b, w) y = Exp(c) d = Cast<to = 1>(c)"
    half = convert(read(text + " z = Neg(d)}"))
    assert_told(half, "computes in FP64, and so does the FP16 file: 1 Exp, 1 Mul, the first of")
    assert node(half, "Mul").outputs[0].dtype is ir.DataType.DOUBLE


def test_what_a_later_opset_has_in_fp16_is_fp16_there():
    text = "g (float[2] x, float o, float n, float i) => (float[N] y) {y = Range(o, n, i)}"
    assert_told(convert(read(text)), "1 Range")
    later = to_float16(read(text, opset=27))
    assert not kept_words(later)
    assert node(later, "Range").outputs[0].dtype is HALF


def test_an_island_is_not_told_again():
    assert_told(convert(read(CHAIN), float32={"b", "c"}))


# Islands

CHAIN = (
    "g (float[2] x) => (float[2] y) {a = Relu(x) b = Exp(a) c = Neg(b) d = Abs(c) y = Mul(a, d)}"
)


def test_an_island_has_one_cast_at_each_border():
    half = convert(read(CHAIN), float32={"b", "c"})
    assert_casts(half, "x -> x_fp16", "a -> a_fp32", "c -> c_fp16", "y_fp16 -> y")


def test_a_cast_is_shared_by_all_readers():
    text = "g (float[2] x) => (float[2] y) "
    text += "{a = Relu(x) b = Exp(a) c = Neg(a) d = Add(b, c) y = Mul(a, d)}"
    half = convert(read(text), float32={"b", "c"})
    assert_casts(half, "x -> x_fp16", "a -> a_fp32", "b -> b_fp16", "c -> c_fp16", "y_fp16 -> y")


def test_the_models_own_casts():
    text = "g (float16[2] x) => (float16[2] y) "
    text += "{a = Cast<to = 1>(x) b = Exp(a) c = Neg(a) "
    text += "d = Cast<to = 10>(b) e = Cast<to = 10>(c) y = Add(d, e)}"
    assert_casts(convert(read(text)))
    assert_casts(convert(read(text), float32={"a", "b"}), "x -> a", "b -> d")


def test_up_and_down_again_is_not_left_behind():
    text = "g (float[2] x) => (float[2] y) "
    text += "{h = Relu(x) c = Cast<to = 10>(h) a = Cast<to = 1>(c) y = Abs(a)}"
    assert_casts(convert(read(text), float32={"a"}), "x -> x_fp16", "y_fp16 -> y")


def test_comparisons_take_the_better_operand():
    text = "g (float[2] x) => (bool[2] y) {a = Relu(x) b = Exp(a) y = Greater(b, a)}"
    assert_casts(convert(read(text), float32={"b"}), "x -> x_fp16", "a -> a_fp32")
    assert_casts(convert(read("g (float[2] x) => (int64[1] y) {y = Shape(x)}")))


def test_an_output_in_an_island_needs_no_cast():
    half = convert(read(CHAIN), float32={"y"})
    assert_casts(half, "x -> x_fp16", "a -> a_fp32", "d -> d_fp32")
    assert types(convert(read(CHAIN), float32={"y"}, io="float16"))["y"] is FLOAT


# Inputs and outputs


def test_io_in_float16():
    half = convert(read(CHAIN), io="float16")
    assert_casts(half)
    assert set(types(half).values()) == {HALF}


def test_integers_are_left_alone():
    half = convert(
        read("g (int64[2] i, float[4] x) => (float[2] y, int64[2] j) {y = Gather(x, i) j = Neg(i)}")
    )
    assert [v.dtype for v in (*half.graph.inputs, *half.graph.outputs)] == [
        ir.DataType.INT64, FLOAT, FLOAT, ir.DataType.INT64,
    ]  # fmt: skip


def test_an_output_that_is_also_read():
    half = convert(read("g (float[2] x) => (float[2] y, float[2] z) {y = Relu(x) z = Abs(y)}"))
    assert_casts(half, "x -> x_fp16", "y_fp16 -> y", "z_fp16 -> z")
    assert node(half, "Abs").inputs[0].name == "y_fp16"


@pytest.mark.parametrize("io", ["float32", "float16"])
def test_an_output_that_is_an_input_or_an_initialiser(io):
    text = "g (float[2] x) => (float[2] x, float[2] w, float[2] y) "
    text += "<float[2] w = {0.1, 0.2}> {y = Add(x, w)}"
    half = convert(read(text), io=io)
    assert [v.name for v in half.graph.outputs] == ["x", "w", "y"]
    assert {v.dtype for v in half.graph.outputs} == {FLOAT if io == "float32" else HALF}
    assert len(casts(half)) == (2 if io == "float32" else 0)


def test_an_initialiser_among_the_inputs_is_a_constant():
    text = "g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}> {y = Add(x, w)}"
    half = convert(read(text))
    assert [v.name for v in half.graph.inputs] == ["x"]
    assert_casts(half, "x -> x_fp16", "y_fp16 -> y")


# Subgraphs, sequences, optionals


BRANCHES = (
    "g (float[2] x, bool c) => (float[2] y) <float[2] w = {1, 2}> {a = Relu(x) y = If(c) "
    "<then_branch = t () => (float[2] p) <float[2] v = {3, 4}> {p0 = Mul(a, w) p = Add(p0, v)}, "
    "else_branch = e () => (float[2] q) {q = Exp(a)}>}"
)


def test_if():
    half = convert(read(BRANCHES))
    assert {types(half)[name] for name in ("a", "w", "p", "v", "q")} == {HALF}
    assert_casts(half, "x -> x_fp16", "y_fp16 -> y")


def test_an_island_in_a_branch():
    half = convert(read(BRANCHES), float32={"q"})
    assert_casts(half, "x -> x_fp16", "a -> a_fp32", "q -> q_fp16", "y_fp16 -> y")
    assert node(half, "Exp").inputs[0].name == "a_fp32"


def test_loop():
    text = (
        "g (float[2] x, int64 n, bool c) => (float[2] y, float[N, 2] s) "
        "{y, s = Loop(n, c, x) <body = b "
        "(int64 i, bool k, float[2] u) => (bool k2, float[2] v, float[2] o) "
        "{k2 = Identity(k) v = Add(u, x) o = Neg(v)}>}"
    )
    half = convert(read(text))
    assert_casts(half, "x -> x_fp16", "y_fp16 -> y", "s_fp16 -> s")
    assert_casts(
        convert(read(text), float32={"v"}),
        "u -> u_fp32",
        "v -> v_fp16",
        "x -> x_fp16",
        "y_fp16 -> y",
        "s_fp16 -> s",
    )
    assert_casts(convert(read(text), float32={"u", "v"}), "v -> v_fp16", "s_fp16 -> s")
    y, s = run(half, x=np.float32([1, 2]), n=np.array(3), c=np.array(True))
    assert y.tolist() == [4, 8] and s.shape == (3, 2)


def test_scan():
    text = (
        "g (float[2] x, float[3, 2] xs) => (float[2] y, float[3, 2] s) {y, s = Scan"
        "<num_scan_inputs = 1, body = b (float[2] u, float[2] e) => (float[2] v, float[2] o) "
        "{v = Add(u, e) o = Neg(v)}>(x, xs)}"
    )
    half = convert(read(text))
    assert_casts(half, "x -> x_fp16", "xs -> xs_fp16", "y_fp16 -> y", "s_fp16 -> s")


def test_sequences_and_optionals():
    text = (
        "g (float[2] x, int64 i) => (float[2] y) {a = Relu(x) q = SequenceConstruct(a, x) "
        "o = Optional(q) p = OptionalGetElement(o) b = SequenceAt(p, i) y = Abs(b)}"
    )
    half = convert(read(text))
    assert_casts(half, "x -> x_fp16", "y_fp16 -> y")
    assert str(values(half)["o"].type) == "Optional(Sequence(Tensor(FLOAT16)))"


def test_a_sequence_among_the_inputs_keeps_its_type():
    text = "g (seq(float[2]) s, int64 i) => (float[2] y) {b = SequenceAt(s, i) y = Abs(b)}"
    assert_casts(convert(read(text)), "b -> b_fp16", "y_fp16 -> y")
    assert_casts(convert(read(text), io="float16"))


# Opsets


OLD = "g (float[N, 3] x) => (float[N, 3] y) <int64 axis = {1}> {[up] u = Unsqueeze<axes = [0]>(x) "
OLD += "[down] d = Squeeze<axes = [0]>(u) [sum] y = CumSum(d, axis)}"


def test_the_opset_is_raised_where_fp16_came_later():
    model = read(OLD, opset=11)
    model.graph[0].metadata_props["origin"] = "here"
    half = convert(model)
    assert half.opset_imports[""] == 14
    assert_casts(half, "x -> x_fp16", "y_fp16 -> y")
    assert node(half, "Unsqueeze").metadata_props["origin"] == "here"
    assert [n.name for n in half.graph if n.op_type == "CumSum"] == ["sum"]
    assert convert(read(OLD, opset=11), float32={"y"}).opset_imports[""] == 11


def test_large_weights_survive_a_raised_opset():
    model = read(
        "g (float[1000] x, float[1000] w) => (float[1000] y) <int64 axis = {0}> "
        "{h = Mul(x, w) y = CumSum(h, axis)}",
        11,
    )
    model.graph.inputs[:] = model.graph.inputs[:1]
    w = model.graph[0].inputs[1]
    w.const_value = ir.tensor(np.arange(1000, dtype=np.float32), name="w")
    model.graph.register_initializer(w)
    half = convert(model)
    assert [v.name for v in half.graph.inputs] == ["x"]
    assert values(half)["w"].const_value.numpy()[999] == 999


# Refusals


def test_local_functions_are_refused():
    text = (
        '<ir_version: 8, opset_import: ["": 18, "my": 1]> '
        "g (float[2] x) => (float[2] y) {y = my.f(x)} "
        '<domain: "my", opset_import: ["": 18]> f (a) => (b) {b = Relu(a)}'
    )
    with pytest.raises(BadInput, match="local function 'f': inline it first"):
        to_float16(ir.from_proto(onnx.parser.parse_model(text)))


def test_unknown_names_are_refused():
    with pytest.raises(BadInput, match="no value is named 'nowhere'"):
        to_float16(read(CHAIN), float32={"nowhere"})


def test_unknown_types_are_refused():
    text = '<ir_version: 8, opset_import: ["": 18, "acme": 1]> g (float[2] x) => (float[2] y) '
    text += "{[odd] a = acme.Odd(x) y = Relu(a)}"
    with pytest.raises(BadInput, match=re.escape("the type of 'a' (Odd 'odd') is unknown")):
        to_float16(ir.from_proto(onnx.parser.parse_model(text)))


def test_an_opset_that_cannot_be_raised_is_refused():
    text = "g (float[2, 2] x, float[2] s) => (float[2, 2] y) <int64 axis = {0}> "
    text += "{b, m, v, n, w = BatchNormalization(x, s, s, s, s) y = CumSum(b, axis)}"
    with pytest.raises(BadInput, match=r"CumSum 'y' has FP16 from opset 14 on.*from opset 11"):
        to_float16(read(text, 11))


# Real exports


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.feed = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, x):
        h = self.norm(x)
        x = x + self.attention(h, h, h, need_weights=False)[0]
        return x + self.feed(self.norm2(x))


def conv_net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.Hardswish(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip


def resize_net():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Upsample(scale_factor=2, mode="bilinear"), nn.ReLU(),
        nn.Upsample(size=(20, 20), mode="nearest"), nn.Conv2d(4, 2, 3),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("build", "shape"),
    [(conv_net, (2, 3, 16, 16)), (resize_net, (2, 3, 16, 16)), (Block, (2, 5, 16))],
)
def test_real_exports_have_casts_at_the_rim_only(build, shape):
    torch.manual_seed(0)
    net, x = build().eval(), torch.randn(shape)
    batch = {0: torch.export.Dim("batch", min=2, max=64)}
    program = torch.onnx.export(net, (x,), dynamo=True, dynamic_shapes=(batch,), verbose=False)
    model = program.model
    half = convert(model)
    assert len(casts(half)) == 2
    assert str(half.graph.inputs[0].shape) == str(model.graph.inputs[0].shape)
    assert all(
        set(n.metadata_props) == set(m.metadata_props)
        for n, m in zip(
            (n for n in half.graph if not n.name.startswith("Cast_")), model.graph, strict=True
        )
    )
    (y,) = run(half, **{half.graph.inputs[0].name: x.numpy()})
    np.testing.assert_allclose(y, net(x).detach().numpy(), rtol=1e-2, atol=1e-2)


# Every operator of the standard

EXCEPTIONS = {
    "test_flexattention": "has a body of unknown meaning; refused",
    "test_mvn": "invalid before the conversion: onnx's checker refuses its own definition of it",
}
"""Models of the standard's test suite that are not converted, by prefix of their name."""

NOT_RUN = {
    "test_scatternd_": "onnxruntime has no FP16 reductions in ScatterND on a CPU",
    "test_scatter_elements_with_": "onnxruntime has no FP16 reductions in ScatterElements on a CPU",
}
"""Models that load in onnxruntime and may not run there."""


def listed(case, reasons):
    return any(case.name.startswith(prefix) for prefix in reasons)


def is_float(value):
    return value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def rim(proto):
    return (*proto.graph.input, *proto.graph.output)


@pytest.fixture(scope="module")
def operators():
    """The standard's test models that take or give FP32 tensors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = onnx.backend.test.loader.load_model_tests(kind="node")
    return [
        case
        for case in cases
        if any(map(is_float, rim(case.model))) and not listed(case, EXCEPTIONS)
    ]


def loads(proto):
    """Whether onnxruntime has kernels for the model at all."""
    try:
        return session(proto)
    except Exception:
        return None


def results(loaded, data):
    """The outputs for one data set, or the error."""
    names = [given.name for given in loaded.get_inputs()]
    feed = {
        name: np.asarray(value) if isinstance(value, np.generic) else value
        for name, value in zip(names, data, strict=False)
    }
    try:
        return loaded.run(None, feed)
    except Exception as error:
        return error


def agree(found, expected):
    """Within what FP16 rounds inputs and results by."""
    if isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(agree, found, expected))
    if expected is None:
        return found is None
    found, expected = np.asarray(found), np.asarray(expected)
    if found.dtype != expected.dtype or found.shape != expected.shape:
        return False
    if expected.dtype != np.float32:
        return np.array_equal(found, expected)
    return np.allclose(found, expected, rtol=1e-2, atol=1e-2, equal_nan=True)


def fault(case, **options):
    """What is wrong with the converted model; '' if all is well, None if there is no saying."""
    half = ir.to_proto(to_float16(ir.from_proto(case.model), **options))
    onnx.checker.check_model(half, full_check=True)
    before = loads(case.model)
    if before is None:
        return None
    after = session(half)
    if options or listed(case, NOT_RUN):
        return ""
    for given, expected in case.data_sets:
        reference = results(before, given)
        if isinstance(reference, Exception) or not agree(reference, expected):
            return None
        found = results(after, given)
        if isinstance(found, Exception):
            return f"{case.name}: {found}"
        if not agree(found, expected):
            return f"{case.name}: {found}, not {expected}"
    return ""


@pytest.mark.slow
def test_every_operator_of_the_standard(operators):
    faults = [fault(case) for case in operators]
    assert not [text for text in faults if text]
    assert faults.count("") > 1000


@pytest.mark.slow
def test_whatever_computes_in_fp32_is_told(operators):
    """In a model converted without islands no operator gives FP32 that `kept` does not hold.

    Sequences and optionals that enter or leave a model cannot be cast, and are handed on.
    """
    told, untold = Counter(), []
    for case in operators:
        if not all(v.type.HasField("tensor_type") for v in rim(case.model)):
            continue
        half = to_float16(ir.from_proto(case.model))
        holds = {node for nodes in kept(half).values() for node in nodes}
        told.update(node.op_type for node in holds)
        untold += [
            f"{case.name}: {node.op_type}"
            for node in half.graph.all_nodes()
            if node not in holds
            and node.op_type not in ("Cast", "Constant")
            and any(value.dtype is FLOAT for value in node.outputs)
        ]
    assert not untold
    assert {"Range", "NonMaxSuppression", "TfIdfVectorizer", "QLinearConv"} <= told.keys()


def in_fp32_only(schema):
    """Whether an input or an output may be FP32, and not FP16."""
    types = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    allowed = [types.get(p.type_str, [p.type_str]) for p in (*schema.inputs, *schema.outputs)]
    return any("tensor(float)" in of and "tensor(float16)" not in of for of in allowed)


def test_the_limitations_name_what_the_standard_has_in_fp32_only():
    said = (Path(__file__).parents[1] / "docs" / "limitations.md").read_text(encoding="utf-8")
    known = {s.name for s in onnx.defs.get_all_schemas() if not s.domain}
    schemas = (schema_of(ir.Node("", name, []), NEWEST_OPSET) for name in known)
    names = {s.name for s in schemas if s and in_fp32_only(s) and not KEPT.search(s.name)}
    assert {"Range", "Celu", "Resize"} <= names
    assert not [name for name in names if f"`{name}`" not in said]


@pytest.mark.parametrize(
    ("every", "io"),
    [
        pytest.param(2, "float16", marks=pytest.mark.slow),
        pytest.param(2, "float32", marks=pytest.mark.slow),
        pytest.param(1, "float16", marks=pytest.mark.slow),
        pytest.param(1, "float32", marks=pytest.mark.slow),
        pytest.param(None, "float16", marks=pytest.mark.slow),
    ],
)
def test_every_operator_of_the_standard_beside_an_island(operators, every, io):
    """Every node, every other one, or none computed in FP32: the checker and onnxruntime agree."""
    for case in operators:
        made = [node.output[0] for node in case.model.graph.node if any(node.output[:1])]
        fault(case, float32=made[::every] if every else (), io=io)


@pytest.mark.parametrize("op", ["ScatterElements", "ScatterND"])
@pytest.mark.parametrize("reduction", ["add", "mul", "max", "min"])
def test_what_scatters_runs_on_a_cpu(op, reduction):
    index = "int64[2, 4] i = {0, 1, 2, 0, 1, 2, 0, 1}"
    index = index if op == "ScatterElements" else "int64[2, 1] i = {0, 2}"
    text = f'{op} <reduction = "{reduction}"> (x, i, u) z = Relu (y)'
    half = convert(
        read(f"g (float[3, 4] x, float[2, 4] u) => (float[3, 4] z) <{index}> {{ y = {text} }}")
    )
    feeds = {"x": np.full((3, 4), 2, np.float32), "u": np.full((2, 4), 3, np.float32)}
    assert np.isfinite(run(half, **feeds)[0]).all()
