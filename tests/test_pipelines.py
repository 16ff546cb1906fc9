"""Pipelines of diffusers: run for the samples of their networks, fixed, and run again in FP16."""

import json
import shutil

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from bench import diffusion
from halfsafe import BadInput, fix_directory
from halfsafe.cli import app

transformers = pytest.importorskip("transformers")
diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

OURS = "the prompts are halfsafe's own"


@pytest.fixture(scope="module")
def xl(tmp_path_factory):
    """SDXL, with all networks too loud for FP16, and safe inside what they hand over."""
    place = tmp_path_factory.mktemp("xl") / "in"
    return diffusion.saved(diffusion.stable_diffusion_xl, place)


@pytest.fixture(scope="module")
def fixed(xl):
    return fix_directory(xl)


def notes(found, name):
    return found.reports[name].notes


@pytest.mark.slow
def test_a_pipeline_that_breaks_draws_the_same_picture_in_fp32_and_nearly_so_in_half(
    xl, fixed, tmp_path
):
    assert set(fixed.networks) == {"text_encoder", "text_encoder_2", "unet", "vae"}
    assert fixed.safe
    fixed.save(tmp_path / "out")
    known = diffusion.picture(xl, torch.float32)
    assert not np.isfinite(diffusion.picture(xl, torch.float16)).all()
    assert np.array_equal(diffusion.picture(tmp_path / "out", torch.float32), known)
    assert known.std() > 0.01
    assert np.abs(diffusion.picture(tmp_path / "out", torch.float16) - known).max() < 0.02


@pytest.mark.slow
def test_samples_are_what_the_networks_are_called_with(fixed):
    told = "samples are those of a run of the pipeline: 2 prompts, 4 steps, 32x32"
    for name in fixed.networks:
        assert told in notes(fixed, name)
        assert any(OURS in note for note in notes(fixed, name))
        assert not any("made up" in note for note in notes(fixed, name))
    assert fixed.reports["unet"].samples == 6  # the first, a middle and the last step of each


@pytest.mark.slow
def test_hidden_states_that_a_pipeline_reads_are_judged(fixed):
    told = "deployed and judged are, of its hidden states, those number 2"
    assert told in notes(fixed, "text_encoder")
    assert len(fixed.reports["text_encoder"].graph.outputs) == 3
    assert fixed.recipe().of["text_encoder"].exponents


@pytest.mark.slow
def test_a_text_encoder_whose_hidden_states_are_too_large_for_half_is_refused(xl, tmp_path):
    """Rescaled, they would be other prompts for the UNet, and another picture in FP32."""
    shutil.copytree(xl, tmp_path / "in")
    torch.manual_seed(0)
    loud = diffusion.loud(diffusion.clip_text(), {r"embedding|out_proj|fc2": 1e6})
    loud.save_pretrained(tmp_path / "in" / "text_encoder")
    found = fix_directory(tmp_path / "in")
    assert not found.reports["text_encoder"].safe
    found.save(tmp_path / "out")
    pictures = [diffusion.picture(tmp_path / n, torch.float32) for n in ("in", "out")]
    assert np.array_equal(*pictures)


@pytest.mark.slow
def test_a_decoder_is_proved_on_the_latents_that_it_is_given(fixed):
    report = fixed.reports["vae"]
    assert any("decode() by itself" in note for note in report.notes)
    assert len(report.graph.outputs) == 3  # what both give, the latents between them, and decode()
    assert len(report.graph.inputs) == 2


@pytest.mark.slow
def test_the_halves_of_an_autoencoder_are_what_they_were(tmp_path):
    """Rescaled latents between the two would be seen by neither, and by whoever uses one alone."""
    torch.manual_seed(0)
    loud = {r"^quant_conv.weight": 1e6, r"^post_quant_conv.weight": 1e-6}
    diffusion.loud(diffusion.vae(), loud).save_pretrained(tmp_path / "in")
    fix_directory(tmp_path / "in").save(tmp_path / "out")
    kind = diffusers.AutoencoderKL
    before, after = (kind.from_pretrained(tmp_path / n).eval() for n in ("in", "out"))
    draw = torch.Generator().manual_seed(3)
    pictures, latents = (torch.randn(1, n, 16, 16, generator=draw) for n in (3, 4))
    with torch.no_grad():
        encoded = [each.encode(pictures).latent_dist.parameters for each in (before, after)]
        decoded = [each.decode(latents).sample for each in (before, after)]
    assert torch.equal(*encoded)
    assert torch.equal(*decoded)


@pytest.mark.slow
def test_prompts_of_the_user_are_run(xl, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red boat\n\nan old house\na lake\n")
    given = ["--samples", str(tmp_path / "prompts.txt"), "--json"]
    done = CliRunner().invoke(app, ["fix", str(xl), *given])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    told = "samples are those of a run of the pipeline: 3 prompts, 4 steps, 32x32"
    assert found["unet"]["samples"] == 9
    assert told in found["unet"]["notes"]
    assert not any(OURS in note for note in found["unet"]["notes"])


@pytest.mark.slow
def test_a_pipeline_that_cannot_be_run_says_why_and_samples_are_made_up(xl, tmp_path):
    shutil.copytree(xl, tmp_path / "in")
    index = json.loads((tmp_path / "in" / "model_index.json").read_text())
    (tmp_path / "in" / "model_index.json").write_text(
        json.dumps(index | {"_class_name": "NonesuchPipeline"})
    )
    found = fix_directory(tmp_path / "in")
    why = "nothing is recorded, since the pipeline cannot be run here: diffusers"
    for name in found.networks:
        assert any(note.startswith(why) for note in notes(found, name))
    assert any("the encoded prompt is drawn" in note for note in notes(found, "unet"))
    layers = "of its hidden states, those number 0, 1, 2, 3"  # nobody knows which are read
    assert any(layers in note for note in notes(found, "text_encoder"))
    with pytest.raises(BadInput, match=r"cannot be run on these prompts: .* no pipeline Nonesuch"):
        fix_directory(tmp_path / "in", ["a red boat"])


def test_a_network_without_room_is_not_run(xl, monkeypatch):
    from halfsafe.frontends.huggingface import folder, recording

    monkeypatch.setattr(recording, "_free", lambda: 1000)
    found = recording.recorded(xl, folder.networks_in(xl))
    assert all("GiB in FP32" in each.told[0] and not each.calls for each in found.values())


def test_samples_that_are_neither_prompts_nor_by_name_are_refused(xl):
    with pytest.raises(BadInput, match="a list of str, or a dict"):
        fix_directory(xl, [{"sample": torch.zeros(1)}])
    with pytest.raises(BadInput, match="samples are given for 'nonesuch'"):
        fix_directory(xl, {"nonesuch": []})


@pytest.mark.slow
def test_a_safety_checker_is_copied_as_it_is(tmp_path):
    place = diffusion.saved(diffusion.stable_diffusion, tmp_path / "in")
    found = fix_directory(place, ["a red boat"])
    assert set(found.networks) == {"text_encoder", "unet", "vae"}
    assert found.copied == ("safety_checker",)
    assert found.safe
    found.save(tmp_path / "out")
    before, after = (
        {p.name: p.read_bytes() for p in (each / "safety_checker").iterdir()}
        for each in (place, tmp_path / "out")
    )
    assert before == after
    known = diffusion.picture(place, torch.float32)
    assert np.array_equal(diffusion.picture(tmp_path / "out", torch.float32), known)
    assert np.abs(diffusion.picture(tmp_path / "out", torch.float16) - known).max() < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stable_diffusion_3", "flux_1"])
def test_other_pipelines(name, tmp_path):
    place = diffusion.saved(getattr(diffusion, name), tmp_path / "in")
    found = fix_directory(place)
    assert found.safe
    found.save(tmp_path / "out")
    known = diffusion.picture(place, torch.float32)
    assert not np.isfinite(diffusion.picture(place, torch.float16)).all()
    assert np.array_equal(diffusion.picture(tmp_path / "out", torch.float32), known)
    assert np.abs(diffusion.picture(tmp_path / "out", torch.float16) - known).max() < 0.02


# A network alone


def films():
    return diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4,
        out_channels=4, text_dim=16, freq_dim=32, ffn_dim=32, num_layers=1, rope_max_seq_len=32,
    )  # fmt: skip


def captions():
    return diffusers.PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=8, num_layers=1,
        cross_attention_dim=24, sample_size=16, caption_channels=24,
        use_additional_conditions=True,
    )  # fmt: skip


ATTENTION = {r"to_v": 1e6, r"to_out": 1e-5}


@pytest.mark.parametrize(
    ("build", "factors"),
    [
        pytest.param(diffusion.unet_xl, diffusion.UNET, marks=pytest.mark.slow),
        (diffusion.sd3, diffusion.JOINT),
        pytest.param(diffusion.flux, diffusion.JOINT, marks=pytest.mark.slow),
        pytest.param(captions, ATTENTION, marks=pytest.mark.slow),
        pytest.param(films, ATTENTION, marks=pytest.mark.slow),
    ],
)
def test_arguments_are_drawn_by_their_names_and_the_configuration(build, factors, tmp_path):
    torch.manual_seed(0)
    diffusion.loud(build(), factors).save_pretrained(tmp_path / "in")
    found = fix_directory(tmp_path / "in")
    assert found.safe, found.reports[""].conflicts
    assert found.recipe().only.exponents
    assert any("is drawn" in note for note in found.reports[""].notes)


def test_a_network_that_runs_on_nothing_made_up_is_refused_with_what_it_says(tmp_path):
    model = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(4, 4), norm_num_groups=2, cross_attention_dim=4,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
        attention_head_dim=2, layers_per_block=1, time_cond_proj_dim=4, class_embed_type="timestep",
    )  # fmt: skip
    model.eval().save_pretrained(tmp_path / "in")
    with pytest.raises(BadInput, match="no made-up samples run through UNet2DConditionModel"):
        fix_directory(tmp_path / "in")
