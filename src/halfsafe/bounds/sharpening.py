"""Gains of convolutions, computed sharply where that is asked for, and what it may bring."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from math import inf, log2

from halfsafe.bounds.gains import Array, Kernel, Symbol, convolution_gain, has_symbol, sharp_gain

SPEED = 4e10
"""Operations in a second, about, by which the time that a sharp gain takes is told ahead."""


@dataclass(frozen=True)
class Promise:
    """By how many bits a sharp gain is less, about, and how many seconds it takes."""

    bits: float
    seconds: float


class Gains:
    """How much longer convolutions make what they see, each computed once, and some sharply.

    With `promises` it is also told what sharp ones would bring, of all that are asked for. Behind
    the `deadline` of a clock none is computed sharply any more.
    """

    def __init__(
        self, *, promises: bool = False, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.sharp, self.promises = set[str](), dict[str, Promise]()
        self.clock, self.deadline = clock, inf
        self._promised, self._known = promises, dict[tuple[str, bool, bytes], float]()

    def of(self, node: str, weight: Array, kernel: Kernel) -> float:
        """Of an operator by name, of weights (groups, out, into, taps)."""
        if self.clock() > self.deadline:
            self.sharp.intersection_update(name for name, sharp, _ in self._known if sharp)
        sharp = node in self.sharp
        key = node, sharp, sha256(weight.tobytes()).digest()
        found = self._known.get(key)
        if found is None:
            found = (sharp_gain if sharp else convolution_gain)(weight, kernel)
            self._known[key] = found
            if self._promised and not sharp and has_symbol(kernel):
                self._promise(node, found, weight, kernel)
        return found

    def _promise(self, node: str, plain: float, weight: Array, kernel: Kernel) -> None:
        symbols = [Symbol(w, kernel) for w in weight]
        likely = symbols[0].factor * max(symbol.likely_gain() for symbol in symbols)
        seconds = sum(symbol.operations for symbol in symbols) / SPEED
        if plain > likely > 0:
            self.promises[node] = Promise(log2(plain / likely), seconds)
