"""Samples for a network of diffusers that stands alone: drawn, by argument names and configuration.

Nothing of a single directory says what a prompt looks like when it is encoded, or a picture when
it is half denoised. A whole pipeline does: it is run.
"""

# diffusers is only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from halfsafe.drawn import scene
from halfsafe.frontends.torch.private import tree_map

Sample = dict[str, Any]

PROMPT, FRAMES, GRID = 77, 3, 16
"""Tokens of a prompt, latents of a film, and a side of what is handed over in patches."""

WIDTHS = (
    "encoder_hid_dim", "caption_channels", "text_embed_dim", "text_dim", "cap_feat_dim",
    "joint_attention_dim", "cross_attention_input_dim", "cross_attention_dim",
)  # fmt: skip
"""Settings that give the width of an encoded prompt, from the most telling on."""


class Drawn:
    """Draws the arguments of one network. `made_up` says what of them was."""

    def __init__(self, model: Any, config: Mapping[str, Any], draw: torch.Generator) -> None:
        self.model, self.config, self.draw = model, config, draw
        self.takes = inspect.signature(model.forward).parameters
        self.made_up: list[str] = []
        self.frames, self.masked = self._frames, self._caption

    def sample(self, i: int) -> Sample:
        """One sample: what has a maker, and is required or usual.

        What the configuration does not tell, where frames stand and whether a prompt has a mask, is
        told by what the network runs on.
        """
        if i == 0 and "timestep" in self.takes:
            guess = self.frames, self.masked
            others = itertools.product((None, "CF", "FC"), (self.masked, not self.masked))
            for self.frames, self.masked in dict.fromkeys([guess, *others]):
                if self._runs():
                    break
            else:
                self.frames, self.masked = guess
            self.made_up.clear()
        return self._sample(i)

    def _runs(self) -> bool:
        """Whether the network runs on such a sample."""
        state = self.draw.get_state()
        try:
            with torch.no_grad():
                self.model(**self._sample(0))
        except Exception:  # a class may raise anything at a wrong shape
            return False
        finally:
            self.draw.set_state(state)
        return True

    def _sample(self, i: int) -> Sample:
        known: dict[str, Callable[[int], Any]] = {
            "sample": self._latents,
            "hidden_states": self._latents,
            "timestep": self._timestep,
            "encoder_hidden_states": self._condition,
            "class_labels": self._labels,
            "pooled_projections": self._pooled,
            "added_cond_kwargs": self._added,
            "added_time_ids": lambda _: torch.tensor([[6.0, 127.0, 0.02]]).expand(2, -1),
            "encoder_attention_mask": self._mask,
            "encoder_mask": self._mask,
            "encoder_hidden_states_mask": self._mask,
            "text_embedding_mask": self._mask,
            "encoder_hidden_states_t5": self._second_condition,
            "text_embedding_mask_t5": self._second_mask,
            "image_meta_size": lambda _: torch.tensor([[1024.0] * 4 + [0.0] * 2] * 2),
            "style": lambda _: torch.zeros(2, dtype=torch.int64),
            "image_rotary_emb": self._rotary,
            "img_ids": self._picture_ids,
            "txt_ids": self._text_ids,
            "guidance": self._guidance,
            "proj_embedding": self._embedding,
            "controlnet_cond": self._control,
            "img_shapes": lambda _: [[(1, GRID, GRID)]] * 2,
            "original_size": lambda _: torch.full((2, 2), 1024.0),
            "target_size": lambda _: torch.full((2, 2), 1024.0),
            "crop_coords": lambda _: torch.zeros(2, 2),
            "num_frames": self._number(FRAMES),
            "height": self._number(GRID),
            "width": self._number(GRID),
        }
        found = {name: make(i) for name, make in known.items() if name in self.takes}
        if self.config.get("encoder_hid_dim_type") == "image_proj":
            found["encoder_hidden_states"] = None
        return {
            name: tree_map(_whole, x)
            for name, x in found.items()
            if x is not None or (name == "encoder_hidden_states" and self._needed(name))
        }

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.draw)

    def _needed(self, name: str) -> bool:
        return self.takes[name].default is inspect.Parameter.empty

    def _setting(self, *names: str) -> int | None:
        """The first of some settings that is a whole number, or begins with one."""
        for name in names:
            found = self.config.get(name)
            found = found[0] if isinstance(found, (list, tuple)) and found else found
            if isinstance(found, int) and not isinstance(found, bool):
                return found
        return None

    # Pictures and latents

    def _latents(self, i: int) -> Tensor:
        if "timestep" not in self.takes:  # an autoencoder takes pictures
            return self._seen(i)
        self.made_up.append("latents are drawn, as noise is at the first step")
        channels = self._setting("in_channels", "embedding_dim") or 4
        if "proj_embedding" in self.takes:
            return self._normal(2, channels)
        if self._in_patches:
            return self._normal(2, self._tokens, channels)
        height, width = self._sides
        if _rank(self.model) == 1:
            return self._normal(2, channels, height)
        frames = {None: (channels,), "CF": (channels, FRAMES), "FC": (FRAMES, channels)}
        return self._normal(2, *frames[self.frames], height, width)

    @property
    def _in_patches(self) -> bool:
        """Whether latents are handed over as a row of patches."""
        return bool({"img_ids", "img_shapes", "num_frames"} & self.takes.keys()) and (
            "hidden_states" in self.takes
        )

    @property
    def _tokens(self) -> int:
        return GRID * GRID * (FRAMES if "num_frames" in self.takes else 1)

    @property
    def _sides(self) -> tuple[int, int]:
        size = self.config.get("sample_size") or self.config.get("image_size")
        own = self._setting("sample_height"), self._setting("sample_width")
        if own[0] and own[1] and not self.config.get("use_rotary_positional_embeddings"):
            return own[0], own[1]
        if isinstance(size, int):
            return size, size
        if isinstance(size, (list, tuple)):
            return size[-2], size[-1]
        return (GRID, GRID) if self.frames else (32, 32)

    @property
    def _frames(self) -> Literal["CF", "FC"] | None:
        """Whether latents have frames, behind the channels or ahead of them, as far as it is told:
        patches have three sides, or the first convolution has."""
        patch = self.config.get("patch_size")
        sides = len(patch) if isinstance(patch, (list, tuple)) else 0
        if "added_time_ids" in self.takes:
            return "FC"
        three = sides == 3 or "patch_size_t" in self.config or _rank(self.model) == 3
        return "CF" if three or "sample_frames" in self.config else None

    @property
    def _caption(self) -> bool:
        """Whether a mask of the prompt is usual."""
        return "caption_channels" in self.config

    def _seen(self, i: int) -> Tensor:
        """Two pictures, or films of them, in as many channels as the network takes."""
        height, width = (min(side, 256) for side in self._sides)
        channels = self._setting("in_channels") or 3
        if _rank(self.model) == 1:
            self.made_up.append("sounds are drawn")
            return self._normal(2, self._setting("audio_channels") or channels, 8192) / 4
        rank = _rank(self.model)
        if rank == 3:
            height, width = 64, 64
        scenes = np.stack([scene(2 * i + j, height, width) for j in range(2)])
        pixels = torch.tensor(scenes).permute(0, 3, 1, 2).float() / 127.5 - 1
        pixels = pixels if channels == 3 else pixels[:, :1].expand(-1, channels, -1, -1)
        if rank != 3:
            return pixels
        return torch.stack([pixels.roll(4 * frame, -1) for frame in range(9)], dim=2)

    def _control(self, i: int) -> Tensor:
        """A picture, or latents of one."""
        channels = self._setting("conditioning_channels")
        widths = self.config.get("conditioning_embedding_out_channels")
        if channels is None or not isinstance(widths, (list, tuple)):
            latents = self._latents(i)
            more = self._setting("extra_conditioning_channels") or 0
            axis = 2 if self._in_patches else 1
            shape = [n + more * (k == axis) for k, n in enumerate(latents.shape)]
            return self._normal(*shape)
        height, width = (side * 2 ** (len(widths) - 1) for side in self._sides)
        scenes = np.stack([scene(2 * i + j, height, width) for j in range(2)])
        pixels = torch.tensor(scenes).permute(0, 3, 1, 2).float() / 255
        return pixels[:, :1].expand(-1, channels, -1, -1) if channels != 3 else pixels

    # Prompts

    def _condition(self, i: int) -> Tensor | None:
        width = self._setting(*WIDTHS)
        if "proj_embedding" in self.takes:
            width = self._setting("embedding_dim")
        if width is None or self.config.get("encoder_hid_dim_type") == "image_proj":
            return None
        self.made_up.append("the encoded prompt is drawn")
        return self._normal(2, 1 if "added_time_ids" in self.takes else self._length, width)

    @property
    def _length(self) -> int:
        """Tokens of a prompt; some networks take no other number of them."""
        exact = ("text_len", "num_embeddings", "max_text_seq_length")
        return self._setting(*exact) or PROMPT

    def _mask(self, i: int) -> Tensor | None:
        """Of the second prompt the last third is padding."""
        name = "encoder_attention_mask"
        if name in self.takes and not self._needed(name) and not self.masked:
            return None
        return self._ones(self._length)

    def _ones(self, length: int) -> Tensor:
        seen = torch.ones(2, length, dtype=torch.int64)
        seen[1, 2 * length // 3 :] = 0
        return seen

    def _second_condition(self, i: int) -> Tensor | None:
        width = self._setting("cross_attention_dim_t5")
        return None if width is None else self._normal(2, self._second_length, width)

    @property
    def _second_length(self) -> int:
        return self._setting("text_len_t5") or PROMPT

    def _second_mask(self, i: int) -> Tensor:
        return self._ones(self._second_length)

    def _pooled(self, i: int) -> Tensor | None:
        width = self._setting("pooled_projection_dim")
        return None if width is None else self._normal(2, width)

    def _embedding(self, i: int) -> Tensor | None:
        width = self._setting("embedding_dim")
        return None if width is None else self._normal(2, width)

    # What else is embedded

    def _timestep(self, i: int) -> Tensor:
        steps = torch.tensor([999, 749, 499, 249])[[i % 4, (i + 1) % 4]]
        if {"img_ids", "img_shapes"} & self.takes.keys():  # these multiply it by 1000
            return steps / 1000
        return steps.float() if "image_meta_size" in self.takes else steps

    def _guidance(self, i: int) -> Tensor | None:
        if not self.config.get("guidance_embeds"):
            return None
        return torch.tensor([3.5, 4.5])

    def _labels(self, i: int) -> Tensor | None:
        classes = self._setting("num_class_embeds", "num_embeds_ada_norm")
        if classes is None or self._caption:
            return None
        return torch.tensor([(2 * i) % classes, (2 * i + 1) % classes])

    def _added(self, i: int) -> Sample | None:
        """What is embedded with the time, by its kind."""
        kind = self.config.get("addition_embed_type") or ""
        prompt = self._setting("encoder_hid_dim", "cross_attention_dim") or 1
        found: Sample = {}
        if kind == "text_time":
            found["time_ids"] = torch.tensor([[1024.0, 1024, 0, 0, 1024, 1024]]).expand(2, -1)
            whole = self._setting("projection_class_embeddings_input_dim") or 0
            each = self._setting("addition_time_embed_dim") or 0
            found["text_embeds"] = self._normal(2, whole - 6 * each)
        if kind == "text_image":
            found["text_embeds"] = self._normal(2, self._setting("cross_attention_dim") or prompt)
        if kind.startswith(("image", "text_image")) or "image" in str(
            self.config.get("encoder_hid_dim_type")
        ):
            found["image_embeds"] = self._normal(2, prompt)
        if kind == "image_hint":
            found["hint"] = self._normal(2, 3, *(8 * side for side in self._sides))
        if getattr(self.model, "use_additional_conditions", False):
            found["resolution"] = torch.full((2, 2), 1024.0)
            found["aspect_ratio"] = torch.ones(2, 1)
        if found:
            self.made_up.append("what is embedded with the time is drawn")
        return found or None

    def _picture_ids(self, i: int) -> Tensor:
        """The place of each patch: (tokens, axes), the last two of them row and column."""
        axes = len(self.config.get("axes_dims_rope") or (0, 0, 0))
        ids = torch.zeros(GRID, GRID, axes)
        last = axes - 1 if axes <= 3 else 2
        ids[..., last - 1] += torch.arange(GRID)[:, None]
        ids[..., last] += torch.arange(GRID)
        return ids.reshape(GRID * GRID, axes)

    def _text_ids(self, i: int) -> Tensor:
        return torch.zeros(self._length, len(self.config.get("axes_dims_rope") or (0, 0, 0)))

    def _rotary(self, i: int) -> Any:
        """Cosines and sines of the places of patches, of a network that needs them as real ones."""
        heads = self._setting("num_attention_heads")
        if heads is None or "cross_attention_dim_t5" not in self.config:
            return None
        head = (self._setting("hidden_size") or 0) // heads
        side = self._sides[0] // (self._setting("patch_size") or 1)
        angles = torch.arange(side * side)[:, None] / 100 ** (torch.arange(head) / head)
        return angles.cos(), angles.sin()

    def _number(self, number: int) -> Callable[[int], int | None]:
        return lambda _: number if "num_frames" in self.takes and self._in_patches else None


def _whole(x: Any) -> Any:
    """A tensor with its entries one after the other."""
    return x.contiguous() if isinstance(x, Tensor) else x


def _rank(model: nn.Module) -> int:
    """How many sides that has over which the first convolution goes; 0 without one."""
    weights = (getattr(part, "weight", None) for part in model.modules()
               if hasattr(part, "kernel_size"))  # fmt: skip
    return next((x.ndim - 2 for x in weights if isinstance(x, Tensor)), 0)
