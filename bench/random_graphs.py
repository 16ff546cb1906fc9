"""Random graphs of all families of operators, fixed and judged: is there an exception, or a lie?

Run as ``python -m bench.random_graphs`` (500 of PyTorch and 500 of ONNX), ``--count 20``, or
``--show torch 17`` for one of them, ``--shrink torch 17`` for the least graph with its defect.

A graph is a `Spec`, plain data: what is drawn are numbers, and each of them is taken modulo what is
there to choose from, so that a step can be left out of any spec. Constants and inputs have
amplitudes from 1e-6 to 1e6. The verdict is held against what bench/judge.py runs, which shares no
code with halfsafe, on every sample: the file or module that is delivered, with every value rounded,
and in the framework's own kernels.
"""

# pyright: basic

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import halfsafe
from bench import judge
from bench.record import record

COMMAND = "python -m bench.random_graphs"
SECONDS = 60
"""In which a fix has to end."""

Kind = Literal["torch", "onnx"]
KINDS: tuple[Kind, ...] = ("torch", "onnx")
Array = np.ndarray[Any, Any]
Pick = Callable[[int], int]
"""A number from 0 to n - 1: of a seed in the bench, of hypothesis in the tests."""

POWERS = (0, 0, 0, 0, -1, 1, 2, -2, 3, -3, 4, -4, 5, -5, 6, -6)
"""Amplitudes, as powers of ten."""


class Unfit(Exception):
    """A spec that is no graph, or one that FP32 cannot compute either."""


@dataclass(frozen=True, slots=True)
class Step:
    """An operator on `x` and `y`, counted back from the newest value, with its own constants."""

    op: str
    x: int = 0
    y: int = 0
    power: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Spec:
    """A graph and its samples; `powers` are the amplitudes of its inputs."""

    kind: Kind
    steps: tuple[Step, ...]
    powers: tuple[int, ...] = (0,)
    matrix: bool = False
    samples: int = 3
    quiet: int = 0
    seed: int = 0
    opset: int = 18
    width: int = 12

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Spec:
        steps = tuple(Step(**step) for step in data["steps"])
        return cls(**{**data, "steps": steps, "powers": tuple(data["powers"])})


def drawn(kind: Kind, pick: Pick) -> Spec:
    """Any spec of 3 to 15 steps."""
    names = list(TORCH if kind == "torch" else ONNX)

    def power() -> int:
        return POWERS[pick(len(POWERS))]

    def step() -> Step:
        x = (0, 0, 0, 0, 1, 2, 3)[pick(7)]
        return Step(names[pick(len(names))], x, pick(8), power(), pick(100))

    return Spec(
        kind,
        tuple(step() for _ in range(3 + pick(13))),
        tuple(power() for _ in range(1 + pick(2))),
        pick(3) == 0,
        2 + pick(3),
        (0, 0, 1, 2)[pick(4)],
        pick(100),
        17 + pick(5),
        (12, 32)[pick(2)],
    )


def seeded(kind: Kind, seed: int) -> Spec:
    rng = np.random.default_rng([seed, kind == "onnx"])
    return drawn(kind, lambda n: int(rng.integers(n)))


def inputs_of(spec: Spec) -> list[tuple[Array, ...]]:
    """The samples, and a last one that is never shown to a fix."""
    rng = np.random.default_rng(spec.seed)
    shape = (4, spec.width) if spec.matrix else (2, 4, spec.width)
    found: list[tuple[Array, ...]] = []
    for number in range(spec.samples + 1):
        arrays = [rng.standard_normal(shape) * 10.0**power for power in spec.powers]
        if spec.quiet and number % 2 == 0:
            arrays[0][-1] *= 1e-4 if spec.quiet == 1 else 0.0
        found.append(tuple(a.astype(np.float32) for a in arrays))
    return found


def amplitude(power: int, rng: np.random.Generator) -> float:
    """A number of two digits."""
    return float(f"{rng.uniform(0.5, 2.0) * 10.0**power:.1e}")


def gain(array: Array) -> float:
    """What brings the entries of an array to about 1."""
    largest = float(np.abs(array).max(initial=0.0))
    if not 0 < largest < np.inf:
        raise Unfit("nothing to bring to 1")
    return float(f"{1 / largest:.1e}")


def fits(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(a, b) in (a, b)
    except ValueError:
        return False


# PyTorch


class Held:
    """The constants of one step: made when the module is built, and found again when it runs."""

    def __init__(self, module: nn.Module, prefix: str, power: int, seed: int) -> None:
        self.module, self.prefix, self.power, self.seed = module, prefix, power, seed
        self.count = 0

    def _name(self) -> str:
        self.count += 1
        return f"{self.prefix}_{self.count}"

    def _rng(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.count])

    def _tensor(self, make: Callable[[np.random.Generator], Any]) -> Tensor:
        name = self._name()
        if not hasattr(self.module, name):
            found = np.asarray(make(self._rng()))
            kind = torch.bool if found.dtype == bool else torch.float32
            self.module.register_buffer(name, torch.tensor(found, dtype=kind))
        return getattr(self.module, name)

    def tensor(self, *shape: int) -> Tensor:
        return self._tensor(lambda rng: rng.standard_normal(shape) * 10.0**self.power)

    def weight(self, *shape: int) -> Tensor:
        fan = np.sqrt(np.prod(shape[1:]))
        return self._tensor(lambda rng: rng.standard_normal(shape) / fan * 10.0**self.power)

    def positive(self, *shape: int) -> Tensor:
        return self._tensor(lambda rng: rng.uniform(0.5, 2.0, shape) * 10.0**self.power)

    def mask(self, *shape: int) -> Tensor:
        """Three of four are true, the first always."""
        return self._tensor(lambda rng: (rng.random(shape) < 0.75) | (np.arange(shape[-1]) == 0))

    def number(self) -> float:
        self.count += 1
        return amplitude(self.power, self._rng())

    def choice(self, *of: Any) -> Any:
        self.count += 1
        return of[int(self._rng().integers(len(of)))]

    def tame(self, x: Tensor) -> Tensor:
        """x brought to about 1 by a number in the code."""
        name = self._name()
        if not hasattr(self.module, name):
            setattr(self.module, name, gain(x.detach().numpy()))
        return x * getattr(self.module, name)


TorchOp = Callable[[Tensor, Tensor, Held], Any]


def _width(x: Tensor) -> int:
    return x.shape[-1]


def _wide(x: Tensor) -> Tensor:
    if x.shape[-1] < 2:
        raise Unfit("one column")
    return x


def _cube(x: Tensor) -> Tensor:
    return x if x.dim() == 3 else x.unsqueeze(0)


def _manual_norm(x: Tensor, y: Tensor, c: Held) -> Tensor:
    centred = _wide(x) - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + c.choice(1e-12, 1e-6))


def _attention(x: Tensor, y: Tensor, c: Held) -> Tensor:
    x, n = _cube(x), _width(x)
    q, k = c.tame(x) @ c.weight(n, 8), c.tame(x) @ c.weight(n, 8)
    if c.choice(True, False):
        return F.scaled_dot_product_attention(q, k, x)
    scores = q @ k.transpose(-1, -2) / 8**0.5
    fill = c.choice(-1e4, -1e9, float("-inf"), torch.finfo(torch.float32).min)
    return scores.masked_fill(~c.mask(x.shape[-2]), fill).softmax(-1) @ x


def _batch_norm(x: Tensor, y: Tensor, c: Held) -> Tensor:
    n = x.shape[1]
    mean, var = c.tensor(n), c.positive(n)
    return F.batch_norm(x, mean, var, c.positive(n), c.tensor(n), eps=c.choice(1e-5, 1e-3))


def _cat(x: Tensor, y: Tensor, c: Held) -> Tensor:
    return torch.cat([x, y.expand(x.shape)], -1)[..., : c.choice(12, 64)]


def _masked_softmax(x: Tensor, y: Tensor, c: Held) -> Tensor:
    scores = c.tame(x) * c.choice(1.0, 10.0) if c.choice(True, False) else x
    way, mask = c.choice("fill", "add", "where"), c.mask(_width(x))
    if way == "fill":
        return scores.masked_fill(~mask, c.choice(-1e9, float("-inf"))).softmax(-1)
    if way == "add":
        return (scores + (1.0 - mask.to(x.dtype)) * c.choice(-1e4, -1e9)).softmax(-1)
    return torch.where(mask, scores, torch.finfo(x.dtype).min).softmax(-1)


TORCH: dict[str, TorchOp] = {
    # homogeneous
    "relu": lambda x, y, c: x.relu(),
    "leaky_relu": lambda x, y, c: F.leaky_relu(x, 0.1),
    "prelu": lambda x, y, c: F.prelu(x, c.positive(x.shape[1])),
    "abs": lambda x, y, c: x.abs(),
    "neg": lambda x, y, c: -x,
    "sum": lambda x, y, c: x.sum(-1, keepdim=True),
    "mean": lambda x, y, c: x.mean(1, keepdim=True),
    "amax": lambda x, y, c: x.amax(-1, keepdim=True),
    "amin": lambda x, y, c: x.amin(1, keepdim=True),
    "cumsum": lambda x, y, c: x.cumsum(-1),
    "sort": lambda x, y, c: x.sort(-1).values,
    "std": lambda x, y, c: _wide(x).std(-1, keepdim=True),
    "norm": lambda x, y, c: x.norm(dim=-1, keepdim=True),
    "max_pool": lambda x, y, c: F.max_pool1d(_cube(x), 3, 1, 1),
    "avg_pool": lambda x, y, c: F.avg_pool1d(_cube(x), 3, 1, 1),
    # aligned
    "add": lambda x, y, c: x + y,
    "sub": lambda x, y, c: x - y,
    "add_number": lambda x, y, c: x + c.number(),
    "add_vector": lambda x, y, c: x + c.tensor(_width(x)),
    "rsub": lambda x, y, c: c.number() - x,
    "add_alpha": lambda x, y, c: torch.add(x, y, alpha=c.number()),
    "lerp": lambda x, y, c: torch.lerp(x, y.expand(x.shape), 0.3),
    "residual": lambda x, y, c: x + F.linear(x, c.weight(_width(x), _width(x))).relu(),
    "cat": _cat,
    "stack": lambda x, y, c: torch.stack([x, y.expand(x.shape)], 0).sum(0),
    "maximum": lambda x, y, c: torch.maximum(x, y),
    "minimum": lambda x, y, c: torch.minimum(x, y),
    "where": lambda x, y, c: torch.where(x > y, x, y),
    "where_number": lambda x, y, c: torch.where(x > 0, x, c.number()),
    "where_mask": lambda x, y, c: torch.where(c.mask(_width(x)), x, y),
    "masked_fill": lambda x, y, c: x.masked_fill(~c.mask(_width(x)), c.number()),
    "clamp": lambda x, y, c: x.clamp(-c.number(), c.number()),
    "clamp_min": lambda x, y, c: x.clamp(min=c.number()),
    "hardtanh": lambda x, y, c: F.hardtanh(x, -c.number(), c.number()),
    "relu6": lambda x, y, c: F.relu6(x),
    "threshold": lambda x, y, c: F.threshold(x, c.number(), 0.0),
    "shrink": lambda x, y, c: F.softshrink(x, c.number()),
    "pad": lambda x, y, c: F.pad(x, (1, 1), value=c.number()),
    "diff": lambda x, y, c: _wide(x).diff(dim=-1),
    # product
    "mul": lambda x, y, c: x * y,
    "mul_number": lambda x, y, c: x * c.number(),
    "mul_vector": lambda x, y, c: x * c.tensor(_width(x)),
    "mul_mask": lambda x, y, c: x * c.mask(_width(x)).to(x.dtype),
    "matmul": lambda x, y, c: x @ c.weight(_width(x), 12),
    "scores": lambda x, y, c: _cube(x) @ _cube(x).transpose(-1, -2),
    "einsum": lambda x, y, c: torch.einsum("...i,ij->...j", x, c.weight(_width(x), 12)),
    "square": lambda x, y, c: x.square(),
    "pow": lambda x, y, c: x.abs() ** c.choice(0.5, 1.5, 2, 3),
    "var": lambda x, y, c: _wide(x).var(-1, keepdim=True),
    # affine
    "linear": lambda x, y, c: F.linear(x, c.weight(12, _width(x)), c.tensor(12)),
    "linear_small_bias": lambda x, y, c: F.linear(x, c.weight(12, _width(x)), 1e-3 * c.tensor(12)),
    "conv": lambda x, y, c: F.conv1d(_cube(x), c.weight(5, _cube(x).shape[1], 3), c.tensor(5),
                                     padding=1),
    "conv_transpose": lambda x, y, c: F.conv_transpose1d(
        _cube(x), c.weight(_cube(x).shape[1], 4, 3), c.tensor(4), padding=1),
    "addmm": lambda x, y, c: torch.addmm(c.tensor(12), x.flatten(0, -2), c.weight(_width(x), 12),
                                         beta=0.5, alpha=c.number()),
    # normalisations
    "layer_norm": lambda x, y, c: F.layer_norm(
        _wide(x), x.shape[-1:], c.positive(_width(x)), c.tensor(_width(x)),
        c.choice(1e-12, 1e-6, 1e-5, 1e-3)),
    "rms_norm": lambda x, y, c: F.rms_norm(x, x.shape[-1:], c.positive(_width(x)),
                                           c.choice(None, 1e-6, 1e-5)),
    "group_norm": lambda x, y, c: F.group_norm(_cube(x), 1, eps=c.choice(1e-6, 1e-5)),
    "batch_norm": _batch_norm,
    "manual_norm": _manual_norm,
    "manual_rms": lambda x, y, c: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6),
    "normalize": lambda x, y, c: F.normalize(x, dim=-1),
    "softmax_free": lambda x, y, c: x / (x.abs().sum(-1, keepdim=True) + 1e-6),
    # quotients
    "div_eps": lambda x, y, c: x / (y.abs() + c.choice(1e-8, 1e-6, 1e-3, 1.0)),
    "div_number": lambda x, y, c: x / c.number(),
    "div_clamped": lambda x, y, c: x / y.abs().clamp(min=c.number()),
    "reciprocal": lambda x, y, c: (x.abs() + c.number()).reciprocal(),
    "rsqrt": lambda x, y, c: torch.rsqrt(x.square() + c.number()),
    "sqrt": lambda x, y, c: x.abs().sqrt(),
    # gates
    "silu": lambda x, y, c: F.silu(x),
    "gelu": lambda x, y, c: F.gelu(x, approximate=c.choice("none", "tanh")),
    "hardswish": lambda x, y, c: F.hardswish(x),
    "mish": lambda x, y, c: F.mish(x),
    "gate": lambda x, y, c: x * y.sigmoid(),
    "softplus": lambda x, y, c: F.softplus(x),
    "elu": lambda x, y, c: F.elu(x),
    "selu": lambda x, y, c: F.selu(x),
    "hardsigmoid": lambda x, y, c: F.hardsigmoid(x),
    # pinned
    "tame": lambda x, y, c: c.tame(x),
    "tame_more": lambda x, y, c: c.tame(x) * c.choice(1.0, 0.1, 10.0),
    "sigmoid": lambda x, y, c: x.sigmoid(),
    "tanh": lambda x, y, c: x.tanh(),
    "erf": lambda x, y, c: x.erf(),
    "exp": lambda x, y, c: (3 * c.tame(x)).exp(),
    "exp_neg": lambda x, y, c: (-x.abs()).exp(),
    "sin": lambda x, y, c: (3 * c.tame(x)).sin(),
    "cos": lambda x, y, c: (3 * c.tame(x)).cos(),
    "log": lambda x, y, c: (x.abs() + c.number()).log(),
    "log1p": lambda x, y, c: x.abs().log1p(),
    "logsumexp": lambda x, y, c: x.logsumexp(-1, keepdim=True),
    "atan": lambda x, y, c: x.atan(),
    "floor": lambda x, y, c: x.floor(),
    # softmax
    "softmax": lambda x, y, c: x.softmax(-1),
    "log_softmax": lambda x, y, c: x.log_softmax(-1),
    "masked_softmax": _masked_softmax,
    "attention": _attention,
    # movement
    "transpose": lambda x, y, c: _cube(x).transpose(-1, -2),
    "flip": lambda x, y, c: x.flip(-1),
    "roll": lambda x, y, c: x.roll(1, -1),
    "slice": lambda x, y, c: x[..., : max(1, _width(x) - 3)],
    "reshape": lambda x, y, c: x.reshape(-1, _width(x)),
    "repeat": lambda x, y, c: x.repeat_interleave(2, -1)[..., : _width(x)],
    "gather": lambda x, y, c: x.index_select(-1, x.new_zeros(8, dtype=torch.int64)),
    "tril": lambda x, y, c: x.tril(),
    "chunk": lambda x, y, c: tuple(_wide(x).chunk(2, -1)),
    # integers, decisions and casts
    "argmax": lambda x, y, c: (x, x.argmax(-1)),
    "topk": lambda x, y, c: tuple(_wide(x).topk(2, -1)),
    "compare": lambda x, y, c: (x, x > c.number()),
    "sign": lambda x, y, c: x.sign(),
    "one_hot": lambda x, y, c: F.one_hot(x.argmax(-1), _width(x)).to(x.dtype) * c.number(),
    "to_float": lambda x, y, c: (x.float().square() + 1e-6).sqrt().to(x.dtype),
    "to_double": lambda x, y, c: (x.double() * 0.5).to(x.dtype),
    "to_int": lambda x, y, c: c.tame(x).mul(20).to(torch.int64).to(x.dtype),
}  # fmt: skip


class Drawn(nn.Module):
    """Computes a spec. Values that nothing reads are its outputs; integers are not read."""

    def __init__(self, spec: Spec, xs: Sequence[Tensor]) -> None:
        super().__init__()
        self.steps = spec.steps
        with torch.no_grad():
            self(*xs)

    def forward(self, *xs: Tensor) -> tuple[Tensor, ...]:
        values, read, results = list(xs), set(range(len(xs))), list[Tensor]()
        for i, step in enumerate(self.steps):
            held = Held(self, f"c{i}", step.power, step.seed)
            at = len(values) - 1 - step.x % len(values)
            x = values[at]
            near = [j for j in range(len(values)) if fits(tuple(x.shape), tuple(values[j].shape))]
            other = near[-1 - step.y % len(near)]
            y = values[other]
            if x.numel() < y.numel():
                x, y = y, x
            found = TORCH[step.op](x, y, held)
            read |= {at, other}
            for value in found if isinstance(found, tuple) else (found,):
                if value.is_floating_point():
                    values.append(value)
                else:
                    results.append(value)
        results += [v for j, v in enumerate(values) if j not in read]
        if not results:
            raise Unfit("no output")
        return tuple(results)


class _InHalf(TorchDispatchMode):
    """Operators on FP16 run in FP32 and are rounded once; all others run as they are."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        moves = any(r.alias_info is not None for r in func._schema.returns)
        halves = any(t.dtype == torch.float16 for t in leaves)
        plain = func(*args, **kwargs)
        if moves or not halves or "dtype" in kwargs or func._schema.is_mutable:
            return plain
        wide = pytree.tree_map(_widened, (args, kwargs))
        return pytree.tree_map(_like, func(*wide[0], **wide[1]), plain)


def _widened(x: Any) -> Any:
    return x.float() if isinstance(x, Tensor) and x.dtype == torch.float16 else x


def _like(x: Any, plain: Any) -> Any:
    return x.to(plain.dtype) if isinstance(plain, Tensor) else x


# ONNX


class Graph:
    """An ONNX graph in the making: each node runs at once, on the first sample."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.values: dict[str, Array] = {}
        self.step = Step("")
        self.count = 0

    def begin(self, step: Step) -> None:
        self.step, self.count = step, 0

    def _rng(self) -> np.random.Generator:
        self.count += 1
        return np.random.default_rng([self.step.seed, self.count])

    def run(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """The names of what a node gives: one, or a list of several."""
        names = [f"{op.lower()}{len(self.nodes)}_{i}" for i in range(outputs)]
        node = helper.make_node(op, list(inputs), names, **attributes)
        fed = {n: self.values[n] for n in inputs if n}
        graph = helper.make_graph(
            [node], "node", [_info(n, a) for n, a in fed.items()],
            [helper.make_empty_tensor_value_info(n) for n in names],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        model.ir_version = 8
        try:
            found = judge.session(model).run(None, fed)
        except Exception as error:
            raise Unfit(f"{op}: {error}") from error
        self.values.update(zip(names, map(np.asarray, found), strict=True))
        self.nodes.append(node)
        return names[0] if outputs == 1 else names

    def constant(self, array: Any, dtype: Any = np.float32) -> str:
        name = f"constant{len(self.constants)}"
        found = np.asarray(array, dtype)
        self.constants.append(numpy_helper.from_array(found, name))
        self.values[name] = found
        return name

    def ints(self, *numbers: int) -> str:
        return self.constant(numbers, np.int64)

    def tensor(self, *shape: int) -> str:
        return self.constant(self._rng().standard_normal(shape) * 10.0**self.step.power)

    def weight(self, *shape: int) -> str:
        array = self._rng().standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        return self.constant(array * 10.0**self.step.power)

    def positive(self, *shape: int) -> str:
        return self.constant(self._rng().uniform(0.5, 2.0, shape) * 10.0**self.step.power)

    def mask(self, n: int) -> str:
        return self.constant((self._rng().random(n) < 0.75) | (np.arange(n) == 0), np.bool_)

    def number(self) -> str:
        return self.constant(amplitude(self.step.power, self._rng()))

    def choice(self, *of: Any) -> Any:
        return of[int(self._rng().integers(len(of)))]

    def width(self, x: str) -> int:
        return self.values[x].shape[-1]

    def wide(self, x: str) -> str:
        if self.width(x) < 2:
            raise Unfit("one column")
        return x

    def tame(self, x: str, times: float = 1.0) -> str:
        return self.run("Mul", x, self.constant(gain(self.values[x]) * times))

    def cube(self, x: str) -> str:
        return x if self.values[x].ndim == 3 else self.run("Unsqueeze", x, self.ints(0))

    def reduce(self, op: str, x: str, axis: int = -1) -> str:
        if self.opset >= 18 or op == "ReduceSum":
            return self.run(op, x, self.ints(axis), keepdims=1)
        return self.run(op, x, axes=[axis], keepdims=1)

    def plus(self, x: str, number: float) -> str:
        return self.run("Add", x, self.constant(number))


def _info(name: str, array: Array) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, kind, array.shape)


OnnxOp = Callable[[str, str, Graph], Any]


def _o_norm(x: str, y: str, g: Graph) -> str:
    centred = g.run("Sub", g.wide(x), g.reduce("ReduceMean", x))
    variance = g.reduce("ReduceMean", g.run("Mul", centred, centred))
    return g.run("Div", centred, g.run("Sqrt", g.plus(variance, g.choice(1e-12, 1e-6, 1e-5))))


def _o_attention(x: str, y: str, g: Graph) -> str:
    x = g.cube(x)
    n, tame = g.width(x), g.tame(x)
    q, k = g.run("MatMul", tame, g.weight(n, 8)), g.run("MatMul", tame, g.weight(n, 8))
    scores = g.run("MatMul", q, g.run("Transpose", k, perm=[0, 2, 1]))
    scores = g.run("Div", scores, g.constant(8**0.5))
    fill = g.constant(g.choice(-1e4, -1e9, -np.inf, np.finfo(np.float32).min))
    masked = g.run("Where", g.mask(g.width(scores)), scores, fill)
    return g.run("MatMul", g.run("Softmax", masked, axis=-1), x)


def _o_masked_softmax(x: str, y: str, g: Graph) -> str:
    scores = g.tame(x, g.choice(1.0, 10.0)) if g.choice(True, False) else x
    mask = g.mask(g.width(x))
    if g.choice(True, False):
        fill = g.constant(g.choice(-1e9, -np.inf, np.finfo(np.float32).min))
        return g.run("Softmax", g.run("Where", mask, scores, fill), axis=-1)
    floats = g.run("Sub", g.constant(1.0), g.run("Cast", mask, to=1))
    added = g.run("Mul", floats, g.constant(g.choice(-1e4, -1e9)))
    return g.run("Softmax", g.run("Add", scores, added), axis=-1)


def _o_batch_norm(x: str, y: str, g: Graph) -> str:
    n = g.values[x].shape[1]
    return g.run("BatchNormalization", x, g.positive(n), g.tensor(n), g.tensor(n), g.positive(n),
                 epsilon=g.choice(1e-5, 1e-3))  # fmt: skip


def _o_conv(op: str) -> OnnxOp:
    def made(x: str, y: str, g: Graph) -> str:
        x = g.cube(x)
        n = g.values[x].shape[1]
        shape = (5, n, 3) if op == "Conv" else (n, 5, 3)
        return g.run(op, x, g.weight(*shape), g.tensor(5), kernel_shape=[3], pads=[1, 1])

    return made


def _o_gemm(x: str, y: str, g: Graph) -> str:
    flat = g.run("Reshape", x, g.ints(-1, g.width(x)))
    alpha = amplitude(g.step.power // 2, g._rng())
    return g.run("Gemm", flat, g.weight(g.width(x), 12), g.tensor(12), alpha=alpha, beta=0.5)


def _o_one(op: str, **attributes: Any) -> OnnxOp:
    return lambda x, y, g: g.run(op, x, **attributes)


def _o_two(op: str) -> OnnxOp:
    return lambda x, y, g: g.run(op, x, y)


def _o_reduce(op: str) -> OnnxOp:
    return lambda x, y, g: g.reduce(op, x)


def _o_same(x: str, y: str, g: Graph) -> str:
    """y in the shape of x."""
    return g.run("Expand", y, g.ints(*g.values[x].shape))


def _o_transpose(x: str, y: str, g: Graph) -> str:
    return g.run("Transpose", g.cube(x), perm=[0, 2, 1])


def _o_eps(x: str, g: Graph, *numbers: float) -> str:
    return g.plus(g.run("Abs", x), g.choice(*numbers))


def _o_instance(x: str, y: str, g: Graph) -> str:
    x = g.cube(x)
    n = g.values[x].shape[1]
    return g.run("InstanceNormalization", x, g.positive(n), g.tensor(n), epsilon=1e-5)


def _o_if(x: str, y: str, g: Graph) -> str:
    """One branch scales, the other negates; the condition is whether the sum is above 0."""
    total = g.run("ReduceSum", x, keepdims=0)
    condition = g.run("Greater", total, g.constant(0.0))
    number = g.number()

    def branch(op: str, *inputs: str) -> onnx.GraphProto:
        node = helper.make_node(op, list(inputs), [f"{op}_b{len(g.nodes)}"])
        kind = onnx.TensorProto.FLOAT
        out = helper.make_tensor_value_info(node.output[0], kind, g.values[x].shape)
        return helper.make_graph([node], op, [], [out])

    name = f"if{len(g.nodes)}"
    g.nodes.append(
        helper.make_node("If", [condition], [name], then_branch=branch("Mul", x, number),
                         else_branch=branch("Neg", x))
    )  # fmt: skip
    scale = g.values[number] if g.values[condition] else np.float32(-1.0)
    g.values[name] = g.values[x] * scale
    return name


ONNX: dict[str, OnnxOp] = {
    # homogeneous
    **{op: _o_one(op) for op in "Relu Abs Neg Identity".split()},
    "LeakyRelu": _o_one("LeakyRelu", alpha=0.1),
    "PRelu": lambda x, y, g: g.run("PRelu", x, g.positive(g.width(x))),
    **{op: _o_reduce(op) for op in
       "ReduceSum ReduceMax ReduceL1 ReduceL2 ReduceLogSumExp ReduceSumSquare".split()},
    "ReduceMean": lambda x, y, g: g.reduce("ReduceMean", x, 1),
    "ReduceMin": lambda x, y, g: g.reduce("ReduceMin", x, 1),
    "CumSum": lambda x, y, g: g.run("CumSum", x, g.constant(1, np.int64)),
    "MaxPool": lambda x, y, g: g.run("MaxPool", g.cube(x), kernel_shape=[3], pads=[1, 1]),
    "AveragePool": lambda x, y, g: g.run("AveragePool", g.cube(x), kernel_shape=[3], pads=[1, 1]),
    "GlobalAveragePool": lambda x, y, g: g.run("GlobalAveragePool", g.cube(x)),
    "Resize": lambda x, y, g: g.run("Resize", g.cube(x), "", g.constant([1, 1, 1.5]),
                                    mode="linear"),
    # aligned
    **{op: _o_two(op) for op in "Add Sub Max Min Mean Sum".split()},
    "AddNumber": lambda x, y, g: g.run("Add", x, g.number()),
    "AddVector": lambda x, y, g: g.run("Add", x, g.tensor(g.width(x))),
    "SubFrom": lambda x, y, g: g.run("Sub", g.number(), x),
    "Residual": lambda x, y, g: g.run("Add", x, g.run("Relu", g.run(
        "MatMul", x, g.weight(g.width(x), g.width(x))))),
    "Concat": lambda x, y, g: g.run("Concat", x, _o_same(x, y, g), axis=-1),
    "Where": lambda x, y, g: g.run("Where", g.run("Greater", x, y), x, y),
    "WhereNumber": lambda x, y, g: g.run("Where", g.run("Less", x, g.constant(0.0)), g.number(), x),
    "WhereMask": lambda x, y, g: g.run("Where", g.mask(g.width(x)), x, y),
    "Clip": lambda x, y, g: g.run("Clip", x, g.run("Neg", g.number()), g.number()),
    "ClipMin": lambda x, y, g: g.run("Clip", x, g.number()),
    "ClipMax": lambda x, y, g: g.run("Clip", x, "", g.number()),
    "Pad": lambda x, y, g: g.run(
        "Pad", x, g.ints(*(([0] * (g.values[x].ndim - 1) + [1]) * 2)), g.number()),
    "Shrink": lambda x, y, g: g.run("Shrink", x, lambd=amplitude(g.step.power, g._rng())),
    # product
    **{op: _o_two(op) for op in ("Mul",)},
    "MulNumber": lambda x, y, g: g.run("Mul", x, g.number()),
    "MulVector": lambda x, y, g: g.run("Mul", x, g.tensor(g.width(x))),
    "MulMask": lambda x, y, g: g.run("Mul", x, g.run("Cast", g.mask(g.width(x)), to=1)),
    "MatMul": lambda x, y, g: g.run("MatMul", x, g.weight(g.width(x), 12)),
    "Scores": lambda x, y, g: g.run("MatMul", g.cube(x), _o_transpose(x, y, g)),
    "Einsum": lambda x, y, g: g.run("Einsum", x, g.weight(g.width(x), 12),
                                    equation="...i,ij->...j"),
    "Square": lambda x, y, g: g.run("Mul", x, x),
    "Pow": lambda x, y, g: g.run("Pow", g.run("Abs", x), g.constant(g.choice(0.5, 2.0, 3.0))),
    # affine
    "Linear": lambda x, y, g: g.run("Add", g.run("MatMul", x, g.weight(g.width(x), 12)),
                                    g.tensor(12)),
    "Conv": _o_conv("Conv"),
    "ConvTranspose": _o_conv("ConvTranspose"),
    "Gemm": _o_gemm,
    # normalisations
    "LayerNormalization": lambda x, y, g: g.run(
        "LayerNormalization", g.wide(x), g.positive(g.width(x)), g.tensor(g.width(x)),
        epsilon=g.choice(1e-12, 1e-6, 1e-5, 1e-3)),
    "BatchNormalization": _o_batch_norm,
    "InstanceNormalization": _o_instance,
    "Norm": _o_norm,
    "RmsNorm": lambda x, y, g: g.run("Div", x, g.run("Sqrt", g.plus(g.reduce(
        "ReduceMean", g.run("Mul", x, x)), 1e-6))),
    "LpNormalization": _o_one("LpNormalization", axis=-1),
    "DivSum": lambda x, y, g: g.run("Div", x, g.plus(g.reduce(
        "ReduceSum", g.run("Abs", x)), 1e-6)),
    # quotients
    "DivEps": lambda x, y, g: g.run("Div", x, _o_eps(y, g, 1e-8, 1e-6, 1e-3, 1.0)),
    "DivNumber": lambda x, y, g: g.run("Div", x, g.number()),
    "DivClipped": lambda x, y, g: g.run("Div", x, g.run("Clip", g.run("Abs", y), g.number())),
    "Reciprocal": lambda x, y, g: g.run("Reciprocal", g.run("Add", g.run("Abs", x), g.number())),
    "Sqrt": lambda x, y, g: g.run("Sqrt", g.run("Abs", x)),
    # gates
    **{op: _o_one(op) for op in "HardSwish Softplus Elu Selu HardSigmoid Celu".split()},
    "Gate": lambda x, y, g: g.run("Mul", x, g.run("Sigmoid", y)),
    "Silu": lambda x, y, g: g.run("Mul", x, g.run("Sigmoid", x)),
    "Gelu": lambda x, y, g: g.run("Mul", g.run("Mul", x, g.constant(0.5)), g.plus(
        g.run("Erf", g.run("Div", x, g.constant(2**0.5))), 1.0)),
    # pinned
    **{op: _o_one(op) for op in "Sigmoid Tanh Erf Softsign Atan Floor Round".split()},
    "Tame": lambda x, y, g: g.tame(x),
    "TameMore": lambda x, y, g: g.tame(x, g.choice(1.0, 0.1, 10.0)),
    "Exp": lambda x, y, g: g.run("Exp", g.tame(x, 3.0)),
    "ExpNeg": lambda x, y, g: g.run("Exp", g.run("Neg", g.run("Abs", x))),
    "Sin": lambda x, y, g: g.run("Sin", g.tame(x, 3.0)),
    "Cos": lambda x, y, g: g.run("Cos", g.tame(x, 3.0)),
    "Log": lambda x, y, g: g.run("Log", g.run("Add", g.run("Abs", x), g.number())),
    # softmax
    "Softmax": _o_one("Softmax", axis=-1),
    "LogSoftmax": _o_one("LogSoftmax", axis=-1),
    "MaskedSoftmax": _o_masked_softmax,
    "Attention": _o_attention,
    # movement
    "Transpose": _o_transpose,
    "Slice": lambda x, y, g: g.run("Slice", x, g.ints(0), g.ints(max(1, g.width(x) - 3)),
                                   g.ints(-1)),
    "Reshape": lambda x, y, g: g.run("Reshape", x, g.ints(-1, g.width(x))),
    "Tile": lambda x, y, g: g.run("Tile", x, g.ints(*[1] * (g.values[x].ndim - 1), 2)),
    "Gather": lambda x, y, g: g.run("Gather", x, g.ints(*[0] * 8), axis=-1),
    "Trilu": _o_one("Trilu", upper=0),
    "Split": lambda x, y, g: g.run("Split", g.wide(x), g.ints(1, g.width(x) - 1), axis=-1,
                                   outputs=2),
    # integers, decisions, casts and branches
    "ArgMax": lambda x, y, g: [x, g.run("ArgMax", x, axis=-1)],
    "TopK": lambda x, y, g: g.run("TopK", g.wide(x), g.ints(2), outputs=2),
    "Greater": lambda x, y, g: [x, g.run("Greater", x, g.number())],
    "Sign": _o_one("Sign"),
    "OneHot": lambda x, y, g: g.run("Mul", g.number(), g.run("Cast", g.run(
        "Equal", x, g.reduce("ReduceMax", x)), to=1)),
    "CastDouble": lambda x, y, g: g.run("Cast", g.run("Cast", x, to=11), to=1),
    "CastInt": lambda x, y, g: g.run("Cast", g.run("Cast", g.tame(x, 20.0), to=7), to=1),
    "If": _o_if,
}  # fmt: skip


def onnx_model(spec: Spec, xs: Sequence[Array]) -> onnx.ModelProto:
    """The spec as a file. Values that nothing reads are its outputs; integers are not read."""
    g = Graph(spec.opset)
    names = [f"x{i}" for i in range(len(xs))]
    g.values.update(zip(names, xs, strict=True))
    values, results = list(names), list[str]()
    with np.errstate(all="ignore"):
        for step in spec.steps:
            g.begin(step)
            x = values[-1 - step.x % len(values)]
            near = [v for v in values if fits(g.values[x].shape, g.values[v].shape)]
            y = near[-1 - step.y % len(near)]
            if g.values[x].size < g.values[y].size:
                x, y = y, x
            found = ONNX[step.op](x, y, g)
            for name in [found] if isinstance(found, str) else found:
                (values if g.values[name].dtype.kind == "f" else results).append(name)
    read = {i for node in g.nodes for i in node.input}
    read |= {i for n in g.nodes for a in n.attribute for m in a.g.node for i in m.input}
    results += [v for v in dict.fromkeys(values) if v not in read and v not in names]
    results = list(dict.fromkeys(results))
    used = [n for n in names if n in read]
    if not results or not used:
        raise Unfit("no output or no input")
    kept = _alive(g.nodes, results)
    graph = helper.make_graph(
        kept,
        "drawn",
        [_info(n, g.values[n]) for n in used],
        [_info(n, g.values[n]) for n in results],
        [c for c in g.constants if c.name in read],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", spec.opset)])
    model.ir_version = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10}[spec.opset]
    onnx.checker.check_model(model, full_check=True)
    return model


def _alive(nodes: Sequence[onnx.NodeProto], results: Sequence[str]) -> list[onnx.NodeProto]:
    wanted, kept = set(results), list[onnx.NodeProto]()
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            wanted.update(i for a in node.attribute for m in a.g.node for i in m.input)
            kept.insert(0, node)
    return kept


# What is run


@dataclass
class Trial:
    """A model with its samples, and how it, the floor and what is delivered are run."""

    model: Any
    samples: list[Any]
    unseen: Any
    reference: Callable[[Any], list[Array]]
    floor: Callable[[Any], list[Array]]
    plain: Callable[[Any, Any], list[Array]]
    delivered: Callable[[Any], Callable[[Any], list[Array]]]
    own: Callable[[Any, Any], list[Array]]


def torch_trial(spec: Spec) -> Trial:
    found = [tuple(map(torch.from_numpy, xs)) for xs in inputs_of(spec)]
    model = Drawn(spec, found[0]).eval()

    def delivered(half: Any) -> Callable[[Any], list[Array]]:
        def run(sample: Any) -> list[Array]:
            with _InHalf():
                return judge.torch_called(half, sample)

        return run

    return Trial(
        model, found[:-1], found[-1],
        reference=lambda s: judge.torch_called(model, s),
        floor=lambda s: judge.torch_strict(model, s, "floor"),
        plain=judge.torch_called,
        delivered=delivered,
        own=judge.torch_called,
    )  # fmt: skip


def onnx_trial(spec: Spec) -> Trial:
    arrays = inputs_of(spec)
    model = onnx_model(spec, arrays[0])
    names = [i.name for i in model.graph.input]
    found = [{n: xs[int(n[1:])] for n in names} for xs in arrays]
    reference, floor = judge.session(model), judge.session(judge.Strict(model, "floor").model)

    def delivered(half: Any) -> Callable[[Any], list[Array]]:
        onnx.checker.check_model(half, full_check=True)
        judge.fed(judge.session(half), found[0])
        running = judge.session(judge.Strict(half, "own").model)
        return lambda sample: judge.fed(running, sample)

    return Trial(
        model, found[:-1], found[-1],
        reference=lambda s: judge.fed(reference, s),
        floor=lambda s: judge.fed(floor, s),
        plain=lambda m, s: judge.fed(judge.session(m), s),
        delivered=delivered,
        own=lambda m, s: judge.fed(judge.session(m), s),
    )  # fmt: skip


def trial(spec: Spec) -> Trial:
    """Raises Unfit for a spec that FP32 cannot compute: outputs have to be finite."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = torch_trial(spec) if spec.kind == "torch" else onnx_trial(spec)
            outputs = [found.reference(s) for s in (*found.samples, found.unseen)]
    except Unfit:
        raise
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        raise Unfit(f"{type(error).__name__}: {error}") from error
    if not all(np.isfinite(y).all() for ys in outputs for y in ys if y.dtype.kind == "f"):
        raise Unfit("not finite in FP32")
    return found


# What is judged

BAD, GOOD, FEW, SHARE = 0.05, 0.01, 8, 0.25


@dataclass(frozen=True, slots=True)
class Seen:
    """What an output of a sample looks like: `broken` is past use though the floor is not,
    `frayed` right as a row though many small entries are not, `hopeless` past use at the floor as
    well, `fine` within 1 % in every row, and `clear` no entry lost either."""

    broken: str = ""
    frayed: str = ""
    hopeless: str = ""
    fine: bool = True
    clear: bool = True
    worst: float = 0.0


def seen(x: Array, y: Array, z: Array) -> Seen:
    """One output: reference, delivered and floor."""
    if x.shape != y.shape or (x.dtype.kind == "f") != (y.dtype.kind == "f"):
        return Seen(f"{y.dtype} {y.shape}, not {x.dtype} {x.shape}", fine=False)
    if x.dtype.kind != "f":
        bad, floor = int((x != y).sum()), int((x != z).sum())
        what = f"{bad} of {x.size} integers differ"
        return _blame(what if bad else "", hopeless=2 * floor >= bad, worst=float(bad > 0))
    x, y, z = (a.astype(np.float64) for a in (x, y, z))
    odd = ~np.isfinite(y)
    if odd.any():
        what = f"{odd.sum()} of {x.size} entries are not finite"
        return _blame(what, hopeless=2 * (~np.isfinite(z)).sum() >= odd.sum(), worst=np.inf)
    z = np.where(np.isfinite(z), z, 0.0)
    width = x.shape[-1] if x.ndim and x.shape[-1] >= FEW else max(x.size, 1)
    x, y, z = (a.reshape(-1, width) for a in (x, y, z))
    error, least, size = np.abs(y - x), np.abs(z - x), np.abs(x)
    relative, of_floor = (_relative(e, x) for e in (error, least))
    small = 2 * judge.ULP if _is_distribution(x) else 0.0
    off, floor_off = error > np.maximum(BAD * size, small), least > BAD / 4 * size
    many = (off & ~floor_off).sum(1) >= max(2, SHARE * width)
    lost = (size > 0) & (error >= size / 2) & (least <= size / 64)
    worst = float(relative.max(initial=0.0))
    fine, clear = bool((relative <= GOOD).all()), bool(lost.sum() <= 1e-3 * x.size)
    if many.any():
        i = int(np.argmax(many * np.maximum(relative, 1e-300)))
        what = f"{off[i].sum()} of {width} entries of row {i} are off, {relative[i]:.2g} in all"
        frayed = relative[i] <= BAD
        return Seen("" if frayed else what, frayed=what, fine=fine, clear=clear, worst=worst)
    rows = relative > max(BAD, 2.0**-4)
    wide = (x**2).sum(1) ** 2 > FEW * (x**4).sum(1)
    if (rows & wide).any():
        return Seen(hopeless=f"a row is {worst:.2g} off, the floor {of_floor.max():.2g}",
                    fine=False, worst=worst)  # fmt: skip
    return Seen(fine=fine, clear=clear, worst=worst)


def _is_distribution(x: Array) -> bool:
    """Whether rows are probabilities, which are small beside 1."""
    return bool((x >= 0).all() and (np.abs(x.sum(1) - 1) < 1e-3).all())


def _blame(what: str, hopeless: bool, worst: float) -> Seen:
    if not what:
        return Seen()
    return Seen("" if hopeless else what, what if hopeless else "", fine=False, worst=worst)


def _relative(error: Array, x: Array) -> Array:
    norm, found = np.linalg.norm(x, axis=1), np.linalg.norm(error, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(found > 0, found / norm, 0.0)


@dataclass
class Outcome:
    """What came of one spec. `defect` is the kind of what is wrong, "" if nothing is."""

    spec: Spec
    answer: str = ""
    defect: str = ""
    why: str = ""
    place: str = ""
    reasons: str = ""
    worst: float = 0.0
    seconds: float = 0.0
    steps: int = 0
    islands: int = 0
    forms: int = 0

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "spec": self.spec.to_json()}


class TooSlow(Exception):
    """A fix that did not end in time."""


@contextmanager
def bounded(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TooSlow(f"{seconds} s were not enough")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def place_of(error: BaseException) -> str:
    """The innermost line of halfsafe in a traceback."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "halfsafe" in f.filename]
    return f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else ""


def examined(spec: Spec) -> Outcome:
    """Fixes one spec and looks at everything. Raises Unfit."""
    found, began = trial(spec), time.monotonic()
    outcome = Outcome(spec, steps=len(spec.steps))
    try:
        with bounded(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fixed = halfsafe.fix(found.model, found.samples)
            outcome.seconds = time.monotonic() - began
            _examine(fixed, found, outcome)
    except TooSlow as error:
        _note(outcome, "too slow", str(error), error)
    except halfsafe.HalfsafeError as error:
        outcome.answer = type(error).__name__
        if not _true_reason(str(error)):
            _note(outcome, "refused", str(error), error)
    except Exception as error:
        _note(outcome, "exception", f"{type(error).__name__}: {error}", error)
    outcome.seconds = outcome.seconds or time.monotonic() - began
    return outcome


def _note(outcome: Outcome, defect: str, why: str, error: BaseException | None = None) -> None:
    if not outcome.defect:
        outcome.defect, outcome.why = defect, why.splitlines()[0][:300] if why else ""
        outcome.place = place_of(error) if error else ""


def _true_reason(message: str) -> bool:
    return "integers only" in message


def _examine(fixed: halfsafe.Fixed, found: Trial, outcome: Outcome) -> None:
    report = fixed.report
    outcome.answer = str(report.answer)
    outcome.reasons = "; ".join(why for _, why in report.verification.reasons)[:300]
    outcome.forms, outcome.islands = len(report.forms), len(report.islands)
    _compare(fixed, found, outcome)
    try:
        half = fixed.half()
        run = found.delivered(half)
        results = [run(sample) for sample in found.samples]
        own = [found.own(half, sample) for sample in found.samples]
    except Exception as error:
        if isinstance(error, TooSlow):
            raise
        _note(outcome, "half does not run", f"{type(error).__name__}: {error}", error)
        return
    looks, kernels = (_looks(found, given) for given in (results, own))
    outcome.worst = max(look.worst for look in looks)
    broken = next((look.broken for look in looks if look.broken), "")
    frayed = next((look.frayed for look in looks if look.frayed), "")
    hopeless = next((look.hopeless for look in looks if look.hopeless), "")
    if outcome.answer == "safe" and broken:
        _note(outcome, "false safe", broken)
    elif outcome.answer == "safe" and frayed:
        _note(outcome, "small entries", frayed)
    elif outcome.answer == "safe" and hopeless:
        _note(outcome, "safe at a floor that is wrong", hopeless)
    elif outcome.answer == "safe" and any(look.broken for look in kernels):
        why = next(look.broken for look in kernels if look.broken)
        _note(outcome, "false safe in its kernels", why)
    elif outcome.answer != "safe" and all(look.fine for look in (*looks, *kernels)):
        kind = "false alarm" if outcome.answer == "not safe" else "false limit"
        kind = kind if all(look.clear for look in looks) else "alarm over lost entries"
        _note(outcome, kind, f"{outcome.worst:.2g} off at most; {outcome.reasons}")


def _looks(found: Trial, results: Sequence[Sequence[Array]]) -> list[Seen]:
    """Every output of every sample."""
    return [
        seen(*parts)
        for sample, ys in zip(found.samples, results, strict=True)
        for parts in zip(found.reference(sample), ys, found.floor(sample), strict=True)
    ]


def _compare(fixed: halfsafe.Fixed, found: Trial, outcome: Outcome) -> None:
    """In FP32 the fixed model gives the model's own bits, on a sample that it never saw."""
    proof = fixed.report.verification
    known, got = found.reference(found.unseen), found.plain(fixed.model, found.unseen)
    equal = all(np.array_equal(a, b, equal_nan=True) for a, b in zip(known, got, strict=True))
    if equal:
        return
    apart = max(_apart(a, b) for a, b in zip(known, got, strict=True))
    if (outcome.forms or proof.captured) and apart <= 1e-5:
        return
    if not proof.bit_equal and outcome.answer != "safe" and proof.worst_difference >= apart / 10:
        return  # the verdict says so
    _note(outcome, "other bits", f"{apart:.2g} apart in FP32; {outcome.answer}; {outcome.reasons}")


def _apart(a: Array, b: Array) -> float:
    if a.dtype.kind != "f" or a.shape != b.shape:
        return 0.0 if np.array_equal(a, b) else np.inf
    found = _relative(
        (a - b).reshape(1, -1).astype(np.float64), a.reshape(1, -1).astype(np.float64)
    )
    return float(found.max(initial=0.0))


# Shrinking


def smaller(spec: Spec) -> Iterator[Spec]:
    """Specs that are simpler in one way each."""
    steps = spec.steps
    for size in (4, 2, 1):
        for i in range(len(steps) - size, -1, -1):
            yield replace(spec, steps=steps[:i] + steps[i + size :])
    if len(spec.powers) > 1:
        yield replace(spec, powers=spec.powers[:1])
        yield replace(spec, powers=spec.powers[1:])
    for name, value in (
        ("quiet", 0),
        ("samples", 1),
        ("samples", 2),
        ("matrix", True),
        ("width", 12),
    ):
        if getattr(spec, name) != value and not (name == "samples" and value > spec.samples):
            yield replace(spec, **{name: value})
    for i, power in enumerate(spec.powers):
        if power:
            yield replace(spec, powers=(*spec.powers[:i], 0, *spec.powers[i + 1 :]))
    for i, step in enumerate(steps):
        for name in ("power", "x", "y"):
            if getattr(step, name):
                new = replace(step, **{name: 0})
                yield replace(spec, steps=(*steps[:i], new, *steps[i + 1 :]))


def shrunk(spec: Spec, same: Callable[[Outcome], bool], seconds: float = 120.0) -> Spec:
    """The least spec, one change at a time, of which the same is true."""
    end, going = time.monotonic() + seconds, True
    while going and time.monotonic() < end:
        going = False
        for trial_spec in smaller(spec):
            if not trial_spec.steps or time.monotonic() > end:
                continue
            try:
                good = same(examined(trial_spec))
            except Unfit:
                continue
            if good:
                spec, going = trial_spec, True
                break
    return spec


def shrink_defect(spec: Spec, seconds: float = 120.0) -> Outcome:
    first = examined(spec)
    if not first.defect:
        return first
    least = shrunk(spec, lambda o: (o.defect, o.place) == (first.defect, first.place), seconds)
    return examined(least)


def shown(spec: Spec) -> str:
    """The graph in words."""
    about = {k: v for k, v in asdict(spec).items() if k not in ("kind", "steps")}
    lines = [", ".join(f"{k}={v}" for k, v in about.items())]
    found = trial(spec)
    if spec.kind == "onnx":
        return "\n".join([*lines, onnx.printer.to_text(found.model)])
    program = torch.export.export(found.model, found.samples[0])
    code = program.graph_module.code if len(spec.steps) < 20 else ""
    return "\n".join([*lines, *map(str, spec.steps), code])


# The bench


def work(kind: Kind, start: int, stop: int, path: Path) -> None:
    """Appends an outcome a line; a line with the seed alone before it, in case the process dies."""
    torch.set_num_threads(1)
    with path.open("a", encoding="utf-8") as file:
        for seed in range(start, stop):
            file.write(json.dumps({"seed": seed}) + "\n")
            file.flush()
            try:
                found = examined(seeded(kind, seed)).to_json()
            except Unfit as error:
                found = {"unfit": str(error)[:120]}
            file.write(json.dumps({"seed": seed, **found}) + "\n")
            file.flush()


def gathered(kind: Kind, count: int, folder: Path) -> list[dict[str, Any]]:
    """`count` graphs that are fit; a process that dies counts as a crash, and another goes on."""
    path = folder / f"random_{kind}.jsonl"
    found: dict[int, dict[str, Any]] = _read(path)
    while sum("unfit" not in f for f in found.values()) < count:
        start = max(found, default=-1) + 1
        command = [sys.executable, "-m", "bench.random_graphs", "--work", kind, str(start),
                   str(start + 50), str(path)]  # fmt: skip
        died = subprocess.run(command, stderr=subprocess.DEVNULL).returncode
        found = _read(path, died)
        fit = [f for f in found.values() if "unfit" not in f]
        bad = Counter(f["defect"] for f in fit if f["defect"])
        print(f"{kind}: {len(fit)} of {count}, {len(found)} drawn, {dict(bad)}", flush=True)
    fit = [f for _, f in sorted(found.items()) if "unfit" not in f]
    return fit[:count]


def _read(path: Path, died: int = 0) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for data in map(json.loads, lines):
        if len(data) > 1 or data["seed"] not in found:
            found[data["seed"]] = data
    for data in found.values():
        if len(data) == 1:
            data |= {"answer": "", "defect": "crash", "why": f"the process died, {died}",
                     "place": "", "seconds": 0.0, "steps": 0, "spec": None}  # fmt: skip
    return found


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    bad = [f for f in found if f["defect"]]
    slowest = sorted(found, key=lambda f: -f["seconds"])[:5]
    return {
        "graphs": len(found),
        "answers": dict(Counter(f["answer"] or f["defect"] for f in found).most_common()),
        "not safe, and past use": sum(
            f["answer"] == "not safe" and not f["defect"] and f["worst"] > BAD for f in found
        ),
        "with islands": sum(f.get("islands", 0) > 0 for f in found),
        "with forms": sum(f.get("forms", 0) > 0 for f in found),
        "median seconds": round(float(np.median([f["seconds"] for f in found])), 2),
        "slowest": [{"seed": f["seed"], "seconds": round(f["seconds"], 1)} for f in slowest],
        "defects": dict(Counter(f["defect"] for f in bad).most_common()),
        "disagreements": [
            {k: f[k] for k in ("seed", "answer", "defect", "why", "place")} for f in bad
        ],
    }


def main(arguments: Sequence[str]) -> None:
    match list(arguments):
        case ["--work", kind, start, stop, path]:
            work(kind, int(start), int(stop), Path(path))
        case ["--show", kind, seed]:
            print(shown(seeded(kind, int(seed))))
            print(json.dumps(examined(seeded(kind, int(seed))).to_json(), indent=1))
        case ["--shrink", kind, seed]:
            found = shrink_defect(seeded(kind, int(seed)))
            print(shown(found.spec))
            print(json.dumps(found.to_json(), indent=1))
        case rest:
            count = int(rest[1]) if rest[:1] == ["--count"] else 500
            folder = Path(rest[3]) if rest[2:3] == ["--folder"] else Path(tempfile.mkdtemp())
            with ThreadPoolExecutor() as pool:
                found = pool.map(lambda kind: summary(gathered(kind, count, folder)), KINDS)
                figures: dict[str, Any] = dict(zip(KINDS, found, strict=True))
            engines = {name: version(name) for name in ("onnx", "onnxruntime")}
            record("random_graphs", COMMAND, {"engines": engines, **figures})


if __name__ == "__main__":
    main(sys.argv[1:])
