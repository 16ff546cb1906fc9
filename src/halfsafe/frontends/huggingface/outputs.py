"""Which outputs of a network somebody deploys, and which are its states.

Classes of transformers give more than is asked of them: beside the logits, what the encoder and
each layer gave. Those are handed back to the same network, as a cache is, or read by nobody. They
may be stored at an exponent of their own, like every other value inside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from halfsafe.frontends.torch.program import Program
from halfsafe.frontends.torch.trees import places_of

STATES = (
    "past_key_values", "encoder_last_hidden_state", "hidden_states", "attentions",
    "encoder_hidden_states", "decoder_hidden_states", "cross_attentions", "encoder_attentions",
    "decoder_attentions", "text_model_output", "vision_model_output", "encoder_outputs",
    "memory_bank", "mems", "intermediate_hidden_states",
)  # fmt: skip
"""Fields of transformers' outputs that are states, or whole outputs of a part."""


def places(program: Program) -> Sequence[str]:
    """The path of each output of the graph in what the class gives: ``['logits']``."""
    leaves = [str(i) for i in range(program.out_spec.num_leaves)]
    return places_of(program.unflatten(leaves))


def loose(program: Program) -> Mapping[str, str]:
    """The graph's outputs that are states, with their paths; nothing if there are no others."""
    found: dict[str, str] = {}
    shown: set[str] = set()
    for name, place in zip(program.graph.outputs, places(program), strict=True):
        if program.graph.values[name].floating and _field(place) in STATES:
            found[name] = place
        else:
            shown.add(name)
    return {name: place for name, place in found.items() if name not in shown} if shown else {}


def _field(place: str) -> str:
    """The outermost name of a path.

    >>> _field("['text_model_output']['last_hidden_state']"), _field(".sample")
    ('text_model_output', 'sample')
    """
    return place.replace("[", ".").replace("]", "").replace("'", "").lstrip(".").partition(".")[0]
