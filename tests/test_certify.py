"""Certificates: what is told of a network for every input, written, read again, and refused."""

import json
import math
from weakref import WeakSet

import numpy as np
import onnx
import pytest
import torch
from onnx import parser
from torch import nn
from typer.testing import CliRunner

import halfsafe
from halfsafe import BadInput, Certificate, certify
from halfsafe.asked import Asked
from halfsafe.bounds.bound import Bound, Form
from halfsafe.bounds.interpreter import LATE, Interpreter
from halfsafe.certify import certified
from halfsafe.cli import app
from halfsafe.frontends import open_model
from halfsafe.samples import Samples
from halfsafe.verdict import TOLERANCE
from tests.test_bounds import network


def loud(factor):
    net = network()
    with torch.no_grad():
        _ = net.blocks[1].down.weight.mul_(factor)
    return net


IDS = torch.zeros(2, 6, dtype=torch.int64)


def test_a_network_behind_norms_is_certified_for_any_tokens():
    found = certify(network(), sample=IDS)
    assert found.certified
    assert found.domain == {"ids": None}
    assert found.shapes == {"ids": (2, 6)}
    name, bound = found.worst
    assert found.values[name].bound == bound < 65504
    assert "for every input of ids 2x6 anything" in found.text()
    assert "FP16 holds all" in found.text()


def test_what_may_overflow_is_told_with_its_bound():
    found = certify(loud(1e5), sample=IDS)
    assert not found.certified
    (large,) = {v.where for v in found.values.values() if not v.fits and "linear" in v.where}
    assert "blocks.1.down" in large
    assert "values may be larger than FP16 holds" in found.text()
    assert large in found.text()


def test_what_is_certified_is_finite_in_fp16_on_the_loudest_tokens():
    net = network()
    half = halfsafe.fix(net, [IDS]).half()
    for token in range(40):
        assert torch.isfinite(half(torch.full((2, 6), token))).all()


def test_a_certificate_comes_back_as_it_was(tmp_path):
    found = certify(loud(1e5), sample=IDS)
    found.save(tmp_path / "c.json")
    assert Certificate.load(tmp_path / "c.json") == found
    assert json.loads((tmp_path / "c.json").read_text())["certified"] is False
    (tmp_path / "odd.json").write_text("{}")
    with pytest.raises(BadInput, match="no certificate that this version"):
        Certificate.load(tmp_path / "odd.json")
    with pytest.raises(BadInput, match="cannot read"):
        Certificate.load(tmp_path / "none.json")


@pytest.mark.slow
def test_the_fingerprint_is_of_operators_and_weights():
    assert certify(loud(1.0), sample=IDS).fingerprint == certify(loud(1.0), sample=IDS).fingerprint
    assert certify(loud(1.0), sample=IDS).fingerprint != certify(loud(1.5), sample=IDS).fingerprint


def test_no_entry_of_the_sample_matters():
    a = certify(network(), sample=IDS)
    b = certify(network(), sample=torch.full((2, 6), 7))
    assert a == b


@pytest.mark.parametrize(
    ("domain", "said"),
    [
        ({}, "input 'input_1' has floating entries: give their domain"),
        ({"input_1": (2.0, 1.0)}, "the domain of 'input_1' is 2 to 1"),
        ({"input_1": (-math.inf, 1.0)}, "the domain of 'input_1' is -inf to 1"),
        ({"x": (0, 1), "input_1": (0, 1)}, "there is no input 'x': the model has input_1"),
    ],
)
def test_domains_that_say_nothing_are_refused(domain, said):
    net = nn.Sequential(nn.LayerNorm(4)).eval()
    with pytest.raises(BadInput, match=said):
        certify(net, domain, sample=torch.zeros(1, 4))


def test_a_module_tells_no_shapes():
    with pytest.raises(BadInput, match="pass sample="):
        certify(network())


# ONNX


NORM = """
g (float[N, 8] x) => (float[N, 4] y) <float e = {1e-5}, int64[1] last = {-1}, float two = {2}> {
    m = ReduceMean (x, last)  c = Sub (x, m)  s = Pow (c, two)  v = ReduceMean (s, last)
    w = Add (v, e)  r = Sqrt (w)  u = Div (c, r)  h = MatMul (u, up)  y = Softmax (h) }"""


def file_of(place, factor):
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 18]> {NORM}')
    weight = factor * np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "up"))
    onnx.save(model, place)
    return place


TABLE = """
agraph (int64[n] ids) => (float[n, 2] y)
<int32[1, 2] table = {1000000, -1000000}, float s = {0.5}, int32 z = {0}>
{
    q = Gather(table, ids)
    y = DequantizeLinear(q, s, z)
}
"""


def test_numbers_of_a_table_may_be_any_of_their_type():
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 18]> {TABLE}')
    ids = {"ids": np.array([0])}
    found = certify(model, sample=ids)
    assert found.values["y"].bound >= 2.0**31 * 0.5
    assert halfsafe.check(found, model, sample=ids).confirmed


def test_a_file_needs_no_sample_and_a_norm_written_out_is_seen(tmp_path):
    found = certify(file_of(tmp_path / "m.onnx", 1e3), {"x": (-100.0, 100.0)})
    assert found.certified
    assert found.values["u"].bound == pytest.approx(math.sqrt(8), rel=1e-2)
    assert 65504 > found.values["h"].bound > 1e3
    assert not certify(file_of(tmp_path / "m.onnx", 1e6), {"x": (-100.0, 100.0)}).certified


def test_no_input_of_the_file_passes_its_bounds(tmp_path):
    path = file_of(tmp_path / "m.onnx", 1e3)
    found = certify(path, {"x": (-100.0, 100.0)})
    draw = np.random.default_rng(1)
    corners = [draw.choice([-100.0, 100.0], (3, 8)).astype(np.float32) for _ in range(20)]
    report = halfsafe.inspect(path, [{"x": x} for x in corners])
    passed = [n for n, v in report.values.items()
              if n in found.values and v.range.amax > found.values[n].bound]  # fmt: skip
    assert passed == []


# The command line


def test_the_command_writes_a_certificate(tmp_path):
    path = file_of(tmp_path / "m.onnx", 1e3)
    arguments = ["certify", str(path), "--domain", "x=-100:100"]
    done = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "c.json")])
    assert done.exit_code == 0
    assert "FP16 holds all" in done.stdout
    assert Certificate.load(tmp_path / "c.json").certified
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert json.loads(done.stdout)["certified"] is True
    file_of(path, 1e6)
    assert CliRunner().invoke(app, arguments).exit_code == 1


@pytest.mark.parametrize("domain", ["x", "x=1", "x=a:b", "x=-1:"])
def test_a_domain_that_is_none_is_refused(domain, tmp_path):
    path = file_of(tmp_path / "m.onnx", 1.0)
    done = CliRunner().invoke(app, ["certify", str(path), "--domain", domain])
    assert isinstance(done.exception, BadInput)
    assert "write name=least:largest" in str(done.exception)


# With a fix


class Normed(nn.Module):
    """A network whose last word is behind a norm."""

    def __init__(self, inside):
        super().__init__()
        self.inside, self.norm, self.head = inside, nn.LayerNorm(16), nn.Linear(16, 4)

    def forward(self, ids):
        return self.head(self.norm(self.inside(ids)))


def deep(factor):
    net = network()
    with torch.no_grad():
        for block in net.blocks:
            _ = block.down.weight.mul_(factor)
            _ = block.out.weight.mul_(factor)
        _ = net.table.weight.mul_(factor)
    torch.manual_seed(1)
    return Normed(net).eval()


def test_a_fix_leaves_room_for_whatever_comes_in():
    quiet = [torch.randint(0, 40, (2, 6)) for _ in range(3)]
    net = deep(2e3)
    assert not certify(net, sample=quiet[0]).certified
    fixed = halfsafe.fix(net, quiet, certify={})
    assert fixed.certificate.certified
    assert fixed.report.safe
    assert "Safe for every input of the domain" in fixed.report.text()
    assert all(torch.equal(fixed.model(x), net(x)) for x in quiet)
    half = fixed.half()
    for token in range(40):
        assert torch.isfinite(half(torch.full((2, 6), token))).all()


def test_without_a_domain_nothing_is_certified():
    fixed = halfsafe.fix(network(), [IDS])
    assert fixed.certificate is None
    assert fixed.report.certificate is None


def test_the_report_has_the_bound_and_the_status_of_each_value_as_it_is_delivered():
    quiet = [torch.randint(0, 40, (2, 6)) for _ in range(3)]
    fixed = halfsafe.fix(deep(2e3), quiet, certify={})
    stored = {name for name, value in fixed.certificate.values.items() if value.stored}
    told = fixed.report.certificate
    assert set(told.values) == stored
    assert all(v.bound == fixed.certificate.values[n].bound for n, v in told.values.items())
    assert told.complete
    assert told.counts["certified after rescaling"] == 3
    for name, found in fixed.report.values.items():
        if name in told.values:
            delivered = found.range.amax * 2.0**-found.exponent
            assert delivered <= told.values[name].bound, name


def test_what_cannot_be_certified_gets_the_plan_of_the_samples():
    class Growing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(*(nn.Linear(16, 16) for _ in range(8)))

        def forward(self, x):
            return self.layers(x)

    torch.manual_seed(0)
    net = Growing().eval()
    with torch.no_grad():
        for layer in net.layers:
            _ = layer.weight.mul_(8)
    xs = [torch.randn(4, 16) for _ in range(3)]
    fixed, plain = halfsafe.fix(net, xs, certify={"x": (-1e30, 1e30)}), halfsafe.fix(net, xs)
    assert not fixed.certificate.certified
    assert "Safe for every input" not in fixed.report.text()
    assert fixed.report.folds == plain.report.folds
    assert fixed.report.safe


@pytest.mark.slow
def test_a_gate_takes_its_gate_form_where_only_that_leaves_room_for_its_bound():
    """Samples reach half of what FP16 holds, and their bound is twice that."""

    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.up, self.down = nn.LayerNorm(64), nn.Linear(64, 8), nn.Linear(8, 8)
            self.last = nn.LayerNorm(8)

        def forward(self, x):
            return self.last(self.down(nn.functional.gelu(self.up(self.norm(x)))))

    torch.manual_seed(0)
    net = Gated().eval()
    with torch.no_grad():
        _ = net.up.weight.mul_(15_000 / net.up.weight.norm(dim=1, keepdim=True))
        _ = net.down.weight.mul_(1e-4)
    xs = [torch.randn(16, 64) for _ in range(3)]
    plain, fixed = halfsafe.fix(net, xs), halfsafe.fix(net, xs, certify={"x": (-9.0, 9.0)})
    assert not plain.report.forms
    assert len(fixed.report.forms) == 1
    assert fixed.report.safe
    assert fixed.certificate.certified
    assert certify(net, {"x": (-9.0, 9.0)}, sample=xs[0]).worst[1] > 65504


@pytest.mark.slow
def test_samples_of_other_lengths_are_bounded_by_the_first_one():
    net = deep(2e3)
    fixed = halfsafe.fix(net, [torch.randint(0, 40, (2, n)) for n in (6, 9, 4)], certify={})
    assert fixed.certificate.certified
    assert fixed.certificate.shapes == {"ids": (2, 6)}


def test_a_domain_is_for_one_process():
    with pytest.raises(BadInput, match="certify is for one process"):
        halfsafe.fix(network(), [IDS], certify={}, distributed=True)


def test_the_fix_command_writes_a_certificate_of_what_it_delivers(tmp_path):
    path, x = file_of(tmp_path / "m.onnx", 1e6), np.random.default_rng(0).normal(size=(3, 8))
    np.savez(tmp_path / "s.npz", x=x.astype(np.float32))
    told = tmp_path / "c.json"
    arguments = ["fix", str(path), "--samples", str(tmp_path / "s.npz"), "--certificate", str(told)]
    done = CliRunner().invoke(app, [*arguments, "--domain", "x=-100:100"])
    assert done.exit_code in (0, 1)
    assert Certificate.load(told).domain == {"x": (-100.0, 100.0)}
    said = " ".join(done.stdout.split())
    assert "domain x 3x8 in [-100, 100]" in said
    assert "certified after rescaling" in said
    done = CliRunner().invoke(app, ["fix", str(path), "--domain", "x=-1:1"])
    assert "--domain is for --certificate" in str(done.exception)


def test_a_weight_that_fp16_does_not_hold_is_no_certified_value():
    """What comes out of it is small, and still it is inf in FP16."""
    net = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2)).eval()
    with torch.no_grad():
        _ = net[0].weight.mul_(1e-6), net[0].bias.zero_(), net[1].weight[0, 0].fill_(1e5)
    found = certify(net, {"input_1": (-1.0, 1.0)}, sample=torch.zeros(1, 4))
    assert [n for n, v in found.values.items() if not v.fits] == ["1.weight"]
    assert "the constant 1.weight: up to 1e+05" in found.text()


def test_what_is_computed_of_constants_alone_counts_too():
    class Masked(nn.Module):
        def forward(self, x):
            mask = torch.full((4, 4), -1e30).triu(1).to(x.dtype)
            return torch.softmax(x + mask, -1)

    found = certify(Masked().eval(), {"x": (-1.0, 1.0)}, sample=torch.zeros(4, 4))
    assert not found.certified


def test_a_chain_of_constants_in_fp16_is_not_taken_for_what_fp32_makes_of_it():
    """The angle 1000.3 is 1000.5 in FP16, and its cosine another."""

    class Turning(nn.Module):
        def __init__(self):
            super().__init__()
            self.angle = nn.Parameter(torch.tensor([1000.3]), requires_grad=False)

        def forward(self, x):
            return x * torch.cos(self.angle)

    found = certify(Turning().eval(), {"x": (-1.0, 1.0)}, sample=torch.zeros(1))
    assert found.values["cos"].bound > abs(float(torch.cos(torch.tensor(1000.5))))


def test_positions_of_which_only_whole_numbers_come_do_not_count():
    """T5 takes a logarithm of 0 for a place whose bucket is another one."""

    class Buckets(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(8, 4)

        def forward(self, x):
            places = torch.arange(6)
            far = (torch.log(places.to(x.dtype)) * 2).to(torch.long)
            return x + self.table(torch.where(places < 2, places, far.clamp(0, 7)))

    found = certify(Buckets().eval(), {"x": (-1.0, 1.0)}, sample=torch.zeros(6, 4))
    assert found.certified
    assert not [name for name in found.values if "log" in name]


def test_inputs_and_constants_are_as_fp16_stores_them():
    """Both are rounded up, and their product once more."""
    x, w = 8 * 1.01806650625, 1.02587900625
    net = nn.Sequential(nn.Linear(1, 1, bias=False)).eval()
    with torch.no_grad():
        _ = net[0].weight.fill_(w)
    found = certify(net, {"input_1": (0.0, x)}, sample=torch.zeros(1, 1))
    half = net.half().requires_grad_(False)
    assert float(half(torch.tensor([[x]]).half())) <= found.values["linear"].bound
    assert float(half[0].weight) <= found.values["0.weight"].bound
    assert float(torch.tensor(x).half()) <= found.values["input_1"].bound


def test_values_are_certified_as_they_are_or_after_rescaling_or_measured_only():
    fixed = certified_of(deep(2e3), {})
    told = {standing.status for standing in fixed.standings().values()}
    assert told == {"certified", "certified after rescaling"}
    assert all((s.bits or 0.0) > -0.1 for s in fixed.standings().values())

    class Odd(nn.Module):
        def forward(self, x):
            return torch.special.bessel_j0(x) + x

    fixed = certified_of(Odd().eval(), {"x": (-1.0, 1.0)}, torch.rand(2, 4))
    only = {n: s.why for n, s in fixed.standings().items() if s.status == "measured only"}
    assert set(only) == {"special_bessel_j0", "add"}
    assert all("bessel_j0" in why for why in only.values())


def certified_of(net, domain, *given):
    """What `fix` plans and certifies by."""
    samples = Samples(list(given) or [torch.randint(0, 40, (2, 6)) for _ in range(3)])
    source = open_model(net, samples.first)
    asked = Asked.of(1, TOLERANCE, None, "strict", None, (), ())
    return certified(asked, asked.references(source), samples, domain, lambda _: None)


def test_sums_tell_how_far_they_go_on_the_way():
    """1000 - 1000 is 0, of which 1000 has to be held."""
    net = nn.Sequential(nn.Linear(2, 1, bias=False)).eval()
    with torch.no_grad():
        net[0].weight[:] = torch.tensor([[1000.0, -1000.0]])
    found = certify(net, {"input_1": (99.0, 100.0)}, sample=torch.zeros(1, 2))
    assert found.values["linear"].bound < 1200
    assert 200_000 <= found.values["linear"].summed < 201_000
    assert "1 of 1 sums of products have to be added up in FP32" in found.text()


def test_a_constant_of_fp16_that_is_cast_up_is_bounded_as_it_is_stored():
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("f", torch.tensor(1.0003))

        def forward(self, x):
            return x * torch.cos(torch.arange(1000, 1001).float() * self.f.float()).to(x.dtype)

    net, x = Turned().eval(), torch.ones(1)
    told = certify(net, {"x": (-1.0, 1.0)}, sample=x)
    assert told.values["mul_1"].bound >= abs(float(net.half()(x.half())))


class Gated(nn.Module):
    """Residual blocks, each with a gate behind a norm; no norm at the end."""

    def __init__(self, blocks):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(blocks))
        self.ups = nn.ModuleList(nn.Linear(16, 48) for _ in range(2 * blocks))
        self.downs = nn.ModuleList(nn.Linear(48, 16) for _ in range(blocks))

    def forward(self, x):
        for i, (norm, down) in enumerate(zip(self.norms, self.downs, strict=True)):
            y = norm(x)
            x = x + down(nn.functional.silu(self.ups[2 * i](y)) * self.ups[2 * i + 1](y))
        return x


@pytest.mark.slow
def test_no_matrix_outlives_its_layer(monkeypatch):
    alive, init = WeakSet(), Form.__init__

    def noted(self, *args, **options):
        init(self, *args, **options)
        alive.add(self)

    def most(blocks):
        counts = []
        torch.manual_seed(0)
        halfsafe.certify(
            Gated(blocks).eval(), {"x": (-1.0, 1.0)}, sample=torch.zeros(2, 16),
            progress=lambda _: counts.append(len({id(f.rows) for f in alive if f.rows.ndim == 2})),
        )  # fmt: skip
        return max(counts)

    monkeypatch.setattr(Form, "__init__", noted)
    assert most(8) == most(3) > 0


def test_intervals_of_each_position_are_not_held_to_the_end():
    """As tables of angles make them; those of rows together are, which hold as well."""

    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("table", torch.linspace(0.5, 1, 256 * 64).reshape(256, 64))

        def forward(self, x):
            for _ in range(40):
                x = x * self.table
            return x

    source = open_model(Turned().eval(), Samples(torch.zeros(1, 256, 64)).first, runs=False)
    domain = {"x": Bound.between((1, 256, 64), -1.0, 1.0)}
    bounds = Interpreter(source, domain).walk()
    sizes = [b.low.size for b in bounds.values()]
    assert len(sizes) == 41 and max(sizes) == 256 * 64
    assert sum(size > 64 for size in sizes) <= 1 + LATE
    assert all(1.0 <= b.amax < 1.05 for b in bounds.values())  # the last place has a factor of 1
