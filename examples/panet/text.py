"""Synthetic text pictures with ground truth, rendered with Pillow.

`render` makes the training and held-out pictures, `page` one larger shop-front scene whose
drawing code the training pictures never use. Ground truth is given at 1/4 resolution.
"""

from __future__ import annotations

import importlib.util
import math
import random
import string
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont

STRIDE = 4
"""Pixels of the picture per cell of the ground-truth maps."""

SHRINK = 0.55
"""PAN's shrink ratio between the text region and its kernel."""

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

Colour = tuple[int, int, int]
Point = tuple[float, float]

VOCABULARY = tuple(
    "the and of to in for with from north south east west street road hotel bank market "
    "station library museum exit enter closed today garden music school office police river "
    "bridge island window silver orange yellow purple number seven twelve water paper stone "
    "winter summer spring people travel photo video radio phone letter world energy power "
    "quality special original natural premium classic studio design fashion beauty health "
    "pharmacy dentist lawyer repair service parking ticket airport taxi train harbour".split()
)


@dataclass(frozen=True)
class Word:
    """One word's tight rectangle: centre, size in pixels, angle in degrees (anticlockwise)."""

    text: str
    x: float
    y: float
    width: float
    height: float
    angle: float

    def quad(self, margin: float = 0.0) -> list[Point]:
        """The four corners in pixels, each side moved outward by the margin."""
        a, b = self.width / 2 + margin, self.height / 2 + margin
        turn = math.radians(self.angle)
        cos, sin = math.cos(turn), math.sin(turn)
        return [
            (self.x + u * cos + v * sin, self.y - u * sin + v * cos)
            for u, v in ((-a, -b), (a, -b), (a, b), (-a, b))
        ]

    def kernel(self) -> list[Point]:
        """The corners shrunken by PAN's offset, area * (1 - ratio^2) / perimeter."""
        area, perimeter = self.width * self.height, 2 * (self.width + self.height)
        offset = area * (1 - SHRINK**2) / perimeter
        room = (min(self.width, self.height) - 1.25 * STRIDE) / 2
        return self.quad(-max(0.0, min(offset, room)))


@dataclass(frozen=True)
class Sample:
    """A picture with its words and ground truth; the maps are [H/4, W/4]."""

    image: Image.Image
    words: tuple[Word, ...]
    region: np.ndarray
    """bool: inside a word's rectangle."""
    kernel: np.ndarray
    """bool: inside a word's shrunken rectangle."""
    labels: np.ndarray
    """int64: 0 outside words, else 1 + the word's index."""


def normalise(image: Image.Image) -> torch.Tensor:
    """RGB picture -> float tensor [1, 3, H, W], ImageNet mean and deviation removed."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255.0
    scaled = (pixels - np.float32(MEAN)) / np.float32(STD)
    return torch.from_numpy(scaled.transpose(2, 0, 1).copy())[None]


# Fonts ------------------------------------------------------------------------------------


BUILT_IN: tuple[Path | None, ...] = (None,)
"""Pillow's own font alone, the same wherever Pillow is."""


@lru_cache(maxsize=1)
def all_fonts() -> tuple[Path | None, ...]:
    """Font files to choose from, those of matplotlib where it is installed."""
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or spec.origin is None:
        return BUILT_IN
    folder = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"
    files = sorted(p for p in folder.glob("DejaVu*.ttf") if "Display" not in p.name)
    return (*BUILT_IN, *files)


@lru_cache(maxsize=1024)
def _font(file: Path | None, size: int) -> ImageFont.FreeTypeFont:
    """The font at a size in pixels."""
    font = ImageFont.load_default(size) if file is None else ImageFont.truetype(str(file), size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow was built without FreeType; scalable fonts are needed")
    return font


# Words on a canvas ------------------------------------------------------------------------


def _cover(quad: list[Point], size: tuple[int, int]) -> np.ndarray:
    """Fraction of every cell inside the quadrilateral: float [H/4, W/4] for size (W, H)."""
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).polygon(quad, fill=255)
    return np.asarray(mask.reduce(STRIDE), dtype=np.float32) / 255.0


@dataclass(frozen=True)
class Stamp:
    """A word as an ink mask, already rotated, and the word's rectangle about the origin."""

    mask: Image.Image
    word: Word


def _stamp(text: str, font: ImageFont.FreeTypeFont, bold: float, angle: float) -> Stamp:
    """Draw the word's ink; bold is the stroke width in pixels."""
    left, top, right, bottom = font.getbbox(text, stroke_width=bold)
    width, height = math.ceil(right - left), math.ceil(bottom - top)
    mask = Image.new("L", (width + 4, height + 4))
    draw = ImageDraw.Draw(mask)
    draw.text((2 - left, 2 - top), text, fill=255, font=font, stroke_width=bold)
    if angle:
        mask = mask.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    pad = 2 + 0.08 * height
    return Stamp(mask, Word(text, 0.0, 0.0, width + pad, height + pad, angle))


class _Canvas:
    """A picture under construction and the words written on it."""

    def __init__(self, image: Image.Image) -> None:
        self.image = image
        self.draw = ImageDraw.Draw(image)
        self.words: list[Word] = []
        self.labels = np.zeros((image.height // STRIDE, image.width // STRIDE), np.int64)

    def free(self, word: Word) -> bool:
        """Whether the word's rectangle, with a small margin, touches no other word."""
        margin = 2 + 0.12 * word.height
        return not self.labels[_cover(word.quad(margin), self.image.size) > 0].any()

    def write(self, stamp: Stamp, at: Point, fill: Colour, shadow: Colour | None = None) -> None:
        """Paste the stamp with its centre at a point and record the word."""
        x, y = at
        corner = (round(x - stamp.mask.width / 2), round(y - stamp.mask.height / 2))
        if shadow is not None:
            step = max(1, round(stamp.word.height / 20))
            self.image.paste(shadow, (corner[0] + step, corner[1] + step), stamp.mask)
        self.image.paste(fill, corner, stamp.mask)
        word = replace(stamp.word, x=x, y=y)
        self.words.append(word)
        self.labels[_cover(word.quad(), self.image.size) >= 0.5] = len(self.words)

    def sample(self, image: Image.Image | None = None) -> Sample:
        """The picture (or a post-processed version of it) with its ground truth."""
        kernel = np.zeros(self.labels.shape, bool)
        for word in self.words:
            kernel |= _cover(word.kernel(), self.image.size) >= 0.5
        region = self.labels > 0
        picture = self.image if image is None else image
        return Sample(picture, tuple(self.words), region, kernel & region, self.labels)


# Random pictures --------------------------------------------------------------------------


def _colour(rng: random.Random) -> Colour:
    """Any colour."""
    return rng.randrange(256), rng.randrange(256), rng.randrange(256)


def _gradient(rng: random.Random, width: int, height: int) -> np.ndarray:
    """Linear blend of two colours in a random direction: float [H, W, 3]."""
    turn = rng.uniform(0, 2 * math.pi)
    y, x = np.mgrid[0:height, 0:width]
    ramp = x * math.cos(turn) + y * math.sin(turn)
    ramp = (ramp - ramp.min()) / (ramp.max() - ramp.min())
    first, second = np.array(_colour(rng)), np.array(_colour(rng))
    return first + ramp[..., None] * (second - first)


def _clouds(rng: random.Random, width: int, height: int) -> np.ndarray:
    """Smooth or coarse random texture about one colour: float [H, W, 3]."""
    cells = rng.choice((4, 8, 16, 32, 64))
    noise = np.random.default_rng(rng.getrandbits(32)).integers(0, 256, (cells, cells, 3))
    how = rng.choice((Image.Resampling.BICUBIC, Image.Resampling.NEAREST))
    texture = Image.fromarray(noise.astype(np.uint8)).resize((width, height), how)
    mix = rng.uniform(0.1, 0.6)
    return mix * np.asarray(texture, np.float32) + (1 - mix) * np.array(_colour(rng))


def _background(rng: random.Random, width: int, height: int) -> Image.Image:
    """A gradient, a texture or a plain colour, as the lowest layer of a picture."""
    kind = rng.random()
    if kind < 0.4:
        pixels = _gradient(rng, width, height)
    elif kind < 0.8:
        pixels = _clouds(rng, width, height)
    else:
        pixels = np.full((height, width, 3), _colour(rng), np.float32)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _box(rng: random.Random, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """A random axis-aligned box (left, top, right, bottom) that may leave the picture."""
    width, height = rng.uniform(6, size[0] * 0.7), rng.uniform(6, size[1] * 0.7)
    x, y = rng.uniform(-width / 2, size[0]), rng.uniform(-height / 2, size[1])
    return x, y, x + width, y + height


def _shape(rng: random.Random, draw: ImageDraw.ImageDraw, size: tuple[int, int]) -> None:
    """One block, ellipse, polygon, line or arc."""
    box, fill = _box(rng, size), _colour(rng)
    outline = _colour(rng) if rng.random() < 0.5 else None
    line = rng.randint(1, 6)
    kind = rng.randrange(6)
    if kind == 0:
        draw.rectangle(box, fill, outline, line)
    elif kind == 1:
        radius = min(5.0, (box[2] - box[0]) / 3, (box[3] - box[1]) / 3)
        draw.rounded_rectangle(box, radius, fill if rng.random() < 0.6 else None, outline, line)
    elif kind == 2:
        draw.ellipse(box, fill if rng.random() < 0.6 else None, fill, line)
    elif kind == 3:
        corners = [(rng.uniform(box[0], box[2]), rng.uniform(box[1], box[3])) for _ in range(4)]
        draw.polygon(corners, fill, outline)
    elif kind == 4:
        draw.line(box, fill, line)
    else:
        draw.arc(box, rng.uniform(0, 360), rng.uniform(0, 360), fill, line)


def _pattern(rng: random.Random, draw: ImageDraw.ImageDraw, size: tuple[int, int]) -> None:
    """Stripes, a grid of boxes or a row of strokes: regular clutter that is not text."""
    left, top, right, bottom = _box(rng, size)
    pitch, line, fill = rng.uniform(4, 28), rng.randint(1, 5), _colour(rng)
    other = _colour(rng)
    kind = rng.randrange(4)
    columns = np.arange(left, right, pitch)
    if kind == 0:
        lean = rng.uniform(-20, 20)
        for x in columns:
            draw.line((x, top, x + lean, bottom), fill, line)
    elif kind == 1:
        for y in np.arange(top, bottom, pitch):
            draw.line((left, y, right, y), fill, line)
    elif kind == 2:
        tall = pitch * rng.uniform(0.4, 1.5)
        gap = rng.choice((0.0, rng.uniform(0.1, 0.5)))
        for row, y in enumerate(np.arange(top, bottom, tall)):
            for x in columns + (row % 2) * pitch / 2 * (rng.random() < 0.8):
                edges = (x, y, x + pitch * (1 - gap), y + tall * (1 - gap))
                draw.rectangle(edges, fill, other)
    else:
        dot = pitch * rng.uniform(0.2, 0.45)
        for y in np.arange(top, bottom, pitch):
            for x in columns:
                draw.ellipse((x - dot, y - dot, x + dot, y + dot), fill)


def _clutter(rng: random.Random, canvas: _Canvas) -> None:
    """Distractors below the words."""
    for _ in range(rng.choice((0, 2, 4, 8, 14))):
        paint = _pattern if rng.random() < 0.3 else _shape
        paint(rng, canvas.draw, canvas.image.size)


def _random_text(rng: random.Random) -> str:
    """A vocabulary word, a random letter string, or a number."""
    kind = rng.random()
    if kind < 0.6:
        text = rng.choice(VOCABULARY)
    elif kind < 0.85:
        text = "".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 9)))
    else:
        text = "".join(rng.choices(string.digits + ".:%&-", k=rng.randint(2, 6)))
        text = rng.choice(string.digits) + text
    return rng.choice((str.lower, str.upper, str.upper, str.capitalize))(text)


def _random_stamp(rng: random.Random, fonts: tuple[Path | None, ...]) -> Stamp:
    """A word in a random font, size (12 to 76 pixels), weight and mild rotation."""
    size = round(12 * math.exp(rng.random() ** 1.3 * math.log(76 / 12)))
    font = _font(rng.choice(fonts), size)
    bold = rng.choice((0, 0, 0, size / 40, size / 24))
    angle = rng.uniform(-20, 20) if rng.random() < 0.5 else 0.0
    return _stamp(_random_text(rng), font, bold, angle)


def _contrasting(rng: random.Random, patch: np.ndarray) -> Colour:
    """A colour that stands out from the patch, uint8 [h, w, 3]."""
    weights = np.array((0.299, 0.587, 0.114))
    luminance = patch.reshape(-1, 3) @ weights
    mean, need = luminance.mean(), 45 + luminance.std()
    for _ in range(20):
        colour = _colour(rng)
        if abs(np.dot(colour, weights) - mean) > need:
            return colour
    return (12, 12, 12) if mean > 128 else (245, 245, 245)


def _place(rng: random.Random, canvas: _Canvas, fonts: tuple[Path | None, ...]) -> None:
    """Write one random word where there is room; give up after a few attempts."""
    stamp = _random_stamp(rng, fonts)
    width, height = canvas.image.size
    inset = 0.0 if rng.random() < 0.15 else 0.5
    reach = (stamp.mask.width * inset, stamp.mask.height * inset)
    for _ in range(6):
        x = rng.uniform(min(reach[0], width / 2), max(width - reach[0], width / 2))
        y = rng.uniform(min(reach[1], height / 2), max(height - reach[1], height / 2))
        word = replace(stamp.word, x=x, y=y)
        if canvas.free(word):
            break
    else:
        return
    if rng.random() < 0.2:
        canvas.draw.polygon(word.quad(1 + rng.uniform(0.05, 0.3) * word.height), _colour(rng))
    xs, ys = zip(*word.quad(), strict=True)
    box = (max(0, min(xs)), max(0, min(ys)), min(width, max(xs)), min(height, max(ys)))
    patch = np.asarray(canvas.image.crop(tuple(round(v) for v in box)))
    fill = _contrasting(rng, patch)
    shadow = _colour(rng) if rng.random() < 0.12 else None
    canvas.write(stamp, (x, y), fill, shadow)


def _camera(rng: random.Random, image: Image.Image) -> Image.Image:
    """Slight blur, exposure change and sensor noise."""
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.1)))
    pixels = np.asarray(image, np.float32)
    noise = np.random.default_rng(rng.getrandbits(32)).standard_normal(pixels.shape, np.float32)
    pixels = (pixels - 128) * rng.uniform(0.7, 1.1) + 128 + rng.uniform(-25, 25)
    pixels = pixels + noise * rng.choice((0, 2, 5, 12))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def render(
    seed: int, width: int = 192, height: int = 192, fonts: tuple[Path | None, ...] = BUILT_IN
) -> Sample:
    """One random picture with 0 to 14 words; the same seed and fonts give the same picture."""
    rng = random.Random(seed)
    canvas = _Canvas(_background(rng, width, height))
    _clutter(rng, canvas)
    for _ in range(rng.choice((0, 1, 3, 6, 10, 14))):
        _place(rng, canvas, fonts)
    return canvas.sample(_camera(rng, canvas.image))


# A street scene -----------------------------------------------------------------------------

SIGNS: tuple[tuple[str, int, Point, float, Colour, Colour | None], ...] = (
    ("BAKERY", 52, (150, 96), 0.0, (250, 240, 220), (120, 40, 30)),
    ("open daily", 22, (150, 146), 0.0, (120, 40, 30), (245, 230, 200)),
    ("Books", 44, (470, 92), -6.0, (20, 40, 80), (235, 235, 225)),
    ("24", 40, (596, 60), 0.0, (255, 255, 255), (30, 120, 60)),
    ("COFFEE", 34, (318, 178), 4.0, (255, 220, 120), (40, 30, 30)),
    ("Fresh bread", 26, (110, 262), 0.0, (70, 40, 20), None),
    ("SALE", 60, (360, 282), -10.0, (250, 250, 250), (190, 20, 40)),
    ("Station", 30, (548, 240), 0.0, (250, 250, 250), (20, 70, 140)),
    ("platform 9", 20, (548, 276), 0.0, (20, 70, 140), (240, 240, 240)),
    ("STREET", 28, (96, 392), 0.0, (240, 240, 240), (50, 50, 60)),
    ("halfsafe", 36, (492, 396), 0.0, (250, 210, 60), None),
)
"""Words of the scene: text, size in pixels, centre, angle, colour, colour of the board behind."""


def page(width: int = 640, height: int = 448) -> Sample:
    """A street with shop signs; the same picture every time, and none that is trained on."""
    rng = random.Random(7)
    canvas = _Canvas(Image.new("RGB", (width, height), (176, 200, 222)))
    _street(rng, canvas.draw, width, height)
    for text, size, at, angle, colour, board in SIGNS:
        stamp = _stamp(text, _font(None, size), size / 30, angle)
        if board is not None:
            word = replace(stamp.word, x=at[0], y=at[1])
            canvas.draw.polygon(word.quad(0.35 * word.height), board, (30, 30, 30))
        canvas.write(stamp, at, colour)
    return canvas.sample(canvas.image.filter(ImageFilter.GaussianBlur(0.5)))


def _street(rng: random.Random, draw: ImageDraw.ImageDraw, width: int, height: int) -> None:
    """Three house fronts with shop windows, an awning, a pavement and a road."""
    fronts = ((0, 232, (196, 164, 132)), (232, 416, (150, 158, 170)), (416, width, (206, 190, 150)))
    for left, right, wall in fronts:
        draw.rectangle((left, 30, right, 344), wall, (80, 70, 60), 2)
        glass = tuple(rng.randint(70, 120) for _ in range(3))
        draw.rectangle((left + 24, 292, right - 24, 340), glass, (60, 50, 50), 3)
        draw.line((left + 40, 336, left + 70, 296), (190, 200, 205), 3)
        for x in range(left, right, 24):
            stripe = (170, 60, 50) if (x // 24) % 2 else (235, 225, 210)
            draw.rectangle((x, 206, min(x + 24, right), 216), stripe)
    draw.ellipse((270, 44, 330, 104), (240, 210, 120), (120, 100, 60), 3)
    draw.rectangle((0, 344, width, 364), (168, 166, 160))
    draw.rectangle((0, 364, width, height), (92, 92, 96))
    draw.line((0, 434, width, 434), (220, 220, 210), 4)
