"""What is captured is what the model computes, and what is stored in it is what FP16 stores."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import halfsafe
from halfsafe.errors import BadInput
from halfsafe.formats import FLOAT16
from halfsafe.frontends.torch.capture import capture
from halfsafe.frontends.torch.model import run_model
from halfsafe.frontends.torch.split import splitting
from halfsafe.measure import evaluate
from halfsafe.samples import Call
from tests.case import Case
from tests.cases_aten import CASES
from tests.replicas import Net, scaled

X = torch.linspace(-1, 1, 32).reshape(4, 8)


def captured(model: nn.Module, *args: Any) -> Any:
    return capture(model.eval(), Call(args, {}))


# Names


def holding(*path: str) -> nn.Module:
    """A Linear, and a buffer of ones with a qualified name."""
    torch.manual_seed(0)
    model = Net(lambda m, x: m.run(x), grow=scaled(nn.Linear(8, 8), 1e6))
    *parents, leaf = path
    owner: nn.Module = model
    for parent in parents:
        owner.add_module(parent, nn.Module())
        owner = owner.get_submodule(parent)
    owner.register_buffer(leaf, torch.ones(8))
    return model


def clipped(m: Any, x: Tensor, held: Tensor) -> Tensor:
    """Every operator by which such a network would be fixed, and every name they could have."""
    h = m.grow(x) + held
    h = h.clamp(min=-1e7) * 1e-6
    low, high = (h - h.mean(-1, keepdim=True)).split(4, -1)
    return torch.sigmoid(m.grow(torch.cat([low, high * 0.5], -1)))


@pytest.mark.parametrize(
    "name",
    [
        *"x arg_0 mul mul_1 clamp.min split.0 mul.0.other".split(),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in """mean add sub clamp mul.other add.alpha split split_with_sizes.1 sigmoid
            linear linear_1 cat cat.tensors.0 getitem sum abs clamp.anything""".split()
        ),
    ],
)
def test_constants_named_like_operators_arguments_and_numbers(name):
    path = name.split(".")
    model = holding(*path)
    parent = ".".join(path[:-1])
    model.run = lambda x: clipped(model, x, getattr(model.get_submodule(parent), path[-1]))
    fixed = halfsafe.fix(model.eval(), X)
    assert fixed.report.verification.bit_equal
    assert fixed.report.safe
    assert torch.equal(fixed.model(X), model(X))
    assert set(fixed.model.state_dict()) == set(model.state_dict())


def test_a_parameter_and_an_argument_of_one_name():
    model = Net(lambda m, *, x, mean: m.fc(x) * m.x + mean, fc=nn.Linear(8, 8), x=torch.ones(8))
    fixed = halfsafe.fix(model.eval(), {"x": X, "mean": X})
    assert torch.equal(fixed.model(x=X, mean=X), model(x=X, mean=X))


# What is stored on the way

ON_CPU = """conv_transpose1d conv_transpose2d conv_transpose3d adaptive_avg_pool3d
    _adaptive_avg_pool3d grid_sampler grid_sampler_2d grid_sampler_3d logit upsample_bicubic2d
    upsample_trilinear3d pow fmod remainder index_put""".split()
"""Operators whose CPU kernels compute in FP16 inside, or round the numbers that they are given."""


def halves(operands: Any, generator: torch.Generator) -> Any:
    """The floating tensors in FP16, each moved to a magnitude of its own."""

    def moved(x: Any) -> Any:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return torch.float16 if x is torch.float64 else x
        power = int(torch.randint(-12, 16, (), generator=generator))
        return (x.double() * 2.0**power).clamp(-65504, 65504).half()

    return pytree.tree_map(moved, operands)


def widened(operands: Any) -> Any:
    def wide(x: Any) -> Any:
        if isinstance(x, Tensor) and x.is_floating_point():
            return x.float()
        return torch.float32 if x is torch.float16 else x

    return pytree.tree_map(wide, operands)


def assert_stored_once(found: Any, exact: Any) -> None:
    """Nothing has overflowed on the way to a result that FP16 holds, nor was lost there."""
    for real, wide in zip(pytree.tree_leaves(found), pytree.tree_leaves(exact), strict=True):
        if isinstance(real, Tensor) and wide.is_floating_point() and wide.numel():
            fits = torch.isfinite(wide.half())
            assert torch.isfinite(real[fits]).all()
            apart = (real[fits].float() - wide[fits]).abs()
            scale = wide[fits].abs().amax() if fits.any() else 0.0
            assert (apart <= 0.02 * wide[fits].abs() + 1e-3 * scale + 1e-6).all()


def runs_in_half(case: Case) -> bool:
    """Whether PyTorch has a half kernel on this CPU, and the numbers fit."""
    args, kwargs = halves((case.args, dict(case.kwargs)), torch.Generator().manual_seed(0))
    try:
        made = case.target(*args, **kwargs)
    except (RuntimeError, NotImplementedError):
        return False
    return any(isinstance(x, Tensor) and x.is_floating_point() for x in pytree.tree_leaves(made))


WHOLE = [
    case
    for case in CASES
    if case.target not in (*splitting(), torch.ops.aten.view.dtype)
    and case.op.removeprefix("aten.") not in ON_CPU
    and runs_in_half(case)
]


@pytest.mark.parametrize("case", WHOLE, ids=str)
def test_an_operator_with_a_law_stores_nothing_on_the_way(case: Case):
    generator = torch.Generator().manual_seed(1)
    for _ in range(12):
        args, kwargs = halves((case.args, dict(case.kwargs)), generator)
        wide_args, wide_kwargs = widened((args, kwargs))
        exact = case.target(*wide_args, **wide_kwargs)
        assert_stored_once(case.target(*args, **kwargs), exact)


def test_most_operators_have_a_half_kernel_to_be_compared_with():
    assert len({case.op for case in WHOLE}) > 150


R = torch.randn

COMPOSITES: dict[str, tuple[Any, ...]] = {
    "einsum of three": (lambda a, b, c: torch.einsum("ij,jk,kl->il", a, b, c),
                        R(4, 8), R(8, 9), R(9, 3)),
    "einsum of four": (lambda a, b: torch.einsum("ij,jk,kl,lm->im", a, b, a, b), R(4, 8), R(8, 4)),
    "einsum that sums first": (lambda a, b: torch.einsum("ij,jk->k", a, b), R(64, 4), R(4, 5)),
    "einsum of two": (lambda a, b: torch.einsum("bhid,bhjd->bhij", a, b),
                      R(1, 2, 3, 4), R(1, 2, 3, 4)),
    "addbmm": (torch.addbmm, R(3, 5), R(6, 3, 4), R(6, 4, 5)),
    "multi_dot": (lambda a, b, c: torch.linalg.multi_dot((a, b, c)), R(3, 4), R(4, 5), R(5, 2)),
    "tensordot": (lambda a, b: torch.tensordot(a, b, 1), R(3, 4), R(4, 5)),
    "cdist": (torch.cdist, R(30, 8), R(40, 8)),
    "cosine_similarity": (F.cosine_similarity, R(3, 8), R(3, 8)),
    "pairwise_distance": (F.pairwise_distance, R(3, 8), R(3, 8)),
    "kl_div": (lambda a, b: F.kl_div(a, b.abs(), reduction="sum"), R(3, 8), R(3, 8)),
    "std_mean": (lambda a: torch.std_mean(a, -1), R(3, 8)),
    "nanmean": (torch.nanmean, R(8)),
    "lp_pool": (lambda a: F.lp_pool2d(a.abs(), 2, 2), R(1, 2, 4, 4)),
    "kron": (torch.kron, R(2, 3), R(3, 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPOSITES)
def test_strict_evaluation_sees_what_a_composite_stores_on_the_way(name):
    forward, *operands = COMPOSITES[name]
    found = captured(Net(lambda m, *x: forward(*x)), *operands)
    assert found.difference == 0
    assert not {node.op for node in found.program.graph.nodes} & {"aten.einsum", "aten.addbmm"}
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        args = halves(operands, generator)
        real = pytree.tree_leaves(forward(*args))
        call = Call(tuple(widened(args)), {})
        strict = evaluate(found.program, call, FLOAT16)
        for a, b in zip(real, strict, strict=True):
            assert np.array_equal(torch.isfinite(a).numpy(), np.isfinite(b))


def test_a_product_of_three_is_made_safe():
    operands = [3e3 * R(4, 8), 3e3 * R(8, 9), 1e-6 * R(9, 3)]
    model = Net(lambda m, *x: torch.einsum("ij,jk,kl->il", *x)).eval()
    report = halfsafe.fix(model, tuple(operands)).report
    assert report.verification.before_nonfinite
    assert report.safe


# Complex values


class Spectral(nn.Module):
    """Every way in which networks use complex values, behind values of a million."""

    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.way = way
        self.grow = scaled(nn.Linear(8, 8), 1e6)
        self.register_buffer("window", torch.hann_window(16))
        self.weight = nn.Parameter(torch.randn(4, 5, dtype=torch.cfloat))

    def forward(self, x: Tensor) -> Tensor:
        h = self.grow(x)
        match self.way:
            case "abs":
                made = torch.fft.rfft(h).abs()
            case "complex weights":
                made = torch.fft.irfft(torch.fft.rfft(h) * self.weight, n=8)
            case "stft":
                made = torch.stft(h.flatten(), 16, window=self.window, return_complex=True).abs()
            case "own casts":
                z = torch.view_as_complex(h.float().reshape(4, 4, 2))
                turned = z * torch.polar(torch.ones(4), torch.arange(4.0))
                made = torch.view_as_real(turned).flatten(1).to(x.dtype)
            case _:
                made = torch.view_as_real(torch.fft.fft2(h)).sum(-1)
        return F.normalize(made, dim=-1)


@pytest.mark.parametrize("way", ["abs", "complex weights", "stft", "own casts", "both parts"])
def test_complex_values_are_computed_in_float32(way):
    model = Spectral(way).eval()
    fixed = halfsafe.fix(model, X)
    assert not fixed.report.notes
    assert fixed.report.verification.bit_equal
    assert fixed.report.verification.before_nonfinite
    assert fixed.report.safe
    assert torch.isfinite(fixed.half()(X)).all()


def test_complex_values_that_only_a_float32_capture_has_are_refused():
    model = Net(lambda m, x: torch.fft.rfft(x).abs() @ m.table @ torch.ones(4), table=R(5, 4))
    with pytest.raises(halfsafe.CaptureError, match="complex values, which has to stay in FP32"):
        halfsafe.fix(model.eval(), X)


# Branches


class Branches(nn.Module):
    """A condition whose branches have weights, behind and before values of a million."""

    def __init__(self, *, nested: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.nested = nested
        self.grow = scaled(nn.Linear(8, 8), 1e6)
        self.one, self.other = nn.Linear(8, 8), scaled(nn.Linear(8, 8), 1e3)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        made = torch.cond(x.sum() > 0, self.first, self.second, (self.grow(x),))
        return self.norm(made)

    def first(self, h: Tensor) -> Tensor:
        if self.nested:
            return torch.cond(h.sum() > 0, self.one, self.other, (h.to(h.dtype),))
        return self.one(h) * 2

    def second(self, h: Tensor) -> Tensor:
        return self.other(h)


@pytest.mark.parametrize("nested", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_branches_of_a_condition_are_computed_in_float32(nested, sign):
    model = Branches(nested=nested).eval()
    samples = [sign * (X + 0.5), -sign * (X + 0.5), X + 0.5]
    fixed = halfsafe.fix(model, samples)
    assert fixed.report.verification.bit_equal
    assert fixed.report.verification.before_nonfinite
    assert fixed.report.safe
    half = fixed.half()
    for x in samples:
        assert torch.equal(fixed.model(x), model(x))
        assert torch.allclose(half(x).float(), model(x), atol=0.02)
    exported = torch.export.export(half, (X,)).module()
    assert torch.equal(exported(X), half(X))
    assert any(f.op == "aten.linear" for f in halfsafe.inspect(model, samples).faults)


@pytest.mark.slow
def test_a_loop_with_a_body_is_refused_on_one_line():
    def forward(m: Any, x: Tensor) -> Tensor:
        from torch._higher_order_ops.while_loop import while_loop

        return while_loop(lambda i, h: i < 3, lambda i, h: (i + 1, m.fc(h)), (torch.tensor(0), x))[
            1
        ]

    model = Net(forward, fc=nn.Linear(8, 8)).eval()
    with pytest.raises(halfsafe.HalfsafeError, match=r"only torch\.cond can be used") as caught:
        halfsafe.fix(model, X)
    assert "\n" not in str(caught.value)


# Lines, memory and random numbers


def test_nodes_remember_the_line_of_the_users_code():
    graph = captured(Spectral("abs"), X).program.graph
    assert {node.line.partition(":")[0] for node in graph.nodes} == {__file__}


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("where", ["model", "graph"])
def test_memory_that_does_not_suffice_is_called_that(monkeypatch, error, where):
    model = Net(lambda m, x: m.fc(x), fc=nn.Linear(8, 8)).eval()
    found = captured(model, X).program

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    if where == "graph":
        monkeypatch.setattr(torch.fx.Interpreter, "call_function", fail)
    else:
        monkeypatch.setattr(model, "_forward", fail)
    with pytest.raises(halfsafe.BadInput, match="sample 7 needs more memory than there is") as one:
        call = Call((X,), {}, 7)
        found.run(call) if where == "graph" else run_model(model, call)
    assert "\n" not in str(one.value)


def test_random_numbers_are_the_same_in_every_run():
    model = Net(
        lambda m, x: m.fc(x) + torch.rand(8) + torch.randn_like(x).relu(),
        fc=scaled(nn.Linear(8, 8), 1e6),
    )
    before = torch.get_rng_state()
    found = captured(model, X)
    assert found.difference == 0
    call = Call((X,), {})
    first, second = (found.program.run(call)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(first, run_model(model, call))
    assert torch.equal(torch.get_rng_state(), before)
    assert halfsafe.fix(model, [X, -X]).report.verification.bit_equal


def test_a_buffer_that_a_class_makes_in_bfloat16_is_no_lost_weight():
    """Nobody could give it in FP32: no state dict holds it."""

    class Normalised(torch.nn.Module):
        def __init__(self, persistent):
            super().__init__()
            self.linear = torch.nn.Linear(8, 8)
            self.register_buffer("scale", torch.tensor(2.83, dtype=torch.bfloat16), persistent)

        def forward(self, x):
            return self.linear(x * self.scale.type(x.dtype))

    torch.manual_seed(0)
    sample = torch.randn(4, 8)
    report = halfsafe.fix(Normalised(persistent=False).eval(), sample).report
    assert report.safe, report.verification.reasons
    with pytest.raises(BadInput, match="'scale' is already bfloat16"):
        halfsafe.fix(Normalised(persistent=True).eval(), sample)
