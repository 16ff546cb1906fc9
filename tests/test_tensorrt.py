"""TensorRT takes the FP16 files as strongly typed networks: the types in the file decide.

TensorRT for RTX parses, and builds engines ahead of time, on a machine without a GPU. TensorRT
itself makes no builder without an NVIDIA driver. Neither can run an engine without a GPU.
"""

# onnx is only partly typed, the TensorRT packages are not typed at all.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

import halfsafe
from bench.architectures import ARCHITECTURES
from bench.onnx_accuracy import export
from halfsafe import BadInput, engines
from halfsafe.engines import engine_of, version_of
from halfsafe.engines.tensorrt import ForRtx, Network, Tensorrt, on_gpu
from halfsafe.engines.torch_tensorrt import TorchTensorrt
from halfsafe.frontends import open_model
from halfsafe.frontends.onnx.deliver import HalfFile
from halfsafe.samples import Call, Samples
from tests.test_engines import Mixed, mixed_sample
from tests.test_opsets import OPSETS, network, samples

ENGINES = {"tensorrt_rtx": ForRtx(), "tensorrt": Tensorrt()}


@pytest.fixture(scope="module", params=[*ENGINES])
def trt(request: pytest.FixtureRequest) -> Any:
    """A TensorRT package that can make a builder here."""
    name = request.param
    reason = f"{name} is not installed"
    package: Any = pytest.importorskip(name, reason=reason, exc_type=ImportError)
    try:
        package.Builder(package.Logger(package.Logger.ERROR))
    except TypeError as error:  # what the bindings make of a null pointer
        if torch.cuda.is_available():
            raise
        pytest.skip(f"{name} needs an NVIDIA driver to make a builder: {error}")
    return package


class Parsed(Network):
    """A file as a strongly typed network."""

    def __init__(self, trt: Any, path: Path) -> None:
        super().__init__(trt, ir.load(path))
        self.trt = trt
        assert self.network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)

    def float32(self) -> list[str]:
        """Layers that give FP32, and not to the user."""
        return [
            layer.name
            for layer, output in self.outputs()
            if output.dtype == self.trt.float32 and not output.is_network_output
        ]

    def built(self, feeds: dict[str, Any]) -> bytes:
        return self.engine({name: np.asarray(x) for name, x in feeds.items()})


def half_file(opset: int, folder: Path) -> Path:
    path = folder / "half.onnx"
    halfsafe.fix(network(opset), samples()).save(path)
    return path


@pytest.mark.parametrize("opset", [11, 17, 22])
def test_all_layers_of_a_fixed_network_are_in_fp16(opset: int, trt: Any, tmp_path: Path):
    parsed = Parsed(trt, half_file(opset, tmp_path))
    assert not parsed.float32()
    kinds = {output.dtype for _, output in parsed.outputs() if not output.is_network_output}
    assert trt.float16 in kinds
    assert parsed.built(samples()[0])


def test_fp32_would_be_seen(trt: Any, tmp_path: Path):
    """Nothing is converted behind our back: an FP32 file is an FP32 network."""
    onnx.save(network(17), tmp_path / "full.onnx")
    parsed = Parsed(trt, tmp_path / "full.onnx")
    assert {"Conv_0", "Softmax_25", "Gemm_46"} <= set(parsed.float32())
    assert trt.float16 not in {output.dtype for _, output in parsed.outputs()}


def test_mixed_types_would_be_refused(trt: Any, tmp_path: Path):
    """TensorRT puts no Cast between an FP16 weight and an FP32 operand."""
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[2, 4] x) => (float[2, 4] y)
    <float16[4, 4] w = {1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,1}> { y = MatMul(x, w) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "mixed.onnx")
    with pytest.raises(BadInput, match=r"MatMul.*must have same input types"):
        Parsed(trt, tmp_path / "mixed.onnx")


def test_a_network_is_counted_and_built_without_a_gpu(trt: Any):
    """Of a file and of a module, in each case for the shapes of a sample."""
    engine = ENGINES[trt.__name__]
    torch.manual_seed(0)
    for model, given in ((network(17), samples()), (Mixed().eval(), mixed_sample())):
        call = Samples(given).first
        running = engine.build(open_model(model, call))
        census = running.census(call)
        assert census["float16"] > 10
        assert census.get("float32", 0) <= 2  # outputs, which a file gives in FP32
        assert len(running.engine(call)) > 1000


def test_inputs_that_are_shapes_are_built_for_their_values(trt: Any):
    text = """<ir_version: 8, opset_import: ["": 17]>
    g (float16[2, 6] x, int64[2] s) => (float16[N, M] y) { z = Reshape(x, s) y = Relu(z) }"""
    half = HalfFile(ir.from_proto(onnx.parser.parse_model(text)))
    call = Call((np.ones((2, 6), np.float16), np.array([3, 4])), {})
    assert ENGINES[trt.__name__].build(half).engine(call)


def test_each_compute_capability_is_built_for():
    rtx: Any = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    text = """<ir_version: 8, opset_import: ["": 17]> g (float16[2, 6] x) => (float16[2, 6] y)
    { y = Softmax(x) }"""
    feeds = {"x": np.ones((2, 6), np.float16)}
    capability = rtx.ComputeCapability
    for targets in ((capability.SM75,), (capability.SM89, capability.SM120)):
        model = Network(rtx, ir.from_proto(onnx.parser.parse_model(text)))
        assert model.engine(feeds, targets)


def test_what_an_engine_runs_on_is_in_its_version(trt: Any):
    engine = ENGINES[trt.__name__]
    assert version_of(engine).startswith(f"{trt.__name__} {version(trt.__name__)}, ")


@pytest.mark.parametrize("engine", [*ENGINES.values(), TorchTensorrt()], ids=lambda e: e.name)
def test_an_engine_says_that_it_needs_a_gpu(engine: Any):
    if on_gpu():
        pytest.skip("there is a GPU")
    with pytest.raises(BadInput, match=f"'{engine.name}' cannot run here: it needs a GPU, .*pip"):
        engine_of(engine)


ON_GPU = ("torch-cuda", "torch-tensorrt", "onnxruntime-cuda", "onnxruntime-tensorrt", "tensorrt",
          "tensorrt-rtx")  # fmt: skip


@pytest.mark.parametrize("name", ON_GPU)
def test_an_engine_runs_on_a_gpu(name: str):
    """Outputs in the order of the module, at two sets of shapes."""
    engine: Any = engines._named(name)
    if not engine.available():
        pytest.skip(f"it needs {engine.needs}")
    torch.manual_seed(0)
    given = [mixed_sample(3), mixed_sample(2)]
    source = open_model(Mixed().eval(), Samples(given).first, None, [*Samples(given)])
    running = engine.build(source)
    for call in Samples(given):
        for found, expected in zip(running.run(call), source.reference(call), strict=True):
            assert found.dtype == expected.dtype
            assert np.allclose(found, expected, rtol=0, atol=0.02)


def test_torch_tensorrt_counts_the_types_of_the_exported_program():
    torch.manual_seed(0)
    call = Samples(mixed_sample()).first
    census = TorchTensorrt().build(open_model(Mixed().eval(), call)).census(call)
    assert census["float16"] > 4
    assert set(census) == {"float16"}


def test_torch_tensorrt_takes_no_files():
    source = open_model(network(17), Samples(samples()).first)
    with pytest.raises(BadInput, match="runs PyTorch modules, not ONNX: choose 'tensorrt'"):
        TorchTensorrt().build(source)


@pytest.mark.slow
@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset_is_parsed(opset: int, trt: Any, tmp_path: Path):
    """From 23 on RMSNormalization itself asks for FP32 inside, in its stash_type."""
    parsed = Parsed(trt, half_file(opset, tmp_path))
    assert opset >= 23 or not parsed.float32()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet", "vit", "llama", "bert", "segformer"])
def test_exported_architectures(name: str, trt: Any, tmp_path: Path):
    model, inputs = ARCHITECTURES[name].build()
    export(model, inputs[0], tmp_path / "net.onnx")
    feeds = [{key: x.numpy() for key, x in one.items()} for one in inputs]
    halfsafe.fix(tmp_path / "net.onnx", feeds).save(tmp_path / "half.onnx")
    parsed = Parsed(trt, tmp_path / "half.onnx")
    assert not parsed.float32()
    assert parsed.built(feeds[0])


# Engines as files


def rtx() -> Any:
    package: Any = pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    return package


def dynamic(folder: Path) -> Path:
    text = (
        '<ir_version: 8, opset_import: ["" : 18]> g (float[N, 4] x) => (float[N, 2] y)'
        "<float[4, 2] w = {1e6, 2e6, 3e5, 1e5, 2e6, 5e5, 1e6, 1e6}, float[2] s = {1e-6, 1e-6}>"
        "{h = MatMul (x, w)  a = Relu (h)  y = Mul (a, s)}"
    )
    onnx.save(onnx.parser.parse_model(text), folder / "net.onnx")
    return folder / "net.onnx"


def test_an_engine_is_built_for_all_sizes_of_the_samples(tmp_path: Path):
    rtx()
    drawn = np.random.default_rng(0)
    given = [{"x": drawn.normal(size=(n, 4)).astype(np.float32)} for n in (2, 1, 7)]
    fixed = halfsafe.fix(dynamic(tmp_path), given)
    said = fixed.save_engine(tmp_path / "net.engine", tmp_path / "timing.cache")
    assert (tmp_path / "net.engine").stat().st_size > 1000
    assert (tmp_path / "timing.cache").stat().st_size > 0
    assert "tensorrt" in said
    assert "float16" in said
    first = (tmp_path / "timing.cache").read_bytes()
    fixed.save_engine(tmp_path / "again.engine", tmp_path / "timing.cache")
    assert len((tmp_path / "timing.cache").read_bytes()) >= len(first)


def test_a_profile_has_the_least_and_the_most_of_each_size(tmp_path: Path):
    trt = rtx()
    network = Network(trt, ir.load(dynamic(tmp_path)))
    sizes = [{"x": np.zeros((n, 4), np.float32)} for n in (2, 1, 7)]
    profile = network._profile(sizes[0], sizes[1:])
    assert [tuple(shape) for shape in profile.get_shape("x")] == [(1, 4), (2, 4), (7, 4)]


def test_a_module_is_built_as_well(tmp_path: Path):
    rtx()
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    halfsafe.fix(net.eval(), [torch.randn(5, 8)]).save(tmp_path / "net.engine")
    assert (tmp_path / "net.engine").stat().st_size > 1000


def test_without_a_package_that_builds_the_reason_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("halfsafe.engines.written.installed", lambda _: False)
    fixed = halfsafe.fix(dynamic(tmp_path), {"x": np.ones((2, 4), np.float32)})
    with pytest.raises(BadInput, match=r"pip install 'halfsafe\[tensorrt\]'"):
        fixed.save(tmp_path / "net.engine")
    assert not (tmp_path / "net.engine").exists()
