"""Attacks find what passes a claim: bounds that are planted too small, in modules and in files."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import parser
from torch import nn

import halfsafe
from bench.attacks import Box, attack, of_module
from tests.test_bounds import network

IDS = torch.zeros(2, 6, dtype=torch.int64)


def shrunk(claims, name, bits):
    """Claims of which one is too small by so many bits."""
    value = claims.values[name]
    smaller = replace(value, bound=value.bound / 2**bits)
    return replace(claims, values={**claims.values, name: smaller})


def pictures():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.GELU()
    )
    return net.eval(), torch.zeros(2, 3, 8, 8), {"input_1": (-1.0, 1.0)}


def file_of(path):
    model = parser.parse_model("""<ir_version: 10, opset_import: ["" : 18]>
        g (float[N, 8] x) => (float[N, 4] y) { h = MatMul (x, up)  y = Relu (h) }""")
    weight = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "up"))
    onnx.save(model, path)
    return path, {"x": np.zeros((3, 8), np.float32)}, {"x": (-2.0, 2.0)}


@pytest.fixture(params=[pytest.param("tokens", marks=pytest.mark.slow), "pictures", "file"])
def case(request, tmp_path):
    if request.param == "tokens":
        return network(), IDS, {}
    return pictures() if request.param == "pictures" else file_of(tmp_path / "m.onnx")


@pytest.mark.slow
def test_a_planted_bound_that_is_too_small_is_found(case):
    net, sample, domain = case
    claims = halfsafe.certify(net, domain, sample=sample)
    sound = attack(net, sample, claims, 300)
    assert sound.passed == []
    assert sound.unseen == []
    assert sound.inputs >= 300
    for name in (min(sound.bits, key=sound.bits.get), max(sound.bits, key=sound.bits.get)):
        planted = attack(net, sample, shrunk(claims, name, sound.bits[name] + 0.2), 300)
        assert planted.passed == [name]


@pytest.mark.slow
def test_climbing_finds_more_than_drawing():
    net, sample, domain = pictures()
    claims = halfsafe.certify(net, domain, sample=sample)
    climbed = attack(net, sample, claims, 300)
    drawn = attack(net, sample, claims, 300, targets=0)
    name = claims.worst[0]
    assert climbed.largest[name] > drawn.largest[name]


def test_an_overflow_passes_a_claim_that_fp16_holds_the_value():
    net = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4)).eval()
    with torch.no_grad():
        net[1].weight.mul_(1e6)
    sample = torch.zeros(2, 4)
    claims = halfsafe.certify(net, {"input_1": (-1.0, 1.0)}, sample=sample)
    found = attack(net, sample, claims, 60)
    assert found.overflowed
    assert "linear" not in found.passed
    small = replace(claims.values["linear"], bound=60_000.0)
    lying = replace(claims, values={**claims.values, "linear": small})
    assert "linear" in attack(net, sample, lying, 60).passed


@pytest.mark.parametrize("i", range(20))
def test_inputs_stay_within_the_domain(i):
    given = {
        "ids": torch.zeros(4, 9, dtype=torch.int64),
        "attention_mask": torch.ones(4, 9, dtype=torch.int64),
        "x": torch.zeros(4, 9, 3),
    }
    domain = {"ids": None, "attention_mask": (0, 1), "x": (-0.5, 2.0)}
    table = torch.randn(50, 8)
    box = Box(given, domain, {"ids": table}, {}, i, {})
    slopes = {"ids": torch.randn(4, 9, 8), "x": torch.randn(4, 9, 3)}
    for made in (box.drawn(i), box.changed(box.drawn(i), slopes, i), box.changed(given, {}, i)):
        assert {n: (x.shape, x.dtype) for n, x in made.items()} == {
            n: (x.shape, x.dtype) for n, x in given.items()
        }
        assert made["ids"].min() >= 0
        assert made["ids"].max() < 50
        assert set(made["attention_mask"].unique().tolist()) <= {0, 1}
        assert made["attention_mask"].any(-1).all()
        assert made["x"].min() >= -0.5
        assert made["x"].max() <= 2.0


class Held(nn.Module):
    """Of two inputs, each of which computes much alone."""

    def __init__(self):
        super().__init__()
        self.tokens, self.loud = network(), nn.Linear(4, 16)

    def forward(self, x, ids):
        sizes = torch.tanh(self.loud(x)).sum(-1, keepdim=True)[..., None]
        first, second = torch.split(sizes, 1)
        return self.tokens(ids) * sizes + first + second


def test_what_depends_on_a_held_input_alone_is_kept():
    sample = {"x": torch.zeros(2, 4), "ids": IDS}
    engine, given = of_module(Held().eval(), sample)
    box = Box(given, {"x": (-1.0, 1.0), "ids": None}, engine.tables, {}, 0, {"x": 4})
    for i in range(9):
        inputs = box.drawn(i)
        kept = engine.look(inputs).runs[0][0]
        engine.last = {}
        whole = engine.look(inputs).runs[0][0]
        assert kept == {name: size for name, size in whole.items() if name in kept}
        assert ("tanh" in kept) == (i % 4 == 0)
        assert "add" in kept
