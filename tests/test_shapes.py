"""Sizes other than the sample's: free where the graph does not hold them, refused where it does."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import halfsafe
from halfsafe.frontends.torch.capture import capture
from halfsafe.samples import Call
from tests.replicas import Net, scaled


def image(*shape: int) -> Tensor:
    return torch.linspace(-1, 1, torch.Size(shape).numel()).reshape(shape)


def fixed(model: nn.Module, *args: Any) -> halfsafe.Fixed:
    return halfsafe.fix(model.eval(), args)


class Taking(Net):
    """A network whose arguments have names."""

    def forward(self, x: Tensor, *more: Any) -> Any:
        return self._forward(self, x, *more)


def grown(forward: Any, **parts: Any) -> Net:
    torch.manual_seed(0)
    return Taking(forward, grow=scaled(nn.Linear(8, 8), 1e6), norm=nn.LayerNorm(8), **parts).eval()


HOLDING = {
    "a size divided by": (lambda m, x: m.norm(m.grow(x)).sum(0) / x.shape[0], (4, 8), 0),
    "a size multiplied by": (lambda m, x: m.norm(m.grow(x)) * x.shape[0], (4, 8), 0),
    "a size to compute a number": (
        lambda m, x: m.norm(m.grow(x)) / x.shape[1] ** 0.5, (2, 6, 8), 1),
    "a size to interpolate to": (
        lambda m, x: F.interpolate(m.norm(m.grow(x))[:, None], size=x.shape[1] // 2), (2, 4, 8), 1),
    "positions": (lambda m, x: m.norm(m.grow(x)) + torch.arange(x.shape[1])[:, None], (2, 4, 8), 1),
    "a branch": (lambda m, x: m.norm(m.grow(x)) if x.shape[0] > 3 else x, (4, 8), 0),
    "a shape": (lambda m, x: m.norm(m.grow(x)).reshape(x.shape[0], 2, 4), (4, 8), 0),
}  # fmt: skip


@pytest.mark.parametrize("name", HOLDING)
def test_a_size_that_the_graph_holds_is_refused_at_the_door(name):
    forward, shape, axis = HOLDING[name]
    model = grown(forward)
    x = image(*shape)
    found = fixed(model, x)
    other = torch.cat([x, x], axis)
    message = rf"axis {axis} of 'x' has {2 * shape[axis]} entries.*{shape[axis]} of"
    for module in (found.model, found.half(), copy.deepcopy(found.half())):
        module(x)
        with pytest.raises(halfsafe.BadInput, match=message) as caught:
            module(other)
        assert "\n" not in str(caught.value)
        assert "dynamic_shapes" in str(caught.value)


def test_a_sample_of_a_size_that_the_graph_holds_is_refused():
    forward, shape, _ = HOLDING["a size divided by"]
    found = capture(grown(forward), Call((image(*shape),), {}))
    with pytest.raises(halfsafe.BadInput, match="sample 3 does not fit: axis 0 of 'x' has 6"):
        found.program.run(Call((image(6, 8),), {}, 3))


class ConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.grow, self.norm = scaled(nn.Conv2d(3, 8, 3, padding=1), 1e6), nn.BatchNorm2d(8)
        self.norm.running_var.fill_(1e11)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.grow(x))).mean((2, 3))


@pytest.mark.parametrize("batch", [1, 2])
def test_sizes_that_the_graph_does_not_hold_are_free(batch):
    model = ConvNet().eval()
    found = fixed(model, image(batch, 3, 8, 8))
    half = found.half()
    for shape in ((8, 3, 8, 8), (1, 3, 8, 8), (3, 3, 12, 8), (2, 3, 6, 20)):
        x = image(*shape)
        assert torch.equal(found.model(x), model(x))
        assert torch.isfinite(half(x)).all()
    with pytest.raises(halfsafe.BadInput, match="axis 1 of 'x' has 4 entries"):
        half(image(batch, 4, 8, 8))


def test_numbers_that_the_graph_holds_are_checked_too():
    model = grown(lambda m, x, times: m.norm(m.grow(x)) * times)
    found = fixed(model, image(4, 8), 3)
    assert torch.equal(found.model(image(4, 8), 3), model(image(4, 8), 3))
    with pytest.raises(halfsafe.BadInput, match="'more_0' is 5, and the graph holds the 3"):
        found.half()(image(4, 8), 5)


@pytest.mark.parametrize("name", HOLDING)
def test_axes_on_which_samples_differ_are_dynamic(name):
    forward, shape, axis = HOLDING[name]
    if name == "a branch":
        pytest.skip("Python decides")
    model = grown(forward)
    x = image(*shape)
    others = [Call((torch.cat([x] * n, axis),), {}, n) for n in (2, 3)]
    found = capture(model, Call((x,), {}), others=others)
    assert found.difference == 0
    for call in others:
        assert torch.equal(found.program.run(call)[0], model(*call.args))
        assert torch.equal(found.program.module()(*call.args), model(*call.args))
        assert found.program.module(torch.float16)(*call.args).shape == model(*call.args).shape


def test_a_sample_of_one_and_others_of_more():
    model = grown(lambda m, x: m.norm(m.grow(x)).sum(0) / x.shape[0])
    found = capture(model, Call((image(1, 8),), {}), others=[Call((image(5, 8),), {})])
    x = image(7, 8)
    assert torch.equal(found.program.run(Call((x,), {}))[0], model(x))


def test_samples_that_no_one_graph_serves_are_refused_by_size():
    model = grown(HOLDING["a branch"][0])
    found = capture(model, Call((image(4, 8),), {}), others=[Call((image(3, 8),), {}, 1)])
    with pytest.raises(halfsafe.BadInput, match="sample 1 does not fit: axis 0 of 'x'"):
        found.program.run(Call((image(3, 8),), {}, 1))


def test_dynamic_shapes_of_the_user_come_first():
    model = grown(lambda m, x: m.norm(m.grow(x)).sum(0) / x.shape[0])
    batch = torch.export.Dim("batch")
    found = halfsafe.fix(model, [image(4, 8)], dynamic_shapes=({0: batch},))
    assert torch.equal(found.model(image(9, 8)), model(image(9, 8)))


def test_the_door_goes_through_other_peoples_tools(tmp_path):
    forward, shape, _ = HOLDING["a size divided by"]
    half = fixed(grown(forward), image(*shape)).half()
    x = image(*shape)
    with torch.no_grad():
        compiled = torch.compile(half, backend="eager")
        assert torch.equal(compiled(x), half(x))
        with pytest.raises(halfsafe.BadInput, match="axis 0 of 'x' has 8"):
            compiled(image(8, 8))
    exported = torch.export.export(half, (x,)).module()
    assert torch.equal(exported(x), half(x))
    torch.save(half, tmp_path / "half.pt")
    for module in (torch.load(tmp_path / "half.pt", weights_only=False), fx.symbolic_trace(half)):
        assert torch.equal(module(x), half(x))
        with pytest.raises(halfsafe.BadInput, match="axis 0 of 'x' has 8"):
            module(image(8, 8))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_state_of_another_batch_is_refused_and_other_lengths_are_not(kind):
    """The kernels themselves check nothing, and read beyond the state's end."""
    torch.manual_seed(0)
    model = Taking(lambda m, x: m.cell(m.fc(x))[0], cell=kind(8, 8, batch_first=True),
                   fc=nn.Linear(8, 8)).eval()  # fmt: skip
    module = capture(model, Call((image(2, 4, 8),), {})).program.module()
    x = image(2, 9, 8)
    assert torch.allclose(module(x), model(x), atol=1e-6)
    with pytest.raises(halfsafe.BadInput, match="axis 0 of 'x' has 5 entries"):
        module(image(5, 4, 8))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_saved_program_takes_the_sizes_that_samples_had(tmp_path, dtype):
    model = grown(lambda m, x: m.norm(m.grow(x)).mean(1))
    samples = [(image(2, n, 8),) for n in (6, 4, 9)]
    halfsafe.fix(model, samples).save(tmp_path / "net.pt2", dtype=dtype)
    loaded = torch.export.load(tmp_path / "net.pt2").module()
    for x in (*(x for (x,) in samples), image(2, 17, 8)):
        found = loaded(x.to(getattr(torch, dtype))).float()
        assert found.shape == (2, 8)
        assert (found - model(x)).abs().max() <= (0 if dtype == "float32" else 1e-2)
