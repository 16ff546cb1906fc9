"""One call of an ATen operator: a one-node graph whose operands can be stored at any exponent."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from halfsafe.frontends.torch.reader import read_graph
from halfsafe.frontends.torch.schema import argument
from halfsafe.graph import Graph, Node
from halfsafe.rules import Unknown
from halfsafe.rules.solve import drawn, stated

REACH = 6

_generator = torch.Generator().manual_seed(0)


@dataclass(frozen=True)
class Case:
    """`target(*args, **kwargs)`, and the equations that its rule is expected to state.

    `expected` are equations over operand names, "out" (or "out.0", "out.1", ...) and auxiliaries,
    for instance ("out = input + weight", "bias = out"); operands that no equation names are free,
    "x = 0" pins one.
    """

    target: Any
    args: tuple[Any, ...]
    expected: tuple[str, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        named = [f"{name}={_shown(a)}" for name, a in self.kwargs.items()]
        return f"{self.target}({', '.join([*map(_shown, self.args), *named])})"

    @property
    def op(self) -> str:
        return str(self.target.overloadpacket)

    def graph(self) -> tuple[Graph, dict[str, Tensor], fx.Node]:
        """The call as a graph in float64, its tensors by value name, and its FX node."""
        graph = fx.Graph()
        tensors: dict[str, Tensor] = {}

        def enter(leaf: Any) -> Any:
            if isinstance(leaf, (list, tuple)):
                return type(leaf)(enter(item) for item in leaf)
            if not isinstance(leaf, Tensor):
                return leaf
            node = graph.placeholder(f"t{len(tensors)}")
            node.meta["val"] = leaf
            tensors[node.name] = leaf
            return node

        args = tuple(enter(a) for a in self.args)
        kwargs = {name: enter(a) for name, a in self.kwargs.items()}
        call = graph.call_function(self.target, args, kwargs)
        call.meta["val"] = self.target(*self.args, **self.kwargs)
        graph.output((call,))
        return read_graph(graph, {}, torch.float64), tensors, call

    def stored(self, exponents: Mapping[str, int]) -> list[Any]:
        """The operator's flat outputs on operands stored at the given exponents."""
        graph, tensors, call = self.graph()
        (node,) = graph.nodes
        held: dict[str, Any] = dict(tensors)
        for operand, value in node.inputs.items():
            k = exponents.get(operand, 0)
            number = graph.values[value].number
            found, write = argument(call, operand)
            if number is not None:
                write(number * 2.0**-k if k else found)
            elif graph.values[value].floating:
                name = f"{value}:{operand}"
                held[name] = torch.ldexp(tensors[value], torch.tensor(-k))
                fresh = fx.Graph().placeholder("x")
                fresh.meta["stored"] = name
                write(fresh)

        def leave(leaf: Any) -> Any:
            return held[leaf.meta.get("stored", leaf.name)]

        args = fx.node.map_arg(call.args, leave)
        kwargs = fx.node.map_arg(call.kwargs, leave)
        outputs = self.target(*args, **kwargs)
        return list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]


def calls(names: str, law: str, *args: Any, **kwargs: Any) -> list[Case]:
    """A call of each named operator ("maximum max.other"), of one law ("a = out, b = out")."""
    expected = tuple(equation.strip() for equation in law.split(",") if equation.strip())
    return [Case(_overload(name), args, expected, kwargs) for name in names.split()]


def x(*shape: int) -> Tensor:
    """Normal numbers of FP64."""
    return torch.randn(shape, generator=_generator, dtype=torch.float64)


def p(*shape: int) -> Tensor:
    """Positive numbers of FP64."""
    return x(*shape).abs() + 0.1


def f64(*numbers: float) -> Tensor:
    """These numbers."""
    return torch.tensor(numbers, dtype=torch.float64)


def ints(*shape: int) -> Tensor:
    """Integers from 0 to 2."""
    return torch.randint(3, shape, generator=_generator)


def mask(*shape: int) -> Tensor:
    """Booleans, some true and some false."""
    return (torch.arange(math.prod(shape)) % 3 == 0).view(shape)


def same(found: Any, real: Any) -> bool:
    """Whether two outputs have the same bits; NaN is the same as NaN, and inf as inf only."""
    if not isinstance(real, Tensor):
        return found == real or (found != found and real != real)
    if found.shape != real.shape or found.dtype != real.dtype:
        return False
    return bool(((found == real) | (found.isnan() & real.isnan())).all())


def inexact(case: Case, seeds: int) -> str:
    """Where op(stored operands) is not stored(op(operands)), at random exponents; or ""."""
    graph, _, _ = case.graph()
    expected = case.stored({})
    for seed in range(seeds):
        k = random_exponents(laws(graph), unknowns(graph), seed)
        for i, (found, real) in enumerate(zip(case.stored(k), expected, strict=True)):
            shift = k.get("out" if len(expected) == 1 else f"out.{i}", 0)
            back = torch.ldexp(found, torch.tensor(shift)) if shift else found
            if not same(back, real):
                return f"{case} is not exact at {k}: {back}, expected {real}"
    return ""


def laws(graph: Graph) -> list[dict[str, int]]:
    """The rule's equations over readable names: operands, "out" or "out.i", auxiliaries."""
    (node,) = graph.nodes

    def name(unknown: Unknown) -> str:
        if isinstance(unknown, str):
            return _output_name(node, unknown)
        return unknown.operand if hasattr(unknown, "operand") else f"aux:{unknown[1]}"

    return [{name(u): f for u, f in row.items()} for row in stated(graph)]


def unknowns(graph: Graph) -> list[str]:
    """Readable names of everything that has an exponent."""
    (node,) = graph.nodes
    operands = [o for o, v in node.inputs.items() if graph.values[v].floating]
    return operands + [_output_name(node, v) for v in node.outputs if graph.values[v].floating]


def parse(equation: str) -> dict[str, int]:
    """ "out = 2 input - weight" as factors that sum to zero."""
    left, right = equation.split("=")
    terms: dict[str, int] = {}
    for side, sign in ((left, 1), (right, -1)):
        for minus, factor, name in re.findall(r"(-?)\s*\b(\d*)\s*([A-Za-z_][\w.:]*)", side):
            value = sign * (-1 if minus else 1) * int(factor or 1)
            terms[name] = terms.get(name, 0) + value
    return terms


def random_exponents(rows: list[dict[str, int]], names: list[str], seed: int) -> dict[str, int]:
    """A random integer solution of the equations, as far from 0 as a random direction allows."""
    return drawn(rows, names, reach=REACH, seed=seed)


def _overload(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or "default")


def _shown(argument: Any) -> str:
    if isinstance(argument, Tensor):
        return f"{argument.dtype}{list(argument.shape)}".removeprefix("torch.")
    if isinstance(argument, (list, tuple)):
        return f"[{', '.join(map(_shown, argument))}]"
    return str(argument)


def _output_name(node: Node, value: str) -> str:
    return "out" if len(node.outputs) == 1 else f"out.{node.outputs.index(value)}"
