"""Where a fault is born, how far it goes, and what FP16 makes of it."""

import gc
import json
import subprocess
import sys
import weakref
from functools import reduce
from operator import or_
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import halfsafe
from halfsafe import BadInput, Report
from halfsafe.deviation import Comparison, Deviation, merge_comparisons
from halfsafe.faults import Fault, FaultKind
from halfsafe.formats import FLOAT16, FLOOR
from halfsafe.frontends.torch.source import TorchSource
from halfsafe.graph import Graph
from halfsafe.measure import compare
from halfsafe.report.model_explorer import node_data
from halfsafe.samples import calls
from tests.replicas import REPLICAS, Net, RMSNorm, draws, scaled

HERE = Path(__file__).resolve()


def line_of(mark: str) -> str:
    lines = HERE.read_text().splitlines()
    return f"{HERE}:{next(i for i, text in enumerate(lines, 1) if text.endswith(f'# {mark}'))}"


def inspected(model: nn.Module, samples) -> Report:
    return halfsafe.inspect(model.eval(), samples)


def assert_one_fault(report: Report, kind: str, op: str, outcome: str) -> Fault:
    found = [(str(f.kind), f.op, f.outcome) for f in report.faults]
    assert found == [(kind, op, outcome)], report.text()
    return report.faults[0]


class Tower(nn.Module):
    """Overflows in a function that forward() calls, and is back in range after the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(enlarged(self.stem(x)).relu() - 1.0))


def enlarged(x: Tensor) -> Tensor:
    return x * 3.0e6  # enlarged


@pytest.fixture(scope="module")
def tower() -> Report:
    torch.manual_seed(0)
    return inspected(nn.Sequential(Tower(), nn.Tanh()), draws(4, 8, n=3))


# Producer, carriers, exit


def test_the_producer_is_named_with_its_module_and_line(tower):
    fault = assert_one_fault(tower, "overflow", "aten.mul", "nonfinite")
    assert fault.module == "0"
    assert fault.line == line_of("enlarged")
    assert fault.excess == FLOAT16.bits_above(fault.amax) > 0


def test_carriers_and_exits_are_the_region_between(tower):
    (fault,) = tower.faults
    ops = [tower.graph.producers[v].op for v in fault.carriers]
    assert ops == ["aten.relu", "aten.sub"]
    assert [tower.graph.by_name[name].op for name in fault.exits] == ["aten.layer_norm"]


def test_the_sample_that_shows_it_is_named():
    quiet, loud = draws(4, 8, n=2)
    samples = [quiet, (loud[0] * 100,), quiet]
    report = inspected(Net(lambda m, x: (x * 1e4).tanh()), samples)
    assert report.faults[0].sample == 1
    assert report.values[report.graph.inputs[0]].range.amax_sample == 1


def test_values_that_the_model_computes_in_float32_are_shown_as_such():
    norm = RMSNorm(8)
    report = inspected(Net(lambda m, x: m.norm(x * 200.0), norm=norm), draws(4, 8))
    in_float32 = [n for n in report.values if not report.graph.values[n].bounded]
    squares = [n for n in in_float32 if report.graph.producers[n].op == "aten.pow"]
    assert report.values[squares[0]].range.amax > 65504
    assert not report.faults


EXPECTED = {
    "panet_residual_sum": ("overflow", "aten.batch_norm", "nonfinite"),
    "t5_feed_forward_tied_head": ("overflow", "aten.linear", "nonfinite"),
    "decomposed_layer_norm": ("absorbed", "aten.mul", "wrong"),
    "decomposed_rms_norm_in_half": ("absorbed", "aten.pow", "wrong"),
    "l2_normalise_large": ("absorbed", "aten.pow", "wrong"),
    "l2_normalise_small": ("epsilon", "aten.clamp_min", "wrong"),
    "query_times_key": ("overflow", "aten.matmul", "nonfinite"),
    "additive_mask_of_finfo_min": ("sentinel", "aten.mul", "unharmed"),
    "masked_fill_of_minus_1e9": ("sentinel", "aten.masked_fill", "unharmed"),
    "softplus_written_out": ("overflow", "aten.exp", "nonfinite"),
    "tanh_gelu_written_out": ("overflow", "aten.pow", "unharmed"),
    "tiny_weights": ("underflow", "aten.linear", "nonfinite"),
    "raw_sixteen_bit_image": ("overflow", "input", "nonfinite"),
    "nms_class_offset": ("overflow", "aten.add", "nonfinite"),
    "clip_norm_floor_of_1e_12": ("epsilon", "aten.clamp_min", "nonfinite"),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_reported_fault_is_found_at_its_producer(name):
    torch.manual_seed(0)
    model, samples = REPLICAS[name]()
    report = inspected(model, samples)
    assert EXPECTED[name] in {(str(f.kind), f.op, f.outcome) for f in report.faults}


@pytest.mark.parametrize("name", sorted(REPLICAS))
def test_every_replica_has_a_fault(name):
    torch.manual_seed(0)
    model, samples = REPLICAS[name]()
    assert inspected(model, samples).faults


# Kinds


def test_a_value_within_the_headroom_is_latent():
    samples = [(torch.linspace(-1, 1, 8)[None],)]
    report = inspected(Net(lambda m, x: (x * 4.0e4).tanh()), samples)
    assert_one_fault(report, "latent", "aten.mul", "")
    assert report.safe


def test_a_latent_value_does_not_excuse_an_overflow():
    samples = [(torch.linspace(-1, 1, 8)[None],)]
    report = inspected(Net(lambda m, x: (x * 4.0e4 + x * 4.0e4).tanh()), samples)
    assert [(str(f.kind), f.op) for f in report.faults] == [
        ("latent", "aten.mul"),
        ("latent", "aten.mul"),
        ("overflow", "aten.add"),
    ]


def test_a_latent_value_that_nan_reaches_stays_latent():
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        lost = (x * 1e6).softmax(-1)
        return (lost * 4.0e4).tanh()

    report = inspected(Net(forward), [(torch.linspace(-1, 1, 8)[None],)])
    assert [(str(f.kind), f.op) for f in report.faults] == [
        ("overflow", "aten.mul"),
        ("latent", "aten.mul"),
    ]


def test_an_epsilon_does_not_hide_an_overflow():
    samples = [(torch.tensor([[0.0, 2.0, 3.0]]),)]
    report = inspected(Net(lambda m, x: x / (x.expand(9, 3) * 4e4 + 1e-12)), samples)
    assert {str(f.kind) for f in report.faults} >= {"overflow", "epsilon"}


def test_headroom_is_what_the_user_says():
    samples = [(torch.linspace(-1, 1, 8)[None],)]
    model = Net(lambda m, x: (x * 4.0e4).tanh()).eval()
    assert not halfsafe.inspect(model, samples, headroom=0).faults
    assert halfsafe.inspect(model, samples, headroom=3).faults[0].excess == 3


def test_whole_numbers_that_float16_skips():
    def positions(m: nn.Module, x: Tensor) -> Tensor:
        return (torch.arange(x.shape[-1]).to(x.dtype) * 1e-3).sin() + x

    assert not inspected(Net(positions), [(torch.zeros(1, 2049),)]).faults
    report = inspected(Net(positions), [(torch.zeros(1, 4000),)])
    assert report.faults[0].kind == FaultKind.INTEGER
    assert "3999" in report.faults[0].detail


def test_a_constant_with_inf():
    mask = torch.full((4, 4), -torch.inf).triu(1)
    report = inspected(Net(lambda m, x: (x @ x.mT + m.mask).softmax(-1), mask=mask), draws(4, 8))
    fault = assert_one_fault(report, "nonfinite", "constant", "unharmed")
    assert "6 entries" in fault.detail


def test_an_epsilon_under_a_logarithm():
    model = Net(lambda m, x: torch.log(x.softmax(-1) + 1e-9))
    samples = [(torch.tensor([[0.0, 30.0, 1.0]]),)]
    assert "epsilon" in {str(f.kind) for f in inspected(model, samples).faults}


def test_an_epsilon_that_float16_holds_is_none():
    model = Net(lambda m, x: x / (x.abs().mean(-1, keepdim=True) + 1e-3))
    assert not inspected(model, draws(4, 8)).faults


def test_small_losses_that_add_up_are_blamed_on_the_value_that_loses_most():
    """The products are subnormal, with four bits left: no ruin, but more than rounding."""
    model = Net(lambda m, x: (x * 2.0**-19 + 0.0) * 2.0**19)
    report = inspected(model, [(torch.rand(4, 64) + 1.0,)])
    fault = assert_one_fault(report, "underflow", "aten.mul", "wrong")
    assert "times the floor" in fault.detail
    assert report.graph.producers[fault.value] == report.graph.nodes[0]


def test_a_wrong_index_is_not_blamed_on_the_table():
    """Overflow makes argmax choose another row; the rows themselves are right."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return m.table((x * 1e5).cumsum(-1).argmax(-1)) + 0.0 * x[..., :8]

    table = nn.Embedding(16, 8)
    report = inspected(Net(forward, table=table), [(torch.rand(4, 16) + 0.5,)])
    assert_one_fault(report, "overflow", "aten.mul", "wrong")


def test_a_saturating_reader_is_not_harmed():
    report = inspected(Net(lambda m, x: (x * 1e6).clamp(-6, 6)), draws(4, 8))
    assert_one_fault(report, "overflow", "aten.mul", "unharmed")


def test_a_network_in_range_has_no_faults():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 2))
    report = inspected(model, draws(4, 8))
    assert report.faults == ()
    assert report.safe
    assert "FP16 holds every value" in report.text()
    assert all(v.comparison and not v.comparison.wrong for v in report.values.values())


# The comparison


def test_lanes_agree_with_evaluations_one_by_one():
    torch.manual_seed(0)
    model = Tower().eval()
    (call, *_) = calls(draws(4, 8))
    source = TorchSource.open(model, call)
    _, compared = compare(source.program, [call])
    (output,) = source.graph.outputs
    reference = source.reference(call)[0]
    floor = source.evaluate(call, FLOOR)[0]
    squared = float(np.sum((floor - reference) ** 2))
    assert compared[output].floor.squared_error == pytest.approx(squared, rel=1e-12)
    half = source.evaluate(call, FLOAT16)[0]
    assert compared[output].half.nonfinite == np.sum(~np.isfinite(half))


def test_lanes_draw_the_same_random_numbers():
    report = inspected(Net(lambda m, x: x + torch.rand(4, 8)), draws(4, 8))
    assert not report.faults
    (output,) = report.graph.outputs
    assert report.values[output].comparison.half.relative < 1e-3


@pytest.mark.slow
def test_no_value_outlives_its_last_reader():
    alive: list[weakref.ref] = []
    most = 0

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        for _ in range(30):
            x = x.sin()
        return x

    (call,) = calls(torch.randn(4, 8))
    source = TorchSource.open(Net(forward).eval(), call)
    sin = torch.ops.aten.sin.default

    class Counting(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal most
            made = func(*args, **(kwargs or {}))
            if func is sin:
                alive.append(weakref.ref(made))
                gc.collect()
                most = max(most, sum(ref() is not None for ref in alive))
            return made

    gc.freeze()  # what is there already is not gone through ninety times
    try:
        with Counting():
            compare(source.program, [call])
    finally:
        gc.unfreeze()
    assert len(alive) == 90
    assert most <= 8


@pytest.mark.slow
def test_samples_are_taken_one_by_one():
    held: list[weakref.ref] = []

    def stream():
        for _ in range(6):
            x = torch.randn(2, 8)
            gc.collect()
            assert sum(ref() is not None for ref in held) <= 2
            held.append(weakref.ref(x))
            yield x

    assert inspected(nn.Sequential(nn.Linear(8, 2)), stream()).samples == 6


def test_comparisons_of_shards_add_up():
    one = Comparison(Deviation(1.0, 2.0, 0, 4), Deviation(0.5, 2.0, 0, 4), 1)
    both = merge_comparisons({"x": one}, {"x": one, "y": one})
    assert both == {"x": one | one, "y": one}
    assert (one | one).half == Deviation(2.0, 4.0, 0, 8)


def test_ranges_alone_find_what_does_not_fit_and_say_so(tower):
    torch.manual_seed(0)
    model = nn.Sequential(Tower(), nn.Tanh()).eval()
    report = halfsafe.inspect(model, draws(4, 8, n=3), ranges_only=True)
    assert {n: v.range for n, v in report.values.items()} == {
        n: v.range for n, v in tower.values.items()
    }
    assert [(f.kind, f.value) for f in report.faults] == [(f.kind, f.value) for f in tower.faults]
    assert not any(v.comparison for v in report.values.values())
    assert not report.safe
    assert any("FP16 was not run" in note for note in report.notes)


def test_ranges_alone_never_say_that_a_network_is_safe():
    """A series at a level of 1e4 less its mean: every value fits, and FP16 has too few bits."""
    torch.manual_seed(0)
    series = [1e4 + 10 * torch.randn(4, 32) for _ in range(3)]
    model = Net(lambda m, x: m.head(x - x.mean(-1, keepdim=True)), head=nn.Linear(32, 4)).eval()
    report = halfsafe.inspect(model, series, ranges_only=True)
    assert not report.faults
    assert not report.safe
    assert "outputs may be wrong" in report.text()
    assert not halfsafe.inspect(model, series).safe


# Reports


def test_reports_of_shards_are_the_report_on_all_samples(tower):
    torch.manual_seed(0)
    model = nn.Sequential(Tower(), nn.Tanh())
    samples = draws(4, 8, n=3)
    shards = [inspected(model, [one]) for one in samples]
    merged = reduce(or_, shards)
    assert merged.samples == 3
    whole = tower.values
    for name, value in merged.values.items():
        assert value.range.amax == whole[name].range.amax
        assert value.range.binades == whole[name].range.binades
        assert value.comparison.half.nonfinite == whole[name].comparison.half.nonfinite
    assert [(f.kind, f.value) for f in merged.faults] == [(f.kind, f.value) for f in tower.faults]


def test_reports_of_two_models_do_not_merge(tower):
    other = inspected(nn.Sequential(nn.Linear(8, 2)), draws(4, 8))
    with pytest.raises(ValueError, match="not measured alike"):
        tower | other


def test_a_report_comes_back_from_json(tower, tmp_path):
    tower.save(tmp_path / "r.json")
    again = Report.load(tmp_path / "r.json")
    assert again == tower
    assert again | tower == tower | again
    value = json.loads((tmp_path / "r.json").read_text())["values"][tower.faults[0].value]
    assert value["overflowing"] > 0.5
    assert value["headroom_bits"] < 0


def test_a_graph_comes_back_from_json(tower):
    assert Graph.from_json(json.loads(json.dumps(tower.graph.to_json()))) == tower.graph


def test_a_report_of_another_version_is_refused(tower):
    with pytest.raises(ValueError, match="schema 1"):
        Report.from_json({**tower.to_json(), "schema": 1})


def test_the_terminal_report_fits_80_columns_and_names_the_producer(tower):
    text = tower.text()
    assert max(map(len, text.splitlines())) <= 80
    assert "aten.mul" in text
    assert "tests/test_inspection.py" in text
    assert "back in range after 0.norm" in text


def test_node_data_for_model_explorer(tower, tmp_path):
    tower.model_explorer(tmp_path / "nodes.json")
    data = json.loads((tmp_path / "nodes.json").read_text())
    assert data == node_data(tower)
    results = data["graph"]["results"]
    assert set(results) == {node.name for node in tower.graph.nodes}
    (fault,) = tower.faults
    assert results[fault.value]["value"] < 0
    assert [name for name, one in results.items() if "bgColor" in one] == [fault.value]


# Misuse


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"samples": []}, "samples is empty"),
        ({"samples": torch.full((1, 8), torch.nan)}, "NaN or inf"),
        ({"samples": torch.zeros(1, 8), "headroom": -1}, "headroom is -1"),
        ({"samples": torch.zeros(1, 8), "distributed": True}, "torchrun"),
    ],
)
def test_bad_input_is_refused_with_the_next_step(arguments, said):
    with pytest.raises(BadInput, match=said):
        halfsafe.inspect(nn.Sequential(nn.Linear(8, 2)).eval(), **arguments)


# Several processes

ZOO = """
import torch
def samples():
    torch.manual_seed(1)
    return [torch.randn(2, 8) * 10.0 ** (i + 2) for i in range(5)]
def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).eval()
def broken():
    return [torch.randn(2, 8), torch.full((2, 8), torch.nan)]
"""


def torchrun(folder: Path, *arguments: str, what: str = "inspect") -> subprocess.CompletedProcess:
    (folder / "zoo_of_shards.py").write_text(ZOO)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    return subprocess.run(
        [*command, "-m", "halfsafe", what, "zoo_of_shards:model", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_two_processes_report_on_all_samples(tmp_path):
    ran = torchrun(tmp_path, "--samples", "zoo_of_shards:samples", "-o", "r.json")
    report = Report.load(tmp_path / "r.json")
    scope: dict = {}
    exec(ZOO, scope)
    alone = halfsafe.inspect(scope["model"](), scope["samples"]())
    assert report.samples == alone.samples == 5
    assert report.faults == alone.faults
    for name, value in report.values.items():
        assert value.range == alone.values[name].range
        assert value.comparison.half.nonfinite == alone.values[name].comparison.half.nonfinite
    assert ran.stdout.count("Not safe in FP16") == 1, ran.stdout + ran.stderr


@pytest.mark.slow
def test_two_processes_fix_as_one_does(tmp_path):
    """The same report, byte for byte: ranges, exponents, and the proof of every sample."""
    arguments = ("--samples", "zoo_of_shards:samples", "-o", "f.pt2", "--report", "r.json")
    ran = torchrun(tmp_path, *arguments, what="fix")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    scope: dict = {}
    exec(ZOO, scope)
    alone = halfsafe.fix(scope["model"](), scope["samples"]()).report.to_json()
    together = Report.load(tmp_path / "r.json").to_json()
    assert alone["verification"]["samples"] == 5
    assert together == {**alone, "command": together["command"]}


@pytest.mark.slow
def test_an_error_in_one_process_ends_both(tmp_path):
    ran = torchrun(tmp_path, "--samples", "zoo_of_shards:broken", "-o", "r.json")
    assert ran.returncode != 0
    assert "sample 1" in ran.stderr
    assert "NaN or inf" in ran.stderr
    assert not (tmp_path / "r.json").exists()


def test_scaled_weights_are_faults_of_their_own():
    grow = scaled(nn.Linear(8, 8), 1e6)
    report = inspected(Net(lambda m, x: m.grow(x).tanh(), grow=grow), draws(4, 8))
    kinds = [(f.op, f.value) for f in report.faults]
    assert ("constant", "grow.weight") in kinds
    assert ("aten.linear", "linear") in kinds
