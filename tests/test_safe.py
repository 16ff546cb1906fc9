"""Networks on which FP16 is wrong in a way that ranges do not show, judged by plain arithmetic.

Nothing here asks the verdict whether the verdict is right: errors are computed from the outputs.
"""

import copy

import pytest
import scipy.optimize
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import halfsafe
from halfsafe.formats import FLOOR
from halfsafe.frontends import open_model
from halfsafe.proof import delivered
from halfsafe.references import References
from halfsafe.samples import Samples
from halfsafe.verdict import Answer
from tests.replicas import Net, draws, scaled


def error(found: Tensor, expected: Tensor) -> float:
    """The largest relative error of a row."""
    apart = (found.float() - expected).flatten(1).norm(dim=1)
    return float((apart / expected.flatten(1).norm(dim=1)).nan_to_num(torch.inf).max())


def half_error(fixed: halfsafe.Fixed, model: nn.Module, *sample: Tensor) -> float:
    with torch.no_grad():
        return error(fixed.half()(*sample), model(*sample))


# Bits


def level(m, x):
    """A series less its mean: at a level of 1e5, 11 bits keep none of what it moves by."""
    centred = x - x.mean(-1, keepdim=True)
    return m.head(centred / (centred.square().mean(-1, keepdim=True).sqrt() + 1e-5))


def angles(m, x):
    return m.head(torch.cat([(x * 1000.0).sin(), (x * 1000.0).cos()], -1))


def one_pass(m, x):
    """E[x^2] - E[x]^2 cancels."""
    mean = x.mean(-1, keepdim=True)
    variance = (x * x).mean(-1, keepdim=True) - mean * mean
    return m.head((x - mean) / torch.sqrt(variance + 1e-5))


NEEDS_BITS = {
    "level": (level, 32, lambda: 1e4 + 10 * torch.randn(4, 32)),
    "angles": (angles, 64, lambda: torch.randn(4, 32)),
    "one_pass": (one_pass, 32, lambda: -11.5 + 0.05 * torch.randn(4, 32)),
}


@pytest.mark.parametrize("name", NEEDS_BITS)
def test_what_needs_more_bits_is_kept_in_fp32_from_the_input_on(name):
    forward, width, draw = NEEDS_BITS[name]
    torch.manual_seed(0)
    model = Net(forward, head=nn.Linear(width, 8)).eval()
    fixed = halfsafe.fix(model, [(draw(),) for _ in range(4)])
    x = draw()
    with torch.no_grad():
        plain = error(copy.deepcopy(model).half()(x.half()), model(x))
    assert plain > 0.05, "FP16 is not hurt"
    assert fixed.report.safe, fixed.report.text()
    assert half_error(fixed, model, x) < 5e-3
    assert fixed.report.islands
    with pytest.raises(halfsafe.BadInput, match=r"input '.*' is float16: an operator needs more"):
        fixed.half()(x.half())


@pytest.mark.parametrize("name", NEEDS_BITS)
def test_inspect_names_the_operator_that_needs_bits(name):
    forward, width, draw = NEEDS_BITS[name]
    torch.manual_seed(0)
    report = halfsafe.inspect(Net(forward, head=nn.Linear(width, 8)).eval(), [(draw(),)])
    found = [fault for fault in report.faults if fault.kind == "bits"]
    assert {fault.op for fault in found} <= {"aten.sub", "aten.sin", "aten.cos"}
    assert found
    assert all("bits" in fault.detail for fault in found)
    assert not report.safe


def test_where_bits_are_missing_everywhere_fp16_cannot_do_better():
    """Rounding a long chaotic map makes another one of it; half of the network in FP32 is none."""

    def chaos(m, x):
        for _ in range(60):
            x = 3.9 * x * (1.0 - x)
        return x

    x = torch.rand(4, 16, generator=torch.Generator().manual_seed(0))
    report = halfsafe.fix(Net(chaos).eval(), [(x,)]).report
    assert report.answer is Answer.LIMITED
    assert "FP16 cannot do better here" in report.text()


# Rows, samples, outputs


def test_a_quiet_row_is_no_zero():
    """The second row is 1e-9 of the first, and every row is normalised behind it."""
    torch.manual_seed(0)
    model = Net(
        lambda m, x: F.normalize(m.i(x), dim=-1, eps=1e-30), i=nn.Linear(16, 16, bias=False)
    )
    sizes = torch.tensor([[1.0], [1e-9], [1e3], [1.0]])
    samples = [(torch.randn(4, 16) * sizes,) for _ in range(4)]
    fixed = halfsafe.fix(model.eval(), samples)
    (x,) = (torch.randn(4, 16) * sizes,)
    assert fixed.report.safe == (half_error(fixed, model, x) < 0.05)


def test_a_sample_that_is_answered_with_zeros_is_not_safe():
    model = nn.Sequential(nn.Linear(16, 16, bias=False)).eval()
    samples = [torch.randn(4, 16), torch.randn(4, 16) * 1e-9, torch.randn(4, 16)]
    half = copy.deepcopy(model).half()
    proof = halfsafe.verify(model, half, samples)
    assert proof.answer is Answer.NOT_SAFE
    assert "sample 1" in proof.reasons[0][1]


# Masks and floors


class Attention(nn.Module):
    """Scores of about 1e4, and a mask made of a floating input."""

    def __init__(self, size: float, fill: float) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(16, 16) for _ in range(3))
        self.size, self.fill = size, fill

    def forward(self, x, keep):
        scores = self.q(x) @ self.k(x).transpose(1, 2) * self.size
        return (scores + (1.0 - keep[:, None]) * self.fill).softmax(-1) @ self.v(x)


@pytest.mark.parametrize("fill", [-1e9, -1e12, -1e30, torch.finfo(torch.float32).min])
@pytest.mark.parametrize("size", [1.0, 3e3])
def test_a_mask_masks_on_samples_with_padding_too(fill, size):
    torch.manual_seed(0)
    model = Attention(size, fill).eval()
    keep = torch.ones(2, 12)
    fixed = halfsafe.fix(model, [(torch.randn(2, 12, 16), keep) for _ in range(4)])
    padded = keep.clone()
    padded[1, 5:] = 0
    x = torch.randn(2, 12, 16)
    with torch.no_grad():
        weights = fixed.half()(x, padded)
        shuffled = x.clone()
        shuffled[1, 5:] = torch.randn(7, 16) * 2
        masked = (weights - fixed.half()(shuffled, padded))[1, :5]
    assert float(masked.abs().max()) == 0.0, "what is masked changes the output"


def test_a_raised_floor_does_not_hurt_quieter_samples():
    """1e-8 keeps a divisor from 0; on a sample of 1e-3 a floor of 6e-5 would be 6 % of it."""
    torch.manual_seed(0)
    model = Net(lambda m, x: x / (x.abs().mean(-1, keepdim=True) + 1e-8)).eval()
    fixed = halfsafe.fix(model, [(torch.randn(4, 32),) for _ in range(4)])
    quiet = torch.randn(4, 32) * 1e-3
    with torch.no_grad():
        plain = error(copy.deepcopy(model).half()(quiet.half()), model(quiet))
    assert half_error(fixed, model, quiet) < 2 * plain
    assert bool(fixed.half()(torch.zeros(4, 32)).isfinite().all())


# Captures and plans


def test_a_model_that_exports_as_another_function_is_refused():
    def forward(m, x):
        return m.i(x) * (2.0 if torch.compiler.is_exporting() else 1.0)

    model = Net(forward, i=nn.Linear(4, 4)).eval()
    with pytest.raises(halfsafe.CaptureError, match=r"another function than Net: .* differ by"):
        halfsafe.fix(model, draws(2, 4))


def test_a_branch_on_another_sample_is_not_bit_equal():
    """The first sample takes the branch that is captured, the last one the other."""

    def forward(m, x):
        if not torch.compiler.is_exporting() and float(x.detach().sum()) > 1e3:
            return m.i(x) * 0.5
        return m.i(x)

    model = Net(forward, i=nn.Linear(4, 4)).eval()
    report = halfsafe.fix(
        model, [torch.ones(2, 4), torch.ones(2, 4), 1e4 * torch.ones(2, 4)]
    ).report
    assert report.answer is Answer.NOT_SAFE


def test_an_island_ends_where_the_span_has_closed():
    """exp(c) cumsum(b exp(-c)): both factors leave the range, in opposite directions."""

    def scan(m, x):
        c = torch.cumsum(-F.softplus(m.dt(x)), 1)
        return m.out(torch.exp(c) * torch.cumsum(m.b(x) * torch.exp(-c), 1))

    torch.manual_seed(2)
    parts = {"dt": nn.Linear(8, 8), "b": nn.Linear(8, 8), "out": nn.Linear(8, 4)}
    model = Net(scan, **parts).eval()
    fixed = halfsafe.fix(model, [(torch.randn(2, 48, 8),) for _ in range(4)])
    assert fixed.report.safe
    assert half_error(fixed, model, torch.randn(2, 48, 8)) < 1e-2
    assert "linear" not in " ".join(fixed.report.islands).replace("linear_1", "")


def test_a_solver_that_runs_out_of_time_says_so(monkeypatch):
    """What HiGHS gives when time is up (status 1): the best solution known by then. It is asked
    where nothing is narrow enough to be taken apart."""
    monkeypatch.setattr("halfsafe.exponents.elimination.WIDEST", 0)
    solve = scipy.optimize.milp

    def late(*arguments, **options):
        found = solve(*arguments, **options)
        found.status = 1
        return found

    monkeypatch.setattr("scipy.optimize.milp", late)
    torch.manual_seed(0)
    model = nn.Sequential(scaled(nn.Linear(8, 8), 1e6), nn.LayerNorm(8), nn.Linear(8, 4)).eval()
    notes = halfsafe.fix(model, draws(4, 8)).report.notes
    assert any("not settled within 60 s of search: how to fold constants" in n for n in notes)


def test_an_island_grows_until_storing_costs_no_more_than_rounding():
    """Depth from a disparity that is 0 in places, which are masked: safe, and 1.4 times the floor,
    before the product with the mask is in FP32 too."""
    torch.manual_seed(5)

    def depth(m, x):
        valid = (x > 0).to(x.dtype)
        return m.last(torch.relu(m.first(50.0 / (x + 1e-8) * valid)))

    parts = {"first": nn.Conv2d(1, 4, 3, padding=1), "last": nn.Conv2d(4, 1, 1)}
    model = Net(depth, **parts).eval()
    samples = [torch.rand(1, 1, 12, 12) * 40 + 2 for _ in range(4)]
    for x in samples:
        x[:, :, 2:5, 3:9] = 0
    proof = halfsafe.fix(model, [(x,) for x in samples]).report.verification
    assert proof is not None
    assert proof.safe
    assert proof.ratio < 1.25


def test_headroom_that_is_given_up_is_told():
    """Values of 45,000 fit in front of a sine, and nothing can be folded there."""
    model = Net(lambda m, x: torch.floor(x * 1.0) * 1e-4).eval()
    report = halfsafe.fix(model, [(torch.linspace(0, 45000, 64)[None],)]).report
    assert sum("headroom is given up" in note for note in report.notes) == 1, report.text()
    assert report.tightest is not None
    assert "headroom left: 0.5 bits" in report.text()


def test_headroom_is_left_where_a_multiplication_can_have_it():
    """A square of 40,000 fits, and folds nowhere. The report says by how much it may grow."""
    torch.manual_seed(0)
    model = Net(lambda m, x: torch.tanh(m.head(x * x) * 1e-5), head=nn.Linear(8, 8)).eval()
    fixed = halfsafe.fix(model, [torch.full((1, 8), 200.0)])
    assert fixed.report.safe and fixed.report.insertions
    assert fixed.report.tightest is not None
    bits = fixed.report.tightest[1]
    assert bits >= 1
    for close, fits in ((0.99, True), (1.01, False)):  # the square grows twice as fast
        louder = torch.full((1, 8), close * 200.0 * 2 ** (bits / 2))
        assert (half_error(fixed, model, louder) < 0.01) is fits


def test_kernels_that_give_nan_are_not_safe_by_a_metric_either():
    """A metric speaks of strict evaluation; what is delivered has to be finite all the same."""
    model, sample = nn.Linear(4, 4).eval(), torch.ones(2, 4)
    supply = Samples([sample])
    source = open_model(model, supply.first)
    proof = halfsafe.fix(model, [sample], metric="cosine").report.verification

    class Broken:
        def half_outputs(self, call):
            return [source.reference(call)[0] * torch.nan]

    found, _ = delivered(Broken(), References(source, FLOOR), supply, proof)
    assert proof.safe
    assert found.answer is Answer.NOT_SAFE
