"""Faults of which it is known which operators a bisection has to name, the first of them first.

A fault is planted at random modules of a PyTorch network, by source line, or behind random values
of an ONNX file, by a node's name. That a planted operator is the first after which the output is
wrong is checked by the brute force of bench/prefixes.py, for the second of several with the plants
before it in FP32. What the output does not show clearly on either side of the tolerance is drawn
anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from bench.architectures import ARCHITECTURES
from bench.localising import SAMPLES, unpadded
from bench.plants import PLANTS, Plant, born_at, plant, power
from bench.prefixes import Prefixes, TorchPrefixes, first_culprit

Samples = list[dict[str, Any]]

TRIES = 16
"""Places at which a fault may be drawn before it is left out."""

SCANNED = 130
"""Operators up to which all prefixes are tried, and not only those around the planted faults."""


def lost(y: Tensor, amax: float) -> Tensor:
    """Beside 1024, FP16 has no bits left for what is smaller than 1."""
    unit = y * power(1 / amax)
    large = unit + 1024.0  # born here: lost
    return (large - 1024.0) * power(amax)


def accumulated(y: Tensor, amax: float) -> Tensor:
    """PyTorch's CPU kernel adds up in FP16 what goes to one place; the result would fit."""
    unit = y * power(1 / amax)
    parts = torch.stack([unit, torch.full_like(unit, 1024.0), torch.full_like(unit, -1024.0)])
    place = torch.zeros(3, dtype=torch.int64, device=y.device)
    empty = torch.zeros_like(unit)[None]
    found = empty.index_put((place,), parts, accumulate=True)  # born here: accumulated
    return found[0] * power(amax)


def multiplied(y: Tensor, amax: float) -> Tensor:
    """PyTorch's CPU kernel multiplies in FP16: 2^18, and back; the result would fit."""
    unit = y * power(1 / amax)
    factors = [torch.full_like(unit, 2.0**i) for i in (9, 9, -9, -9)]
    parts = torch.stack([unit, *factors])
    return torch.prod(parts, 0) * power(amax)  # born here: multiplied


def half_cancelled(y: Tensor, amax: float) -> Tensor:
    """All of y is lost at first, and half of it then comes back by another loss."""
    return _cancelled(y, amax, 0.5)


def cancelled(y: Tensor, amax: float) -> Tensor:
    """All of y is lost at first, and comes back by another loss."""
    return _cancelled(y, amax, 1.0)


def _cancelled(y: Tensor, amax: float, share: float) -> Tensor:
    down, further = power(1e-9 / amax), power(1e-10 / amax)
    first = y * down  # born here: first loss
    kept = first * (1 / down)
    second = y * further  # born here: second loss
    rest = y - second * (1 / further)
    return kept + rest * share


CANCELLING = {"half cancelled": half_cancelled, "cancelled": cancelled}
"""Two faults at one module. With the first repaired, the second is the one that is seen."""

SINGLE: dict[str, tuple[Plant, str]] = {
    **PLANTS,
    "lost": (lost, "aten.add"),
    "accumulated": (accumulated, "aten.index_put"),
    "multiplied": (multiplied, "aten.prod"),
}
"""How to plant one fault, and the operator at which it is born."""

INSIDE = ("accumulated", "multiplied")
"""Those that only a kernel has, and no graph shows."""

NTH = {"absorbed": 1, "second loss": 2}
"""Which operator of its kind a fault is in its plant; else the first. Exporters drop its line."""

SEVERAL = (("overflow", "lost"), ("underflow", "absorbed"), ("lost", "multiplied"))
"""Pairs that are planted at two modules."""


@dataclass(frozen=True)
class Culprit:
    """What a bisection should say: a node's name in a file, or operator, module and source line."""

    op: str
    module: str = ""
    line: str = ""
    name: str = ""
    nth: int = 0


@dataclass(frozen=True)
class Trial:
    """A broken network, and what a bisection of it has to name: the first operator, then others.

    `operators` is the number of its operators as counted here, from which the bound follows. If it
    was `scanned`, no shorter prefix is wrong.
    """

    network: str
    kind: str
    model: Any
    samples: Samples
    culprits: tuple[Culprit, ...]
    tolerance: float
    operators: int
    scanned: bool


@dataclass(frozen=True)
class Healthy:
    """A network without a fault, and the tolerance that it is held to."""

    name: str
    model: nn.Module
    samples: Samples
    tolerance: float


LIFTED = {"efficientnet": {r"_norm.weight|_bn.weight": 30.0}}
"""Gains of norms that are drawn near 0.02, so that values vanish from block to block."""

NETWORKS = (*ARCHITECTURES, "panet")


def network(name: str) -> Healthy:
    """One of bench/architectures.py, or the detector of examples/panet.

    It is not amplified, but for what FP16 breaks as it is drawn.
    """
    if name == "panet":
        from examples.panet.model import load
        from examples.panet.text import normalise, render

        model = load()
        samples = [{"image": normalise(render(i, 160, 96).image)} for i in range(SAMPLES)]
    else:
        found = ARCHITECTURES[name]
        model, samples = unpadded(replace(found, amplify=LIFTED.get(name, {})))
    return Healthy(name, model, samples, tolerance(TorchPrefixes(model, samples)))


def tolerance(found: Prefixes) -> float:
    """1e-2, or four times the error of the healthy network in FP16 where that is more."""
    return max(1e-2, 4 * found.error(len(found.operators)))


def kinds(name: str) -> list[tuple[str, ...]]:
    """What is planted in a network: two single faults, in two of three networks more."""
    i, names = NETWORKS.index(name), list(SINGLE)
    found: list[tuple[str, ...]] = [(names[(2 * i + n) % len(names)],) for n in (0, 1)]
    if i % 3 == 0:
        found.append(SEVERAL[i // 3 % len(SEVERAL)])
    if i % 3 == 1:
        found.append((("half cancelled",), ("cancelled", "overflow"))[i // 3 % 2])
    return found


def trials(name: str) -> Iterator[Trial]:
    base = network(name)
    for k, asked in enumerate(kinds(name)):
        yield from drawn(base, asked, 3 * NETWORKS.index(name) + k)


def drawn(base: Healthy, asked: Sequence[str], number: int) -> Iterator[Trial]:
    """One trial, the first whose faults are seen, if there is any among those drawn."""
    tries = (_draw(base, asked, 1000 * number + n) for n in range(TRIES))
    yield from islice((trial for trial in tries if trial is not None), 1)


def _draw(base: Healthy, asked: Sequence[str], seed: int) -> Trial | None:
    """Plants at random modules of their own; None unless all are seen as they should be."""
    model, culprits = base.model, list[Culprit]()
    for n, kind in enumerate(asked):
        planted = _planted(model, base.samples, kind, 100_000 * n + seed)
        if planted is None:
            return None
        model, born = planted
        culprits += born
    found = TorchPrefixes(model, base.samples)
    places = [_position(found, culprit) for culprit in culprits]
    order = sorted(range(len(places)), key=places.__getitem__)
    culprits, places = [culprits[i] for i in order], [places[i] for i in order]
    blocks = _blocks(found, places)
    if places[0] < 0 or not are_seen(found, places, blocks, base.tolerance):
        return None
    return Trial(
        base.name,
        " + ".join(asked),
        model,
        base.samples,
        tuple(culprits),
        base.tolerance,
        len(found.operators),
        len(found.operators) <= SCANNED,
    )


def _planted(
    model: nn.Module, samples: Samples, kind: str, seed: int
) -> tuple[nn.Module, list[Culprit]] | None:
    """A model with one more plant, outside of those that it has, and what is to be named."""
    both = ["first loss", "second loss"] if kind in CANCELLING else []
    known = {"first loss": (CANCELLING[kind], "aten.mul")} if both else SINGLE
    case = plant(model, samples, both[0] if both else kind, seed, known)
    if case is None or case.module.endswith(".inner") != (kind == "weights"):
        return None
    lines = {name: born_at(__file__, name) for name in both} or {kind: case.line}
    return case.model, [
        Culprit(case.op, case.module, line, nth=NTH.get(name, 0)) for name, line in lines.items()
    ]


def _position(found: TorchPrefixes, culprit: Culprit) -> int:
    """Where it stands; -1 if it is not there."""
    for i, one in enumerate(found.operators):
        if (one.op, one.module, one.nth) == (culprit.op, culprit.module, culprit.nth):
            return i
    return -1


def _blocks(found: TorchPrefixes, places: Sequence[int]) -> list[list[int]]:
    """What a fault's value goes through: its module's plant from it to the next fault."""
    blocks: list[list[int]] = []
    for n, place in enumerate(places):
        end = places[n + 1] if n + 1 < len(places) else len(found.operators)
        module = found.operators[place].module
        blocks.append([i for i in range(place, end) if found.operators[i].module == module])
    return blocks


def are_seen(
    found: Prefixes, places: Sequence[int], blocks: Sequence[Sequence[int]], limit: float
) -> bool:
    """Whether each fault is the first that is seen once those before it are in FP32.

    The whole is wrong then, too: faults that cancel out are none to the outputs. On either side of
    a fault the output is clear of the tolerance by a factor of two. In front of the first one, a
    small network is right at every prefix.
    """
    if len(found.operators) <= SCANNED and not _is_first(found, places[0], limit):
        return False
    exempt: list[int] = []
    for place, block in zip(places, blocks, strict=True):
        after, whole = (found.error(n, exempt) for n in (place + 1, len(found.operators)))
        if found.error(place, exempt) > limit / 2 or min(after, whole) <= 2 * limit:
            return False
        exempt += block
    return True


def _is_first(found: Prefixes, place: int, limit: float) -> bool:
    return first_culprit(found, limit) is found.operators[place]
