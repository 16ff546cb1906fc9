"""Which outputs of a network somebody deploys, and which are its states.

Classes of transformers give more than is asked of them: beside the logits, what the encoder and
each layer gave. Those are handed back to the same network, as a cache is, or read by nobody. They
are values inside of the network, and stored like any other, at an exponent of their own. Unless
somebody reads them: a pipeline takes hidden states of a text encoder for the prompt, and decodes
latents without the encoder that the class runs ahead of it.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Any, Self

from torch import nn

from halfsafe.frontends.torch.model import run_model
from halfsafe.samples import Call

STATES = frozenset(
    """
    past_key_values encoder_last_hidden_state hidden_states attentions encoder_outputs mems state
    cache_params vision_outputs qformer_outputs language_model_outputs image_pooler_output
    video_pooler_output
    """.split()
)
"""Fields of transformers' outputs that are states, or whole outputs of a part."""

OF_A_PART = ("_hidden_states", "_attentions", "_model_output")
"""What names of such fields end with, behind that of a part: ``image_hidden_states``."""

WHOLE = "last_hidden_states"
"""What is not of a part, in the plural."""


def states_in(found: Any) -> list[str]:
    """The states among what a network gives by name; none if there is nothing beside them."""
    if not isinstance(found, Mapping):
        return []
    states = [name for name in found if _is_state(name)]
    return states if len(states) < len(found) else []


def _is_state(name: Any) -> bool:
    return name in STATES or (str(name).endswith(OF_A_PART) and name != WHOLE)


LAYERS = "hidden_states"

LATENTS = "latents"
"""The argument, beside those of forward(), that `decode` is called with."""


@dataclass(frozen=True)
class View:
    """Which outputs of a network somebody deploys.

    Not its `states`, but of its hidden states some `layers`; and of an autoencoder, whose halves
    are used alone, what the encoder gives, and what the decoder makes of latents.
    """

    states: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    decodes: bool = False

    @classmethod
    def on(cls, model: nn.Module, call: Call, layers: Sequence[int] | None) -> Self:
        """Found out by a call; without `layers`, all of them are deployed if they are asked for."""
        decodes = LATENTS in call.kwargs and hasattr(model, "decode")
        found = run_model(cls(decodes=decodes).of(model), call)
        states = states_in(found)
        if layers is None:
            asked = LAYERS in states and call.kwargs.get("output_hidden_states")
            layers = range(len(found[LAYERS])) if asked else ()
        return cls(tuple(states), tuple(layers), decodes)

    def of(self, model: nn.Module) -> nn.Module:
        """The network of which nobody sees anything else; modules and tensors are shared."""
        if not self.states and not self.decodes:
            return model
        kind: Any = type(model)

        handed: ContextVar[list[Any]] = ContextVar("handed")  # samples may run side by side

        def decode(module: Any, latents: Any, *args: Any, **kwargs: Any) -> Any:
            handed.get([]).append(latents)
            return kind.decode(module, latents, *args, **kwargs)

        @wraps(kind.forward)
        def forward(module: Any, *args: Any, **kwargs: Any) -> Any:
            latents = kwargs.pop(LATENTS, None)
            handed.set([])
            found = kind.forward(module, *args, **kwargs)
            made = {name: x for name, x in found.items() if name not in self.states}
            made |= {f"{LAYERS}_{i}": found[LAYERS][i] for i in self.layers}
            if self.decodes:
                made |= {f"encoded_{i}": x for i, x in enumerate(handed.get())}
                made |= {"decoded": kind.decode(module, latents)[0]}
            return made

        members: dict[str, Any] = {"forward": forward}
        if self.decodes:
            forward.__signature__ = _with_latents(kind.forward)  # pyright: ignore
            members["decode"] = decode
        named = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
        made = copy.copy(model)
        made.__class__ = type(kind.__name__, (kind,), members | named)
        return made

    @property
    def notes(self) -> list[str]:
        """What a report says of it."""
        notes: list[str] = []
        if self.states:
            named = ", ".join(self.states)
            notes.append(f"not deployed, and not judged, are the network's states: {named}")
        if self.layers:
            numbers = ", ".join(map(str, self.layers))
            notes.append(f"deployed and judged are, of its hidden states, those number {numbers}")
        if self.decodes:
            halves = "encoder and decoder in one pass, the latents between them, and decode()"
            notes.append(f"judged are {halves} by itself")
        return notes


def _with_latents(forward: Any) -> inspect.Signature:
    """The signature of forward() with one more argument."""
    known = inspect.signature(forward)
    more = inspect.Parameter(LATENTS, inspect.Parameter.KEYWORD_ONLY, default=None)
    return known.replace(parameters=[*known.parameters.values(), more])
