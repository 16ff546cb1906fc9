"""Laws that users register for operators of their own."""

from collections.abc import Iterator

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import halfsafe
from halfsafe.rules import LAWS, Traits, families
from tests.replicas import scaled


@pytest.fixture
def steep() -> Iterator[object]:
    """An operator of torch.library, for the length of a test."""
    with torch.library._scoped_library("halfsafe_tests", "FRAGMENT"):

        @torch.library.custom_op("halfsafe_tests::steep", mutates_args=())
        def steep(x: Tensor, w: Tensor | None = None, limit: float = 1e6) -> Tensor:
            y = x if w is None else x * w
            return (2 * y.relu()).clamp(max=limit)

        steep.register_fake(lambda x, w=None, limit=1e6: torch.empty_like(x))
        yield steep


class Net(nn.Module):
    """A stream beyond the range of FP16, through someone's own operator."""

    def __init__(self, op) -> None:
        super().__init__()
        self.up, self.down = scaled(nn.Linear(16, 16), 2e5), scaled(nn.Linear(16, 4), 1e-3)
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.op(self.up(x)))


def build(op):
    torch.manual_seed(0)
    return Net(op).eval(), [torch.randn(8, 16) for _ in range(3)]


def exponents(report) -> dict[str, int]:
    return {n.op: report.values[n.outputs[0]].exponent for n in report.graph.nodes}


def test_an_exponent_passes_through_by_a_law_of_three_lines(steep):
    @halfsafe.register("halfsafe_tests::steep")
    def law(k):
        return [k.out == k["x"], k["limit"] == k["x"]]

    model, samples = build(steep)
    fixed = halfsafe.fix(model, samples)
    assert fixed.report.safe and not fixed.report.unknown_ops and not fixed.report.islands
    assert exponents(fixed.report)["halfsafe_tests.steep"] > 0
    assert not fixed.report.insertions
    assert all(torch.equal(fixed.model(x), model(x)) for x in samples)
    assert torch.isfinite(fixed.half()(samples[0])).all()


def test_without_a_law_it_is_pinned_and_reported(steep):
    report = halfsafe.fix(*build(steep)).report
    assert report.unknown_ops == ("halfsafe_tests.steep",)
    assert exponents(report)["halfsafe_tests.steep"] == 0
    assert report.islands or report.insertions


def test_a_family_is_a_rule_with_its_traits(steep):
    halfsafe.register("halfsafe_tests::steep")(families.pinned)
    assert LAWS["halfsafe_tests.steep"].traits == Traits()
    halfsafe.register("halfsafe_tests::other")(families.homogeneous)
    assert LAWS["halfsafe_tests.other"].traits.passes
    halfsafe.register("halfsafe_tests::third", Traits(relative=("x",)))(families.homogeneous)
    assert LAWS["halfsafe_tests.third"].traits == Traits(relative=("x",))
    report = halfsafe.inspect(*build(steep))
    assert not report.unknown_ops


@pytest.mark.parametrize("op", ["aten::relu", "aten.relu", "onnx.Relu", "com.microsoft.FastGelu"])
def test_an_operator_has_one_law(op):
    with pytest.raises(halfsafe.BadInput, match="has a law already"):
        halfsafe.register(op)


def test_a_name_says_whose_operator_it_is():
    with pytest.raises(halfsafe.BadInput, match="'Steep' has no namespace: write 'mylib::Steep'"):
        halfsafe.register("Steep")


def test_ones_own_law_is_not_replaced_either():
    halfsafe.register("mine::op")(families.homogeneous)
    with pytest.raises(halfsafe.BadInput, match=r"mine.op has a law already, 'homogeneous'"):
        halfsafe.register("mine::op")


@pytest.mark.parametrize(
    "rule", ["homogeneous", 3, lambda **k: [], lambda k, j: []], ids=["text", "3", "none", "two"]
)
def test_what_is_no_rule(rule):
    with pytest.raises(halfsafe.BadInput, match=r"the law of mine.op"):
        halfsafe.register("mine::op")(rule)
    assert "mine.op" not in LAWS


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda k: None, "the law of halfsafe_tests.steep gives None: return a list of equations"),
        (lambda k: [k.out], "return a list of equations"),
        (lambda k: [k.out == k["input"]], r"names 'input', and steep .* has 'x', 'limit'"),
        (lambda k: [k.out == k["x"], k["w"] == k["x"]], r"names 'w'.*k.all\('w'\)"),
        (lambda k: [k.out == 3], "an exponent that is 3"),
        (lambda k: [k.out == 0.5 * k["x"]], "0.5 times an exponent"),
    ],
)
def test_what_a_rule_must_not_give(steep, rule, message):
    halfsafe.register("halfsafe_tests::steep")(rule)
    with pytest.raises(halfsafe.BadInput, match=message):
        halfsafe.fix(*build(steep))


def test_a_wrong_law_does_not_go_unseen(steep):
    @halfsafe.register("halfsafe_tests::steep")
    def law(k):
        return [k.out == 2 * k["x"], *k.free(k["limit"])]

    report = halfsafe.fix(*build(steep)).report
    assert not report.safe and not report.verification.bit_equal


DISTANCES = """
    <ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>
    net (float[4, 2] x) => (float[4, 2] y)
    <float[2, 2] up = {2e5, 0.0, 1.0, 1e5},
     float[4, 2] c = {1e5, 2e5, -3e5, 4e5, 1.0, 2.0, 5e5, 0.0},
     float[4, 2] down = {1e-5, 0.0, 0.0, 2e-5, 1e-5, 1e-5, 0.0, -1e-5}> {
        h = MatMul (x, up)
        d = com.microsoft.CDist <metric = "euclidean"> (h, c)
        y = MatMul (d, down)
    }
"""


def test_an_operator_of_onnx_by_its_domain():
    model, rng = onnx.parser.parse_model(DISTANCES), np.random.default_rng(0)
    samples = [{"x": rng.standard_normal((4, 2)).astype(np.float32)} for _ in range(3)]
    before = halfsafe.fix(model, samples).report
    assert before.unknown_ops == ("com.microsoft.CDist",)

    @halfsafe.register("com.microsoft.CDist")
    def law(k):
        return [k["1"] == k["0"], k.out == k["0"]]

    report = halfsafe.fix(model, samples).report
    assert report.safe and not report.unknown_ops and not report.islands, report.text()
    assert exponents(report)["com.microsoft.CDist"] > 0
    assert report.verification.bit_equal
