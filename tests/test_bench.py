"""The benches still run: each is imported, and those of accuracy and engines measure a network."""

from importlib import import_module
from pathlib import Path

import pytest
import torch

from bench import accuracy, gpu, onnx_accuracy
from bench.architectures import TINY
from bench.gpu_engines import ENGINES, at_hand, bisections, measured
from halfsafe.engines import _named

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


def test_without_a_gpu_it_is_said_what_is_missing(monkeypatch, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setattr("sys.argv", ["gpu.py"])
    monkeypatch.setattr(gpu, "record", lambda *_: pytest.fail("nothing was measured"))
    gpu.main()
    told = capsys.readouterr().out.splitlines()
    for name, line in zip(ENGINES["cuda"], told[:-1], strict=True):
        assert line.startswith(f"skipped: the engine '{name}'") and _named(name).needs in line
    assert told[-1].endswith("this needs a CUDA device")


@pytest.mark.slow
def test_a_network_runs_on_engines_before_and_after():
    """The code that `make gpu` runs, on engines that need none."""
    rows = list(measured("resnet", TINY, at_hand(ENGINES["cpu"]), turns=2))
    assert [row["engine"] for row in rows] == ["torch", "onnxruntime"]
    for row in rows:
        assert row["naive"]["nonfinite"] and row["naive"]["error"] is None
        assert row["fixed"]["nonfinite"] == 0 and row["fixed"]["error"] < 4 * row["floor"]
        assert row["fixed_over_naive"] > 0


@pytest.mark.slow
def test_planted_faults_are_bisected_on_engines():
    rows = list(bisections(at_hand(ENGINES["cpu"])))
    assert {row["engine"] for row in rows} == {"torch"}
    assert all(row["exact"] for row in rows)
