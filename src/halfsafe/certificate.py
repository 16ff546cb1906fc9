"""What has been proved of a network for every input of a domain, as plain data."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from decimal import ROUND_CEILING, Decimal, localcontext
from math import isfinite
from pathlib import Path
from typing import Any, Self

from halfsafe.atomic import atomically
from halfsafe.errors import BadInput, first_line
from halfsafe.formats import FLOAT16

SCHEMA = 1
"""Of the file."""

DIGITS = 4
"""To which bounds are told, rounded up: so that who computes them again, in another order, finds
none that is larger."""

SHOWN = 5
"""Values that are told of one by one."""


@dataclass(frozen=True)
class Bounded:
    """A value: the largest magnitude that it can have, None where nothing is known and `lost` says
    why; where it is made; and whether FP16 stores it.

    `by` names the inequality that says so. `summed` is the largest partial sum, in any order, of
    the products that a sum of products adds up.
    """

    bound: float | None
    where: str
    stored: bool
    lost: str = ""
    by: str = ""
    summed: float | None = None

    @property
    def fits(self) -> bool:
        """Whether FP16 holds it, whatever comes in."""
        return not self.stored or (self.bound is not None and self.bound <= FLOAT16.max)


def rounded_up(bound: float) -> float:
    """The next number of so many digits that is not less."""
    if bound == 0.0 or not isfinite(bound):
        return bound
    with localcontext(prec=DIGITS, rounding=ROUND_CEILING):
        return max(float(+Decimal(bound)), bound)


def within(
    shapes: Mapping[str, tuple[int, ...]], domain: Mapping[str, tuple[float, float] | None]
) -> str:
    """A domain in words.

    >>> within({"ids": (2, 6), "x": ()}, {"ids": None, "x": (-1.0, 1.0)})
    'ids 2x6 anything, x a number in [-1, 1]'
    """
    parts: list[str] = []
    for name, shape in shapes.items():
        span = domain[name]
        told = "anything" if span is None else f"in [{span[0]:g}, {span[1]:g}]"
        parts.append(f"{name} {'x'.join(map(str, shape)) or 'a number'} {told}")
    return ", ".join(parts)


@dataclass(frozen=True)
class Certificate:
    """Bounds of every value, for inputs of these shapes within a domain.

    `fingerprint` is of the operators with their constants. A domain is an interval for each input,
    None for one that may be anything, as token ids are. `refined` are operators whose gains were
    computed sharply, `cuts` into how many pieces each entry of an input was cut, and `ended` says
    in words why no more was done, where there was no time.
    """

    model: str
    fingerprint: str
    shapes: Mapping[str, tuple[int, ...]]
    domain: Mapping[str, tuple[float, float] | None]
    values: Mapping[str, Bounded]
    refined: tuple[str, ...] = ()
    cuts: Mapping[str, int] = field(default_factory=dict[str, int])
    ended: str = ""

    @property
    def certified(self) -> bool:
        """Whether FP16 holds every value for every input of the domain."""
        return all(value.fits for value in self.values.values())

    @property
    def worst(self) -> tuple[str, float]:
        """The value with the largest bound, and that."""
        known = {n: v.bound for n, v in self.values.items() if v.bound is not None and v.stored}
        name = max(known, key=lambda n: known[n], default="")
        return name, known.get(name, 0.0)

    @property
    def accumulators(self) -> str:
        """What FP16 would have to hold where sums of products are added up in it, in words."""
        sums = [v for v in self.values.values() if v.stored and v.summed is not None]
        if not sums:
            return "no sum of products has a bound"
        largest = max(sums, key=lambda v: v.summed or 0.0)
        over = sum((v.summed or 0.0) > FLOAT16.max for v in sums)
        told = f"up to {largest.summed:,.0f} in {largest.where}"
        if over:
            return f"{over} of {len(sums)} sums of products have to be added up in FP32: {told}"
        return f"all {len(sums)} sums of products could be added up in FP16: {told} on the way"

    def text(self) -> str:
        """In a few lines."""
        stored = {name: value for name, value in self.values.items() if value.stored}
        lines = [f"{self.model}, for every input of " + within(self.shapes, self.domain)]
        if self.certified:
            name, bound = self.worst
            where = self.values[name].where if name else ""
            lines.append(
                f"FP16 holds all {len(stored)} values: none passes {bound:,.0f}, which {where} may "
                f"come near; FP16 ends at {FLOAT16.max:,.0f}"
            )
            lines.append(self.accumulators)
            return "\n".join(lines)
        large = {n: v for n, v in stored.items() if v.bound is not None and not v.fits}
        if large:
            lines.append(f"{len(large)} of {len(stored)} values may be larger than FP16 holds:")
            ordered = sorted(large.values(), key=lambda v: -(v.bound or 0.0))
            lines += [f"  {v.where}: up to {v.bound:.3g}" for v in ordered[:SHOWN]]
            lines += [self.ended] if self.ended else []
        lost = Counter(v.lost for v in stored.values() if v.bound is None)
        if lost:
            lines.append(f"{lost.total()} of {len(stored)} values have no bound, because of:")
            lines += [f"  {why} ({n} values)" for why, n in lost.most_common(SHOWN)]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """As plain data; what has no bound is null."""
        return {"schema": SCHEMA, "certified": self.certified, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse. Raises BadInput for a file of another kind."""
        if data.get("schema") != SCHEMA or "values" not in data:
            raise BadInput("this is no certificate that this version of halfsafe reads")
        return cls(
            model=data["model"],
            fingerprint=data["fingerprint"],
            shapes={name: tuple(shape) for name, shape in data["shapes"].items()},
            domain={n: None if d is None else (d[0], d[1]) for n, d in data["domain"].items()},
            values={name: Bounded(**value) for name, value in data["values"].items()},
            refined=tuple(data.get("refined", ())),
            cuts={name: int(count) for name, count in data.get("cuts", {}).items()},
            ended=data.get("ended", ""),
        )

    def save(self, path: str | Path) -> None:
        """Writes it as JSON, atomically."""
        text = json.dumps(self.to_json(), indent=1, allow_nan=False)
        atomically(Path(path), lambda partial: Path(partial).write_text(text, encoding="utf-8"))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads what `save` wrote. Raises BadInput."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadInput(f"cannot read '{path}': {first_line(error)}") from error
        return cls.from_json(data)
