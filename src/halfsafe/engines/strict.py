"""Strict evaluation as an engine: FP32 arithmetic, every value rounded as the graph stores it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version

from halfsafe.engines import HALF, Profile
from halfsafe.samples import Call
from halfsafe.source import Arrays, Runnable


@dataclass(frozen=True)
class Strict:
    """Runs everywhere, and hides nothing but what an operator stores inside of itself."""

    name: str = "strict"
    profile: Profile = HALF
    needs: str = "nothing"

    @property
    def version(self) -> str:
        return f"halfsafe {version('halfsafe')}"

    def available(self) -> bool:
        return True

    def build(self, deliverable: Runnable) -> Evaluated:
        return Evaluated(deliverable, self.profile)


@dataclass(frozen=True)
class Evaluated:
    """A deliverable, evaluated anew for each sample."""

    deliverable: Runnable
    profile: Profile

    def run(self, call: Call) -> Arrays:
        return self.deliverable.evaluate(call, self.profile.stores)

    def census(self, call: Call) -> Mapping[str, int]:
        return self.deliverable.half().census(call)
