"""One network of a directory as a module: loaded, and built again with other settings."""

# transformers and diffusers are optional, and only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingImports=false, reportMissingTypeStubs=false

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from halfsafe.errors import BadInput, first_line
from halfsafe.frontends.huggingface.folder import Network
from halfsafe.frontends.torch.program import same_draws


def class_of(network: Network) -> Any:
    """The class that reads a network. Raises BadInput where its library is not there."""
    try:
        library = importlib.import_module(network.library)
    except ModuleNotFoundError as error:
        raise BadInput(
            f"'{network.path}' is read with the package {network.library}: pip install "
            f"'halfsafe[huggingface]'"
        ) from error
    kind = getattr(library, network.kind, None)
    if kind is None or not inspect.isclass(kind):
        raise BadInput(
            f"{network.library} {library.__version__} has no class {network.kind}, which "
            f"'{network.path}' names: install a version that has it"
        )
    return kind


def load(network: Network, dtype: torch.dtype, path: Path | None = None) -> nn.Module:
    """The network in eval mode, from its own directory or from that of a copy.

    FP32 holds a checkpoint in bfloat16 or FP16 exactly. Raises BadInput.
    """
    return load_and_tell(network, dtype, path)[0]


def load_and_tell(
    network: Network, dtype: torch.dtype, path: Path | None = None
) -> tuple[nn.Module, list[str]]:
    """The same, with the tensors that the class draws since no file holds them; by each loading
    here the same ones."""
    kind = class_of(network)
    if not any((path or network.path).glob("*.safetensors")):
        raise BadInput(
            f"'{network.path}' holds no .safetensors files: load it, and save it once more"
        )
    named: dict[str, Any] = {"torch_dtype": dtype}
    if network.library == "transformers":
        named = {"dtype": dtype, "output_loading_info": True}
    try:
        with quietly(), same_draws():
            found = kind.from_pretrained(path or network.path, local_files_only=True, **named)
    except Exception as error:
        raise BadInput(
            f"{network.kind}.from_pretrained('{path or network.path}') fails: {first_line(error)}"
        ) from error
    model, told = found if isinstance(found, tuple) else (found, {})
    _align(model)
    return model.eval(), sorted(told.get("missing_keys", ()))


ALIGNED = 64
"""Bytes to which PyTorch aligns the tensors that it makes."""


def _align(model: nn.Module) -> None:
    """Moves tensors that lie in memory as they lie in a file to where PyTorch would put them.

    A product of a matrix and a vector sums up in another order at another alignment. A rescaled
    tensor would differ by that alone.
    """
    with torch.no_grad():
        for x in (*model.parameters(), *model.buffers()):
            if x.data_ptr() % ALIGNED:
                x.data = x.data.clone()


def config_of(model: Any) -> dict[str, Any]:
    """All settings of a network with their values, those at their default included."""
    config = model.config
    return dict(config.to_dict() if hasattr(config, "to_dict") else config)


def built(model: Any, config: Mapping[str, Any]) -> nn.Module:
    """The modules of the same class with other settings, without values."""
    with quietly(), torch.device("meta"):
        if hasattr(model.config, "to_dict"):
            return type(model)(type(model.config).from_dict(dict(config)))
        return type(model).from_config(dict(config))


@contextmanager
def quietly() -> Generator[None]:
    """Within it, libraries show no bars, and say nothing below an error."""
    loggers = [logging.getLogger(name) for name in ("transformers", "diffusers")]
    levels = [logger.level for logger in loggers]
    bars = _bars()
    shown = [bar.is_progress_bar_enabled() for bar in bars]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        for bar in bars:
            bar.disable_progress_bar()
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for bar, was in zip(bars, shown, strict=True):
            if was:
                bar.enable_progress_bar()


def _bars() -> list[Any]:
    """What of the libraries that are imported shows bars."""
    import sys

    names = ("transformers.utils.logging", "diffusers.utils.logging")
    found = [sys.modules[name] for name in names if name in sys.modules]
    return [module for module in found if hasattr(module, "is_progress_bar_enabled")]
