"""One fault planted at a random module of a network, so that its producer is known."""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from math import floor, log2
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Plant = Callable[[Tensor, float], Tensor]
"""Takes a module's output and a size, most often its largest magnitude; what it returns goes on."""


def overflow(y: Tensor, amax: float) -> Tensor:
    """Carried by one more value, and back in range after that."""
    scale = power(1e7 / amax)
    large = y * scale  # born here: overflow
    return (large + large) * (0.5 / scale)


def underflow(y: Tensor, amax: float) -> Tensor:
    scale = power(1e-9 / amax)
    small = y * scale  # born here: underflow
    return small * (1 / scale)


def epsilon(y: Tensor, amax: float) -> Tensor:
    """A row of zeros is divided by its own size; elsewhere next to nothing changes."""
    rows = torch.cat([torch.zeros_like(y[..., :1, :]), y[..., 1:, :]], -2)
    size = rows.abs().mean(-1, keepdim=True)
    divisor = size + 1e-12  # born here: epsilon
    return y + rows / divisor * (amax / 1024)


def sentinel(y: Tensor, amax: float) -> Tensor:
    """Every other entry is masked, and the first row whole."""
    hidden = torch.arange(y.shape[-1], device=y.device) % 2 == 0
    hidden = hidden | (torch.arange(y.shape[-2], device=y.device) == 0)[:, None]
    masked = y.masked_fill(hidden, -3.0e38)  # born here: sentinel
    return y + amax / 64 * torch.softmax(masked, -1)


def absorbed(y: Tensor, amax: float) -> Tensor:
    """A norm in its parts: the squares are inf, the mean too, and one divided by it is 0."""
    large = y * power(4000 / amax)
    squares = large * large  # born here: absorbed
    return large * torch.rsqrt(squares.mean((-1, -2), keepdim=True) + 1e-5) * (amax / 4)


def weights(y: Tensor, factor: float) -> Tensor:
    """The module's own weights have been enlarged by a factor; this undoes it."""
    return y * (1 / factor)


PLANTS: dict[str, tuple[Plant, str]] = {
    "overflow": (overflow, "aten.mul"),
    "underflow": (underflow, "aten.mul"),
    "epsilon": (epsilon, "aten.add"),
    "sentinel": (sentinel, "aten.masked_fill"),
    "absorbed": (absorbed, "aten.mul"),
    "weights": (weights, ""),
}
"""How to plant a fault, and the operator at which it is born then."""


class Planted(nn.Module):
    """A module with a fault behind it."""

    def __init__(self, inner: nn.Module, plant: Plant, size: float) -> None:
        super().__init__()
        self.inner, self.plant, self.size = inner, plant, size

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.inner, name)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.plant(self.inner(*args, **kwargs), self.size)


@dataclass(frozen=True)
class Case:
    """A network with one fault, and what a localiser has to say: kind, module, operator, line."""

    model: nn.Module
    kind: str
    module: str
    op: str
    line: str


def plant(
    model: nn.Module,
    samples: list[dict[str, Tensor]],
    name: str,
    seed: int,
    plants: Mapping[str, tuple[Plant, str]] = PLANTS,
) -> Case | None:
    """A copy of the model with a fault at a random module; None where no module can have it."""
    model = copy.deepcopy(model)
    found = _places(model, samples, name)
    if not found:
        return None
    path, size = random.Random(seed).choice(found)
    parent = model.get_submodule(path.rpartition(".")[0])
    inner = model.get_submodule(path)
    make, op = plants[name]
    parent._modules[path.rpartition(".")[2]] = Planted(inner, make, size).eval()
    if name != "weights":
        return Case(model, name, path, op, born_at(make.__code__.co_filename, name))
    with torch.no_grad():
        for parameter in inner.parameters():
            parameter.mul_(size)
    return Case(model, "overflow", f"{path}.inner", _OPERATORS[type(inner)], "")


_OPERATORS = {
    nn.Linear: "aten.linear",
    nn.Conv2d: "aten.conv2d",
    nn.LayerNorm: "aten.layer_norm",
    nn.BatchNorm2d: "aten.batch_norm",
    nn.GroupNorm: "aten.group_norm",
    nn.Embedding: "aten.embedding",
}
"""Modules whose output is proportional to their parameters."""


def _places(
    model: nn.Module, samples: list[dict[str, Tensor]], name: str
) -> list[tuple[str, float]]:
    """Modules without parts that run once a call and give one tensor of two dimensions or more."""
    amax: dict[str, float] = {}
    runs: Counter[str] = Counter()

    def see(path: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            runs[path] += 1
            if isinstance(output, Tensor) and output.ndim > 1 and min(output.shape[-2:]) > 1:
                amax[path] = max(amax.get(path, 0.0), float(output.abs().max()))

        return hook

    leaves = [(p, m) for p, m in model.named_modules() if p and not list(m.children())]
    handles = [m.register_forward_hook(see(p)) for p, m in leaves]
    with torch.no_grad():
        for sample in samples:
            model(**sample)
    for handle in handles:
        handle.remove()
    once = {p: m for p, m in leaves if runs[p] == len(samples) and 1e-2 < amax.get(p, 0.0) < 1e3}
    if name != "weights":
        return [(p, amax[p]) for p in once]
    factors = {p: _enlargement(model, m) for p, m in once.items()}
    return [(p, factor) for p, factor in factors.items() if amax[p] * factor > 8e4]


def _enlargement(model: nn.Module, module: nn.Module) -> float:
    """The factor by which a module's parameters come close to the limit of FP16; 0 if they may not.

    Tied parameters may not, nor those of modules whose output is not proportional to them.
    """
    everyone = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    own = list(module.parameters())
    if type(module) not in _OPERATORS or any(everyone[id(p)] > 1 for p in own):
        return 0.0
    return power(6e4 / max(float(p.detach().abs().max()) for p in own))


def power(number: float) -> float:
    return 2.0 ** floor(log2(number))


@cache
def born_at(file: str, name: str) -> str:
    """A file and its line that is marked as the birthplace of a fault."""
    lines = Path(file).read_text(encoding="utf-8").splitlines()
    number = next(i for i, line in enumerate(lines, 1) if line.endswith(f"# born here: {name}"))
    return f"{file}:{number}"
