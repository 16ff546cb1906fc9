"""Made-up arguments in the form that a class takes: found out by running it.

What a class is called, and what its arguments are called, does not say everything: pictures may be
frames of a video, a text one of several choices, a spectrum may lie on its side. So the forms that
there are get tried, on one sample, and the first that the class runs with is that of all.
"""

# transformers is optional, and only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from halfsafe.errors import BadInput, first_line
from halfsafe.frontends.huggingface.network import quietly
from halfsafe.frontends.torch.private import tree_leaves
from halfsafe.frontends.torch.program import check_memory, same_draws
from halfsafe.samples import Call

Sample = dict[str, Any]

Form = Callable[[Sample], Sample]
"""Gives a sample in another form. Forms are asked of samples to which they apply."""

TEXT = ("input_ids", "attention_mask", "token_type_ids")

FRAMES = 200
"""Length of a spectrum where the class does not say one: two seconds."""


def in_the_form_that_runs(
    model: Any, config: Mapping[str, Any], samples: Sequence[Sample]
) -> list[Sample]:
    """Samples as the class takes them. Raises BadInput where it takes them in no form."""
    said = ""
    for form in _forms(model, config, samples[0]):
        made = form(samples[0])
        error = _failure(model, made)
        if error is None:
            return [made, *map(form, samples[1:])]
        said = said or first_line(error)
    raise BadInput(
        f"{type(model).__name__} takes no sample that halfsafe can make up ({said}): pass --samples"
    )


def _failure(model: Any, sample: Sample) -> Exception | None:
    """What the network raises on a sample. Raises BadInput where memory is too small for it."""
    try:
        with torch.no_grad(), same_draws(), quietly():
            model(**sample)
    except Exception as error:
        check_memory(Call((), sample, 0), error)
        return error
    return None


def _forms(model: Any, config: Mapping[str, Any], sample: Sample) -> Iterator[Form]:
    """The forms that a sample may have for a class, the usual one first."""
    images = _image_tokens(model, config, sample)
    yield images or dict
    if "decoder_input_ids" in sample:  # a class that makes them of what the encoder reads
        yield lambda sample: {n: x for n, x in sample.items() if n != "decoder_input_ids"}
    if "input_ids" in sample:
        yield _choices
    pixels, frames = sample.get("pixel_values"), config.get("num_frames")
    if isinstance(pixels, Tensor) and isinstance(frames, int):
        yield lambda sample: _video(sample, frames)
    if isinstance(sample.get("input_values"), Tensor):
        yield _channel
    if isinstance(sample.get("input_features"), Tensor):
        yield _upright
        yield (
            lambda sample: (
                _upright(sample)
                | {"input_features": _upright(sample)["input_features"].unsqueeze(1)}
            )
        )


def _choices(sample: Sample) -> Sample:
    """Each text as one of two that are to be chosen from."""
    return {
        name: torch.stack([x, x.flip(0)], dim=1) if name in TEXT else x
        for name, x in sample.items()
    }


def _video(sample: Sample, frames: int) -> Sample:
    """Each picture as the first frame of a video, in which it moves."""
    pixels = sample["pixel_values"]
    still = pixels.reshape(-1, *pixels.shape[-3:])[:2]
    moving = [still.roll(i, dims=-1) for i in range(frames)]
    return {**sample, "pixel_values": torch.stack(moving, dim=1)}


def _channel(sample: Sample) -> Sample:
    """Sounds with an axis for channels, of which they have one, and a mask as long as they are."""
    return {name: x.unsqueeze(1) if name == "input_values" else x for name, x in sample.items()}


def _upright(sample: Sample) -> Sample:
    """Spectra in the order of time, of a length that a class without a fixed one can have."""
    spectra = sample["input_features"].transpose(1, 2)[:, :FRAMES].contiguous()
    return {**sample, "input_features": spectra}


def _image_tokens(model: Any, config: Mapping[str, Any], sample: Sample) -> Form | None:
    """Puts ahead of a text one token for each feature of its picture, where a class wants that."""
    given = [config.get(name) for name in ("image_token_id", "image_token_index")]
    token = next((x for x in given if isinstance(x, int)), None)
    features = getattr(model, "get_image_features", None)
    if token is None or features is None or not {"input_ids", "pixel_values"} <= sample.keys():
        return None
    takes = inspect.signature(features).parameters
    with suppress(Exception), torch.no_grad(), quietly():
        found = features(**{n: x for n, x in sample.items() if n in takes and n not in TEXT})
        found = getattr(found, "pooler_output", found)
        rows = sum(x.numel() // x.shape[-1] for x in tree_leaves(found) if isinstance(x, Tensor))
        count = rows // len(sample["input_ids"])
        return lambda sample: _with_image(sample, token, count)
    return None


def _with_image(sample: Sample, token: int, count: int) -> Sample:
    text = sample["input_ids"]
    if int((text == token).sum()) == count * len(text):  # a processor has put them there
        return sample
    made = dict(sample)
    for name in TEXT:
        if name not in sample:
            continue
        first = torch.full(
            (len(text), count), {"input_ids": token, "attention_mask": 1}.get(name, 0)
        )
        rest = torch.where(text == token, text.flatten()[0], text) if name == "input_ids" else None
        made[name] = torch.cat([first, sample[name] if rest is None else rest], dim=1)
    return made
