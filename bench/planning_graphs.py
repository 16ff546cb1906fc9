"""Graphs of real structure and made-up ranges, of any size: what the planner is timed on.

Each family is a function of the number of operators wanted, and gives a graph with its ranges. In
each, some values overflow between operators without a power-of-two law, so that no folding helps:
`FORCED` of a thousand operators need an insertion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import floor, log2
from random import Random

from halfsafe.graph import Graph, Kind, Node, Value
from halfsafe.ranges import Range

FORCED = 5
"""Insertions that a thousand operators need."""


def entries(amax: float, binades: int = 12) -> Range:
    """Normally distributed entries, more or less: half as many with each binade down."""
    top = floor(log2(amax))
    counts = {top - i: max(2 ** (16 - i), 1) for i in range(binades)}
    counts[top] = 8
    lowest = min(counts)
    return Range(
        amax, 2.0**lowest, count=sum(counts.values()), binades=dict(sorted(counts.items()))
    )


@dataclass
class Drawing:
    """A graph drawn call by call; values say how large they get, give or take `spread` bits."""

    spread: float = 0.0
    nodes: list[Node] = field(default_factory=list[Node])
    values: dict[str, Value] = field(default_factory=dict[str, Value])
    ranges: dict[str, Range] = field(default_factory=dict[str, Range])
    outputs: list[str] = field(default_factory=list[str])
    random: Random = field(default_factory=lambda: Random(0))

    def graph(self) -> Graph:
        """What has been drawn."""
        inputs = tuple(n for n, v in self.values.items() if v.kind == Kind.INPUT)
        return Graph(tuple(self.nodes), self.values, inputs, tuple(self.outputs))

    def value(self, kind: Kind, amax: float, size: int, number: float | None = None) -> str:
        """A new value of `size` entries up to `amax`."""
        name = f"{kind}{len(self.values)}"
        self.values[name] = Value(name, kind, True, kind != Kind.LITERAL, (size,), number)
        if number is None and self.spread:
            amax *= 2.0 ** self.random.uniform(-self.spread, self.spread)
        self.ranges[name] = Range.of(number) if number is not None else entries(amax)
        return name

    def input(self, amax: float = 1.0) -> str:
        return self.value(Kind.INPUT, amax, 4096)

    def weight(self, amax: float = 0.5) -> str:
        return self.value(Kind.CONSTANT, amax, 4096)

    def number(self, number: float) -> str:
        return self.value(Kind.LITERAL, number, 1, number)

    def call(self, op: str, amax: float, /, **inputs: str) -> str:
        """The output of a node."""
        name, moves = f"n{len(self.nodes)}", op in ("view", "transpose", "slice")
        output = self.value(Kind.ACTIVATION, amax, 4096)
        if moves:
            self.ranges[output] = self.ranges[next(iter(inputs.values()))]
        self.nodes.append(Node(name, f"aten.{op}", inputs, (output,), moves=moves))
        return output

    def unary(self, op: str, x: str, amax: float) -> str:
        return self.call(op, amax, self=x)

    def binary(self, op: str, x: str, y: str, amax: float) -> str:
        return self.call(op, amax, self=x, other=y)

    def linear(self, x: str, amax: float, weight: str = "") -> str:
        return self.call("linear", amax, input=x, weight=weight or self.weight())

    def norm(self, x: str) -> str:
        return self.call("rms_norm", 8.0, input=x, weight=self.weight(1.0), eps=self.number(1e-6))

    def convolution(self, x: str, amax: float) -> str:
        return self.call("convolution", amax, input=x, weight=self.weight(), bias=self.weight())

    def group_norm(self, x: str) -> str:
        gain = {"weight": self.weight(1.0), "bias": self.weight(1.0)}
        return self.call("native_group_norm", 8.0, input=x, **gain, eps=self.number(1e-5))

    def cat(self, tensors: list[str], amax: float) -> str:
        operands = {f"tensors.{i}": name for i, name in enumerate(tensors)}
        return self.call("cat", amax, **operands)

    def overflowing(self, x: str) -> str:
        """exp(a) exp(b) beyond FP16: both factors are pinned, so that one of them is multiplied."""
        factors = [self.unary("exp", self.linear(x, 7.0), 1e3) for _ in range(2)]
        return self.binary("mul", *factors, 1e6)


def transformer(
    operators: int, *, spread: float = 0.0, forced: int | None = None, tied: bool = False
) -> Drawing:
    """Llama-like layers whose residual stream overflows; some gates are products of exponentials.

    `tied` reads the embedding's constant at the far end as well.
    """
    draw = Drawing(spread)
    layers = max(operators // 37, 1)
    forced = round(operators * FORCED / 1000) if forced is None else forced
    embedding, tokens = draw.weight(1e5 if tied else 1.0), draw.input()
    h = draw.linear(tokens, 1e5 if tied else 1.0, embedding)
    cos, sin = (draw.unary(op, tokens, 1.0) for op in ("cos", "sin"))
    for i in range(layers):
        h = draw.binary("add", h, _attention(draw, draw.norm(h), cos, sin), 1e5 * (1 + i / 10))
        n = draw.norm(h)
        if (i + 1) * forced // layers > i * forced // layers:
            u = draw.overflowing(n)
        else:
            u = draw.binary(
                "mul", draw.unary("silu", draw.linear(n, 9.0), 9.0), draw.linear(n, 9.0), 80.0
            )
        h = draw.binary("add", h, draw.linear(u, 1e5), 1e5 * (1 + i / 10))
    draw.outputs.append(draw.linear(draw.norm(h), 30.0, embedding if tied else ""))
    return draw


def _attention(draw: Drawing, n: str, cos: str, sin: str) -> str:
    q, k, v = (
        draw.unary("transpose", draw.unary("view", draw.linear(n, 20.0), 20.0), 20.0)
        for _ in range(3)
    )
    q, k = (_rotated(draw, x, cos, sin) for x in (q, k))
    scores = draw.binary("mul", draw.binary("matmul", q, k, 3e4), draw.number(0.125), 4e3)
    found = draw.binary("matmul", draw.unary("softmax", scores, 1.0), v, 20.0)
    return draw.linear(draw.unary("view", draw.unary("transpose", found, 20.0), 20.0), 1e5)


def _rotated(draw: Drawing, x: str, cos: str, sin: str) -> str:
    halves = [draw.unary("slice", x, 20.0) for _ in range(2)]
    turned = draw.cat([draw.unary("neg", halves[1], 20.0), halves[0]], 20.0)
    return draw.binary(
        "add", draw.binary("mul", x, cos, 20.0), draw.binary("mul", turned, sin, 20.0), 25.0
    )


def different(operators: int) -> Drawing:
    """No two layers alike: every range is up to 8 times larger or smaller."""
    return transformer(operators, spread=3.0)


def tied(operators: int) -> Drawing:
    """A loud embedding, whose constant is read at both ends."""
    return transformer(operators, tied=True)


def hidden_states(operators: int) -> Drawing:
    """A transformer that gives out the residual stream of some layers, all beyond FP16."""
    draw = transformer(operators, forced=0)
    streams = [n.outputs[0] for n in draw.nodes if n.op == "aten.add" and _is_stream(draw, n)]
    count = round(operators * FORCED / 1000)
    draw.outputs += [streams[i * len(streams) // count] for i in range(count)]
    return draw


def _is_stream(draw: Drawing, node: Node) -> bool:
    return draw.ranges[node.outputs[0]].amax >= 1e5


def unet(operators: int) -> Drawing:
    """As many blocks down as up, each block up reading what the block down has made as well."""
    draw = Drawing()
    blocks = max(operators // 18, 1)
    forced, skips = round(operators * FORCED / 1000), list[str]()
    h = draw.convolution(draw.input(), 10.0)
    for i in range(blocks):
        h = _res_block(draw, h, 100.0, (i + 1) * forced // blocks > i * forced // blocks)
        skips.append(h)
        h = draw.convolution(h, 100.0)
    for skip in reversed(skips):
        h = draw.convolution(draw.cat([h, skip], 3e5), 3e5)
        h = _res_block(draw, h, 3e5, False)
    draw.outputs.append(draw.convolution(draw.unary("silu", draw.group_norm(h), 8.0), 5.0))
    return draw


def _res_block(draw: Drawing, x: str, amax: float, overflows: bool) -> str:
    h = draw.convolution(draw.unary("silu", draw.group_norm(x), 8.0), 50.0)
    n = draw.group_norm(h)
    h = draw.overflowing(n) if overflows else draw.unary("silu", n, 8.0)
    return draw.binary("add", x, draw.convolution(h, amax), amax)


def densenet(operators: int, *, depth: int = 24) -> Drawing:
    """Blocks of layers that read all that the block has made so far, loud and quiet alike."""
    draw = Drawing()
    layers, forced = max(operators // 6, 1), round(operators * FORCED / 1000)
    features = [draw.convolution(draw.input(), 100.0)]
    for i in range(layers):
        if len(features) == depth:
            features = [draw.convolution(draw.unary("relu", draw.cat(features, 1e5), 1e5), 100.0)]
        h = draw.unary("relu", _batch_norm(draw, draw.cat(features, 1e5)), 8.0)
        if (i + 1) * forced // layers > i * forced // layers:
            h = draw.overflowing(h)
        loud = i % 3 == 0
        features.append(draw.convolution(draw.convolution(h, 20.0), 1e5 if loud else 1.0))
    draw.outputs.append(draw.linear(draw.cat(features, 1e5), 10.0))
    return draw


def _batch_norm(draw: Drawing, x: str) -> str:
    parameters = {n: draw.weight(1.0) for n in ("weight", "bias", "running_mean")}
    parameters["running_var"] = draw.weight(1e4)
    return draw.call("batch_norm", 8.0, input=x, **parameters, eps=draw.number(1e-5))


def experts(operators: int) -> Drawing:
    """Layers of 64 experts, each weighted by a gate; their sum joins the residual stream."""
    draw = Drawing()
    layers = max(round(operators / (64 * 7)), 1)
    forced, made = round(operators * FORCED / 1000), 0
    h = draw.linear(draw.input(), 1e5)
    for _ in range(layers):
        n = draw.norm(h)
        gates = draw.unary("softmax", draw.linear(n, 10.0), 1.0)
        total = ""
        for _ in range(64):
            made += 1
            if made * forced // (64 * layers) > (made - 1) * forced // (64 * layers):
                u = draw.overflowing(n)
            else:
                u = draw.binary(
                    "mul", draw.unary("silu", draw.linear(n, 9.0), 9.0), draw.linear(n, 9.0), 80.0
                )
            y = draw.binary("mul", draw.linear(u, 1e5), draw.unary("slice", gates, 1.0), 1e5)
            total = draw.binary("add", total, y, 1e5) if total else y
        h = draw.binary("add", h, total, 2e5)
    draw.outputs.append(draw.linear(draw.norm(h), 30.0))
    return draw


FAMILIES: dict[str, Callable[[int], Drawing]] = {
    "transformer": transformer,
    "no two layers alike": different,
    "hidden states": hidden_states,
    "tied embeddings": tied,
    "U-Net skips": unet,
    "DenseNet concats": densenet,
    "64 experts": experts,
}
