"""Inputs of few entries are cut into pieces where bounds do not fit, and no bound is passed."""

from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from torch import nn

import halfsafe
from halfsafe.bounds.bound import Bound
from halfsafe.bounds.splitting import hulls, that_can_be_cut
from halfsafe.checking.walk import Walk
from halfsafe.frontends import open_model
from halfsafe.samples import Samples


class Coordinates(nn.Module):
    """What a field is at a place."""

    def __init__(self, entries: int, act=torch.relu, gain: float = 1.0):
        super().__init__()
        sizes = [entries, *[32] * 4]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))
        self.last, self.act, self.gain = nn.Linear(32, 3), act, gain

    def forward(self, place):
        for layer in self.layers:
            place = self.act(layer(place))
        return self.last(place) * self.gain


def net(entries: int, **how) -> Coordinates:
    torch.manual_seed(0)
    made = Coordinates(entries, **how).eval()
    for layer in made.layers:
        nn.init.kaiming_normal_(layer.weight)
    return made


def largest(model: nn.Module, inputs: list[tuple]) -> dict[str, float]:
    """Of what every linear layer gives, in FP32 and in FP16."""
    found: dict[str, float] = {}
    names = [m for m in model.modules() if isinstance(m, nn.Linear)]
    for half in (False, True):
        model = model.half() if half else model.float()

        def look(module, _, out):
            name = "linear" + (f"_{i}" if (i := names.index(module)) else "")
            found[name] = max(found.get(name, 0.0), out.abs().max().item())

        hooks = [m.register_forward_hook(look) for m in names]
        with torch.no_grad():
            for given in inputs:
                model(*(x.half() if half and x.is_floating_point() else x for x in given))
        for hook in hooks:
            hook.remove()
    model.float()
    return found


def places(entries: int) -> list[tuple]:
    """Corners, edges of pieces, and many between."""
    torch.manual_seed(1)
    edges = torch.linspace(-1, 1, {1: 257, 2: 17, 3: 7}[entries])
    grid = torch.cartesian_prod(*[edges] * entries).reshape(-1, entries)
    return [(torch.cat([grid, 2 * torch.rand(3000, entries) - 1]),)]


@pytest.mark.parametrize(("entries", "act"), list(product([1, 2, 3], [torch.relu, torch.sin])))
def test_no_bound_of_pieces_is_passed(entries, act):
    model = net(entries, act=act, gain=1e9)
    x = torch.zeros(1, entries)
    plain = halfsafe.certify(model, {"place": (-1, 1)}, sample=x, refine=0)
    found = halfsafe.certify(model, {"place": (-1, 1)}, sample=x)
    assert not plain.cuts and found.cuts == {"place": {1: 256, 2: 16, 3: 6}[entries]}
    assert halfsafe.check(found, model, sample=x).confirmed
    seen = largest(model, places(entries))
    assert len(seen) == 5
    for name, size in seen.items():
        assert size <= found.values[name].bound <= plain.values[name].bound
    if act is torch.relu:
        assert (
            plain.values["linear_3"].bound
            > (7 if entries == 1 else 1.5) * found.values["linear_3"].bound
        )


def test_a_certificate_that_needs_pieces_says_so_and_is_confirmed_with_them_alone():
    model, x = net(1, gain=3000.0), torch.zeros(1, 1)
    plain = halfsafe.certify(model, {"place": (-1, 1)}, sample=x, refine=0)
    found = halfsafe.certify(model, {"place": (-1, 1)}, sample=x)
    assert not plain.certified
    assert found.certified and found.cuts and not found.ended
    assert halfsafe.Certificate.from_json(found.to_json()) == found
    assert halfsafe.check(found, model, sample=x).confirmed
    for cuts in ({}, {"place": 2}, {"other": 64}, {"place": 10**9}, {"place": 0}):
        assert not halfsafe.check(replace(found, cuts=cuts), model, sample=x).confirmed
    small = replace(found.values["mul"], bound=found.values["mul"].bound / 4)
    planted = replace(found, values={**found.values, "mul": small})
    assert not halfsafe.check(planted, model, sample=x).confirmed


def test_what_there_is_no_time_for_is_told():
    found = halfsafe.certify(
        net(1, gain=3000.0), {"place": (-1, 1)}, sample=torch.zeros(1, 1), refine=1e-6
    )
    assert not found.certified and not found.cuts
    assert "place: not cut into 4 pieces, for which 1e-06 seconds are too few" in found.text()


class Timed(nn.Module):
    """A picture whose norm has gains that come of a time, of which waves are told."""

    def __init__(self, gain: float):
        super().__init__()
        self.register_buffer("speeds", torch.logspace(0, -3, 16))
        self.first, self.second = nn.Linear(32, 64), nn.Linear(64, 16)
        self.norm, self.gain = nn.LayerNorm(16, elementwise_affine=False), gain

    def forward(self, x, time):
        angle = time[:, None].to(x.dtype) * self.speeds.to(x.dtype)
        waves = torch.cat([angle.sin(), angle.cos()], -1)
        scale = self.second(torch.relu(self.first(waves)))
        return self.norm(x) * (1 + self.gain * scale[:, None])


def timed(gain: float) -> Timed:
    torch.manual_seed(0)
    return Timed(gain).eval()


def test_what_depends_on_others_as_well_is_bounded_with_the_hull():
    model = timed(1e4)
    sample = {"x": torch.zeros(1, 5, 16), "time": torch.zeros(1, dtype=torch.int64)}
    domain = {"x": (-3, 3), "time": (0, 99)}
    plain = halfsafe.certify(model, domain, sample=sample, refine=0)
    found = halfsafe.certify(model, domain, sample=sample)
    assert list(found.cuts) == ["time"]
    assert halfsafe.check(found, model, sample=sample).confirmed
    last = next(n for n in reversed(found.values) if n.startswith("mul"))
    assert found.values[last].bound < 0.9 * plain.values[last].bound
    draw = torch.Generator().manual_seed(0)
    given = [
        (3 * torch.randn(1, 5, 16, generator=draw).sign(), torch.tensor([t])) for t in range(100)
    ]
    for name, size in largest(model, given).items():
        assert size <= found.values[name].bound
    assert max(model(*pair).abs().max().item() for pair in given) <= found.values[last].bound


def test_an_input_of_many_entries_or_of_any_numbers_is_not_cut():
    one = Bound.between((1,), -1.0, 1.0)
    domain = {
        "one": one,
        "point": Bound.between((1, 1), 2.0, 2.0),
        "ids": Bound.between((1,), -np.inf, np.inf),
        "rows": Bound.between((2, 2), 0.0, 1.0),
        "none": Bound.between((0, 1), 0.0, 1.0),
    }
    assert that_can_be_cut(domain) == ["one"]


@pytest.mark.parametrize("wave", [torch.sin, torch.cos])
def test_waves_of_an_interval_go_no_farther_than_told(wave):
    """In both implementations, of narrow intervals and wide ones, near and far from 0."""

    class Wave(nn.Module):
        def forward(self, x):
            return wave(x)

    draw = np.random.default_rng(0)
    source = open_model(Wave().eval(), Samples(torch.zeros(1)).first, runs=False)
    for _ in range(300):
        middle = draw.normal() * 10.0 ** draw.uniform(-2, 4)
        half = 10.0 ** draw.uniform(-3, 1)
        low, high = middle - half, middle + half
        bound = hulls(source, {"x": Bound.between((1,), low, high)}, "x", 1)[wave.__name__]
        walked = Walk(source, {"x": (low, high)}).known(lambda _: None)[wave.__name__]
        inside = np.float16(np.linspace(low, high, 2001)).astype(np.float64)
        true = getattr(np, wave.__name__)(np.concatenate([inside, np.linspace(low, high, 2001)]))
        for known in (bound, walked):
            assert known.low.min() <= true.min() and true.max() <= known.high.max()
            if abs(middle) < 1:
                assert known.high.max() <= true.max() + 0.01 * (1 + half)
