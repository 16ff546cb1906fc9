"""Outcomes of trials on disk, so that an interrupted bisection goes on where it was.

An outcome is known by what was run: the graph and its constants, the samples, the engine and its
version. What was asked of the outputs is no part of it: another tolerance runs nothing again.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from halfsafe.atomic import atomically
from halfsafe.errors import BadInput
from halfsafe.source import Arrays


@dataclass(frozen=True, slots=True)
class Outcome:
    """The network's outputs by sample, or `why` the engine refuses and on which sample."""

    outputs: Mapping[int, Arrays]
    why: str = ""
    sample: int = 0


class Memory:
    """A folder with one file for each outcome of one bisection; without a folder, nothing.

    Raises BadInput where the folder cannot be made.
    """

    def __init__(self, folder: Path | None, *what: str) -> None:
        self.folder = None if folder is None else folder / _digest(*what)
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise BadInput(f"cannot keep outcomes in '{folder}': {error.strerror}") from error

    def key(self, variant: Sequence[str], place: int | None) -> str:
        """The name of a trial of one variant of the network, of all of it without a place."""
        return f"{_digest(*sorted(variant))}-{'whole' if place is None else place}"

    def get(self, key: str) -> Outcome | None:
        """What was found before; None where nothing was, or the file cannot be read."""
        if self.folder is None:
            return None
        try:
            with np.load(self.folder / f"{key}.npz") as held:
                found: dict[str, Any] = dict(held)
        except (OSError, ValueError, BadZipFile, EOFError):
            return None
        why, sample = str(found.pop("why")), int(found.pop("sample"))
        outputs: dict[int, list[Any]] = {}
        for name, x in found.items():
            outputs.setdefault(int(name.partition(".")[0]), []).append(x)
        return Outcome(outputs, why, sample)

    def put(self, key: str, outcome: Outcome) -> None:
        """Keeps an outcome; one with outputs that are neither numbers nor booleans is not kept."""
        arrays = {
            f"{sample}.{i}": np.asarray(x)
            for sample, outputs in outcome.outputs.items()
            for i, x in enumerate(outputs)
        }
        if self.folder is None or any(x.dtype.kind not in "fiubc" for x in arrays.values()):
            return
        held = io.BytesIO()
        arrays |= {"why": np.array(outcome.why), "sample": np.array(outcome.sample)}
        save: Any = np.savez  # whose newest types take no arrays by name
        save(held, **arrays)
        path = self.folder / f"{key}.npz"
        atomically(path, lambda partial: Path(partial).write_bytes(held.getvalue()))


def digest_of(arrays: Mapping[str, Any]) -> str:
    """A digest of named arrays."""
    found = blake2b(digest_size=16)
    for name, given in arrays.items():
        x = np.asarray(given)
        found.update(f"{name} {x.dtype} {x.shape}".encode())
        found.update(np.ascontiguousarray(x).tobytes())
    return found.hexdigest()


def _digest(*what: str) -> str:
    return blake2b("\n".join(what).encode(), digest_size=12).hexdigest()
