"""What accelerate has spread over devices and disks is measured as the module that it was."""

from collections.abc import Callable
from pathlib import Path
from types import MethodType

import accelerate
import pytest
import torch
from torch import Tensor, nn

import halfsafe
from halfsafe.errors import BadInput
from tests.test_large_models import SAMPLES, loud

CPU = torch.device("cpu")


def by_map(model: nn.Module, folder: Path) -> nn.Module:
    places = {"embed": "cpu", "layers": "disk", "norm": "cpu", "head": "cpu", "shift": "cpu"}
    return accelerate.dispatch_model(model, places, main_device="cpu", offload_dir=folder)


def to_disk(model: nn.Module, folder: Path) -> nn.Module:
    accelerate.disk_offload(model, folder, execution_device=CPU)
    return model


def to_memory(model: nn.Module, folder: Path) -> nn.Module:
    del folder
    accelerate.cpu_offload(model, execution_device=CPU)
    return model


def by_layers(model: nn.Module, folder: Path) -> nn.Module:
    accelerate.disk_offload(
        model, folder, execution_device=CPU, preload_module_classes=["Layer", "Stream"]
    )
    return model


WAYS = [by_map, to_disk, to_memory, by_layers]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The following device_map keys")
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_dispatched_model_is_fixed_as_it_was(
    tmp_path: Path, way: Callable[[nn.Module, Path], nn.Module]
):
    whole = halfsafe.fix(loud(), SAMPLES)
    model = way(loud(), tmp_path)
    with torch.no_grad():
        before = [model(*sample) for sample in SAMPLES]
    held = {name: x.device.type for name, x in model.named_parameters()}
    assert "meta" in held.values()
    fixed = halfsafe.fix(model, SAMPLES)
    assert fixed.report.safe and fixed.report.verification.bit_equal
    assert fixed.report.folds == whole.report.folds
    assert torch.equal(fixed.half()(*SAMPLES[0]), whole.half()(*SAMPLES[0]))
    fixed.save(tmp_path / "fixed.safetensors", dtype="float32")
    again = loud()
    fixed.apply_to(again)
    with torch.no_grad():
        assert all(torch.equal(again(*s), y) for s, y in zip(SAMPLES, before, strict=True))
        assert held == {name: x.device.type for name, x in model.named_parameters()}
        assert all(torch.equal(model(*s), y) for s, y in zip(SAMPLES, before, strict=True))


def test_a_forward_of_its_own_is_kept(tmp_path: Path):
    model = loud(1)
    negative = MethodType(lambda self, x: -nn.Linear.forward(self, x), model.head)
    model.head.forward = negative  # type: ignore[method-assign]
    with torch.no_grad():
        known = model(*SAMPLES[0])
    assert torch.equal(known, -loud(1)(*SAMPLES[0]))
    dispatched = to_disk(model, tmp_path)
    report = halfsafe.inspect(dispatched, SAMPLES[:1])
    assert any(node.op == "aten.neg" for node in report.graph.nodes)


def test_a_model_on_two_devices_is_refused():
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)).eval()
    weights: dict[str, Tensor] = {name: x.clone() for name, x in model[1].state_dict().items()}
    hook = accelerate.hooks.AlignDevicesHook("cuda:0", offload=True, weights_map=weights)
    accelerate.hooks.add_hook_to_module(model[1], hook)
    with pytest.raises(BadInput, match="Sequential is spread over cpu, cuda:0: it is measured on"):
        halfsafe.inspect(model, [torch.randn(2, 16)])
