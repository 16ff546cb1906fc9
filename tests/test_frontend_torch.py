"""What people's modules look like: every shape of arguments, outputs and constants."""

import copy
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import register_pytree_node
from torch.utils.data import DataLoader
from transformers.modeling_outputs import BaseModelOutput

import halfsafe
from halfsafe.frontends import open_model
from halfsafe.samples import Call, Samples
from tests.replicas import Net, RMSNorm, draws, scaled

X = draws(6, 16)


def overflowing(forward: Any, **parts: Any) -> Net:
    """A network whose `grow` leaves the range of FP16, and whose `shrink` is back in it."""
    torch.manual_seed(0)
    grow = scaled(nn.Linear(16, 32), 1e6)
    return Net(forward, grow=grow, shrink=scaled(nn.Linear(32, 4), 1e-6), **parts).eval()


def hidden(m: Any, x: Tensor) -> Tensor:
    return F.relu(m.grow(x))


def fixed_exactly(model: nn.Module, samples: Any, **options: Any) -> halfsafe.Fixed:
    fixed = halfsafe.fix(model, samples, **options)
    assert fixed.report.faults
    assert fixed.report.verification.bit_equal
    assert fixed.report.safe
    return fixed


def assert_finite(output: Tensor) -> None:
    assert output.dtype == torch.float16
    assert torch.isfinite(output).all()


# Arguments


def test_positional_arguments():
    model = overflowing(lambda m, x, y: m.shrink(hidden(m, x) + hidden(m, y)))
    samples = [(torch.randn(6, 16), torch.randn(6, 16)) for _ in range(3)]
    fixed = fixed_exactly(model, samples)
    assert torch.equal(fixed.model(*samples[0]), model(*samples[0]))
    assert_finite(fixed.half()(*samples[0]))


def test_one_tensor_is_one_sample():
    model = overflowing(lambda m, x: m.shrink(hidden(m, x)))
    fixed = fixed_exactly(model, X[0][0])
    assert fixed.report.samples == 1
    assert torch.equal(fixed.model(*X[0]), model(*X[0]))


def test_keyword_arguments_in_any_order():
    model = overflowing(lambda m, x, y: m.shrink(hidden(m, x) - hidden(m, y)))
    x, y = torch.randn(2, 6, 16)
    fixed = fixed_exactly(model, [{"x": x, "y": y}, {"y": x, "x": y}])
    assert torch.equal(fixed.model(x=x, y=y), model(x=x, y=y))
    assert_finite(fixed.half()(x=x, y=y))


def test_arguments_that_are_collections():
    model = overflowing(lambda m, pair, extra: m.shrink(hidden(m, pair[0]) + extra["y"] * pair[1]))
    sample = ([torch.randn(6, 16), torch.randn(6, 32)], {"y": torch.randn(6, 1)})
    fixed = fixed_exactly(model, [sample])
    assert torch.equal(fixed.model(*sample), model(*sample))
    assert_finite(fixed.half()(*sample))


def test_integer_and_floating_arguments_together():
    model = overflowing(
        lambda m, ids, bias: m.shrink(hidden(m, m.embedding(ids)) + bias),
        embedding=nn.Embedding(9, 16),
    )
    sample = (torch.randint(0, 9, (2, 6)), torch.randn(32))
    fixed = fixed_exactly(model, [sample])
    assert torch.equal(fixed.model(*sample), model(*sample))
    assert_finite(fixed.half()(*sample))


# Outputs


@dataclass
class Detection:
    boxes: Tensor
    scores: Tensor


def test_a_dict_with_a_tuple_in_it():
    model = overflowing(lambda m, x: {"y": (y := m.shrink(hidden(m, x))), "pair": (y, y.argmax())})
    found, expected = fixed_exactly(model, X).model(*X[0]), model(*X[0])
    assert torch.equal(found["y"], expected["y"])
    assert torch.equal(found["pair"][0], expected["pair"][0])
    assert torch.equal(found["pair"][1], expected["pair"][1])


def test_a_dataclass_that_pytree_does_not_know():
    model = overflowing(lambda m, x: Detection((y := m.shrink(hidden(m, x))), y.sigmoid()))
    fixed = fixed_exactly(model, X)
    found, expected = fixed.model(*X[0]), model(*X[0])
    assert type(found) is Detection
    assert torch.equal(found.boxes, expected.boxes)
    assert torch.equal(found.scores, expected.scores)
    assert_finite(fixed.half()(*X[0]).boxes)


def test_a_model_output_of_transformers():
    model = overflowing(lambda m, x: BaseModelOutput(last_hidden_state=m.shrink(hidden(m, x))))
    fixed = fixed_exactly(model, X)
    found = fixed.model(*X[0])
    assert type(found) is BaseModelOutput
    assert torch.equal(found.last_hidden_state, model(*X[0]).last_hidden_state)
    assert_finite(fixed.half()(*X[0])["last_hidden_state"])


# Constants


def test_tied_weights_stored_at_two_exponents():
    first, second = scaled(nn.Linear(16, 16, bias=False), 2e4), nn.Linear(16, 16, bias=False)
    second.weight = first.weight
    model = Net(lambda m, x: m.second(m.norm(m.first(x)).sigmoid()),
                first=first, norm=nn.LayerNorm(16), second=second).eval()  # fmt: skip
    samples = draws(6, 16, times=30.0)
    fixed = fixed_exactly(model, samples)
    assert not fixed.report.insertions
    stored = [*fixed.model.parameters(), *fixed.model.buffers()]
    assert len({float(x.abs().max()) for x in stored if x.dim() == 2}) == 2
    assert torch.equal(fixed.model(*samples[0]), model(*samples[0]))
    assert_finite(fixed.half()(*samples[0]))


class Constants(nn.Module):
    """A parameter, two kinds of buffer, a plain attribute, a tensor made on the fly, a number."""

    def __init__(self) -> None:
        super().__init__()
        self.grow = scaled(nn.Linear(16, 16), 1e6)
        self.gain = nn.Parameter(torch.rand(16))
        self.register_buffer("shift", 1e6 * torch.randn(16))
        self.register_buffer("table", 1e6 * torch.randn(16), persistent=False)
        self.plain = 1e6 * torch.randn(16)
        self.norm = nn.LayerNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        made = torch.full((16,), 3.0e5)
        h = self.gain * (self.grow(x) + self.shift + self.table + self.plain + made)
        return self.norm((h + 7.0e5).clamp(min=-2.0e6))


def test_every_kind_of_constant_is_folded():
    torch.manual_seed(0)
    model = Constants().eval()
    fixed = fixed_exactly(model, X)
    assert not fixed.report.insertions
    assert torch.equal(fixed.model(*X[0]), model(*X[0]))
    assert_finite(fixed.half()(*X[0]))
    folds = " ".join(fixed.report.folds)
    assert all(name in folds for name in ("grow.bias", "shift", "table", "plain", "fill_value"))


def test_what_was_in_the_state_dict_still_is_and_nothing_else():
    model = Constants().eval()
    fixed = halfsafe.fix(model, X)
    assert set(fixed.model.state_dict()) == set(model.state_dict())
    assert set(fixed.half().state_dict()) == set(model.state_dict())


# Shapes and samples


def test_a_dynamic_batch():
    model = overflowing(lambda m, x: m.shrink(hidden(m, x).reshape(x.shape[0], 2, 16).flatten(1)))
    batch = torch.export.Dim("batch")
    fixed = fixed_exactly(model, X, dynamic_shapes=(({0: batch},),))
    (x,) = draws(11, 16, n=1)[0]
    assert torch.equal(fixed.model(x), model(x))
    assert_finite(fixed.half()(x))
    assert fixed.half()(x).shape == (11, 4)


def test_a_data_loader_of_dicts_is_read_as_often_as_needed():
    model = overflowing(lambda m, x: m.shrink(hidden(m, x)))
    loader = DataLoader([{"x": x} for x in torch.randn(12, 16)], batch_size=3)  # pyright: ignore
    fixed = fixed_exactly(model, loader)
    assert fixed.report.samples == 4
    assert fixed.report.verification.held_out


def test_a_data_loader_whose_batches_are_lists():
    model = overflowing(lambda m, x: m.shrink(hidden(m, x)))
    data = torch.utils.data.TensorDataset(torch.randn(4, 16))
    assert fixed_exactly(model, DataLoader(data, batch_size=2)).report.samples == 2


def test_a_generator():
    def stream() -> Iterator[Tensor]:
        for _ in range(5):
            yield torch.randn(6, 16)

    model = overflowing(lambda m, x: m.shrink(hidden(m, x)))
    assert fixed_exactly(model, stream()).report.samples == 5


def test_one_generator_gives_what_a_list_of_the_same_samples_gives():
    model = overflowing(lambda m, x: m.shrink(hidden(m, x)))
    assert halfsafe.fix(model, iter(X)).report == halfsafe.fix(model, X).report


# The user's model


def test_the_users_model_is_never_changed():
    torch.manual_seed(0)
    model = Constants().eval()
    before = copy.deepcopy(model.state_dict())
    plain, output = model.plain.clone(), model(*X[0])
    fixed = halfsafe.fix(model, X)
    fixed.half()(*X[0])
    fixed.model(*X[0])
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert torch.equal(model.plain, plain)
    assert torch.equal(model(*X[0]), output)
    assert all(p.requires_grad for p in model.parameters())


# The capture in bfloat16


def dtypes_computed(module: Any, *args: Tensor) -> list[torch.dtype]:
    """The dtype of every floating intermediate, in order of execution."""
    found: list[torch.dtype] = []

    class Log(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            result = super().run_node(n)
            if n.op == "call_function" and isinstance(result, Tensor):
                found.append(result.dtype)
            return result

    Log(module).run(*args)
    return found


def test_the_models_own_upcasts_stay_in_float32():
    model = overflowing(lambda m, x: m.shrink(m.norm(hidden(m, x))), norm=RMSNorm(32))
    scaled(model.shrink, 1e6)  # the norm has shrunk already
    half = fixed_exactly(model, X).half()
    found = dtypes_computed(half, *X[0])
    upcast = ["to", "pow", "mean", "add", "rsqrt", "mul"]
    assert found.count(torch.float32) == len(upcast)
    assert found[-1] == torch.float16


def test_without_upcasts_everything_is_float16():
    model = overflowing(lambda m, x: m.shrink(hidden(m, x)))
    assert set(dtypes_computed(fixed_exactly(model, X).half(), *X[0])) == {torch.float16}


def test_a_model_that_depends_on_the_dtype_is_captured_in_float32():
    model = overflowing(
        lambda m, x: m.shrink(hidden(m, x) / (x.abs().mean() + torch.finfo(x.dtype).eps))
    )
    fixed = fixed_exactly(model, X)
    (note,) = fixed.report.notes
    assert note.endswith("a bfloat16 capture fails: it is not bit-equal to the model")
    assert torch.equal(fixed.model(*X[0]), model(*X[0]))
    assert_finite(fixed.half()(*X[0]))


def test_a_model_that_does_not_run_in_bfloat16_is_captured_in_float32():
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.shrink(hidden(m, x)) + m.table @ torch.ones(4, 4)  # FP32 wherever the model is

    fixed = fixed_exactly(overflowing(forward, table=torch.randn(4)), X)
    assert fixed.report.notes[0].startswith("the model's own casts to FP32 are not seen")
    assert_finite(fixed.half()(*X[0]))


@pytest.mark.parametrize("samples", [1, 2, 3, 4])
def test_the_last_of_three_or_more_samples_is_kept_for_the_proof(samples):
    model = overflowing(lambda m, x: m.shrink(hidden(m, x)))
    proof = halfsafe.fix(model, draws(6, 16, n=samples)).report.verification
    assert proof.unmeasured == int(samples >= 3)
    assert proof.samples == samples


def test_a_capture_that_is_not_bit_equal_says_by_how_much():
    """nn.TransformerEncoderLayer runs a fused kernel that torch.export does not capture."""
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True).eval()
    scaled(layer.linear2, 1e6)
    report = halfsafe.fix(layer, draws(2, 7, 32)).report
    assert "the captured graph differs from the model by" in report.notes[0]
    assert report.verification.bit_equal
    assert report.safe


def test_the_least_number_of_a_dtype_is_that_of_the_dtype_it_runs_in():
    """A mask of finfo(x.dtype).min, as models write it, is finite in FP16."""

    class Masked(nn.Module):
        def forward(self, x):
            hidden = x < 0
            scores = x.masked_fill(hidden, torch.finfo(x.dtype).min)
            return torch.softmax(scores, -1)

    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    x[0] = -1.0  # a row masked whole: NaN if the number became -inf
    source = open_model(Masked().eval(), Samples((x,)).first)
    (found,) = source.half().outputs(Call((x,), {}))
    (known,) = (Masked().eval()(x.half()),)
    assert np.array_equal(found, known.double().numpy())


def test_a_container_whose_parts_have_no_names_can_be_run_in_half():
    class Decoded(OrderedDict):
        pass

    register_pytree_node(
        Decoded, lambda d: (list(d.values()), list(d)), lambda v, k: Decoded(zip(k, v, strict=True))
    )

    class Decoder(nn.Module):
        def forward(self, x):
            return Decoded(sample=2 * x, rest=x + 1)

    x = torch.randn(3, 8)
    proof = halfsafe.verify(Decoder().eval(), Decoder().eval(), (x,), engine="torch")
    assert proof.safe


# Caches of keys and values


def test_a_generating_model_gives_its_cache():
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 99,
             "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
    model = LlamaForCausalLM(LlamaConfig(**sizes)).eval()
    assert model.config.use_cache
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(1e7)
    ids = torch.randint(0, 99, (2, 9))
    fixed = halfsafe.fix(model, {"input_ids": ids})
    with torch.no_grad():
        found, known = fixed.model(input_ids=ids), model(input_ids=ids)
    assert torch.equal(found.logits, known.logits)
    assert type(found.past_key_values) is DynamicCache
    for made, layer in zip(found.past_key_values.layers, known.past_key_values.layers, strict=True):
        assert type(made) is type(layer)
        assert torch.equal(made.keys, layer.keys)
        assert torch.equal(made.values, layer.values)
    assert_finite(fixed.half()(input_ids=ids).logits)


def test_the_caches_of_an_encoder_and_decoder():
    from transformers import EncoderDecoderCache, T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(vocab_size=99, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    model = T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for block in (*model.encoder.block, *model.decoder.block):
            block.layer[-1].DenseReluDense.wo.weight.mul_(1e6)
    ids, said = torch.randint(0, 99, (2, 9)), torch.ones(2, 3).long()
    sample = {"input_ids": ids, "decoder_input_ids": said}
    fixed = halfsafe.fix(model, sample)
    with torch.no_grad():
        found, known = fixed.model(**sample), model(**sample)
    assert torch.equal(found.logits, known.logits)
    caches = found.past_key_values, known.past_key_values
    assert [type(cache) for cache in caches] == [EncoderDecoderCache] * 2
    pairs = zip(*(cache.cross_attention_cache.layers for cache in caches), strict=True)
    assert all(torch.equal(a.values, b.values) for a, b in pairs)


def test_a_cache_in_a_file_has_to_be_known_there(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 99,
             "num_attention_heads": 4}  # fmt: skip
    model = LlamaForCausalLM(LlamaConfig(**sizes)).eval()
    ids = torch.randint(0, 99, (2, 9))
    with pytest.raises(halfsafe.BadInput, match="pass use_cache=False"):
        halfsafe.fix(model, {"input_ids": ids}).save(tmp_path / "net.pt2")
    halfsafe.fix(model, {"input_ids": ids, "use_cache": False}).save(tmp_path / "net.pt2")
