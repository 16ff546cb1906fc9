"""The commands of the tutorial, run as they stand there; its Python runs as all documents do."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from examples.ocr import detector

PAGE = Path(__file__).parents[1] / "docs" / "bisecting.md"
COMMANDS = re.findall(r"^halfsafe (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the reader of the tutorial has made: the detector, and a sample of it."""
    picture = Image.open(detector.PICTURE)
    sample = detector.pixels(picture, side=picture.height)
    np.savez(tmp_path / "page.npz", allow_pickle=False, **sample)
    shutil.copy(detector.file(), tmp_path / "detector.onnx")
    return tmp_path


def test_there_are_commands():
    assert COMMANDS


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_names_the_culprit(command: str, folder: Path):
    line = [sys.executable, "-m", "halfsafe", *shlex.split(command)]
    own = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
    ran = subprocess.run(line, cwd=folder, env=own, capture_output=True, text=True, check=False)
    assert ran.returncode == 1, ran.stderr
    assert "p2o.BatchNormalization.1" in ran.stdout
