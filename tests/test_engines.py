"""Engines: found by name, each running what is delivered and telling of which types."""

import re
import subprocess
import sys
import warnings
from importlib.metadata import EntryPoint
from importlib.util import find_spec

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

import halfsafe
from halfsafe import BadInput, engines
from halfsafe.engines import HALF, Profile, engine_of, notes_of, openvino, version_of
from halfsafe.engines.served import saved
from halfsafe.engines.strict import Evaluated, Strict
from halfsafe.engines.torch import Eager
from halfsafe.formats import BFLOAT16
from halfsafe.frontends import open_model
from halfsafe.frontends.onnx.deliver import HalfFile
from halfsafe.frontends.torch.deliver import HalfModule
from halfsafe.samples import Call, Samples


def needs(package):
    reason = f"{package} is not installed"
    return pytest.mark.skipif(find_spec(package) is None, reason=reason)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4), nn.Softmax(-1)).eval()


def samples(size=8):
    generator = torch.Generator().manual_seed(1)
    return [(100 * torch.randn(3, size, generator=generator),) for _ in range(3)]


def file():
    text = """<ir_version: 8, opset_import: ["" : 18]>
    g (float[N,8] x) => (float[N,4] y) <float[8,4] w> { h = MatMul(x, w) y = Relu(h) }"""
    model = onnx.parser.parse_model(text)
    weight = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return model


def opened(model, given):
    supply = Samples(given)
    return open_model(model, supply.first), supply.first


ARRAYS = [x.numpy() for (x,) in samples()]
CASES = [(name, net, samples()) for name in ("strict", "torch")]
CASES += [pytest.param("torch-compiled", net, samples(), marks=pytest.mark.slow)]
CASES += [(name, file, ARRAYS) for name in ("strict", "onnxruntime")]
CASES += [("onnxruntime", net, samples())]
CASES += [
    pytest.param("openvino", *case, marks=needs("openvino"))
    for case in ((net, samples()), (file, ARRAYS))
]


@pytest.mark.parametrize(("name", "build", "given"), CASES)
def test_an_engine_runs_what_is_delivered(name, build, given):
    engine = engine_of(name)
    source, call = opened(build(), given)
    (found,), (reference,) = engine.build(source).run(call), source.reference(call)
    assert found.dtype in (np.float32, np.float64)
    assert found.shape == reference.shape
    bits = engine.profile.stores.mantissa_bits
    assert 0 < np.abs(found - reference).max() < 5 * 2.0**-bits * np.abs(reference).max()


@pytest.mark.parametrize(("name", "build", "given"), CASES)
def test_an_engine_tells_of_which_types_it_computes(name, build, given):
    source, call = opened(build(), given)
    census = engine_of(name).build(source).census(call)
    if name == "onnxruntime":  # the CPU provider has no FP16 kernels: it casts, and says so
        assert census["float32"] > 0
    elif name == "openvino":
        assert census[openvino.computed("CPU")] > 0
    else:
        assert census["float16"] >= 2


def test_fix_proves_where_it_is_told():
    for name in ("strict", "torch"):
        proof = halfsafe.fix(net(), samples(), engine=name).report.verification
        assert proof.engine == name
        assert proof.safe


def test_verify_runs_a_candidate_where_it_is_told():
    model, given = file(), ARRAYS
    half = halfsafe.fix(model, given).half()
    proofs = [halfsafe.verify(model, half, given, engine=e) for e in (None, "onnxruntime")]
    assert [p.engine for p in proofs] == ["strict", "onnxruntime"]
    assert all(p.safe for p in proofs)
    assert proofs[0].findings_own
    assert not proofs[1].findings_own


class Wrong(Strict):
    """An engine that gives the first entry of each output as 7."""

    def build(self, deliverable):
        found = super().build(deliverable)

        class Spoilt(Evaluated):
            def run(self, call):
                made = Evaluated.run(found, call)
                for output in made:
                    output.flat[0] = 7.0
                return made

        return Spoilt(deliverable, HALF)


def test_an_engine_of_the_users_own_is_one_class():
    report = halfsafe.fix(net(), samples(), engine=Wrong(name="wrong")).report
    assert report.verification.engine == "wrong"
    assert not report.safe


def test_the_floor_has_the_bits_of_the_format_that_an_engine_stores():
    wide = Strict(name="strict in bfloat16", profile=Profile(BFLOAT16))
    in_half, in_wide = (
        halfsafe.fix(file(), ARRAYS, engine=engine).report.verification
        for engine in ("strict", wide)
    )
    assert 4 < in_wide.floor / in_half.floor < 16
    assert in_wide.after == in_wide.floor
    assert in_wide.safe


def test_an_engine_is_found_by_its_entry_point(monkeypatch):
    point = EntryPoint("mine", f"{__name__}:Wrong", engines.GROUP)
    monkeypatch.setattr(engines, "entry_points", lambda group: [point])
    assert "mine" in engines.names()
    assert isinstance(engine_of("mine"), Wrong)


def test_an_unknown_engine_is_refused_with_the_known_ones():
    with pytest.raises(BadInput, match="no engine 'tensorflow': it is one of onnxruntime,"):
        halfsafe.fix(net(), samples(), engine="tensorflow")


@pytest.mark.parametrize("name", engines.names())
def test_an_engine_that_cannot_run_here_says_what_it_needs(name):
    found = engines._named(name)
    if found.available():
        assert engine_of(name) == found
    else:
        with pytest.raises(BadInput, match=f"'{name}' cannot run here: it needs (a|the) "):
            engine_of(name)


def test_an_engine_refuses_what_it_does_not_run():
    with pytest.raises(BadInput, match="the engine 'torch' runs PyTorch modules, not ONNX"):
        halfsafe.fix(file(), ARRAYS, engine="torch")


@pytest.mark.parametrize("name", engines.names())
def test_an_engine_tells_what_it_runs_on(name):
    told = version_of(engines._named(name))
    assert re.search(r"^[a-z_-]+ (\d+\.\d+|is not installed)", told)
    assert not name.endswith(("cuda", "rtx", "tensorrt")) or "GPU" in told or "CUDA" in told


def test_an_engine_without_a_version_runs_all_the_same():
    class Plain:
        name, profile, needs = "plain", HALF, "nothing"
        available = Strict.available
        build = Strict.build

    report = halfsafe.fix(net(), samples(), engine=Plain()).report
    assert report.verification.engine == "plain"
    assert version_of(Plain()) == ""
    assert notes_of(Plain().build(None)) == ()


def test_listing_engines_imports_none():
    code = "import sys; from halfsafe import engines; engines.names(); print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ran.stdout.split())
    assert "halfsafe.engines" in loaded
    assert not loaded & {"torch", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"}


class Mixed(nn.Module):
    """Floating, integer and bool tensors in and out, nested, an output twice, a number."""

    def __init__(self):
        super().__init__()
        self.fc, self.norm = nn.Linear(8, 16), nn.LayerNorm(16)

    def forward(self, x, kept, at=None, scale=2):
        h = torch.where(kept[..., None], self.norm(self.fc(x)), 0.0)
        taken = h[..., at].softmax(-1) * scale
        return {"taken": taken, "all": [h, h], "where": at + 1, "any": kept.any(-1), "given": x}


def mixed_sample(rows=3):
    generator = torch.Generator().manual_seed(rows)
    x = 10 * torch.randn(rows, 5, 8, generator=generator)
    return {"x": x, "kept": x[..., 0] > 0, "at": torch.tensor([1, 5, 6]), "scale": 3}


def test_a_module_is_exported_with_all_that_goes_in_and_comes_out():
    torch.manual_seed(0)
    call = Samples(mixed_sample()).first
    source = open_model(Mixed().eval(), call)
    running = engine_of("onnxruntime").build(source)
    for found, expected in zip(running.run(call), source.reference(call), strict=True):
        assert found.dtype == expected.dtype
        assert np.allclose(found, expected, rtol=0, atol=0.02)
    assert "CPU provider computes in FP32" in notes_of(running)[0]
    assert running.census(call)["float16"] > 4


@pytest.mark.slow
def test_a_candidate_of_other_outputs_is_read_in_the_order_of_the_original():
    class Swapped(nn.Linear):
        def forward(self, x):
            return {"b": 2 * super().forward(x), "a": x}

    class Straight(nn.Linear):
        def forward(self, x):
            return {"a": x, "b": 2 * super().forward(x)}

    torch.manual_seed(0)
    source, call = opened(Straight(8, 8).eval(), samples())
    candidate = Swapped(8, 8)
    candidate.load_state_dict(source.model.state_dict())
    half = source.running(candidate.half())
    found = engine_of("onnxruntime").build(half).run(call)
    for a, b in zip(found, source.reference(call), strict=True):
        assert np.allclose(a, b, rtol=2e-3, atol=0.2)


@pytest.mark.slow
def test_a_module_is_exported_once_for_each_set_of_shapes():
    given = [mixed_sample(rows) for rows in (3, 3, 2)]
    source = open_model(Mixed().eval(), Samples(given).first, None, [*Samples(given)])
    running = engine_of("onnxruntime").build(source)
    served = [running.serving(call) for call in Samples(given)]
    assert served[0] is served[1]
    assert served[0] is not served[2]
    assert [running.run(call)[0].shape[0] for call in Samples(given)] == [3, 3, 2]


@pytest.mark.slow
def test_exporting_is_not_heard(capfd):
    source, call = opened(net(), samples())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine_of("onnxruntime").build(source).run(call)
    assert capfd.readouterr() == ("", "")


@needs("openvino")
def test_openvino_says_in_what_it_computes_when_it_is_asked_for_fp16():
    engine, (source, call) = engine_of("openvino"), opened(file(), ARRAYS)
    running = engine.build(source)
    running.run(call)
    _, _, compiled = running._built.of(call)
    kind = openvino.NAMES[compiled.get_property(openvino.HINT).to_string()]
    assert kind == openvino.computed("CPU")
    assert f"computes in {kind}" in version_of(engine)
    if kind == "float16":
        assert not notes_of(running)
    else:
        assert f"asked for float16 and computes in {kind}" in notes_of(running)[0]
    assert engine.profile.stores == (BFLOAT16 if kind == "bfloat16" else HALF.stores)


@needs("openvino")
def test_openvino_runs_what_overflows_in_fp16_and_that_is_no_proof():
    """What a real engine says is not always what FP16 does: strict evaluation is there for that."""
    text = """<ir_version: 8, opset_import: ["" : 18]> g (float[4] x) => (float[4] y)
    <float k = {300.0}> { a = Mul(x, k) b = Mul(a, a) y = Div(b, a) }"""
    model, given = onnx.parser.parse_model(text), [np.full(4, 2.0, np.float32)]
    source, call = opened(model, given)
    found = {name: engine_of(name).build(source).run(call)[0] for name in ("strict", "openvino")}
    assert np.isinf(found["strict"]).all()
    if openvino.computed("CPU") != "float16":
        assert np.allclose(found["openvino"], 600, rtol=1e-2)


@needs("openvino")
def test_openvino_refuses_in_one_line_what_it_does_not_take():
    text = """<ir_version: 8, opset_import: ["" : 18, "mine" : 1]>
    g (float[4] x) => (float[4] y) { y = mine.Unknown(x) }"""
    running = engine_of("openvino").build(HalfFile(ir.from_proto(onnx.parser.parse_model(text))))
    with pytest.raises(BadInput, match=r"OpenVINO does not take .*Unknown") as refused:
        running.run(Call((np.ones(4, np.float32),), {}))
    assert "\n" not in str(refused.value)
    source, _ = opened(file(), ARRAYS)
    with pytest.raises(BadInput, match=r"sample 3 does not fit: .*incompatible"):
        engine_of("openvino").build(source).run(Call((np.ones((2, 9), np.float32),), {}, 3))


def test_a_file_that_draws_is_for_one_engine_only():
    text = """<ir_version: 8, opset_import: ["" : 18]> g (float[4] x) => (float[4] y)
    { r = RandomNormalLike(x) y = Add(x, r) }"""
    half = HalfFile(ir.from_proto(onnx.parser.parse_model(text)))
    with (
        pytest.raises(BadInput, match=r"draws random numbers.*choose 'onnxruntime'"),
        saved(half.model),
    ):
        pass


class Attention(nn.Module):
    """Operators that could draw numbers, and are told not to."""

    def forward(self, x):
        attended = nn.functional.scaled_dot_product_attention(x, x, x)
        return nn.functional.dropout(attended, 0.5, training=False)


def test_dropout_that_is_off_draws_nothing():
    _, call = opened(net(), samples())
    call = Call(tuple(x[None, None] for x in call.args), {})
    (found,) = engine_of("onnxruntime").build(HalfModule(Attention())).run(call)
    assert np.allclose(found, Attention()(*call.args), rtol=2e-3, atol=0.2)


class Bessel(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)


class Branch(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Dropping(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x, 0.5, training=True)


class Drawing(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Bessel, "torch.onnx.export refuses.*No ONNX function found for .*bessel_j0"),
        (Branch, "torch.export refuses Branch in FP16: .*data-dependent.*choose the engine"),
        (Dropping, "aten.dropout.default draws random numbers"),
        (Drawing, "aten.randn_like.default draws random numbers"),
    ],
)
def test_what_the_exporter_refuses_is_told_in_one_line(module, message):
    _, call = opened(net(), samples())
    running = engine_of("onnxruntime").build(HalfModule(module().half()))
    with pytest.raises(BadInput, match=message) as refused:
        running.run(call)
    assert "\n" not in str(refused.value)


def test_a_module_in_half_has_no_graph_for_strict_evaluation():
    model = net()
    half = halfsafe.fix(model, samples()).half()
    with pytest.raises(
        BadInput, match=r"cannot be evaluated in float16.*choose the engine 'torch'"
    ):
        halfsafe.verify(model, half, samples(), engine="strict")


def test_an_engine_leaves_a_candidate_where_it_is():
    source, _ = opened(net(), samples())
    half = source.running(net().half())
    engine = Eager(device="meta")
    engine.build(half)
    assert {p.device.type for p in half.module.parameters()} == {"cpu"}
