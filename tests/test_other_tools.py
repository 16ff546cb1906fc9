"""docs/other-tools.md shows the files of examples/other_tools, and its commands do what it says.

Each part waits for its tool: `make test` has Polygraphy and OpenVINO, `make other-tools` Olive and
coremltools.
"""

# None of these packages is typed.
# pyright: basic

import json
import os
import re
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from shutil import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import nn

import halfsafe
from examples.ocr import detector
from examples.other_tools.data import load_data

ROOT = Path(__file__).parents[1]
FILES = ROOT / "examples" / "other_tools"
PAGE = (ROOT / "docs" / "other-tools.md").read_text()
HALF = TensorProto.FLOAT16


def needs(*packages):
    missing = [package for package in packages if find_spec(package) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} is not installed")


def blocks(kind):
    """What the page has between fences of a kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def commands(*words):
    """The page's command lines that hold all of these words."""
    lines = "".join(blocks("sh")).splitlines()
    return [line for line in lines if all(word in line for word in words)]


def ran(line, folder, **settings):
    """A line of shell in a folder, with the programs of this environment."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    env = {**os.environ, "PATH": path, "CI": "1", **settings}  # Olive reports nothing from CI
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, env=env, capture_output=True, text=True, check=False
    )


def assert_runs(line, folder, **settings):
    done = ran(line, folder, **settings)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


def network():
    text = re.search(r'parse_model\("""(.*?)"""', PAGE, re.DOTALL)
    assert text
    return onnx.parser.parse_model(re.sub(r"^\.\.\. ", "", text[1], flags=re.MULTILINE))


def chaotic():
    """The logistic map, thirty times: it needs more bits than FP16 has, all the way."""
    step = "a{0} = Mul(x{0}, k) b{0} = Sub(one, x{0}) x{1} = Mul(a{0}, b{0})"
    steps = " ".join(step.format(i, i + 1) for i in range(30))
    return onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 18]> g (float[N, 2] x0) => (float[N, 2] x30)
        <float k = {{4.0}}, float one = {{1.0}}> {{ {steps} }}"""
    )


@pytest.fixture
def folder(tmp_path):
    """The page's files and network, as a user has them beside each other."""
    for path in SHOWN:
        copy(path, tmp_path)
    onnx.save(network(), tmp_path / "model.onnx")
    return tmp_path


def given(model, feeds):
    """Outputs in ONNX Runtime's CPU, of a path or of bytes."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    kind = np.float16 if session.get_inputs()[0].type == "tensor(float16)" else np.float32
    return session.run(None, {name: x.astype(kind) for name, x in feeds.items()})


def relative(found, known):
    off = np.linalg.norm(np.float64(found) - np.float64(known))
    return float(off / np.linalg.norm(np.float64(known)))


def float_constants(model):
    held = [a.t for node in model.graph.node for a in node.attribute if a.name == "value"]
    tensors = [*model.graph.initializer, *held]
    return [t for t in tensors if t.data_type in (TensorProto.FLOAT, HALF)]


SHOWN = [
    path for path in FILES.iterdir() if path.suffix in (".py", ".json") and path.stat().st_size
]


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: path.name)
def test_the_page_shows_the_files(path):
    assert path.read_text() in blocks("json" if path.suffix == ".json" else "python")


# Polygraphy


def compared(folder):
    """What becomes of model_fp16.onnx in the page's comparison with FP32."""
    (before,), (compare,) = commands("--save-inputs"), commands("--load-inputs")
    assert_runs(before, folder)
    return ran(compare, folder)


@needs("polygraphy")
@pytest.mark.slow
def test_polygraphys_command_line_finds_the_fixed_file_equal(folder):
    (fix,) = commands("halfsafe fix")
    assert_runs(fix, folder)
    done = compared(folder)
    assert done.returncode == 0, done.stdout
    assert "Pass Rate: 100.00%" in done.stdout


@needs("polygraphy", "onnxconverter_common")
@pytest.mark.slow
def test_polygraphys_own_conversion_cuts_constants_off(folder):
    assert_runs("polygraphy convert model.onnx --fp-to-fp16 -o model_fp16.onnx", folder)
    model = onnx.load(folder / "model_fp16.onnx")
    assert max(numpy_helper.to_array(t).max() for t in float_constants(model)) == 10_000
    done = compared(folder)
    assert done.returncode != 0
    assert "Pass Rate: 0.00%" in done.stdout


@needs("polygraphy")
@pytest.mark.slow
def test_the_loader_stands_before_polygraphys_other_loaders():
    from polygraphy.backend.onnx import BytesFromOnnx, OnnxFromPath
    from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
    from polygraphy.common import TensorMetadata
    from polygraphy.comparator import Comparator, DataLoader, SimpleCompareFunc

    from examples.other_tools.halfsafe_loader import HalfSafe

    feeds = detector.drawn(2)
    load = OnnxFromPath(str(detector.file()))
    half = HalfSafe(load, feeds)
    runners = [OnnxrtRunner(SessionFromOnnx(BytesFromOnnx(model))) for model in (load, half)]
    results = Comparator.run(runners, data_loader=feeds)
    judge = SimpleCompareFunc(atol=1e-3, rtol=0, check_error_stat="mean")
    assert bool(Comparator.compare_accuracy(results, compare_func=judge))

    drawn = DataLoader(input_metadata=TensorMetadata().add("x", np.float32, (4, 2)), iterations=3)
    assert {t.data_type for t in float_constants(HalfSafe(network(), drawn)())} == {HALF}


@needs("polygraphy", "onnxconverter_common")
@pytest.mark.filterwarnings("ignore:.*will be truncated")
def test_polygraphys_own_conversion_breaks_the_detector():
    from polygraphy.backend.onnx import BytesFromOnnx, ConvertToFp16, OnnxFromPath

    converted = BytesFromOnnx(ConvertToFp16(OnnxFromPath(str(detector.file()))))()
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidGraph, match="Resize"):
        given(converted, detector.drawn(1)[0])


@needs("polygraphy")
def test_the_loader_gives_no_file_that_is_not_safe():
    from polygraphy.exception import PolygraphyException

    from examples.other_tools.halfsafe_loader import HalfSafe

    feeds = [{"x0": np.random.default_rng(i).random((4, 2), np.float32)} for i in range(3)]
    with pytest.raises(PolygraphyException, match="FP16 cannot do better"):
        HalfSafe(chaotic(), feeds)()


RTX = {"POLYGRAPHY_USE_TENSORRT_RTX": "1"}
LAYERS = """
from network import load_network
_, network, _ = load_network()
layers = [network.get_layer(i) for i in range(network.num_layers)]
print(*(layer.get_output(0).dtype.name for layer in layers if "CAST" not in str(layer.type)))
"""


@needs("polygraphy", "tensorrt_rtx")
def test_polygraphy_builds_engines_of_the_file_and_of_the_loader(folder):
    (fix,) = commands("halfsafe fix")
    for line in [fix, *commands("polygraphy convert")]:
        assert_runs(line, folder, **RTX)
    assert (folder / "model.engine").stat().st_size
    assert (folder / "network.engine").stat().st_size


@needs("polygraphy", "tensorrt_rtx")
def test_the_network_is_strongly_typed_in_fp16(folder):
    done = ran(f"'{sys.executable}' -c '{LAYERS}'", folder, **RTX)
    assert done.stdout.split()[-4:] == 4 * ["HALF"], done.stderr  # two constants, two products


# Olive


def workflow(folder, model="model.onnx", feeds=(), **passes):
    """The page's workflow, with its samples; or with another model, or other passes."""
    config = json.loads((folder / "workflow.json").read_text())
    config["input_model"]["model_path"] = str(model)
    ((name, feed), *_), *_ = samples = [[*feed.items()] for feed in feeds or load_data()]
    read = {"input_names": [name], "input_shapes": [list(feed.shape)]}
    config["data_configs"][0]["load_dataset_config"] |= read
    config["passes"] = passes or config["passes"]
    (folder / "workflow.json").write_text(json.dumps(config))
    (folder / "samples" / name).mkdir(parents=True)
    for number, ((_, feed),) in enumerate(samples):
        feed.tofile(folder / "samples" / name / f"{number}.bin")


def beside_olives_own(folder):
    """The package configuration with Olive's own passes as well."""
    olive = find_spec("olive")
    assert olive and olive.origin
    package = json.loads((Path(olive.origin).parent / "olive_config.json").read_text())
    package["passes"] |= json.loads((folder / "package.json").read_text())["passes"]
    (folder / "package.json").write_text(json.dumps(package))


def olive(folder):
    (line,) = commands("olive run")
    assert_runs(line, folder)
    return folder / "out" / "model.onnx"


ONES = {"x": np.ones((1, 2), np.float32)}
PASS = {"type": "HalfSafe", "data_config": "calibration"}


@needs("olive")
def test_olive_runs_the_pass(folder):
    workflow(folder)
    path = olive(folder)
    assert {t.data_type for t in float_constants(onnx.load(path))} == {HALF}
    assert np.allclose(given(path, ONES)[0], 2, rtol=1e-3)


@needs("olive")
def test_olives_own_pass_cuts_constants_off(folder):
    beside_olives_own(folder)
    workflow(folder, half={"type": "OnnxFloatToFloat16"})
    assert np.allclose(given(olive(folder), ONES)[0], [0.1, 0.2], rtol=1e-2)


@needs("olive")
def test_olive_runs_the_pass_behind_others(folder):
    beside_olives_own(folder)
    workflow(folder, first={"type": "OnnxPeepholeOptimizer"}, half=PASS)
    path = olive(folder)
    assert {t.data_type for t in float_constants(onnx.load(path))} == {HALF}
    assert np.allclose(given(path, ONES)[0], 2, rtol=1e-3)


@needs("olive")
def test_olive_runs_the_pass_on_the_detector(folder):
    (feed,) = detector.drawn(1)
    workflow(folder, detector.file(), [feed])
    (found,), (known,) = given(olive(folder), feed), given(detector.file(), feed)
    assert relative(found, known) < 0.02


@needs("olive")
def test_the_pass_gives_no_file_that_is_not_safe(folder):
    onnx.save(chaotic(), folder / "model.onnx")
    feeds = [{"x0": np.random.default_rng(i).random((4, 2), np.float32)} for i in range(3)]
    workflow(folder, feeds=feeds)
    (line,) = commands("olive run")
    done = ran(line, folder)
    assert "FP16 cannot do better" in done.stdout + done.stderr
    assert not (folder / "out" / "model.onnx").exists()


# OpenVINO


def ir_of(model, path):
    """An IR that has been written, and read again."""
    import openvino

    openvino.save_model(openvino.convert_model(model), path)
    return openvino.Core().read_model(path)


def ir_constants(model):
    nodes = [node for node in model.get_ops() if node.get_type_name() == "Constant"]
    return [(node.get_element_type().get_type_name(), node) for node in nodes]


def in_openvino(model, x, precision):
    import openvino

    hint = {"INFERENCE_PRECISION_HINT": precision}
    return openvino.Core().compile_model(model, "CPU", hint)(x)[0]


@needs("openvino")
@pytest.mark.slow
def test_the_detector_becomes_an_ir_with_constants_in_fp16(tmp_path):
    (feed,) = detector.drawn(1)
    fixed = halfsafe.fix(str(detector.file()), feed)
    fixed.save(tmp_path / "half.onnx")
    ir = ir_of(tmp_path / "half.onnx", tmp_path / "half.xml")
    constants = [(kind, node) for kind, node in ir_constants(ir) if kind in ("f16", "f32")]
    assert all(np.isfinite(node.get_data()).all() for _, node in constants)
    readers = [
        target.get_node().get_type_name()
        for kind, node in constants
        if kind == "f32"
        for target in node.output(0).get_target_inputs()
    ]
    assert set(readers) == {"Interpolate"}  # whose scales ONNX has in FP32 only
    (known,) = given(detector.file(), feed)
    (ours,) = given(tmp_path / "half.onnx", feed)
    floor = fixed.report.verification.floor
    assert relative(in_openvino(ir, feed["x"], "f32"), known) < 1.5 * floor
    assert relative(in_openvino(ir, feed["x"], "f32"), ours) < 1.5 * floor
    assert relative(in_openvino(ir, feed["x"], "bf16"), known) < 8 * 1.5 * floor  # three bits fewer


@needs("openvino")
@pytest.mark.parametrize(("beyond", "kind", "largest"), [(74, "f16", 65_504), (75, "f32", 100_000)])
def test_an_ir_keeps_fp32_where_three_quarters_are_beyond(beyond, kind, largest, tmp_path):
    weight = np.ones((100, 1), np.float32)
    weight[:beyond] = 1e5
    graph = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 18]> g (float[N, 100] x) => (float[N, 1] y)
        <float[100, 1] w> { y = MatMul(x, w) }"""
    )
    graph.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    onnx.save(graph, tmp_path / "net.onnx")
    ((found, node),) = ir_constants(ir_of(tmp_path / "net.onnx", tmp_path / "net.xml"))
    assert (found, float(node.get_data().max())) == (kind, largest)


# Core ML

left = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""coremltools leaves its temporary folders to the garbage collector."""


def loud():
    """The page's network of PyTorch, with a sample."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    with torch.no_grad():
        net[0].weight.mul_(1e6)
        net[2].weight.div_(1e5)
    return net, torch.randn(32, 8)


def ml_program(module, sample, path):
    """A network as an ML program: its operators with types, and its constants, from the disk."""
    import coremltools
    from coremltools.optimize.coreml import get_weights_metadata
    from coremltools.proto import MIL_pb2

    from examples.other_tools.to_core_ml import to_core_ml

    to_core_ml(module, sample).save(str(path))
    model = coremltools.models.MLModel(str(path), skip_model_load=True)
    (function,) = model.get_spec().mlProgram.functions.values()
    (block,) = function.block_specializations.values()
    operators = [
        (node.type, MIL_pb2.DataType.Name(node.outputs[0].type.tensorType.dataType))
        for node in block.operations
        if node.type != "const"
    ]
    found = get_weights_metadata(model, weight_threshold=0)
    return operators, {name: weight.val for name, weight in found.items()}


@left
@needs("coremltools")
def test_core_ml_casts_to_inf_what_overflows(tmp_path):
    net, x = loud()
    operators, constants = ml_program(net, x, tmp_path / "net.mlpackage")
    assert operators[:2] == [("linear", "FLOAT32"), ("cast", "FLOAT16")]
    assert {name: c.dtype for name, c in constants.items()}["p_0_weight"] == np.float32
    assert net[0](x).abs().max() > np.finfo(np.float16).max


@left
@needs("coremltools")
@pytest.mark.parametrize("kind", ["half", "model"])
def test_core_ml_has_a_fixed_module_in_fp16_to_the_bit(kind, tmp_path):
    net, x = loud()
    fixed = halfsafe.fix(net, x)
    module, sample = (fixed.half(), x.half()) if kind == "half" else (fixed.model, x)
    operators, constants = ml_program(module, sample, tmp_path / "net.mlpackage")
    casts = [] if kind == "half" else ["cast"]  # of the input
    assert [name for name, _ in operators] == [*casts, "linear", "relu", "linear"]
    assert {dtype for _, dtype in operators} == {"FLOAT16"}
    known = {name.replace(".", "_"): w.numpy() for name, w in fixed.half().state_dict().items()}
    found = {n.removeprefix("p_").removesuffix("_to_fp16"): c for n, c in constants.items()}
    assert found.keys() == known.keys()
    for name, constant in found.items():
        assert constant.dtype == np.float16
        assert np.array_equal(constant, known[name])
        assert np.isfinite(constant).all()
        assert constant.all()
