"""Faults planted in ONNX files as nodes with names, for which see bench/bisect_plants.py."""

# pyright: basic

from __future__ import annotations

import copy
import logging
import random
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bench.bisect_plants import (
    NETWORKS,
    SCANNED,
    TRIES,
    Culprit,
    Trial,
    are_seen,
    network,
    tolerance,
)
from bench.judge import fed, session
from bench.onnx_accuracy import export
from bench.plants import power
from bench.prefixes import OnnxPrefixes

Lines = tuple[str, ...]

PLANTS: dict[str, Lines] = {
    "overflow": ("*large = Mul(y, up)", "twice = Add(large, large)", "z = Mul(twice, up_back)"),
    "underflow": ("*small = Mul(y, down)", "z = Mul(small, down_back)"),
    "lost": (
        "unit = Mul(y, one)",
        "*large = Add(unit, many)",
        "rest = Sub(large, many)",
        "z = Mul(rest, amax)",
    ),
    "absorbed": (
        "large = Mul(y, high)",
        "*squares = Mul(large, large)",
        "mean = ReduceMean<keepdims=1>(squares)",
        "root = Sqrt(mean)",
        "unit = Div(large, root)",
        "z = Mul(unit, amax)",
    ),
    "epsilon": (
        "unit = Mul(y, one)",
        "relu = Relu(unit)",
        "*divisor = Add(relu, epsilon)",
        "gate = Div(relu, divisor)",
        "z = Mul(gate, y)",
    ),
    "sentinel": (
        "large = Greater(y, zero)",
        "*masked = Where(large, fill, y)",
        "weights = Exp(masked)",
        "kept = Where(large, zero, weights)",
        "hidden = Mul(masked, kept)",
        "z = Add(y, hidden)",
    ),
    "half cancelled": (
        "*first = Mul(y, down)",
        "kept = Mul(first, down_back)",
        "*second = Mul(y, further)",
        "twin = Mul(second, further_back)",
        "rest = Sub(y, twin)",
        "half = Mul(rest, share)",
        "z = Add(kept, half)",
    ),
    "cancelled": (
        "*first = Mul(y, down)",
        "kept = Mul(first, down_back)",
        "*second = Mul(y, further)",
        "twin = Mul(second, further_back)",
        "rest = Sub(y, twin)",
        "z = Add(kept, rest)",
    ),
}
"""Nodes that make z of a value y; those at which a fault is born are marked.

A sentinel of -3e38 is -inf in FP16, and 0 times that is not a number.
"""

SINGLE = tuple(PLANTS)[:-2]
SEVERAL = (("overflow", "lost"), ("underflow", "absorbed"), ("lost", "sentinel"))
"""Pairs that are planted at two values."""


def numbers(amax: float) -> dict[str, float]:
    """What stands beside y in the plants, by its largest magnitude."""
    up, down, further = power(1e7 / amax), power(1e-9 / amax), power(1e-10 / amax)
    return {
        "up": up, "up_back": 0.5 / up, "down": down, "down_back": 1 / down,
        "further": further, "further_back": 1 / further, "one": power(1 / amax), "many": 1024.0,
        "high": power(4000 / amax), "amax": power(amax), "epsilon": 1e-12, "zero": 0.0,
        "fill": -3e38, "share": 0.5,
    }  # fmt: skip


def kinds(name: str) -> list[tuple[str, ...]]:
    """What is planted in a file: two single faults, in two of three files more."""
    i = NETWORKS.index(name)
    found: list[tuple[str, ...]] = [(SINGLE[(2 * i + i // 3 + n) % len(SINGLE)],) for n in (0, 1)]
    if i % 3 == 1:
        found.append(SEVERAL[i // 3 % len(SEVERAL)])
    if i % 3 == 2:
        found.append((("half cancelled",), ("cancelled", "overflow"))[i // 3 % 2])
    return found


@dataclass(frozen=True)
class File:
    """A healthy network as a file, its tolerance, and where faults can be planted."""

    name: str
    model: onnx.ModelProto
    samples: list[dict[str, Any]]
    tolerance: float
    places: list[tuple[str, float]]


def trials(name: str) -> Iterator[Trial]:
    healthy = file(name)
    for n, asked in enumerate(kinds(name)):
        yield from drawn(healthy, asked, n)


def file(name: str) -> File:
    model, samples = exported(name)
    limit = tolerance(OnnxPrefixes(model, samples))
    return File(name, model, samples, limit, _places(model, samples))


def drawn(healthy: File, asked: Sequence[str], number: int) -> Iterator[Trial]:
    """One trial, the first whose faults are seen, if there is any among those drawn."""
    for attempt in range(TRIES):
        chosen = random.Random(f"{healthy.name} {number} {attempt}")
        places = chosen.sample(healthy.places, len(asked))
        trial = _trial(healthy, dict(zip(asked, places, strict=True)))
        if trial is not None:
            yield trial
            return


def exported(name: str) -> tuple[onnx.ModelProto, list[dict[str, Any]]]:
    """A healthy network as a file, and its samples."""
    base = network(name)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "model.onnx"
        export(copy.deepcopy(base.model), base.samples[0], path)
        model = onnx.load(path)
    logging.disable(logging.NOTSET)
    return model, [{key: x.numpy() for key, x in sample.items()} for sample in base.samples]


def _places(model: onnx.ModelProto, samples: Sequence[dict[str, Any]]) -> list[tuple[str, float]]:
    """Values of two dimensions or more that nodes compute of the inputs, and their magnitudes."""
    moving = {v.name for v in model.graph.input}
    for node in model.graph.node:
        if moving.intersection(node.input):
            moving.update(node.output)
    floats = OnnxPrefixes(model, samples).floats
    wide = copy.deepcopy(model)
    names = [o for n in model.graph.node for o in n.output if o in moving & floats]
    del wide.graph.output[:]
    wide.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    seen = zip(names, fed(session(wide), samples[0]), strict=True)
    sizes = [(name, x.shape, float(np.abs(x).max(initial=0.0))) for name, x in seen]
    return [(n, a) for n, s, a in sizes if len(s) > 1 and min(s[-2:]) > 1 and 1e-2 < a < 1e3]


def _trial(healthy: File, where: dict[str, tuple[str, float]]) -> Trial | None:
    """A file with faults at values of its own; None unless all are seen as they should be."""
    model = healthy.model
    for kind, (value, amax) in where.items():
        model = planted(model, kind, value, amax)
    found = OnnxPrefixes(model, healthy.samples)
    names = [operator.name for operator in found.operators]
    places = [i for i, name in enumerate(names) if name.startswith("planted ")]
    blocks = [_block(names, place) for place in places]
    if not are_seen(found, places, blocks, healthy.tolerance):
        return None
    return Trial(
        healthy.name,
        " + ".join(where),
        model,
        healthy.samples,
        tuple(Culprit(found.operators[i].op, name=names[i]) for i in places),
        healthy.tolerance,
        len(names),
        len(names) <= SCANNED,
    )


def planted(model: onnx.ModelProto, kind: str, value: str, amax: float) -> onnx.ModelProto:
    """A copy of a file with a fault behind the node that computes a value."""
    model = copy.deepcopy(model)
    at = next(i for i, n in enumerate(model.graph.node) if value in n.output)
    maker, known = model.graph.node[at], numbers(amax)
    renamed = {"y": f"{value} {kind}", "z": value}
    maker.output[list(maker.output).index(value)] = renamed["y"]
    for i, line in enumerate(PLANTS[kind], 1):
        node = onnx.parser.parse_node(line.removeprefix("*"))
        node.name = f"{'planted' if line[0] == '*' else 'beside'} {kind} {i}"
        for names in (node.input, node.output):
            names[:] = [renamed.get(x, f"{kind} {x}") for x in names]
        model.graph.node.insert(at + i, node)
    read = {x for n in model.graph.node for x in n.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.float32(x), f"{kind} {name}")
        for name, x in known.items()
        if f"{kind} {name}" in read
    )
    return model


def _block(names: Sequence[str], place: int) -> list[int]:
    """A fault's node and those behind it in its plant, up to the next fault."""
    kind = names[place].rsplit(" ", 1)[0].removeprefix("planted ")
    block = [place]
    while block[-1] + 1 < len(names) and names[block[-1] + 1].startswith(f"beside {kind} "):
        block.append(block[-1] + 1)
    return block
