"""The same network written for every opset that ONNX Runtime reads, fixed and shipped in FP16."""

# onnx and onnxruntime are only partly typed.
# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

import halfsafe
from bench.architectures import ARCHITECTURES
from bench.onnx_accuracy import is_bit_equal, left_in_float32

Array = NDArray[Any]

NEWEST = 26
"""The newest opset that ONNX Runtime 1.31 reads; onnx 1.23 knows two more."""

OPSETS = range(11, NEWEST + 1)

NEW_FORMS = (11, 12, 13, 17, 18, 20, 23, NEWEST)
"""Opsets in which the network below is written in another way, and the newest one."""

EACH = [o if o in NEW_FORMS else pytest.param(o, marks=pytest.mark.slow) for o in OPSETS]

UP = 2.0**12
"""Takes values of order 2**6 beyond FP16, and 1 / UP back, both exactly."""


class Writer:
    """Writes a graph in the forms of one opset."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        self._random = np.random.default_rng(0)

    def node(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """The name of the output, or of each where there are several."""
        stem = f"{op}_{len(self.nodes)}"
        names = [f"{stem}.{i}" for i in range(outputs)] if outputs > 1 else [stem]
        self.nodes.append(helper.make_node(op, inputs, names, name=stem, **attributes))
        return names if outputs > 1 else stem

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def weight(self, *shape: int, by: float = 1.0) -> str:
        fan_in = int(np.prod(shape[1:] if len(shape) == 4 else shape[:1]))
        return self.constant(by * self._random.standard_normal(shape) / np.sqrt(fan_in))

    def ints(self, *numbers: int) -> str:
        return self.constant(numbers, np.int64)

    def over(self, op: str, x: str, *axes: int, since: int, **attributes: Any) -> str:
        """An operator whose axes are an attribute before opset `since`, and an input from it on."""
        if self.opset < since:
            return self.node(op, x, axes=axes, **attributes)
        return self.node(op, x, self.ints(*axes), **attributes)

    def model(self, x: list[int], y: dict[str, tuple[Any, list[int]]]) -> ModelProto:
        """`x` is the input's shape, `y` the outputs' types and shapes."""
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            "net",
            [value("x", TensorProto.FLOAT, x)],
            [value(name, kind, shape) for name, (kind, shape) in y.items()],
            self.constants,
        )
        opsets = [helper.make_opsetid("", self.opset)]
        version = helper.find_min_ir_version_for(opsets, ignore_unknown=True)
        return helper.make_model(graph, opset_imports=opsets, ir_version=version)


def image_part(w: Writer, x: str) -> str:
    """[2, 3, 8, 8] to [2, 8, 8, 8]; from the normalisation to the second convolution in 2**18."""
    bottom = w.node("Conv", x, w.weight(8, 3, 3, 3), w.weight(8), pads=[1, 1, 1, 1])
    statistics = w.constant(np.linspace(-0.2, 0.2, 8)), w.constant(np.linspace(0.5, 1.5, 8))
    h = w.node(
        "BatchNormalization", bottom, w.weight(8, by=64 * UP), w.weight(8, by=64 * UP), *statistics
    )
    h = w.node("MaxPool", w.node("Relu", h), kernel_shape=[2, 2], strides=[2, 2])
    h = w.node("Pad", h, w.ints(0, 0, 1, 1, 0, 0, 1, 1), w.constant(UP))
    h = w.node("Conv", h, w.weight(8, 8, 3, 3, by=1 / (64 * UP)), w.weight(8))
    return w.node("Concat", enlarged(w, h), bottom, axis=1)


def enlarged(w: Writer, x: str) -> str:
    if w.opset < 18:
        roi = w.constant([]) if w.opset < 13 else ""
        return w.node("Resize", x, roi, w.constant([1, 1, 2, 2]), mode="linear")
    return w.node("Resize", x, "", w.constant([2, 2]), mode="linear", axes=[2, 3])


def weighted_channels(w: Writer, x: str) -> str:
    """The first half of the channels, each weighted by a gate of its mean."""
    x = w.node("Slice", x, w.ints(0), w.ints(8), w.ints(1), w.ints(1))
    mean = w.over("ReduceMean", x, 2, 3, since=18, keepdims=1)
    gate = w.node("Sigmoid", w.over("Squeeze", mean, 2, 3, since=13))
    return w.node("Mul", x, w.over("Unsqueeze", gate, 2, 3, since=13))


def tokens(w: Writer, x: str) -> str:
    """[2, 8, 8, 8] to [2, 16, 8]."""
    x = w.node("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    return w.node("Transpose", w.node("Reshape", x, w.ints(0, 8, -1)), perm=[0, 2, 1])


def normalised(w: Writer, x: str) -> str:
    gain = w.weight(8)
    if w.opset >= 23:
        return w.node("RMSNormalization", x, gain, axis=-1)
    bias = w.weight(8)
    if w.opset >= 17:
        return w.node("LayerNormalization", x, gain, bias, axis=-1)
    centred = w.node("Sub", x, w.over("ReduceMean", x, -1, since=18))
    square = w.node("Pow", centred, w.constant(2.0))
    variance = w.over("ReduceMean", square, -1, since=18)
    deviation = w.node("Sqrt", w.node("Add", variance, w.constant(1e-5)))
    return w.node("Add", w.node("Mul", w.node("Div", centred, deviation), gain), bias)


def attention(w: Writer, x: str) -> str:
    """Queries and keys of 2**9 make scores of 2**18."""
    packed = w.node("MatMul", x, w.weight(8, 24, by=2**9))
    query, key, value = thirds(w, packed)
    value = w.node("Mul", value, w.constant(2.0**-9))
    if w.opset >= 23:
        return w.node("Attention", query, key, value, q_num_heads=1, kv_num_heads=1, scale=2.0**-18)
    scores = w.node("MatMul", query, w.node("Transpose", key, perm=[0, 2, 1]))
    scores = w.node("Mul", scores, w.constant(2.0**-18))
    seen = w.constant(np.tri(16), np.bool_)
    scores = w.node("Where", seen, scores, w.constant(-1e4))
    return w.node("MatMul", w.node("Softmax", scores, axis=-1), value)


def thirds(w: Writer, x: str) -> list[str]:
    if w.opset < 13:
        return w.node("Split", x, outputs=3, axis=-1, split=[8, 8, 8])
    if w.opset < 18:
        return w.node("Split", x, w.ints(8, 8, 8), outputs=3, axis=-1)
    return w.node("Split", x, outputs=3, axis=-1, num_outputs=3)


def feed_forward(w: Writer, x: str) -> str:
    """From the second product to the third in 2**18, between bounds that some values reach."""
    h = w.node("Add", w.node("MatMul", x, w.weight(8, 16)), w.weight(16))
    h = gelu(w, h)
    h = w.node("Dropout", h, ratio=0.1) if w.opset < 12 else w.node("Dropout", h)
    h = w.node("MatMul", h, w.weight(16, 8, by=64 * UP))
    h = w.node("Clip", h, w.constant(-64 * UP), w.constant(64 * UP))
    return w.node("MatMul", h, w.weight(8, 8, by=1 / (64 * UP)))


def gelu(w: Writer, x: str) -> str:
    if w.opset >= 20:
        return w.node("Gelu", x)
    erf = w.node("Erf", w.node("Div", x, w.constant(np.sqrt(2))))
    return w.node("Mul", w.node("Mul", x, w.node("Add", erf, w.constant(1.0))), w.constant(0.5))


def network(opset: int, *, summed: bool = False) -> ModelProto:
    """An image encoder, a transformer block and a head; `summed` adds a CumSum over the tokens."""
    w = Writer(opset)
    x = tokens(w, weighted_channels(w, image_part(w, "x")))
    x = w.node("Add", x, attention(w, normalised(w, x)))
    x = w.node("Add", x, feed_forward(w, normalised(w, x)))
    if summed:
        x = w.node("CumSum", x, w.constant(1, np.int64))
    x = w.node("Gather", x, w.ints(0, 3, 5, 15), axis=1)
    positive = w.node("Cast", w.node("Greater", x, w.constant(0.0)), to=TensorProto.FLOAT)
    x = w.node("Reshape", w.node("Mul", x, positive), w.ints(8, 8))
    logits = w.node("Gemm", x, w.weight(8, 10), w.weight(10))
    best, places = w.node("TopK", logits, w.ints(3), outputs=2)
    number, index = TensorProto.FLOAT, TensorProto.INT64
    outputs = {logits: (number, [8, 10]), best: (number, [8, 3]), places: (index, [8, 3])}
    return w.model([2, 3, 8, 8], outputs)


def samples(count: int = 2) -> list[dict[str, Array]]:
    random = np.random.default_rng(1)
    return [{"x": random.standard_normal((2, 3, 8, 8)).astype(np.float32)} for _ in range(count)]


def assert_fixed(model: ModelProto, feeds: list[dict[str, Array]], folder: Path) -> ModelProto:
    """FP32 stays as it was, FP16 is right and nothing else; gives the FP16 file."""
    fixed = halfsafe.fix(model, feeds)
    assert fixed.report.safe, fixed.report.text()
    assert_bit_equal(model, fixed.model, feeds[-1])
    proof = fixed.report.verification
    assert proof is not None
    assert proof.before_nonfinite
    assert not proof.after_nonfinite
    assert proof.ratio <= 1.2
    assert not fixed.report.islands
    half: ModelProto = fixed.half()
    assert left_in_float32(ir.from_proto(half)) == (0, 0)
    fixed.save(folder / "half.onnx")
    return assert_deployable(folder / "half.onnx", model, feeds[-1])


def assert_bit_equal(a: ModelProto, b: ModelProto, feeds: dict[str, Array]) -> None:
    pair = ir.from_proto(a), ir.from_proto(b)
    for optimised in (False, True):
        assert is_bit_equal(*pair, feeds, optimised), f"optimised={optimised}"


def assert_deployable(path: Path, model: ModelProto, feeds: dict[str, Array]) -> ModelProto:
    """The checker takes the file, and ONNX Runtime gives what it gives for the original."""
    onnx.checker.check_model(path, full_check=True)
    found, expected = run(path, feeds), run(model.SerializeToString(), feeds)
    assert np.allclose(found[0], expected[0], rtol=0.05, atol=0.05)
    return onnx.load(path)


def run(model: Path | bytes, feeds: dict[str, Array]) -> list[Array]:
    """Outputs under ONNX Runtime's default options."""
    session: Any = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def opset_of(model: ModelProto) -> int:
    (version,) = (entry.version for entry in model.opset_import if not entry.domain)
    return version


@pytest.mark.parametrize("opset", EACH)
def test_every_opset(opset: int, tmp_path: Path):
    half = assert_fixed(network(opset), samples(), tmp_path)
    assert opset_of(half) == opset


@pytest.mark.parametrize(("opset", "raised"), [(11, 14), (13, 14)])
def test_the_opset_is_raised_for_an_operator_that_has_fp16_later(
    opset: int, raised: int, tmp_path: Path
):
    """CumSum takes FP16 from opset 14 on; everything else is converted with it."""
    assert opset_of(assert_fixed(network(opset, summed=True), samples(), tmp_path)) == raised


@pytest.mark.slow
@pytest.mark.parametrize("opset", range(12, NEWEST + 1))
def test_a_file_that_onnx_has_converted(opset: int, tmp_path: Path):
    model = onnx.version_converter.convert_version(network(11, summed=True), opset)
    model.ir_version = max(model.ir_version, helper.find_min_ir_version_for(model.opset_import))
    assert opset_of(assert_fixed(model, samples(), tmp_path)) == max(opset, 14)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 19, 20, 21, 22, 23])
def test_a_file_that_torch_has_exported(opset: int, tmp_path: Path):
    model, inputs = ARCHITECTURES["vit"].build()
    options: dict[str, Any] = {"dynamo": True, "verbose": False, "opset_version": opset}
    torch.onnx.export(model, (), tmp_path / "vit.onnx", kwargs=inputs[0], **options)
    exported = onnx.load(tmp_path / "vit.onnx")
    assert opset_of(exported) == opset
    feeds = [{key: x.numpy() for key, x in one.items()} for one in inputs]
    assert opset_of(assert_fixed(exported, feeds, tmp_path)) == opset


# Outside the range


def old_network(opset: int) -> ModelProto:
    """The forms of before opset 11: bounds, fill and sizes are attributes; constants are inputs."""
    w = Writer(opset)
    h = w.node("Conv", "x", w.weight(16, 3, 3, 3, by=64 * UP), w.weight(16, by=UP))
    h = w.node("Clip", h, min=-32 * UP, max=128 * UP)
    h = w.node("Pad", h, pads=[0, 0, 1, 1, 0, 0, 1, 1], value=32 * UP)
    if opset < 9:
        h = w.node("Upsample", h, scales=[1.0, 1.0, 2.0, 2.0])
    else:
        h = w.node("Upsample" if opset < 10 else "Resize", h, w.constant([1, 1, 2, 2]))
    h = w.node("Conv", w.node("Dropout", h), w.weight(4, 16, 3, 3, by=1 / (64 * UP)))
    h = w.node("ReduceMean", h, axes=[2])
    model = w.model([2, 3, 8, 8], {h: (TensorProto.FLOAT, [2, 4, 1, 14])})
    value = helper.make_tensor_value_info
    constants = [value(t.name, t.data_type, t.dims) for t in model.graph.initializer]
    model.graph.input.extend(constants)
    model.ir_version = 3
    return model


@pytest.mark.parametrize("opset", [7, 8, 9, 10])
def test_an_older_file_is_raised_to_opset_11(opset: int, tmp_path: Path):
    model = old_network(opset)
    assert opset_of(assert_fixed(model, samples(), tmp_path)) == 11
    report = halfsafe.inspect(model, samples())
    assert f"raised from opset {opset} to 11" in " ".join(report.notes)


def refusal(model: ModelProto) -> str:
    with pytest.raises(halfsafe.BadInput) as caught:
        halfsafe.fix(model, samples())
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("opset", [6, NEWEST + 1, onnx.defs.onnx_opset_version(), 99])
def test_an_opset_that_onnxruntime_does_not_read(opset: int):
    w = Writer(opset)
    model = w.model([2, 4], {w.node("Relu", "x"): (TensorProto.FLOAT, [2, 4])})
    message = refusal(model)
    assert f"at opset {opset}" in message
    assert f"reads 7 to {NEWEST}" in message
    assert "onnx.version_converter" in message


def test_an_ir_version_that_onnxruntime_does_not_read():
    model = network(18)
    model.ir_version = onnx.IR_VERSION
    assert "set model.ir_version = 13" in refusal(model)


def test_a_classifier_with_maps_is_refused_for_these():
    path = Path(ort.__file__).with_name("datasets") / "logreg_iris.onnx"
    with pytest.raises(halfsafe.BadInput, match="cannot be read: Map types are not supp"):
        halfsafe.fix(path, {"float_input": np.ones((3, 2), np.float32)})


def test_an_old_file_whose_initialisers_are_no_inputs(tmp_path):
    """IR version 3 asks for that; ONNX Runtime brings a file that does without."""
    path = Path(ort.__file__).with_name("datasets") / "mul_1.onnx"
    (given,) = ort.InferenceSession(path).get_inputs()
    fixed = halfsafe.fix(path, {given.name: np.ones(given.shape, np.float32)})
    assert fixed.report.safe
    fixed.save(tmp_path / "made.onnx")
