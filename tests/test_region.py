"""Scaled regions: a value carried divided from one module to another."""

import copy
import threading

import pytest
import torch
from torch import Tensor, nn

import halfsafe
from examples.panet.demo import detector
from halfsafe import BadInput, FoldError


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu_(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += self.downsample(x)
        return torch.relu(y)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.body = nn.Sequential(Block(4, 8), Block(8, 8))
        self.reduce = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4))
        self.gate = nn.Sigmoid()
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.reduce(self.body(torch.relu(self.first(x))))
        y = self.norm(y.mean((2, 3)))
        return self.head(y * self.gate(y))


def net(loud: float = 1.0) -> Net:
    torch.manual_seed(0)
    found = Net()
    for module in found.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    with torch.no_grad():
        found.body[0].bn1.weight *= loud
        found.body[0].conv2.weight *= loud**0.5
        found.reduce[1].weight /= loud**1.5
    return found.eval()


X = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def same(a: nn.Module, b: nn.Module) -> bool:
    with torch.no_grad():
        return torch.equal(a(X), b(X))


@pytest.mark.parametrize("exponent", [5, -4])
def test_the_function_is_the_same_bit_by_bit(exponent):
    model = net()
    with halfsafe.scaled(model, start="body", end="reduce", exponent=exponent) as region:
        assert same(model, net())
    assert same(model, net())
    assert region.operators.count("aten.convolution") == 6
    assert {"aten.relu", "aten.add", "aten.max_pool2d_with_indices"} <= set(region.operators)


def test_inside_values_are_smaller_and_outside_as_they_were():
    model, seen = net(), {}
    for name, module in model.named_modules():
        module.register_forward_hook(
            lambda _, __, y, name=name: seen.setdefault(name, []).append(y.detach().clone())
        )
    model(X)
    with halfsafe.scaled(model, start="body", end="reduce", exponent=5):
        model(X)
    for name in ("body.0.conv1", "body.0.bn2", "body.1", "body"):
        before, inside = seen[name]
        assert torch.equal(inside * 32, before)
    for name in ("first", "norm", "head"):
        assert torch.equal(*seen[name])


def test_a_region_is_for_inference():
    model = net()
    with halfsafe.scaled(model, start="body", end="reduce", exponent=5):
        assert not model(X).requires_grad
    assert model(X).requires_grad


def test_half_precision_is_finite_in_a_region_and_after_folding():
    model = net(loud=4e3)
    with torch.no_grad():
        expected = net(loud=4e3)(X)
        assert not net(loud=4e3).half()(X.half()).isfinite().all()
        half = copy.deepcopy(model).half()
        with halfsafe.scaled(half, start="body", end="reduce", exponent=8):
            carried = half(X.half())
        with halfsafe.scaled(model, start="body", end="reduce", exponent=8) as region:
            model(X)
            region.fold()
        assert torch.equal(model(X), expected)
        for found in (carried, model.half()(X.half())):
            assert torch.allclose(found.float(), expected, rtol=2e-2, atol=2e-2)


def test_folding_leaves_nothing_to_run():
    model, before = net(), net()
    with halfsafe.scaled(model, start="body", end="reduce", exponent=5) as region:
        model(X)
        region.fold()
        assert same(model, before)
    assert same(model, before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    changed = {n for n, p in model.state_dict().items() if not p.equal(before.state_dict()[n])}
    assert {"body.0.conv1.weight", "body.0.conv2.bias", "body.1.bn2.running_mean"} <= changed
    assert not any(name.startswith(("first", "norm", "head")) for name in changed)


def test_epsilons_and_constants_that_are_reshaped_are_divided_too():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)
            self.norm = nn.LayerNorm(4)
            self.shift = nn.Parameter(torch.randn(2, 2))
            self.outer = nn.Linear(4, 4)

        def forward(self, x):
            y = self.inner(x) + self.shift.reshape(4)
            return self.outer(self.norm(y))

    torch.manual_seed(0)
    model, x = Shifted(), torch.randn(3, 4)
    expected = model(x)
    with halfsafe.scaled(model, start="inner", end="outer", exponent=3) as region:
        assert torch.equal(model(x), expected)
        with pytest.raises(FoldError, match="the constants do not suffice"):
            region.fold()  # the epsilon is no tensor
    with halfsafe.scaled(model, start="inner", end="norm", exponent=3):
        assert torch.equal(model(x), expected)


def test_a_sigmoid_is_refused_by_name_and_place():
    model = net()
    message = (
        r"aten\.sigmoid at .*(activation\.py|test_region\.py):\d+ stands in the region, and no"
    )
    with (
        halfsafe.scaled(model, start="body", end="head", exponent=5),
        pytest.raises(BadInput, match=message),
    ):
        model(X)
    assert same(model, net())


def test_what_is_not_divided_is_refused():
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.b(x + self.a(x))

    model, x = Skip(), torch.randn(2, 4)
    with (
        halfsafe.scaled(model, start="a", end="b", exponent=2),
        pytest.raises(BadInput, match=r"aten\.add at .*, and its operand 'self' is not divided"),
    ):
        model(x)


def test_what_comes_out_at_another_power_is_not_read():
    class Statistics(nn.Module):
        def __init__(self, reads):
            super().__init__()
            self.a, self.b, self.reads = nn.Linear(4, 4), nn.Linear(4, 4), reads

        def forward(self, x):
            y, _, rstd = torch.native_layer_norm(self.a(x), [4], self.b.bias, None, 1e-5)
            return self.b(y * rstd if self.reads else y)

    x = torch.randn(2, 4)
    with halfsafe.scaled(quiet := Statistics(False), start="a", end="b", exponent=2):
        assert torch.equal(quiet(x), Statistics.forward(quiet, x))
    with (
        halfsafe.scaled(loud := Statistics(True), start="a", end="b", exponent=2),
        pytest.raises(BadInput, match=r"aten\.mul at .* is divided by another power of two"),
    ):
        loud(x)


def test_a_value_that_leaves_otherwise_is_refused():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            y = self.a(x)
            return y, self.b(y)

    model, x = Two(), torch.randn(2, 4)
    with (
        halfsafe.scaled(model, start="a", end="b", exponent=2),
        pytest.raises(BadInput, match="leaves the model divided by 2"),
    ):
        model(x)
    with halfsafe.scaled(model, start="b", end="b", exponent=2):
        assert all(map(torch.equal, model(x), Two.forward(model, x)))


def test_weights_that_others_read_are_not_folded():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.c = nn.Linear(4, 4)
            self.c.weight = self.a.weight

        def forward(self, x):
            return self.c(self.b(self.a(x)))

    model, x = Tied(), torch.randn(2, 4)
    expected = model(x)
    with halfsafe.scaled(model, start="a", end="b", exponent=2) as region:
        assert torch.equal(model(x), expected)
        with pytest.raises(FoldError):
            region.fold()
        assert torch.equal(model(x), expected)


def test_the_pan_network_in_a_region_with_two_ends():
    model, samples = detector()
    x = samples[-1][0][..., :64, :96]
    ends = ["neck.reduce_conv_c4", "neck.reduce_conv_c5"]
    with torch.no_grad():
        expected = model(x)
        with halfsafe.scaled(model, start="backbone.layer3", end=ends, exponent=4) as region:
            assert torch.equal(model(x), expected)
            region.fold()
        assert torch.equal(model(x), expected)


def test_one_region_in_several_threads():
    model, expected, results = net(), net()(X).detach(), []

    def work():
        results.extend(torch.equal(model(X), expected) for _ in range(5))

    with halfsafe.scaled(model, start="body", end="reduce", exponent=5):
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == [True] * 20


def test_models_in_several_threads():
    expected, models, results = net()(X).detach(), {i: net() for i in range(1, 5)}, {}

    def work(exponent):
        model = models[exponent]
        for _ in range(5):
            with halfsafe.scaled(model, start="body", end="reduce", exponent=exponent):
                results[exponent] = torch.equal(model(X), expected)

    threads = [threading.Thread(target=work, args=(i,)) for i in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(1, 5), True)


def test_an_error_in_the_model_leaves_everything_as_it_was():
    model = net()
    with (
        pytest.raises(RuntimeError),
        halfsafe.scaled(model, start="body", end="reduce", exponent=5),
    ):
        model(torch.randn(2, 5, 12, 12))
    assert same(model, net())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not torch.utils._python_dispatch._len_torch_dispatch_stack()


@pytest.mark.parametrize(
    ("model", "start", "end", "message"),
    [
        (lambda: 3, "a", "b", "the model is a int: pass a torch.nn.Module"),
        (net, "bodi", "reduce", r"Net has no module 'bodi' \(did you mean 'body'\?\)"),
        (net, "body", "nothing", "Net has no module 'nothing'"),
    ],
)
def test_names_that_are_not_there(model, start, end, message):
    with (
        pytest.raises(BadInput, match=message),
        halfsafe.scaled(model(), start=start, end=end, exponent=1),
    ):
        pass


def test_folding_before_a_call_is_refused():
    with (
        halfsafe.scaled(net(), start="body", end="reduce", exponent=1) as region,
        pytest.raises(BadInput, match="nothing has run from body to reduce yet"),
    ):
        region.fold()
