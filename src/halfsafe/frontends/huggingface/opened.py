"""A directory with one network as a module with samples, for tools that change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from halfsafe.errors import BadInput
from halfsafe.frontends.huggingface.folder import Network, networks_in
from halfsafe.frontends.huggingface.made import is_raw, made_samples, without_cache
from halfsafe.frontends.huggingface.network import load
from halfsafe.frontends.huggingface.outputs import states_in, without
from halfsafe.frontends.torch.model import run_model
from halfsafe.samples import Made, Samples


def open_directory(path: Path, samples: Any = None) -> tuple[nn.Module, Made]:
    """The network in FP32 without its states, and samples: the user's, or a few that are made up.

    Raises BadInput for a pipeline.
    """
    networks = networks_in(path)
    if len(networks) > 1:
        names = ", ".join(str(network.path) for network in networks)
        raise BadInput(f"'{path}' is a pipeline: name one of its networks, {names}")
    model = load(networks[0], torch.float32)
    made = samples_of(networks[0], model, samples)
    states = states_in(run_model(model, Samples(made.samples).first))
    return without(model, states), made


def samples_of(network: Network, model: nn.Module, samples: Any) -> Made:
    """What a user gives: samples, texts or pictures to be read, or nothing. Raises BadInput."""
    if samples is None:
        return made_samples(network, model)
    if is_raw(samples):
        return made_samples(network, model, samples)
    return _given(model, samples)


def _given(model: nn.Module, samples: Any) -> Made:
    """A user's samples. Raises BadInput for positional arguments, of which classes have many."""
    calls = list(Samples(samples))
    if any(call.args for call in calls):
        raise BadInput("a sample has positional arguments: give a dict, by forward()'s names")
    return Made([without_cache(model, call.kwargs) for call in calls])
