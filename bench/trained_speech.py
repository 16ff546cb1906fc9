"""Spoken sentences and their spectra, for bench/trained.py: eSpeak NG reads them out.

The library is a file of the package espeakng-loader, which is not imported.
"""

# pyright: basic

from __future__ import annotations

import ctypes
import tempfile
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from scipy import signal

from bench import judge

Array = np.ndarray[Any, Any]
RATE = 16_000

WAKING = ("Alexa.", "Hey Jarvis.", "Hey Marvin.", "Hey Mycroft.",
          "Set a timer for ten minutes.", "What is the weather like today?",
          "Alexa, what time is it?", "Hey Jarvis, turn on the lights.")  # fmt: skip
SENTENCES = (
    "Please remind me to buy bread tomorrow.", "The train to London leaves at nine.",
    "Half precision has eleven bits.", "Can you open the window?",
    "The quick brown fox jumps over the lazy dog.", "My phone number is five five five.",
    "She sells sea shells by the sea shore.", "It will rain in the afternoon, and then",
)  # fmt: skip
VOICES = ("en-us", "en-gb", "en-gb-scotland", "en-029", "en-gb-x-rp")

Heard = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


@cache
def said_by(voice: str, text: str) -> tuple[Array, int]:
    """What a voice says, and its rate.

    Each time by a copy of the library, since one goes on from where it was.
    """
    spec = find_spec("espeakng_loader")
    assert spec is not None and spec.submodule_search_locations
    root = Path(spec.submodule_search_locations[0])
    said: list[Array] = []

    def hear(samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            said.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    synchronous, utf8, raw, heard = 2, 1, text.encode(), Heard(hear)
    with tempfile.NamedTemporaryFile(suffix=".so") as copied:
        copied.write((root / "libespeak-ng.so.1").read_bytes())
        copied.flush()
        speaks = ctypes.CDLL(copied.name)
    rate = speaks.espeak_Initialize(synchronous, 0, str(root).encode(), 0)
    speaks.espeak_SetSynthCallback(heard)
    speaks.espeak_SetVoiceByName(voice.encode())
    ctypes.CDLL(None).srand(1)
    speaks.espeak_Synth(raw, len(raw) + 1, 0, 0, 0, utf8, None, None)
    speaks.espeak_Synchronize()
    speaks.espeak_Terminate()
    return np.concatenate(said).astype(np.float64), rate


def spoken(text: str, seed: int = 0, rate: int = RATE) -> Array:
    """A sentence between two short pauses; the seed chooses voice, loudness and noise."""
    audio, own = said_by(VOICES[seed % len(VOICES)], text)
    audio = signal.resample_poly(audio, rate, own)
    rng = np.random.default_rng(seed)
    audio *= rng.uniform(0.2, 0.7) / np.abs(audio).max()
    audio = np.pad(audio, (int(0.2 * rate), int(0.3 * rate)))
    return (audio + 1e-3 * rng.standard_normal(len(audio))).astype(np.float32)


def sentence(seed: int) -> Array:
    return spoken(SENTENCES[seed % len(SENTENCES)], seed)


def frames(audio: Array, size: int, hop: int) -> Array:
    """Powers of short spectra, [frames, size / 2 + 1]."""
    cut = np.lib.stride_tricks.sliding_window_view(np.pad(audio, size // 2), size)[::hop]
    return np.abs(np.fft.rfft(cut * signal.get_window("hann", size))) ** 2


def mel(power: Array, bands: int, rate: int = RATE) -> Array:
    """In bands of Slaney's mel scale, [frames, bands]."""
    from transformers.audio_utils import mel_filter_bank

    bank = mel_filter_bank(
        power.shape[-1], bands, 0.0, rate / 2, rate, norm="slaney", mel_scale="slaney"
    )
    return (power @ bank).astype(np.float32)


def whisper_features(audio: Array, seconds: int, normalise: bool = False) -> Array:
    """[1, 80, 100 x seconds], as Whisper hears."""
    from transformers import WhisperFeatureExtractor

    hears = WhisperFeatureExtractor(feature_size=80, chunk_length=seconds)
    found = hears(
        audio[-seconds * RATE :], sampling_rate=RATE, return_tensors="np", do_normalize=normalise
    )
    return np.asarray(found["input_features"], np.float32)


# Wake words, of openWakeWord's files


def waking(seed: int) -> Array:
    """A call, and silence before it."""
    audio = spoken(WAKING[seed % len(WAKING)], seed)
    return np.pad(audio, (max(0, 2 * RATE - len(audio)) + 8000, 0))


def heard_mel(folder: Path, seed: int) -> dict[str, Array]:
    """What the first of the three networks reads: 16-bit audio."""
    return {"input": np.round(waking(seed) * 32767)[None].astype(np.float32)}


@cache
def _session(path: str) -> Any:
    return judge.session(path)


def heard_windows(folder: Path, seed: int) -> dict[str, Array]:
    """What the second one reads: windows of 76 frames, 8 apart, of the mel spectrum."""
    feeds = heard_mel(folder, seed)
    spectrum = _session(str(folder / "melspectrogram.onnx")).run(None, feeds)[0]
    spectrum = spectrum.reshape(-1, 32) / 10 + 2
    starts = range(0, len(spectrum) - 76, 8)
    return {"input_1": np.stack([spectrum[i : i + 76, :, None] for i in starts])}


def heard_word(folder: Path, name: str, count: int, seed: int) -> dict[str, Array]:
    """What a word's network reads: the last embeddings of windows."""
    feeds = heard_windows(folder, seed)
    found = _session(str(folder / "embedding_model.onnx")).run(None, feeds)[0].reshape(-1, 96)
    return {name: np.pad(found, ((max(0, count - len(found)), 0), (0, 0)))[None, -count:]}


# Whisper


def whispered(seed: int) -> dict[str, Array]:
    return {"input_features": whisper_features(sentence(seed), 8, normalise=True)}


said_again = partial(whisper_features, seconds=30)
