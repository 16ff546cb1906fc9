"""Generates text: for what a decoder reads, and to see that a network with a cache is the one that
was proved without."""

# transformers is only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from halfsafe.frontends.huggingface.network import quietly
from halfsafe.frontends.torch.trees import cast
from halfsafe.samples import Call

PROMPTS = ("input_ids", "input_features", "input_values", "pixel_values")
"""Arguments that a network generates from, the first of them that there is."""


def generates(model: Any, call: Call) -> bool:
    """Whether a network generates text from what is in a sample."""
    can = getattr(model, "can_generate", None)
    return bool(can and can() and any(name in call.kwargs for name in PROMPTS))


def greedy(model: Any, call: Call, tokens: int) -> Tensor:
    """The tokens that a network says after the first row of a sample, the most probable ones."""
    given = {
        name: x[:1]
        for name, x in call.kwargs.items()
        if isinstance(x, Tensor) and not name.startswith("decoder_")
    }
    mask = given.get("attention_mask")
    if mask is not None and "input_ids" in given:
        seen = mask[0].bool()
        given = {n: x[:, seen] if x.shape == mask.shape else x for n, x in given.items()}
    given = cast(given, next(model.parameters()).dtype)
    with torch.no_grad(), quietly():
        made = model.generate(**given, max_new_tokens=tokens, do_sample=False, num_beams=1)
    return made[0] if model.config.is_encoder_decoder else made[0, given["input_ids"].shape[1] :]


def said_by(model: Any, given: Mapping[str, Any], length: int) -> Tensor | None:
    """Tokens that a network with a decoder says after a sample, drawn by their probabilities.

    (batch, length), the first of them those that it begins with. None where it says nothing.
    """
    if not getattr(model, "can_generate", lambda: False)():
        return None
    tensors = {name: x for name, x in given.items() if isinstance(x, Tensor)}
    try:
        with torch.no_grad(), quietly(), torch.random.fork_rng([]):
            torch.manual_seed(0)
            made = model.generate(
                **tensors, max_new_tokens=length, min_new_tokens=length, do_sample=True, num_beams=1
            )
    except Exception:  # generate() has its own ideas of what a configuration has to say
        return None
    return made[:, :length] if made.ndim == 2 and made.shape[1] >= length else None


def same(found: Tensor, known: Tensor) -> int:
    """How many tokens are the same before the first that is not."""
    length = min(len(found), len(known))
    differs = (found[:length] != known[:length]).nonzero()
    return int(differs[0]) if len(differs) else length
