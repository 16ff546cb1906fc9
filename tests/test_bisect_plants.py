"""The operator that a bisection names is the planted one, in real architectures, at few builds."""

from itertools import product

import pytest
import torch

from bench import bisect_files, bisect_plants
from bench.bisecting import bisected
from bench.prefixes import OnnxPrefixes, TorchPrefixes, first_culprit

MODULES = {
    "resnet": [("weights",)],
    "vit": [("accumulated",), ("half cancelled",)],
}
FILES = {
    "resnet": [("lost",), ("cancelled", "overflow")],
    "gpt2": [("absorbed",), ("underflow", "lost")],
}


@pytest.fixture(autouse=True)
def one_thread():
    """Small networks gain nothing from more, and tests run beside each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def assert_is_found(trial, engine):
    row = bisected(trial, engine)
    assert row["exact"], row
    assert row["builds"] == row["builds_told"]
    assert row["within"] or len(trial.culprits) > 1, row


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_planted_operators_of_a_module_are_named(name):
    base = bisect_plants.network(name)
    for asked in MODULES[name]:
        assert_is_found(next(bisect_plants.drawn(base, asked, 1)), "torch")


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_planted_nodes_of_a_file_are_named(name):
    base = bisect_files.file(name)
    for asked in FILES[name]:
        assert_is_found(next(bisect_files.drawn(base, asked, 1)), "strict")


@pytest.mark.slow
def test_brute_force_finds_what_was_planted():
    """The figure is only as good as the plants: all prefixes tried, by code of the bench alone."""
    trial = next(bisect_plants.drawn(bisect_plants.network("resnet"), ("epsilon",), 1))
    found = first_culprit(TorchPrefixes(trial.model, trial.samples), trial.tolerance)
    assert (found.op, found.module) == (trial.culprits[0].op, trial.culprits[0].module)
    file = next(bisect_files.drawn(bisect_files.file("resnet"), ("sentinel",), 1))
    found = first_culprit(OnnxPrefixes(file.model, file.samples), file.tolerance)
    assert found.name == file.culprits[0].name


@pytest.mark.slow
def test_a_healthy_network_is_right_at_every_prefix():
    base = bisect_plants.network("resnet")
    assert first_culprit(TorchPrefixes(base.model, base.samples), base.tolerance) is None


def test_at_least_80_faults_are_planted():
    benches = product((bisect_plants, bisect_files), bisect_plants.NETWORKS)
    assert sum(len(bench.kinds(name)) for bench, name in benches) >= 80
