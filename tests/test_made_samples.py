"""Samples for files whose user gives none: made up, and said to be."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

from halfsafe import BadInput
from halfsafe.frontends.onnx.made import made_samples


def written(place, text):
    onnx.save(parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> {text}'), place)
    return place


@pytest.mark.parametrize(
    ("inputs", "body", "shapes"),
    [
        ("float[N, 3, H, W] x", "y = Relu (x)", {"x": (1, 3, 224, 224)}),
        ("float[B, T] x", "y = Relu (x)", {"x": (1, 32)}),
        ("float[2, 5] x", "y = Relu (x)", {"x": (2, 5)}),
        ("float[B, T] x, float[B, T] z", "y = Add (x, z)", {"x": (1, 32), "z": (1, 32)}),
    ],
)
def test_open_sizes_are_usual_ones(inputs, body, shapes, tmp_path):
    path = written(tmp_path / "m.onnx", f"g ({inputs}) => (float y) {{{body}}}")
    made = made_samples(path)
    assert len(made.samples) == 4
    assert {name: x.shape for name, x in made.samples[0].items()} == shapes
    assert not np.array_equal(made.samples[0]["x"], made.samples[1]["x"])
    assert "drawn by their names, types and shapes" in made.notes[0]


def test_a_size_is_tried_until_it_runs(tmp_path):
    """A window of 400 entries does not fit into 32."""
    path = written(
        tmp_path / "m.onnx",
        "g (float[B, T] x) => (float y) {"
        "a = Constant <value = int64[1] {1}> ()  z = Unsqueeze (x, a)"
        "w = Constant <value = float[1, 1, 3] {1.0, 2.0, 1.0}> ()"
        "y = Conv <dilations = [199]> (z, w)}",
    )
    assert made_samples(path).samples[0]["x"].shape == (1, 512)


def test_integers_are_within_the_table_that_they_pick_from(tmp_path):
    path = written(
        tmp_path / "m.onnx",
        "g (int64[B, T] input_ids, int64[B, T] attention_mask) => (float y)"
        "<float[5, 2] table = {1,2,3,4,5,6,7,8,9,10}> {"
        "e = Gather (table, input_ids)  m = Cast <to = 1> (attention_mask)"
        "s = ReduceSum <keepdims = 0> (m)  y = Mul (e, s)}",
    )
    sample = made_samples(path).samples[0]
    assert set(np.unique(sample["input_ids"])) <= set(range(5))
    assert len(np.unique(sample["input_ids"])) > 2
    assert (sample["attention_mask"] == 1).all()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("g (string[N] x) => (string[N] y) {y = Identity (x)}", "input 'x' is text"),
        ("g (float[] x) => (float y) {y = Relu (x)}", "says no shape of input 'x'"),
        ("g (seq(float) x) => (int64 y) {y = SequenceLength (x)}", "is no tensor"),
        (
            "g (float[B, 7] x) => (float y) {s = Constant <value = int64[1] {3}> ()"
            " y = Reshape (x, s)}",
            "no made-up inputs run",
        ),
    ],
)
def test_what_cannot_be_made_up_is_refused(text, said, tmp_path):
    with pytest.raises(BadInput, match=said) as error:
        made_samples(written(tmp_path / "m.onnx", text))
    assert "--samples" in str(error.value)


def test_a_file_alone_is_inspected_and_the_next_step_told(tmp_path):
    path = written(tmp_path / "m.onnx", "g (float[2, 4] x) => (float[2, 4] y) {y = Exp (x)}")
    command = [sys.executable, "-m", "halfsafe", str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "warning: samples are made up" in ran.stderr
    assert "ranges are those of made-up samples, pass --samples" in ran.stderr
    assert ran.stdout.splitlines()[-1].startswith("Next: halfsafe")
    ran = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert "samples are made up" in json.loads(ran.stdout)["notes"][0]


PACKAGES = {
    "rapidocr_onnxruntime": "models/ch_PP-OCRv4_rec_infer.onnx",
}


@pytest.mark.parametrize("package", PACKAGES)
def test_files_out_of_packages(package):
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    made = made_samples(Path(found.submodule_search_locations[0]) / PACKAGES[package])
    assert len(made.samples) == 4
