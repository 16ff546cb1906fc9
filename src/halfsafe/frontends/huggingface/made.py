"""Samples for a network of which a directory has a tokenizer or a processor, or nothing at all.

Each sample is a batch of two, one of them shorter and padded where there is text. Without what
reads texts, pictures or sounds, entries are drawn: then ranges are made up, and notes say so.
"""

# transformers is optional, and only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingImports=false, reportMissingTypeStubs=false

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from halfsafe.drawn import scene, sounds
from halfsafe.errors import BadInput, first_line
from halfsafe.frontends.huggingface.denoising import Drawn
from halfsafe.frontends.huggingface.fitting import in_the_form_that_runs
from halfsafe.frontends.huggingface.folder import Network
from halfsafe.frontends.huggingface.generation import said_by
from halfsafe.frontends.huggingface.network import config_of, quietly
from halfsafe.samples import Made

COUNT = 4
"""Samples; the last is kept out of measuring."""

TOKENS, ANSWER = 48, 16
"""Length of a text, and of what a decoder has said so far."""

BYTES = 256

BINS = ("num_mel_bins", "input_feat_per_channel", "feature_projection_input_dim")
"""What configurations call the height of a spectrum."""

TEXTS = (
    "The quick brown fox jumps over the lazy dog, and then it sleeps until noon.",
    "In 1969 people first walked on the moon; 384,400 km away, half a billion watched.",
    "def area(r):\n    return 3.14159 * r ** 2  # of a circle",
    "Hello! How are you today?",
    "translate English to German: The house at the end of the street is very old.",
    "Die Brücke über den Fluss wurde im Jahr 1887 gebaut und seitdem dreimal erneuert.",
    "A photo of a small red boat on a calm lake at sunrise, mountains behind it.",
    "Question: what weighs more, a kilogram of iron or a kilogram of feathers? Answer: neither.",
)  # fmt: skip

Sample = dict[str, Any]


def made_samples(network: Network, model: Any, raw: Sequence[Any] = ()) -> Made:
    """Samples of what forward() takes, of a user's texts or pictures if there are some.

    Raises BadInput for an argument that nobody can make, and for texts or pictures that nothing of
    the directory reads.
    """
    torch_seed = torch.Generator().manual_seed(0)
    maker = _Maker(network, model, config_of(model), torch_seed, raw)
    count = (len(raw) + 1) // 2 or COUNT
    made = [maker.sample(i) for i in range(count)]
    if network.library == "transformers":
        made = in_the_form_that_runs(model, maker.config, made)
    if raw and not maker.has_read:
        kind = "texts" if isinstance(raw[0], str) else "pictures"
        raise BadInput(f"nothing in '{network.path}' reads {kind} for {network.kind}.forward()")
    return Made(made, list(dict.fromkeys(maker.made_up)))


def is_raw(samples: Any) -> bool:
    """Whether samples are texts or pictures, which a tokenizer or processor has to read first."""
    if not isinstance(samples, Sequence) or isinstance(samples, (str, tuple)) or not samples:
        return False
    return isinstance(samples[0], str) or hasattr(samples[0], "getpixel")


class _Maker:
    """Makes the arguments of one network, by their names."""

    def __init__(
        self,
        network: Network,
        model: Any,
        config: Mapping[str, Any],
        draw: torch.Generator,
        raw: Sequence[Any],
    ) -> None:
        self.texts = raw if raw and isinstance(raw[0], str) else ()
        self.pictures = () if self.texts else raw
        self.has_read = False
        self.network, self.model, self.config, self.draw = network, model, config, draw
        self.drawn = Drawn(model, config, draw)
        self.made_up = self.drawn.made_up
        self.made: Sample = {}
        self.said: Tensor | None = None
        self.takes = inspect.signature(model.forward).parameters
        self.reads = _readers(network)

    def sample(self, i: int) -> Sample:
        """One sample: what has a maker, and is required or usual."""
        known: dict[str, Callable[[int], Sample]] = {
            "input_ids": self._text,
            "pixel_values": self._picture,
            "input_features": self._features,
            "input_values": self._sound,
            "decoder_input_ids": self._answer,
            "past_values": self._series,
        }
        self.made = made = Sample()
        if self.network.library == "diffusers":
            made.update(self.drawn.sample(i))
            known = {}
        for name, make in known.items():
            if name in self.takes and name not in made:
                made.update(make(i))
        required = [n for n, p in self.takes.items() if p.default is p.empty and _is_named(p)]
        missing = [name for name in required if name not in made]
        if missing or not made:
            raise BadInput(
                f"nothing is known of '{(missing or [self.network.kind])[0]}', which "
                f"{self.network.kind}.forward() takes: pass --samples"
            )
        if "use_cache" in self.takes:  # the cache has the values that the network computes anyway
            made["use_cache"] = False
        return made

    # Texts

    def _text(self, i: int) -> Sample:
        tokenizer = self.reads.get("tokenizer")
        length = min(TOKENS, *self._positions())
        if tokenizer is None:
            self.made_up.append("tokens are drawn, since the directory has no tokenizer")
            return self._drawn_tokens("input_ids", "attention_mask", length)
        if self.texts:
            self.has_read = True
            longest = max(len(ids) for ids in tokenizer(list(self.texts))["input_ids"])
            length = min(longest, *self._positions(longest))
        return self._tokens(tokenizer, _pair(self.texts or TEXTS, i), length)

    def _tokens(self, tokenizer: Any, texts: list[str], length: int) -> Sample:
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        read = tokenizer(
            texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        return {name: x for name, x in read.items() if name in self.takes}

    def _drawn_tokens(self, ids: str, mask: str, length: int) -> Sample:
        size = self._vocabulary()
        drawn = torch.randint(min(4, size - 1), size, (2, length), generator=self.draw)
        text = self._text_part()
        last = text.get("eos_token_id")
        seen = torch.ones(2, length, dtype=torch.int64)
        seen[1, 2 * length // 3 :] = 0
        if isinstance(last, int) and last < size:
            drawn[0, -1] = drawn[1, 2 * length // 3 - 1] = last
        pad = text.get("pad_token_id")
        if isinstance(pad, int) and 0 <= pad < size:
            drawn = torch.where(seen.bool(), drawn, pad)
        return {ids: drawn} | ({mask: seen} if mask in self.takes else {})

    def _vocabulary(self) -> int:
        """How many tokens there are; those of bytes, where they are in no table."""
        if isinstance(size := self._text_part().get("vocab_size"), int):
            return size
        with suppress(NotImplementedError, AttributeError):
            return self.model.get_input_embeddings().num_embeddings
        return BYTES

    def _text_part(self) -> Mapping[str, Any]:
        return self._part("vocab_size", "text_config", "decoder")

    def _part(self, key: str, *usual: str) -> Mapping[str, Any]:
        """The part of the configuration that has a key: a usual one, itself, or any other."""
        named = [part for name in usual if isinstance(part := self.config.get(name), dict)]
        parts = [x for x in self.config.values() if isinstance(x, dict)]
        known = (part for part in (*named, self.config, *parts) if part.get(key) is not None)
        return next(known, named[0] if named else self.config)

    def _answer(self, i: int) -> Sample:
        """What a decoder has said so far: the network's own words, or, if it says none, tokens."""
        if not self.config.get("is_encoder_decoder"):
            return {}
        length = min(ANSWER, *self._positions())
        if i == 0:  # a step of a large network takes seconds
            self.said = said_by(self.model, self.made, length)
        if self.said is not None:
            return {"decoder_input_ids": self.said.roll(i, dims=1) if i else self.said}
        start = self.config.get("decoder_start_token_id")
        self.made_up.append("what the decoder has said is drawn")
        found = self._drawn_tokens("ids", "", length)["ids"]
        if isinstance(start, int):
            found = torch.cat([torch.full_like(found[:, :1], start), found[:, :-1]], dim=1)
        return {"decoder_input_ids": found}

    def _positions(self, otherwise: int = TOKENS) -> list[int]:
        """The most positions there are, where the configuration says it."""
        text = self._text_part()
        names = ("max_position_embeddings", "n_positions", "max_target_positions")
        found = [text[n] for n in names if isinstance(text.get(n), int) and text[n] > 2]
        return [min(found) - 2 if found else otherwise]  # some count from behind a padding index

    # Pictures

    def _picture(self, i: int) -> Sample:
        processor = self.reads.get("image_processor")
        if processor is not None:
            self.has_read |= bool(self.pictures)
            seen = _pair(self.pictures, i) if self.pictures else [scene(2 * i), scene(2 * i + 1)]
            read = processor(images=seen, return_tensors="pt")
            return {name: x for name, x in read.items() if name in self.takes}
        part = self._part("image_size", "vision_config")
        channels = part.get("num_channels", 3)
        size = part.get("image_size", 224)
        height, width = (size, size) if isinstance(size, int) else size
        self.made_up.append("pictures are scaled to -1 to 1, since the directory has no processor")
        scenes = [scene(2 * i + j, height, width) for j in range(2)]
        pixels = torch.tensor(np.stack(scenes)).permute(0, 3, 1, 2).float() / 127.5 - 1
        return {"pixel_values": pixels[:, :1].expand(-1, channels, -1, -1) if channels != 3
                else pixels}  # fmt: skip

    # Sounds

    def _features(self, i: int) -> Sample:
        extractor = self.reads.get("feature_extractor")
        if extractor is not None:
            rate = extractor.sampling_rate
            read = extractor(sounds(i, rate), sampling_rate=rate, return_tensors="pt")
            return {name: x for name, x in read.items() if name in self.takes}
        self.made_up.append("spectra are drawn, since the directory has no feature extractor")
        part = next((p for name in BINS if name in (p := self._part(name))), self.config)
        bins = next((part[name] for name in BINS if name in part), 80)
        frames = 2 * self.config.get("max_source_positions", 1500)
        return {"input_features": torch.randn(2, bins, frames, generator=self.draw)}

    def _sound(self, i: int) -> Sample:
        extractor = self.reads.get("feature_extractor")
        bins, frames = self.config.get("num_mel_bins"), self.config.get("max_length")
        if extractor is None and isinstance(bins, int) and isinstance(frames, int):
            self.made_up.append("spectra are drawn, since the directory has no feature extractor")
            return {"input_values": torch.randn(2, frames, bins, generator=self.draw)}
        rate = 16_000 if extractor is None else extractor.sampling_rate
        heard = sounds(i, rate)
        if extractor is not None:
            read = extractor(heard, sampling_rate=rate, return_tensors="pt", padding=True)
            return {name: x for name, x in read.items() if name in self.takes}
        return {"input_values": torch.tensor(np.stack(heard))}

    # Series

    def _series(self, i: int) -> Sample:
        length, channels = (self.config.get(n) for n in ("context_length", "num_input_channels"))
        if not isinstance(length, int) or not isinstance(channels, int):
            return {}
        self.made_up.append("time series are drawn, as random walks")
        return {"past_values": torch.randn(2, length, channels, generator=self.draw).cumsum(1)}


def _pair(of: Sequence[Any], i: int) -> list[Any]:
    """The two that sample number i is made of."""
    return [of[2 * i % len(of)], of[(2 * i + 1) % len(of)]]


def _is_named(parameter: inspect.Parameter) -> bool:
    return parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)


def _readers(network: Network) -> Mapping[str, Any]:
    """What of the directory reads texts, pictures and sounds."""
    if network.library != "transformers":
        return {}
    import transformers

    path = network.path
    tokenizer = path
    if not _has(path, "tokenizer") and _has(path.parent / _beside(network.name), "tokenizer"):
        tokenizer = path.parent / _beside(network.name)
    found: dict[str, Any] = {}
    with quietly():
        if _has(tokenizer, "tokenizer"):
            found["tokenizer"] = _loaded(transformers.AutoTokenizer, tokenizer)
        if (path / "preprocessor_config.json").is_file() or _has(path, "processor_config"):
            for name, kind in (
                ("feature_extractor", transformers.AutoFeatureExtractor),
                ("image_processor", transformers.AutoImageProcessor),
            ):
                found[name] = _loaded(kind, path)
    return {name: reader for name, reader in found.items() if reader is not None}


def _beside(name: str) -> str:
    """Where a pipeline has the tokenizer of a text encoder: ``tokenizer_2`` of text_encoder_2."""
    return name.replace("text_encoder", "tokenizer") if name else "."


def _has(path: Any, stem: str) -> bool:
    return any(path.glob(f"{stem}*")) if path.is_dir() else False


def _loaded(kind: Any, path: Any) -> Any:
    """A reader, None where the directory has no such one."""
    try:
        return kind.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        if kind.__name__ == "AutoTokenizer":
            raise BadInput(f"cannot read the tokenizer in '{path}': {first_line(error)}") from error
        return None


def without_cache(model: nn.Module, sample: Mapping[str, Any]) -> dict[str, Any]:
    """A user's sample as tensors, with no cache asked for where the class would make one."""
    takes = inspect.signature(model.forward).parameters
    given = {"use_cache": False} if "use_cache" in takes else {}
    made = {n: torch.as_tensor(x) if isinstance(x, np.ndarray) else x for n, x in sample.items()}
    return {**given, **made}
