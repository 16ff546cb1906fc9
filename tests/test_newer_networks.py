"""What newer networks are made of: bounds that are near, that no attack passes, and that the
checker confirms."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import halfsafe
from bench.attacks import attack
from halfsafe.checking import check
from halfsafe.frontends import open_model
from halfsafe.samples import Samples


class OnePlusGain(nn.Module):
    """LayerNorm of which the gain is stored as w and is 1 + w, as Nemotron has it."""

    def __init__(self):
        super().__init__()
        self.gain, self.shift = nn.Parameter(torch.randn(16) / 4), nn.Parameter(torch.randn(16))
        self.down = nn.Linear(16, 4)

    def forward(self, x):
        return self.down(F.layer_norm(x, (16,), 1 + self.gain, self.shift))


class GroupGain(nn.Module):
    """GroupNorm with a gain that is computed, and a convolution behind it."""

    def __init__(self):
        super().__init__()
        self.gain, self.shift = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(8))
        self.down = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x):
        return self.down(F.group_norm(x, 2, 2 * self.gain, self.shift.exp()))


class ResponseNorm(nn.Module):
    """What ConvNeXt V2 weighs channels with: the length of each over the mean of all lengths."""

    def __init__(self):
        super().__init__()
        self.gain, self.shift = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(8))

    def forward(self, x):
        length = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
        return x * (length / (length.mean(dim=-1, keepdim=True) + 1e-6)) * self.gain + self.shift


class Sinks(nn.Module):
    """Attention that may look at nothing: a column of the softmax is left out again."""

    def __init__(self):
        super().__init__()
        self.norm, self.values = nn.LayerNorm(8), nn.Linear(8, 8)
        self.sink, self.out = nn.Parameter(torch.randn(1)), nn.Linear(8, 4)

    def forward(self, x):
        h = self.norm(x)
        scores = h @ h.transpose(1, 2)
        sink = self.sink.expand(*scores.shape[:-1], 1)
        weights = torch.softmax(torch.cat([scores, sink], -1), -1)[..., :-1]
        return self.out(weights @ self.values(h))


class Filled(Sinks):
    """Attention whose weights are set to 0 behind the softmax, as DeBERTa has it."""

    def forward(self, x):
        h = self.norm(x)
        scores = h @ h.transpose(1, 2)
        far = torch.ones(6, 6, dtype=torch.bool).triu(1)
        return self.out(torch.softmax(scores, -1).masked_fill(far, 0.0) @ self.values(h))


class Routed(nn.Module):
    """Tokens are put in the order of their experts, and counted."""

    def __init__(self):
        super().__init__()
        self.router, self.rows = nn.Linear(8, 4), nn.Parameter(torch.randn(4, 8))

    def forward(self, x):
        best, chosen = self.router(x).topk(2, dim=-1)
        order, where = chosen.reshape(-1).sort()
        count = torch.histc(order.float(), bins=4, min=0, max=3)
        return torch.softmax(best, -1).reshape(-1)[where], order.float() * 3, count, where * 1.0


class Scan(nn.Module):
    """A state that is carried on, with lengths that ask those of the step before."""

    def __init__(self, steps=150):
        super().__init__()
        self.forget, self.out, self.steps = nn.Linear(8, 8), nn.Linear(8, 4, bias=False), steps

    def forward(self, x):
        state, kept = torch.zeros_like(x), torch.sigmoid(self.forget(x)) / 2
        for _ in range(self.steps):
            state = state * kept + torch.tanh(x)
        return self.out(state)


class Turned(nn.Module):
    """Queries and keys that are turned as complex numbers, as Llama was written first."""

    def __init__(self):
        super().__init__()
        self.norm, self.query, self.out = nn.LayerNorm(16), nn.Linear(16, 16), nn.Linear(16, 4)
        angles = torch.outer(torch.arange(6.0), 100.0 ** -(torch.arange(0, 16, 2) / 16))
        self.register_buffer("turns", torch.polar(torch.ones_like(angles), angles))

    def turned(self, x):
        pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * self.turns).flatten(2).type_as(x)

    def forward(self, x):
        h = self.norm(x)
        scores = self.turned(self.query(h)) @ self.turned(h).transpose(1, 2)
        return self.out(torch.softmax(scores, -1) @ h), self.turned(h)


class Spectrogram(nn.Module):
    """Frames of a wave, each a spectrum whose logarithm is read, and one that comes back."""

    def __init__(self):
        super().__init__()
        self.register_buffer("window", torch.hann_window(15))
        self.out = nn.Linear(8, 4)

    def forward(self, x):
        there = torch.stft(x, 15, 4, window=self.window, return_complex=True, center=False)
        back = torch.fft.irfft(torch.fft.rfft(x, norm="ortho") * 2, n=x.shape[-1], norm="ortho")
        both = torch.fft.fft2(torch.complex(x, -x)).conj() - 1j * x
        angle = both.angle() + torch.fft.ifft(both).abs()
        return self.out(torch.log1p(there.abs()).transpose(1, 2)), back, angle


CASES = {
    "turned": (Turned, (2, 6, 16), 1.5),
    "spectrogram": (Spectrogram, (2, 63), 4.5),
    "one plus gain": (OnePlusGain, (3, 16), 1.3),
    "group gain": (GroupGain, (2, 8, 4, 4), 3.0),
    "response norm": (ResponseNorm, (2, 4, 4, 8), 3.0),
    "sinks": (Sinks, (2, 6, 8), 1.5),
    "filled": (Filled, (2, 6, 8), 1.5),
    "routed": (Routed, (5, 8), 1.7),
    "scan": (Scan, (2, 8), 2.0),
}


def step_by_step(model, sample):
    """The largest magnitude of each value, on inputs of the domain, operator by operator: names of
    complex values' neighbours are others where a module is exported without casts."""
    source = open_model(model, Samples(sample).first, runs=False)
    draw, largest = torch.Generator().manual_seed(0), {}
    for i in range(60):
        x = torch.rand(sample.shape, generator=draw) * 4 - 2
        x = 2 * x.sign() if i % 3 == 0 else x
        x = 2 * torch.cos(torch.arange(x.shape[-1]) * i / 9).expand(x.shape) if i % 3 == 1 else x
        values = {"x": x.numpy()}
        for node in source.graph.nodes:
            read = {v: values[v] for v in node.inputs.values() if v in values}
            values |= zip(node.outputs, source.run_node(node.name, read), strict=True)
        for name, made in values.items():
            if source.graph.values[name].floating:
                largest[name] = max(largest.get(name, 0.0), float(abs(made).max()))
    return largest


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n == "scan" else n for n in CASES]
)
def test_bounds_are_near_and_nothing_passes_them(name):
    kind, shape, bits = CASES[name]
    torch.manual_seed(0)
    model, sample = kind().eval(), torch.zeros(shape)
    names = {"x": (-2.0, 2.0)}
    told = halfsafe.certify(model, names, sample=sample)
    found = attack(model, sample, told, 400)
    assert found.passed == []
    assert told.certified
    largest = step_by_step(model, sample)
    known = {n: v.bound for n, v in told.values.items()}
    assert [n for n, x in largest.items() if n in known and x > known[n]] == []
    last = list(told.values)[-1]
    assert math.log2(told.values[last].bound / max(largest[last], found.largest[last])) < bits
    assert check(told, model, sample=sample).why == ()


class Cast(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.up, self.dtype = nn.Linear(4, 4), dtype

    def forward(self, x):
        return (1e5 * self.up(x).float()).to(self.dtype).to(x.dtype) * 1e-5


def test_a_cast_to_fp16_of_the_models_own_has_to_hold_its_values():
    told = halfsafe.certify(Cast(torch.float16).eval(), {"x": (-1, 1)}, sample=torch.zeros(2, 4))
    over = [n for n, v in told.values.items() if not v.fits and v.bound]
    assert over == ["_to_copy_1", "_to_copy_2"]


def test_of_a_cast_to_eight_bits_nothing_is_known():
    model, x = Cast(torch.float8_e4m3fn).eval(), torch.zeros(2, 4)
    told = halfsafe.certify(model, {"x": (-1, 1)}, sample=x)
    assert not told.certified
    assert "_to_copy" in told.values["mul_1"].lost
    assert check(told, model, sample=x).confirmed


def test_a_division_by_what_is_no_mean_of_it_is_no_part():
    class Other(ResponseNorm):
        def forward(self, x):
            length = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
            return 2 * length / (length.mean(dim=-1, keepdim=True) - 1e-3)

    told = halfsafe.certify(Other().eval(), {"x": (-2, 2)}, sample=torch.zeros(2, 4, 4, 8))
    assert not told.certified
