"""Candidates that are wrong in one way each, and candidates that are right: what is the verdict?

Run as ``python -m bench.lies``, with names as arguments for some only. Networks are small and of
usual kinds: an MLP, a convolution, attention on padded rows of tokens, a recurrent one, several
outputs, integer outputs; in PyTorch, and exported to ONNX. Each candidate is right or wrong by
construction, and bench/judge.py, which shares no code with halfsafe, has to confirm that. A verdict
is right if it is "safe" for what is right and anything else (bad input too) for what is wrong.
"""

# pyright: basic

from __future__ import annotations

import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch
from onnx import helper
from onnxruntime.transformers.float16 import convert_float_to_float16
from torch import Tensor, nn
from torch.nn import functional

import halfsafe
import halfsafe.verdict
from bench import judge
from bench.record import record

COMMAND = "python -m bench.lies"
Outputs = list[Tensor]
Fault = Callable[[Outputs, tuple[Tensor, ...]], Sequence[Tensor]]
Ask = Literal["verify", "fix", "inspect"]


@dataclass(frozen=True)
class Trial:
    """A model and what stands beside it. `scales` are natural scales of bounded outputs."""

    model: Any
    candidate: Any
    samples: list[Any]
    scales: tuple[float, ...] = ()
    ask: Ask = "verify"
    metric: str | halfsafe.verdict.Metric | None = None


@dataclass(frozen=True)
class Case:
    kind: str
    on: str
    right: bool
    build: Callable[[], Trial]

    @property
    def name(self) -> str:
        return f"{self.kind} / {self.on}"


CASES: list[Case] = []


def case(kind: str, on: str, *, right: bool) -> Callable[[Callable[[], Trial]], Any]:
    def add(build: Callable[[], Trial]) -> Callable[[], Trial]:
        CASES.append(Case(kind, on, right, build))
        return build

    return add


lie, truth = partial(case, right=False), partial(case, right=True)


# Networks


@dataclass(frozen=True)
class Net:
    """A trained-looking network with samples, the first of which is the one that is captured."""

    model: nn.Module
    samples: list[tuple[Tensor, ...]]
    scales: tuple[float, ...] = ()


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build().eval()


class Mlp(nn.Module):
    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(32, 64), nn.LayerNorm(64, eps), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(functional.gelu(self.norm(self.up(x))))


class Conv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 8, 3, stride=2, padding=1)
        self.norm.running_var.uniform_(0.3, 2.0)
        self.norm.running_mean.normal_()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(functional.relu(self.norm(self.first(x))))


class Attention(nn.Module):
    """One block on rows of tokens, of which `kept` says which are no padding."""

    def __init__(self, fill: float = -1e4, width: int = 32) -> None:
        super().__init__()
        self.fill = fill
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, kept: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        scores = 4.0 * q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        scores = scores.masked_fill(~kept[:, None, :], self.fill)
        return x + self.out(scores.softmax(-1) @ v)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRU(16, 24, batch_first=True), nn.Linear(24, 24)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, state = self.cell(x)
        return self.head(y), state


class Heads(nn.Module):
    """A first output with much noise of FP16 in it, and a second one without."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(32, 48)
        self.noisy, self.clean = nn.Linear(48, 10), nn.Linear(48, 12)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = functional.relu(self.trunk(x))
        return (self.noisy(h) + 8.0) - 8.0, self.clean(h)


class Labels(nn.Module):
    """Logits, the label of each row, and the three best with their places."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 12))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        logits = self.body(x)
        best, places = logits.topk(3)
        return logits, logits.argmax(-1), best, places


class Picture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Scores(nn.Module):
    """Probabilities, of which most are near 0."""

    def __init__(self, last: str = "softmax", gain: float = 12.0) -> None:
        super().__init__()
        self.last, self.gain, self.head = last, gain, nn.Linear(32, 40)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.gain * self.head(x)
        return logits.softmax(-1) if self.last == "softmax" else logits.sigmoid()


class Stream(nn.Module):
    """Homogeneous: what is a million times as small comes out a million times as small."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(32, 64, bias=False)
        self.down = nn.Linear(64, 32, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(functional.relu(self.up(x)))


def clear_rows(model: nn.Module, rows: int) -> list[tuple[Tensor, ...]]:
    """Samples on which the best logits are well apart: FP16 has no reason to take another."""
    found: list[Tensor] = []
    for seed in range(10_000):
        x = 2.0 * rand(1, 32, seed=seed)
        best = model(x)[0].topk(4).values[0]
        if (best[:-1] - best[1:]).min() > 0.08:
            found.append(x)
        if len(found) == 3 * rows:
            break
    return [(torch.cat(found[i : i + rows]),) for i in range(0, len(found), rows)]


def padded(lengths: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
    kept = torch.arange(12)[None, :] < torch.tensor(lengths)[:, None]
    return rand(len(lengths), 12, 32, seed=seed), kept


@cache
def net(name: str) -> Net:
    """By name; weights and samples are the same in each call."""
    rows = [(rand(6, 32, seed=i),) for i in (1, 2, 3)]
    images = [(rand(2, 3, 16, 16, seed=i),) for i in (1, 2, 3)]
    with torch.no_grad():
        match name:
            case "mlp":
                return Net(seeded(Mlp), rows)
            case "conv":
                return Net(seeded(Conv), images)
            case "attention":
                lengths = ((12, 12), (12, 7), (5, 9))
                return Net(seeded(Attention), [padded(n, i) for i, n in enumerate(lengths)])
            case "recurrent":
                return Net(seeded(Recurrent), [(rand(2, 10, 16, seed=i),) for i in (1, 2, 3)])
            case "heads":
                return Net(seeded(Heads), rows)
            case "labels":
                model = seeded(Labels)
                return Net(model, clear_rows(model, 6))
            case "picture":
                return Net(seeded(Picture), [(rand(1, 3, 64, 64, seed=i),) for i in (1, 2, 3)])
            case "softmax" | "sigmoid":
                return Net(seeded(partial(Scores, name)), rows, (1.0,))
            case "stream":
                return Net(seeded(Stream), rows)
    raise KeyError(name)


# Candidates


class Tampered(nn.Module):
    """A network whose outputs go through a fault before anybody sees them."""

    def __init__(self, inner: nn.Module, fault: Fault) -> None:
        super().__init__()
        self.inner, self.fault = inner, fault

    def forward(self, *xs: Tensor) -> tuple[Tensor, ...]:
        out = self.inner(*xs)
        return tuple(self.fault(list(out) if isinstance(out, tuple) else [out], xs))


def half(model: nn.Module) -> nn.Module:
    """A copy of a module in FP16."""
    import copy

    return copy.deepcopy(model).half().eval()


def export(model: nn.Module, sample: tuple[Tensor, ...]) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        names = [f"in{i}" for i in range(len(sample))]
        outputs = len(judge.torch_called(model, sample))
        torch.onnx.export(
            model, sample, path, dynamo=True, verbose=False, external_data=False, opset_version=18,
            input_names=names, output_names=[f"out{i}" for i in range(outputs)],
        )  # fmt: skip
        return onnx.load(path)


@cache
def exported(name: str) -> onnx.ModelProto:
    return export(net(name).model, net(name).samples[0])


def feeds(model: onnx.ModelProto, samples: list[tuple[Tensor, ...]]) -> list[dict[str, Any]]:
    names = [i.name for i in model.graph.input]
    return [{n: x.numpy() for n, x in zip(names, sample, strict=True)} for sample in samples]


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(model.SerializeToString())


def in_order(model: onnx.ModelProto) -> onnx.ModelProto:
    """With its nodes sorted: converters leave their Casts at the end of the list."""
    made = ir.from_proto(model)
    made.graph.sort()
    return ir.to_proto(made)


def converted(model: onnx.ModelProto) -> onnx.ModelProto:
    return in_order(convert_float_to_float16(copied(model), keep_io_types=True))


def torch_trial(name: str, candidate: nn.Module, samples: list[Any] | None = None) -> Trial:
    found = net(name)
    return Trial(found.model, candidate, samples or list(found.samples), found.scales)


def onnx_trial(name: str, candidate: onnx.ModelProto, samples: list[Any] | None = None) -> Trial:
    found, model = net(name), exported(name)
    return Trial(model, candidate, feeds(model, samples or found.samples), found.scales)


def tampered(name: str, fault: Fault, way: str) -> Trial:
    inner = Tampered(net(name).model, fault)
    if way == "torch":
        return torch_trial(name, half(inner))
    return onnx_trial(name, converted(export(inner, net(name).samples[0])))


def is_sample(name: str, number: int, xs: tuple[Tensor, ...]) -> Tensor:
    """Whether this is one sample of a network's, told by its first entry."""
    first = net(name).samples[number][0].flatten()[0]
    return (xs[0].flatten()[0] - first.to(xs[0].dtype)).abs() < 1e-2 * first.abs().item()


def at(x: Tensor, axis: int, place: int) -> Tensor:
    """A mask of one place of an axis."""
    shape = [1] * x.dim()
    shape[axis] = x.shape[axis]
    return (torch.arange(x.shape[axis]) == place).reshape(shape)


def entry(x: Tensor, place: int) -> Tensor:
    return (torch.arange(x.numel()) == place).reshape(x.shape)


def replaced(i: int, mask: Callable[[Tensor], Tensor], new: Callable[[Tensor], Tensor]) -> Fault:
    """Output `i` with other numbers where the mask says so."""

    def fault(ys: Outputs, xs: tuple[Tensor, ...]) -> Outputs:
        ys[i] = torch.where(mask(ys[i]), new(ys[i]), ys[i])
        return ys

    return fault


def on_sample(name: str, number: int, new: Callable[[Tensor], Tensor]) -> Fault:
    def fault(ys: Outputs, xs: tuple[Tensor, ...]) -> Outputs:
        ys[0] = torch.where(is_sample(name, number, xs), new(ys[0]), ys[0])
        return ys

    return fault


def every(y: Tensor) -> Tensor:
    return torch.ones_like(y, dtype=torch.bool)


def zero(y: Tensor) -> Tensor:
    return torch.zeros_like(y)


def constant(value: float) -> Callable[[Tensor], Tensor]:
    return lambda y: torch.full_like(y, value)


def moved(i: int, axis: int) -> Fault:
    """The items of an axis of an output change places."""

    def fault(ys: Outputs, xs: tuple[Tensor, ...]) -> Outputs:
        ys[i] = ys[i].flip(axis)
        return ys

    return fault


def other_place(y: Tensor) -> Tensor:
    return (y + 1) % 12


FAULTS: list[tuple[str, str, Fault]] = [
    *(
        ("a row of zeros", n, replaced(0, lambda y: at(y, -2, 1), zero))
        for n in ("mlp", "attention", "recurrent", "softmax", "labels")
    ),
    *(
        ("a channel of zeros", n, replaced(0, lambda y: at(y, 1, 2), zero))
        for n in ("conv", "picture")
    ),
    *(
        ("a channel 20 % off", n, replaced(0, lambda y: at(y, 1, 2), lambda y: 1.2 * y))
        for n in ("conv", "picture")
    ),
    ("a feature of zeros", "attention", replaced(0, lambda y: at(y, -1, 4), zero)),
    *(
        ("one entry of zero", n, replaced(0, lambda y: entry(y, 7), zero))
        for n in ("mlp", "conv", "attention", "picture")
    ),
    *(
        ("one entry saturated", n, replaced(0, lambda y: entry(y, 7), constant(65504.0)))
        for n in ("mlp", "picture")
    ),
    ("a number answered by -inf", "mlp", replaced(0, lambda y: entry(y, 7), constant(-np.inf))),
    ("a number answered by inf", "attention", replaced(0, lambda y: entry(y, 7), constant(np.inf))),
    ("a number answered by NaN", "conv", replaced(0, lambda y: entry(y, 7), constant(np.nan))),
    ("a number answered by NaN", "picture", replaced(0, lambda y: entry(y, 9), constant(np.nan))),
    ("a number answered by NaN", "recurrent", replaced(1, lambda y: entry(y, 9), constant(np.nan))),
    *(
        (f"a sample of zeros, {i + 1} of 3", n, on_sample(n, i, zero))
        for n, i in (("mlp", 0), ("mlp", 1), ("mlp", 2), ("conv", 1), ("attention", 2))
    ),
    *(
        (f"a sample 10 % off, {i + 1} of 3", n, on_sample(n, i, lambda y: 1.1 * y))
        for n, i in (("recurrent", 0), ("picture", 2), ("mlp", 1))
    ),
    ("a second output 50 % off", "heads", replaced(1, every, lambda y: 1.5 * y)),
    ("a second output 50 % off", "recurrent", replaced(1, every, lambda y: 0.5 * y)),
    ("a row of a second output of zeros", "heads", replaced(1, lambda y: at(y, 0, 5), zero)),
    ("a label is another", "labels", replaced(1, lambda y: at(y, 0, 3), other_place)),
    ("a place of TopK is another", "labels", replaced(3, lambda y: entry(y, 17), other_place)),
    ("places of TopK in another order", "labels", moved(3, -1)),
    ("values of TopK in another order", "labels", moved(2, -1)),
    *(("items of a batch swapped", n, moved(0, 0)) for n in ("mlp", "conv", "attention")),
    ("rows of a sequence swapped", "recurrent", moved(0, 1)),
    ("outputs swapped", "labels", lambda ys, xs: [ys[0], ys[1], ys[2].flip(-1), ys[3]]),
    ("outputs swapped", "recurrent", lambda ys, xs: [ys[1], ys[0]]),
    ("an output is missing", "heads", lambda ys, xs: ys[:1]),
    ("an output too many", "mlp", lambda ys, xs: [ys[0], 2.0 * ys[0]]),
    ("another shape", "mlp", lambda ys, xs: [ys[0][:, :-1]]),
    ("another shape", "conv", lambda ys, xs: [ys[0].flatten(1)]),
    ("the sign is lost", "picture", lambda ys, xs: [ys[0].abs()]),
    ("labels as another output's", "labels", lambda ys, xs: [ys[0], ys[3][:, 1], ys[2], ys[3]]),
    ("a constant of the batch", "attention", lambda ys, xs: [ys[0][:1].expand_as(ys[0])]),
    ("no probabilities", "softmax", lambda ys, xs: [ys[0] * 0.9]),
    ("two probabilities swapped", "sigmoid", lambda ys, xs: [ys[0].flip(-1)]),
]  # fmt: skip
for _kind, _name, _fault in FAULTS:
    for _way in ("torch", "onnx"):
        lie(_kind, f"{_name}, {_way}")(partial(tampered, _name, _fault, _way))


def both(kind: str, on: str, right: bool, build: Callable[[], Net], swap: Any = None) -> None:
    """A model in plain FP16, or the one that `swap` gives in its place, in PyTorch and ONNX."""

    def in_torch() -> Trial:
        made = build()
        return Trial(made.model, half(swap() if swap else made.model), made.samples, made.scales)

    def in_onnx() -> Trial:
        made = build()
        model = export(made.model, made.samples[0])
        other = export(swap(), made.samples[0]) if swap else model
        return Trial(model, converted(other), feeds(model, made.samples), made.scales)

    case(kind, f"{on}, torch", right=right)(in_torch)
    case(kind, f"{on}, onnx", right=right)(in_onnx)


# Wrong in a part that is small beside the rest


class Quiet(nn.Module):
    """The third channel, or feature, is a thousand times as quiet as the others."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.last = last
        with torch.no_grad():
            last.weight[2] *= 1e-3
            last.bias[2] *= 1e-3

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x)


class Boxes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return 20.0 * (self.head(x) + 3.0)


def spoilt(build: Callable[[], nn.Module], x: Tensor, fault: Fault, way: str, **more: Any) -> Trial:
    """A network of its own on two samples, and the same behind a fault."""
    model, samples = seeded(build), [(x,), (0.5 * x,)]
    wrong = Tampered(model, fault)
    if way == "torch":
        return Trial(model, half(wrong), samples, **more)
    original = export(model, samples[0])
    return Trial(original, converted(export(wrong, samples[0])), feeds(original, samples), **more)


_pixel = replaced(0, lambda y: entry(y, 90_000), zero)
_off = lambda axis: replaced(0, lambda y: at(y, axis, 2), lambda y: 1.4 * y)  # noqa: E731
_box = replaced(0, lambda y: at(y, 0, 5000), lambda y: 1.3 * y)
_tokens = replaced(0, lambda y: at(y, 0, 777), lambda y: 0.75 * y + 0.25 / 40)
SPOILT: list[tuple[str, str, Callable[[], nn.Module], tuple[int, ...], Fault, Any]] = [
    ("a dead pixel", "large picture", Picture, (1, 3, 256, 256), _pixel, {}),
    ("a quiet channel 40 % off", "convolution", lambda: Quiet(nn.Conv2d(3, 8, 3)),
     (2, 3, 16, 16), _off(1), {}),
    ("a quiet feature 40 % off", "tokens", lambda: Quiet(nn.Linear(32, 24)), (2, 12, 32),
     _off(-1), {}),
    ("a box of 8,400 is 30 % off", "boxes", Boxes, (8400, 16), _box, {}),
    ("probabilities of a token of 4,096 are off", "softmax", Scores, (4096, 32), _tokens,
     {"scales": (1.0,)}),
]  # fmt: skip
for _kind, _on, _make, _shape, _fault, _more in SPOILT:
    for _way in ("torch", "onnx"):
        lie(_kind, f"{_on}, {_way}")(
            lambda m=_make, s=_shape, f=_fault, w=_way, k=_more: spoilt(m, rand(*s), f, w, **k)
        )


@lie("a quiet sample 45 % off", "one number, torch")
def _one_number() -> Trial:
    model = seeded(lambda: nn.Linear(32, 1, bias=False))
    x = rand(1, 32, seed=1)
    samples = [(x,), (1e-2 * x,)]

    def fault(ys: Outputs, xs: tuple[Tensor, ...]) -> Outputs:
        quiet = xs[0].abs().max() < 0.1
        return [torch.where(quiet, 1.45 * ys[0], ys[0])]

    return Trial(model, half(Tampered(model, fault)), samples)


def _by(metric: Any, name: str, fault: Fault) -> Trial:
    """The user's metric is what counts, and it has to look at what is wrong."""
    found = tampered(name, fault, "torch")
    return Trial(found.model, found.candidate, found.samples, found.scales, metric=metric)


lie("a row of zeros, by cosine", "mlp, torch")(
    partial(_by, "cosine", "mlp", replaced(0, lambda y: at(y, -2, 1), zero))
)
lie("all zeros, by cosine", "mlp, torch")(partial(_by, "cosine", "mlp", replaced(0, every, zero)))
lie("a row of zeros, by top-1", "mlp, torch")(
    partial(_by, "top-1", "mlp", replaced(0, lambda y: at(y, -2, 1), zero))
)
lie("a label is another, by cosine", "labels, torch")(
    partial(_by, "cosine", "labels", replaced(1, lambda y: at(y, 0, 3), other_place))
)
lie("another shape, by top-1", "mlp, torch")(
    partial(_by, "top-1", "mlp", lambda ys, xs: [ys[0][:3]])
)
lie("a metric that is NaN", "mlp, torch")(
    partial(_by, lambda a, b: float("nan"), "mlp", replaced(0, every, lambda y: -y))
)


# Wrong by what a deployment really does


def _quiet(part: str) -> Net:
    """A row, or a whole sample, that is a hundred million times as quiet as the others."""
    samples = [rand(6, 32, seed=i) for i in (1, 2, 3)]
    if part == "row":
        samples[1][2] *= 1e-8
    else:
        samples[2] *= 1e-8
    return Net(net("stream").model, [(x,) for x in samples])


class Flushed(nn.Module):
    """Densities: of numbers near 1e-9 each counts, since nothing adds them to others."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(32, 20)

    def forward(self, x: Tensor) -> Tensor:
        return torch.exp(12.0 * self.head(x) - 12.0)


both("a quiet row flushed", "stream", False, partial(_quiet, "row"))
both("a quiet sample flushed", "stream", False, partial(_quiet, "sample"))
both("entries flushed", "densities", False, lambda: Net(seeded(Flushed), net("mlp").samples))


class Saturated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(32, 20)

    def forward(self, x: Tensor) -> Tensor:
        return (3e4 * self.head(x)).clamp(-2e5, 2e5)


class Clamped(Saturated):
    """What a user does against overflow."""

    def forward(self, x: Tensor) -> Tensor:
        return (3e4 * self.head(x).float()).clamp(-65504, 65504).to(self.head.weight.dtype)


_saturated = partial(seeded, Saturated)
both("entries overflow", "linear", False, lambda: Net(_saturated(), net("mlp").samples))
both(
    "entries saturate", "linear", False,
    lambda: Net(_saturated(), net("mlp").samples), partial(seeded, Clamped),
)  # fmt: skip


class Masked(nn.Module):
    """Logits of which some are forbidden: -inf, whatever comes."""

    def __init__(self, fill: float = -np.inf) -> None:
        super().__init__()
        self.fill, self.head = fill, nn.Linear(32, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x).masked_fill(torch.arange(12) % 4 == 1, self.fill)


_masked = lambda: Net(seeded(Masked), net("mlp").samples)  # noqa: E731
both("-inf answered by a number", "logits", False, _masked, lambda: seeded(partial(Masked, -6e4)))
both("-inf kept", "logits", True, _masked)


def _rescaled(eps: float) -> nn.Module:
    """The first layer divided by 256 in front of a norm."""
    model = seeded(partial(Mlp, eps))
    with torch.no_grad():
        model.up.weight /= 256
        model.up.bias /= 256
    return model


def _rescaled_conv(eps: float) -> nn.Module:
    model = seeded(Conv)
    with torch.no_grad():
        model.first.weight /= 512
        model.first.bias /= 512
        model.norm.running_mean /= 512
        model.norm.running_var /= 512**2
    model.norm.eps = eps
    return model


for _right, _eps in ((False, 1e-5), (True, 1e-5 / 65536)):
    _kind = "eps follows its layer" if _right else "a stale eps"
    if not _right:  # an eps of 1.5e-10 is no number of FP16
        both(_kind, "LayerNorm", _right, lambda: net("mlp"), partial(_rescaled, _eps))
both("a stale eps", "BatchNorm", False, lambda: net("conv"), partial(_rescaled_conv, 1e-5))
both(
    "a mask that does not mask", "padded attention", False,
    lambda: net("attention"), lambda: seeded(partial(Attention, -3.0)),
)  # fmt: skip
both(
    "a mask that suffices", "padded attention", True,
    lambda: net("attention"), lambda: seeded(partial(Attention, -1e3)),
)  # fmt: skip


class Centred(nn.Module):
    """A series at a level of 3,000, less its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x - x.mean(-1, keepdim=True))


class Waves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.sin(x * 900.0))


class OnePass(nn.Module):
    """The variance as E[x^2] - E[x]^2."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * ((x * x).mean(-1) - x.mean(-1) ** 2)


class Places(nn.Module):
    """Row and column from the flat index of the largest entry, computed in floats."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4096, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        index = x.argmax(-1).to(self.head.weight.dtype)
        row = torch.floor(index / 64)
        return row, index - 64 * row


def _levels() -> Net:
    return Net(seeded(Centred), [(3000.0 + rand(4, 64, seed=i),) for i in (1, 2)])


def _flat() -> Net:
    x = rand(4, 4096, seed=1)
    x[torch.arange(4), torch.tensor([77, 2051, 3001, 4095])] = 9.0
    return Net(seeded(Places), [(x,)])


both("too few bits: less its mean", "series", False, _levels)
both("too few bits: sine", "waves", False, lambda: Net(seeded(Waves), net("mlp").samples))
both(
    "too few bits: one pass", "variance", False,
    lambda: Net(seeded(OnePass), [(30 + rand(8, 64, seed=i),) for i in (1, 2)]),
)  # fmt: skip
both("too few bits: flat index", "places", False, _flat)


class Rms(nn.Module):
    """A norm that squares: `stored` in the precision of the weights, or in FP32."""

    def __init__(self, stored: bool, gain: float = 400.0) -> None:
        super().__init__()
        self.stored, self.gain = stored, gain
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.gain * self.up(x)
        wide = h if self.stored else h.float()
        square = (wide * wide).mean(-1, keepdim=True)
        return self.down((wide * torch.rsqrt(square + 1e-5)).to(h.dtype))


class Sums(nn.Module):
    """Adds products one by one, and stores each sum."""

    def __init__(self, stored: bool) -> None:
        super().__init__()
        self.stored = stored
        self.weight = nn.Parameter(300.0 * (1 + 0.1 * rand(64, 8)).abs())

    def forward(self, x: Tensor) -> Tensor:
        if not self.stored:
            return x @ self.weight
        total = torch.zeros(x.shape[0], 8, dtype=x.dtype)
        for i in range(64):
            total = total + x[:, i : i + 1] * self.weight[i]
        return total


def _alternating() -> list[tuple[Tensor, ...]]:
    """Halves that cancel: sums on the way are far beyond the result."""
    sign = torch.where(torch.arange(64) < 32, 1.0, -1.0)
    return [(10.0 * sign * (1 + 0.1 * rand(4, 64, seed=i)).abs(),) for i in (1, 2)]


both(
    "a kernel that stores inside", "RMSNorm", False,
    lambda: Net(seeded(partial(Rms, True)), net("mlp").samples),
)  # fmt: skip
both(
    "a kernel that stores inside", "sums", False,
    lambda: Net(seeded(partial(Sums, False)), _alternating()), partial(seeded, partial(Sums, True)),
)  # fmt: skip
both(
    "a norm with FP32 inside", "RMSNorm", True,
    lambda: Net(seeded(partial(Rms, False, 40.0)), net("mlp").samples),
)  # fmt: skip


class Heavy(nn.Module):
    """Overflows in FP16, and needs its eps rescaled if it is to be mended."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(32, 64), nn.LayerNorm(64, 0.1), nn.Linear(64, 10)
        with torch.no_grad():
            self.up.weight *= 2.0

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.norm(self.up(x)))


class Loud(nn.Module):
    """As Heavy, in a stream of two million."""

    def __init__(self, gain: float = 1e6, eps: float = 1e10) -> None:
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(32, 64), nn.LayerNorm(64, eps), nn.Linear(64, 10)
        with torch.no_grad():
            self.up.weight *= gain

    def forward(self, x: Tensor) -> Tensor:
        return self.down(functional.relu(self.norm(self.up(x))))


def _reloaded(with_eps: bool) -> Trial:
    model, samples = seeded(Loud), list(net("mlp").samples)
    fixed = halfsafe.fix(model, samples)
    other = seeded(Loud)
    fixed.apply_to(other)
    if not with_eps:
        other.norm.eps = model.norm.eps
    return Trial(model, half(other), samples)


lie("weights reloaded without eps", "LayerNorm, torch")(partial(_reloaded, False))
truth("weights reloaded with eps", "LayerNorm, torch")(partial(_reloaded, True))


def _other_weights(name: str) -> Trial:
    other = half(net(name).model)
    torch.manual_seed(5)
    with torch.no_grad():
        last = [p for n, p in other.named_parameters() if n.endswith("bias")][-1]
        last += 0.2
    return torch_trial(name, other)


for _name in ("mlp", "conv", "attention"):
    lie("a bias of the last layer off", f"{_name}, torch")(partial(_other_weights, _name))


def _quantised(name: str, bits: int) -> Trial:
    """Weights of few bits: finite, near, and further off than FP16 has to be."""
    other = half(net(name).model)
    with torch.no_grad():
        for p in other.parameters():
            step = p.abs().max() / 2 ** (bits - 1)
            p.copy_(torch.round(p / step) * step)
    return torch_trial(name, other)


for _name in ("mlp", "conv", "recurrent"):
    lie("weights of four bits", f"{_name}, torch")(partial(_quantised, _name, 4))


# Wrong captures


class Exporting(nn.Module):
    """Takes another way while it is captured."""

    def __init__(self, ask: Callable[[], bool]) -> None:
        super().__init__()
        self.inner, self.ask = Mlp(), ask

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return y if self.ask() else torch.relu(y)


class Lowered(nn.Module):
    """Takes another way in a precision of its own."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner, self.dtype = Mlp(), dtype

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return torch.zeros_like(y) if y.dtype == self.dtype else y


def _fixing(build: Callable[[], nn.Module], samples: list[Any] | None = None) -> Trial:
    """A fix, and what torch.export makes of the model: the candidate where fix gives none."""
    model, samples = seeded(build), samples or list(net("mlp").samples)
    captured = torch.export.export(model, samples[0]).module()
    return Trial(model, captured, samples, ask="fix")


for _name, _ask in (
    ("is_exporting()", torch.compiler.is_exporting),
    ("is_compiling()", torch.compiler.is_compiling),
):
    lie("a wrong capture", f"{_name}, torch")(partial(_fixing, partial(Exporting, _ask)))
lie("a wrong capture", "by number of rows, torch")(
    lambda: _fixing(ByRows, [(rand(n, 32, seed=n),) for n in (6, 6, 1)])
)
truth("another way in bfloat16 only", "fix, torch")(
    lambda: _fixing(partial(Lowered, torch.bfloat16))
)
lie("another way in float16 only", "plain, torch")(
    lambda: Trial(
        (model := seeded(partial(Lowered, torch.float16))), half(model), list(net("mlp").samples)
    )
)


class ByRows(nn.Module):
    """Another function for a single row."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) if x.shape[0] > 1 else -self.inner(x)


# Integers of ONNX files


DETECTOR = """<ir_version: 9, opset_import: ["" : 18]>
detector (float[1, 24, 4] corners, float[1, 2, 24] logits)
  => (int64[K, 3] selected, float[1, 24, 4] boxes, int64[1, 2, 3] places) <
    int64[1] most = {5}, float[1] overlap = {0.5}, float[1] least = {0.2},
    float[1] size = {64}, int64[1] three = {3}
> {
    boxes = Mul (corners, size)
    scores = Sigmoid (logits)
    selected = NonMaxSuppression (boxes, scores, most, overlap, least)
    best, places = TopK (scores, three)
}"""


HALF_DETECTOR = """<ir_version: 9, opset_import: ["" : 18]>
detector (float[1, 24, 4] corners, float[1, 2, 24] logits)
  => (int64[K, 3] selected, float[1, 24, 4] boxes, int64[1, 2, 3] places) <
    int64[1] most = {5}, float[1] overlap = {0.5}, float[1] least = {0.2},
    float[1] size = {64}, int64[1] three = {3}
> {
    size16 = Cast <to = 10> (size)
    corners16 = Cast <to = 10> (corners)
    logits16 = Cast <to = 10> (logits)
    boxes16 = Mul (corners16, size16)
    scores16 = Sigmoid (logits16)
    boxes = Cast <to = 1> (boxes16)
    scores = Cast <to = 1> (scores16)
    selected = NonMaxSuppression (boxes, scores, most, overlap, least)
    best, places = TopK (scores16, three)
}"""


def _boxes(seed: int) -> dict[str, Any]:
    """Boxes well apart, with scores well apart."""
    rng = np.random.default_rng(seed)
    corner = np.stack(np.meshgrid(np.arange(6), np.arange(4)), -1).reshape(1, 24, 2) / 6.0
    boxes = np.concatenate([corner, corner + 0.2 + 0.05 * rng.random((1, 24, 2))], -1)
    logits = np.stack([rng.permutation(np.linspace(-3, 3, 24)) for _ in range(2)])[None]
    return {"corners": boxes.astype(np.float32), "logits": logits.astype(np.float32)}


def grafted(model: onnx.ModelProto, output: str, nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    """Nodes that read `output`.old and give `output`."""
    made = copied(model)
    for node in made.graph.node:
        for names in (node.input, node.output):
            names[:] = [f"{n}.old" if n == output else n for n in names]
    made.graph.node.extend(nodes)
    return made


def _detector(output: str, nodes: list[onnx.NodeProto], typed: bool = True) -> Trial:
    model = onnx.parser.parse_model(DETECTOR)
    candidate = onnx.parser.parse_model(HALF_DETECTOR)
    if typed:
        candidate = onnx.shape_inference.infer_shapes(candidate)
    if nodes:
        candidate = grafted(candidate, output, nodes)
    return Trial(model, candidate, [_boxes(i) for i in (1, 2, 3)])


_ONE = helper.make_node("Constant", [], ["one"], value_ints=[1])
_ZERO = helper.make_node("Constant", [], ["zero"], value_ints=[0])
_CUT = helper.make_node("Constant", [], ["cut"], value_ints=[4])
for _kind, _output, _nodes in (
    ("a box of NMS is another", "selected",
     [_ONE, helper.make_node("Add", ["selected.old", "one"], ["selected"])]),
    ("boxes of NMS are missing", "selected",
     [_ZERO, _CUT, helper.make_node("Slice", ["selected.old", "zero", "cut"], ["selected"])]),
    ("a place of TopK is another", "places",
     [_ONE, helper.make_node("Add", ["places.old", "one"], ["places"])]),
    ("boxes of zeros", "boxes",
     [helper.make_node("Sub", ["boxes.old", "boxes.old"], ["boxes"])]),
):  # fmt: skip
    lie(_kind, "detector, onnx")(partial(_detector, _output, _nodes))
truth("converted", "detector, onnx")(partial(_detector, "", []))
truth("a file that tells no types", "detector, onnx")(partial(_detector, "", [], False))


# Right


PLAIN = ("mlp", "conv", "attention", "recurrent", "heads", "labels", "picture", "softmax",
         "sigmoid", "stream")  # fmt: skip


def _plain(name: str) -> Trial:
    return torch_trial(name, half(net(name).model))


def _converted(name: str) -> Trial:
    return onnx_trial(name, converted(exported(name)))


def _common(name: str) -> Trial:
    from onnxconverter_common.float16 import convert_float_to_float16 as convert

    return onnx_trial(name, in_order(convert(copied(exported(name)), keep_io_types=True)))


def _unsorted(name: str) -> Trial:
    """As the converter leaves it, and ONNX Runtime takes it."""
    return onnx_trial(name, convert_float_to_float16(copied(exported(name)), keep_io_types=True))


def _fixed(name: str, way: str, form: str) -> Trial:
    """What halfsafe itself makes of a network."""
    found = net(name)
    if way == "torch":
        fixed = halfsafe.fix(found.model, list(found.samples))
        return torch_trial(name, fixed.half() if form == "half" else fixed.model)
    model = exported(name)
    fixed = halfsafe.fix(model, feeds(model, found.samples))
    if form == "saved":
        with tempfile.TemporaryDirectory() as folder:
            fixed.save(Path(folder) / "m.onnx")
            return onnx_trial(name, onnx.load(Path(folder) / "m.onnx"))
    return onnx_trial(name, fixed.half() if form == "half" else fixed.model)


def _optimised(name: str) -> Trial:
    """The converted file as ONNX Runtime rewrites it for itself."""
    with tempfile.TemporaryDirectory() as folder:
        options, path = onnxruntime.SessionOptions(), str(Path(folder) / "m.onnx")
        level = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_BASIC
        options.optimized_model_filepath = path
        options.log_severity_level = 4
        made = converted(exported(name)).SerializeToString()
        onnxruntime.InferenceSession(made, options, providers=["CPUExecutionProvider"])
        return onnx_trial(name, onnx.load(path))


def _io16(name: str) -> Trial:
    """FP16 at inputs and outputs too."""
    made = convert_float_to_float16(copied(exported(name)), keep_io_types=False)
    return onnx_trial(name, in_order(made))


truth("converted, nodes not in order", "mlp, onnx")(partial(_unsorted, "mlp"))
for _name in PLAIN:
    truth("plain half()", f"{_name}, torch")(partial(_plain, _name))
    truth("converted", f"{_name}, onnx")(partial(_converted, _name))
    truth("fixed.half()", f"{_name}, torch")(partial(_fixed, _name, "torch", "half"))
    truth("fixed.half()", f"{_name}, onnx")(partial(_fixed, _name, "onnx", "half"))
for _name in ("mlp", "conv", "attention", "labels"):
    truth("fixed.model", f"{_name}, torch")(partial(_fixed, _name, "torch", "model"))
    truth("fixed.save()", f"{_name}, onnx")(partial(_fixed, _name, "onnx", "saved"))
    truth("another converter", f"{_name}, onnx")(partial(_common, _name))
    truth("optimised by ONNX Runtime", f"{_name}, onnx")(partial(_optimised, _name))
    truth("FP16 at the rim", f"{_name}, onnx")(partial(_io16, _name))


@truth("channels last", "conv, torch")
def _channels_last() -> Trial:
    return torch_trial("conv", half(net("conv").model).to(memory_format=torch.channels_last))


@truth("channels last", "picture, torch")
def _channels_last_picture() -> Trial:
    return torch_trial("picture", half(net("picture").model).to(memory_format=torch.channels_last))


class Fused(Attention):
    """The same in a fused kernel."""

    def forward(self, x: Tensor, kept: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        y = functional.scaled_dot_product_attention(
            4.0 * q, k, v, attn_mask=kept[:, None, :].expand(-1, 12, -1)
        )
        return x + self.out(y)


@truth("fused attention", "attention, torch")
def _fused() -> Trial:
    return torch_trial("attention", half(seeded(Fused)))


class Dead(nn.Module):
    """Rows, features and all of a second output that are 0 behind a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(32, 12)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.relu(self.head(x))
        return y, torch.relu(self.head(x) - 50.0)


def _with_dead_row() -> Net:
    """A row whose every pre-activation is negative."""
    model = seeded(Dead)
    with torch.no_grad():
        model.head.bias -= 0.3
    samples = [rand(6, 32, seed=i) for i in (1, 2)]
    samples[1][3] = 0.0
    samples[1][3] -= 3.0 * model.head.weight.detach().mean(0) * 32
    return Net(model, [(x,) for x in samples])


both("dead rows", "ReLU", True, _with_dead_row)


class Crossing(nn.Module):
    """Regression, some entries of which are 0 but for a rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(32, 24)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


def _crossing() -> Net:
    """The bias is what takes two entries of the first row across 0."""
    model, x = seeded(Crossing), rand(6, 32, seed=1)
    with torch.no_grad():
        model.head.bias[:2] -= model(x)[0, :2]
    return Net(model, [(x,), (rand(6, 32, seed=2),)])


both("entries that cross 0", "regression", True, _crossing)
both("a single number a row", "regression", True, lambda: Net(
    seeded(lambda: nn.Linear(32, 1)), [(rand(40, 32, seed=i),) for i in (1, 2, 3)]
))  # fmt: skip


class Tiny(nn.Module):
    """One large entry beside some of 1e-6, which FP16 stores with few bits."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight * torch.tensor([1024.0] + [1e-6] * 11).to(x.dtype)


both("errors of 4e-11", "beside 1,024", True, lambda: Net(
    seeded(Tiny), [(1 + 0.3 * rand(4, 12, seed=i).tanh(),) for i in (1, 2)]
))  # fmt: skip


def _steep(last: str) -> Net:
    """Probabilities of 1e-9 and less, which FP16 stores as 0."""
    return Net(seeded(partial(Scores, last, 40.0)), list(net("mlp").samples), (1.0,))


both("probabilities flushed", "softmax", True, partial(_steep, "softmax"))
both("probabilities flushed", "sigmoid", True, partial(_steep, "sigmoid"))


class Padding(nn.Module):
    """What belongs to padding is 0 behind the block."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Attention()

    def forward(self, x: Tensor, kept: Tensor) -> Tensor:
        return self.block(x, kept) * kept[..., None]


both("padded rows of zeros", "attention", True, lambda: Net(
    seeded(Padding), list(net("attention").samples)
))  # fmt: skip


def _batch_of_one() -> Net:
    return Net(net("mlp").model, [(rand(1, 32, seed=i),) for i in (1, 2, 3)])


both("a batch of one", "mlp", True, _batch_of_one)


class Logs(nn.Module):
    """Log-probabilities, some of which are near 0 and some near -40."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(32, 40)

    def forward(self, x: Tensor) -> Tensor:
        return (12.0 * self.head(x)).log_softmax(-1)


class Unit(nn.Module):
    """Embeddings of norm 1, and how near they are to each other."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(32, 48)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = functional.normalize(self.head(x), dim=-1)
        return y, y @ y.T


both("log-probabilities", "logits", True, lambda: Net(seeded(Logs), list(net("mlp").samples)))
both("embeddings of norm 1", "cosine", True, lambda: Net(seeded(Unit), list(net("mlp").samples)))


# Outputs by name


class Named(nn.Module):
    """A dict of two outputs of one shape."""

    def __init__(self, *, turned: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.turned = nn.Linear(32, 8), nn.Linear(32, 8), turned

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found = {"first": self.first(x), "second": self.second(x)}
        return dict(reversed(found.items())) if self.turned else found


class Pair(Named):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.first(x), self.second(x)


def _renamed(*, names: bool, places: bool) -> Trial:
    """The two outputs of a file change their names, their places, or both."""
    model = seeded(Pair)
    original = export(model, net("mlp").samples[0])
    made = converted(original)
    first, second = (o.name for o in made.graph.output)
    other = {first: second, second: first}
    if names:
        for node in made.graph.node:
            for found in (node.input, node.output):
                found[:] = [other.get(n, n) for n in found]
        for output in made.graph.output:
            output.name = other[output.name]
    if places:
        outputs = list(made.graph.output)[::-1]
        del made.graph.output[:]
        made.graph.output.extend(outputs)
    return Trial(original, made, feeds(original, net("mlp").samples))


lie("outputs under each other's names", "pair, onnx")(partial(_renamed, names=True, places=False))
truth("outputs in another order", "pair, onnx")(partial(_renamed, names=False, places=True))


@truth("outputs in another order", "dict, torch")
def _turned() -> Trial:
    turned = half(seeded(partial(Named, turned=True)))
    return Trial(seeded(Named), turned, list(net("mlp").samples))


class Spectrum(nn.Module):
    """Complex numbers, which no FP16 stores: an island."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft(self.head(x))


truth("complex numbers", "fix, torch")(
    lambda: Trial(seeded(Spectrum), None, list(net("mlp").samples), ask="fix")
)


# Faults that harm no output


class Harmless(nn.Module):
    def __init__(self, last: Callable[[Tensor], Tensor], gain: float) -> None:
        super().__init__()
        self.head, self.last, self.gain = nn.Linear(32, 24), last, gain

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.gain * (self.head(x) + self.head(x).sign()))


for _name, _last, _gain in (
    ("sigmoid", torch.sigmoid, 1e6),
    ("tanh", torch.tanh, 1e6),
    ("clip", lambda y: y.clamp(-6.0, 6.0), 1e6),
    ("relu6", functional.relu6, 1e6),
    ("sign", torch.sign, 1e6),
    ("exp", lambda y: torch.exp(-y.abs()), 1e6),
):
    truth("a fault that harms nothing", f"{_name}, inspect, torch")(
        lambda last=_last, gain=_gain: Trial(
            seeded(partial(Harmless, last, gain)), None, list(net("mlp").samples), ask="inspect"
        )
    )


@truth("a fault that harms nothing", "mask, inspect, torch")
def _sentinel() -> Trial:
    model = seeded(partial(Attention, torch.finfo(torch.float32).min))
    return Trial(model, None, list(net("attention").samples), ask="inspect")


for _name in ("mlp", "conv", "softmax", "labels"):
    truth("nothing at fault", f"{_name}, inspect, torch")(
        lambda name=_name: Trial(
            net(name).model, None, list(net(name).samples), net(name).scales, "inspect"
        )
    )
    truth("nothing at fault", f"{_name}, inspect, onnx")(
        lambda name=_name: Trial(
            exported(name), None, feeds(exported(name), net(name).samples), net(name).scales,
            "inspect",
        )
    )  # fmt: skip


for _kind, _make in (
    ("RMSNorm", partial(Rms, True)),
    ("linear", Saturated),
    ("densities", Flushed),
):
    lie("a fault that harms", f"{_kind}, inspect, torch")(
        lambda make=_make: Trial(seeded(make), None, list(net("mlp").samples), ask="inspect")
    )


# The bench


def asked(trial: Trial) -> tuple[str, str, Any]:
    """halfsafe's verdict, why, and the candidate that it was about."""
    candidate = trial.candidate
    try:
        if trial.ask == "inspect":
            report = halfsafe.inspect(trial.model, trial.samples)
            return str(report.answer), "", None
        if trial.ask == "fix":
            fixed = halfsafe.fix(trial.model, trial.samples)
            proof, candidate = fixed.report.verification, fixed.half()
        else:
            proof = halfsafe.verify(trial.model, candidate, trial.samples, metric=trial.metric)
    except halfsafe.HalfsafeError as error:
        return type(error).__name__, str(error)[:160], candidate
    assert proof is not None
    return str(proof.answer), "; ".join(why for _, why in proof.reasons)[:160], candidate


def judged(trial: Trial, candidate: Any) -> judge.Judgement:
    """What the judge says of the candidate; of plain FP16 where there was none."""
    if isinstance(trial.model, onnx.ModelProto):
        if candidate is None:
            candidate = converted(trial.model)
        elif not isinstance(candidate, onnx.ModelProto):
            candidate = ir.to_proto(candidate)
        return judge.judge_onnx(trial.model, candidate, trial.samples, trial.scales)
    candidate = trial.model if candidate is None else candidate
    try:
        return judge.judge_torch(trial.model, candidate, trial.samples, trial.scales)
    except (RuntimeError, AssertionError) as error:
        return judge.Judgement("wrong", f"does not run: {error}", np.inf)


def run(found: Case) -> dict[str, Any]:
    """One row: by construction, by the judge, by halfsafe."""
    start = time.perf_counter()
    trial = found.build()
    answer, why, candidate = asked(trial)
    by_judge = judged(trial, candidate)
    return {
        "kind": found.kind,
        "on": found.on,
        "right": found.right,
        "judge": by_judge.verdict,
        "judge_why": by_judge.why,
        "error": by_judge.error if np.isfinite(by_judge.error) else None,
        "floor": by_judge.floor if np.isfinite(by_judge.floor) else None,
        "answer": answer,
        "why": why,
        "confirmed": (by_judge.verdict == "right") == found.right,
        "agrees": (answer == "safe") == found.right,
        "seconds": round(time.perf_counter() - start, 2),
    }


def quiet() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


def main() -> None:
    quiet()
    wanted = sys.argv[1:]
    rows: list[dict[str, Any]] = []
    for found in CASES:
        if wanted and not any(w in found.name for w in wanted):
            continue
        try:
            row = run(found)
        except Exception as error:  # a traceback is a result too
            row = {"kind": found.kind, "on": found.on, "right": found.right, "confirmed": None}
            row |= {"agrees": False, "answer": f"{type(error).__name__}: {error}"[:300]}
        rows.append(row)
        mark = "ok " if row["agrees"] and row["confirmed"] else "NOT"
        print(
            f"{mark} {'right' if found.right else 'wrong'} {found.name:56} judge "
            f"{row.get('judge', '?'):8} {row['answer']:24} {row.get('why', '')[:90]}"
            f"{'' if row['confirmed'] else ' | judge: ' + str(row.get('judge_why', ''))}",
            flush=True,
        )
    lies, truths = ([r for r in rows if r["right"] is right] for right in (False, True))
    summary = {
        "lies": len(lies),
        "lies_caught": sum(r["agrees"] for r in lies),
        "right": len(truths),
        "false_alarms": sum(not r["agrees"] for r in truths),
        "confirmed_by_judge": sum(bool(r["confirmed"]) for r in rows),
        "not": [f"{r['kind']} / {r['on']}" for r in rows if not (r["agrees"] and r["confirmed"])],
    }
    print(summary)
    if not wanted:
        onnx_versions = {p: version(p) for p in ("onnx", "onnxruntime", "onnxconverter-common")}
        figures = {"versions_onnx": onnx_versions, "summary": summary, "rows": rows}
        record("lies", COMMAND, figures)


if __name__ == "__main__":
    main()
