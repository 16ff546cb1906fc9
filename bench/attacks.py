"""Inputs that try to pass what a certificate claims, run by other means than those that made it.

    found = attack(network, sample, halfsafe.certify(network, domain, sample=sample))
    assert not found.passed

A module is exported by torch.export and run node by node: in FP32; in FP32 arithmetic with every
value rounded to FP16; and in FP16 with PyTorch's own kernels. A file is run by onnxruntime without
optimisations, all values being outputs. Inputs are drawn within the domain (random, and extreme:
one token alone, the loudest rows of tables, corners of the box, constants, impulses, waves), and
then climb: for a few values, one after the other, the input is changed so that the largest entry of
that value grows, by steps along the gradient, by the tokens that the gradient favours, or, of a
file, by changes that are kept if they help. All values are looked at in each run.
"""

# pyright: basic

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree

from halfsafe import Certificate

Inputs = dict[str, Tensor]
Seen = dict[str, float]

COUNT = 2_000
"""Inputs, rows of a batch counted one by one."""

TARGETS = 2
"""How many values of each kind are climbed: the nearest to their bound, the farthest, the largest
bounds."""

STEPS = 12
"""Of one climb, after which another begins elsewhere."""

HALF = 65_504
"""The largest number of FP16."""

NO_KERNEL = ("Half", "implement", "dtype")
"""Words of errors where PyTorch has no kernel for FP16, or none for the types that meet; what has
been seen until there counts."""

MASKED = 1e30
"""What FP32 holds of such a size stands for infinity, and is no value of the network."""


@dataclass
class Attacked:
    """The largest magnitude found of each value in FP32 and FP16; values that pass their claim;
    inputs and constants that do so as FP16 rounds them; how many inputs; the bits between claim and
    found; claims of which no run has seen the value; and runs in FP16 that overflowed, of which
    what comes after says nothing."""

    largest: Seen = field(default_factory=dict)
    passed: list[str] = field(default_factory=list)
    rounded: list[str] = field(default_factory=list)
    inputs: int = 0
    bits: Seen = field(default_factory=dict)
    unseen: list[str] = field(default_factory=list)
    overflowed: int = 0

    @property
    def median(self) -> float:
        """Bits of slack of the middle value, in order."""
        ordered = sorted(self.bits.values())
        return ordered[len(ordered) // 2] if ordered else math.nan

    @property
    def worst(self) -> float:
        return max(self.bits.values(), default=math.nan)


class Engine(Protocol):
    """A network that tells the largest magnitudes of its values."""

    constants: Seen
    """Of what it holds."""

    tables: dict[str, Tensor]
    """The rows that tokens of an input choose among."""

    @property
    def values(self) -> Mapping[str, str]:
        """Operators, by the name of what they compute."""
        ...

    def look(self, inputs: Inputs, target: str = "", half: bool = False) -> Look:
        """Runs it once; `half` in FP16 as well; with the slopes of a target's largest entries."""
        ...


@dataclass
class Look:
    """What one batch shows: of each run the largest magnitudes, and whether it went to its end; the
    target's by row; and slopes of these, by input (for tokens, of the rows looked up)."""

    runs: list[tuple[Seen, bool]]
    height: Tensor | None = None
    slopes: Mapping[str, Tensor] = field(default_factory=dict)


def attack(network: nn.Module | str | Path, sample: Any, claims: Certificate, count: int = COUNT,
           *, half: int = 1, most: Mapping[str, int] | None = None, seed: int = 0,
           targets: int = TARGETS, seconds: float = math.inf,
           held: Mapping[str, int] | None = None) -> Attacked:  # fmt: skip
    """Drives every value as far as it can from within the domain of a certificate.

    `sample` is one as `halfsafe.fix` takes it, and lends its shapes and types; `most` tells how
    many tokens there are for inputs of whole numbers that choose no row of a table. Each `half`-th
    of the drawn batches runs in FP16 as well, and each climb now and then; 0 is none. After so many
    seconds it ends with fewer inputs. An input that is `held` is another one only each so many
    times, and what depends on it alone is not computed between: then most inputs are drawn.
    """
    over = time.monotonic() + seconds
    warnings.filterwarnings("ignore", category=UserWarning)
    engine, given = opened(network, sample)
    box = Box(given, claims.domain, engine.tables, dict(most or {}), seed, held or {})
    known = {n: v.bound for n, v in claims.values.items() if v.bound is not None}
    other = {n for n in claims.values if not (n in engine.constants or _alike(claims, engine, n))}
    known = {n: b for n, b in known.items() if n not in other}
    watch = _Watch(engine, known, given, box.rows, half)
    watch.note(engine.constants)
    share = (0.97 if held else 1 / 3) if targets else 1.0
    drawn = math.ceil(share * count / box.rows)
    early = over - 2 * seconds / 3 if seconds < math.inf else over
    within = takewhile(lambda _: time.monotonic() < early, range(drawn))
    start = watch.best_of(box.drawn(i) for i in within)
    left = count - watch.found.inputs
    chosen = watch.chosen(targets)
    for i, target in enumerate(chosen):
        until = count - left * (len(chosen) - 1 - i) // len(chosen)
        remaining = (over - time.monotonic()) / (len(chosen) - i)
        _climb(watch, box, target, start.get(target, given), until, time.monotonic() + remaining)
    return watch.told(set(claims.values), other)


def _alike(claims: Certificate, engine: Engine, name: str) -> bool:
    """Whether a value of that name is computed by the same operator in both."""
    op = engine.values.get(name)
    return op is not None and (not op or f"({op}" in claims.values[name].where)


class _Watch:
    """Compares each run with the claims."""

    def __init__(self, engine: Engine, known: Seen, inputs: Inputs, rows: int, half: int) -> None:
        self.engine, self.known, self.rows, self.half = engine, known, rows, half
        self.found = Attacked()
        self.given = {*engine.constants, *inputs}

    def note(self, seen: Seen) -> None:
        """Keeps what is larger than before, and what passes; an overflow is one where the claim is
        that FP16 holds the value."""
        for name, size in seen.items():
            if size == math.inf and self.known.get(name, math.inf) > HALF:
                continue
            self.found.largest[name] = max(self.found.largest.get(name, 0.0), size)
            over = self.found.rounded if name in self.given else self.found.passed
            if size > self.known.get(name, math.inf) and name not in over:
                over.append(name)

    def look(self, inputs: Inputs, target: str = "", half: bool = False) -> Look:
        seen = self.engine.look(inputs, target, half)
        for run, whole in seen.runs:
            self.note(run)
            self.found.overflowed += not whole
        self.found.inputs += self.rows
        return seen

    def best_of(self, drawn: Iterator[Inputs]) -> dict[str, Inputs]:
        """Of each value, what makes it largest."""
        best: dict[str, Inputs] = {}
        heights: Seen = {}
        for i, inputs in enumerate(drawn):
            half = bool(self.half) and i % self.half == 0
            for name, size in self.look(inputs, half=half).runs[0][0].items():
                if size > heights.get(name, -1.0):
                    best[name], heights[name] = inputs, size
        return best

    def chosen(self, count: int) -> list[str]:
        """Values to be climbed: with the fewest bits, the most, and the largest bounds.

        Of values with one bound one is taken: the rest are mostly the same entries moved.
        """
        claims = {b: n for n, b in reversed(self.known.items()) if n not in self.given}
        bits = self._bits()
        near = sorted((n for n in claims.values() if n in bits), key=lambda n: bits[n])
        largest = [claims[b] for b in sorted(claims, reverse=True) if claims[b] in bits]
        picked = [*near[:count], *near[::-1][:count], *largest[:count]]
        return list(dict.fromkeys(picked))

    def _bits(self) -> Seen:
        largest = self.found.largest
        return {n: math.log2(b) - math.log2(largest[n]) for n, b in self.known.items()
                if b > 0 and largest.get(n, 0.0) > 0 and n not in self.given}  # fmt: skip

    def told(self, claimed: set[str], other: set[str]) -> Attacked:
        self.found.bits = self._bits()
        self.found.unseen = sorted(claimed - set(self.found.largest) | other & claimed)
        return self.found


def _climb(watch: _Watch, box: Box, target: str, start: Inputs, until: int,
           over: float) -> None:  # fmt: skip
    """Changes an input so that a target grows, until so many inputs have been seen."""
    best, height, slopes, step = start, -1.0, {}, 0
    while watch.found.inputs < until and time.monotonic() < over:
        tried = box.changed(best, slopes, step) if height >= 0 else best
        seen = watch.look(tried, target, half=bool(watch.half) and step % STEPS == STEPS - 1)
        if seen.height is None:  # nothing that comes in matters
            return
        row = int(seen.height.argmax())
        if height < 0 or float(seen.height[row]) > height:
            best = box.alone(tried, row)
            height = float(seen.height[row])
            slopes = {n: box.one(s, row) for n, s in seen.slopes.items()}
            step += 1
        else:
            step += 1
            if step % STEPS == 0 and watch.found.inputs < until:
                watch.look(best, half=bool(watch.half))
                best, height, slopes = box.drawn(step), -1.0, {}


# What may come in


class Box:
    """Inputs of a domain with the shapes and types of a sample.

    Along the first axis are rows, where all inputs have as many, and not all of them are vectors. A
    mask has a 1 in each row, of its last axis.
    """

    def __init__(self, given: Inputs, domain: Mapping[str, Any], tables: Mapping[str, Tensor],
                 most: dict[str, int], seed: int, held: Mapping[str, int]) -> None:  # fmt: skip
        self.given, self.tables, self.held = given, tables, held
        self._kept: Inputs = {}
        self._loud: Inputs = {}
        self.draw = torch.Generator().manual_seed(seed)
        sizes = {x.shape[:1] for x in given.values()}
        batched = len(sizes) == 1 and any(x.ndim > 1 for x in given.values())
        self.rows = next(iter(sizes)).numel() if batched else 1
        self.spans, self.counts = {}, {}
        for name, x in given.items():
            span = domain.get(name)
            if x.is_floating_point():
                if span is None:
                    raise ValueError(f"the domain has no interval for '{name}'")
                self.spans[name] = span
            elif span is not None:
                self.counts[name] = (math.ceil(span[0]), math.floor(span[1]) + 1)
            elif name in tables or name in most:
                self.counts[name] = (0, most.get(name) or len(tables[name]))
            else:
                raise ValueError(f"pass most={{'{name}': ...}}: it chooses no row of a table")

    def _is_mask(self, name: str) -> bool:
        return "mask" in name.lower() and self.counts.get(name) == (0, 2)

    def drawn(self, i: int) -> Inputs:
        """The i-th input: each row of another kind."""
        for name, x in self.given.items():
            turn, rest = divmod(i, self.held.get(name, 1))
            if rest == 0 or name not in self._kept:
                self._kept[name] = self._drawn(name, x, turn)
        return dict(self._kept)

    def _drawn(self, name: str, x: Tensor, i: int) -> Tensor:
        shape = x.shape[1:] if self.rows > 1 else x.shape
        made = [self._row(name, shape, i * self.rows + r) for r in range(self.rows)]
        return (torch.stack(made) if self.rows > 1 else made[0]).reshape(x.shape).to(x.dtype)

    def _row(self, name: str, shape: torch.Size, i: int) -> Tensor:
        if name in self.spans:
            low, high = self.spans[name]
            return low + (high - low) * self._shares(shape, i)
        if self._is_mask(name):
            seen = torch.rand(shape, generator=self.draw) < (0.1, 0.5, 0.9, 1.0)[i % 4]
            return self._open(seen)
        low, high = self.counts[name]
        random = torch.randint(low, high, shape, generator=self.draw)
        if i % 3 == 0:
            return random
        loud = self._loudest(name, random)
        if i % 3 == 1:
            return torch.full(shape, int(loud[i // 3 % len(loud)]))
        few = loud[torch.randperm(len(loud), generator=self.draw)[: 1 + i % 7]]
        return few[torch.randint(0, len(few), shape, generator=self.draw)]

    def _loudest(self, name: str, random: Tensor) -> Tensor:
        """Tokens of the longest rows, and some others."""
        if name not in self.tables:
            return random.flatten()
        count = self.counts[name][1]
        if name not in self._loud:
            rows = self.tables[name][:count]
            each = min(64, len(rows))
            sizes = rows.norm(dim=1), rows.abs().amax(1)
            self._loud[name] = torch.stack([size.topk(each).indices for size in sizes], 1)
        loud = self._loud[name]
        other = torch.randint(0, len(self.tables[name][:count]), (len(loud),), generator=self.draw)
        return torch.cat([loud, other[:, None]], 1).flatten()

    def _shares(self, shape: torch.Size, i: int) -> Tensor:
        """Places between the ends, from 0 to 1."""
        random = torch.rand(shape, generator=self.draw)
        level = float(torch.rand((), generator=self.draw))
        kind, turn = i % 8, i // 8
        if kind == 0:
            return random
        if kind == 1:
            return random.round()
        if kind == 2:
            return torch.full(shape, (0.0, 1.0, level)[turn % 3])
        if kind == 3:  # impulses
            return torch.where(random < 10.0 ** -(1 + turn % 4), 1.0 - turn % 2, float(turn % 2))
        if kind == 4:
            return (random < level).float()
        if kind == 5:  # all alike along one axis
            axis = turn % max(len(shape), 1)
            return random.round().amax(axis, keepdim=True).expand(shape) if shape else random
        if kind == 6:
            return 0.5 + 0.5 * self._waves(shape)
        return (self._waves(shape) > 0).float()

    def _waves(self, shape: torch.Size) -> Tensor:
        """Of any frequency along each axis."""
        phase = torch.zeros(shape)
        for axis, size in enumerate(shape):
            turns = float(torch.rand((), generator=self.draw)) ** 2 * size / 2
            at = torch.arange(size).float() / max(size, 1)
            phase = phase + turns * at.reshape([-1 if a == axis else 1 for a in range(len(shape))])
        return torch.sin(2 * math.pi * phase + float(torch.rand((), generator=self.draw)))

    def _open(self, seen: Tensor) -> Tensor:
        if seen.ndim:
            seen[..., 0] |= ~seen.any(-1)
        return seen

    def alone(self, inputs: Inputs, row: int) -> Inputs:
        """One row of a batch, in all rows."""
        return {n: self.one(x, row).expand_as(x).clone() for n, x in inputs.items()}

    def one(self, x: Tensor, row: int) -> Tensor:
        return x[row : row + 1] if self.rows > 1 else x

    def changed(self, inputs: Inputs, slopes: Mapping[str, Tensor], step: int) -> Inputs:
        """Neighbours, of which slopes say where to go; without them anywhere."""
        return {name: self._changed(name, x, slopes.get(name), step) for name, x in inputs.items()}

    def _changed(self, name: str, x: Tensor, slope: Tensor | None, step: int) -> Tensor:
        if name in self.spans:
            return self._moved(self.spans[name], x, slope, step)
        if self._is_mask(name):
            return self._open((x != 0) ^ (self._random(x) < 0.05 * (step % 2))).to(x.dtype)
        low, high = self.counts[name]
        other = torch.randint(low, high, x.shape, generator=self.draw).to(x.dtype)
        if slope is not None:
            other = self._favoured(name, slope, x)
        share = min(1.0, (1 + step % 3) / max(x[0].numel() if self.rows > 1 else x.numel(), 1))
        return torch.where(self._random(x) < share, other, x)

    def _favoured(self, name: str, slope: Tensor, x: Tensor) -> Tensor:
        """One of the tokens of which the slope promises most, at each place."""
        table = self.tables[name][: self.counts[name][1]]
        best = (slope.flatten(0, -2) @ table.T).topk(min(16, len(table)), dim=-1).indices
        at = torch.randint(0, best.shape[-1], (*x.shape, 1), generator=self.draw)
        best = best.reshape(*slope.shape[:-1], best.shape[-1]).expand(*x.shape, best.shape[-1])
        return best.gather(-1, at)[..., 0].to(x.dtype)

    def _moved(self, span: tuple[float, float], x: Tensor, slope: Tensor | None,
               step: int) -> Tensor:  # fmt: skip
        """Along the slope or its sign, by steps of several lengths; without one, some entries to an
        end."""
        low, high = span
        if slope is None or not slope.abs().amax() > 0:
            ends = torch.where(self._random(x) < 0.5, low, high)
            return torch.where(self._random(x) < (0.3, 0.1, 0.02)[step % 3], ends, x).to(x.dtype)
        far = (high - low) * torch.tensor([1.0, 0.3, 0.1, 0.03]).roll(step)
        far = far.repeat(-(-len(x) // 4))[: len(x)] if self.rows > 1 else far[:1].expand(len(x))
        far = far.reshape(-1, *(1 for _ in x.shape[1:]))
        way = slope.sign() if step % 3 else slope / slope.abs().amax()
        return (x + far * way).clamp(low, high).to(x.dtype)

    def _random(self, x: Tensor) -> Tensor:
        return torch.rand(x.shape, generator=self.draw)


# Networks


def opened(network: nn.Module | str | Path, sample: Any) -> tuple[Engine, Inputs]:
    """What runs a network, and the inputs of a sample by the names that it has for them."""
    return of_module(network, sample) if isinstance(network, nn.Module) else of_file(
        Path(network), sample
    )  # fmt: skip


def of_file(path: Path, sample: Mapping[str, Any]) -> tuple[Engine, Inputs]:
    engine = File(path)
    given = {n: torch.as_tensor(np.asarray(x)) for n, x in sample.items()}
    return engine, {n: x.float() if x.is_floating_point() else x for n, x in given.items()}


def of_module(model: nn.Module, sample: Any) -> tuple[Engine, Inputs]:
    """Exported as the model in bfloat16 that it could be deployed as, which shows its own casts; in
    FP32 where that fails."""
    args, kwargs = _called(sample)
    try:
        engine = Module(model, args, kwargs, torch.bfloat16)
    except Exception:
        engine = Module(model, args, kwargs, torch.float32)
    leaves = [x for x in _pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    return engine, dict(zip(engine.inputs, leaves, strict=True))


def _called(sample: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(sample, Mapping):
        return (), dict(sample)
    return (tuple(sample), {}) if isinstance(sample, tuple | list) else ((sample,), {})


def _cast(x: Any, dtype: torch.dtype) -> Any:
    floating = isinstance(x, Tensor) and x.is_floating_point()
    return x.to(dtype) if floating else x


class Module:
    """A module, exported and run node by node."""

    def __init__(self, model: nn.Module, args: Any, kwargs: Any, dtype: torch.dtype) -> None:
        whole = model.eval()
        traced = whole if dtype == torch.float32 else copy.deepcopy(whole).to(dtype)
        args, kwargs = _pytree.tree_map(partial(_cast, dtype=dtype), (args, kwargs))
        with torch.no_grad():
            exported = torch.export.export(traced, args, kwargs).run_decompositions({})
        self.traced = dtype
        self.graph = fx.Graph()  # a copy takes no name that Python has
        self.graph.output(self.graph.graph_copy(exported.graph, {}))
        places = (g.find_nodes(op="placeholder") for g in (exported.graph, self.graph))
        renamed = {before.name: now.name for before, now in zip(*places, strict=True)}
        lifted = {n: x for n, x in exported.constants.items() if isinstance(x, Tensor)}
        held = {
            **lifted,
            **dict(whole.named_parameters(remove_duplicate=False)),
            **dict(whole.named_buffers(remove_duplicate=False)),
        }
        signature = exported.graph_signature
        names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers,
                 **signature.inputs_to_lifted_tensor_constants}  # fmt: skip
        names = {renamed[node]: name for node, name in names.items()}
        self.held = {node: held[name].detach() for node, name in names.items()}
        self.inputs = [
            n.name
            for n in self.graph.find_nodes(op="placeholder")
            if n.name not in names and isinstance(n.meta.get("val"), Tensor)
        ]
        self.constants = {
            name: _largest(torch.stack([_size(self.held[node]), _size(self.held[node].half())]))
            for node, name in names.items()
            if self.held[node].is_floating_point()
        }
        self.depends: dict[str, set[str]] = {}
        for n in self.graph.nodes:
            found = {i for a in n.all_input_nodes for i in self.depends[a.name]}
            self.depends[n.name] = found | ({n.name} if n.name in self.inputs else set())
        self.whole = fx.GraphModule(nn.Module(), self.graph)
        self.last: Inputs = {}
        self.kept: dict[str, Any] = {}
        self.looked_up = _tables(self.graph, set(self.inputs), set(self.held))
        self.tables = {n: self.held[t].float() for n, t in self.looked_up.values()}
        self.values = {
            name: ""
            if n.op != "call_function" or name.startswith("batch_norm")
            else str(n.target).rpartition(".")[0]
            for n in self.graph.nodes
            for name in _names(n)
        }

    def look(self, inputs: Inputs, target: str = "", half: bool = False) -> Look:
        same = {n for n, x in inputs.items() if x is self.last.get(n)}
        run = _Run(self, inputs, torch.float32, target)
        if not target:
            run.skipped = {n for n, of in self.depends.items() if of and of <= same}
        run.all()
        if not target:
            self.last, self.kept = inputs, run.kept
        runs = [(run.seen, True)]
        for rounding in (True, False) if half else ():
            lower = _Run(self, inputs, torch.float32 if rounding else torch.float16, "", rounding)
            lower.masked, lower.fills = run.masked, run.fills
            try:
                lower.all()
            except (RuntimeError, NotImplementedError) as error:
                if not any(word in str(error) for word in NO_KERNEL):
                    raise
            runs.append((lower.seen, lower.whole))
        return Look(runs, run.height, run.slopes)


class _Run(fx.Interpreter):
    """One pass in a type; `rounding` stores what is stored in FP16 there, in FP32 arithmetic."""

    def __init__(self, module: Module, inputs: Inputs, dtype: torch.dtype, target: str,
                 rounding: bool = False) -> None:  # fmt: skip
        super().__init__(module.whole)
        self.of, self.inputs, self.dtype, self.rounding = module, inputs, dtype, rounding
        self.target, self.seen, self.whole = target, Seen(), True
        self.masked: set[str] = set()
        self.fills: set[str] = set()  # finite in FP32, and infinite in FP16
        self.beyond = False  # whether one of them has been stored so: no claim is of what follows
        self.height: Tensor | None = None
        self.slopes: dict[str, Tensor] = {}
        self.leaves: dict[str, Tensor] = {}
        self.skipped: set[str] = set()
        self.kept: dict[str, Any] = {}

    def all(self) -> None:
        given = []
        for node in self.of.graph.find_nodes(op="placeholder"):
            x = self.of.held.get(node.name, self.inputs.get(node.name))
            x = _cast(x, self.dtype)
            if self.rounding and isinstance(x, Tensor) and x.is_floating_point():
                x = x.half().float()
            if self.target and node.name in self.inputs and x.is_floating_point():
                x = self.leaves[node.name] = x.clone().requires_grad_()
            given.append(x)
        with torch.set_grad_enabled(bool(self.target)), suppress(_Stop):
            self.run(*given)

    def run_node(self, n: fx.Node) -> Any:
        """Computes what depends on something new; of the rest, what that needs has been kept."""
        if n.name in self.skipped and n.op == "call_function":
            made = self.of.kept.get(n.name)
        else:
            made = self._computed(n)
        if not self.target and any(
            self.of.depends[u.name] > self.of.depends[n.name] for u in n.users
        ):
            self.kept[n.name] = made
        return made

    def _computed(self, n: fx.Node) -> Any:
        if n.op in ("placeholder", "output"):
            made = super().run_node(n) if n.op == "placeholder" else None
        else:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            args, kwargs = _pytree.tree_map(self._typed, (args, kwargs))
            made = getattr(self, n.op)(n.target, args, kwargs)
        if isinstance(made, Tensor) and made.is_floating_point():
            stored = isinstance(v := n.meta.get("val"), Tensor) and v.dtype == self.of.traced
            if self.rounding and stored and n.op != "placeholder":
                made = made.half().float()
            if self.target and n.name in self.of.looked_up and not made.requires_grad:
                made = made.detach().requires_grad_()
                self.leaves[self.of.looked_up[n.name][0]] = made
            if n.name not in self.of.held:
                self._see(n.name, made)
        elif isinstance(made, tuple | list):
            made = self._several(n, made)
        return made

    def _several(self, n: fx.Node, made: Any) -> Any:
        """The same of an operator with several results."""
        if self.rounding:
            made = [_cast(_cast(x, torch.float16), torch.float32) for x in made]
        for name, x in zip(_names(n), made, strict=True):
            if isinstance(x, Tensor) and x.is_floating_point():
                self._see(name, x)
        return made

    def _typed(self, x: Any) -> Any:
        """A type that the export has written down is that of the run."""
        return self.dtype if x is self.of.traced else x

    def _see(self, name: str, x: Tensor) -> None:
        size = x.detach().abs()
        finite = torch.isfinite(size)
        lower = self.rounding or self.dtype == torch.float16
        if not bool(finite.all()):
            if lower and name not in self.masked:
                self.whole = False
                self.seen[name] = self.seen.get(name, 0.0) if self.beyond else math.inf
                raise _Stop
            self.beyond |= lower and name in self.fills
            size = torch.where(finite, size, 0.0)
        if not lower and (not bool(finite.all()) or _largest(size) > MASKED):
            self.masked.add(name)
            if bool(finite.all()):
                self.fills.add(name)
        self.seen[name] = _largest(size)
        if name == self.target:
            self._backward(x)

    def _backward(self, x: Tensor) -> None:
        """Slopes of the sum, over rows, of the largest entries."""
        rows = {len(i) for i in self.inputs.values() if i.ndim > 1}
        size = x.abs()
        apart = x.ndim > 1 and rows == {len(x)}
        row = size.flatten(1).amax(1) if apart else size.amax()[None]
        if x.requires_grad:
            slopes = torch.autograd.grad(row.sum(), [*self.leaves.values()], allow_unused=True,
                                         retain_graph=True)  # fmt: skip
            self.slopes = {n: s for n, s in zip(self.leaves, slopes, strict=True) if s is not None}
            self.height = row.detach()


class _Stop(Exception):
    """What comes after an overflow says nothing."""


BATCH_NORM = "_native_batch_norm_legit_no_training"
"""How torch.export writes a batch norm, with what it saves for training."""


def _names(node: fx.Node) -> list[str]:
    """Of what an operator computes, several results by number."""
    found = node.meta.get("val")
    if isinstance(found, tuple | list):
        names = [f"{node.name}.{i}" for i in range(len(found))]
        if node.name.startswith(BATCH_NORM):  # its first result is what the network computes
            names[0] = node.name.replace(BATCH_NORM, "batch_norm")
        return names
    return [node.name]


def _size(x: Tensor) -> Tensor:
    return x.float().abs().max() if x.numel() else torch.zeros(())


def _largest(x: Tensor) -> float:
    return float(x.max()) if x.numel() else 0.0


MOVES = """
    view reshape slice select unsqueeze squeeze clone _to_copy expand permute transpose clamp
""".split()
"""Operators through which tokens are still those that came in."""


def _tables(graph: fx.Graph, inputs: set[str], held: set[str]) -> dict[str, tuple[str, str]]:
    """Of look-ups in a held table, the input that has the tokens, and the table."""
    found: dict[str, tuple[str, str]] = {}
    for node in graph.nodes:
        if node.op == "call_function" and "embedding" in str(node.target):
            table, ids = node.args[:2]
            while ids.op == "call_function" and str(ids.target).split(".")[1] in MOVES:
                ids = ids.args[0]
            if ids.name in inputs and table.name in held:
                found[node.name] = (ids.name, table.name)
    return found


# Files


class File:
    """A file, all of whose values are outputs; without slopes."""

    def __init__(self, path: Path) -> None:
        import onnx
        import onnxruntime

        model = onnx.load(path)
        graph = model.graph
        kept = {o.name for o in graph.output}
        self.values = {o: f"onnx.{n.op_type}" if len(n.output) == 1 else ""
                       for n in graph.node for o in n.output if o}  # fmt: skip
        graph.output.extend(onnx.ValueInfoProto(name=o) for o in self.values if o not in kept)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        held = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
        self.values |= {i.name: "" for i in self.session.get_inputs()}
        self.constants = {n: max(float(np.abs(x).max()), float(np.abs(x.astype(np.float16)).max()))
                          for n, x in held.items() if x.dtype == np.float32 and x.size}  # fmt: skip
        self.types = {i.name: i.type for i in self.session.get_inputs()}
        self.tables: dict[str, Tensor] = {}
        moved = {n.output[0]: n.input[0] for n in graph.node if n.op_type in ("Cast", "Reshape")}
        for node in graph.node:
            ids = moved.get(node.input[1], node.input[1]) if node.op_type == "Gather" else ""
            if ids in self.types and held.get(node.input[0], np.zeros(0)).ndim == 2:
                self.tables[ids] = torch.from_numpy(held[node.input[0]].astype(np.float32))

    def look(self, inputs: Inputs, target: str = "", half: bool = False) -> Look:
        feeds = {n: x.numpy() for n, x in inputs.items()}
        names = [o.name for o in self.session.get_outputs()]
        found = dict(zip(names, self.session.run(None, feeds), strict=True))
        found |= feeds
        floats = {n: x for n, x in found.items() if isinstance(x, np.ndarray)
                  and x.dtype.kind == "f" and x.size}  # fmt: skip
        seen = {n: float(np.abs(x[np.isfinite(x)]).max(initial=0.0)) for n, x in floats.items()}
        height = None
        if target:
            x = torch.as_tensor(np.asarray(np.abs(np.nan_to_num(floats[target]))))
            rows = {len(i) for i in inputs.values() if i.ndim > 1}
            height = x.flatten(1).amax(1) if x.ndim > 1 and rows == {len(x)} else x.max()[None]
        return Look([(seen, True)], height)
