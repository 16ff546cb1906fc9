"""The report as a record: what was decided stays as it was, in JSON and when reports merge."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

import halfsafe
from halfsafe import BadInput, Report
from halfsafe.graph import Graph, Kind, Node, Use, Value
from halfsafe.plan import Plan
from halfsafe.ranges import Range
from halfsafe.report.data import Reason, Tie
from halfsafe.report.explorer import explorer
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
        ({"schema": 3, "tool": "fix"}, "it has schema 3, not 5: run halfsafe fix again"),
        ({"values": {"x": {}}}, "'r.json' is not a report: KeyError"),
    ],
)
def test_a_report_that_cannot_be_read_says_why(fixed, tmp_path, monkeypatch, change, said):
    monkeypatch.chdir(tmp_path)
    with open("r.json", "w") as file:
        json.dump({**fixed.to_json(), **change}, file)
    with pytest.raises(BadInput, match=said):
        Report.load("r.json")
