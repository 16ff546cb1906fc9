"""Faults that people reported, in tiny: each breaks in FP16, and is fixed to the floor."""

import pytest
import torch

import halfsafe
from tests.replicas import REPLICAS, build

NEEDS_OTHER_FORMS = {
    "gelu_beyond_range",
    "silu_beyond_range",
    "softmax_beyond_range",
}
HARMLESS_BEFORE = {
    "additive_mask_of_finfo_min",
    "masked_fill_of_minus_1e9",
    "two_masks_added",
    "tanh_gelu_written_out",  # tanh(inf) is 1
}


@pytest.fixture(scope="module")
def fixed():
    """Fixes a replica once for all tests of it."""
    made: dict[str, tuple[torch.nn.Module, list, halfsafe.Fixed]] = {}

    def get(name: str):
        if name not in made:
            model, samples = build(name)
            made[name] = model, samples, halfsafe.fix(model, samples)
        return made[name]

    return get


@pytest.mark.parametrize("name", REPLICAS)
def test_fixed_in_fp32_is_bit_equal(fixed, name):
    model, samples, result = fixed(name)
    if name in NEEDS_OTHER_FORMS:
        assert result.report.forms
    else:
        assert not result.report.forms
    assert bool(result.report.islands) == (name == "softplus_written_out")
    for sample in samples:
        assert torch.equal(result.model(*sample), model(*sample))


@pytest.mark.parametrize("name", REPLICAS)
def test_fixed_in_fp16_reaches_the_floor(fixed, name):
    proof = fixed(name)[2].report.verification
    print(f"{name}: before {proof.before:.2g}, after {proof.after:.2g}, floor {proof.floor:.2g}")
    assert fixed(name)[2].report.safe
    assert proof.ratio <= 1.2
    if name not in HARMLESS_BEFORE:
        assert proof.before_nonfinite or proof.before > 5 * proof.floor


@pytest.mark.parametrize("name", REPLICAS)
def test_real_half_kernels_agree(fixed, name):
    model, samples, result = fixed(name)
    sample = samples[-1]
    reference = model(*sample)
    found = result.half()(*sample)
    error = (found.float() - reference).norm() / reference.norm()
    assert torch.isfinite(found).all()
    assert error <= max(3 * result.report.verification.floor, 2e-3)
