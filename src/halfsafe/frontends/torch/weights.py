"""Where the tensors of a model on the meta device come from: files, or a function of their names.

A model of which only shapes are in memory is run on what its files hold, one tensor at a time.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from halfsafe.errors import BadInput, first_line
from halfsafe.frontends.torch.constants import Constant, Loaded
from halfsafe.frontends.torch.weights_file import WeightsFile

INDEX = "model.safetensors.index.json"
"""What says which tensor is in which of several files, as the transformers library writes it."""

Weights = str | Path | Callable[[str], Tensor]
"""A .safetensors file, a folder of them, or a function from a tensor's name to the tensor."""

Found = Callable[[str, Tensor], Constant | None]
"""What a parameter or buffer of a name is, given one of its type and shape; None if there is none.
"""


def weights_of(given: Any) -> Found:
    """Raises BadInput for what is none of the kinds of weights, and for broken files."""
    if callable(given):
        return lambda name, like: _called(given, name, like)
    if not isinstance(given, (str, Path)):
        raise BadInput(
            f"weights is a {type(given).__name__}: pass a .safetensors file, a folder of them, or "
            "a function from a tensor's name to the tensor"
        )
    files = _by_name(Path(given))
    return lambda name, like: _in_file(files[name], name, like) if name in files else None


def _by_name(path: Path) -> Mapping[str, WeightsFile]:
    """The file of each tensor."""
    if not path.is_dir():
        return _names_in([path])
    if not (path / INDEX).is_file():
        files = sorted(path.glob("*.safetensors"))
        if not files:
            raise BadInput(f"the folder '{path}' holds no .safetensors files")
        return _names_in(files)
    try:
        listed: dict[str, str] = json.loads((path / INDEX).read_text(encoding="utf-8"))[
            "weight_map"
        ]
        names = sorted(set(listed.values()))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise BadInput(f"cannot read '{path / INDEX}': {first_line(error)}") from error
    held = _names_in([path / name for name in names])
    missing = sorted(listed.keys() - held.keys())
    if missing:
        raise BadInput(f"'{path / INDEX}' lists '{missing[0]}', and no file holds it")
    return held


def _names_in(paths: list[Path]) -> Mapping[str, WeightsFile]:
    return {name: file for file in map(WeightsFile.open, paths) for name in file.held}


def _in_file(file: WeightsFile, name: str, like: Tensor) -> Constant:
    found = file.constant(name, like.dtype)
    _check_shape(name, found.shape, like, str(file.path))
    return found


def _called(given: Callable[[str], Any], name: str, like: Tensor) -> Constant:
    """A function is asked anew each time; what it gives is looked at then."""

    def load() -> Tensor:
        try:
            made = given(name)
        except Exception as error:
            raise BadInput(f"weights('{name}') fails: {first_line(error)}") from error
        if not isinstance(made, Tensor):
            raise BadInput(f"weights('{name}') gives a {type(made).__name__}, not a tensor")
        _check_shape(name, made.shape, like, "weights")
        return made

    return Loaded(like.shape, like.dtype, load)


def _check_shape(name: str, shape: torch.Size, like: Tensor, where: str) -> None:
    if shape != like.shape:
        raise BadInput(
            f"'{name}' has the shape {tuple(shape)} in {where}, and {tuple(like.shape)} in the "
            "model: are these the weights of another configuration?"
        )
