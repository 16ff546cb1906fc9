"""No patch of a picture is longer than what is said of it, of operators and of networks."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import halfsafe
from halfsafe.bounds.bound import Bound
from halfsafe.bounds.gains import Kernel, convolution_gain, sharp_gain
from halfsafe.bounds.interpreter import Interpreter
from halfsafe.bounds.patches import DEPTH, Patches, of_sum
from halfsafe.checking.boxes import added, boxes_of
from halfsafe.checking.known import Boxes, Known, between
from halfsafe.checking.walk import Walk
from halfsafe.frontends import open_model
from halfsafe.samples import Samples
from tests.test_bounds import COMPUTED, OPERATORS, OneOperator, _half, halved, named
from tests.test_checking import UNKNOWN

PICTURES = [
    one
    for one in OPERATORS + [one for one in COMPUTED if len(one.inputs) > 1]
    if any(len(one.graph.values[name].shape) > 2 for name in one.inputs)
]


def longest(x: np.ndarray, size: tuple[int, ...]) -> float:
    """||x||_2 of the longest patch."""
    squares = (np.asarray(x, np.float64) ** 2).sum(axis=1)
    size = tuple(map(min, size, squares.shape[1:]))
    axes = tuple(range(1, squares.ndim))
    seen = np.lib.stride_tricks.sliding_window_view(squares, size, axes)
    return float(np.sqrt(seen.sum(axis=tuple(range(-len(size), 0))).max(initial=0.0)))


def told(x: np.ndarray) -> Bound:
    """What its patches and rows say of a tensor of which the entries are hardly known."""
    reach = 4 * float(np.abs(x).max(initial=0.0)) + 1
    made = Bound.between(x.shape, np.where((x >= 0).all(), 0.0, -reach), reach)
    if x.ndim < 3 or not x.size:
        return made
    row = float(np.linalg.norm(x, axis=-1).max())
    patches = Patches(x.shape, (lambda size: longest(x, size),))
    return replace(made, windows=(patches,), lengths=(lambda: row,))


def inputs_of(one: OneOperator, draw: np.random.Generator, kind: int) -> dict[str, np.ndarray]:
    """Normal entries, some alone among zeros, all of one sign."""
    found = {}
    for name in one.inputs:
        shape, dtype = one.graph.values[name].shape, one.arrays[name].dtype
        if len(shape) < 3:  # places, or what is by channels
            found[name] = _half(one.arrays[name])
            continue
        x = draw.normal(size=shape) * draw.lognormal(sigma=2)
        x = x * (draw.random(shape) < 0.1) if kind % 3 == 1 else x
        x = np.abs(x) if kind % 3 == 2 else x
        found[name] = _half(x).astype(dtype)
    return found


def known(x: np.ndarray) -> Known:
    """The same for the checker."""
    bound = told(x)
    made = between(x.shape, bound.low, bound.high)
    if not bound.windows:
        return made
    boxes = Boxes(x.shape, (lambda size: longest(x, size),))
    return replace(made, boxes=(boxes,), lengths=bound.lengths)


@pytest.mark.parametrize("one", PICTURES, ids=named)
def test_no_operator_makes_patches_or_rows_longer(one: OneOperator):
    draw, (node,) = np.random.default_rng(0), one.graph.nodes
    for kind in range(6):
        given = inputs_of(one, draw, kind)
        bounds = Interpreter(one, {n: told(x) for n, x in given.items()}).walk()
        walk = Walk(one, dict.fromkeys(one.graph.inputs))
        walk.bounds |= {n: known(x) for n, x in given.items()}
        checked = dict(zip(node.outputs, walk._outputs(node), strict=True))
        given = given | halved(one) if kind % 2 else given
        for name, x in zip(node.outputs, one.run_node(node.name, given), strict=True):
            if name not in bounds or x.dtype.kind != "f" or not np.isfinite(x).all():
                continue
            x, bound, other = _half(x) if kind % 2 else x, bounds[name], checked[name]
            for low, high in ((bound.low, bound.high), (other.low, other.high)):
                assert ((low <= x) & (x <= high)).all(), (one.case, x, low, high)
            confirms = np.isfinite(other.amax) or not np.isfinite(bound.amax) or node.op in UNKNOWN
            assert confirms
            if x.ndim and x.size:
                assert np.linalg.norm(x, axis=-1).max() <= min(bound.length, other.length)
                assert other.length <= bound.length * 1.0001 or node.op in UNKNOWN
            if x.ndim > 2 and x.size:
                boxes = boxes_of(other)
                for n in (1, 2, 3, 100):
                    size = (n,) * (x.ndim - 2)
                    found = bound.patches(size), boxes(size)
                    assert longest(x, size) <= min(found) * (1 + 1e-12), (one.case, n)
                    assert found[1] <= found[0] * 1.0001 or node.op in UNKNOWN, (one.case, n)


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_a_larger_picture_is_as_many_times_as_long(mode, size, times):
    """Behind a convolution that does nothing, by patches alone."""
    net = nn.Sequential(nn.Conv1d(1, 1, 1), nn.Upsample(scale_factor=times, mode=mode)).eval()
    with torch.no_grad():
        net[0].weight.fill_(1.0)
        net[0].bias.fill_(0.0)
    x = torch.eye(size)[:, None]
    source = open_model(net, Samples(x).first)
    inputs = {"input_1": told(x.numpy())}
    patches = Interpreter(source, inputs).walk()[source.graph.outputs[0]].patches
    gain = torch.linalg.matrix_norm(net[1](x)[:, 0], ord=2)
    assert float(gain) <= np.sqrt(times) * (1 + 1e-6)
    for n in range(1, size * times + 1):
        assert longest(net[1](x).numpy(), (n,)) <= patches((n,))
    assert patches.whole < 1.01 * np.sqrt(times) + 0.01


class Grown(nn.Module):
    """A picture 2.04 times as high, of which some entries are there three times."""

    def __init__(self, grow):
        super().__init__()
        self.layer, self.grow = nn.Conv3d(1, 1, 1), grow
        with torch.no_grad():
            self.layer.weight.fill_(1.0)
            self.layer.bias.fill_(0.0)

    def forward(self, x):
        return self.grow(self.layer(x))


@pytest.mark.parametrize(
    "grow",
    [
        lambda x: torch.ops.aten.upsample_nearest3d.default(x, [20, 1, 1], 2.04, 1.0, 1.0),
        lambda x: functional.interpolate(x, scale_factor=(2.04, 1.0, 1.0)),
        lambda x: functional.interpolate(x, scale_factor=(2.04, 1.0, 1.0), mode="trilinear"),
    ],
)
def test_a_picture_that_grows_by_no_whole_number_is_not_taken_for_one(grow):
    x = torch.eye(10)[:, None, :, None, None]
    source = open_model(Grown(grow).eval(), Samples(x).first)
    bound = Interpreter(source, {"x": told(x.numpy())}).walk()[source.graph.outputs[0]]
    walk = Walk(source, {"x": None})
    walk.bounds["x"] = known(x.numpy())
    other = walk.known(lambda _: None)[source.graph.outputs[0]]
    found = longest(grow(x).numpy(), (20, 1, 1))
    assert found <= min(bound.patches.whole, boxes_of(other)((20, 1, 1)))


def convolved(x: torch.Tensor, weight: np.ndarray, kernel: Kernel) -> torch.Tensor:
    """A convolution of what is large, with a border of zeros."""
    groups, out, into, _ = weight.shape
    shaped = torch.from_numpy(weight).reshape(groups * out, into, *kernel.sizes)
    border = tuple((k - 1) * d for k, d in zip(kernel.sizes, kernel.dilations, strict=True))
    run = [functional.conv1d, functional.conv2d][len(kernel.sizes) - 1]
    return run(x, shaped, None, kernel.strides, border, kernel.dilations, groups)


KERNELS = [
    Kernel((3, 3), (1, 1), (1, 1)), Kernel((3, 3), (2, 2), (1, 1)), Kernel((7, 7), (2, 2), (1, 1)),
    Kernel((3, 2), (1, 2), (2, 1)), Kernel((4, 4), (2, 2), (1, 1)), Kernel((1, 1), (2, 2), (1, 1)),
    Kernel((2, 5), (3, 1), (1, 1)), Kernel((3, 3), (2, 2), (2, 2)), Kernel((5,), (1,), (1,)),
    Kernel((8,), (4,), (1,)),
]  # fmt: skip


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize(("groups", "out", "into"), [(1, 4, 6), (3, 1, 1), (2, 3, 2)])
def test_the_gain_of_a_convolution_is_not_passed_and_a_sharp_one_is_near(kernel, groups, out, into):
    draw = np.random.default_rng(0)
    weight = draw.normal(size=(groups, out, into, int(np.prod(kernel.sizes)))) + draw.normal()
    x = torch.from_numpy(draw.normal(size=(1, groups * into, *(48,) * len(kernel.sizes))))
    for _ in range(100):  # x <- A^T A x
        x = (x / x.norm()).requires_grad_()
        made = convolved(x, weight, kernel)
        (x,) = torch.autograd.grad(made, x, made.detach())
    found = float(made.detach().norm())
    plain, sharp = (gain(weight, kernel) for gain in (convolution_gain, sharp_gain))
    assert found <= sharp <= plain
    if not any(s > 1 < d for s, d in zip(kernel.strides, kernel.dilations, strict=True)):
        assert sharp < 1.17 * found


class Residual(nn.Module):
    """A deep network of convolutions, of which intervals say little."""

    def __init__(self, depth: int = 12):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(depth))
        self.norms = nn.ModuleList(nn.BatchNorm2d(16) for _ in range(depth))
        self.last = nn.Linear(16, 4)

    def forward(self, x):
        x = torch.relu(self.first(x))
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = torch.relu(x + 0.3 * norm(layer(x)))
        return self.last(torch.cat([x[:, 8:], x[:, :8]], dim=1).mean((2, 3)))


def test_convolutions_one_behind_the_other_are_bounded_by_their_gains():
    torch.manual_seed(0)
    net = Residual().eval()
    found = halfsafe.certify(net, {"x": (-1, 1)}, sample=torch.zeros(1, 3, 16, 16))
    by = [v.by for n, v in found.values.items() if n.startswith("conv")]
    assert by[-1] == "patches"
    assert found.values["linear"].bound < 3000  # of intervals 8,742
    for kind, seed in product(("normal", "signs"), range(20)):
        torch.manual_seed(seed)
        x = torch.randn(1, 3, 16, 16).clamp(-1, 1)
        x = x.sign() if kind == "signs" else x
        assert net(x).abs().max() <= found.values["linear"].bound


def loud() -> Residual:
    """One of which some bounds do not fit, and would if they were tighter."""
    torch.manual_seed(0)
    net = Residual().eval()
    with torch.no_grad():
        net.last.weight.mul_(60_000 / 2_000)
    return net


def test_where_a_bound_does_not_fit_gains_are_told_sharply_and_confirmed():
    x = torch.zeros(1, 3, 16, 16)
    plain = halfsafe.certify(loud(), {"x": (-1, 1)}, sample=x, refine=0)
    found = halfsafe.certify(loud(), {"x": (-1, 1)}, sample=x)
    assert not plain.certified and not plain.refined
    assert found.certified and found.refined and not found.ended
    assert halfsafe.check(found, loud(), sample=x).confirmed
    without = halfsafe.check(replace(found, refined=()), loud(), sample=x)
    assert not without.confirmed
    for n, value in found.values.items():
        assert (value.bound or 0) <= (plain.values[n].bound or 0)


def test_what_there_is_no_time_for_is_told():
    found = halfsafe.certify(loud(), {"x": (-1, 1)}, sample=torch.zeros(1, 3, 16, 16), refine=1e-9)
    assert not found.certified and not found.refined
    assert "13 convolutions were not refined: 1e-09 seconds are too few" in found.text()
    assert halfsafe.Certificate.from_json(found.to_json()) == found


def test_refining_ends_where_no_convolution_is_left():
    net = loud()
    with torch.no_grad():
        net.last.weight.mul_(1e6)
    found = halfsafe.certify(net, {"x": (-1, 1)}, sample=torch.zeros(1, 3, 16, 16))
    assert not found.certified and found.refined and not found.ended


def test_of_very_many_one_behind_the_other_the_whole_is_known():
    """And asking for them is no deep recursion."""
    shape = 1, 1, 8
    patches, boxes = Patches(shape, (longest_of,)), Boxes(shape, (longest_of,))
    for _ in range(20 * DEPTH):
        patches = Patches(shape, (patches,), (patches,), lambda size: 1e9)
        patches = of_sum(shape, (patches,))
        boxes = added(shape, (Boxes(shape, (boxes,), alone=[lambda box: 1e9]),))
    assert patches((8,)) == boxes((8,)) == 8.0
    assert 1.0 <= patches((1,)) <= 8.0


def longest_of(box: tuple[int, ...]) -> float:
    return 1.0 * box[0]
