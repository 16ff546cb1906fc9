"""Which outputs of a network somebody deploys, and which are its states.

Classes of transformers give more than is asked of them: beside the logits, what the encoder and
each layer gave. Those are handed back to the same network, as a cache is, or read by nobody. They
are values inside of the network, and stored like any other, at an exponent of their own.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import wraps
from typing import Any

from torch import nn

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


def without(model: nn.Module, states: Sequence[str]) -> nn.Module:
    """The same network, of which nobody sees some outputs; modules and tensors are shared."""
    if not states:
        return model
    kind: Any = type(model)

    @wraps(kind.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        found = kind.forward(self, *args, **kwargs)
        return {name: x for name, x in found.items() if name not in states}

    made = copy.copy(model)
    made.__class__ = type(kind.__name__, (kind,), {"forward": forward})
    return made
