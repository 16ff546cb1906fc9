"""Real architectures with random weights, amplified until FP16 breaks, are fixed to the floor."""

from statistics import median

import pytest
import torch
from torch.utils._pytree import tree_leaves

import halfsafe
from bench.architectures import ARCHITECTURES
from halfsafe.verdict import TOLERANCE, Answer

FAST = ("resnet", "bert")


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
    assert proof.answer is not Answer.NOT_SAFE, proof.reasons
    assert proof.safe or proof.floor > TOLERANCE, "it is worse than it has to be"
    assert median(f.ratio for f in proof.findings) <= 1.2
    with torch.no_grad():
        half, expected = fixed.half()(**samples[-1]), model(**samples[-1])
    assert type(half) is type(expected)
    for a, b in zip(tree_leaves(half), tree_leaves(expected), strict=True):
        if isinstance(b, torch.Tensor) and b.is_floating_point():  # PyTorch's own half kernels
            assert float((a.float() - b).norm() / b.norm()) < max(TOLERANCE, 2 * proof.floor)
