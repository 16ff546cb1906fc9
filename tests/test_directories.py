"""Directories of transformers and diffusers: fixed, written, and read again by their libraries."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import halfsafe
from bench.architectures import amplify
from bench.directories import ROWS, in_half
from halfsafe import BadInput, FoldError, fix_directory
from halfsafe.cli import app
from halfsafe.drawn import scene
from halfsafe.frontends.huggingface.folder import networks_in
from halfsafe.frontends.huggingface.made import made_samples
from halfsafe.frontends.huggingface.network import load
from halfsafe.sample_files import Supplied

transformers = pytest.importorskip("transformers")
diffusers = pytest.importorskip("diffusers")

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 99,
         "intermediate_size": 64, "num_key_value_heads": 2, "bos_token_id": 2, "eos_token_id": 1,
         "pad_token_id": 0}  # fmt: skip
RESIDUAL = r"embed_tokens|o_proj|down_proj"


def saved(place, model, amplified, dtype=torch.float32, **options):
    torch.manual_seed(0)
    for pattern, factor in amplified.items():
        amplify(model, pattern, factor)
    model.eval().to(dtype).save_pretrained(place, **options)
    return place


def llama(**more):
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, **more))


@pytest.fixture(scope="module")
def loud(tmp_path_factory):
    """A Llama whose residual stream overflows, in bfloat16 and in several files."""
    place = tmp_path_factory.mktemp("llama") / "loud"
    return saved(place, llama(), {RESIDUAL: 1e6}, torch.bfloat16, max_shard_size="40KB")


@pytest.fixture(scope="module")
def fixed(loud):
    return fix_directory(loud)


@pytest.fixture(scope="module")
def written(fixed, tmp_path_factory):
    place = tmp_path_factory.mktemp("fixed") / "made"
    fixed.save(place)
    return place


def ids(rows=3, length=11, seed=5):
    return torch.randint(4, 99, (rows, length), generator=torch.Generator().manual_seed(seed))


def logits(place, dtype=torch.float32, given=None):
    model = transformers.LlamaForCausalLM.from_pretrained(place, dtype=dtype).eval()
    with torch.no_grad():
        return model(ids() if given is None else given).logits


def test_what_is_read_again_has_the_same_bits_and_is_finite_in_half(loud, written):
    assert not torch.isfinite(logits(loud, torch.float16)).all()
    assert torch.equal(logits(written), logits(loud))
    found, known = logits(written, torch.float16).float(), logits(loud)
    assert float((found - known).norm() / known.norm()) < 2e-3


def test_only_what_has_to_change_is_changed(loud, written, fixed):
    before = {p.name: p.read_bytes() for p in loud.iterdir()}
    after = {p.name: p.read_bytes() for p in written.iterdir()}
    assert before.keys() == after.keys()
    changed = {name for name in before if before[name] != after[name]}
    assert changed >= {"config.json"}
    assert {n for n in changed if not n.endswith(".safetensors")} == {"config.json"}
    config, was = (json.loads(x["config.json"]) for x in (after, before))
    different = {key: config[key] for key in config if config[key] != was[key]}
    (setting,) = fixed.recipe().only.settings.items()
    assert different == {"rms_norm_eps": was["rms_norm_eps"] * 2.0 ** -setting[1].exponent}
    held = {
        k: x for name in after if name.endswith("rs") for k, x in load_file(written / name).items()
    }
    assert {x.dtype for x in held.values()} == {torch.bfloat16}


def test_the_report_is_of_the_class_and_says_that_samples_are_made_up(fixed):
    report = fixed.reports[""]
    assert report.safe
    assert report.model == "LlamaForCausalLM"
    assert not report.insertions
    assert any("tokens are drawn" in note for note in report.notes)
    assert any("tokens generated with a cache, all are the same" in n for n in report.notes)
    assert fixed.safe


def test_half_precision_can_be_written_as_well(fixed, loud, tmp_path):
    fixed.save(tmp_path / "half", dtype="float16")
    held = [load_file(p) for p in (tmp_path / "half").glob("*.safetensors")]
    assert {x.dtype for part in held for x in part.values()} == {torch.float16}
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "float16"
    index = json.loads((tmp_path / "half" / "model.safetensors.index.json").read_text())
    size = sum(x.nbytes for part in held for x in part.values())
    assert index["metadata"]["total_size"] == size
    found, known = logits(tmp_path / "half", torch.float16).float(), logits(loud)
    assert float((found - known).norm() / known.norm()) < 2e-3


def test_models_are_given_in_python(fixed, loud):
    assert torch.equal(fixed.model(ids()).logits, logits(loud))
    assert torch.isfinite(fixed.half()(ids()).logits).all()


def test_a_place_that_is_taken_is_refused(fixed, written):
    with pytest.raises(BadInput, match="is there already"):
        fixed.save(written)


@pytest.mark.slow
def test_files_beside_are_copied_and_other_weights_are_not(loud, tmp_path):
    shutil.copytree(loud, tmp_path / "in")
    (tmp_path / "in" / "tokenizer.model").write_bytes(b"\0")
    (tmp_path / "in" / "README.md").write_text("of mine")
    (tmp_path / "in" / "pytorch_model.bin").write_bytes(b"\0")
    (tmp_path / "in" / "model.onnx").write_bytes(b"\0")
    (tmp_path / "in" / "chat").mkdir()
    (tmp_path / "in" / "chat" / "a.jinja").write_text("hello")
    recipe = fix_directory(loud).recipe()
    halfsafe.directory.apply_directory(tmp_path / "in", recipe, tmp_path / "out")
    found = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*")}
    assert {"tokenizer.model", "README.md", "chat/a.jinja"} <= found
    assert not {"pytorch_model.bin", "model.onnx"} & found


# Restrictions


@pytest.mark.slow
def test_tied_embeddings_have_one_exponent(tmp_path):
    place = saved(tmp_path / "t5", ROWS["t5_tied"].build(), {r"\.o\.weight|wo\.weight": 1e6})
    found = fix_directory(place)
    assert found.safe
    recipe = found.recipe().only
    assert set(recipe.tied) >= {"lm_head.weight"} or "lm_head.weight" in recipe.shapes
    assert "layer_norm_epsilon" in recipe.settings


def test_a_setting_is_one_number_for_all_layers(tmp_path):
    place = saved(tmp_path / "gpt2", ROWS["gpt2"].build(), {r"wpe|c_proj": 1e6})
    found = fix_directory(place)
    assert found.safe
    edits = [fold for fold in found.reports[""].folds if ".eps" in fold]
    assert edits
    assert len({fold.split(" times ")[1] for fold in edits}) == 1


@pytest.mark.slow
def test_epsilons_that_nobody_sees_stay(tmp_path):
    row = ROWS["autoencoder_kl"]
    found = fix_directory(saved(tmp_path / "vae", row.build(), row.amplify))
    assert found.safe
    assert not found.recipe().only.settings
    assert any("no bit shows it" in note for note in found.reports[""].notes)


@pytest.mark.slow
def test_epsilons_that_are_seen_are_refused_with_the_reason(tmp_path):
    row = ROWS["whisper_residual"]
    found = fix_directory(saved(tmp_path / "whisper", row.build(), row.amplify))
    assert not found.safe
    report = found.reports[""]
    assert any("and that is seen" in note for note in report.notes)
    assert any("no setting of the configuration gives" in c or "written into" in c
               for c in report.conflicts), report.conflicts  # fmt: skip
    assert report.verification.bit_equal  # nothing is written that is another function


@pytest.mark.slow
def test_what_no_constant_can_hold_is_refused_with_what_pins_it(tmp_path):
    row = ROWS["gemma2_residual"]
    found = fix_directory(saved(tmp_path / "gemma", row.build(), row.amplify))
    assert not found.safe
    assert any("which the class makes and no checkpoint holds" in c
               for c in found.reports[""].conflicts)  # fmt: skip


@pytest.mark.slow
def test_states_have_exponents_of_their_own(tmp_path):
    row = ROWS["clip"]
    place = saved(tmp_path / "clip", row.build(), row.amplify)
    found = fix_directory(place)
    assert found.safe
    found.save(tmp_path / "out")
    kind = transformers.CLIPModel
    before, after = (kind.from_pretrained(p).eval() for p in (place, tmp_path / "out"))
    sample = row.sample(before, 1)
    with torch.no_grad():
        known, made = before(**sample), after(**sample)
    assert torch.equal(known.text_embeds, made.text_embeds)
    assert torch.equal(known.image_embeds, made.image_embeds)
    state = [x.vision_model_output.last_hidden_state for x in (known, made)]
    assert not torch.equal(*state)
    (ratio,) = (state[0] / state[1]).unique().tolist()
    assert ratio in (2.0, 4.0, 8.0, 16.0)


# Samples


def tokenizer(place):
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = "the a of in to and was is over how are you red boat lake house street old".split()
    vocabulary = {w: i for i, w in enumerate(["<pad>", "</s>", "<s>", "<unk>", *words])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(place)


def test_texts_go_through_the_tokenizer_that_lies_there(tmp_path):
    place = saved(tmp_path / "llama", llama(), {RESIDUAL: 1e6})
    tokenizer(place)
    found = fix_directory(place)
    assert found.safe
    assert not any("made up" in note for note in found.reports[""].notes)
    found.save(tmp_path / "out")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again("the red boat")["input_ids"] == [4, 16, 17]


def test_samples_of_the_user_are_taken(loud):
    given = [{"input_ids": ids(2, 9, seed)} for seed in range(3)]
    found = fix_directory(loud, given)
    assert found.safe
    assert found.reports[""].samples == 3
    assert not any("made up" in note for note in found.reports[""].notes)


def test_an_argument_that_nobody_can_make_is_named(tmp_path):
    model = diffusers.Transformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=8, num_layers=1,
        norm_num_groups=4,
    )  # fmt: skip
    model.eval().save_pretrained(tmp_path / "odd")
    (tmp_path / "odd" / "config.json").write_text(
        (tmp_path / "odd" / "config.json")
        .read_text()
        .replace("Transformer2DModel", "PriorTransformer")
    )
    with pytest.raises(BadInput, match="PriorTransformer"):
        fix_directory(tmp_path / "odd")


# Bad input


def test_a_folder_that_is_no_checkpoint(tmp_path):
    with pytest.raises(BadInput, match=r"neither config\.json nor model_index\.json"):
        fix_directory(tmp_path)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{", "is no JSON"),
        ("[]", "holds no object"),
        ("{}", "names no class"),
        ('{"architectures": ["Nonesuch"]}', "has no class Nonesuch"),
        ('{"architectures": ["A"], "auto_map": {}}', "code of its own"),
        ('{"architectures": ["A"], "quantization_config": {}}', "is quantised"),
    ],
)
def test_a_broken_configuration_is_named(config, said, tmp_path):
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(BadInput, match=said):
        fix_directory(tmp_path)


def test_fix_says_what_takes_a_directory(loud):
    with pytest.raises(BadInput, match="fix_directory"):
        halfsafe.fix(loud, {"input_ids": ids()})


# Pipelines


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A latent diffusion pipeline: text encoder, UNet and VAE, the last two too loud for FP16."""
    place = tmp_path_factory.mktemp("pipeline") / "in"
    torch.manual_seed(0)
    unet, vae = ROWS["unet2d_condition"], ROWS["autoencoder_kl"]
    saved(place / "unet", unet.build(), unet.amplify)
    saved(place / "vae", vae.build(), vae.amplify)
    text = transformers.CLIPTextConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        vocab_size=99, max_position_embeddings=77,
    )  # fmt: skip
    saved(place / "text_encoder", transformers.CLIPTextModel(text), {})
    tokenizer(place / "tokenizer")
    diffusers.DDIMScheduler().save_pretrained(place / "scheduler")
    (place / "model_index.json").write_text(
        json.dumps(
            {
                "_class_name": "StableDiffusionPipeline",
                "scheduler": ["diffusers", "DDIMScheduler"],
                "text_encoder": ["transformers", "CLIPTextModel"],
                "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
                "unet": ["diffusers", "UNet2DConditionModel"],
                "vae": ["diffusers", "AutoencoderKL"],
                "requires_safety_checker": False,
            }
        )
    )
    return place


@pytest.mark.slow
def test_a_pipeline_is_fixed_network_by_network(pipeline, tmp_path):
    found = fix_directory(pipeline)
    assert set(found.networks) == {"text_encoder", "unet", "vae"}
    assert found.safe
    found.save(tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer" / "tokenizer.json").is_file()
    assert (tmp_path / "out" / "scheduler" / "scheduler_config.json").is_file()
    assert json.loads((tmp_path / "out" / "model_index.json").read_text())["vae"]
    row, kind = ROWS["unet2d_condition"], diffusers.UNet2DConditionModel
    before = kind.from_pretrained(pipeline / "unet").eval()
    after = kind.from_pretrained(tmp_path / "out" / "unet").eval()
    half = kind.from_pretrained(tmp_path / "out" / "unet", torch_dtype=torch.float16).eval()
    sample = row.sample(before, 1)
    with torch.no_grad():
        known = before(**sample).sample
        assert torch.equal(known, after(**sample).sample)
        assert torch.isfinite(half(**in_half(sample)).sample).all()


@pytest.mark.slow
def test_several_networks_have_no_single_model(pipeline):
    found = fix_directory(pipeline)
    with pytest.raises(BadInput, match="take one of"):
        found.half()
    with pytest.raises(BadInput, match="recipe is of 3 networks"):
        _ = found.recipe().only


# Names


@pytest.mark.slow
def test_a_checkpoint_without_the_prefix_of_its_base_model(tmp_path):
    """As old files on the Hub are: ``h.0.attn`` for ``transformer.h.0.attn``."""
    place = saved(tmp_path / "gpt2", ROWS["gpt2"].build(), {r"wpe|c_proj": 1e6})
    held = load_file(place / "model.safetensors")
    bare = {name.removeprefix("transformer."): x for name, x in held.items()}
    save_file(bare, place / "model.safetensors", {"format": "pt"})
    found = fix_directory(place)
    assert found.safe
    assert not any(name.startswith("transformer.") for name in found.recipe().only.shapes)
    found.save(tmp_path / "out")
    given = ids()
    kind = transformers.GPT2LMHeadModel
    before, after = (kind.from_pretrained(p).eval() for p in (place, tmp_path / "out"))
    with torch.no_grad():
        assert torch.equal(before(given).logits, after(given).logits)


def test_no_library_is_needed_to_name_the_one_that_is_missing(loud):
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "from halfsafe import fix_directory, BadInput\n"
        f"try: fix_directory({str(loud)!r})\n"
        "except BadInput as error: print(error)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'halfsafe[huggingface]'" in ran.stdout


def test_a_recipe_of_another_architecture_is_refused(fixed, tmp_path):
    place = saved(tmp_path / "other", llama(head_dim=16), {})
    with pytest.raises((BadInput, FoldError), match=r"has the shape"):
        halfsafe.directory.apply_directory(place, fixed.recipe(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_tensors_that_no_file_holds_stay(tmp_path):
    """Marian's sinusoidal positions are in its state_dict, and in no checkpoint."""
    sizes = {"vocab_size": 99, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
             "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64,
             "decoder_ffn_dim": 64, "max_position_embeddings": 64, "pad_token_id": 0,
             "eos_token_id": 1, "decoder_start_token_id": 2}  # fmt: skip
    torch.manual_seed(0)
    model = transformers.MarianMTModel(transformers.MarianConfig(**sizes))
    place = saved(tmp_path / "marian", model, {r"v_proj.weight": 1e7, r"out_proj.weight": 1e-7})
    assert "model.encoder.embed_positions.weight" in model.state_dict()
    assert "model.encoder.embed_positions.weight" not in load_file(place / "model.safetensors")
    found = fix_directory(place)
    assert found.safe, found.reports[""].verification.reasons
    assert found.recipe().only.exponents


@pytest.mark.slow
def test_states_are_no_outputs_for_the_proof(tmp_path):
    place = saved(tmp_path / "t5", ROWS["t5_tied"].build(), {r"\.o\.weight|wo\.weight": 1e6})
    report = fix_directory(place).reports[""]
    assert len(report.graph.outputs) == 1
    assert any("states: encoder_last_hidden_state" in note for note in report.notes)


# Other tools on a directory


def says(*arguments):
    command = [sys.executable, "-m", "halfsafe", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_directory_is_inspected_fixed_and_verified_on_the_command_line(tmp_path):
    place = saved(tmp_path / "t5", ROWS["t5_tied"].build(), {r"\.o\.weight|wo\.weight": 1e6})
    ran = says(place)
    assert ran.returncode == 1, ran.stderr
    assert ran.stdout.splitlines()[-1] == f"Next: halfsafe fix {place} -o t5-fp16"
    ran = says("fix", place, "-o", tmp_path / "out", "--recipe", tmp_path / "r.json")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1].endswith("dtype=torch.float16)")
    ran = says("verify", place, tmp_path / "out")
    assert ran.returncode == 0, ran.stdout  # its states are at exponents of their own
    ran = says("verify", place, place)
    assert ran.returncode == 1
    ran = says("fix", place, "-o", tmp_path / "out")
    assert ran.returncode == 2
    assert "is there already" in ran.stderr


def test_positional_samples_are_refused(loud):
    with pytest.raises(BadInput, match="give a dict"):
        fix_directory(loud, [(ids(),)])


def test_weights_in_other_files_are_refused_before_any_work(loud, tmp_path):
    shutil.copytree(loud, tmp_path / "in")
    for path in (tmp_path / "in").glob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))
    with pytest.raises(BadInput, match="save it once more"):
        fix_directory(tmp_path / "in")


@pytest.mark.slow
def test_a_checkpoint_in_fp16_is_fixed_and_written_in_fp32_where_fp16_does_not_hold_it(tmp_path):
    place = saved(tmp_path / "in", llama(), {"up_proj": 1e5, "down_proj": 1e-2}, torch.float16)
    held = load_file(place / "model.safetensors")
    for x in held.values():
        x.view(-1)[0] = 7 * 2.0**-24  # a subnormal, of which half is none
    save_file(held, place / "model.safetensors", {"format": "pt"})
    found = fix_directory(place, [{"input_ids": ids(2, 9, seed)} for seed in range(3)])
    assert found.safe
    assert found.recipe().only.exponents
    with pytest.raises(BadInput, match="--dtype float32"):
        found.save(tmp_path / "same")
    found.save(tmp_path / "wide", dtype="float32")
    assert torch.equal(logits(tmp_path / "wide"), logits(place))
    assert torch.isfinite(logits(tmp_path / "wide", torch.float16)).all()


# Operators that are left as they are; texts and pictures of the user's


@pytest.mark.slow
def test_an_excluded_layer_keeps_its_tensors(loud, fixed):
    """A LoRA that is swapped at run time may be of that layer. It is on the residual stream."""
    name = "model.layers.1.self_attn.o_proj"
    assert f"{name}.weight" in fixed.recipe().only.exponents
    kept = fix_directory(loud, exclude=name)
    assert f"{name}.weight" not in kept.recipe().only.exponents
    assert not kept.safe
    assert any("left as it is, as asked, pins it to 0" in x for x in kept.reports[""].conflicts)


def test_what_is_excluded_of_a_pipeline_is_refused(loud, tmp_path):
    for name in ("one", "two"):
        shutil.copytree(loud, tmp_path / name)
    index = {"_class_name": "X", **{n: ["transformers", "Llama"] for n in ("one", "two")}}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(BadInput, match=r"exclude is for one network, and .* has 2"):
        fix_directory(tmp_path, exclude="*")


@pytest.mark.slow
def test_texts_of_the_user_go_through_it_two_at_once(tmp_path):
    place = saved(tmp_path / "llama", llama(), {RESIDUAL: 1e6})
    tokenizer(place)
    found = fix_directory(place, ["the red boat", "a house in the old street", "how are you"])
    assert found.safe
    assert found.reports[""].samples == 2
    lines = tmp_path / "texts.txt"
    lines.write_text("the red boat\n\na house in the old street\nhow are you\n")
    done = CliRunner().invoke(app, ["fix", str(place), "--samples", str(lines), "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["values"] == found.reports[""].to_json()["values"]


@pytest.mark.slow
def test_pictures_go_through_the_processor_that_lies_there(tmp_path):
    torch.manual_seed(0)
    small = {**SMALL, "image_size": 32, "patch_size": 8}
    config = transformers.ViTConfig(**{n: v for n, v in small.items() if n != "vocab_size"})
    place = saved(tmp_path / "vit", transformers.ViTForImageClassification(config), {})
    transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(place)
    (tmp_path / "photos").mkdir()
    for i in range(3):
        Image.fromarray(scene(i, 50, 70)).save(tmp_path / "photos" / f"{i}.png")
    fixed = fix_directory(place, [Image.fromarray(scene(i, 50, 70)) for i in range(3)])
    assert fixed.reports[""].samples == 2
    arguments = ["fix", str(place), "--samples", str(tmp_path / "photos"), "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    again = json.loads(done.stdout)
    assert again["samples"] == 2
    assert again["values"] == fixed.reports[""].to_json()["values"]


def test_texts_that_nothing_reads_are_refused(loud, tmp_path):
    with pytest.raises(BadInput, match=r"nothing in .* reads texts for LlamaForCausalLM"):
        fix_directory(loud, ["a text"])
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(BadInput, match="holds no text"):
        Supplied(str(tmp_path / "empty.txt")).raw()


# Arguments in the form that a class takes

PICTURES = {**{n: SMALL[n] for n in ("hidden_size", "num_hidden_layers", "num_attention_heads",
            "intermediate_size")}, "image_size": 16, "patch_size": 8}  # fmt: skip
SEQUENCES = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4,
             "vocab_size": 99, "decoder_start_token_id": 0, "eos_token_id": 1}  # fmt: skip
LOUD_T5 = {r"\.o\.weight|wo\.weight": 1e6}


def choosing():
    config = transformers.BertConfig(**SMALL)
    return transformers.BertForMultipleChoice(config), {"input_ids": (2, 2, 48)}


def classifying():
    """Its decoder reads what its encoder reads, one to the right."""
    model = transformers.T5ForSequenceClassification(transformers.T5Config(**SEQUENCES))
    return model, {"input_ids": (2, 48), "decoder_input_ids": None}


def watching():
    config = transformers.TimesformerConfig(**PICTURES, num_frames=3)
    return transformers.TimesformerForVideoClassification(config), {
        "pixel_values": (2, 3, 3, 16, 16)
    }


def looking():
    vision = {"model_type": "clip_vision_model", **PICTURES}
    text = {"model_type": "llama", **SMALL}
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=98, vision_feature_layer=-1
    )
    return transformers.LlavaForConditionalGeneration(config), {"input_ids": (2, 4 + 48)}


def captioning():
    text = {"n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": 99, "n_positions": 32}
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.ViTConfig(**PICTURES), transformers.GPT2Config(**text)
    )
    config.decoder_start_token_id, config.pad_token_id = 2, 0
    shapes = {"pixel_values": (2, 3, 16, 16), "decoder_input_ids": (2, 16)}
    return transformers.VisionEncoderDecoderModel(config), shapes


def spelling():
    """Its tokens are code points, and there is no table of them."""
    small = {n: x for n, x in SMALL.items() if n not in ("vocab_size", "num_key_value_heads")}
    config = transformers.CanineConfig(**small, local_transformer_stride=8, num_hash_buckets=64)
    return transformers.CanineForSequenceClassification(config), {"input_ids": (2, 48)}


def listening():
    config = transformers.Wav2Vec2BertConfig(**SMALL, feature_projection_input_dim=20)
    return transformers.Wav2Vec2BertForCTC(config), {"input_features": (2, 200, 20)}


def decoding():
    config = transformers.DacConfig(
        encoder_hidden_size=4, decoder_hidden_size=16, downsampling_ratios=[2, 4],
        upsampling_ratios=[4, 2], codebook_size=8, n_codebooks=2, codebook_dim=2,
    )  # fmt: skip
    return transformers.DacModel(config), {"input_values": (2, 1, 32000)}


def forecasting():
    config = transformers.PatchTSTConfig(
        num_input_channels=2, context_length=32, patch_length=8, patch_stride=8, d_model=32,
        num_hidden_layers=1, num_attention_heads=2, ffn_dim=32, prediction_length=4, loss="mse",
    )  # fmt: skip
    return transformers.PatchTSTForPrediction(config), {"past_values": (2, 32, 2)}


FORMS = [choosing, classifying, watching, looking, captioning, spelling, listening, decoding,
         forecasting]  # fmt: skip


@pytest.mark.parametrize("build", FORMS, ids=lambda build: build.__name__)
def test_arguments_are_made_up_in_the_form_that_a_class_takes(build, tmp_path):
    torch.manual_seed(0)
    model, shapes = build()
    network = networks_in(saved(tmp_path / "in", model, {}))[0]
    made = made_samples(network, model).samples
    for sample in made:
        with torch.no_grad():
            model(**sample)
        assert shapes == {n: tuple(sample[n].shape) if n in sample else None for n in shapes}
    assert len({x.sum().item() for x in (s[next(iter(shapes))].float() for s in made)}) > 1


@pytest.mark.slow
def test_a_picture_has_its_tokens_in_the_text(tmp_path):
    torch.manual_seed(0)
    model, _ = looking()
    place = saved(tmp_path / "llava", model, {r"linear_2|embed_tokens|o_proj": 1e6})
    found = fix_directory(place)
    assert found.safe, found.reports[""].verification.reasons
    assert any("image_hidden_states" in note for note in found.reports[""].notes)
    assert found.recipe().only.exponents


def test_what_fits_in_no_form_is_refused_with_what_the_class_says(tmp_path):
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "patch_size": 4}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    config = transformers.Qwen2VLConfig(
        text_config={**SMALL, "rope_parameters": rope}, vision_config=vision, image_token_id=98,
        video_token_id=97, vision_start_token_id=96, vision_end_token_id=95,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Qwen2VLForConditionalGeneration(config)
    place = saved(tmp_path / "qwen", model, {})
    with pytest.raises(BadInput, match=r"no sample that halfsafe can make up \(.+\): pass --samp"):
        fix_directory(place)


@pytest.mark.slow
def test_sequences_are_classified_by_their_last_token(tmp_path):
    torch.manual_seed(0)
    place = saved(tmp_path / "t5", classifying()[0], LOUD_T5)
    found = fix_directory(place)
    assert found.safe
    assert found.recipe().only.exponents


# What lies in memory and in files


@pytest.mark.slow
def test_memory_that_is_not_written_yet_is_not_measured(tmp_path):
    """Multi-head latent attention makes keys with new_empty, and writes them in two parts."""
    config = transformers.DeepseekV3Config(
        **{**SMALL, "num_key_value_heads": 4}, moe_intermediate_size=16, n_routed_experts=2,
        num_experts_per_tok=2, n_group=1, topk_group=1, q_lora_rank=8, kv_lora_rank=8,
        qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=8, first_k_dense_replace=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.DeepseekV3ForCausalLM(config)
    found = fix_directory(saved(tmp_path / "in", model, {RESIDUAL: 1e6}))
    assert found.safe, found.reports[""].conflicts
    values = found.reports[""].values
    unwritten = [value.range.amax for name, value in values.items() if "new_empty" in name]
    assert unwritten
    assert set(unwritten) == {0.0}


@pytest.mark.slow
def test_empty_tensors_are_copied(tmp_path):
    config = transformers.DINOv3ViTConfig(**PICTURES, num_register_tokens=0)
    torch.manual_seed(0)
    model = transformers.DINOv3ViTModel(config)
    place = saved(tmp_path / "in", model, {r"down_proj|o_proj": 3e4})
    assert any(not x.numel() for x in load_file(place / "model.safetensors").values())
    found = fix_directory(place)
    found.save(tmp_path / "out")
    before, after = (load_file(tmp_path / n / "model.safetensors") for n in ("in", "out"))
    assert {n: x.shape for n, x in before.items()} == {n: x.shape for n, x in after.items()}


def test_bits_do_not_depend_on_where_a_file_has_its_tensors(tmp_path):
    """A product with a vector is summed up in another order where memory is not aligned."""
    place = saved(tmp_path / "in", llama(), {})
    path = place / "model.safetensors"
    held = path.read_bytes()
    length = int.from_bytes(held[:8], "little")
    header = held[8 : 8 + length].rstrip()
    for pad in (0, 8, 24):
        wide = header + b" " * (-(len(header) + 8) % 64 + pad)
        path.write_bytes(len(wide).to_bytes(8, "little") + wide + held[8 + length :])
        model = load(networks_in(place)[0], torch.float32)
        assert {x.data_ptr() % 64 for x in model.parameters()} == {0}


# What lies beside a network


def bert(kind, **more):
    torch.manual_seed(0)
    return getattr(transformers, kind)(transformers.BertConfig(**SMALL, **more))


@pytest.mark.slow
def test_modules_of_sentence_transformers_are_copied_with_their_weights(tmp_path):
    place = saved(tmp_path / "in", bert("BertModel"), {"output.dense": 1e6})
    folders = ["", "1_Pooling", "2_Dense"]
    (place / "modules.json").write_text(json.dumps([{"path": path} for path in folders]))
    for name in folders[1:]:
        (place / name).mkdir()
        (place / name / "config.json").write_text("{}")
    save_file({"linear.weight": torch.randn(3, 32)}, place / "2_Dense" / "model.safetensors")
    (place / "onnx").mkdir()
    (place / "onnx" / "model.onnx").write_bytes(b"\0")
    found = fix_directory(place)
    assert found.safe
    assert sum("'2_Dense' is copied as it is" in note for note in found.reports[""].notes) == 1
    found.save(tmp_path / "out")
    kept = tmp_path / "out" / "2_Dense" / "model.safetensors"
    assert kept.read_bytes() == (place / "2_Dense" / "model.safetensors").read_bytes()
    assert (tmp_path / "out" / "1_Pooling" / "config.json").is_file()
    assert not (tmp_path / "out" / "onnx" / "model.onnx").exists()


def test_a_list_of_modules_that_is_none_is_named(loud, tmp_path):
    shutil.copytree(loud, tmp_path / "in")
    (tmp_path / "in" / "modules.json").write_text('{"path": 3}')
    with pytest.raises(BadInput, match=r"modules\.json' is no list of modules"):
        fix_directory(tmp_path / "in")


def test_a_folder_around_a_checkpoint_says_which(loud, tmp_path):
    shutil.copytree(loud, tmp_path / "0_Transformer")
    with pytest.raises(BadInput, match="but '0_Transformer' in it has: give that"):
        fix_directory(tmp_path)


def test_an_adapter_alone_is_no_network(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(BadInput, match="give its weights to halfsafe apply"):
        fix_directory(tmp_path)


def test_tensors_that_each_loading_draws_are_told(tmp_path):
    """As of a class with a head, on the weights of its base model."""
    place = saved(tmp_path / "in", bert("BertModel"), {"output.dense": 1e6})
    config = place / "config.json"
    config.write_text(config.read_text().replace('"BertModel"', '"BertForTokenClassification"'))
    report = fix_directory(place).reports[""]
    assert report.safe, report.verification.reasons
    (note,) = [note for note in report.notes if "no file holds" in note]
    assert note.startswith("no file holds 'classifier.bias' and 1 more")


@pytest.mark.slow
def test_complex_values_that_other_kernels_round_otherwise_are_captured(tmp_path):
    """DeepSeek-V2 turns queries in complex values; its capture is some roundings off in FP32."""
    config = transformers.DeepseekV2Config(
        **{**SMALL, "num_key_value_heads": 4}, moe_intermediate_size=16, n_routed_experts=2,
        num_experts_per_tok=2, n_group=1, topk_group=1, q_lora_rank=8, kv_lora_rank=8,
        qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=8, first_k_dense_replace=2,
        n_shared_experts=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.DeepseekV2ForCausalLM(config)
    found = fix_directory(saved(tmp_path / "in", model, {RESIDUAL: 1e6}))
    assert found.safe, found.reports[""].conflicts
    assert found.recipe().only.exponents


@pytest.mark.slow
def test_a_plan_that_gives_values_up_is_not_better_than_none(tmp_path):
    """Random weights behind twenty BatchNorms are small: FP16 bears them as they are."""
    torch.manual_seed(0)
    config = transformers.MobileViTConfig(
        image_size=64, patch_size=2, hidden_sizes=[16, 24, 32], num_attention_heads=2,
        neck_hidden_sizes=[8, 8, 16, 16, 24, 24, 32],
    )  # fmt: skip
    place = saved(tmp_path / "vit", transformers.MobileViTForImageClassification(config), {})
    found = fix_directory(place)
    assert found.safe
    assert found.recipe().only.exponents == {}
