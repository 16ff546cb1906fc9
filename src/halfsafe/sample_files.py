"""Samples as the command line names them: files and folders of arrays, texts, pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from halfsafe.errors import BadInput, HalfsafeError, first_line
from halfsafe.named import call, find, located
from halfsafe.pictures import NAMED, SUFFIXES, Batches, Pictures, Read, Takes, named


@dataclass(frozen=True)
class Supplied:
    """What a command line says of samples: which, how pictures are read, and how many at once."""

    samples: str | None = None
    preprocess: str | None = None
    batch: int | None = None

    def __str__(self) -> str:
        """The same options, to be put behind a model."""
        said = {"samples": self.samples, "preprocess": self.preprocess, "batch": self.batch}
        return "".join(f" --{k} {quote(str(v))}" for k, v in said.items() if v is not None)

    @property
    def pictures(self) -> Pictures | None:
        """The pictures of a folder; None where samples are something else."""
        if self.samples is None or not Path(self.samples).is_dir():
            return None
        files = sorted(Path(self.samples).iterdir())
        found = [file for file in files if file.suffix.lower() in SUFFIXES]
        if found and any(file.suffix == ".npz" for file in files):
            raise BadInput(f"the folder '{self.samples}' holds pictures and .npz files: keep one")
        return Pictures(found) if found else None

    def only_samples(self, what: str = "samples are arrays already") -> None:
        """Raises BadInput where something is said of pictures, and there are none."""
        for name, value in (("preprocess", self.preprocess), ("batch", self.batch)):
            if value is not None:
                raise BadInput(f"--{name} is for a folder of pictures, and {what}")

    def raw(self) -> Any:
        """Samples for a directory: its own tokenizer and processor read texts and pictures."""
        if self.samples is None:
            self.only_samples("there is none")
            return None
        pictures = self.pictures
        if pictures is not None:
            self.only_samples("a directory's own processor reads those, two at once")
            return pictures
        self.only_samples()
        if Path(self.samples).suffix == ".txt":
            return _texts(Path(self.samples))
        return load_samples(self.samples, in_numpy=False)

    def batches(self, pictures: Pictures, takes: Takes, *, in_numpy: bool) -> Batches:
        """Pictures as samples of a model. Raises BadInput where nobody says how they are read."""
        size = self.batch or takes.batch or 1
        if takes.batch not in (None, size):
            raise BadInput(f"--batch is {size}, and the model takes batches of {takes.batch}")
        whole = takes.batch is not None
        if whole and len(pictures) < size:
            raise BadInput(
                f"'{self.samples}' holds {len(pictures)} pictures, and a batch is {size}"
            )
        finished = _finished(takes.name, in_numpy)
        return Batches(pictures, self._read(takes), size, whole, finished)

    def _read(self, takes: Takes) -> Read:
        how = self.preprocess
        if how is None:
            raise BadInput(
                f"'{self.samples}' holds pictures: say how the model takes them, --preprocess "
                f"{', '.join(NAMED)} or package.module:callable from a PIL image to a sample"
            )
        if ":" not in how:
            if how not in NAMED:
                raise BadInput(f"unknown --preprocess '{how}': one of {', '.join(NAMED)}")
            return named(how, takes)
        read = find(how)

        def told(picture: Any) -> Any:
            try:
                return read(picture)
            except HalfsafeError:
                raise
            except Exception as error:
                raise BadInput(f"'{how}' fails: {located(error)}") from error

        return told


def _finished(name: str | None, in_numpy: bool) -> Any:
    """Makes tensors of arrays where they are wanted, and names the only one if it has a name."""

    def sample(arrays: Mapping[str, Any] | tuple[Any, ...]) -> Any:
        if isinstance(arrays, Mapping):
            return _in(arrays, in_numpy)
        if name is not None and len(arrays) == 1:
            return _in({name: arrays[0]}, in_numpy)
        return tuple(_in(dict(enumerate(arrays)), in_numpy).values())

    return sample


def load_samples(spec: str, *, in_numpy: bool) -> Any:
    """Samples from a file, a folder or a callable. Raises BadInput."""
    path = Path(spec)
    if path.is_dir():
        files = sorted(path.glob("*.npz"))
        if not files:
            raise BadInput(f"the folder '{spec}' holds neither .npz files nor pictures")
        return [_load_file(file, in_numpy) for file in files]
    if path.suffix in (".npz", ".safetensors"):
        return _load_file(path, in_numpy)
    if path.suffix == ".txt":
        raise BadInput(f"'{spec}' is text: a directory's tokenizer reads it, a file has none")
    return call(spec)


def _load_file(path: Path, in_numpy: bool) -> Any:
    """One sample: arrays by argument name, or arr_0, arr_1, ... as positional arguments.

    NumPy's default FP64 becomes FP32.
    """
    import numpy as np

    if not path.is_file():
        raise BadInput(f"there is no file '{path}'")
    try:
        if path.suffix == ".safetensors":
            from safetensors.numpy import load_file  # pyright: ignore[reportUnknownVariableType]

            found = load_file(path)
        else:
            with np.load(path) as archive:
                found = {name: archive[name] for name in archive.files}
    except Exception as error:
        raise BadInput(f"cannot read '{path}': {error}") from error
    arrays = _in(found, in_numpy)
    if all(name.startswith("arr_") for name in arrays):
        return tuple(arrays.values())
    return arrays


def _in(found: Mapping[Any, Any], in_numpy: bool) -> dict[Any, Any]:
    """Arrays, FP64 in FP32, as tensors unless they stay in NumPy."""
    import numpy as np

    arrays = {k: x.astype(np.float32) if x.dtype == np.float64 else x for k, x in found.items()}
    if in_numpy:
        return arrays
    import torch

    return {k: torch.as_tensor(x) for k, x in arrays.items()}


def _texts(path: Path) -> list[str]:
    """The lines of a file, less empty ones. Raises BadInput."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read '{path}': {first_line(error)}") from error
    found = [line for line in lines if line.strip()]
    if not found:
        raise BadInput(f"'{path}' holds no text: one a line")
    return found
