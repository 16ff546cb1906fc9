"""Networks on the engines that need a GPU: before and after a fix, how fast, and which operator.

A part of bench/gpu.py. What an engine is given is what people give it: a module, or what is
exported of it, or a file. Latencies are of the engine alone, with inputs where it computes: medians
of runs in turns, the fixed model's over that of the naive FP16 model.
"""

# onnxruntime has no types, and the networks are of several kinds.
# pyright: basic

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

import halfsafe
from bench import bisect_plants
from bench.architectures import ARCHITECTURES, Size
from bench.bisecting import bisected
from halfsafe.engines import Engine, Running, engine_of, version_of
from halfsafe.errors import BadInput, first_line
from halfsafe.formats import FLOOR
from halfsafe.frontends import open_model
from halfsafe.samples import Call, Samples
from halfsafe.source import Arrays, Runnable, Source

ENGINES = {
    "cuda": ("torch-cuda", "onnxruntime-cuda", "tensorrt-rtx", "tensorrt"),
    "cpu": ("torch", "onnxruntime"),
}
"""The engines that are tried by device; those of the CPU try the script out."""

NETWORKS = ("resnet", "efficientnet", "vit", "bert", "gpt2", "llama", "panet", "ocr")
"""Architectures, and the detectors of the two examples."""

BISECTING = ("torch", "torch-cuda", "tensorrt-rtx")
PLANTED = {"resnet": "overflow", "gpt2": "lost"}
"""A fault in each of two networks, which these engines bisect."""

WARM = 3
"""Turns before times count."""

Row = dict[str, Any]


def at_hand(asked: Iterable[str]) -> Iterator[Engine]:
    """The engines that can run here; of the others it is said what they need."""
    for name in asked:
        try:
            yield engine_of(name)
        except BadInput as error:
            print(f"skipped: {error}")


# Before and after


@dataclass(frozen=True)
class Deployables:
    """A network cast to FP16, and fixed, with its last sample and what FP32 gives of that."""

    source: Source
    naive: Runnable
    fixed: Runnable
    call: Call
    reference: Arrays
    verdict: str


def deployables(name: str, size: Size) -> Deployables:
    model, samples = network(name, size)
    supply = Samples(samples)
    fixed = halfsafe.fix(model, samples)
    source = open_model(model, supply.first, None, supply.some)
    *_, call = supply
    module = isinstance(model, nn.Module)
    naive = source.running(copy.deepcopy(model).half()) if module else source
    ours, verdict = source.running(fixed.half()), str(fixed.report.answer)
    return Deployables(source, naive, ours, call, source.reference(call), verdict)


def network(name: str, size: Size) -> tuple[Any, list[Any]]:
    """One of bench/architectures.py, amplified, or the detector of an example."""
    if name == "panet":
        from examples.panet.demo import detector

        return detector()
    if name == "ocr":
        from examples.ocr.detector import drawn, file

        return file(), drawn(3)
    return ARCHITECTURES[name].build(size)


def measured(name: str, size: Size, engines: Iterable[Engine], turns: int) -> Iterator[Row]:
    """A row for each engine; that it does not take the network is a result."""
    try:
        given = deployables(name, size)
    except Exception as failure:
        yield {"network": name, "failed": first_line(failure)}
        return
    floor = error(given.source.evaluate(given.call, FLOOR), given.reference)
    for engine in engines:
        row = {"network": name, "engine": engine.name, "version": version_of(engine)}
        yield {**row, "verdict": given.verdict, "floor": floor, **on(engine, given, turns)}


def on(engine: Engine, given: Deployables, turns: int) -> Row:
    """Errors and latencies of both on one engine, as far as it gets with each."""
    row: Row = {}
    ready: dict[str, Callable[[], Any]] = {}
    for word, deployable in {"naive": given.naive, "fixed": given.fixed}.items():
        row[word] = {}
        try:
            running = engine.build(deployable)
            found = running.run(given.call)
            row[word]["error"] = error(found, given.reference)
            row[word]["nonfinite"] = sum(map(lost, found, given.reference))
            row[word]["types"] = dict(running.census(given.call))
            ready[word] = repeated(running, given.call)
        except Exception as failure:
            row[word]["failed"] = first_line(failure)
    if len(ready) == 2:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        taken = latencies(ready, device, turns)
        row["milliseconds"] = {word: round(1e3 * t, 4) for word, t in taken.items()}
        row["fixed_over_naive"] = round(taken["fixed"] / taken["naive"], 3)
    return row


def repeated(running: Running, call: Call) -> Callable[[], Any]:
    """Runs it again and again on a sample that lies where the engine computes."""
    from halfsafe.engines.onnxruntime import File
    from halfsafe.engines.tensorrt import Networks
    from halfsafe.engines.torch import Module

    match running:
        case Module():
            return in_torch(running, call)
        case File():
            return in_onnxruntime(running, call)
        case Networks():
            return in_tensorrt(running, call)
    raise BadInput(f"there is no way to time a {type(running).__name__}")


def in_torch(running: Any, call: Call) -> Callable[[], Any]:
    def there(x: Any) -> Any:
        return x.to(running.device) if isinstance(x, torch.Tensor) else x

    taken = running.half.taken(call)
    args, kwargs = pytree.tree_map(there, (taken.args, taken.kwargs))
    return lambda: running.compute(*args, **kwargs)


def in_onnxruntime(running: Any, call: Call) -> Callable[[], Any]:
    """Inputs are bound once, and outputs stay on the device."""
    import onnxruntime as ort

    from halfsafe.frontends.onnx.runtime import session

    served = running.serving(call)
    held = session(served.model, optimised=True, provider=running.provider)
    device = "cpu" if running.provider == "CPUExecutionProvider" else "cuda"
    binding = held.io_binding()
    for name, x in served.feeds(call).items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(x, device, 0))
    for output in held.get_outputs():
        binding.bind_output(output.name, device)

    def run() -> None:
        held.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run


def in_tensorrt(running: Any, call: Call) -> Callable[[], Any]:
    """What is held has to live as long as what runs."""
    from halfsafe.engines.tensorrt import Execution

    execution = Execution(running.library, running.engine(call))
    held = execution.hold(running.serving(call).feeds(call))

    def run() -> Any:
        execution.execute()
        return held

    return run


# What is measured


def error(found: Arrays, expected: Arrays) -> float | None:
    """Root mean square of the floating outputs' relative errors; None if one is not finite.

    Where FP32 gives an infinity, as of a mask, FP16 has to give the same one.
    """
    each: list[float] = []
    for a, b in zip(found, expected, strict=True):
        if not is_float(b):
            continue
        finite = np.isfinite(b)
        if not np.isfinite(a[finite]).all() or not np.array_equal(a[~finite], b[~finite]):
            return None
        each.append(float(np.linalg.norm(a[finite] - b[finite]) / np.linalg.norm(b[finite])))
    return math.sqrt(statistics.fmean(e * e for e in each))


def lost(found: Any, expected: Any) -> int:
    """Entries that are not finite, though FP32 has them."""
    return int((np.isfinite(expected) & ~np.isfinite(found)).sum())


def is_float(x: Any) -> bool:
    return np.asarray(x).dtype.kind == "f"


def latencies(variants: dict[str, Callable[[], Any]], device: str, turns: int) -> dict[str, float]:
    """Median seconds of each variant, run in turns after warming up."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    with torch.no_grad():
        for turn in range(turns + WARM):
            for name, run in variants.items():
                synchronise(device)
                start = time.perf_counter()
                run()
                synchronise(device)
                if turn >= WARM:
                    times[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in times.items()}


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


# Bisecting


def bisections(engines: Iterable[Engine]) -> Iterator[Row]:
    """Planted faults, bisected on each engine that runs modules by itself or by exporting them."""
    able = [engine.name for engine in engines if engine.name in BISECTING]
    for name, kind in PLANTED.items() if able else ():
        trial = next(bisect_plants.drawn(bisect_plants.network(name), (kind,), 1))
        for engine in able:
            yield bisected(trial, engine)
