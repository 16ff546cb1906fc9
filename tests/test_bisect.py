"""Bisecting: which operator is the first to spoil the outputs on an engine, and at what cost."""

from dataclasses import dataclass, field
from math import ceil, inf, log2

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import halfsafe
from halfsafe import BadInput
from halfsafe.bisect import Options, bisected
from halfsafe.bisecting.cuts import Cuts
from halfsafe.bisecting.record import Bisection
from halfsafe.bisecting.remainder import Remainder
from halfsafe.bisecting.search import first_bad, trials_for
from halfsafe.bisecting.trials import Log
from halfsafe.engines import HALF, engine_of
from halfsafe.engines.profile import Profile
from halfsafe.engines.strict import Strict
from halfsafe.formats import FLOAT32
from halfsafe.frontends import open_model
from halfsafe.samples import Samples


@dataclass
class Counting:
    """An engine that counts what it builds and runs."""

    name: str = "torch"
    builds: int = 0
    runs: list[int] = field(default_factory=list)

    def __post_init__(self):
        self.inner = engine_of(self.name)
        self.profile, self.needs = self.inner.profile, self.inner.needs

    def available(self):
        return True

    def build(self, deliverable):
        self.builds += 1
        running, outer = self.inner.build(deliverable), self

        class Run:
            def run(self, call):
                outer.runs.append(call.number)
                return running.run(call)

            census = running.census

        return Run()


class Scaled(nn.Module):
    """x times a factor, doubled, and back."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        large = x * self.factor
        return (large + large) * (0.5 / self.factor)


class Offset(nn.Module):
    """x + c - c, which needs more bits than FP16 has."""

    def forward(self, x):
        return (x + 4096.0) - 4096.0


class Block(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        return self.norm(x + self.second(torch.relu(self.first(x))))


def net(*extra, depth=6, seed=0):
    """Residual blocks with something behind some of them."""
    torch.manual_seed(seed)
    where = dict(extra)
    parts = []
    for i in range(depth):
        parts.append(Block())
        if i in where:
            parts.append(where[i])
    return nn.Sequential(*parts, nn.Linear(16, 4)).eval()


def inputs(count=2, scale=1.0):
    generator = torch.Generator().manual_seed(1)
    return [(scale * torch.randn(3, 16, generator=generator),) for _ in range(count)]


def operators(model, given=None):
    supply = Samples(given or inputs())
    return len(open_model(model, supply.first).graph.nodes)


# One fault


def test_a_healthy_network_has_no_culprit():
    engine = Counting()
    assert halfsafe.bisect(net(), inputs(), engine) is None
    assert engine.builds == 1


PLANTS = {
    "overflow": (Scaled(2.0**20), "aten.mul"),
    "underflow": (Scaled(2.0**-30), "aten.mul"),
    "bits": (Offset(), "aten.add"),
}


@pytest.mark.parametrize("engine", ["torch", "strict"])
@pytest.mark.parametrize("place", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 5))])
@pytest.mark.parametrize("kind", PLANTS)
def test_the_culprit_is_exact(kind, place, engine):
    plant, op = PLANTS[kind]
    model, counting = net((place, plant)), Counting(engine)
    found = halfsafe.bisect(model, inputs(), counting)
    assert (found.op, found.module, found.others) == (op, str(place + 1), ())
    assert found.before <= 1e-2 < found.after
    assert found.bisection.complete
    assert found.bisection.mended <= 1e-2
    assert found.builds == counting.builds <= ceil(log2(operators(model))) + 2
    assert found.predicted
    assert counting.builds == 4


def test_operands_and_results_are_shown_in_both_precisions():
    found = halfsafe.bisect(net((2, Scaled(2.0**20))), inputs(), "torch")
    (read,), (made,) = found.reads, found.makes
    assert 1 < read.amax < 10
    assert read.nonfinite == 0
    assert read.error < 1e-2
    assert made.amax == read.amax * 2**20
    assert made.nonfinite > 0
    assert "stored as inf" in found.reason


# What strict evaluation does not see


@torch.library.custom_op("halfsafe_test::energy", mutates_args=())
def energy(x: torch.Tensor) -> torch.Tensor:
    """x over its root mean square, the squares stored in x's own type."""
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-3)


@energy.register_fake
def _(x):
    return torch.empty_like(x)


class StoredInside(nn.Module):
    def forward(self, x):
        return energy(x * 500.0)


def test_a_kernel_that_stores_inside_is_found_without_a_prediction():
    model, counting = net((3, StoredInside())), Counting()
    found = halfsafe.bisect(model, inputs(), counting)
    assert (found.op, found.module, found.others) == ("halfsafe_test.energy", "4", ())
    assert not found.predicted
    assert counting.builds <= ceil(log2(operators(model))) + 2
    assert "inside" in found.reason
    assert any("strict evaluation is within the tolerance" in n for n in found.bisection.notes)


def test_strict_evaluation_finds_nothing_there():
    assert halfsafe.bisect(net((3, StoredInside())), inputs(), "strict") is None


class Fusing(Strict):
    """An engine that keeps a product in FP32 where nobody but the next operator reads it."""

    def build(self, deliverable):
        graph = deliverable.graph
        kept = {
            output
            for node in graph.nodes
            for output in node.outputs
            if node.op == "aten.mul" and output not in graph.outputs
        }
        stored = set(graph.rounded) - kept

        class Run:
            def run(self, call):
                return deliverable.evaluate(call, HALF.stores, stored)

            def census(self, call):
                return {}

        return Run()


class Hiding(Strict):
    """An engine that stores nothing but its outputs."""

    def build(self, deliverable):
        shown = set(deliverable.graph.outputs)

        class Run:
            def run(self, call):
                return deliverable.evaluate(call, HALF.stores, shown)

        return Run()


@pytest.mark.slow
def test_what_only_a_cut_shows_is_no_culprit():
    """The engine fuses the loud product away, and does not where the network is cut behind it."""

    class Loud(nn.Module):
        def forward(self, x):
            return ((x * 2.0**20) * 2.0**-20 + 4096.0) - 4096.0

    found = halfsafe.bisect(net((3, Loud())), inputs(), Fusing(name="fusing"))
    assert (found.op, found.others) == ("aten.add", ())
    assert any("only where the network is cut" in note for note in found.bisection.notes)


def test_what_an_engine_hides_is_told():
    """Products stay in FP32 there, so that the loud one does no harm; elsewhere it would."""
    report = bisected(net((3, Scaled(2.0**20))), inputs(), Hiding(name="hiding"), Options())
    assert report.bisection.within
    assert any("strict evaluation is not, from mul" in note for note in report.bisection.notes)


# Several


def test_all_of_several_culprits_are_found_in_their_order():
    model = net((1, Scaled(2.0**20)), (3, Offset()), (4, StoredInside()))
    found = halfsafe.bisect(model, inputs(), "torch")
    named = [(c.op, c.module) for c in (found, *found.others)]
    assert sorted(named, key=lambda n: n[1]) == [
        ("aten.mul", "2"), ("aten.add", "5"), ("halfsafe_test.energy", "7"),
    ]  # fmt: skip
    assert found.bisection.complete


@pytest.mark.slow
def test_a_small_culprit_ahead_of_one_that_costs_bits_is_no_rounding():
    """What underflows there is small beside what a later sum loses, and no other operator's."""

    class Faint(nn.Module):
        def forward(self, x):
            return x + 0.05 * ((x * 2.0**-30) * 2.0**30)

    model = net((1, Faint()), (3, Offset()))
    found = halfsafe.bisect(model, inputs(), "torch")
    named = [(c.op, c.module) for c in (found, *found.others)]
    assert named == [("aten.mul", "2"), ("aten.add", "5")]
    assert found.bisection.complete


@pytest.mark.parametrize("engine", ["torch", "strict"])
def test_culprits_that_cancel_are_found_with_a_later_one(engine):
    """The error that the first one leaves is undone by the second; the third stays."""

    class First(nn.Module):
        def forward(self, x):
            return torch.cat([x, (x + 2048.0) - 2048.0], -1)

    class Second(nn.Module):
        def forward(self, both):
            x, rounded = both.split(16, -1)
            again = (x + 2048.0) - 2048.0
            return x + 8.0 * (rounded - again)

    torch.manual_seed(0)
    model = nn.Sequential(
        Block(), First(), nn.Identity(), Second(), Block(), Offset(), nn.Linear(16, 4)
    ).eval()
    found = halfsafe.bisect(model, inputs(), engine)
    named = [(c.op, c.module) for c in (found, *found.others)]
    assert named[0] == ("aten.add", "1")
    assert set(named) == {("aten.add", "1"), ("aten.add", "3"), ("aten.add", "5")}


# Samples and metrics


def test_the_worst_sample_decides():
    """Only the second of three is loud."""
    quiet, loud, third = inputs(3)
    samples = [quiet, (1000 * loud[0],), third]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), Scaled(256.0), nn.Linear(16, 4)).eval()
    found = halfsafe.bisect(model, samples, "torch")
    assert (found.op, found.module, found.sample) == ("aten.mul", "1", 1)


@pytest.mark.slow
def test_items_of_a_batch_are_judged_by_themselves():
    """One item is 1e-6 of the other, and lost: the largest entry of the output does not hide it."""
    x = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    x[1] *= 2.0**-12
    model = nn.Sequential(Scaled(2.0**-16), nn.Identity()).eval()
    found = halfsafe.bisect(model, (x,), "torch")
    assert (found.op, found.after) == ("aten.mul", 1.0)


def test_a_metric_of_the_users_own():
    def other_class(found, known):
        return float((found[0].argmax(-1) != known[0].argmax(-1)).mean())

    found = halfsafe.bisect(net((2, Scaled(2.0**20))), inputs(), "torch", metric=other_class)
    assert found.bisection.metric == "other_class"
    assert (found.op, found.module) == ("aten.mul", "3")


class Steep(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return torch.sin(x * self.factor)


@pytest.mark.slow
def test_what_is_worse_than_rounding_is_found_where_rounding_is_beyond_the_tolerance():
    model = net((4, Scaled(2.0**20)), (5, Steep(64.0)))
    found = halfsafe.bisect(model, inputs(), "strict")
    assert (found.op, found.module, found.others) == ("aten.mul", "5", ())
    assert 1e-2 < found.bisection.mended <= 2 * found.bisection.floor
    assert any("the best that there can be, cost" in note for note in found.bisection.notes)


@pytest.mark.slow
def test_where_rounding_alone_is_beyond_the_tolerance_that_is_said_and_not_that_all_is_well():
    found = halfsafe.bisect(net((5, Steep(64.0))), inputs(), "strict")
    assert found is not None
    assert found.others == ()
    assert found.bisection.error > 1e-2
    assert found.bisection.floor > 1e-2
    assert len(found.bisection.trials) < 6
    assert any("one operator after the other" in note for note in found.bisection.notes)


# Cuts


def test_every_cut_gives_the_bits_of_the_whole():
    class Many(nn.Module):
        def forward(self, x, mask, index):
            keep = mask & (x.abs().sum(-1) > 0)
            y = torch.where(keep[:, None], x, 0.0)
            best = y.argmax(-1)
            return {"y": y[index], "best": best, "x": x * 2, "mask": keep}

    torch.manual_seed(0)
    sample = {"x": torch.randn(4, 8), "mask": torch.tensor([True, False, True, True]),
              "index": torch.tensor([2, 0])}  # fmt: skip
    check_cuts(Many().eval(), sample)


def test_sizes_that_vary_are_handed_over():
    class Mean(nn.Module):
        def forward(self, x):
            return x.reshape(-1, 4).sum(0) / x.shape[0]

    samples = [(torch.randn(n, 4),) for n in (3, 5, 7)]
    check_cuts(Mean().eval(), samples)


def check_cuts(model, samples):
    supply = Samples(samples)
    source = open_model(model, supply.first, None, supply.some)
    cuts = Cuts(source)
    for call in supply:
        reference = source.evaluate(call, FLOAT32)
        for place in range(1, cuts.last):
            cut = cuts.at(place)
            values = source.extract(None, cut.handed).evaluate(call, FLOAT32)
            handed = dict(zip(cut.handed, values, strict=True))
            found = Remainder(source, cut).outputs(call, handed, reference)
            assert all(map(np.array_equal, found, reference))


ONNX = """<ir_version: 8, opset_import: ["" : 18]>
g (float[N,8] x, bool go) => (float[N,8] y, int64[K] size)
<float[1] large = {1048576.0}, float[1] small = {0.00000095367431640625}, int64 three = {3},
 float[1] one = {1.0}> {
    h = Add(x, one)
    a = If(go) <then_branch = t () => (float[N,8] p) {
        l = Mul(h, large)
        p = Mul(l, small)
    }, else_branch = e () => (float[N,8] q) { q = Identity(h) }>
    parts = SplitToSequence <axis = -1, keepdims = 1> (a, three)
    b = ConcatFromSequence <axis = -1> (parts)
    y = Relu(b)
    size = Shape(b)
}"""


def test_bodies_and_sequences_are_not_cut():
    model = onnx.parser.parse_model(ONNX)
    x = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    check_cuts(model, [{"x": x, "go": np.array(go)} for go in (True, False)])


@pytest.mark.slow
def test_an_operator_with_a_body_is_a_culprit():
    model = onnx.parser.parse_model(ONNX)
    x = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    found = halfsafe.bisect(model, {"x": x, "go": np.array(True)}, "strict")
    assert found.op == "onnx.If"
    assert halfsafe.bisect(model, {"x": x, "go": np.array(False)}, "strict") is None


# Cost


@pytest.mark.slow
def test_what_was_run_is_not_run_again(tmp_path):
    model = net((3, StoredInside()))
    first, second, third = Counting(), Counting(), Counting()
    found = halfsafe.bisect(model, inputs(), first, cache=tmp_path)
    again = halfsafe.bisect(model, inputs(), second, cache=tmp_path)
    assert second.builds == 0
    assert (again.node, again.before, again.after) == (found.node, found.before, found.after)
    assert all(trial.known for trial in again.bisection.trials)
    halfsafe.bisect(net((3, StoredInside()), seed=1), inputs(), third, cache=tmp_path)
    assert third.builds > 0


@pytest.mark.slow
def test_an_interrupted_bisection_goes_on(tmp_path):
    class Stops(Counting):
        def build(self, deliverable):
            if self.builds == 4:
                raise KeyboardInterrupt
            return super().build(deliverable)

    model, rest = net((3, StoredInside())), Counting()
    with pytest.raises(KeyboardInterrupt):
        halfsafe.bisect(model, inputs(), Stops(), cache=tmp_path)
    found = halfsafe.bisect(model, inputs(), rest, cache=tmp_path)
    assert found.op == "halfsafe_test.energy"
    assert rest.builds == len(found.bisection.trials) - 4


def test_time_is_over_and_the_interval_is_told(monkeypatch):
    slow, model = Counting(), net((3, StoredInside()))
    with monkeypatch.context() as patch:
        patch.setattr(Log, "seconds", property(lambda log: float(slow.builds)))
        found = halfsafe.bisect(model, inputs(), slow, time_limit=3.5)
    assert slow.builds == 4
    assert not found.bisection.complete
    assert found.since != found.node
    assert found.before <= 1e-2 < found.after
    names = [node.name for node in found.report.graph.nodes]
    assert names.index(found.since) < names.index("energy") <= names.index(found.node)
    assert any("the culprit is one of the operators" in n for n in found.bisection.notes)


def test_without_time_for_one_run_there_is_no_answer():
    with pytest.raises(BadInput, match="before the network ran once"):
        halfsafe.bisect(net(), inputs(), "torch", time_limit=0.0)


@pytest.mark.slow
def test_the_planner_and_a_cache_go_together(tmp_path):
    """What was run of the network as it was is not taken for the planner's."""
    model = net((1, Scaled(2.0**20)), (3, Scaled(2.0**20)))
    first, second = (
        halfsafe.bisect(model, inputs(), "torch", fix=True, cache=folder)
        for folder in (None, tmp_path)
    )
    assert (first.node, first.others) == (second.node, second.others) == ("mul", ())


@pytest.mark.slow
def test_progress_tells_what_is_tried():
    told = []
    halfsafe.bisect(net((3, Scaled(2.0**20))), inputs(), "torch", progress=told.append)
    assert any("the whole network: error inf" in what for what in told)
    assert any("s more" in what for what in told)


# The planner, and single operators


def test_the_planner_mends_and_the_rest_is_found():
    model = net((1, Scaled(2.0**20)), (3, StoredInside()))
    found = halfsafe.bisect(model, inputs(), "torch", fix=True)
    assert [c.op for c in (found, *found.others)] == ["aten.mul", "halfsafe_test.energy"]


@pytest.mark.slow
def test_what_the_planner_has_mended_stays_so():
    model = net((1, Scaled(2.0**20)), (3, StoredInside()))
    found = halfsafe.bisect(model, inputs(), "torch", fix=True)
    assert found.kept == ()
    assert found.others[0].kept == ("energy",)
    assert found.bisection.mended <= 1e-2


def test_an_index_that_rounding_has_spoilt_is_no_refusal_of_the_engine(tmp_path):
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.rows = nn.Embedding(2052, 16)

        def forward(self, x):
            place = 2051.0 + 0 * x[:, 0]  # 2052 in FP16
            return self.rows((place + 0.4).long())

    model = nn.Sequential(Table(), nn.Linear(16, 4)).eval()
    for _ in range(2):  # the second time with what was kept
        found = halfsafe.bisect(model, inputs(), "torch", cache=tmp_path)
        assert "refuses" not in found.reason
        assert found.module == "0"


def test_the_last_operator_is_shown_on_the_sample_that_fails():
    samples = [*inputs(1), (1e5 * inputs(1)[0][0],)]
    model = nn.Sequential(nn.Linear(16, 16), nn.Identity()).eval()
    found = halfsafe.bisect(model, samples, "torch")
    (made,) = found.makes
    assert (found.op, found.sample) == ("aten.linear", 1)
    assert made.nonfinite > 0


@pytest.mark.slow
def test_single_operators_are_ranked():
    found = halfsafe.bisect(net((3, Scaled(2.0**20))), inputs(), "torch", rank=3)
    alone = found.bisection.alone
    assert len(alone) == 3
    assert {a.op for a in alone[:2]} <= {"aten.mul", "aten.add"}
    assert alone[0].error == inf


# Refusals and records


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tolerance": -1.0}, "tolerance is -1.0"),
        ({"metric": "psnr"}, "unknown metric 'psnr'"),
        ({"engine": "tensorflow"}, "no engine 'tensorflow'"),
    ],
)
def test_bad_input_is_refused(options, said):
    with pytest.raises(BadInput, match=said):
        halfsafe.bisect(net(), inputs(), **options)


def test_random_numbers_are_refused():
    class Noisy(nn.Module):
        def forward(self, x):
            return x + torch.randn_like(x) + (2 * x + torch.randn_like(x)).sin()

    with pytest.raises(BadInput, match="draws random numbers"):
        halfsafe.bisect(nn.Sequential(Noisy(), Noisy()).eval(), inputs())


@pytest.mark.slow
def test_an_operator_that_the_engine_refuses_is_the_culprit():
    class Masked(nn.Module):
        def forward(self, x):
            return torch.softmax(x.masked_fill(x < -1, -3.0e38), -1)

    found = halfsafe.bisect(net((3, Masked())), inputs(), "torch")
    assert (found.op, found.after) == ("aten.masked_fill", inf)
    assert "refuses" in found.reason


def test_an_operator_that_the_engine_does_not_know_at_all_is_named_once():
    class Old(Strict):
        def build(self, deliverable):
            if any(node.op == "aten.gelu" for node in deliverable.graph.nodes):
                raise BadInput("no kernel for gelu")
            return super().build(deliverable)

    found = halfsafe.bisect(net((3, nn.GELU())), inputs(), Old(name="old"))
    assert (found.op, found.others) == ("aten.gelu", ())
    assert found.reason == "the engine refuses: no kernel for gelu"
    assert not found.bisection.complete
    assert any("refuses gelu" in note for note in found.bisection.notes)


def test_a_record_survives_json():
    bisection = halfsafe.bisect(net((3, Scaled(2.0**20))), inputs(), "torch", rank=2).bisection
    assert Bisection.from_json(bisection.to_json()) == bisection


# The search


@pytest.mark.parametrize("operators", [1, 2, 3, 17, 100, 500])
def test_a_search_takes_no_more_trials_than_it_needs(operators):
    for place in range(1, operators + 1):
        tried = []

        def bad(p, place=place, tried=tried):
            tried.append(p)
            return p >= place

        assert first_bad(0, operators, bad, lambda p: (p * 7919) % 101) == place
        assert len(tried) <= trials_for(operators)
        assert len(set(tried)) == len(tried)


@pytest.mark.parametrize("suspect", [1, 50, 99, 100])
def test_a_wrong_suspect_costs_two_trials(suspect):
    for place in range(1, 101):
        tried = []
        found = first_bad(0, 100, lambda p: tried.append(p) or p >= place, abs, [suspect])  # noqa: B023
        assert found == place
        assert len(tried) <= trials_for(100) + 2


# A profile of what kernels bear


class Gain(nn.Module):
    """A norm whose squares FP16 does not hold, behind a product that can be made smaller."""

    def __init__(self):
        super().__init__()
        self.up = nn.Linear(16, 16)
        with torch.no_grad():
            self.up.weight *= 500.0

    def forward(self, x):
        return squared(self.up(x))


@torch.library.custom_op("halfsafe_test::squared", mutates_args=())
def squared(x: torch.Tensor) -> torch.Tensor:
    """sqrt(mean(x^2)) of each row, the squares stored in x's own type."""
    return torch.sqrt((x * x).mean(-1, keepdim=True)).expand_as(x).clone()


@squared.register_fake
def _(x):
    return torch.empty_like(x)


@pytest.mark.slow
def test_a_plan_reads_what_kernels_bear(tmp_path):
    """The kernel is right up to 255, of which the square fits; the plan keeps its operand below."""

    @halfsafe.register("halfsafe_test::squared")
    def law(k):
        return [k.out == k["x"]]

    model, path = net((3, Gain())), tmp_path / "torch.json"
    found = halfsafe.bisect(model, inputs(), "torch", profile=path)
    assert found.op == "halfsafe_test.squared"
    profile = Profile.load(path)
    assert 16 < profile.inside["halfsafe_test.squared"] < 256
    without = halfsafe.fix(model, inputs(), engine="torch").report
    assert not without.safe
    fixed = halfsafe.fix(model, inputs(), engine="torch", profile=path)
    assert fixed.report.safe
    assert not fixed.report.islands
    assert not fixed.report.faults
    assert any(
        "torch bears operands of halfsafe_test.squared up to" in n for n in fixed.report.notes
    )
    (x,) = inputs(1)[0]
    assert torch.equal(fixed.model(x), model(x))


@pytest.mark.slow
def test_a_profile_is_of_one_engine(tmp_path):
    path = tmp_path / "p.json"
    Profile(engine="tensorrt").save(path)
    with pytest.raises(BadInput, match="is the profile of 'tensorrt', not of 'torch'"):
        halfsafe.bisect(net((3, StoredInside())), inputs(), "torch", profile=path)
    path.write_text("{}")
    with pytest.raises(BadInput, match="is no profile of an engine"):
        halfsafe.fix(net(), inputs(), profile=path)
