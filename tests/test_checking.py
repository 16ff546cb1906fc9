"""The checker of certificates: what it confirms, and that it confirms nothing that is too small."""

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import halfsafe
from bench.architectures import ARCHITECTURES
from halfsafe.bounds.bound import Bound
from halfsafe.bounds.interpreter import Interpreter
from halfsafe.certificate import rounded_up
from halfsafe.checking import Checked, check
from halfsafe.checking.known import MORE, Known, between
from halfsafe.checking.walk import Walk
from halfsafe.cli import app
from tests.test_bounds import COMPUTED, OPERATORS, Averaging, boxes, halved, named, network
from tests.test_bounds import _half as stored_in_half
from tests.test_certify import file_of

IDS = torch.zeros(2, 6, dtype=torch.int64)


def resized(told, name, factor):
    """A certificate that claims another bound of a value."""
    value = told.values[name]
    changed = replace(value, bound=factor * value.bound)
    return replace(told, values={**told.values, name: changed})


def test_a_certificate_is_confirmed_and_one_percent_less_is_not():
    net = network()
    told = halfsafe.certify(net, sample=IDS)
    assert check(told, net, sample=IDS) == Checked(True, (), len(told.values))
    computed = [n for n, v in told.values.items() if v.bound and "constant" not in v.where]
    for name in computed[::8]:
        found = check(resized(told, name, 0.99), net, sample=IDS)
        assert not found.confirmed
        assert any(told.values[name].where in why for why in found.why), name


@pytest.mark.parametrize(
    "name",
    ["vit", *(pytest.param(n, marks=pytest.mark.slow) for n in ("t5_gated", "llama", "resnet"))],
)
def test_certificates_of_architectures_are_confirmed(name):
    model, samples = ARCHITECTURES[name].build()
    domain = {
        n: (float(min(s[n].min() for s in samples)), float(max(s[n].max() for s in samples)))
        for n, x in samples[0].items()
        if x.is_floating_point()
    }
    told = halfsafe.certify(model, domain, sample=samples[0])
    assert check(told, model, sample=samples[0]).why == ()
    last = list(told.values)[-1]
    assert not check(resized(told, last, 0.95), model, sample=samples[0]).confirmed


def test_a_mean_by_a_mask_is_confirmed():
    sample = IDS, torch.ones_like(IDS)
    net = Averaging().eval()
    told = halfsafe.certify(net, sample=sample)
    assert check(told, net, sample=sample).confirmed


@pytest.mark.slow
def test_what_is_told_of_something_else_is_not_confirmed():
    net = network()
    told = halfsafe.certify(net, sample=IDS)
    with torch.no_grad():
        other = network()
        _ = other.blocks[0].up.weight.mul_(1.5)
    assert check(told, other, sample=IDS).why == (
        "the certificate is of other operators or weights",
    )
    assert (
        "is for inputs of" in check(told, net, sample=torch.zeros(1, 6, dtype=torch.int64)).why[0]
    )


def test_a_value_of_which_nothing_is_said_is_missed():
    net = network()
    told = halfsafe.certify(net, sample=IDS)
    some = next(n for n, v in told.values.items() if "linear" in v.where)
    less = replace(told, values={n: v for n, v in told.values.items() if n != some})
    (why,) = check(less, net, sample=IDS).why
    assert "nothing is said of" in why
    assert some in why


def test_a_value_that_is_said_to_be_none_of_fp16_is_noticed():
    net = network()
    told = halfsafe.certify(net, sample=IDS)
    some = next(n for n, v in told.values.items() if "linear" in v.where)
    value = replace(told.values[some], stored=False, bound=1e9)
    less = replace(told, values={**told.values, some: value})
    assert "FP16 stores it" in check(less, net, sample=IDS).why[0]


def test_what_is_unknown_here_is_no_confirmation():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.special.bessel_j0(x)

    net, x = Odd().eval(), torch.zeros(2, 3)
    told = halfsafe.certify(net, {"x": (-1.0, 1.0)}, sample=x)
    assert check(told, net, sample=x).confirmed  # nothing is claimed
    name = next(n for n, v in told.values.items() if v.bound is None)
    claim = replace(told.values[name], bound=1.0)
    bold = replace(told, values={**told.values, name: claim})
    (why,) = check(bold, net, sample=x).why
    assert "nothing is known here" in why


def test_the_command_confirms_and_refuses(tmp_path):
    path, told = file_of(tmp_path / "m.onnx", 1e3), tmp_path / "c.json"
    arguments = ["certify", str(path), "--domain", "x=-100:100", "-o", str(told)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    done = CliRunner().invoke(app, ["check", str(told), str(path)])
    assert done.exit_code == 0
    assert "confirmed: the bounds of all" in done.stdout
    resized(halfsafe.Certificate.load(told), "h", 0.9).save(told)
    done = CliRunner().invoke(app, ["check", str(told), str(path)])
    assert done.exit_code == 1
    assert "not confirmed, because of 1:" in done.stdout
    assert "is claimed, and" in done.stdout


def test_it_shares_no_code_with_what_it_checks():
    for path in Path("src/halfsafe/checking").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            module = getattr(node, "module", None) or ""
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [module]
            assert not any(n.startswith(("halfsafe.bounds", "halfsafe.certify")) for n in names)


class Normed(nn.Module):
    """x / sqrt(mean(x^2) + e), with a sum that makes an epsilon of something else."""

    def __init__(self, added):
        super().__init__()
        self.added = added

    def forward(self, x):
        m = (x * x).mean(-1, keepdim=True)
        return x * torch.rsqrt(self.added(m))


@pytest.mark.parametrize(
    "added",
    [
        lambda m: torch.add(torch.full_like(m, 1e-3), m, alpha=0.01),
        lambda m: torch.add(m, 1e-3, alpha=-1.0),
        lambda m: m + 0.0,
        lambda m: m.long().float() + 1e-3,
    ],
)
def test_what_only_looks_like_a_norm_is_confirmed_by_nobody(added):
    net, x = Normed(added).eval(), torch.ones(1, 9)
    told = halfsafe.certify(net, {"x": (-1.0, 1.0)}, sample=x)
    (output,) = [name for name, v in told.values.items() if v.where.startswith("mul_1 ")]
    bold = replace(told.values[output], bound=3.02)
    assert told.values[output].bound is None or told.values[output].bound > 3.1
    found = check(replace(told, values={**told.values, output: bold}), net, sample=x)
    assert not found.confirmed


@pytest.mark.slow
def test_a_network_with_a_region_of_autocast_is_recognised():
    class Kept(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.Linear(4, 4)

        def forward(self, x):
            with torch.autocast("cpu", enabled=False):
                return self.up(x.float()) * 2

    net, x = Kept().eval(), torch.zeros(2, 4)
    told = halfsafe.certify(net, {"x": (-1.0, 1.0)}, sample=x)
    assert check(told, net, sample=x).confirmed


# Rules by themselves


def known_of(one, box) -> dict[str, Known]:
    """What the checker knows of an operator's outputs, of operands within intervals."""
    walk = Walk(one, dict.fromkeys(one.graph.inputs))
    walk.bounds |= {n: between(low.shape, low, high) for n, (low, high) in box.items()}
    (node,) = one.graph.nodes
    return dict(zip(node.outputs, walk._outputs(node), strict=True))


def drawn(one, box, draw, i):
    """Operands within intervals: of all, or at their ends, as FP16 stores them, or as they are."""
    given = {
        n: np.where(draw.random(low.shape) < 0.5, low, high) if i % 2 else draw.uniform(low, high)
        for n, (low, high) in box.items()
    }
    if i % 3:
        given = {n: stored_in_half(x) for n, x in given.items()} | halved(one)
    return {n: np.asarray(x).astype(one.arrays[n].dtype) for n, x in given.items()}


UNKNOWN = {
    "aten.col2im", "aten.einsum", "aten.linalg_vector_norm",
    "aten.norm", "com.microsoft.Attention", "com.microsoft.FusedConv", "com.microsoft.FusedGemm",
    "com.microsoft.GroupQueryAttention", "onnx.Col2Im", "onnx.MaxRoiPool", "onnx.Resize",
    "onnx.RoiAlign", "onnx.Shrink", "onnx.Swish",
}  # fmt: skip
"""Operators of which the checker knows nothing, or nothing of some options."""

CHECKED = [one for one in OPERATORS + [o for o in COMPUTED if len(o.inputs) > 1] if one.inputs]


@pytest.mark.parametrize("one", CHECKED, ids=named)
def test_rules_are_never_passed_and_confirm_what_bounds_claim(one):
    draw, (node,) = np.random.default_rng(1), one.graph.nodes
    box = boxes(one, draw)
    known = known_of(one, box)
    for i in range(4):
        for name, x in zip(
            node.outputs, one.run_node(node.name, drawn(one, box, draw, i)), strict=True
        ):
            if x.dtype.kind == "f":
                x = stored_in_half(x) if i % 3 else x
                low, high = known[name].low, known[name].high
                assert (np.isnan(x) | ((low <= x) & (x <= high))).all(), (name, x, low, high)
    domain = {n: Bound.between(low.shape, low, high) for n, (low, high) in box.items()}
    for name, bound in Interpreter(one, domain).walk().items():
        if name in known and bound.is_finite:
            found = known[name].amax
            confirmed = found <= rounded_up(bound.amax) * MORE
            assert confirmed or (not np.isfinite(found) and node.op in UNKNOWN), (bound.amax, found)


def test_what_is_said_to_be_unknown_is():
    seen = set()
    for one in CHECKED:
        (node,), box = one.graph.nodes, boxes(one, np.random.default_rng(1))
        if node.op in UNKNOWN:
            domain = {n: Bound.between(low.shape, low, high) for n, (low, high) in box.items()}
            bound = Interpreter(one, domain).walk()[node.outputs[0]]
            if bound.is_finite and not np.isfinite(known_of(one, box)[node.outputs[0]].amax):
                seen.add(node.op)
    assert seen == UNKNOWN


def test_lengths_of_which_none_is_a_number_are_unknown():
    known = Known((2,), np.full(1, np.nan), np.full(1, np.nan))
    assert known.length == np.inf


class Clipped(nn.Module):
    """What is clipped behind an operator of which nothing is known, and a layer behind that."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(nn.functional.hardtanh(torch.special.bessel_j0(x)))


def test_a_claim_that_is_missed_because_of_an_operator_without_a_rule_names_it():
    net, x = Clipped().eval(), torch.zeros(2, 4)
    told = halfsafe.certify(net, {"x": (-1.0, 1.0)}, sample=x)
    name = next(n for n, v in told.values.items() if v.where.startswith("linear "))
    (why,) = check(resized(told, name, 0.5), net, sample=x).why
    assert "is found, as nothing is known of what comes from" in why
    assert "bessel_j0" in why
    assert "\n" not in why
