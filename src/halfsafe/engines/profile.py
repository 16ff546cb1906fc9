"""What an engine does that no graph shows, so that a plan for it can reckon with it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from halfsafe.atomic import atomically
from halfsafe.errors import BadInput, first_line
from halfsafe.formats import BFLOAT16, FLOAT16, FLOAT32, FloatFormat

FORMATS = {fmt.name: fmt for fmt in (FLOAT16, BFLOAT16, FLOAT32)}


@dataclass(frozen=True, slots=True)
class Profile:
    """How an engine stores and computes what is in half precision.

    `stores` is the format of values; the floor of a proof has its bits, though what `fix` delivers
    is FP16 all the same. `inside` gives, by operator, the largest magnitude of operands of which
    its kernel still gives what FP32 arithmetic gives: beyond it, the kernel stores or adds up
    inside what FP16 cannot hold. `engine` and `version` say where that was measured.
    """

    stores: FloatFormat = FLOAT16
    inside: Mapping[str, float] = field(default_factory=dict[str, float])
    engine: str = ""
    version: str = ""

    def save(self, path: str | Path) -> None:
        """Writes JSON, whole or not at all."""
        data = {
            "engine": self.engine,
            "version": self.version,
            "stores": self.stores.name,
            "inside": dict(self.inside),
        }
        text = json.dumps(data, indent=1, allow_nan=False)
        atomically(Path(path), lambda partial: Path(partial).write_text(text, encoding="utf-8"))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads what `save` wrote. Raises BadInput."""
        try:
            data: Any = json.loads(Path(path).read_text(encoding="utf-8"))
            inside = {str(op): float(limit) for op, limit in data["inside"].items()}
            return cls(FORMATS[data["stores"]], inside, data["engine"], data["version"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"'{path}' is no profile of an engine: {first_line(error)}") from error

    def words(self, operators: Iterable[str]) -> list[str]:
        """What to tell of the operators of a network."""
        held = [op for op in dict.fromkeys(operators) if op in self.inside]
        engine = self.engine or "the engine"
        return [f"{engine} bears operands of {op} up to {self.inside[op]:.4g}" for op in held]

    def __or__(self, other: Self) -> Self:
        """Both together: of each operator the lower limit. Formats are those of this one."""
        both = {**other.inside, **self.inside}
        limits = {
            op: min(self.inside.get(op, limit), other.inside.get(op, limit))
            for op, limit in both.items()
        }
        named = self if self.engine else other
        return type(self)(self.stores, limits, named.engine, named.version)


HALF = Profile()
"""FP16, as most store it."""


def profile_of(given: str | Path | Profile | None) -> Profile:
    """A profile as it is, out of its file, or that of no surprises. Raises BadInput."""
    if given is None:
        return HALF
    return given if isinstance(given, Profile) else Profile.load(given)
