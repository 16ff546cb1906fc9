"""No bound is ever passed, by random, extreme and climbing inputs, of operators and of networks."""

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pytest
import torch
from torch import fx, nn

from halfsafe.bounds.aten import BOUNDS
from halfsafe.bounds.bound import Bound, Form, groups, with_form
from halfsafe.bounds.gains import largest_gain, multiplied, row_lengths
from halfsafe.bounds.interpreter import Interpreter
from halfsafe.bounds.onnx import BOUNDS as ONNX
from halfsafe.frontends import open_model
from halfsafe.frontends.torch.reader import read_graph
from halfsafe.graph import Graph, Kind
from halfsafe.samples import Samples
from tests.case import Case
from tests.cases_aten import CASES
from tests.cases_bounds import CALLS, NODES
from tests.cases_onnx import CASES as ONNX_CASES
from tests.onnx_case import OnnxCase

HELD = frozenset(
    """weight bias running_mean running_var exponent mat2 v g scales roi word position segment
    recurrence start end step""".split()
)
"""Operands that are constants in networks: what they are is known."""

SHAPES = frozenset(["scales", "roi", "start", "end", "step"])
"""Operands that say how large the output is."""


class OneOperator(Protocol):
    """An operator as a network, of which some tensors are constants."""

    case: Case | OnnxCase
    graph: Graph
    inputs: list[str]

    @property
    def arrays(self) -> Mapping[str, np.ndarray]: ...

    def array(self, constant: str) -> np.ndarray: ...

    def run_node(self, node: str, values: Mapping[str, np.ndarray]) -> list[np.ndarray]: ...


@dataclass
class OneCall:
    """A call of an ATen operator."""

    case: Case
    held: Container[str] = HELD

    def __post_init__(self):
        graph, self.tensors, self.call = self.case.graph()
        (node,) = graph.nodes
        held = {v for o, v in node.inputs.items() if o in self.held or not graph.values[v].floating}
        self.inputs = [v for v in node.inputs.values() if v in self.tensors and v not in held]
        constants = {name for name in self.tensors if name not in self.inputs}
        self.graph: Graph = _read(self.call.graph, constants)

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        return {n: x.numpy() for n, x in self.tensors.items()}

    def array(self, constant: str) -> np.ndarray:
        return self.tensors[constant].numpy()

    def run_node(self, node: str, values: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        held = {name: torch.as_tensor(x) for name, x in values.items()}

        def value_of(leaf: fx.Node) -> Any:
            return held.get(leaf.name, self.tensors[leaf.name])

        found = self.call.target(
            *fx.node.map_arg(self.call.args, value_of),
            **fx.node.map_arg(self.call.kwargs, value_of),
        )
        found = found if isinstance(found, (tuple, list)) else [found]
        return [x.numpy() for x in found]


def _read(graph: fx.Graph, constants: set[str]) -> Graph:
    """The graph with some placeholders as constants."""
    copy = fx.Graph()
    copy.graph_copy(graph, {})
    for node in list(copy.nodes):
        if node.op == "placeholder" and node.name in constants:
            node.op, node.args = "get_attr", ()
    known = {n.name: n for n in graph.nodes}
    for node in copy.nodes:
        node.meta = dict(known[node.name].meta)
    copy.output(tuple(n for n in copy.nodes if n.op == "call_function"))
    return read_graph(copy, constants, torch.float64)


@dataclass
class OneNode:
    """A node of ONNX."""

    case: OnnxCase
    held: Container[str] = HELD

    def __post_init__(self):
        graph, self.arrays = self.case.graph, self.case.tensors
        (node,) = graph.nodes
        made = dict(zip(node.outputs, self.case.stored({}), strict=True))
        held = {v for v in self.arrays if v in self.held or not graph.values[v].floating}
        self.inputs = [v for v in self.arrays if v not in held]
        values = {}
        for name, value in graph.values.items():
            kind = Kind.CONSTANT if name in held else value.kind
            shape = np.shape({**self.arrays, **made}.get(name, 0.0))
            values[name] = replace(value, kind=kind, shape=shape, bounded=value.floating)
        self.graph = replace(graph, values=values, inputs=tuple(self.inputs))

    def array(self, constant: str) -> np.ndarray:
        return np.asarray(self.arrays[constant])

    def run_node(self, node: str, values: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        return [np.empty(0) if x is None else np.asarray(x) for x in self.case.given(values)]


OPERATORS: list[OneOperator] = [OneCall(c) for c in CASES + CALLS if c.op in BOUNDS]
OPERATORS += [OneNode(c) for c in ONNX_CASES + NODES if c.op in ONNX]

COMPUTED: list[OneOperator] = [OneCall(one.case, SHAPES) for one in OPERATORS
                               if isinstance(one, OneCall)]  # fmt: skip
COMPUTED += [OneNode(one.case, SHAPES) for one in OPERATORS if isinstance(one, OneNode)]
"""The same with all operands computed."""


def boxes(one: OneOperator, draw: np.random.Generator) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """An interval of each entry around the case's own, which keep its domain."""
    found = {}
    for name in one.inputs:
        x = one.arrays[name].astype(np.float64)
        x = np.where(np.isfinite(x), x, 0.0)
        wide = draw.uniform(0, 0.5, x.shape) * np.abs(x)
        found[name] = _half(x - wide), _half(x + wide)
    return found


def _half(x: np.ndarray) -> np.ndarray:
    """As FP16 stores it, where it can."""
    x = np.asarray(x)
    return np.where(np.abs(x) <= 65504, np.clip(x, -65504, 65504).astype(np.float16), x).astype(
        x.dtype
    )


def halved(one: OneOperator) -> dict[str, np.ndarray]:
    """Constants as FP16 stores them."""
    held = {n: x for n, x in one.arrays.items() if n not in one.inputs and x.dtype.kind == "f"}
    return {n: _half(x) for n, x in held.items()}


def named(one: OneOperator) -> str:
    return str(one.case)


def test_every_operator_with_a_bound_is_attacked():
    assert sorted({*BOUNDS, *ONNX} - {one.case.op for one in OPERATORS} - ELSEWHERE) == []


@pytest.mark.parametrize("one", OPERATORS, ids=named)
def test_no_operator_passes_its_bound(one: OneOperator):
    attacked(one)


@pytest.mark.parametrize("one", [one for one in COMPUTED if len(one.inputs) > 1], ids=named)
def test_no_operator_of_computed_operands_passes_its_bound(one: OneOperator):
    attacked(one)


def attacked(one: OneOperator) -> None:
    """Raises AssertionError for an output beyond its bound."""
    draw, stored = np.random.default_rng(0), halved(one)
    (node,) = one.graph.nodes
    if not one.inputs:
        return
    for _ in range(3):
        box = boxes(one, draw)
        domain = {n: Bound.between(low.shape, low, high) for n, (low, high) in box.items()}
        bounds = Interpreter(one, domain).walk()
        for i in range(24):
            given = {
                n: np.where(draw.random(low.shape) < 0.5, low, high)
                if i % 2 else np.asarray(draw.uniform(low, high))
                for n, (low, high) in box.items()
            }  # fmt: skip
            if i % 3:
                given = {n: _half(x) for n, x in given.items()} | stored
            given = {n: x.astype(one.arrays[n].dtype) for n, x in given.items()}
            made = one.run_node(node.name, given)
            assert not any("bound fails" in bound.lost for bound in bounds.values())
            for name, x in zip(node.outputs, made, strict=True):
                if name in bounds and x.dtype.kind == "f":
                    low, high = bounds[name].expanded()
                    x = _half(x) if i % 3 else x
                    inside = np.isnan(x) | ((low <= x) & (x <= high))
                    text = f"{one.case}: {x[~inside]} of {low[~inside]}, {high[~inside]}"
                    assert inside.all(), text


ELSEWHERE = {
    "onnx.Upsample",  # of opset 9, which is taken for Resize
    "onnx.CumProd",  # of opset 26, which no runtime has here
    "com.microsoft.DynamicQuantizeLSTM",  # whose weights are packed: as LSTM
    "onnx.And", "onnx.Or", "onnx.Xor", "onnx.Not",  # of truths alone
    "onnx.MatMulInteger", "onnx.ConvInteger",  # of bytes alone
}  # fmt: skip
"""Operators that no case runs."""

NOTHING_KNOWN = {
    "aten.avg_pool2d.default",  # another divisor
    "aten.batch_norm.default",  # one that trains
    "aten.div.Scalar_mode", "aten.div.Tensor_mode",  # rounded
    "aten.lstm.input",  # one that projects
    "aten.masked_fill.Scalar",  # with -inf
    "aten.pow.Tensor_Scalar",  # of what may be 0
    "aten.stack.default",  # whole numbers among floats
    "aten.view.dtype",  # bits of another type
    "aten.scatter.reduce", "aten.scatter.value_reduce",  # which multiply
    "onnx.ScatterElements", "onnx.ScatterND",  # which multiply
    "onnx.BatchNormalization",  # one that trains
    "onnx.Gemm",  # whose bias is a matrix
    "onnx.LpNormalization",  # of another norm
    "onnx.RNN",  # of other functions
}  # fmt: skip
"""Calls among the cases of which nothing is known."""


def test_most_bounds_know_something():
    """A bound of inf is sound, and worth nothing."""
    lost: dict[str, str] = {}
    for one in OPERATORS:
        domain = {
            n: Bound.between(low.shape, low, high)
            for n, (low, high) in boxes(one, np.random.default_rng(0)).items()
        }
        found = Interpreter(one, domain).walk() if one.inputs else {}
        bound = found.get(one.graph.nodes[0].outputs[0])
        if bound is not None and not bound.is_finite:
            lost[str(one.case)] = bound.lost
    assert {case.partition("(")[0] for case in lost} == NOTHING_KNOWN, lost


# Pieces


@pytest.mark.parametrize("shape", [(3, 3), (20, 5), (5, 20), (40, 40), (1, 7)])
def test_a_gain_is_never_under_the_largest_singular_value(shape):
    draw = np.random.default_rng(0)
    for scale in (1e-30, 1.0, 1e20):
        a = scale * draw.normal(size=shape) * draw.lognormal(sigma=2, size=shape)
        true = np.linalg.norm(a, 2)
        assert true <= largest_gain(a) <= 1.5 * true


@pytest.mark.parametrize("dtype", [np.int8, np.float16, np.float32, np.complex64, np.complex128])
@pytest.mark.parametrize("shape", [(1, 20), (40, 700), (300, 260)])
def test_a_gain_is_of_entries_as_they_are_held(dtype, shape):
    draw = np.random.default_rng(0)
    a = 3 * draw.normal(size=shape) + (
        2j * draw.normal(size=shape) if dtype().dtype.kind == "c" else 0
    )
    a = a.astype(dtype)
    true = np.linalg.norm(a.astype(np.result_type(dtype, np.float64)), 2)
    assert true <= largest_gain(a) <= 1.1 * true


@pytest.mark.parametrize("scales", [(1.0, 1.0), (1e-25, 1e25), (1e30, 1e15), (1e-20, 1e-20)])
@pytest.mark.parametrize("spread", [1, 4])
def test_rows_of_a_large_product_are_no_longer_than_it_says(scales, spread):
    """In FP32 where that holds it, and a little more than they are; else in FP64."""
    draw = np.random.default_rng(0)
    a, b = (
        scale * draw.lognormal(sigma=spread, size=shape) * draw.choice([-1, 1], size=shape)
        for scale, shape in zip(scales, [(30, 700), (700, 100)], strict=True)
    )
    product, more = multiplied(a, b.astype(np.float32))
    true = row_lengths(a @ b.astype(np.float32).astype(np.float64))
    found = row_lengths(product) + more
    assert (found >= true * (1 - 1e-12)).all()
    assert (found <= (1.01 if spread == 1 else 1.5) * true).all()


def test_a_form_is_bounded_as_it_can_be_reached():
    """Behind a norm, c + r ||a|| is what the vector along a gives."""
    draw = np.random.default_rng(0)
    rows, centre = draw.normal(size=(4, 16)), draw.normal(size=4)
    last = np.arange(4).reshape(1, 4)
    form = Form(centre, rows, np.zeros(4), 4.0, last, np.zeros((1, 4), int))
    bound = with_form((5, 4), form)
    along = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    reached = centre + 4.0 * (rows * along).sum(axis=1)
    assert np.allclose(bound.high, reached, rtol=1e-8)
    assert (bound.high >= reached).all()


def test_what_has_no_entries_is_no_trouble():
    class Sliced(nn.Module):
        def forward(self, x):
            y = nn.functional.layer_norm(x, (8,))
            return torch.cat([y[..., :8], y[..., 8:]], -1)

    source, bounds = bounds_of(Sliced().eval(), torch.ones(2, 8), {"x": (-1.0, 1.0)})
    assert bounds[source.graph.outputs[0]].amax < 2.9


def test_groups_are_of_one_ball():
    found = groups(np.array([7, 8, 9]), np.array([1, 0, 1]))
    assert [x.tolist() for x in found] == [[8], [7, 9]]


# Networks


class Block(nn.Module):
    """Attention and a feed-forward network, each behind a norm, on a residual stream."""

    def __init__(self, width=16, heads=2):
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        q, k, v = (
            y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for y in self.qkv(self.first(x)).chunk(3, -1)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.second(x))))


class Tokens(nn.Module):
    def __init__(self, *blocks):
        super().__init__()
        self.table, self.blocks = nn.Embedding(40, 16), nn.Sequential(*blocks)

    def forward(self, ids):
        return self.blocks(self.table(ids))


def network():
    torch.manual_seed(0)
    net = Tokens(Block(), Block()).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(torch.empty_like(p).uniform_(0.5, 3))
    return net


def bounds_of(net, sample, domain):
    supply = Samples(sample)
    source = open_model(net, supply.first)
    made = {
        n: Bound.between(source.graph.values[n].shape, *domain.get(n, (-math.inf, math.inf)))
        for n in source.graph.inputs
    }
    return source, Interpreter(source, made).walk()


def passed(source, bounds, samples):
    """The values that some sample drives beyond their bounds."""
    ranges = source.measure(iter(Samples(samples)), lambda _: None)
    return [n for n, r in ranges.items() if n in bounds and r.amax > bounds[n].amax]


def test_no_value_of_a_network_passes_its_bound_and_bounds_are_near():
    net = network()
    draws = [torch.randint(0, 40, (2, 6)) for _ in range(60)]
    draws += [torch.full((2, 6), i) for i in range(40)]  # one token alone, as loud as it is
    source, bounds = bounds_of(net, draws[0], {})
    assert all(bound.is_finite for bound in bounds.values())
    assert passed(source, bounds, draws) == []
    ranges = source.measure(iter(Samples(draws)), lambda _: None)
    bits = [math.log2(bounds[n].amax / r.amax) for n, r in ranges.items() if n in bounds and r.amax]
    assert np.median(bits) < 2.5


def test_one_that_is_too_small_is_noticed():
    net = network()
    draws = [torch.randint(0, 40, (2, 6)) for _ in range(60)]
    source, bounds = bounds_of(net, draws[0], {})
    small = {n: b for n, b in bounds.items() if n == "layer_norm"}
    halved = {n: Bound.between(b.shape, b.low / 4, b.high / 4) for n, b in small.items()}
    assert passed(source, halved, draws) == ["layer_norm"]


def climbed(net, x, steps=150):
    """The largest magnitude of an output that gradient ascent on the input finds."""
    x = x.clone().requires_grad_()
    mover = torch.optim.Adam([x], 0.5)
    for _ in range(steps):
        mover.zero_grad()
        (-net(x).abs().amax()).backward()
        mover.step()
    return float(net(x).detach().abs().amax())


def test_behind_a_norm_a_linear_layer_reaches_its_bound():
    torch.manual_seed(0)
    net = nn.Sequential(nn.RMSNorm(12, 1e-6), nn.Linear(12, 8)).eval()
    _, bounds = bounds_of(net, torch.randn(1, 12), {"input_1": (-1e3, 1e3)})
    with torch.no_grad():  # the longest vector along each row, either way
        along = 1e3 * net[1].weight / (net[0].weight + 1e-12)
        found = float(net(torch.cat([along, -along])[:, None]).abs().max())
    assert climbed(net, torch.randn(1, 12)) <= found * 1.001
    (high,) = (b.amax for n, b in bounds.items() if n.startswith("linear"))
    assert found <= high < 1.05 * found


def test_heads_of_attention_keep_the_form_of_their_values():
    """The output of attention behind its projection is bounded head by head, not entry by entry."""
    torch.manual_seed(0)
    net = Block().eval()
    source, bounds = bounds_of(net, torch.randn(1, 6, 16), {"x": (-5.0, 5.0)})
    names = [node.outputs[0] for node in source.graph.nodes if node.op == "aten.linear"]
    attended = bounds[names[1]]
    with torch.no_grad():
        entries = bounds[names[0]].size[..., 32:]
        by_entries = np.abs(net.out.weight.numpy()) @ entries.ravel() + np.abs(net.out.bias.numpy())
    assert attended.amax < 0.8 * by_entries.max()


def test_a_norm_that_is_written_out_is_one_whatever_comes_in():
    class Written(nn.Module):
        def forward(self, x):
            return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6)

    _, bounds = bounds_of(Written().eval(), torch.randn(2, 9), {"x": (-1e30, 1e30)})
    assert bounds["mul_1"].amax == pytest.approx(3.0, rel=1e-2)


class Averaging(nn.Module):
    """The mean of the tokens that a mask shows, as encoders of sentences give it."""

    def __init__(self, clip=True):
        super().__init__()
        self.table, self.norm, self.clip = nn.Embedding(40, 16), nn.LayerNorm(16), clip

    def forward(self, ids, mask):
        h = self.norm(self.table(ids))
        m = mask.unsqueeze(-1).expand(h.shape).to(h.dtype)
        shown = m.sum(1)
        return (h * m).sum(1) / (shown.clamp(min=1e-9) if self.clip else shown - 0.5)


def test_a_mean_by_a_mask_is_in_the_hull_of_what_it_is_of():
    ids, mask = torch.zeros(2, 12, dtype=torch.long), torch.ones(2, 12, dtype=torch.long)
    source, bounds = bounds_of(Averaging().eval(), (ids, mask), {"mask": (0.0, 1.0)})
    (output,) = source.graph.outputs
    assert bounds[output].amax <= 1.01 * bounds["layer_norm"].amax
    one = torch.zeros_like(mask).scatter(1, torch.tensor([[3], [0]]), 1)
    assert passed(source, bounds, [(ids, mask), (ids, one)]) == []


def test_a_sum_of_a_mask_by_itself_may_be_nothing():
    """A mask of padding is 0 everywhere where nothing is padded."""

    class Lengths(nn.Module):
        def forward(self, padding_mask):
            return (12 - padding_mask.sum(1)).to(torch.float32)

    mask = torch.zeros(2, 12, dtype=torch.long)
    source, bounds = bounds_of(Lengths().eval(), mask, {"padding_mask": (0.0, 1.0)})
    assert bounds[source.graph.outputs[0]].amax >= 12


@pytest.mark.parametrize("turned", [lambda y: y.transpose(1, 2), lambda y: y])
def test_a_constant_along_another_axis_is_added_there(turned):
    """As wide as it is long, a tensor that was turned has its rows along the other axis."""

    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.up = nn.LayerNorm(8), nn.Parameter(torch.arange(8.0))

        def forward(self, x):
            return turned(self.norm(x)) + self.up, turned(self.norm(x)) * self.up

    net = Turned().eval()
    with torch.no_grad():
        _ = net.norm.weight.copy_(torch.arange(8.0, 0, -1))
    xs = [torch.nn.functional.one_hot(torch.full((1, 8), i), 8).float() for i in range(8)]
    source, bounds = bounds_of(net, xs[0], {"x": (-1.0, 1.0)})
    assert passed(source, bounds, [*xs, *(-x for x in xs)]) == []


@pytest.mark.parametrize("shape", [(2, 4, 4), (1, 2, 4, 4)])
def test_a_picture_may_have_no_batch(shape):
    net = nn.MaxPool2d(3, 1, 1).eval()
    x = torch.zeros(shape)
    x[..., 1, 1] = 7
    source, bounds = bounds_of(net, x, {"input_1": (-7.0, 7.0)})
    assert passed(source, bounds, [x, -x]) == []


def test_a_quotient_by_less_than_the_sum_of_weights_is_no_mean():
    ids, mask = torch.zeros(2, 12, dtype=torch.long), torch.ones(2, 12, dtype=torch.long)
    source, bounds = bounds_of(Averaging(clip=False).eval(), (ids, mask), {"mask": (0.0, 1.0)})
    (output,) = source.graph.outputs
    one = torch.zeros_like(mask).scatter(1, torch.tensor([[3], [0]]), 1)
    assert bounds[output].amax > 1.9 * bounds["layer_norm"].amax
    assert passed(source, bounds, [(ids, one)]) == []


def test_a_log_softmax_is_over_its_own_axis():
    net = nn.LogSoftmax(1).eval()
    x = torch.zeros(1, 1000, 2)
    source, bounds = bounds_of(net, x, {"input_1": (-0.01, 0.01)})
    assert passed(source, bounds, [x]) == []


def test_a_bias_is_stored_as_well():
    """1.02 of the least steps is stored as 2 of half of them, and so is the weight."""
    net, least = nn.Linear(1, 1), 2.0**-25
    for parameter in net.parameters():
        _ = parameter.data.fill_(1.02 * least)
    _, bounds = bounds_of(net.eval(), torch.ones(1, 1), {"input_1": (0.0, 1.6)})
    assert bounds["linear"].amax >= (2 + 2 * 1.6) * least


def test_what_cancels_in_a_sum_of_products_is_off_by_itself():
    """3 A B - 3 c is 0, of parts of 300: numbers that are stored are off by a share of those."""
    a = torch.ones(1, 1)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.b, self.c = (nn.Parameter(torch.full((1, 1), n)) for n in (100.0, -100.0))

        def forward(self, x):
            return torch.addmm(self.c[0], x, self.b, beta=3.0003, alpha=3.0003)

    _, bounds = bounds_of(Net().eval(), a, {"x": (1.0, 1.0)})
    (amax,) = (b.amax for n, b in bounds.items() if n.startswith("addmm"))
    assert amax >= 3.9 * 300 * 2.0**-11  # of A B, c and both numbers


class Routed(nn.Module):
    """Weights of the two experts of four that are picked, as mixtures of experts have them."""

    def forward(self, x):
        chosen = torch.softmax(x.float(), -1).topk(2, dim=-1).values
        return chosen / chosen.sum(-1, keepdim=True)


class Misaligned(nn.Module):
    """Over sums of other rows: the sum has no axis of its own, and is laid along the last one."""

    def forward(self, x):
        chosen = torch.sigmoid(x) + 1e-3
        return chosen / chosen.sum(-1)


def test_parts_of_a_sum_are_no_more_than_it():
    xs = [torch.randn(4, 4), 100 * torch.eye(4), torch.zeros(4, 4)]
    source, bounds = bounds_of(Routed().eval(), xs[0], {"x": (-100.0, 100.0)})
    assert bounds[source.graph.outputs[0]].amax < 1.01
    assert passed(source, bounds, [(x,) for x in xs]) == []
    xs = [
        torch.diag(torch.full((4,), 200.0)) - 100,
        (torch.arange(4) - 1.5)[:, None] * 50 * torch.ones(4),
    ]
    source, bounds = bounds_of(Misaligned().eval(), xs[0], {"x": (-100.0, 100.0)})
    assert passed(source, bounds, [(x,) for x in xs]) == []
    assert bounds[source.graph.outputs[0]].amax > 100


def test_a_gate_and_its_carrier_are_bounded_together():
    """Of |<a, u> <b, u>| at right angles half is reached of what each alone says."""

    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.up, self.gate = nn.RMSNorm(16), nn.Linear(16, 8), nn.Linear(16, 8)

        def forward(self, x):
            y = self.norm(x)
            return nn.functional.silu(self.gate(y)) * self.up(y)

    torch.manual_seed(0)
    net = Gated().eval()
    with torch.no_grad():
        _ = net.gate.weight.mul_(30), net.up.bias.zero_(), net.gate.bias.zero_()
    source, bounds = bounds_of(net, torch.randn(1, 16), {"x": (-9.0, 9.0)})
    both = bounds["mul"]
    assert both.by == "joint"
    assert both.amax < 0.8 * bounds["silu"].amax * bounds["linear_1"].amax
    a, b = net.gate.weight.detach(), net.up.weight.detach()
    along = torch.cat([a / a.norm(dim=1, keepdim=True) + s * b / b.norm(dim=1, keepdim=True)
                       for s in (1, -1)])  # fmt: skip
    assert passed(source, bounds, [along[i : i + 1] for i in range(16)]) == []
    reached = float(net(along).detach().abs().max())
    assert both.amax < 1.1 * reached


@pytest.mark.parametrize("gate", [nn.ReLU(), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Hardswish()])
def test_behind_a_gate_half_is_linear(gate):
    """x g(x) is x / 2, which is bounded as a whole, and what is even, between 0 and |x| / 2."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.RMSNorm(12), nn.Linear(12, 40), gate, nn.Linear(40, 6)).eval()
    with torch.no_grad():
        _ = net[1].weight.mul_(5), net[3].weight.copy_(net[3].weight.abs() - 0.05)
    source, bounds = bounds_of(net, torch.randn(1, 12), {"input_1": (-50.0, 50.0)})
    down = bounds["linear_1"]
    assert down.by == "halves"
    draws = [torch.randn(1, 12).clamp(-50, 50) for _ in range(300)]
    assert passed(source, bounds, draws) == []
    assert down.amax / 2 < climbed(net, draws[0], steps=300) <= down.amax


def test_an_epsilon_that_fp16_flushes_makes_no_norm():
    class Written(nn.Module):
        def forward(self, x):
            return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-12)

    _, bounds = bounds_of(Written().eval(), torch.randn(2, 9), {"x": (-1e3, 1e3)})
    assert bounds["mul_1"].amax > 1e6


def test_what_has_no_bound_is_named():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.special.bessel_j0(x) + x

    _, bounds = bounds_of(Odd().eval(), torch.randn(2, 4), {"x": (-1.0, 1.0)})
    assert "bessel_j0" in bounds["add"].lost
    assert not bounds["add"].is_finite


# What looks like a family and is not


@pytest.mark.parametrize(
    ("forward", "bound"),
    [
        (lambda x: nn.functional.avg_pool2d(x, 2, divisor_override=1), math.inf),
        (lambda x: nn.functional.avg_pool2d(x, 2), 1.01),
        (lambda x: nn.functional.layer_norm(x, (4, 4)), 4.1),  # over 16 entries
        (lambda x: nn.functional.layer_norm(x, (4,)), 2.1),
        (lambda x: nn.functional.dropout(x, 0.5, training=False), 1.01),
    ],
)
def test_an_option_is_looked_at(forward, bound):
    class Net(nn.Module):
        def forward(self, x):
            return forward(x)

    source, bounds = bounds_of(Net().eval(), torch.ones(1, 2, 4, 4), {"x": (-1.0, 1.0)})
    (output,) = source.graph.outputs
    assert bounds[output].amax <= bound
    assert bounds[output].is_finite == math.isfinite(bound)


def test_small_weights_are_not_taken_for_larger_ones():
    """What FP16 flushes counts, and no more: a bound is as near behind weights of 1e-6."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 8)).eval()
    _, bounds = bounds_of(net, torch.randn(1, 64), {"input_1": (-9.0, 9.0)})
    with torch.no_grad():
        _ = net[1].weight.mul_(1e-4), net[1].bias.mul_(1e-4)
    _, small = bounds_of(net, torch.randn(1, 64), {"input_1": (-9.0, 9.0)})
    assert small["linear"].amax < 1.1e-4 * bounds["linear"].amax


@pytest.mark.parametrize(
    "weights",
    [
        lambda p: p[..., :3],  # as where a sink is cut off behind the softmax
        lambda p: p * 0.5,
        lambda p: p / 4,
    ],
)
def test_weights_that_sum_to_less_than_one_are_no_hull(weights):
    """Half of an average of what is in [2, 3] may be 1."""

    class Sunk(nn.Module):
        def forward(self, scores, v):
            p = weights(torch.softmax(scores, -1))
            return p @ v[..., : p.shape[-1], :]

    scores, v = torch.zeros(1, 2, 4), 2 * torch.ones(1, 4, 5)
    source, bounds = bounds_of(Sunk().eval(), (scores, v), {"scores": (-9.0, 9.0), "v": (2.0, 3.0)})
    (output,) = source.graph.outputs
    found = Sunk()(scores, v)
    assert bounds[output].low.max() <= float(found.min())


def test_a_batch_norm_whose_mean_and_bias_cancel_is_off_by_what_each_is():
    norm = nn.BatchNorm1d(1).eval()
    norm.running_mean, norm.running_var = torch.tensor([1000.3]), torch.tensor([1.0])
    norm.bias.data[:] = 1000.3
    _, bounds = bounds_of(norm, torch.zeros(2, 1), {"input_1": (-1.0, 1.0)})
    assert bounds["batch_norm"].amax > 1.2  # 1000.3 is 1000.5 in FP16


def test_whole_numbers_made_of_entries_are_no_copy_of_them():
    class Cut(nn.Module):
        def forward(self, x):
            return x * torch.rsqrt((x.long().float() ** 2).mean(-1, keepdim=True) + 1e-3)

    x = torch.full((1, 9), 0.9)
    source, bounds = bounds_of(Cut().eval(), x, {"x": (-1.0, 1.0)})
    assert passed(source, bounds, [x]) == []
