"""A directory with one network as a module with samples, for tools that change nothing."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from halfsafe.errors import BadInput
from halfsafe.frontends.huggingface.folder import networks_in
from halfsafe.frontends.huggingface.made import made_samples
from halfsafe.frontends.huggingface.network import load
from halfsafe.samples import Made


def open_directory(path: Path) -> tuple[nn.Module, Made]:
    """The network in FP32, and a few samples. Raises BadInput for a pipeline."""
    networks = networks_in(path)
    if len(networks) > 1:
        names = ", ".join(str(network.path) for network in networks)
        raise BadInput(f"'{path}' is a pipeline: name one of its networks, {names}")
    model = load(networks[0], torch.float32)
    return model, made_samples(networks[0], model)
