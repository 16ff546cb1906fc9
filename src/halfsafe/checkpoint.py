"""What a checkpoint is made of: one file of tensors, or a folder with several and an index."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from halfsafe.errors import BadInput, first_line
from halfsafe.tensor_files import TensorFile

STEMS = ("model", "diffusion_pytorch_model")
"""What transformers and diffusers call the file that they read first."""


def tensors_in(path: Path) -> Mapping[str, TensorFile]:
    """The file of each tensor: of a file, or of those of a folder that its library would read.

    Raises BadInput where there are none, and for broken files.
    """
    if not path.is_dir():
        return _names_in([path])
    for stem in STEMS:
        if (path / f"{stem}.safetensors").is_file():
            return _names_in([path / f"{stem}.safetensors"])
        index = path / f"{stem}.safetensors.index.json"
        if index.is_file():
            return _listed(index)
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise BadInput(f"the folder '{path}' holds no .safetensors files")
    return _names_in(files)


def _listed(index: Path) -> Mapping[str, TensorFile]:
    """The files that an index names; each tensor of the index has to be in one."""
    try:
        listed: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(listed.values()))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise BadInput(f"cannot read '{index}': {first_line(error)}") from error
    held = _names_in([index.parent / name for name in names])
    missing = sorted(listed.keys() - held.keys())
    if missing:
        raise BadInput(f"'{index}' lists '{missing[0]}', and no file holds it")
    return held


def _names_in(paths: list[Path]) -> Mapping[str, TensorFile]:
    return {name: file for file in map(TensorFile.open, paths) for name in file.entries}
