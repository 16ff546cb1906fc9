"""TensorRT takes the FP16 files as strongly typed networks: the types in the file decide.

TensorRT for RTX parses, and builds engines ahead of time, on a machine without a GPU. TensorRT
itself makes no builder without an NVIDIA driver. Neither can run an engine without a GPU.
"""

# onnx is only partly typed, the TensorRT packages are not typed at all.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

import halfsafe
from bench.architectures import ARCHITECTURES
from bench.onnx_accuracy import export
from tests.test_opsets import OPSETS, network, samples


@pytest.fixture(scope="module", params=["tensorrt_rtx", "tensorrt"])
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


class Parsed:
    """A file as a strongly typed network."""

    def __init__(self, trt: Any, path: Path) -> None:
        self.trt = trt
        self.logger = trt.Logger(trt.Logger.ERROR)
        self.builder = trt.Builder(self.logger)
        typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self.network = self.builder.create_network(typed)
        self.parser = trt.OnnxParser(self.network, self.logger)
        accepted = self.parser.parse_from_file(str(path))
        errors = [str(self.parser.get_error(i)) for i in range(self.parser.num_errors)]
        assert accepted and not errors, "\n".join(errors)
        assert self.network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)

    def outputs(self) -> Iterator[tuple[Any, Any]]:
        """Every layer with each of its outputs."""
        for index in range(self.network.num_layers):
            layer = self.network.get_layer(index)
            yield from ((layer, layer.get_output(i)) for i in range(layer.num_outputs))

    def float32(self) -> list[str]:
        """Layers that give FP32, and not to the user."""
        return [
            layer.name
            for layer, output in self.outputs()
            if output.dtype == self.trt.float32 and not output.is_network_output
        ]

    def engine(self) -> Any:
        """The serialised engine; None where TensorRT cannot build one."""
        return self.builder.build_serialized_network(
            self.network, self.builder.create_builder_config()
        )


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
    assert parsed.engine() is not None


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
    with pytest.raises(AssertionError, match="must have same input types"):
        Parsed(trt, tmp_path / "mixed.onnx")


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
    assert parsed.engine() is not None
