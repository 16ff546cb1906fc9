"""A directory with one network as a module with samples, for tools that change nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from halfsafe.errors import BadInput
from halfsafe.frontends.huggingface.folder import Network, networks_in
from halfsafe.frontends.huggingface.made import is_raw, made_samples, without_cache
from halfsafe.frontends.huggingface.network import config_of, load
from halfsafe.frontends.huggingface.outputs import LATENTS, View
from halfsafe.frontends.huggingface.recording import Recording, with_latents
from halfsafe.samples import Made, Samples

ASKED = "output_hidden_states"


def open_directory(path: Path, samples: Any = None) -> tuple[nn.Module, Made]:
    """The network in FP32 without its states, and samples: the user's, or a few that are made up.

    Raises BadInput for a pipeline.
    """
    networks = networks_in(path)
    if len(networks) > 1:
        names = ", ".join(str(network.path) for network in networks)
        raise BadInput(f"'{path}' is a pipeline: name one of its networks, {names}")
    model = load(networks[0], torch.float32)
    made, view = samples_of(networks[0], model, samples)
    return view.of(model), made


def samples_of(network: Network, model: nn.Module, samples: Any) -> tuple[Made, View]:
    """What a user or a run of the pipeline gives, or what is made up, and which outputs count.

    Raises BadInput.
    """
    layers = None
    if isinstance(samples, Recording):
        made, layers = _recorded(network, model, samples), samples.layers
    elif samples is None or is_raw(samples):
        made = made_samples(network, model, samples or ())
    else:
        made = _given(model, samples)
    if network.library == "diffusers":
        made = replace(made, samples=with_latents(model, made.samples))
    first = Samples(made.samples).first
    try:
        return made, View.on(model, first, None if layers is None else sorted(layers))
    except BadInput as error:
        if made.made_up:
            raise BadInput(
                f"no made-up samples run through {network.kind}: pass --samples ({error})"
            ) from error
        raise


def _recorded(network: Network, model: nn.Module, found: Recording) -> Made:
    """What a pipeline called the network with; made up where it did not.

    An autoencoder's pictures are made up as ever, and beside them stand the latents that were
    decoded. Which hidden states are read of a network that was not called, nobody knows.
    """
    if found.calls:
        calls = [{n: x for n, x in c.items() if found.layers or n != ASKED} for c in found.calls]
        return Made([without_cache(model, call) for call in calls], told=found.told)
    made = made_samples(network, model)
    latents = found.latents
    if latents:
        made.samples[:] = [
            {**sample, LATENTS: latents[i % len(latents)]} for i, sample in enumerate(made.samples)
        ]
    elif network.library == "transformers" and "output_hidden_states" in config_of(model):
        made.samples[:] = [{**sample, ASKED: True} for sample in made.samples]
        told = (*found.told, "nobody knows which hidden states are read: all of them count")
        return Made(made.samples, made.made_up, told)
    return Made(made.samples, made.made_up, found.told)


def _given(model: nn.Module, samples: Any) -> Made:
    """A user's samples. Raises BadInput for positional arguments, of which classes have many."""
    calls = list(Samples(samples))
    if any(call.args for call in calls):
        raise BadInput("a sample has positional arguments: give a dict, by forward()'s names")
    return Made([without_cache(model, call.kwargs) for call in calls])
