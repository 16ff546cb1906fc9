"""A fault planted at a random module of a real architecture is named, and nothing else is."""

import pytest
import torch

import halfsafe
from bench.architectures import ARCHITECTURES
from bench.localising import DEBUG, INSPECT, OPERATORS, TOOLS, healthy, is_named
from bench.plants import PLANTS, plant

QUICK = {
    ("resnet", "absorbed"),
    ("bert", "sentinel"),
    ("llama", "overflow"),
}
FURTHER = [("t5_relu", "epsilon"), ("mixtral", "underflow"), ("unet2d_condition", "weights")]
CASES = [
    pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow)
    for case in [*((n, kind) for n in ("resnet", "bert", "llama") for kind in PLANTS), *FURTHER]
]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_planted_fault_is_the_one_that_is_named(name, kind):
    model, samples = healthy(ARCHITECTURES[name])
    case = plant(model, samples, kind, seed=11)
    assert case is not None
    for tool in (INSPECT, OPERATORS):
        new = TOOLS[tool](case.model, samples) - TOOLS[tool](model, samples)
        assert is_named(case, new, tool) == (True, 0), (tool, case, new)


def test_a_peer_names_what_it_can_see():
    """The comparison is fair only if the peers work: an inf that leaves its module."""
    model, samples = healthy(ARCHITECTURES["bert"])
    case = plant(model, samples, "overflow", seed=11)
    assert is_named(case, TOOLS[DEBUG](case.model, samples), DEBUG) == (True, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_outcomes_are_what_the_proof_of_a_fix_finds(name):
    torch.manual_seed(0)
    model, samples = ARCHITECTURES[name].build()
    report = halfsafe.inspect(model, samples[:1])
    fixed = halfsafe.fix(model, samples[:1])
    nonfinite = any(fault.outcome == "nonfinite" for fault in report.faults)
    assert report.faults
    assert nonfinite == (fixed.report.verification.before_nonfinite > 0)
