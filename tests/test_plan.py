"""The planner on graphs small enough to solve by hand."""

import gc
import os
import subprocess
import sys
from dataclasses import dataclass, field
from math import floor, log2
from pathlib import Path

import pytest

from bench.planning_graphs import FAMILIES, densenet
from halfsafe.exponents.branching import branched
from halfsafe.exponents.choosing import within
from halfsafe.exponents.model import Program
from halfsafe.exponents.system import MUL, Wish
from halfsafe.graph import Graph, Kind, Node, Use, Value
from halfsafe.plan import Plan, plan
from halfsafe.ranges import Range
from halfsafe.windows import Limits, windows


def entries(amax: float, binades: int = 6) -> Range:
    """A hundred entries in each of the highest binades."""
    top = floor(log2(amax))
    counts = dict.fromkeys(range(top - binades + 1, top + 1), 100)
    return Range(amax, 2.0 ** (top - binades + 1), count=100 * binades, binades=counts)


@dataclass
class Sketch:
    """A graph drawn call by call; every value says how large it gets."""

    nodes: list[Node] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)
    ranges: dict[str, Range] = field(default_factory=dict)

    def value(self, name: str, amax: float, kind: Kind, size: int = 100, **more: float) -> str:
        bounded = kind != Kind.LITERAL and not more.pop("in_float32", False)
        binades = int(more.pop("binades", 6))
        self.values[name] = Value(name, kind, True, bounded, (size,), **more)
        self.ranges[name] = entries(amax, binades)
        return name

    def input(self, name: str, amax: float = 1.0, **more: int) -> str:
        return self.value(name, amax, Kind.INPUT, **more)

    def weight(self, name: str, amax: float = 1.0) -> str:
        return self.value(name, amax, Kind.CONSTANT)

    def number(self, name: str, number: float) -> str:
        return self.value(name, number, Kind.LITERAL, size=1, number=number)

    def call(self, name: str, op: str, amax: float, /, *, in_float32: bool = False, **inputs: str):
        self.nodes.append(Node(name, f"aten.{op}", inputs, (name,)))
        size = max(self.values[v].size for v in inputs.values())
        return self.value(name, amax, Kind.ACTIVATION, size, in_float32=in_float32)

    def linear(self, name: str, x: str, amax: float, weight: str = "") -> str:
        weight = weight or self.weight(f"{name}.weight")
        return self.call(name, "linear", amax, input=x, weight=weight)

    def graph(self, *outputs: str) -> Graph:
        inputs = tuple(n for n, v in self.values.items() if v.kind == Kind.INPUT)
        return Graph(tuple(self.nodes), self.values, inputs, outputs)

    def plan(self, *outputs: str) -> Plan:
        graph = self.graph(*outputs)
        return plan(graph, windows(graph, self.ranges, Limits()))


def insertions(drawn: Sketch, found: Plan) -> dict[Use, int]:
    """Where an activation is read at another exponent than it is made at, and by how many bits."""
    return {
        use: k - found.exponents[value]
        for node in drawn.nodes
        for operand, value in node.inputs.items()
        if drawn.values[value].kind in (Kind.INPUT, Kind.ACTIVATION)
        and (k := found.uses[use := Use(node.name, operand)]) != found.exponents[value]
    }


@pytest.fixture
def draw() -> Sketch:
    return Sketch()


def test_what_fits_is_left_alone(draw):
    draw.linear("y", draw.linear("h", draw.input("x"), 100.0), 1.0)
    found = draw.plan("y")
    assert not any(found.exponents.values())
    assert not any(found.uses.values())
    assert found.changed == 0
    assert not found.conflicts


def test_a_chain_is_folded_into_the_weights_on_both_sides(draw):
    h = draw.linear("h", draw.input("x"), 1e6)  # 4 bits above 65504, and one of headroom
    r = draw.call("r", "relu", 1e6, self=h)
    draw.linear("y", r, 1.0)
    found = draw.plan("y")
    assert (found.exponents["h"], found.exponents["r"]) == (5, 5)
    assert found.uses[Use("h", "weight")] == 5
    assert found.uses[Use("y", "weight")] == -5
    assert (found.exponents["x"], found.exponents["y"]) == (0, 0)
    assert not insertions(draw, found)


def test_a_normalisation_takes_the_exponent_into_its_epsilon(draw):
    h = draw.linear("h", draw.input("x"), 1e6)
    draw.call("y", "layer_norm", 1.0, input=h, eps=draw.number("eps", 1e-5))
    found = draw.plan("y")
    assert found.uses[Use("y", "eps")] == 10
    assert found.exponents["y"] == 0


def test_both_sides_of_a_sum_share_an_exponent(draw):
    x = draw.input("x")
    a, b = draw.linear("a", x, 10.0), draw.linear("b", x, 1e6)
    s = draw.call("s", "add", 1e6, self=a, other=b)
    draw.linear("y", s, 1.0)
    found = draw.plan("y")
    assert {found.exponents[name] for name in "abs"} == {5}
    assert not insertions(draw, found)


def test_headroom_is_kept_where_it_costs_nothing(draw):
    draw.linear("y", draw.linear("h", draw.input("x"), 40000.0), 1.0)
    assert draw.plan("y").exponents["h"] == 1


def test_headroom_that_folding_cannot_have_is_inserted(draw):
    x = draw.input("x", 200.0)
    draw.linear("y", draw.call("h", "mul", 40000.0, self=x, other=x), 1.0)
    found = draw.plan("y")
    assert found.exponents["h"] == 1
    assert len(insertions(draw, found)) == 1
    assert not found.conflicts


def test_headroom_that_an_insertion_cannot_have_either_is_given_up_without_one(draw):
    h = draw.call("h", "floor", 40000.0, self=draw.input("x", 40000.0))
    draw.call("y", "sin", 1.0, self=h)
    found = draw.plan("y")
    assert found.exponents["h"] == 0
    assert not insertions(draw, found)
    assert not found.conflicts
    assert len(found.notes) == 1


def test_a_product_of_pinned_values_needs_one_insertion(draw):
    a = draw.call("a", "tanh", 1000.0, self=draw.input("x"))
    draw.linear("y", draw.call("h", "mul", 1e6, self=a, other=a), 1.0)
    found = draw.plan("y")
    assert found.exponents["h"] >= 4
    assert len(insertions(draw, found)) == 1
    assert not found.conflicts


def test_the_insertion_goes_where_there_are_the_fewest_bytes(draw):
    large = draw.call("large", "tanh", 1000.0, self=draw.input("x", size=10**6))
    small = draw.call("small", "tanh", 1000.0, self=draw.input("z", size=10))
    draw.linear("y", draw.call("h", "mul", 1e6, self=large, other=small), 1.0)
    found = draw.plan("y")
    assert list(insertions(draw, found)) == [Use("h", "other")]


def test_windows_that_exclude_each_other_are_joined_by_an_insertion(draw):
    x = draw.input("x", 8.0, binades=20)  # has small entries: no exponent above 0
    a = draw.linear("a", draw.call("t", "tanh", 1.0, self=x), 1e6)
    s = draw.call("s", "relu", 1e6, self=a)
    p = draw.call("p", "mul", 100.0, self=s, other=draw.call("u", "tanh", 1e-4, self=x))
    draw.call("y", "sin", 1.0, self=p)
    found = draw.plan("y")
    assert not found.conflicts
    assert len(insertions(draw, found)) == 1
    assert found.exponents["a"] >= 4
    assert found.uses[Use("y", "self")] == 0


def test_a_value_that_a_pinned_operator_reads_is_reported(draw):
    h = draw.linear("h", draw.input("x"), 1e6)
    draw.call("y", "sin", 1.0, self=h)
    found = draw.plan("y")
    assert {c.unknown for c in found.conflicts} & {"h", Use("y", "self")}
    assert all(c.exponent < c.window.least for c in found.conflicts)


def test_an_operator_without_a_law_is_pinned_and_reported(draw):
    draw.call("y", "bessel", 1.0, self=draw.linear("h", draw.input("x"), 1e6))
    found = draw.plan("y")
    assert found.unknown_ops == ("aten.bessel",)
    assert found.uses[Use("y", "self")] == 0
    assert found.conflicts


def test_an_output_beyond_the_range_is_scaled_at_the_rim(draw):
    draw.linear("y", draw.input("x"), 1e6)
    found = draw.plan("y")
    assert found.exponents["y"] >= 4
    assert not found.conflicts


def test_tiny_weights_are_lifted(draw):
    h = draw.linear("h", draw.input("x"), 1e-6, draw.weight("tiny", 1e-7))
    draw.linear("y", h, 1.0, draw.weight("huge", 1e6))
    found = draw.plan("y")
    assert found.uses[Use("h", "weight")] < -9  # 1e-7 is 10 bits under the smallest normal number
    assert found.exponents["h"] == found.uses[Use("h", "weight")]
    assert found.uses[Use("y", "weight")] == -found.exponents["h"]


def test_what_is_computed_in_float32_has_no_window(draw):
    x = draw.input("x", 200.0)
    h = draw.call("h", "mul", 1e6, self=x, other=x, in_float32=True)
    draw.linear("y", h, 1.0)
    assert not any(draw.plan("y").exponents.values())


def test_a_tied_weight_stays_one_where_it_can(draw):
    w = draw.weight("w", 2e5)
    x = draw.input("x", 1e-4)
    a, b = draw.linear("a", x, 1.0, w), draw.linear("b", x, 1.0, w)
    draw.linear("y", draw.linear("c", draw.call("s", "add", 1.0, self=a, other=b), 1.0), 1.0)
    found = draw.plan("y")
    assert found.uses[Use("a", "weight")] == found.uses[Use("b", "weight")] >= 2


def test_a_tied_weight_is_split_where_it_must_be(draw):
    w = draw.weight("w", 100.0)
    a = draw.linear("a", draw.input("x"), 1e6, w)
    n = draw.call("n", "layer_norm", 1.0, input=a, eps=draw.number("eps", 1e-5))
    draw.linear("y", draw.call("t", "tanh", 1.0, self=n), 100.0, w)
    found = draw.plan("y")
    assert found.uses[Use("a", "weight")] == 5
    assert found.uses[Use("y", "weight")] == 0
    assert not insertions(draw, found)


def residual_stack(draw: Sketch, blocks: int) -> str:
    h = draw.linear("stem", draw.input("x"), 1e5)
    for i in range(blocks):
        n = draw.call(f"n{i}", "layer_norm", 1.0, input=h, eps=draw.number(f"e{i}", 1e-5))
        u = draw.call(f"u{i}", "gelu", 10.0, self=draw.linear(f"up{i}", n, 10.0))
        d = draw.linear(f"down{i}", u, 1e6 * (i + 1))
        h = draw.call(f"h{i}", "add", 1e6 * (i + 1), self=h, other=d)
    return draw.call("y", "layer_norm", 1.0, input=h, eps=draw.number("e", 1e-5))


def test_a_residual_stream_has_one_exponent(draw):
    found = draw.plan(residual_stack(draw, 5))
    stream = {found.exponents[name] for name in ("stem", "h0", "h4", "down0", "down4")}
    assert stream == {8}  # 5e6 is 7 bits above the largest number, and one bit of headroom
    assert not insertions(draw, found)


def test_the_same_graph_gives_the_same_plan(draw):
    output = residual_stack(draw, 4)
    first, second = draw.plan(output), draw.plan(output)
    assert first.exponents == second.exponents
    assert first.uses == second.uses
    assert first.conflicts == second.conflicts


def test_variances_far_below_epsilon_leave_the_plan_alone(draw: Sketch):
    x = draw.input("x")
    parameters = {"weight": draw.weight("weight"), "bias": draw.weight("bias")}
    mean = draw.weight("mean")
    variance = draw.weight("variance")
    draw.ranges["variance"] = Range(2.0, 2.0**-45, count=4, binades={-45: 1, 0: 3})
    eps = draw.number("eps", 1e-5)
    operands = {"input": x, **parameters, "running_mean": mean, "running_var": variance}
    draw.call("y", "batch_norm", 1.0, **operands, eps=eps)
    found = draw.plan("y")
    assert (found.conflicts, found.changed) == ((), 0)


def test_plans_do_not_depend_on_the_seed_of_hashes():
    """The same graph in other processes, whose sets are in another order."""
    code = (
        "from bench.planning_graphs import densenet, transformer, unet\n"
        "from halfsafe.plan import plan\n"
        "from halfsafe.windows import Limits, windows\n"
        "for family in (transformer, unet, densenet):\n"
        "    drawn = family(200)\n"
        "    graph = drawn.graph()\n"
        "    found = plan(graph, windows(graph, drawn.ranges, Limits()))\n"
        "    print(found)\n"
    )
    ran = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[1],
        ).stdout
        for seed in ("1", "2")
    ]
    assert len(ran[0]) > 1000
    assert ran[0] == ran[1]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_graph_of_every_family_gets_the_insertions_that_it_needs_and_no_more(family):
    drawing = FAMILIES[family](600)
    graph = drawing.graph()
    found = plan(graph, windows(graph, drawing.ranges, Limits()))
    assert not found.conflicts
    assert found.notes == ()
    rim = sum(found.exponents[name] != 0 for name in (*graph.inputs, *graph.outputs))
    assert len(insertions(drawing, found)) + rim == 3


def test_what_is_too_dense_to_be_taken_apart_costs_what_branching_finds(monkeypatch):
    """Cuts are opened near conflicts only, and HiGHS has all of them."""
    drawing = densenet(120, depth=8)
    graph = drawing.graph()
    bounds = windows(graph, drawing.ranges, Limits())
    exact = plan(graph, bounds)
    program = Program(graph, bounds)
    system = program.model(program.cuts()).system
    bound = within(system, Wish.FIT)
    assert bound is not None
    branched_on, late = branched(system, bound, Wish.FIT, 60.0)
    assert not late
    assert branched_on is not None
    best = system.cost(branched_on, Wish.FIT)
    monkeypatch.setattr("halfsafe.exponents.elimination.WIDEST", 3000)
    opened = plan(graph, bounds)
    assert best is not None
    assert best.missed == 0
    assert len(insertions(drawing, exact)) == len(insertions(drawing, opened))
    assert len(insertions(drawing, exact)) == best.inserted // MUL


@pytest.mark.parametrize("on", [True, False])
def test_planning_leaves_the_collector_of_cycles_as_it_was(on: bool):
    sketch = Sketch()
    graph = sketch.graph(sketch.linear("a", sketch.input("x"), 1e6))
    was = gc.isenabled()
    try:
        (gc.enable if on else gc.disable)()
        plan(graph, windows(graph, sketch.ranges, Limits()))
        with pytest.raises(AttributeError):
            plan(graph, None)  # type: ignore[arg-type]
        assert gc.isenabled() is on
    finally:
        (gc.enable if was else gc.disable)()
