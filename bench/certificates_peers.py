"""Certificates beside interval arithmetic alone and beside auto_LiRPA.

    python -m bench.certificates_peers [names]

Networks with random weights as they are initialised, and a box of inputs; of text networks these
are the embeddings, since auto_LiRPA takes no numbers of tokens. Four ways bound the output:
halfsafe; the same interpreter with every bound made an interval as soon as it is made, so that no
form, no length and no softmax's row goes on; and IBP and CROWN of auto_LiRPA, in an environment of
its own. What each says is told in bits over the largest output that thousands of inputs of the box
reach (bench/attacks.py), of the first two also at the value where that is worst. A network that
auto_LiRPA does not take has its error's first line.

auto_LiRPA 0.3, the newest of the index, asks for torch < 1.13. What it reads of torch has other
names now, which are put back before it is imported, and nothing else of it is changed: `_restored`.
For IBP its softmax is the one that it has an interval for, for CROWN the one that it has by itself.
Whether CROWN would take more networks on the torch that it asks for is not known.
"""

# pyright: basic

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.architectures import ARCHITECTURES, FURTHER, TINY, Size

LIRPA = Path(".venv-lirpa/bin/python")
METHODS = ("IBP", "CROWN")
SECONDS = 300
"""After which auto_LiRPA is given up."""

MIDDLE = Size(width=128, layers=6, heads=8, tokens=8, vocabulary=500, channels=32, image=64)
SIZES = {"tiny": replace(TINY, tokens=8), "middle": MIDDLE}
ATTACKS = 2_000
BATCH = 32


# Networks of what auto_LiRPA knows, and those of bench/architectures.py


class Block(nn.Module):
    """Attention and a ReLU layer behind LayerNorms, in the operators that it has."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        y = self.first(x)
        q, k, v = (
            m(y).view(batch, tokens, self.heads, width // self.heads).permute(0, 2, 1, 3)
            for m in (self.q, self.k, self.v)
        )
        scores = torch.matmul(q, k.transpose(-1, -2)) * (width // self.heads) ** -0.5
        mixed = torch.matmul(torch.softmax(scores, -1), v).permute(0, 2, 1, 3)
        x = x + self.o(mixed.reshape(batch, tokens, width))
        return x + self.down(torch.relu(self.up(self.second(x))))


class Chain(nn.Sequential):
    """One after the other; its input is x."""

    def forward(self, x: Tensor) -> Tensor:
        for part in self:
            x = part(x)
        return x


def encoder(z: Size) -> tuple[nn.Module, Tensor]:
    blocks = [Block(z.width, z.heads) for _ in range(z.layers)]
    model = Chain(*blocks, nn.LayerNorm(z.width), nn.Linear(z.width, 10))
    return model, torch.rand(1, z.tokens, z.width) * 2 - 1


def multilayer(z: Size) -> tuple[nn.Module, Tensor]:
    """Linear layers and ReLU alone."""
    layers = [nn.Sequential(nn.Linear(z.width, z.width), nn.ReLU()) for _ in range(z.layers)]
    return Chain(*layers, nn.Linear(z.width, 10)), torch.rand(1, z.width) * 2 - 1


def normed(z: Size) -> tuple[nn.Module, Tensor]:
    """One LayerNorm, one ReLU layer: no attention, no residual sum."""
    model = Chain(
        nn.LayerNorm(z.width), nn.Linear(z.width, 2 * z.width), nn.ReLU(),
        nn.Linear(2 * z.width, 10),
    )  # fmt: skip
    return model, torch.rand(1, z.width) * 2 - 1


class Embedded(nn.Module):
    """A text network whose input are the embeddings."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(inputs_embeds=x, return_dict=False)[0]


class Seen(nn.Module):
    """A network of pictures, which gives a tuple."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(pixel_values=x, return_dict=False)[0]


def of_family(name: str) -> Callable[[Size], tuple[nn.Module, Tensor]]:
    def made(z: Size) -> tuple[nn.Module, Tensor]:
        found = {**ARCHITECTURES, **FURTHER}[name]
        model, samples = replace(found, amplify={}).build(z)
        if "pixel_values" in samples[0]:
            return Seen(model), samples[0]["pixel_values"][:1]
        table = model.get_input_embeddings()
        return Embedded(model), table(samples[0]["input_ids"][:1]).detach()

    return made


FAMILIES = "bert roberta gpt2 llama mistral qwen2 gemma phi3 vit resnet".split()
NETWORKS: dict[str, Callable[[Size], tuple[nn.Module, Tensor]]] = {
    "multilayer": multilayer,
    "normed": normed,
    "encoder": encoder,
    **{name: of_family(name) for name in FAMILIES},
}


@dataclass(frozen=True)
class Built:
    model: nn.Module
    sample: Tensor
    low: float
    high: float


def built(name: str, size: str) -> Built:
    """A network, a sample, and the ends of its box, the same in both environments."""
    torch.manual_seed(0)
    model, sample = NETWORKS[name](SIZES[size])
    end = math.ceil(1000 * float(sample.abs().max())) / 1000
    return Built(model.eval(), sample, -end, end)


# Here


def ours(found: Built, count: int) -> dict[str, Any]:
    """halfsafe, intervals alone, and the largest output of the attacks, of many rows at once."""
    import halfsafe
    from bench.attacks import attack

    rows = found.sample.repeat(BATCH, *(1 for _ in found.sample.shape[1:]))
    found = replace(found, sample=rows)
    began = time.perf_counter()
    claims = halfsafe.certify(
        found.model, {"x": (found.low, found.high)}, sample={"x": found.sample}
    )
    seconds = time.perf_counter() - began
    reached = attack(found.model, {"x": found.sample}, claims, count, half=False)
    outputs = _outputs(found)
    largest = max(reached.largest[o] for o in outputs)
    alone, alone_seconds = by_intervals(found)
    return {
        "attacks": reached.inputs,
        "passed": reached.passed,
        "largest_output": largest,
        "halfsafe": _told([claims.values[o].bound for o in outputs], largest, seconds)
        | {"worst_bits": round(reached.worst, 2)},
        "intervals": _told([alone.get(o) for o in outputs], largest, alone_seconds)
        | {"worst_bits": _worst(alone, reached.largest)},
    }


def _outputs(found: Built) -> tuple[str, ...]:
    from halfsafe.frontends import open_model
    from halfsafe.samples import Samples

    return open_model(found.model, Samples({"x": found.sample}).first).graph.outputs


def by_intervals(found: Built) -> tuple[dict[str, float], float]:
    """The interpreter, of which nothing but intervals goes from operator to operator."""
    import halfsafe
    from halfsafe.bounds.interpreter import Interpreter

    whole = Interpreter._outputs

    def plain(self: Interpreter, node: Any) -> list[Any]:
        return [bound.plain() for bound in whole(self, node)]

    Interpreter._outputs = plain
    try:
        began = time.perf_counter()
        domain = {"x": (found.low, found.high)}
        claims = halfsafe.certify(found.model, domain, sample={"x": found.sample})
        seconds = time.perf_counter() - began
    finally:
        Interpreter._outputs = whole
    return {n: v.bound for n, v in claims.values.items() if v.bound is not None}, seconds


def _told(bounds: list[float | None], largest: float, seconds: float) -> dict[str, Any]:
    known = [b for b in bounds if b is not None and math.isfinite(b)]
    if len(known) < len(bounds):
        return {"bound": None, "bits": None, "seconds": round(seconds, 2)}
    bits = math.log2(max(known) / largest)
    return {"bound": max(known), "bits": round(bits, 2), "seconds": round(seconds, 2)}


def _worst(bounds: dict[str, float], largest: dict[str, float]) -> float:
    bits = [math.log2(b / x) for n, b in bounds.items() if (x := largest.get(n, 0.0)) and b]
    return round(max(bits), 2)


# In the environment of auto_LiRPA


def _restored() -> None:
    """Names of torch before 1.13, of which auto_LiRPA 0.3 reads graphs, and one of NumPy's."""
    import importlib
    import types

    import numpy as np
    from torch.onnx._internal.torchscript_exporter import _globals, utils

    named = {n: importlib.import_module(f"torch.onnx.{n}") for n in ("symbolic_helper", "utils")}
    sys.modules["numpy.lib.arraysetops"] = types.SimpleNamespace(isin=np.isin)  # type: ignore

    def opset(version: int) -> None:
        _globals.GLOBALS.export_onnx_opset_version = version

    named["symbolic_helper"]._set_opset_version = opset
    named["utils"]._optimize_graph = utils._optimize_graph
    torch._C.Node.__getitem__ = lambda node, key: getattr(node, node.kindOf(key))(key)
    from auto_LiRPA import BoundedModule

    members = BoundedModule._named_members

    def named_members(self: Any, get: Any, prefix: str = "", recurse: bool = True, **_: Any) -> Any:
        return members(self, get, prefix, recurse)

    BoundedModule._named_members = named_members


def lirpa(name: str, size: str, method: str) -> dict[str, Any]:
    """The largest magnitude of the output by one method."""
    _restored()
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

    found = built(name, size)
    for parameter in found.model.parameters():
        parameter.requires_grad_(False)
    low, high = (torch.full_like(found.sample, end) for end in (found.low, found.high))
    began = time.perf_counter()
    options = {"softmax": "plain" if method == "IBP" else "complex", "conv_mode": "matrix"}
    bounded = BoundedModule(found.model, found.sample, bound_opts=options)
    box = BoundedTensor(found.sample, PerturbationLpNorm(norm=math.inf, x_L=low, x_U=high))
    bounded(box)
    with torch.no_grad():
        ends = bounded.compute_bounds(x=None, method=method)
    return {
        "bound": max(float(end.abs().max()) for end in ends),
        "seconds": round(time.perf_counter() - began, 2),
    }


def beside(name: str, size: str, method: str, largest: float) -> dict[str, Any]:
    """What a process in that environment says, or the last line of what it died of."""
    command = [str(LIRPA), "-W", "ignore", "-m", "bench.certificates_peers", "--lirpa"]
    command += [name, size, method]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return {"bound": None, "error": f"nothing after {SECONDS} s"}
    if done.returncode:
        return {"bound": None, "error": _error(done.stdout + done.stderr)}
    row = json.loads(done.stdout.splitlines()[-1])
    return _told([row["bound"]], largest, row["seconds"])


def _error(text: str) -> str:
    """The exception's first line, the operators that it says it does not know, or where it is."""
    lines = text.strip().splitlines()
    unknown = sorted({x.split("Name: ")[1].split(",")[0] for x in lines if "Name: " in x})
    raised = [i for i, x in enumerate(lines) if x[:1].strip() and ("Error" in x.split(":")[0])]
    last = lines[raised[-1]] if raised else lines[-1]
    places = [x.strip() for x in lines if "auto_LiRPA" in x and "line" in x]
    if unknown:
        return f"{last}: {', '.join(unknown)}"
    where = places[-1].rpartition("auto_LiRPA/")[2].replace('"', "") if places else ""
    return f"{last} ({where})" if where else last


def main() -> None:
    warnings.simplefilter("ignore")
    if sys.argv[1:2] == ["--lirpa"]:
        print(json.dumps(lirpa(*sys.argv[2:])))
        return
    if not LIRPA.exists():
        raise SystemExit(f"there is no {LIRPA}: run `make lirpa` first")
    from bench.record import record

    rows = []
    for size in SIZES:
        for name in sys.argv[1:] or NETWORKS:
            row = {"network": name, "size": size, **ours(built(name, size), ATTACKS)}
            row |= {m: beside(name, size, m, row["largest_output"]) for m in METHODS}
            rows.append(row)
            print(json.dumps(row), flush=True)
    if not sys.argv[1:]:
        peer = {"auto_LiRPA": "0.3", "torch": "2.13.0", "asks for": "torch < 1.13"}
        record("certificates_peers", "make lirpa", {"peer": peer, "rows": rows})


if __name__ == "__main__":
    main()
