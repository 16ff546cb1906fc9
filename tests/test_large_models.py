"""Weights are read when they are needed: from memory, from files, and never all at once."""

import json
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import halfsafe
from halfsafe.errors import BadInput
from halfsafe.formats import FLOAT16
from halfsafe.frontends.torch.constants import Constants, Held, Scaled
from halfsafe.frontends.torch.hollow import hollow, lent
from halfsafe.frontends.torch.source import TorchSource
from halfsafe.frontends.torch.weights_file import TYPES, WeightsFile, write_tensors
from halfsafe.measure import compare, evaluate
from halfsafe.samples import Call
from tests.replicas import RMSNorm, draws

WIDTH = 16


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = RMSNorm(WIDTH), nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Stream(nn.Module):
    """Layers on a residual stream, whose last one has the weights of the first, and a buffer."""

    def __init__(self, layers: int = 6) -> None:
        super().__init__()
        self.embed = nn.Linear(WIDTH, WIDTH)
        self.layers = nn.Sequential(*(Layer() for _ in range(layers)))
        self.norm, self.head = RMSNorm(WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head.weight = self.embed.weight
        self.register_buffer("shift", torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.layers(self.embed(x) + self.shift)))


def loud(layers: int = 6) -> nn.Module:
    """A channel within each layer overflows FP16."""
    torch.manual_seed(0)
    model = Stream(layers).eval()
    with torch.no_grad():
        for layer in model.layers:
            layer.up.weight[3:5] *= 3e6
            layer.up.bias[3:5] *= 3e6
            layer.down.weight[:, 3:5] /= 3e6
    return model


def on_meta(layers: int = 6) -> nn.Module:
    with torch.device("meta"):
        return Stream(layers).eval()


def files(tmp_path, kind: str, tensors: dict[str, Tensor]) -> Any:
    """Weights in each form in which they can be given."""
    names = sorted(tensors)
    if kind == "function":
        return tensors.__getitem__
    if kind == "file":
        save_file(tensors, tmp_path / "any.safetensors")
        return tmp_path / "any.safetensors"
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for name, held in halves.items():
        save_file({n: tensors[n] for n in held}, tmp_path / name)
    if kind == "index":
        index = {"weight_map": {n: name for name, held in halves.items() for n in held}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    return str(tmp_path)


def untied(model: nn.Module) -> dict[str, Tensor]:
    """A tied tensor is in a file once."""
    return {n: x.clone() for n, x in model.state_dict().items() if n != "head.weight"}


SAMPLES = draws(3, WIDTH)


@pytest.mark.parametrize("kind", ["file", "index", "folder", "function"])
def test_weights_elsewhere_give_the_same_fix(tmp_path, kind):
    model, hollow_one = loud(), on_meta()
    whole = halfsafe.fix(model, SAMPLES)
    tensors = untied(model)
    weights = files(tmp_path, kind, tensors | {"head.weight": tensors["embed.weight"].clone()})
    fixed = halfsafe.fix(hollow_one, SAMPLES, weights=weights)
    assert fixed.report.safe
    assert fixed.report.verification == whole.report.verification
    assert fixed.report.verification.before_nonfinite
    known = whole.state_dict()
    assert all(torch.equal(x, known[name]) for name, x in fixed.state_dict().items())
    assert all(x.is_meta for x in (*hollow_one.parameters(), *hollow_one.buffers()))
    assert torch.equal(fixed.model(*SAMPLES[0]), model(*SAMPLES[0]))


@pytest.mark.slow
def test_a_tied_tensor_is_found_under_any_of_its_names(tmp_path):
    weights = files(tmp_path, "file", untied(loud()))
    assert halfsafe.fix(on_meta(), SAMPLES, weights=weights).report.safe


@pytest.mark.slow
def test_weights_in_bfloat16_are_those_of_the_float32_model(tmp_path):
    tensors = {name: x.bfloat16() for name, x in untied(loud()).items()}
    weights = files(tmp_path, "index", tensors)
    model = loud()
    model.load_state_dict(tensors, strict=False)
    fixed = halfsafe.fix(on_meta(), SAMPLES, weights=weights)
    assert torch.equal(fixed.model(*SAMPLES[0]), model(*SAMPLES[0]))


@pytest.mark.slow
def test_what_is_saved_is_what_the_whole_model_saves(tmp_path):
    model = loud()
    halfsafe.fix(model, SAMPLES).save(tmp_path / "whole.safetensors")
    (tmp_path / "in").mkdir()
    weights = files(tmp_path / "in", "index", untied(model))
    halfsafe.fix(on_meta(), SAMPLES, weights=weights).save(tmp_path / "read.safetensors")
    found, known = (
        load_file(tmp_path / name) for name in ("read.safetensors", "whole.safetensors")
    )
    assert found.keys() == known.keys() == model.state_dict().keys()
    assert all(torch.equal(found[name], known[name]) for name in known)


@pytest.mark.slow
def test_an_inspection_is_that_of_the_whole_model(tmp_path):
    model = loud()
    weights = files(tmp_path, "folder", untied(model))
    found = halfsafe.inspect(on_meta(), SAMPLES, weights=weights)
    assert found.faults == halfsafe.inspect(model, SAMPLES).faults
    assert found.faults


@pytest.mark.slow
def test_no_more_than_a_layer_is_in_memory():
    """Of the tensors that a function gives, the bytes that are alive at any time."""
    tensors, alive, most = loud(30).state_dict(), dict[int, int](), 0

    def give(name: str) -> Tensor:
        nonlocal most
        made = tensors[name].clone()
        storage = made.untyped_storage()
        alive[storage.data_ptr()] = storage.nbytes()
        weakref.finalize(storage, alive.pop, storage.data_ptr(), None)
        most = max(most, sum(alive.values()))
        return made

    fixed = halfsafe.fix(on_meta(30), SAMPLES, weights=give)
    assert fixed.report.safe
    assert most < 0.1 * sum(x.nbytes for x in tensors.values())


class Odd(nn.Module):
    """Modules whose code does not ask them for their parameters by name."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.table = nn.ParameterList([nn.Parameter(torch.randn(WIDTH)) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.lstm(x)[0] + self.table[1]
        return self.attention(x, x, x, need_weights=False)[0] * self.table[0]


@pytest.mark.slow
def test_parameters_that_code_holds_otherwise():
    torch.manual_seed(0)
    model, x = Odd().eval(), torch.randn(2, 3, WIDTH)
    with torch.device("meta"):
        hollow_one = Odd().eval()
    tensors = model.state_dict()
    source = TorchSource.open(hollow_one, Call((x,), {}), weights=tensors.__getitem__)
    with torch.no_grad():
        assert np.array_equal(source.reference(Call((x,), {}))[0], model(x).double().numpy())


def test_a_failing_forward_leaves_the_module_as_it_was():
    hollow_one, tensors = on_meta(), loud().state_dict()
    with pytest.raises(BadInput, match="Stream itself fails on sample 0"):
        halfsafe.fix(hollow_one, torch.randn(3, 5), weights=tensors.__getitem__)
    assert all(x.is_meta for x in hollow_one.parameters())
    assert all(type(vars(m)["_parameters"]) is dict for m in hollow_one.modules())


# Refusals


def test_a_model_without_values():
    with pytest.raises(BadInput, match=r"'embed.weight' is on the meta device.*pass weights="):
        halfsafe.fix(on_meta(), SAMPLES)


def test_weights_for_a_model_that_has_its_own():
    with pytest.raises(BadInput, match="a model that has its own"):
        halfsafe.fix(loud(), SAMPLES, weights=loud().state_dict().__getitem__)


def test_weights_for_what_is_no_module(tmp_path):
    with pytest.raises(BadInput, match=r"no torch\.nn\.Module"):
        halfsafe.inspect(tmp_path / "x.onnx", {"x": np.ones(3)}, weights=tmp_path)


@pytest.mark.parametrize(
    "name, change, words",
    [
        ("layers.3.up.weight", None, r"weights has no 'layers\.3\.up\.weight'.*this model"),
        ("shift", None, r"weights has no 'shift'.*make the module 'it' again outside"),
        ("head.bias", torch.ones(3), r"'head.bias' has the shape \(3,\) in .*and \(16,\) in the"),
        ("head.bias", torch.full((WIDTH,), torch.nan), "'head.bias' holds 16 NaN or inf"),
    ],
)
def test_weights_of_another_model(tmp_path, name, change, words):
    tensors = untied(loud())
    tensors.pop(name)
    if change is not None:
        tensors[name] = change
    with pytest.raises(BadInput, match=words):
        halfsafe.fix(on_meta(), SAMPLES, weights=files(tmp_path, "file", tensors))


@pytest.mark.parametrize(
    "give, words",
    [
        (lambda name: {}[name], r"weights\('embed.weight'\) fails"),
        (lambda name: 3, r"weights\('embed.weight'\) gives a int, not a tensor"),
        (3, "weights is a int: pass a .safetensors file"),
        ("nowhere.safetensors", "cannot read 'nowhere.safetensors': No such file"),
    ],
)
def test_what_gives_no_weights(give, words):
    with pytest.raises(BadInput, match=words):
        halfsafe.fix(on_meta(), SAMPLES, weights=give)


def test_a_folder_without_weights(tmp_path):
    with pytest.raises(BadInput, match=r"holds no \.safetensors files"):
        halfsafe.fix(on_meta(), SAMPLES, weights=tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(BadInput, match=r"cannot read '.*index\.json'"):
        halfsafe.fix(on_meta(), SAMPLES, weights=tmp_path)


@pytest.mark.parametrize("length", [0, 4, 8, 60, 500])
def test_a_file_that_is_cut_off(tmp_path, length):
    path = tmp_path / "cut.safetensors"
    save_file(untied(loud()), path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(BadInput, match=r"is no whole \.safetensors file"):
        halfsafe.fix(on_meta(), SAMPLES, weights=path)


# Files


def of_every_type() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    odd = {"none": torch.zeros(0, 3), "one": torch.tensor(2.5), "turned": torch.ones(4, 3).t()}
    some = torch.randint(0, 2, (5, 3), generator=generator)
    return {str(dtype).removeprefix("torch."): some.to(dtype) for dtype in TYPES.values()} | odd


def bytes_of(x: Tensor) -> Tensor:
    """Entry by entry."""
    return x.contiguous().flatten().view(torch.uint8).reshape(*x.shape, x.itemsize)


def test_what_is_written_is_what_the_package_reads(tmp_path):
    tensors, path = of_every_type(), tmp_path / "all.safetensors"
    write_tensors(path, {name: Held.of(x) for name, x in tensors.items()})
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == set(tensors)
        for name in file.keys():  # noqa: SIM118
            found = file.get_tensor(name)
            assert found.dtype == tensors[name].dtype
            assert bytes_of(found).equal(bytes_of(tensors[name]))


def test_what_the_package_writes_is_read(tmp_path):
    tensors, path = of_every_type(), tmp_path / "all.safetensors"
    save_file({name: x.contiguous() for name, x in tensors.items()}, path)
    file = WeightsFile.open(path)
    assert set(file.names) == set(tensors)
    for name, known in tensors.items():
        found = file.read(name)
        assert found.dtype == known.dtype and found.shape == known.shape
        assert (
            found.flatten().view(torch.uint8).equal(known.contiguous().flatten().view(torch.uint8))
        )


# Copies


def test_a_copy_to_capture_has_shapes_strides_and_ties_but_no_values():
    model = nn.ModuleDict({"conv": nn.Conv2d(3, 64, 3), "stream": Stream(1)})
    model.conv.to(memory_format=torch.channels_last)
    made = hollow(model, torch.bfloat16)
    for (name, x), y in zip(model.named_parameters(), made.parameters(), strict=True):
        assert (y.shape, y.stride(), y.dtype) == (x.shape, x.stride(), torch.bfloat16), name
        assert y.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()
    assert made.stream.head.weight is made.stream.embed.weight
    assert torch.equal(made.stream.shift, model.stream.shift.bfloat16())


def test_a_copy_that_is_lent_tensors_does_not_own_them():
    model, x = loud(1), SAMPLES[0][0]
    doubled = {
        name: Scaled.of(Held.of(tensor), -1)
        for name, tensor in model.named_parameters(remove_duplicate=False)
    }
    made = lent(model, doubled)
    with torch.no_grad():
        before = model(x)
        by_hand = Stream(1).eval()
        by_hand.load_state_dict(
            {n: 2 * t if n != "shift" else t for n, t in model.state_dict().items()}
        )
        assert torch.equal(made(x), by_hand(x))
        assert torch.equal(model(x), before)


def test_a_constant_that_two_nodes_read_is_compared_once():
    torch.manual_seed(0)
    model = Stream(1).eval()
    program = TorchSource.open(model, Call(SAMPLES[0], {})).program
    _, found = compare(program, [Call(SAMPLES[0], {})])
    (tied,) = found.keys() & {"embed.weight", "head.weight"}
    assert len(program.graph.consumers[tied]) == 2
    assert found[tied].half.count == WIDTH * WIDTH


def test_folding_computes_nothing():
    fixed = halfsafe.fix(loud(), SAMPLES)
    after: Constants = fixed.delivery.after.constants
    before = fixed.delivery.before.constants
    changed = [s for name, s in after.sources.items() if s is not before.sources.get(name)]
    assert changed and all(isinstance(source, Scaled) for source in changed)
    assert all(torch.equal(s.read(), s.source.read() * 2.0**-s.exponent) for s in changed)


def test_on_one_lane_constants_are_read_as_nodes_need_them(monkeypatch):
    """Never two large ones at once, not even of all that are rounded."""
    program = TorchSource.open(loud(8), Call(SAMPLES[0], {})).program
    held, most = list[weakref.ref[Tensor]](), 0
    rounded = program.arithmetic.rounded

    def counting(x: Tensor, fmt: Any) -> Tensor:
        nonlocal most
        made = rounded(x, fmt)
        if tuple(x.shape) in ((32, WIDTH), (WIDTH, 32)):
            held.append(weakref.ref(made))
            most = max(most, sum(ref() is not None for ref in held))
        return made

    monkeypatch.setattr("halfsafe.frontends.torch.arithmetic.rounded", counting)
    evaluate(program, Call(SAMPLES[0], {}), FLOAT16)
    assert len(held) == 16 and most == 1


# Elsewhere


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this needs a CUDA device")
def test_a_network_on_a_gpu_gets_the_plan_of_the_cpu():
    here = halfsafe.fix(loud(), SAMPLES)
    given = [tuple(x.cuda() for x in sample) for sample in SAMPLES]
    there = halfsafe.fix(loud().cuda(), given)
    assert there.report.safe and there.report.verification.bit_equal
    assert there.report.folds == here.report.folds
    with torch.no_grad():
        found = there.half()(*given[0])
        expected = loud()(*SAMPLES[0])
    apart = (found.float().cpu() - expected).norm() / expected.norm()
    assert found.device.type == "cuda" and apart < 1e-2
