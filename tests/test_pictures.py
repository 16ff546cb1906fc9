"""Folders of pictures and files of texts as samples, and how many at once."""

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import parser
from PIL import Image
from typer.testing import CliRunner

import halfsafe
from halfsafe.cli import app
from halfsafe.drawn import scene
from halfsafe.errors import BadInput
from halfsafe.loading import load
from halfsafe.pictures import DEVIATION, MEAN, Batches, Pictures, Takes, named
from halfsafe.sample_files import Supplied


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five pictures, of kinds and modes that people have, and a file that is none."""
    place = tmp_path_factory.mktemp("pictures")
    for i, (suffix, mode) in enumerate(
        [("png", "RGB"), ("jpg", "RGB"), ("png", "RGBA"), ("PNG", "L"), ("webp", "RGB")]
    ):
        Image.fromarray(scene(i, 90, 140)).convert(mode).save(place / f"{i}.{suffix}")
    (place / "notes.md").write_text("not a picture")
    return place


def file_of(place, shape, kind="float", body="y = ReduceMax <keepdims = 0> (x)"):
    text = f'<ir_version: 8, opset_import: ["" : 18]> g ({kind}[{shape}] x) => (float y) {{{body}}}'
    onnx.save(parser.parse_model(text), place / "m.onnx")
    return str(place / "m.onnx")


def of(folder, preprocess="0..1", batch=None):
    return Supplied(str(folder), preprocess, batch)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("N, 3, 48, 64", (1, 3, 48, 64)),
        ("N, 48, 64, 3", (1, 48, 64, 3)),
        ("N, 1, 48, 64", (1, 1, 48, 64)),
        ("N, 3, H, W", (1, 3, 64, 128)),  # 90 by 140, down to multiples of 32
        ("2, 3, 32, W", (2, 3, 32, 128)),
    ],
)
def test_a_picture_is_brought_to_what_a_file_takes(folder, shape, expected, tmp_path):
    loaded = load(file_of(tmp_path, shape), of(folder))
    samples = list(loaded.samples)
    assert {tuple(s["x"].shape) for s in samples} == {expected}
    assert samples[0]["x"].dtype == np.float32
    assert len(samples) == 5 // expected[0]
    assert not np.array_equal(samples[0]["x"], samples[1]["x"])


@pytest.mark.parametrize(
    ("how", "low", "high"), [("0..1", 0.0, 1.0), ("-1..1", -1.0, 1.0), ("0..255", 0.0, 255.0)]
)
def test_bytes_are_brought_into_a_range(how, low, high):
    black_to_white = Image.linear_gradient("L").convert("RGB")
    read = named(how, Takes(height=256, width=256))(black_to_white)
    assert (read.min(), read.max()) == (low, high)
    assert np.allclose(np.diff(read[0, 0, :, 0]), (high - low) / 255, rtol=1e-4)


def test_of_imagenet_the_middle_is_taken():
    wide = Image.new("RGB", (900, 300), "black")
    wide.paste("white", (300, 0, 600, 300))
    read = named("imagenet", Takes())(wide)
    assert read.shape == (1, 3, 224, 224)
    expected = (1 - np.array(MEAN)) / DEVIATION
    assert np.allclose(read[0, :, 10:-10, 10:-10], expected[:, None, None], atol=1e-5)


def test_a_byte_stays_a_byte(folder, tmp_path):
    cast = "f = Cast <to = 1> (x)  y = ReduceMax <keepdims = 0> (f)"
    path = file_of(tmp_path, "N, 32, 32, 3", "uint8", cast)
    (first, *_) = load(path, of(folder, "0..255")).samples
    assert first["x"].dtype == np.uint8
    assert first["x"].max() > 100


def test_batches_hold_so_many_and_the_last_one_what_is_left(folder, tmp_path):
    loaded = load(file_of(tmp_path, "N, 3, 32, 32"), of(folder, batch=2))
    assert [len(s["x"]) for s in loaded.samples] == [2, 2, 1]
    assert [len(s["x"]) for s in loaded.samples] == [2, 2, 1], "a second pass is the same"
    assert (len(loaded.samples), loaded.notes) == (3, ())


def test_what_fills_no_fixed_batch_is_left_out_and_told(folder, tmp_path):
    loaded = load(file_of(tmp_path, "2, 3, 32, 32"), of(folder))
    assert [len(s["x"]) for s in loaded.samples] == [2, 2]
    assert loaded.notes == ("the last 1 of 5 pictures fill no batch of 2",)


def test_pictures_are_read_when_they_are_asked_for(folder, monkeypatch):
    opened = []
    pictures = Pictures(sorted(folder.glob("[0-9]*")))
    monkeypatch.setattr(pictures, "_open", lambda path: opened.append(path) or Image.open(path))
    batches = Batches(pictures, named("0..1", Takes()), 2)
    assert (len(batches), opened) == (3, [])
    next(iter(batches))
    assert len(opened) == 2


@pytest.mark.parametrize(
    ("given", "shape", "said"),
    [
        ({"preprocess": None}, "N, 3, 8, 8", "say how the model takes them, --preprocess imagenet"),
        ({"preprocess": "caffe"}, "N, 3, 8, 8", "unknown --preprocess 'caffe': one of imagenet, 0"),
        ({"batch": 3}, "2, 3, 8, 8", "--batch is 3, and the model takes batches of 2"),
        ({}, "9, 3, 8, 8", "holds 5 pictures, and a batch is 9"),
        ({}, "N, 8", "does not take a picture and nothing else"),
        ({"preprocess": "imagenet"}, "N, 1, 8, 8", "three colours, and the model takes one"),
    ],
)
def test_what_cannot_be_read_is_refused(folder, given, shape, said, tmp_path):
    with pytest.raises(BadInput, match=said):
        load(file_of(tmp_path, shape), of(folder, **given))


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no more")
    loaded = load(file_of(tmp_path, "N, 3, 8, 8"), of(tmp_path))
    with pytest.raises(BadInput, match=r"cannot read '.*broken\.png'"):
        list(loaded.samples)


def test_pictures_beside_arrays_are_refused(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    np.savez(tmp_path / "b.npz", x=np.zeros(3))
    with pytest.raises(BadInput, match=r"holds pictures and \.npz files: keep one"):
        load(file_of(tmp_path, "N, 3, 8, 8"), of(tmp_path))


def test_pictures_of_other_sizes_do_not_go_into_one_batch(tmp_path):
    for i, side in enumerate((64, 96)):
        Image.new("RGB", (side, side)).save(tmp_path / f"{i}.png")
    path = file_of(tmp_path, "N, 3, H, W")
    assert [s["x"].shape[2] for s in load(path, of(tmp_path)).samples] == [64, 96]
    with pytest.raises(
        BadInput, match=r"'.*0\.png' to '.*1\.png' do not go into one batch.*batch 1"
    ):
        list(load(path, of(tmp_path, batch=2)).samples)


# A function of the user's own


def plain(picture):
    return torch.tensor(np.array(picture.resize((8, 8)))).permute(2, 0, 1)[None] / 255


def with_size(picture):
    return {"x": np.asarray(picture)[None], "size": np.array([picture.size])}


def failing(picture):
    return picture.nonesuch


def test_a_callable_gives_whole_samples(folder, tmp_path):
    path = file_of(tmp_path, "N, 3, 8, 8")
    assert next(iter(load(path, of(folder, f"{__name__}:plain", 4)).samples))["x"].shape[0] == 4
    (first, *_) = load(path, of(folder, f"{__name__}:with_size", 2)).samples
    assert {name: x.shape for name, x in first.items()} == {"x": (2, 90, 140, 3), "size": (2, 2)}
    with pytest.raises(BadInput, match=r"failing' fails: AttributeError.*test_pictures\.py"):
        list(load(path, of(folder, f"{__name__}:failing")).samples)


def classifier():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.LazyLinear(2)
    ).eval()
    net(torch.zeros(1, 3, 16, 16))
    with torch.no_grad():
        _ = net[0].weight.mul_(1e6)
        _ = net[3].weight.mul_(1e-6)
    return net, torch.zeros(1, 3, 16, 16)


def test_of_a_module_the_size_is_that_of_the_samples_it_comes_with(folder):
    loaded = load(f"{__name__}:classifier", of(folder, "-1..1", 2))
    assert [tuple(s[0].shape) for s in loaded.samples] == [(2, 3, 16, 16)] * 2 + [(1, 3, 16, 16)]
    fixed = halfsafe.fix(loaded.model, loaded.samples)
    assert fixed.report.safe
    assert not fixed.report.islands


def test_the_command_line_fixes_with_a_folder_of_pictures(folder, tmp_path):
    arguments = ["fix", f"{__name__}:classifier", "--samples", str(folder), "--preprocess", "0..1",
                 "--batch", "2", "-o", str(tmp_path / "m.pt2"), "--json"]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    assert json.loads(done.stdout)["samples"] == 3
    done = CliRunner().invoke(app, [*arguments[:5], "none"])
    assert done.exit_code == 1  # raised: main() makes a line of it
    assert isinstance(done.exception, BadInput)


@pytest.mark.parametrize("option", [{"preprocess": "0..1"}, {"batch": 2}])
def test_options_of_pictures_are_not_for_arrays(option, tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((1, 3, 8, 8), np.float32))
    with pytest.raises(BadInput, match=f"--{next(iter(option))} is for a folder of pictures"):
        load(file_of(tmp_path, "N, 3, 8, 8"), Supplied(str(tmp_path / "a.npz"), **option))


def test_samples_that_are_made_up_are_of_the_batch_asked_for(tmp_path):
    loaded = load(file_of(tmp_path, "N, 3, 8, 8"), Supplied(batch=3))
    assert {s["x"].shape for s in loaded.samples} == {(3, 3, 8, 8)}
