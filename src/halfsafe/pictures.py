"""Folders of pictures as samples: read one by one, and brought to what a network takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from halfsafe.errors import BadInput, first_line, needing

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset(".bmp .jpeg .jpg .png .tif .tiff .webp".split())
"""Of files that are pictures."""

STRIDE = 32
"""Pictures of a size of their own are brought to the next multiple of this below it, through which
most networks divide."""

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the pictures of ImageNet, red, green and blue, between 0 and 1: those of torchvision."""

RANGES = {"0..1": (0.0, 1.0), "-1..1": (-1.0, 1.0), "0..255": (0.0, 255.0)}
"""Ways to bring bytes into a range, by their names."""

IMAGENET = "imagenet"
"""The way of most classifiers: the middle of the picture, less the mean, over the deviation."""

NAMED = (IMAGENET, *RANGES)


@dataclass(frozen=True)
class Takes:
    """A picture as a network takes it; sizes that are None may be any."""

    batch: int | None = None
    channels: int = 3
    height: int | None = None
    width: int | None = None
    channels_first: bool = True
    dtype: Any = np.float32
    name: str | None = None

    @classmethod
    def of(
        cls, shape: Sequence[int | None], dtype: np.dtype[Any], name: str | None = None
    ) -> Takes | None:
        """By the shape of an input; None for one that takes no pictures."""
        if len(shape) != 4 or dtype.kind not in "fu":
            return None
        batch, *rest = shape
        channels_first = rest[0] in (1, 3) or rest[2] not in (1, 3)
        channels, height, width = rest if channels_first else (rest[2], rest[0], rest[1])
        if channels not in (1, 3, None):
            return None
        return cls(batch, channels or 3, height, width, channels_first, dtype, name)

    def sized(self, width: int, height: int) -> tuple[int, int]:
        """The width and height of a picture of this width and height, as the network takes it."""
        own_width, own_height = (max(side // STRIDE, 1) * STRIDE for side in (width, height))
        return self.width or own_width, self.height or own_height


Read = Callable[["Image"], Any]
"""From a picture to a sample, a batch of one: an array, a tuple or a mapping of arrays."""


def named(how: str, takes: Takes) -> Read:
    """One of `NAMED`. Pictures are stretched to the size that is taken; of ImageNet's way, the
    middle is, 224 pixels wide where nothing else is asked for, as 256 are scaled to."""

    def middle(picture: Image) -> NDArray[Any]:
        width, height = takes.width or 224, takes.height or 224
        scale = 8 / 7 * max(width / picture.width, height / picture.height)
        larger = picture.resize((round(picture.width * scale), round(picture.height * scale)))
        left, top = (larger.width - width) // 2, (larger.height - height) // 2
        cut = larger.crop((left, top, left + width, top + height))
        return _arranged((_bytes(cut, takes) / 255 - MEAN) / DEVIATION, takes)

    def stretched(picture: Image) -> NDArray[Any]:
        low, high = RANGES[how]
        seen = picture.resize(takes.sized(*picture.size))
        return _arranged(low + (high - low) / 255 * _bytes(seen, takes), takes)

    if how == IMAGENET and takes.channels != 3:
        raise BadInput(f"'{IMAGENET}' is of pictures in three colours, and the model takes one")
    return middle if how == IMAGENET else stretched


def _bytes(picture: Image, takes: Takes) -> NDArray[Any]:
    """(height, width, channels)."""
    seen = np.asarray(picture if takes.channels == 3 else picture.convert("L"), np.float64)
    return seen.reshape(*seen.shape[:2], takes.channels)


def _arranged(seen: NDArray[Any], takes: Takes) -> NDArray[Any]:
    ordered = seen.transpose(2, 0, 1) if takes.channels_first else seen
    return ordered[None].astype(takes.dtype)


class Pictures(Sequence["Image"]):
    """The pictures of some files, in RGB, each read when it is asked for."""

    def __init__(self, files: Sequence[Path]) -> None:
        with needing("images", "pictures"):
            from PIL import Image

        self.files, self._open = files, Image.open

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Image:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Raises BadInput for a file that is no picture."""
        try:
            with self._open(self.files[i]) as picture:
                return picture.convert("RGB")
        except IndexError:
            raise
        except Exception as error:
            raise BadInput(f"cannot read '{self.files[i]}': {first_line(error)}") from error


@dataclass(frozen=True)
class Batches:
    """Samples of so many pictures each, made when they are asked for: the last one of what is left,
    unless all have to be of one size."""

    pictures: Pictures
    read: Read
    size: int
    whole: bool = False
    finished: Callable[[Any], Any] = lambda sample: sample

    def __len__(self) -> int:
        left = 0 if self.whole else self.size - 1
        return (len(self.pictures) + left) // self.size

    def __iter__(self) -> Iterator[Any]:
        """Raises BadInput for pictures that do not go into one batch."""
        for i in range(len(self)):
            numbers = range(i * self.size, min((i + 1) * self.size, len(self.pictures)))
            yield self.finished(self._together(numbers))

    def _together(self, numbers: Sequence[int]) -> Any:
        samples = [_sample(self.read(self.pictures[n])) for n in numbers]
        try:
            return _joined(samples)
        except ValueError as error:
            first, last = (self.pictures.files[n] for n in (numbers[0], numbers[-1]))
            raise BadInput(
                f"the pictures from '{first}' to '{last}' do not go into one batch: {error}; "
                "use --batch 1"
            ) from error


def _sample(read: Any) -> Any:
    """What a preprocessing gives, as a tuple or a mapping of arrays."""
    if isinstance(read, Mapping):
        given = cast("Mapping[str, Any]", read)
        return {name: np.asarray(x) for name, x in given.items()}
    several = cast("tuple[Any, ...]", read) if isinstance(read, tuple) else (read,)
    return tuple(np.asarray(x) for x in several)


def _joined(samples: Sequence[Any]) -> Any:
    """Raises ValueError where shapes differ."""
    if isinstance(samples[0], Mapping):
        names = cast("Mapping[str, Any]", samples[0])
        return {name: np.concatenate([s[name] for s in samples]) for name in names}
    return tuple(np.concatenate(parts) for parts in zip(*samples, strict=True))
