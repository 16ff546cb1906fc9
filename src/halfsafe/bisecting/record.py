"""What a bisection has found, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import inf
from typing import Any, Self

from halfsafe.verdict import plain


@dataclass(frozen=True, slots=True)
class Trial:
    """One run: how far outputs are off if the first `place` steps of the network compute in FP16.

    `node` is the last of these. `whole` is a run of the network uncut. `error` is that of the worst
    `sample`, or of the first that is beyond the tolerance; inf where the engine refuses, for a
    reason, `why`. It is good up to `limit`. `kept` operators were in FP32. What was `known` from
    before was not run again.
    """

    place: int
    node: str
    error: float
    sample: int
    seconds: float = 0.0
    whole: bool = False
    kept: int = 0
    why: str = ""
    known: bool = False
    limit: float = inf

    @property
    def good(self) -> bool:
        """Whether the outputs are within what was asked of this run."""
        return self.error <= self.limit

    def __str__(self) -> str:
        where = "the whole network" if self.whole else f"FP16 up to {self.node}"
        kept = f", {self.kept} in FP32" if self.kept else ""
        return f"{where}{kept}: {self.why or f'error {self.error:.3g}'}"


@dataclass(frozen=True, slots=True)
class Shown:
    """A value that an operator reads or makes, in FP32 and as the engine has it, on one sample.

    `amax` is the largest magnitude, `largest` that of the entries that the engine gives as finite
    numbers; `nonfinite` and `zeros` count what it gives as inf or NaN, and as 0 where FP32 does
    not. `error` is the norm of the difference over that of the value, of the finite entries.
    """

    name: str
    amax: float
    largest: float
    nonfinite: int
    zeros: int
    count: int
    error: float

    def __str__(self) -> str:
        lost = ", ".join(
            f"{n} of {self.count} {what}"
            for n, what in ((self.nonfinite, "inf or NaN"), (self.zeros, "0"))
            if n
        )
        there = f"{self.largest:.4g}, error {self.error:.2g}{', ' if lost else ''}{lost}"
        return f"{self.name}: amax {self.amax:.4g} in FP32, {there} there"


@dataclass(frozen=True, slots=True)
class Culprit:
    """The first operator after which the outputs leave the tolerance.

    `before` is the error with the operators ahead of it in FP16 on the engine, and `after` with it
    as well, on the worst `sample`; all that follows is in FP32. `reads` and `makes` are its
    operands and results in both precisions. With `kept` in FP32, this culprit does no harm.
    `since` is the first operator that may be meant, another than itself if time ran out.
    """

    node: str
    op: str
    module: str
    line: str
    before: float
    after: float
    sample: int
    since: str
    reason: str = ""
    predicted: bool = False
    reads: tuple[Shown, ...] = ()
    makes: tuple[Shown, ...] = ()
    kept: tuple[str, ...] = ()

    def __str__(self) -> str:
        module = f" in {self.module}" if self.module else ""
        line = f" at {self.line}" if self.line else ""
        errors = f"error {self.before:.3g} ahead of it, {self.after:.3g} with it"
        return f"{self.node} ({self.op}{module}){line}: {errors}"


@dataclass(frozen=True, slots=True)
class Alone:
    """How far outputs are off if one operator computes in FP16 on the engine and no other."""

    node: str
    op: str
    module: str
    error: float
    why: str = ""


@dataclass(frozen=True)
class Bisection:
    """One bisection: what was asked where, all trials in their order, and who is to blame.

    `error` is that of the whole network, `mended` that with all that was kept in FP32. `floor` is
    what rounding to 11 bits at any exponent costs, where that is beyond the tolerance, and 0 where
    it is not. It is `complete` unless time or patience ran out. `alone` ranks single operators, the
    worst first, and `advice` is what to try next.
    """

    engine: str
    version: str
    metric: str
    tolerance: float
    operators: int
    error: float
    mended: float
    complete: bool
    builds: int
    seconds: float
    advice: str = ""
    culprits: tuple[Culprit, ...] = ()
    trials: tuple[Trial, ...] = ()
    alone: tuple[Alone, ...] = ()
    notes: tuple[str, ...] = ()
    floor: float = 0.0

    @property
    def rounds(self) -> bool:
        """Whether nothing is worse than rounding, though that is beyond the tolerance."""
        return self.tolerance < self.error <= 2 * self.floor

    @property
    def within(self) -> bool:
        """Whether the whole network is within the tolerance on the engine."""
        return self.error <= self.tolerance

    def to_json(self) -> dict[str, Any]:
        """Plain data, inf as null; `from_json` is the inverse."""
        return plain(asdict(self))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Raises KeyError or TypeError for what is no bisection."""
        rest = _numbers(data)
        rest["culprits"] = tuple(_culprit(c) for c in data["culprits"])
        rest["trials"] = tuple(Trial(**_numbers(t)) for t in data["trials"])
        rest["alone"] = tuple(Alone(**_numbers(a)) for a in data["alone"])
        rest["notes"] = tuple(data["notes"])
        return cls(**rest)


def _numbers(data: Mapping[str, Any]) -> dict[str, Any]:
    return {k: inf if v is None else v for k, v in data.items()}


def _culprit(data: Mapping[str, Any]) -> Culprit:
    rest = _numbers(data)
    for key in ("reads", "makes"):
        rest[key] = tuple(Shown(**_numbers(s)) for s in data[key])
    rest["kept"] = tuple(data["kept"])
    return Culprit(**rest)
