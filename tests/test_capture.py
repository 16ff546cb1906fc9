"""What is captured is what the model computes, and what is stored in it is what FP16 stores."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import halfsafe
from halfsafe.frontends.torch_export import capture
from halfsafe.samples import Call
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
    """mean x arg_0 add sub mul mul_1 clamp clamp.min mul.other add.alpha split split.0
    split_with_sizes.1 sigmoid linear linear_1 cat cat.tensors.0 getitem sum abs
    mul.0.other clamp.anything""".split(),
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
