"""The fixed model in every form in which people ship it."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

import halfsafe
from halfsafe.atomic import atomically
from tests.replicas import Block, Net, RMSNorm, build, draws, scaled


class ConvNet(nn.Module):
    """A stem, two residual blocks whose sums overflow, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(Block(8), Block(8))
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.stem(x))).mean((2, 3)))


class Transformer(nn.Module):
    """One pre-norm block on a residual stream that overflows."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(16) for _ in range(3))
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 20)

    def forward(self, ids: Tensor) -> Tensor:
        h = self.embedding(ids)
        q, k, v = self.qkv(self.norm1(h)).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        h = h + self.out(mixed)
        h = h + self.down(F.gelu(self.up(self.norm2(h))))
        return self.head(self.norm3(h))


def conv_net() -> tuple[nn.Module, list[Any]]:
    torch.manual_seed(0)
    model = ConvNet()
    for part in (model.stem, *(block.bn2 for block in model.blocks)):
        scaled(part, 3e5)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 1.0
    model(torch.randn(16, 3, 8, 8))  # gives the norms the statistics of a batch
    return model.eval(), draws(2, 3, 8, 8)


def transformer() -> tuple[nn.Module, list[Any]]:
    torch.manual_seed(0)
    model = Transformer()
    for part in (model.embedding, model.out, model.down):
        scaled(part, 3e6)
    return model.eval(), [(torch.randint(0, 20, (2, 5)),) for _ in range(3)]


MODELS = {"conv_net": conv_net, "transformer": transformer}


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    """A model, one sample, and its fix."""
    model, samples = MODELS[request.param]()
    return model, samples[0], halfsafe.fix(model, samples)


def needs_insertion() -> tuple[nn.Module, list[Any]]:
    """Both ends are pinned: by the graph's input and by the softmax."""
    torch.manual_seed(0)
    grow = scaled(nn.Linear(8, 8), 3e5)
    return Net(lambda m, x: (m.grow(x) * 1e-5 + x).softmax(-1) * m.grow(x), grow=grow).eval(), (
        draws(4, 8)
    )


def assert_finite_half(output: Tensor) -> None:
    assert output.dtype == torch.float16
    assert torch.isfinite(output).all()


def test_these_models_overflow(case):
    fixed = case[2]
    assert fixed.report.verification.before_nonfinite
    assert fixed.report.safe
    assert not fixed.report.insertions


def test_the_fixed_model_is_bit_equal_in_float32(case):
    model, sample, fixed = case
    assert torch.equal(fixed.model(*sample), model(*sample))


def test_half_takes_float16_and_float32_inputs_alike():
    model, samples = conv_net()
    half = halfsafe.fix(model, samples).half()
    (x,) = samples[0]
    assert_finite_half(half(x))
    assert torch.equal(half(x.half()), half(x))


# Other people's tools


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled(case, backend):
    model, sample, fixed = case
    with torch.no_grad():
        assert torch.equal(torch.compile(fixed.model, backend=backend)(*sample), model(*sample))
        half = fixed.half()
        compiled = torch.compile(half, backend=backend)(*sample)
        assert torch.equal(compiled, half(*sample))
    assert_finite_half(compiled)


def test_exported(case):
    model, sample, fixed = case
    exported = torch.export.export(fixed.model, sample).module()
    assert torch.equal(exported(*sample), model(*sample))
    assert_finite_half(torch.export.export(fixed.half(), sample).module()(*sample))


def test_exported_to_onnx(case, tmp_path):
    import onnx

    _, sample, fixed = case
    half = fixed.half()
    given = tuple(x.half() if x.is_floating_point() else x for x in sample)
    torch.onnx.export(half, given, tmp_path / "half.onnx", dynamo=True, verbose=False)
    onnx.checker.check_model(tmp_path / "half.onnx")
    graph = onnx.load(tmp_path / "half.onnx").graph
    stored = {i.data_type for i in graph.initializer}
    assert onnx.TensorProto.FLOAT16 in stored
    assert onnx.TensorProto.FLOAT not in stored
    assert onnx.TensorProto.BFLOAT16 not in stored


def test_copied_and_moved(case):
    model, sample, fixed = case
    moved = copy.deepcopy(fixed.model).to("cpu")
    assert torch.equal(moved(*sample), model(*sample))
    assert set(moved.state_dict()) == set(fixed.model.state_dict())


# The original's own class


def test_state_dict_has_the_keys_and_shapes_of_the_original():
    model, samples = plain_weights()
    before, after = model.state_dict(), halfsafe.fix(model, samples).state_dict()
    assert list(after) == list(before)
    assert all(after[name].shape == before[name].shape for name in before)
    assert all(after[name].dtype == before[name].dtype for name in before)


def test_the_original_class_with_folded_constants(case):
    model, sample, fixed = case
    rescaled = fixed.apply_to(copy.deepcopy(model))
    assert type(rescaled) is type(model)
    assert torch.equal(rescaled(*sample), model(*sample))
    half = rescaled.half()
    assert_finite_half(half(*(x.half() if x.is_floating_point() else x for x in sample)))


def test_what_a_plain_half_of_the_original_gives(case):
    model, sample, _ = case
    half = copy.deepcopy(model).half()
    output = half(*(x.half() if x.is_floating_point() else x for x in sample))
    assert not torch.isfinite(output).all()


def test_epsilons_are_set_by_apply_to_and_are_in_no_state_dict(case, tmp_path):
    model, _, fixed = case
    with pytest.raises(halfsafe.FoldError, match=r"eps = .* no state_dict holds: use apply_to"):
        fixed.state_dict()
    with pytest.raises(halfsafe.FoldError, match="no state_dict holds"):
        fixed.save(tmp_path / "fixed.safetensors")
    assert not list(tmp_path.iterdir())
    last = "norm3" if isinstance(model, Transformer) else "norm"
    rescaled = fixed.apply_to(copy.deepcopy(model))
    assert rescaled.get_submodule(last).eps != model.get_submodule(last).eps


def test_a_model_that_fits_is_left_as_it_is(tmp_path):
    """A network that FP16 does not hurt gets an empty plan: the same weights, the same file."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 4)).eval()
    fixed = halfsafe.fix(model, draws(5, 8))
    report = fixed.report
    assert report.safe
    assert not (report.folds or report.insertions or report.forms or report.islands)
    assert all(map(torch.equal, fixed.state_dict().values(), model.state_dict().values()))
    fixed.save(tmp_path / "same.safetensors", dtype="float32")
    loaded = load_file(tmp_path / "same.safetensors")
    assert all(torch.equal(loaded[name], t) for name, t in model.state_dict().items())


def plain_weights():
    """Overflows between its layers, and needs no epsilon to be mended."""
    torch.manual_seed(0)
    up, down = scaled(nn.Linear(8, 16), 1e6), scaled(nn.Linear(16, 4), 1e-6)
    model = nn.Sequential(up, nn.ReLU(), down).eval()
    return model, draws(5, 8)


def test_apply_to_unties_parameters_stored_at_two_exponents():
    torch.manual_seed(0)
    first, second = scaled(nn.Linear(16, 16, bias=False), 2e4), nn.Linear(16, 16, bias=False)
    second.weight = first.weight
    model = Net(lambda m, x: m.second(m.norm(m.first(x)).sigmoid()),
                first=first, norm=nn.LayerNorm(16), second=second).eval()  # fmt: skip
    samples = draws(6, 16, times=30.0)
    rescaled = halfsafe.fix(model, samples).apply_to(copy.deepcopy(model))
    assert model.first.weight is model.second.weight
    assert not torch.equal(rescaled.first.weight, rescaled.second.weight)
    assert torch.equal(rescaled(*samples[0]), model(*samples[0]))
    assert_finite_half(rescaled.half()(samples[0][0].half()))


def test_an_insertion_cannot_be_a_state_dict(tmp_path):
    model, samples = needs_insertion()
    fixed = halfsafe.fix(model, samples)
    before = copy.deepcopy(model)
    assert fixed.report.insertions
    with pytest.raises(halfsafe.FoldError, match=r"use fixed\.model instead"):
        fixed.state_dict()
    with pytest.raises(halfsafe.FoldError, match="constants alone do not suffice"):
        fixed.apply_to(model)
    with pytest.raises(halfsafe.FoldError):
        fixed.save(tmp_path / "weights.safetensors")
    assert all(map(torch.equal, model.state_dict().values(), before.state_dict().values()))
    assert not list(tmp_path.iterdir())


def test_a_number_in_the_code_cannot_be_a_state_dict():
    torch.manual_seed(0)
    model = Net(
        lambda m, x: m.norm(m.grow(x) + 1e5), grow=scaled(nn.Linear(16, 16), 1e6), norm=RMSNorm(16)
    )
    fixed = halfsafe.fix(model.eval(), draws(4, 16))
    with pytest.raises(halfsafe.FoldError, match=r"100000\.0, which is written into the code"):
        fixed.state_dict()


def test_apply_to_refuses_another_class(case):
    _, _, fixed = case
    with pytest.raises(halfsafe.FoldError, match="use a model of the same class"):
        fixed.apply_to(nn.Linear(2, 2))


# Files


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_saved_as_a_program(case, tmp_path, dtype):
    _, sample, fixed = case
    fixed.save(tmp_path / "fixed.pt2", dtype=dtype)
    loaded = torch.export.load(tmp_path / "fixed.pt2").module()
    given = tuple(x.to(getattr(torch, dtype)) if x.is_floating_point() else x for x in sample)
    expected = (fixed.half() if dtype == "float16" else fixed.model)(*given)
    assert torch.equal(loaded(*given), expected)
    assert [f.name for f in tmp_path.iterdir()] == ["fixed.pt2"]


def test_saved_as_weights(tmp_path):
    model, samples = plain_weights()
    fixed, path = halfsafe.fix(model, samples), tmp_path / "fixed.safetensors"
    fixed.save(str(path), dtype="float32")
    rescaled = copy.deepcopy(model)
    rescaled.load_state_dict(load_file(path))
    assert torch.equal(rescaled(*samples[0]), model(*samples[0]))


def test_weights_are_saved_in_half_precision_by_default(tmp_path):
    model, samples = plain_weights()
    halfsafe.fix(model, samples).save(tmp_path / "fixed.safetensors")
    loaded = load_file(tmp_path / "fixed.safetensors")
    assert {t.dtype for t in loaded.values()} == {torch.float16}
    half = copy.deepcopy(model).half()
    half.load_state_dict(loaded)
    assert_finite_half(half(samples[0][0].half()))


@pytest.mark.parametrize("name", ["fixed.onnx", "fixed", "fixed.pt"])
def test_a_suffix_that_says_nothing(case, tmp_path, name):
    with pytest.raises(halfsafe.BadInput, match=r"suffix \.pt2 or \.safetensors"):
        case[2].save(tmp_path / name)


@pytest.mark.parametrize("name", ["fixed.pt2", "fixed.safetensors"])
def test_a_folder_that_does_not_exist(tmp_path, name):
    with pytest.raises(halfsafe.BadInput, match=f"cannot write '.*{name}': No such file"):
        halfsafe.fix(*plain_weights()).save(tmp_path / "nowhere" / name)


def test_a_failing_write_leaves_no_file(tmp_path):
    def fail(partial: str) -> None:
        Path(partial).write_text("half of it")
        raise OSError(28, "No space left on device")

    with pytest.raises(halfsafe.BadInput, match=r"cannot write '.*out\.bin': No space left"):
        atomically(tmp_path / "out.bin", fail)
    assert not list(tmp_path.iterdir())


def test_a_failing_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError):
        atomically(path, lambda _: 1 / 0)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_integer_outputs_are_equal_too():
    model = Net(lambda m, x: m.i(x).argmax(-1), i=scaled(nn.Linear(16, 8), 1e6)).eval()
    samples = draws(6, 16)
    fixed = halfsafe.fix(model, samples)
    assert fixed.report.verification.bit_equal
    for sample in samples:
        assert torch.equal(fixed.half()(*sample), model(*sample))


def test_real_half_kernels_prove_it_as_well():
    """The original does not even run in FP16: its mask cannot be cast."""
    model, samples = build("masked_fill_of_minus_1e9")
    proof = halfsafe.fix(model, samples, engine="torch").report.verification
    assert proof.engine == "torch"
    assert proof.before_nonfinite
    assert proof.safe


def test_a_factor_beyond_fp16_is_exported_in_parts(tmp_path):
    """1e6 and 2e-9 are inf and 0 in FP16, where an exporter stores them."""
    import onnx
    import onnxruntime

    model = Net(lambda m, x: torch.relu(x * 1e-3 * 1e6) * 2e-9 / 3e-7).eval()
    fixed = halfsafe.fix(model, draws(4, 8, times=0.1))
    (x,) = draws(4, 8, times=0.1)[0]
    torch.onnx.export(fixed.half(), (x.half(),), tmp_path / "half.onnx", dynamo=True, verbose=False)
    constants = [
        onnx.numpy_helper.to_array(i) for i in onnx.load(tmp_path / "half.onnx").graph.initializer
    ]
    assert all((c != 0).all() and abs(c).max() < 65504 for c in constants if c.dtype.kind == "f")
    session = onnxruntime.InferenceSession(tmp_path / "half.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: x.half().numpy()})
    assert torch.allclose(torch.tensor(found).float(), model(x), rtol=5e-3, atol=1e-6)


# Operators that the user keeps in FP32


def three_layers():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 4))
    return net.eval()


@pytest.mark.parametrize(
    ("pattern", "count"),
    [("2", 1), ("aten.linear", 3), ("linear_1", 1), ("aten.*", 5), ("[02]", 2)],
)
def test_operators_are_kept_in_fp32_as_asked(pattern, count):
    net, x = three_layers(), torch.randn(6, 8)
    fixed = halfsafe.fix(net, [x], keep_fp32=pattern)
    (island,) = fixed.report.islands
    names, why = island.split(": ")
    assert len(names.split(", ")) == count
    assert why == "kept in FP32 as asked"
    assert torch.equal(fixed.model(x), net(x))
    assert fixed.report.safe
    assert torch.isfinite(fixed.half()(x)).all()  # an island may need the input in FP32


def test_a_pattern_that_names_nothing_is_refused():
    with pytest.raises(halfsafe.BadInput, match=r"'nonesuch\*' names no operator"):
        halfsafe.fix(three_layers(), [torch.randn(6, 8)], keep_fp32=["aten.linear", "nonesuch*"])


def test_save_pretrained_of_what_apply_to_has_changed_is_warned_of():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=99, n_positions=32)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "c_proj" in name or "wpe" in name:
                p.mul_(1e6)
    sample = {"input_ids": torch.randint(0, 99, (2, 8)), "use_cache": False}
    fixed = halfsafe.fix(model, sample)
    other = GPT2LMHeadModel(config).eval()
    with pytest.warns(UserWarning, match="save_pretrained does not write .*fix_directory"):
        fixed.apply_to(other)
    with torch.no_grad():
        assert torch.equal(other(**sample).logits, model(**sample).logits)


# Operators that are left as they are


def loud_stages():
    torch.manual_seed(0)
    layers = [nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)]
    with torch.no_grad():
        for layer, factor in zip(layers, (1e6, 1e-1, 1.0, 1e-5), strict=True):
            _ = layer.weight.mul_(factor)
    return nn.Sequential(*(x for each in layers for x in (each, nn.ReLU()))).eval()


@pytest.mark.parametrize("pattern", ["4", "linear_2", "[4]"])
def test_excluded_operators_keep_their_constants_and_run_in_fp16(pattern):
    net, xs = loud_stages(), [torch.randn(6, 8) for _ in range(3)]
    assert not torch.equal(halfsafe.fix(net, xs).state_dict()["4.weight"], net[4].weight)
    fixed = halfsafe.fix(net, xs, exclude=pattern)
    assert (fixed.report.safe, fixed.report.islands) == (True, ())
    assert torch.equal(fixed.model(xs[0]), net(xs[0]))
    assert torch.equal(fixed.model.get_parameter("4.weight"), net[4].weight)
    assert fixed.report.values["linear_2"].exponent == 0


def test_what_an_excluded_operator_cannot_bear_says_who_left_it():
    net, x = three_layers(), torch.randn(6, 8)
    with torch.no_grad():
        _ = net[2].weight.mul_(1e6)
    fixed = halfsafe.fix(net, [x], exclude="2")
    assert fixed.report.safe
    (island,) = fixed.report.islands
    assert "linear_1 (aten.linear in 2), left as it is, as asked, pins it to 0" in island
    assert torch.equal(fixed.model(x), net(x))


def test_an_excluded_gate_keeps_its_form():
    net = nn.Sequential(nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 4)).eval()
    with torch.no_grad():
        _ = net[0].weight.mul_(1e6)
        _ = net[2].weight.mul_(1e-6)
    x = torch.randn(6, 8)
    assert halfsafe.fix(net, [x]).report.forms
    assert not halfsafe.fix(net, [x], exclude="aten.silu").report.forms


def test_a_pattern_to_exclude_that_names_nothing_is_refused():
    with pytest.raises(halfsafe.BadInput, match=r"'nonesuch\*' names no operator"):
        halfsafe.fix(three_layers(), [torch.randn(6, 8)], exclude=["nonesuch*"])


def test_weights_that_lie_unaligned_are_no_other_function():
    """As those do that safetensors maps: a product with one row sums in the order of alignment."""
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).eval()
    with torch.no_grad():
        for layer, factor in ((net[0], 1e6), (net[2], 1e-5)):
            odd = torch.empty(64 * 64 + 1)[1:].view(64, 64)
            layer.weight = nn.Parameter(odd.copy_(factor * layer.weight), requires_grad=False)
    xs = [torch.randn(1, 64) for _ in range(4)]
    fixed = halfsafe.fix(net, xs)
    assert fixed.report.safe
    assert fixed.report.folds
    assert all(torch.equal(fixed.model(x), net(x)) for x in xs)
