"""Where the tensors of a model on the meta device come from: files, or a function of their names.

A model of which only shapes are in memory is run on what its files hold, one tensor at a time.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from halfsafe.checkpoint import tensors_in
from halfsafe.errors import BadInput, first_line
from halfsafe.frontends.torch.constants import Constant, Loaded
from halfsafe.frontends.torch.weights_file import WeightsFile

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
    files = {name: WeightsFile(file) for name, file in tensors_in(Path(given)).items()}
    return lambda name, like: _in_file(files[name], name, like) if name in files else None


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
