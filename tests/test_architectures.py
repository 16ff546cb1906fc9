"""Real architectures with random weights, amplified until FP16 breaks, are fixed to the floor."""

import pytest
import torch

import halfsafe
from bench.architectures import ARCHITECTURES

FAST = ("resnet", "bert", "llama", "t5_relu", "autoencoder_kl")


@pytest.mark.parametrize(
    "name",
    [
        name if name in FAST else pytest.param(name, marks=pytest.mark.slow)
        for name in ARCHITECTURES
    ],
)
def test_an_amplified_architecture_is_fixed_to_the_floor(name):
    model, samples = ARCHITECTURES[name].build()
    fixed = halfsafe.fix(model, samples)
    proof = fixed.report.verification
    print(f"{name}: before {proof.before:.2g}, after {proof.after:.2g}, floor {proof.floor:.2g}")
    assert proof.before_nonfinite or proof.before > 5 * proof.floor
    assert proof.bit_equal or fixed.report.forms
    assert fixed.report.safe
    assert proof.ratio <= 1.2
    with torch.no_grad():
        half = fixed.half()(**samples[-1])
    assert type(half) is type(model(**samples[-1]))
