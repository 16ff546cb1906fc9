"""The report as a record: what was decided stays as it was, in JSON and when reports merge."""

import json
import sys
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest
import torch
from torch import nn

import halfsafe
from halfsafe import BadInput, Report, cli
from halfsafe.bisecting.record import Bisection, Culprit, Shown, Trial
from halfsafe.graph import Graph, Kind, Node, Use, Value
from halfsafe.plan import Plan
from halfsafe.ranges import Range
from halfsafe.report.bisection import runs, verdict
from halfsafe.report.certificate import BoundReport, CertificateReport
from halfsafe.report.data import Reason, Tie
from halfsafe.report.explorer import explorer
from halfsafe.report.model_explorer import node_data
from halfsafe.report.reasons import equations_of, laws_of, reasons_of
from tests.replicas import Net, RMSNorm, draws, scaled

LOUD = Range(2.0**18, 2.0**10, 0, 0, 9, {10: 8, 18: 1})
PLAIN = Range(4.0, 1.0, 0, 0, 9, {0: 8, 2: 1})


def shared_weight():
    """Two branches that read one constant: relu(x @ w), and tanh(x @ w)."""
    values = [Value("x", Kind.INPUT, True, True, (2, 2)), Value("w", Kind.CONSTANT, True, True)]
    values += [Value(n, Kind.ACTIVATION, True, True, (2, 2)) for n in ("a", "relu", "b", "tanh")]
    operands = {"input": "x", "weight": "w"}
    nodes = (
        Node("a", "aten.linear", operands, ("a",)),
        Node("relu", "aten.relu", {"self": "a"}, ("relu",)),
        Node("b", "aten.linear", operands, ("b",)),
        Node("tanh", "aten.tanh", {"self": "b"}, ("tanh",)),
    )
    return Graph(nodes, {v.name: v for v in values}, ("x",), ("relu", "tanh"))


def reasons_under(plan):
    graph = shared_weight()
    ranges = {name: LOUD if name in ("a", "relu") else PLAIN for name in graph.values}
    return reasons_of(graph, ranges, 1, equations_of(graph), plan)


@pytest.fixture(scope="module")
def fixed():
    torch.manual_seed(0)
    net = nn.Sequential(scaled(nn.Linear(8, 8), 1e5), nn.ReLU(), RMSNorm(8), nn.Linear(8, 2))
    return halfsafe.fix(net.eval(), draws(4, 8)).report


# Reasons


def test_a_value_has_the_window_of_its_range():
    reason = reasons_under(Plan({}, {}, (), ()))["a"]
    assert (reason.low, reason.least) == (4, 3)
    assert reason.high is not None and reason.comfort is not None
    assert reason.high >= reason.comfort


def test_an_exponent_is_traced_to_what_asks_for_it():
    uses = {Use("a", "weight"): 4, Use("relu", "self"): 4}
    reasons = reasons_under(Plan({"a": 4, "relu": 4}, uses, (), ()))
    assert (reasons["a"].driver, reasons["a"].tie) == ("a", None)
    assert (reasons["w"].driver, reasons["w"].tie) == ("a", Tie("a", 0))
    assert not reasons["b"].driver and not reasons["x"].driver


def test_two_uses_of_a_constant_are_not_tied():
    """Each use is stored at an exponent of its own: tanh does not pin the other branch."""
    reasons = reasons_under(Plan({}, {}, (), ()))
    assert reasons["b"].pin.node == "tanh"
    assert reasons["a"].pin in ("x", "relu")


def test_an_inserted_mul_unties_what_is_before_it():
    cut = {Use("tanh", "self"): 0, Use("b", "weight"): 2}
    reasons = reasons_under(Plan({"b": 2}, cut, (), ()))
    assert reasons["b"].pin == "x"


def test_laws_are_text_by_node():
    graph = shared_weight()
    laws = laws_of(graph, equations_of(graph))
    assert laws["a"] == ("k[a] == k[input] + k[weight]",)
    assert sorted(laws["tanh"]) == ["k[self] == 0", "k[tanh] == 0"]


# What was decided is kept


def test_a_fix_comes_back_from_json(fixed, tmp_path):
    fixed.save(tmp_path / "r.json")
    assert Report.load(tmp_path / "r.json") == fixed
    drivers = {v.reason.driver for v in fixed.values.values()} - {""}
    assert drivers
    for driver in drivers:
        assert not fixed.values[driver].reason.low <= 0 <= fixed.values[driver].reason.high


def test_the_page_of_an_old_report_shows_what_was_decided_then(fixed):
    """Laws and windows are read, not derived: a law that has changed since stays as it was."""
    name = next(n for n, v in fixed.values.items() if n in fixed.laws and v.reason.driver)
    then = replace(fixed.values[name], reason=Reason(low=77, driver=name, pin=Tie(name, 0)))
    old = replace(
        fixed,
        laws={**fixed.laws, name: ("k[then] == 0",) * len(fixed.laws[name])},
        values={**fixed.values, name: then},
    )
    data = explorer(Report.from_json(json.loads(json.dumps(old.to_json()))))
    place = data["names"].index(name)
    assert data["values"]["low"][place] == 77
    assert data["values"]["driver"][place] == place
    assert "k[then] == 0" in data["texts"]


def test_merged_reports_have_the_windows_of_all_samples():
    net = Net(lambda m, x: m.norm(m.up(x)), up=scaled(nn.Linear(8, 8), 100.0), norm=RMSNorm(8))
    samples = [(x * 10.0**i,) for i, x in enumerate(torch.randn(3, 2, 8))]
    net.eval()
    whole = halfsafe.inspect(net, samples)
    merged = halfsafe.inspect(net, samples[:1]) | halfsafe.inspect(net, samples[1:])
    assert merged.laws == whole.laws
    assert {n: v.reason for n, v in merged.values.items()} == {
        n: v.reason for n, v in whole.values.items()
    }


def test_laws_are_not_repeated_by_value(fixed):
    text = json.dumps(fixed.to_json())
    for laws in fixed.laws.values():
        assert sum(text.count(json.dumps(law)) for law in set(laws)) == sum(
            list(all_laws).count(law) for law in set(laws) for all_laws in fixed.laws.values()
        )


# Reports that cannot be read


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 3, "tool": "fix"}, "it has schema 3, not 6: run halfsafe fix again"),
        ({"values": {"x": {}}}, "'r.json' is not a report: KeyError"),
    ],
)
def test_a_report_that_cannot_be_read_says_why(fixed, tmp_path, monkeypatch, change, said):
    monkeypatch.chdir(tmp_path)
    with open("r.json", "w") as file:
        json.dump({**fixed.to_json(), **change}, file)
    with pytest.raises(BadInput, match=said):
        Report.load("r.json")


# A certificate


NARROW = CertificateReport(
    shapes={"x": (4, 8)},
    domain={"x": (-1.0, 1.0)},
    values={
        "x": BoundReport("certified", bits=0.0, bound=1.0, by="domain", where="x (input)"),
        "w": BoundReport("certified", bits=0.0, bound=0.25, by="constants", where="the constant w"),
        "up": BoundReport("certified after rescaling", "", 2.0, 6e4, "intervals", "up (aten.mul)"),
        "down": BoundReport("certified", "", 3.0, 2.0, "balls", "down (aten.mul)"),
    },
    sums="all 2 sums of products could be added up in FP16",
)
"""A certificate of all values; the weight's costs nothing, and does not count."""

LOST = BoundReport("measured only", "odd (aten.odd), which has no bound", where="odd (aten.odd)")
LARGE = BoundReport("measured only", "it may be 7e+04", 1.0, 7e4, "joint", "big (aten.mul)")
OPEN = replace(NARROW, values={**NARROW.values, "odd": LOST, "odder": LOST, "big": LARGE})


def test_a_certificate_comes_back_from_json(fixed, tmp_path):
    for found in (NARROW, replace(OPEN, domain={"x": None}), CertificateReport({}, {}, {})):
        report = replace(fixed, certificate=found)
        report.save(tmp_path / "r.json")
        assert Report.load(tmp_path / "r.json") == report


def test_totals_count_values_and_bits():
    assert OPEN.counts == {"certified": 3, "certified after rescaling": 1, "measured only": 3}
    assert (NARROW.complete, OPEN.complete) == (True, False)
    assert NARROW.cost == (2.0, 3.0, "down")
    assert OPEN.to_json()["totals"] == {
        "certified": 3,
        "certified_after_rescaling": 1,
        "measured_only": 3,
        "median_bits": 1.5,
        "most_bits": 3.0,
        "most_bits_of": "down",
    }


def test_a_certificate_of_all_values_is_told_with_its_domain(fixed):
    said = " ".join(replace(fixed, certificate=NARROW).text().split())
    for text in (
        "domain x 4x8 in [-1, 1]",
        "certified 3 of 4 values",
        "certified after rescaling 1",
        "measured only 0",
        "2.0 bits in the median, 3.0 at most: down (aten.mul)",
        "sums of products all 2 sums",
        "Safe in FP16. Safe for every input of the domain, where sums are added up in FP32: FP16 "
        "holds all 4 values.",
    ):
        assert text in said, text
    assert "Certificate" not in fixed.text()


def test_what_is_measured_only_is_told_and_nothing_is_claimed(fixed):
    said = " ".join(replace(fixed, certificate=OPEN).text().split())
    assert "2 values without a bound: odd (aten.odd), which has no bound" in said
    assert "too large: big (aten.mul), up to 7e+04" in said
    assert "Safe in FP16. Of 7 values 3 are measured only." in said
    assert "Safe for every input" not in said


def test_a_fix_that_is_not_safe_is_so_for_no_domain(fixed):
    broken = replace(fixed.verification, delivered="it does not run")
    report = replace(fixed, verification=broken, certificate=NARROW)
    assert "Safe for every input" not in report.text()


# A bisection


class Times(nn.Module):
    """x times a factor."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


MADE = Shown("mul", 1e6, 5e4, 3, 1, 8, 1e-3)
CULPRIT = Culprit("mul", "aten.mul", "1", "net.py:5", 1e-3, inf, 1, since="mul",
                  reason="stored as inf", makes=(MADE,), kept=("mul",))  # fmt: skip
HALVED = Bisection(
    engine="onnxruntime",
    version="1.26",
    metric="max_abs",
    tolerance=1e-2,
    operators=8,
    error=inf,
    mended=2e-3,
    complete=True,
    builds=6,
    seconds=2.5,
    culprits=(CULPRIT,),
    trials=(
        Trial(8, "sum", inf, 1, whole=True, limit=0.01),
        Trial(4, "relu", 1e-3, 1, known=True, limit=0.01),
        Trial(6, "tanh", 0.5, 0, limit=0.01),
        Trial(5, "mul", inf, 1, why="no kernel", limit=0.01),
        Trial(10, "sum", 2e-3, 1, whole=True, kept=1, limit=0.01),
    ),
    notes=("a note",),
)
NOT_RUN = replace(
    HALVED,
    mended=inf,
    complete=False,
    culprits=(
        replace(CULPRIT, node="sum", since="linear", reason="time ran out", makes=(), kept=()),
    ),
    trials=(),
)
HALF_WAY = replace(NOT_RUN, trials=HALVED.trials[:2])
SECOND = replace(NOT_RUN, culprits=(CULPRIT, *NOT_RUN.culprits), trials=HALVED.trials[:4])


@pytest.fixture(scope="module")
def bisected():
    torch.manual_seed(0)
    layers = [m for factor in (1.0, 1e6, 1.0) for m in (nn.Linear(8, 8), Times(factor))]
    net = nn.Sequential(*layers, nn.LayerNorm(8)).eval()
    return halfsafe.bisect(net, draws(4, 8), engine="torch", rank=2).report


def test_a_bisection_comes_back_from_json(bisected, tmp_path):
    assert bisected.bisection.error == bisected.bisection.alone[0].error == inf
    for found in (bisected.bisection, HALVED, NOT_RUN):
        report = replace(bisected, bisection=found)
        report.save(tmp_path / "r.json")
        assert Report.load(tmp_path / "r.json") == report


def test_a_saved_bisection_becomes_a_page(bisected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    bisected.save("x.json")
    monkeypatch.setattr(sys, "argv", ["halfsafe", "report", "x.json", "-o", "x.html"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
    assert "is the first operator after which" in capsys.readouterr().out
    bisected.html("again.html")
    assert Path("x.html").read_text() == Path("again.html").read_text()


def test_a_bisection_is_told_ahead_of_all_else(bisected):
    lines = bisected.text().splitlines()
    (culprit,) = bisected.bisection.culprits
    assert lines[2].startswith("Bisection on torch (torch ")
    assert lines[2].endswith("max_rel at most 0.01")
    assert lines[3].startswith(f"{culprit.node} (aten.mul in 3) is the first operator")
    said = " ".join(bisected.text().split())
    for text in (
        "test_report.py:",
        f"error {culprit.before:.3g} ahead of it, inf with it, sample {culprit.sample}",
        f"reads {culprit.reads[0].name} {culprit.reads[0].amax:.4g}",
        f"{culprit.makes[0].nonfinite} inf or NaN of {culprit.makes[0].count}",
        f"in FP32 instead: {', '.join(culprit.kept)}",
        f"{bisected.bisection.builds} builds for 7 operators",
        f"error with {len(culprit.kept)} operators in FP32 {bisected.bisection.mended:.3g}",
        "Alone in FP16",
    ):
        assert text in said, text
    assert said.index("Culprit 1") < said.index("Runs") < said.index("Faults")


def test_the_interval_shrinks_run_by_run():
    lefts = ["1 to 8", "5 to 8", "5 to 6", "5", "none"]
    assert [run.left for run in runs(HALVED)] == lefts
    assert [run.good for run in runs(HALVED)] == [False, True, False, False, True]
    figures = ["inf", "0.001 (known)", "0.5", "inf (refused)", "0.002"]
    assert [run.figure for run in runs(HALVED)] == figures


def test_runs_after_the_end_let_one_culprit_go():
    more = Trial(10, "sum", inf, 1, whole=True, kept=1, limit=0.01)
    *_, last = runs(replace(HALVED, trials=(*HALVED.trials, more)))
    assert (last.what, last.left) == ("the whole network, one culprit fewer", "")


def test_a_run_is_good_by_what_was_asked_of_it():
    """The tolerance was raised where rounding alone is beyond it."""
    ahead = (
        HALVED.trials[0],
        Trial(6, "tanh", 0.08, 0, limit=0.2),
        Trial(7, "mul", 0.5, 0, limit=0.2),
    )
    found = replace(HALVED, trials=ahead, floor=0.1)
    assert [run.left for run in runs(found)] == ["1 to 8", "7 to 8", "7"]
    assert "beyond twice what rounding costs" in verdict(found)


def test_where_rounding_is_beyond_the_tolerance_fp16_cannot_do_better():
    found = replace(HALVED, error=0.15, floor=0.1)
    assert "FP16 cannot do better on onnxruntime: rounding alone costs 0.1" in verdict(found)


WITHIN = replace(
    HALVED, error=1e-3, culprits=(), trials=(Trial(8, "sum", 1e-3, 0, whole=True, limit=0.01),)
)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (WITHIN, "Within the tolerance on onnxruntime: nothing to bisect."),
        (NOT_RUN, "Time ran out before the whole network had run on onnxruntime."),
        (HALF_WAY, "before the culprit was known: it is one of those from linear to sum."),
        (HALF_WAY, "not known: one of 4 operators, linear to sum"),
        (HALF_WAY, "error 0.001 ahead of these, inf with all of them"),
        (SECOND, "mul (aten.mul in 1) is the first operator after which outputs are beyond the "
         "tolerance on onnxruntime; the search is not complete."),
        (SECOND, "not known: linear to sum time ran out before the whole network with the culprits "
         "so far in FP32 had run"),
        (replace(HALVED, culprits=(CULPRIT, CULPRIT)), "; 1 more culprit once that is mended."),
        (replace(HALVED, culprits=()),
         "Beyond the tolerance on onnxruntime, and no culprit is known."),
        (HALVED, "error with 1 operator in FP32 0.002, at most 0.01"),
        (replace(HALVED, trials=(HALVED.trials[0], replace(WITHIN.trials[0], error=2e-3))),
         "error as the planner mends it 0.002, at most 0.01"),
        (HALVED, "6 builds for 8 operators, 2.5 s, 1 run known from before"),
        (HALVED, "note: a note"),
        (HALVED, "makes mul 1e+06 5e+04 0.001 3 inf or NaN, 1 zero of 8"),
    ],
)  # fmt: skip
def test_a_bisection_claims_what_was_run_and_no_more(bisected, found, said):
    report = replace(bisected, bisection=found)
    assert said in " ".join(report.text().split())
    assert report.safe == found.within


def test_a_value_of_which_nothing_is_finite_has_no_error(bisected):
    lost = replace(CULPRIT, makes=(replace(MADE, nonfinite=8, largest=0.0, error=0.0, zeros=0),))
    text = replace(bisected, bisection=replace(HALVED, culprits=(lost,))).text()
    assert "makes mul 1e+06 8 inf or NaN of 8" in " ".join(text.split())


def test_faults_do_not_judge_the_outputs_of_a_bisection(bisected):
    assert bisected.faults[0].outcome
    assert f"outputs {bisected.faults[0].outcome}" not in bisected.text()


def test_culprits_stand_out_in_model_explorer(bisected):
    results = node_data(replace(bisected, faults=()))["graph"]["results"]
    (culprit,) = bisected.bisection.culprits
    assert [name for name, found in results.items() if "bgColor" in found] == [culprit.node]
    unknown = replace(bisected, faults=(), bisection=HALF_WAY)
    assert not any("bgColor" in found for found in node_data(unknown)["graph"]["results"].values())
