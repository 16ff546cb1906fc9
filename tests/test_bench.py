"""The benches still run: each is imported, and the two of accuracy measure one network."""

from importlib import import_module
from pathlib import Path

import pytest

from bench import accuracy, onnx_accuracy

BENCH = Path(accuracy.__file__).parent
NOT_HERE = ("peer_run", "mmocr_detector", "mmocr_rewriters")
"""They run in environments of their own."""


NAMES = sorted({path.stem for path in BENCH.glob("[!_]*.py")} - {*NOT_HERE})


@pytest.mark.parametrize("name", NAMES)
def test_a_bench_is_imported(name: str):
    assert import_module(f"bench.{name}").__doc__


@pytest.mark.slow
def test_a_network_is_measured(tmp_path: Path):
    rows = accuracy.measure("resnet"), onnx_accuracy.measure("resnet", tmp_path)
    assert all(row["bit_equal"] and row["after_nonfinite"] == 0 for row in rows)
