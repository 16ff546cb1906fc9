"""Misuse is answered in one line that names the thing and the next step."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import halfsafe
from halfsafe.samples import calls
from tests.replicas import Net

X = torch.linspace(-1, 1, 8).reshape(2, 4)
NAN = X.where(X < 1, math.nan)


def perceptron() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).eval()


def spoiled(name: str, number: float) -> nn.Module:
    model = perceptron()
    model.state_dict()[name].view(-1)[0] = number
    return model


def either_argument() -> nn.Module:
    return Net(lambda m, x=None, y=None: m.fc(y if x is None else x), fc=nn.Linear(4, 2)).eval()


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:  # the line that the message has to name
            return x
        return -x


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add_(1.0)
        return x * self.seen


def refusal(model: Any, samples: Any, **options: Any) -> str:
    with pytest.raises(halfsafe.HalfsafeError) as caught:
        halfsafe.fix(model, samples, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_model_in_training_mode():
    message = refusal(perceptron().train(), X)
    assert "Sequential is in training mode" in message
    assert "model.eval()" in message


def test_a_submodule_in_training_mode():
    model = perceptron()
    model[1].train()
    message = refusal(model, X)
    assert "'1' is in training mode" in message
    assert "model.eval()" in message


@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["0.weight", "3.bias"])
def test_nonfinite_weights(name, number):
    message = refusal(spoiled(name, number), X)
    assert f"'{name}' holds 1 NaN or inf" in message
    assert "repair the checkpoint" in message


def test_nan_in_a_buffer():
    assert "'1.running_var' holds 1 NaN" in refusal(spoiled("1.running_var", math.nan), X)


@pytest.mark.parametrize("place", range(4))
def test_nan_in_any_sample_even_the_one_kept_for_the_proof(place):
    samples = [X] * 4
    samples[place] = NAN
    message = refusal(perceptron(), samples)
    assert f"sample {place}[0] holds 1 NaN or inf" in message
    assert "pass finite samples" in message


def test_nan_in_a_keyword_argument():
    assert "sample 0['x'] holds 1 NaN" in refusal(either_argument(), {"x": NAN})


def test_a_reference_that_is_not_finite():
    model = Net(lambda m, x: torch.log(x)).eval()
    message = refusal(model, [X.abs() + 1, X.abs() + 1, X])
    assert "output 0 of the FP32 model holds 4 NaN or inf on sample 2" in message
    assert "pass samples" in message


@pytest.mark.parametrize("samples", [[], iter([])], ids=["list", "generator"])
def test_no_samples(samples):
    message = refusal(perceptron(), samples)
    assert "samples is empty" in message
    assert "at least one" in message


@pytest.mark.parametrize("samples", [3, None, 1.5])
def test_what_is_no_collection_of_samples(samples):
    message = refusal(perceptron(), samples)
    assert f"samples is a {type(samples).__name__}" in message
    assert "pass a tensor" in message


def test_a_dataset_of_torch_is_a_collection_and_may_end_by_index_error():
    """It has __getitem__ and no __iter__, and so no type that collections.abc knows."""
    dataset = torch.utils.data.TensorDataset(torch.stack([X, X + 1, X - 1]))
    assert [call.args[0].tolist() for call in calls(dataset)] == [
        x.tolist() for x in (X, X + 1, X - 1)
    ]


@pytest.mark.parametrize("samples", [[X, 1], ["x"]])
def test_what_is_no_sample(samples):
    message = refusal(perceptron(), samples)
    assert f"sample {len(samples) - 1} is a {type(samples[-1]).__name__}" in message


@pytest.mark.parametrize("place", [1, 3])
def test_a_sample_with_other_keys_than_the_first(place):
    samples: list[Any] = [{"x": X}] * 4
    samples[place] = {"y": X}
    message = refusal(either_argument(), samples)
    assert f"sample {place} has () and {{'y': *}}, sample 0 had () and {{'x': *}}" in message
    assert "the same structure" in message


def test_a_sample_of_a_shape_that_the_graph_does_not_take():
    message = refusal(perceptron(), [X, X[:, :3]])
    assert "fails on sample 1" in message
    assert "pass what its forward() takes" in message


@pytest.mark.parametrize("sample", [X[:, :3], {"image": X}, (X, X)])
def test_a_first_sample_that_forward_does_not_accept(sample):
    message = refusal(perceptron(), sample)
    assert "Sequential itself fails on sample 0" in message
    assert "forward()" in message


def test_a_model_of_integers():
    message = refusal(Net(lambda m, x: x * 2 + 1).eval(), torch.arange(4))
    assert "integers only" in message


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_that_is_already_low_precision(dtype):
    message = refusal(perceptron().to(dtype), X.to(dtype))
    assert f"'0.weight' is already {str(dtype).removeprefix('torch.')}" in message
    assert "pass the FP32 model" in message


def test_a_model_in_double_precision():
    message = refusal(perceptron().double(), X.double())
    assert "'0.weight' is float64" in message
    assert "model.float()" in message


@pytest.mark.parametrize("model", [3, nn.Linear, abs], ids=["int", "class", "function"])
def test_what_is_no_module(model):
    message = refusal(model, X)
    assert f"the model is a {type(model).__name__}" in message
    assert "torch.nn.Module" in message


def test_control_flow_that_export_cannot_follow_is_located(capfd):
    with pytest.raises(halfsafe.CaptureError) as caught:
        halfsafe.fix(Branching().eval(), X)
    message = str(caught.value)
    line = Branching.forward.__code__.co_firstlineno + 1
    assert f"{__file__}:{line}" in message
    assert "if x.sum() > 0" in message
    assert "torch.where" in message
    assert "\n" not in message
    assert capfd.readouterr() == ("", "")


def test_a_module_that_writes_to_a_buffer():
    with pytest.raises(halfsafe.CaptureError, match=r"writes to the buffer 'seen'.*stateless"):
        halfsafe.fix(Counting().eval(), X)


def test_an_unknown_target():
    message = refusal(perceptron(), X, target="abacus")
    assert "'abacus'" in message
    assert "'torch'" in message


def test_negative_headroom():
    assert "headroom is -1" in refusal(perceptron(), X, headroom=-1)
