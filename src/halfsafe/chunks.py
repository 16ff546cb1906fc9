"""Entries of arrays, so many at a time that what is made of them stays in a processor's cache.

Buffers are not made anew for each array: pages that are asked for and given back cost more than
what is done in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from threading import local
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

CHUNK = 2**17
"""Entries that are looked at together."""


def chunks(x: Array) -> Iterator[Array]:
    """All entries, CHUNK at a time; of an empty array one empty chunk."""
    flat = x.reshape(-1)
    return (flat[i : i + CHUNK] for i in range(0, max(flat.size, 1), CHUNK))


class Buffers(local):
    """Room for one chunk in a few types, a thread's own."""

    def __init__(self) -> None:
        self.patterns, self.shifted = np.empty((2, CHUNK), np.uint32)
        self.exponents = np.empty(CHUNK, np.uint8)
        self.pairs = np.empty(CHUNK // 2, np.intp)
        self.wide = np.empty((2, CHUNK), np.float64)


BUFFERS = Buffers()
