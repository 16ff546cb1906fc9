"""Gate forms: one template each, the same function in every dialect and at every exponent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import erf, inf, nan, pi, sqrt
from typing import Any, get_args

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

import halfsafe
from halfsafe.edits import Lower
from halfsafe.errors import EditError
from halfsafe.forms import FAR, FORM_OF, FORMS, Operator, Term, Word, render
from halfsafe.frontends.onnx import forms as in_onnx
from halfsafe.frontends.torch import forms as in_torch
from halfsafe.frontends.torch.capture import capture
from halfsafe.frontends.torch.edit import apply
from halfsafe.frontends.torch.program import Program
from halfsafe.graph import Graph, Kind, Node, Value
from halfsafe.remedies import SMALL, gate_forms
from halfsafe.samples import Call
from halfsafe.windows import Limits, Window

Array = NDArray[Any]

# Every form in FP64, by NumPy: a third dialect, in which rounding hides nothing


def softplus(x: Array) -> Array:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def elu(x: Array, alpha: float = 1.0, scale: float = 1.0, slope: float = 1.0) -> Array:
    return scale * np.where(x > 0, x, alpha * np.expm1(np.minimum(x * slope, 0)))


def selu(x: Array) -> Array:
    return elu(x, 1.6732632423543772, in_torch.SELU_SCALE)


def sigmoid(x: Array) -> Array:
    return np.exp(-softplus(-x))


def hardsigmoid(x: Array) -> Array:
    return np.clip(x / 6 + 0.5, 0, 1)


def by_erf(x: Array) -> Array:
    return x * (1 + np.vectorize(erf)(x / sqrt(2))) / 2


def by_tanh(x: Array) -> Array:
    return x * (1 + np.tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) / 2


def log_softmax(x: Array) -> Array:
    below = x - x.max(-1, keepdims=True)
    return below - np.log(np.exp(below).sum(-1, keepdims=True))


def softmax(x: Array) -> Array:
    return np.exp(log_softmax(x))


WORDS: dict[Word, Callable[..., Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "clip": lambda x, low, high=inf: np.clip(x, low, high),
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": sigmoid,
    "hardsigmoid": hardsigmoid,
    "tanh": np.tanh,
    "erf": np.vectorize(erf),
    "softplus": softplus,
    "largest": lambda x: x.max(-1, keepdims=True),
}


class Exact:
    """The renderer that computes at once, in FP64."""

    def __init__(self, x: Array, itself: Callable[[Array], Array], **numbers: Any) -> None:
        self.given, self.itself, self.numbers = x, itself, numbers
        self.found: Array = x

    @property
    def operator(self) -> Operator:
        return Operator(Term(), **self.numbers)

    def read(self) -> Array:
        return self.given

    def call(self, word: Word, *operands: Array | float) -> Array:
        return (self.itself if word == "kept" else WORDS[word])(*operands)  # type: ignore

    def become(self, word: Word, *operands: Array | float) -> None:
        self.found = self.call(word, *operands)


@dataclass(frozen=True)
class Case:
    """An operator of torch's, its form, its function in FP64, and its numbers."""

    name: str
    form: str
    torch: Callable[[Any], Any]
    exact: Callable[[Array], Array]
    numbers: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        return self.name


def silu(slope: float) -> Callable[[Array], Array]:
    return lambda x: x * sigmoid(slope * x)


CASES = [
    Case("silu", "silu", F.silu, silu(1.0)),
    Case(
        "quick gelu", "silu", lambda x: x * torch.sigmoid(1.702 * x), silu(1.702),
        (("slope", 1.702),),
    ),
    Case("gelu", "gelu", F.gelu, by_erf),
    Case(
        "gelu by tanh", "gelu", lambda x: F.gelu(x, approximate="tanh"), by_tanh,
        (("by_tanh", True),),
    ),
    Case("hardswish", "hardswish", F.hardswish, lambda x: x * hardsigmoid(x)),
    Case("mish", "mish", F.mish, lambda x: x * np.tanh(softplus(x))),
    Case("elu", "elu", F.elu, elu),
    Case("elu of 2.5", "elu", lambda x: F.elu(x, 2.5), lambda x: elu(x, 2.5)),
    Case(
        "scaled elu", "elu", lambda x: torch.ops.aten.elu(x, 0.7, 3.0, 0.5),
        lambda x: elu(x, 0.7, 3.0, 0.5), (("scale", 3.0),),
    ),
    Case("celu", "elu", lambda x: F.celu(x, 1.5), lambda x: elu(x, 1.5, 1.0, 1 / 1.5)),
    Case("selu", "selu", F.selu, selu, (("scale", in_torch.SELU_SCALE),)),
    Case("softplus", "softplus", F.softplus, softplus),
    Case(
        "softplus with a threshold", "softplus", lambda x: F.softplus(x, 2.0, 1.0),
        lambda x: np.where(2 * x > 1.0, x, softplus(2 * x) / 2),
    ),
    Case("softmax", "softmax", lambda x: x.softmax(-1), softmax),
    Case("log_softmax", "log_softmax", lambda x: x.log_softmax(-1), log_softmax),
]  # fmt: skip
ATEN = [case for case in CASES if case.name != "quick gelu"]

SIZES = [20, 50, 64, 100, 1e4, FAR, 3e5, 1e9]
LINE = np.concatenate([np.linspace(-15, 15, 400), np.multiply(SIZES, -1), SIZES, [0.0, -0.0, 1, 2]])
GRID = np.random.default_rng(0).permuted(np.tile(LINE, (4, 1)), axis=1).T.astype(np.float32)
"""Rows of four, in which ordinary numbers meet large ones."""

SPECIAL = np.array(
    [[inf] * 4, [-inf] * 4, [nan] * 4, [0, -inf, 1, 2], [nan, 0, 1, 3e5], [inf, 0, 1, -inf],
     [-inf, 3e5, -inf, -1e9]], np.float32,
)  # fmt: skip


def assert_same_function(case: Case, found: Array, known: Array, accuracy: float) -> None:
    """As near as rounding allows, beside the entry itself or 1."""
    allowed = accuracy * np.maximum(np.abs(known), 1.0)
    worst = np.argmax(np.abs(found - known) / allowed)
    at = GRID.ravel()[worst], found.ravel()[worst], known.ravel()[worst]
    assert (np.abs(found - known) <= allowed).all(), f"{case} of %g is %g, not %g" % at


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_template_is_its_operator_in_fp64(case: Case):
    x = GRID.astype(np.float64)
    with np.errstate(over="ignore"):
        renderer = Exact(x, case.exact, **dict(case.numbers))
        render(case.form, renderer)
        assert_same_function(case, renderer.found, case.exact(x), 1e-14)


# In torch


class Only(nn.Module):
    def __init__(self, op: Callable[[Any], Any]) -> None:
        super().__init__()
        self.op = op

    def forward(self, x):
        return self.op(x)


def program_of(case: Case) -> Program:
    """The operator alone; what a capture in bfloat16 holds is run in FP32."""
    return capture(Only(case.torch).eval(), Call((torch.from_numpy(GRID),), {})).program


def lowered(program: Program, form: str) -> Program:
    (node,) = program.graph.nodes
    return apply(program, [Lower(node.name, form)])


def run(program: Program, x: Array) -> Array:
    return program.module()(torch.from_numpy(x)).numpy()


@pytest.mark.parametrize("case", ATEN, ids=str)
def test_in_torch_a_form_is_the_same_function(case: Case):
    before = program_of(case)
    after = lowered(before, case.form)
    assert len(after.graph.nodes) > 1 == len(before.graph.nodes)
    found, known = run(after, GRID), run(before, GRID)
    with np.errstate(over="ignore"):
        assert_same_function(case, found, case.exact(GRID.astype(np.float64)), 1e-6)
    assert_same_function(case, found, known, 1e-6)


@pytest.mark.parametrize("case", ATEN, ids=str)
def test_in_torch_infinities_and_nan_come_out_as_they_did(case: Case):
    """Or as they are in FP64: torch's vector kernel says that gelu(inf) is NaN."""
    before = program_of(case)
    found, known = run(lowered(before, case.form), SPECIAL), run(before, SPECIAL)
    with np.errstate(over="ignore", invalid="ignore"):
        exact = case.exact(SPECIAL.astype(np.float64))
    same = [np.isclose(found, x, rtol=1e-6, atol=1e-6, equal_nan=True) for x in (known, exact)]
    assert (same[0] | same[1]).all(), (found, known)
    if case.name != "gelu":
        assert same[0].all(), (found, known)


@pytest.mark.parametrize("case", ATEN, ids=str)
def test_in_torch_types_and_lines_stay(case: Case):
    before = program_of(case)
    (node,) = before.graph.nodes
    after = lowered(before, case.form).graph
    new, old = after.values[after.outputs[0]], before.graph.values[node.outputs[0]]
    assert (new.shape, new.bounded) == (old.shape, old.bounded)
    assert {(n.module, n.line) for n in after.nodes} == {(node.module, node.line)}


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("op", [torch.softmax, torch.log_softmax])
@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_in_torch_a_softmax_over_any_axis_that_may_be_in_float32(op: Any, dim: int, dtype: Any):
    case = Case("", op.__name__, lambda x: op(x, dim, dtype=dtype), softmax)
    before = program_of(case)
    name = next(n.name for n in before.graph.nodes if "softmax" in n.op)
    after = apply(before, [Lower(name, case.form)])
    assert np.allclose(run(after, GRID), run(before, GRID), rtol=1e-6, atol=1e-6)
    (old,), (new,) = (
        tuple(p.graph.values[o].bounded for o in p.graph.outputs) for p in (before, after)
    )
    assert old == new


# At every exponent


class Net(nn.Module):
    """The operator on numbers of order 2^power, which a product takes back."""

    def __init__(self, op: Callable[[Any], Any], power: int, back: int) -> None:
        super().__init__()
        self.op, self.up, self.down = op, nn.Linear(4, 8, bias=False), nn.Linear(8, 2, bias=False)
        with torch.no_grad():
            self.up.weight.mul_(2.0**power)
            self.down.weight.mul_(2.0**back)

    def forward(self, x):
        return self.down(self.op(self.up(x)))


NETS = [case for case in ATEN if "threshold" not in case.name]
POWERS = {str(case): np.random.default_rng(i).integers(18, 27) for i, case in enumerate(NETS)}


def assert_no_island(report: halfsafe.Report, forms: int) -> None:
    assert report.verification.before_nonfinite, "FP16 did not hurt it"
    assert report.safe, report.text()
    assert report.islands == ()
    assert len(report.forms) == forms, report.forms
    assert report.verification.ratio <= 1.2, report.verification


@pytest.mark.parametrize("case", NETS, ids=str)
def test_in_torch_an_overflow_is_fixed_without_an_island(case: Case):
    """At some exponent; FP32 gives the bits of the form, as proved by fix() itself."""
    torch.manual_seed(0)
    power = int(POWERS[str(case)])
    net = Net(case.torch, power, 0 if case.form == "softmax" else 6 - power).eval()
    report = halfsafe.fix(net, [torch.randn(16, 4) for _ in range(3)]).report
    has_law = case.name in ("elu", "elu of 2.5", "scaled elu", "softplus")
    assert_no_island(report, forms=0 if has_law else 1)


def fixed_when_small(op: Callable[[Any], Any]) -> halfsafe.Report:
    torch.manual_seed(0)
    return halfsafe.fix(Net(op, -30, 30).eval(), [torch.randn(16, 4) for _ in range(3)]).report


@pytest.mark.parametrize("op", [F.silu, F.gelu, F.hardswish, F.mish])
def test_in_torch_a_gate_serves_small_numbers_as_well(op: Callable[[Any], Any]):
    report = fixed_when_small(op)
    assert report.safe and not report.islands, report.text()
    assert len(report.forms) == 1


def test_a_softmax_of_small_scores_keeps_its_bits():
    """Its form would have differences as small as the scores, and be an island all the same."""
    report = fixed_when_small(lambda x: x.softmax(-1))
    assert report.safe and report.islands and not report.forms, report.text()


def test_a_net_of_what_was_an_island():
    """Mish, SELU and log_softmax in one network, each far beyond FP16."""

    class All(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x):
            h = self.up(x)
            return self.down(F.mish(h) + F.selu(h) + F.log_softmax(h, -1))

    torch.manual_seed(0)
    net = All().eval()
    with torch.no_grad():
        net.up.weight.mul_(1e6)
        net.down.weight.mul_(1e-6)
    assert_no_island(halfsafe.fix(net, [torch.randn(16, 4) for _ in range(3)]).report, forms=3)


# No form without its words


DIALECTS = {"aten": in_torch.OPERATORS, "onnx": in_onnx.OPERATORS}


def dialect(op: str) -> str:
    return "aten" if op.startswith("aten.") else "onnx"


@pytest.mark.parametrize("name", DIALECTS)
def test_every_word_is_an_operator_in_every_dialect(name: str):
    assert {*DIALECTS[name], "kept"} == set(get_args(Word)) == {*WORDS, "kept"}


@pytest.mark.parametrize("name", DIALECTS)
def test_every_form_is_one_of_some_operator_in_every_dialect(name: str):
    assert {form for op, form in FORM_OF.items() if dialect(op) == name} == set(FORMS)


def test_every_form_is_tested():
    """In ONNX it is so too: tests/test_onnx_lower.py."""
    assert {case.form for case in ATEN} == set(FORMS)


@pytest.mark.parametrize("form", FORMS)
def test_a_form_has_its_law_in_one_line(form: str):
    said = (FORMS[form].__doc__ or "").splitlines()
    assert len(said) == 1 and " = " in said[0], said


def test_every_operator_is_one_that_onnx_knows():
    for op in FORM_OF:
        if op.startswith("onnx."):
            assert onnx.defs.has(op.removeprefix("onnx."))
        if dialect(op) == "aten":
            assert hasattr(torch.ops.aten, op.removeprefix("aten."))


def test_operators_whose_forms_serve_small_numbers_have_one():
    assert set(FORM_OF) > SMALL


def test_a_form_of_another_operator_is_refused():
    program = program_of(next(case for case in CASES if case.name == "gelu"))
    with pytest.raises(EditError, match=r"aten\.gelu has no form 'silu'"):
        lowered(program, "silu")


@pytest.mark.parametrize("op", FORM_OF)
def test_a_form_is_proposed_where_no_law_helps(op: str):
    """ELU and Softplus of ATen, and Swish of ONNX, have numbers that undo an exponent."""
    values = {
        "x": Value("x", Kind.INPUT, True, True),
        "a": Value("a", Kind.LITERAL, True, number=1.0),
        "y": Value("y", Kind.ACTIVATION, True, True),
    }
    has_law = op in ("aten.elu", "aten.softplus", "onnx.Swish", "com.microsoft.QuickGelu")
    inputs = {"self": "x"} | {n: "a" for n in ("alpha", "beta", "slope") if has_law}
    node = Node("n", op, inputs, ("y",))
    graph = Graph((node,), values, ("x",), ("y",))
    beyond = Window(low=3, least=2, high=30, comfort=30)
    found = gate_forms(graph, {"x": beyond}, Limits())
    assert found == ([] if has_law else [Lower("n", FORM_OF[op])])
    wished = replace(beyond, least=0)  # a bound that FP16 does not hold
    assert gate_forms(graph, {"x": wished}, Limits()) == []
    assert gate_forms(graph, {"x": wished}, Limits(bounds={"x": 3e5})) == found
