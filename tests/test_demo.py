"""The demo for real: the detector that its package delivers, broken in FP16, and fixed."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import halfsafe
from examples.ocr import demo, detector
from examples.ocr.candidates import CONVERTERS, Left, left, plain, strict, whole
from examples.ocr.decode import matched, overlap, words
from examples.panet import demo as pan
from examples.pictures import BROKEN, Box, panel, sheet

ROOT = Path(__file__).parents[1]
PICTURE = Image.open(detector.PICTURE).convert("RGB")
OWN = min(PICTURE.size)
"""The picture as it is: less to compute than at the size to which the package enlarges it."""


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return onnx.load(detector.file())


@pytest.fixture(scope="module")
def feeds() -> detector.Feeds:
    return detector.pixels(PICTURE, side=OWN)


def seen(text: np.ndarray) -> list[Box]:
    return words(text, PICTURE.size)


def test_the_detector_finds_the_words_of_the_picture(model, feeds):
    assert len(seen(*whole(model, feeds))) == 11


def test_in_plain_fp16_the_map_is_empty(model, feeds):
    """Of a variance of inf, ONNX Runtime makes 0; 1.20 made NaN."""
    (text,) = strict(plain(model), feeds)
    assert not np.nan_to_num(text).any()
    assert not seen(text)


@pytest.mark.parametrize("name", sorted(CONVERTERS.keys() - {"FP16 before"}))
def test_converters_that_cut_constants_off_find_words_that_are_not_there(name, model, feeds):
    (reference,), (text,) = whole(model, feeds), strict(CONVERTERS[name](model), feeds)
    assert overlap(text, reference) < 0.8
    assert len(seen(text)) > matched(seen(text), seen(reference)) + 3


@pytest.mark.slow
def test_inspect_names_the_variance_and_the_operator_that_reads_it(feeds):
    said = demo.cause(halfsafe.inspect(detector.file(), feeds))
    assert "batch_norm_0.w_2 of p2o.BatchNormalization.1" in said
    assert said.endswith(("the output is wrong", "the output is nonfinite"))


def test_the_fixed_file_is_all_fp16_and_finds_the_same_words(model, feeds, tmp_path):
    fixed = halfsafe.fix(detector.file(), feeds)
    fixed.save(tmp_path / "fixed.onnx")
    half = onnx.load(tmp_path / "fixed.onnx")
    (reference,), (text,) = whole(model, feeds), strict(half, feeds)
    assert left(half) == Left(float32=0, casts=0)
    assert overlap(text, reference) > 0.99
    assert matched(seen(reference), seen(text)) == len(seen(text)) == 11


@pytest.mark.parametrize("module", [demo, pan], ids=["ocr", "panet"])
@pytest.mark.slow
def test_a_demo_runs_to_its_end(module, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["demo", "--out", str(tmp_path)])
    assert module.main() == 0
    printed = capsys.readouterr().out
    assert "Safe in FP16." in printed
    made = {path.suffix for path in tmp_path.iterdir()}
    assert made >= {".png", ".json", ".html"}


def test_a_word_grows_from_its_core_and_specks_are_none():
    text = np.zeros((1, 1, 40, 60), np.float32)
    text[0, 0, 10:16, 10:40] = 0.9
    text[0, 0, 30:31, 5:6] = 0.9
    (box,) = words(text, (120, 80))
    assert box.left < 20 < 80 < box.right
    assert box.top < 20 < 32 < box.bottom


def test_masks_overlap_where_both_say_text():
    assert overlap(np.array([0.9, 0.9, 0.1]), np.array([0.8, 0.0, 0.2])) == 0.5
    assert overlap(np.zeros(3), np.zeros(3)) == 1.0


def test_boxes_are_alike_if_they_share_more_than_half():
    box, near, far = Box(0, 0, 10, 10), Box(1, 0, 11, 10), Box(8, 0, 18, 10)
    assert matched([box], [near]) == 1
    assert matched([box, far], [near]) == 1


def test_cells_that_are_not_finite_have_a_colour_of_their_own():
    picture = Image.new("RGB", (60, 80))
    score = np.full((8, 6), np.nan)
    shown = sheet([panel(picture, score, [], "broken"), picture], 2)
    assert shown.size == (128, 80)
    assert shown.getpixel((30, 60)) == tuple(c // 2 for c in BROKEN)


def test_a_missing_package_is_said_with_the_command_that_brings_it(monkeypatch):
    monkeypatch.setattr(detector, "PACKAGE", "rapidocr_of_another_name")
    with pytest.raises(FileNotFoundError, match="pip install --no-deps"):
        detector.file()


def test_the_command_installs_what_the_constraints_pin():
    pinned = detector.INSTALL.rpartition(" ")[2]
    assert pinned in (ROOT / "constraints.txt").read_text().split()
