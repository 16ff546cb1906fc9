"""Engines: found by name, each running what is delivered and telling of which types."""

from importlib.metadata import EntryPoint

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import halfsafe
from halfsafe import BadInput, engines
from halfsafe.engines import HALF, Profile, engine_of
from halfsafe.engines.strict import Evaluated, Strict
from halfsafe.engines.torch import Eager
from halfsafe.formats import BFLOAT16
from halfsafe.frontends import open_model
from halfsafe.samples import Samples


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
CASES = [(name, net, samples()) for name in ("strict", "torch", "torch-compiled")]
CASES += [(name, file, ARRAYS) for name in ("strict", "onnxruntime")]


@pytest.mark.parametrize(("name", "build", "given"), CASES)
def test_an_engine_runs_what_is_delivered(name, build, given):
    engine = engine_of(name)
    source, call = opened(build(), given)
    (found,), (reference,) = engine.build(source).run(call), source.reference(call)
    assert found.dtype == np.float64
    assert found.shape == reference.shape
    assert 0 < np.abs(found - reference).max() < 5e-3 * np.abs(reference).max()


@pytest.mark.parametrize(("name", "build", "given"), CASES)
def test_an_engine_tells_of_which_types_it_computes(name, build, given):
    source, call = opened(build(), given)
    census = engine_of(name).build(source).census(call)
    if name == "onnxruntime":  # the CPU provider has no FP16 kernels: it casts, and says so
        assert census["float"] > 0
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
        with pytest.raises(BadInput, match=f"'{name}' cannot run here: it needs a"):
            engine_of(name)


@pytest.mark.parametrize(
    ("name", "build", "given"), [("onnxruntime", net, samples()), ("torch", file, ARRAYS)]
)
def test_an_engine_refuses_what_it_does_not_run(name, build, given):
    with pytest.raises(BadInput, match=f"the engine '{name}' runs"):
        halfsafe.fix(build(), given, engine=name)


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
