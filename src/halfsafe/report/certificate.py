"""What a certificate says of a network that was fixed: plain data, and its totals in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Self

from halfsafe.certificate import within
from halfsafe.report.grammar import counted
from halfsafe.standing import Standing, Status

STATUSES: tuple[Status, ...] = ("certified", "certified after rescaling", "measured only")


@dataclass(frozen=True)
class BoundReport(Standing):
    """A value that FP16 stores: how it is known to fit, and the largest magnitude that it can have,
    in the units in which it is delivered, by which inequality."""

    bound: float | None = None
    by: str = ""
    where: str = ""


@dataclass(frozen=True)
class CertificateReport:
    """What holds of all that a fix delivers, inserted operators too, for every input of a domain.

    `sums` says what FP16 would have to hold where sums of products are added up in it.
    """

    shapes: Mapping[str, tuple[int, ...]]
    domain: Mapping[str, tuple[float, float] | None]
    values: Mapping[str, BoundReport]
    sums: str = ""

    @property
    def counts(self) -> dict[Status, int]:
        """How many values there are of each status."""
        counts = Counter(value.status for value in self.values.values())
        return {status: counts[status] for status in STATUSES}

    @property
    def complete(self) -> bool:
        """Whether FP16 holds every value for every input of the domain."""
        return not self.counts["measured only"]

    @property
    def cost(self) -> tuple[float, float, str] | None:
        """By how many bits bounds are above what samples show, of values that are no constants: the
        median, the most, and the value of that. None where none has both."""
        bits = {
            name: value.bits
            for name, value in self.values.items()
            if value.bits is not None and value.by != "constants"
        }
        if not bits:
            return None
        worst = max(bits, key=lambda name: bits[name])
        return median(bits.values()), bits[worst], worst

    @property
    def verdict(self) -> str:
        """What may be claimed of inputs that are not among the samples, in a sentence."""
        left = self.counts["measured only"]
        if not left:
            held = f"FP16 holds all {counted(len(self.values), 'value')}"
            return f"Safe for every input of the domain, where sums are added up in FP32: {held}."
        return f"Of {counted(len(self.values), 'value')} {left:,} {_are(left)} measured only."

    @property
    def rows(self) -> list[tuple[str, str]]:
        """The totals in words, each under its name."""
        counts = self.counts
        rows = [
            ("domain", within(self.shapes, self.domain)),
            ("certified", f"{counts['certified']:,} of {counted(len(self.values), 'value')}"),
            *((status, f"{counts[status]:,}") for status in STATUSES[1:]),
        ]
        if self.cost:
            middle, most, name = self.cost
            where = self.values[name].where
            told = f"{middle:.1f} bits in the median, {most:.1f} at most: {where}"
            rows.append(("bounds above amax", told))
        return [*rows, ("sums of products", self.sums)] if self.sums else rows

    @property
    def losses(self) -> list[str]:
        """Why values are measured only: operators that lost bounds, those of the most values first,
        and bounds that FP16 does not hold, the largest first."""
        only = [value for value in self.values.values() if value.status == "measured only"]
        lost = Counter(value.why for value in only if value.bound is None)
        large = sorted((v.bound, v.where) for v in only if v.bound is not None)
        return [
            *(f"{counted(n, 'value')} without a bound: {why}" for why, n in lost.most_common()),
            *(f"too large: {where}, up to {bound:.4g}" for bound, where in reversed(large)),
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain data, with the totals for other people's scripts; `from_json` is the inverse."""
        middle, most, name = self.cost or (None, None, "")
        counts = {status.replace(" ", "_"): n for status, n in self.counts.items()}
        totals = {**counts, "median_bits": middle, "most_bits": most, "most_bits_of": name}
        return {**asdict(self), "totals": totals}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(
            shapes={name: tuple(shape) for name, shape in data["shapes"].items()},
            domain={n: None if d is None else (d[0], d[1]) for n, d in data["domain"].items()},
            values={name: BoundReport(**value) for name, value in data["values"].items()},
            sums=data["sums"],
        )


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
