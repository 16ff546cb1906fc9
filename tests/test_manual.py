"""Rescaled modules: the same function through a smaller range."""

import copy
import pickle
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from halfsafe import BadInput
from halfsafe.manual.modules import HOMOGENEOUS, rescaled


def images(*sizes: int) -> Tensor:
    return torch.randn(2, 4, *sizes)


def statistics(norm: nn.Module) -> nn.Module:
    """A BatchNorm that has seen data."""
    norm.train()
    for _ in range(3):
        size = (5, 4) if isinstance(norm, nn.BatchNorm1d) else (5, 4, *(3,) * _rank(norm))
        norm(torch.randn(size) * 3 + 2)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    return norm.eval()


def _rank(norm: nn.Module) -> int:
    return 2 if isinstance(norm, nn.BatchNorm2d) else 3


def modules() -> Iterator[tuple[str, Callable[[], tuple[nn.Module, Tensor]]]]:
    """Every module and option that there is, each with an input."""
    convs = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
    backs = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
    norms = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
    for n in (1, 2, 3):
        size = (9, 8, 7)[:n]
        for bias in (True, False):
            for options in (
                {},
                {"groups": 2},
                {"dilation": 2},
                {"stride": 2, "padding": 1},
            ):
                kwargs = {**options, "bias": bias}
                for kinds in (convs, backs):
                    name = f"{kinds[n].__name__}({kwargs})"
                    yield name, lambda k=kinds[n], o=kwargs, s=size: (k(4, 6, 3, **o), images(*s))
        for mode in ("reflect", "replicate", "circular"):
            kwargs = {"padding": 1, "padding_mode": mode}
            yield (
                f"{convs[n].__name__}({kwargs})",
                lambda k=convs[n], o=kwargs, s=size: (k(4, 6, 3, **o), images(*s)),
            )
        yield (
            f"{norms[n].__name__}()",
            lambda k=norms[n], s=size: (statistics(k(4)), images(*s)),
        )
        yield (
            f"{norms[n].__name__}(affine=False)",
            lambda k=norms[n], s=size: (k(4, affine=False).eval(), images(*s)),
        )
    yield "Conv2d(padding='same')", lambda: (nn.Conv2d(4, 6, 3, padding="same"), images(8, 7))
    for bias in (True, False):
        yield f"Linear({bias=})", lambda b=bias: (nn.Linear(7, 5, bias=b), images(3, 7))
    yield (
        "conv-BN-ReLU",
        lambda: (
            nn.Sequential(
                nn.Conv2d(4, 4, 3), nn.ReLU(), statistics(nn.BatchNorm2d(4)), nn.ReLU()
            ).eval(),
            images(8, 7),
        ),
    )


MODULES = dict(modules())


@pytest.fixture(params=MODULES)
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return MODULES[request.param]()


@pytest.mark.parametrize("exponent", [5, -3])
def test_bit_equal_for_powers_of_two(pair, exponent):
    module, x = pair
    assert torch.equal(rescaled(module, exponent)(x), module(x))


def test_either_side_may_stay_scaled(pair):
    module, x = pair
    f = 2.0**6
    assert torch.equal(rescaled(module, 6, output="scaled")(x) * f, module(x))
    assert torch.equal(rescaled(module, 6, input="scaled")(x / f), module(x))
    both = rescaled(module, 6, input="scaled", output="scaled")
    assert torch.equal(both(x / f) * f, module(x))


@pytest.mark.parametrize("factor", [3.0, 10.0, 0.3])
def test_other_factors_are_within_two_ulp_of_the_largest_term(pair, factor):
    module, x = pair
    y, ulp = module(x), 2.0**-23 * largest(module, x)
    assert torch.equal(rescaled(module, factor=factor)(x), y)
    begun = rescaled(module, factor=factor, output="scaled")(x).double() * factor
    assert ((begun - y).abs() <= 2 * ulp).all()
    given = (x / factor).double() * factor  # what it is that was divided
    ended = rescaled(module, factor=factor, input="scaled")(x / factor).double()
    own = (module(given.float()).double() - exact(module, given)).abs().max()
    assert ((ended - exact(module, given)).abs() <= 2 * ulp + 2 * own).all()


def largest(module: nn.Module, x: Tensor) -> Tensor:
    """The largest magnitude among inputs' products, bias and sum, at every place."""
    return torch.maximum(terms(module, x), exact(module, x).abs())


def exact(module: nn.Module, x: Tensor) -> Tensor:
    return copy.deepcopy(module).double()(x.double())


def terms(module: nn.Module, x: Tensor) -> Tensor:
    """At each place the sum of the magnitudes of all terms, in FP64."""
    if isinstance(module, nn.Sequential):
        return exact(module, x).abs().max()
    size = copy.deepcopy(module).double()
    with torch.no_grad():
        for p in (*size.parameters(), *size.buffers()):
            p.abs_() if p.is_floating_point() else p
        if getattr(size, "running_mean", None) is not None:
            size.running_mean.neg_()
        return size(x.double().abs()).abs()


def test_a_large_bias_does_not_cancel():
    """f * conv(x/f) - (f-1) * b is the identity on paper; b = 1e4 leaves few bits of W x."""
    torch.manual_seed(0)
    conv, x, f = nn.Conv2d(3, 8, 3), torch.randn(1, 3, 16, 16), 32.0
    nn.init.constant_(conv.bias, 1e4)
    textbook = f * conv(x / f) - (f - 1) * conv.bias[:, None, None]
    truth = exact(conv, x)
    assert (textbook - truth).abs().max() > 5 * (conv(x) - truth).abs().max()
    assert torch.equal(rescaled(conv, 5)(x), conv(x))


def test_a_chain_hands_the_scaled_value_on():
    torch.manual_seed(0)
    first, second, x = nn.Conv2d(4, 8, 3), nn.Conv2d(8, 4, 1), images(8, 8)
    begin = rescaled(first, 5, output="scaled")
    end = rescaled(second, 5, input="scaled")
    assert torch.equal(end(torch.relu(begin(x))), second(torch.relu(first(x))))


def test_a_state_dict_goes_both_ways(pair):
    module, x = pair
    made = rescaled(module, 4)
    assert list(made.state_dict()) == list(module.state_dict())
    other = copy.deepcopy(module)
    for p in other.parameters():
        nn.init.normal_(p)
    made.load_state_dict(other.state_dict())
    assert torch.equal(made(x), other(x))


def test_the_module_itself_is_left_alone(pair):
    module, x = pair
    before, y = copy.deepcopy(module.state_dict()), module(x)
    rescaled(module, 4).half()
    assert not type(module).__name__.startswith("Rescaled")
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
    assert torch.equal(module(x), y)


def test_a_rescaled_module_is_copied_pickled_and_shown():
    conv, x = nn.Conv2d(4, 6, 3), images(8, 8)
    made = rescaled(conv, 3, output="scaled")
    for again in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(again(x), made(x))
    assert "factor=8, input=full, output=scaled" in repr(made)


def test_a_transposed_convolution_takes_an_output_size():
    conv, x = nn.ConvTranspose2d(4, 6, 3, stride=2), images(8, 8)
    assert torch.equal(rescaled(conv, 3)(x, [18, 18]), conv(x, [18, 18]))


def test_no_bias_is_spread_over_the_image():
    """The largest tensors that are made have the size of the input or of the output."""
    conv, x = nn.Conv2d(4, 6, 3), images(32, 32)
    made, sizes = rescaled(conv, 3), []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            sizes.append((str(func), result.numel()))
            return result

    with Sizes():
        made(x)
    scaled = [size for name, size in sizes if name.startswith(("aten.div", "aten.mul"))]
    assert sorted(scaled) == sorted([x.numel(), conv.out_channels, conv(x).numel()])


@settings(max_examples=30, deadline=None)
@given(st.integers(-12, 12), st.integers(0, 2**16))
def test_any_exponent_on_any_numbers(exponent, seed):
    torch.manual_seed(seed)
    linear, x = nn.Linear(5, 3), torch.randn(4, 5)
    assert torch.equal(rescaled(linear, exponent)(x), linear(x))


class Shifted(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) + 1


class Named(nn.Conv2d):
    pass


def test_a_subclass_that_computes_the_same_is_taken():
    conv, x = Named(4, 6, 3), images(8, 8)
    assert torch.equal(rescaled(conv, 3)(x), conv(x))


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (nn.GELU(), {"exponent": 3}, "a GELU cannot be rescaled by hand, only Conv1d"),
        (Shifted(1, 1, 1), {"exponent": 3}, "a Shifted cannot be rescaled"),
        (nn.Sequential(nn.Linear(1, 1), nn.Tanh()), {"exponent": 3}, "a Tanh cannot be"),
        (nn.Sequential(), {"exponent": 3}, "every module of the Sequential is homogeneous"),
        (nn.Linear(1, 1), {}, "give either an exponent"),
        (nn.Linear(1, 1), {"exponent": 1, "factor": 2.0}, "give either an exponent"),
        (nn.Linear(1, 1), {"factor": -2.0}, "the factor is -2.0: give a positive number"),
        (nn.Linear(1, 1), {"exponent": 1, "output": "half"}, "output is 'half': say 'full'"),
        (nn.BatchNorm1d(3, track_running_stats=False), {"exponent": 1}, "without running"),
    ],
)
def test_what_cannot_be_rescaled_is_refused(module, options, message):
    with pytest.raises(BadInput, match=message):
        rescaled(module, **options)


def test_a_batch_norm_in_training_is_refused():
    with pytest.raises(BadInput, match=r"call \.eval\(\) first"):
        rescaled(nn.BatchNorm1d(3), 2)(torch.randn(4, 3))


@pytest.mark.parametrize("kind", HOMOGENEOUS, ids=lambda kind: kind.__name__)
def test_modules_called_homogeneous_are(kind):
    options = {"AdaptiveAvgPool": {"output_size": 2}, "MaxPool": {"kernel_size": 2}}
    options |= {"AvgPool": {"kernel_size": 2}, "Upsample": {"scale_factor": 2}}
    wanted = next((o for name, o in options.items() if kind.__name__.startswith(name)), {})
    rank = int(kind.__name__[-2]) if kind.__name__.endswith("d") else 2
    x = torch.randn(2, 3, *(8,) * rank)
    module = kind(**wanted)
    assert torch.equal(module(x * 0.125) * 8, module(x))
