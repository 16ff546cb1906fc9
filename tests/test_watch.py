"""Watching eager modules: nothing changes, everything is named, no hook stays behind."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

import halfsafe
from halfsafe import BadInput, Report, Transition
from halfsafe.frontends.torch.arithmetic import range_of
from halfsafe.graph import Kind
from halfsafe.watching import sketch
from halfsafe.watching.calls import tensors_in
from halfsafe.watching.sketch import Sketches
from tests.replicas import scaled

HERE = Path(__file__).resolve()


def line_of(mark: str) -> str:
    lines = HERE.read_text().splitlines()
    return f"{HERE}:{next(i for i, text in enumerate(lines, 1) if text.endswith(f'# {mark}'))}"


class Branch(nn.Module):
    """Overflows between its modules, in a function."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        y = F.relu(y * 3e6)  # functional
        return self.norm(y) + x


@dataclass
class Outputs:
    hidden: list[Tensor]
    extra: dict[str, Any]


class Model(nn.Module):
    """One module called twice, and tensors in all kinds of containers."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True))
        self.act = nn.Tanh()
        self.branch = Branch()

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Outputs:
        a = self.act(self.backbone(x))
        b = self.act(self.branch(a))
        return Outputs([a, b], {"mask": mask, "pair": (a + b, 3), "name": "x"})


def model(seed: int = 0) -> Model:
    torch.manual_seed(seed)
    return Model().eval()


def sample(seed: int = 1) -> Tensor:
    return torch.randn(4, 8, generator=torch.Generator().manual_seed(seed))


def watched(net: nn.Module, *inputs: Any, **options: Any) -> Report:
    with halfsafe.watch(net, **options) as log, torch.no_grad():
        for x in inputs or (sample(),):
            net(x)
    return log.report()


def hooks(net: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules())


def assert_identical(found: Any, expected: Any) -> None:
    pairs = zip(tensors_in(found), tensors_in(expected), strict=True)
    assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


MODES = pytest.mark.parametrize("operators", [False, True], ids=["modules", "operators"])


# Nothing changes


@MODES
def test_results_are_identical(operators):
    net, x = model(), sample()
    expected = net(x)
    with halfsafe.watch(net, operators=operators):
        assert_identical(net(x), expected)
    assert_identical(net(x), expected)


@MODES
def test_gradients_are_identical(operators):
    def gradient(net: nn.Module) -> Tensor:
        net.zero_grad()
        net(sample()).extra["pair"][0].sum().backward()
        return net.backbone[0].weight.grad.clone()

    net = model()
    expected = gradient(net)
    with halfsafe.watch(net, operators=operators):
        assert torch.equal(gradient(net), expected)


@MODES
def test_random_numbers_are_identical(operators):
    net = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)).train()
    torch.manual_seed(3)
    expected = net(sample())
    torch.manual_seed(3)
    with halfsafe.watch(net, operators=operators):
        assert torch.equal(net(sample()), expected)


@MODES
def test_hooks_are_gone_when_the_model_raises(operators):
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(9, 8)).eval()
    with pytest.raises(RuntimeError), halfsafe.watch(net, operators=operators) as log:
        net(sample())
    assert hooks(net) == 0
    assert {node.module for node in log.report().graph.nodes} == {"0"}


def test_a_model_that_raised_can_be_watched_on():
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU()).eval()
    with halfsafe.watch(net) as log:
        with pytest.raises(RuntimeError):
            net(torch.zeros(1, 9))
        net(sample())
    assert [n.name for n in log.report().graph.nodes] == ["0", "1"]
    assert log.report().samples == 2


def test_an_interrupted_call_leaves_no_mode_behind():
    class Interrupts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyboardInterrupt

    net = nn.Sequential(nn.Linear(8, 8), Interrupts())
    with pytest.raises(KeyboardInterrupt), halfsafe.watch(net, operators=True):
        net(sample())
    assert hooks(net) == 0
    assert _get_current_dispatch_mode() is None


def test_hooks_are_gone_when_the_user_raises():
    net = model()
    with pytest.raises(KeyError), halfsafe.watch(net):
        raise KeyError
    assert hooks(net) == 0


@MODES
def test_watches_can_be_nested(operators):
    net = model()
    with halfsafe.watch(net, operators=operators) as outer:
        net(sample())
        with halfsafe.watch(net, operators=True) as inner:
            net(sample(2))
        net(sample(3))
    assert hooks(net) == 0
    assert (outer.report().samples, inner.report().samples) == (3, 1)
    alone = watched(net, sample(2), operators=True)
    assert [n.name for n in inner.report().graph.nodes] == [n.name for n in alone.graph.nodes]


@MODES
def test_threads_are_kept_apart(operators):
    net, inputs = model(), [sample(i) for i in range(8)]
    expected = [net(x) for x in inputs]
    found: dict[int, Any] = {}
    with halfsafe.watch(net, operators=operators) as log:

        def call(i: int) -> None:
            for _ in range(5):
                found[i] = net(inputs[i])

        threads = [threading.Thread(target=call, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for i, result in enumerate(expected):
        assert_identical(found[i], result)
    report, alone = log.report(), watched(net, *inputs, operators=operators)
    assert report.samples == 40
    assert {n.name for n in report.graph.nodes} == {n.name for n in alone.graph.nodes}
    amax = {name: value.range.amax for name, value in report.values.items()}
    assert amax == {name: value.range.amax for name, value in alone.values.items()}


def test_inference_mode():
    net = model()
    with halfsafe.watch(net, operators=True) as log, torch.inference_mode():
        net(sample())
    assert log.report().faults


def test_a_watched_model_can_be_compiled_and_exported():
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU()).eval()
    with halfsafe.watch(net):
        exported = torch.export.export(net, (sample(),)).module()
    assert torch.equal(exported(sample()), net(sample()))


# Everything is named


def test_modules_by_qualified_name_and_number_of_call():
    report = watched(model())
    names = [node.name for node in report.graph.nodes]
    assert names[:3] == ["backbone.0", "backbone.1", "act"]
    assert "act#2" in names
    assert "branch.norm" in names
    assert report.graph.by_name["backbone.0"].op == "nn.Linear"


def test_a_container_that_returns_what_a_part_made_is_no_producer():
    report = watched(model())
    assert "backbone" not in report.graph.by_name
    assert report.graph.producers["backbone.1"].inputs["input"] == "backbone.0"


def test_tensors_in_any_nesting_are_seen():
    net = model()
    with halfsafe.watch(net) as log:
        net(sample(), mask=torch.ones(4))
    report = log.report()
    assert set(report.graph.inputs) == {"Model.input", "Model.mask"}
    assert report.graph.outputs == ("act", "act#2", "Model.mask", "Model.extra.pair.0")


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


def test_places_of_tensors():
    x = torch.zeros(1)
    found = Outputs([x, x], {"a": Pair(x, x), "b": None, "c": {"d": [x]}, "e": torch.arange(3)})
    places = ["hidden.0", "hidden.1", "extra.a.left", "extra.a.right", "extra.c.d.0"]
    assert [place for place, _ in tensors_in(found)] == places


def test_module_mode_blames_the_code_between_modules():
    report = watched(model())
    (fault,) = report.faults
    assert (fault.op, fault.module) == ("Branch.forward", "branch")
    assert fault.value == "branch.norm.input"
    assert [report.graph.by_name[name].op for name in fault.exits] == ["nn.LayerNorm", "Branch"]


def test_operator_mode_names_the_operator_and_its_line():
    report = watched(model(), operators=True)
    (fault,) = report.faults
    assert (fault.op, fault.module, fault.line) == ("aten.mul", "branch", line_of("functional"))
    assert [report.graph.producers[v].op for v in fault.carriers] == ["aten.relu"]
    assert [report.graph.by_name[n].op for n in fault.exits] == ["aten.native_layer_norm"]


def test_operator_mode_sees_epsilons_and_masks():
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x / (x.abs().mean(-1, keepdim=True) + 1e-12)
            return y.masked_fill(x > 0, -1e9).softmax(-1)

    report = watched(Net(), operators=True)
    assert {(str(f.kind), f.op) for f in report.faults} == {
        ("epsilon", "aten.add"),
        ("sentinel", "aten.masked_fill"),
    }


def test_an_in_place_operator_makes_a_new_value():
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x + 1
            y.mul_(1e6)
            return y.div_(1e6)

    report = watched(Net(), operators=True)
    (fault,) = report.faults
    assert fault.op == "aten.mul"
    assert [node.op for node in report.graph.nodes] == ["aten.add", "aten.mul", "aten.div"]


def test_an_in_place_result_between_modules_is_a_new_value():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Tanh()

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            y += 1e6
            return self.b(y)

    report = watched(Net())
    assert report.values["a"].range.amax < 100
    assert report.values["b.input"].range.amax > 9e5


def test_outputs_of_one_operator_count_if_somebody_reads_them():
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            left, right, _unread = (x * torch.tensor([1.0, 1e7, 1e7] * 2)).split(2, -1)
            return left + right.tanh()

    report = watched(Net(), torch.ones(4, 6), operators=True)
    node = next(n for n in report.graph.nodes if n.op == "aten.split")
    assert [name in report.values for name in node.outputs] == [True, True, False]


def test_weights_are_values_too():
    net = model()
    scaled(net.backbone[0], 1e6)
    report = watched(net)
    kinds = {f.value: f.op for f in report.faults}
    assert kinds["backbone.0.weight"] == "constant"
    assert report.graph.values["backbone.0.weight"].kind == Kind.CONSTANT


@MODES
def test_a_model_in_half_shows_where_inf_and_nan_begin(operators):
    report = watched(model().half(), sample().half(), operators=operators)
    (fault,) = (f for f in report.faults if f.op != "constant")
    assert fault.module == "branch"
    assert fault.kind == "overflow"
    assert fault.line.startswith(str(HERE))


def test_what_a_half_model_computes_in_float32_is_not_at_fault():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(self.a(x).float() * 1e6).half()

    report = watched(Net().half(), sample().half(), operators=True)
    assert not report.faults
    assert max(v.range.amax for v in report.values.values()) > 65504


def test_the_minus_inf_of_a_mask_is_no_fault_in_half():
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.masked_fill(x > 1, -inf).softmax(-1)

    assert not watched(Net(), sample().half(), operators=True).faults


def test_samples_are_numbered_and_add_up():
    report = watched(model(), sample(1), sample(2) * 50, sample(3))
    assert report.samples == 3
    assert report.values["Model.input"].range.amax_sample == 1
    assert report.values["Model.input"].range.count == 96


def test_a_part_that_is_called_by_itself_is_a_sample_too():
    net = model()
    with halfsafe.watch(net) as log:
        net.backbone(sample())
        net.branch(sample() * 9)
    report = log.report()
    assert report.graph.outputs == ("backbone.1", "branch")
    assert report.graph.inputs == ("backbone.input", "branch.input")


def test_reports_of_shards_merge():
    net = model()
    parts = [watched(net, sample(i)) for i in (1, 2)]
    both = watched(net, sample(1), sample(2))
    merged = parts[0] | parts[1]
    assert merged.values.keys() == both.values.keys()
    assert merged.values["act"].range.amax == both.values["act"].range.amax
    assert [f.value for f in merged.faults] == [f.value for f in both.faults]


def test_a_report_comes_back_from_json(tmp_path):
    report = watched(model(), operators=True)
    report.save(tmp_path / "r.json")
    assert Report.load(tmp_path / "r.json") == report
    assert "Not safe in FP16" in report.text()


# As it happens


def test_transitions_are_told_in_order():
    told: list[Transition] = []
    watched(model(), on_transition=told.append)
    assert [(t.begins, t.where) for t in told] == [
        (True, "branch.norm.input"),
        (False, "branch.norm"),
    ]
    assert str(told[0]).startswith("overflow begins at branch.norm.input (Branch.forward): amax")


def test_transitions_are_told_before_the_call_ends():
    told: list[Transition] = []

    class Late(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert told
            return x

    watched(nn.Sequential(Branch(), Late()), on_transition=told.append)
    assert told


def test_a_logger_is_told(caplog):
    with caplog.at_level(logging.WARNING):
        watched(model(), on_transition=logging.getLogger("fp16"))
    assert "overflow begins at branch.norm.input" in caplog.text


def test_a_progress_line(capsys):
    watched(model(), on_transition="progress")
    assert capsys.readouterr().out == ""


def test_underflow_of_a_whole_tensor_is_told():
    told: list[Transition] = []
    net = nn.Sequential(nn.Linear(8, 8), scaled(nn.Linear(8, 8), 1e-9), nn.LayerNorm(8, 1e-30))
    watched(net, on_transition=told.append)
    assert [(str(t.kind), t.begins, t.where) for t in told] == [
        ("underflow", True, "1"),
        ("underflow", False, "2"),
    ]


# Misuse


def test_what_is_no_module_is_refused():
    with pytest.raises(BadInput, match=r"pass a torch\.nn\.Module"), halfsafe.watch(object()):
        pass


def test_a_report_before_any_call_is_refused():
    with (
        halfsafe.watch(model()) as log,
        pytest.raises(BadInput, match="not called while it was watched"),
    ):
        log.report()


# Sketches

TENSORS = {
    "plain": lambda: torch.randn(40, 300),
    "transposed": lambda: torch.randn(30, 400).t(),
    "expanded": lambda: torch.randn(1, 30).expand(90, 30),
    "sliced": lambda: torch.randn(60, 60, 3)[::2, :, 1],
    "channels last": lambda: torch.randn(2, 3, 40, 40).to(memory_format=torch.channels_last),
    "half": lambda: torch.randn(50, 50).half() * 1000,
    "bfloat16": lambda: torch.randn(50, 50).bfloat16(),
    "double": lambda: torch.randn(50, 50).double(),
    "scalar": lambda: torch.tensor(-3.0),
    "zeros": lambda: torch.zeros(100),
    "one in many": lambda: torch.nn.functional.one_hot(torch.tensor(77777), 100000) * 9e9,
    "inf": lambda: torch.tensor([1.0, inf, -5.0, torch.nan] * 300),
    "all nan": lambda: torch.full((5,), torch.nan),
    "empty": lambda: torch.zeros(0, 3),
}


@pytest.mark.parametrize("entries", [64, 1024, None])
@pytest.mark.parametrize("name", TENSORS)
def test_a_sketch_has_exact_extremes_and_a_part_of_the_histogram(name, entries):
    torch.manual_seed(0)
    x = TENSORS[name]()
    sketches = Sketches(entries)
    sketches.add("x", x)
    ((_, found),) = sketches.read(7)
    full = range_of(x)
    assert (found.amax, found.nonfinite, found.count) == (full.amax, full.nonfinite, full.count)
    assert found.binades.keys() <= full.binades.keys()
    assert found.amax_sample == 7
    assert entries is not None or found.binades == full.binades


@pytest.mark.parametrize("name", [name for name in TENSORS if name != "empty"])
def test_a_sketch_made_on_a_device_is_the_one_made_on_the_host(name):
    torch.manual_seed(0)
    x = TENSORS[name]()
    vector = sketch._on_device(x, 64)
    assert vector.dtype == torch.float32
    (arrived,) = sketch._fetch([vector])
    host = sketch._on_host(x, 64)
    assert list(sketch._ranges([("x", x.numel(), arrived)], 0)) == list(
        sketch._ranges([("x", x.numel(), host)], 0)
    )
    assert np.array_equal(arrived.magnitudes, host.magnitudes, equal_nan=True)


def test_a_thinned_tensor_meets_every_channel():
    x = torch.zeros(500, 64)
    x[:, 13] = 1e-9
    sketches = Sketches(1024)
    sketches.add("x", x + 1)
    sketches.add("y", x)
    (_, y) = (found for _, found in sketches.read(0))
    assert y.binades


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this needs a CUDA device")
def test_a_gpu_is_waited_for_once_a_call():
    net = model().cuda()
    x = sample().cuda()
    net(x)
    synchronise: Callable[[str], None] = torch.cuda.set_sync_debug_mode
    with halfsafe.watch(net) as log:
        net.register_forward_pre_hook(lambda *_: synchronise("error"))
        net.branch.register_forward_hook(lambda *_: synchronise("default"))
        net(x)
    assert log.report().faults
