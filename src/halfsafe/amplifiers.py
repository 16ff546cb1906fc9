"""Operators whose operands are right and whose result is not: they amplify what rounding lost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, log2

from halfsafe.deviation import ROUNDING
from halfsafe.graph import Graph

AMPLIFIES = 4.0
"""Times the error of its operands from which on an operator amplifies it."""


@dataclass(frozen=True, slots=True)
class Amplified:
    """A value that is wrong although what it is computed from is right, and by how much."""

    value: str
    error: float
    before: float

    @property
    def amplification(self) -> float:
        return self.error / max(self.before, ROUNDING)

    @property
    def bits(self) -> int | None:
        """The significand that its operands need for it to be right to 8 bits; None if inf."""
        return None if self.error == inf else 11 + max(round(log2(self.error) + 8), 1)


def amplified(
    graph: Graph, errors: Mapping[str, float], outputs: Iterable[str], limit: float
) -> list[Amplified]:
    """Values ahead of some outputs that are wrong, all they are computed from being right.

    Where errors grow little by little, the one value at which they grow most.
    """
    found: list[Amplified] = []
    ahead = ahead_of(graph, outputs)
    for node in graph.nodes:
        before = max((errors.get(v, 0.0) for v in node.inputs.values()), default=0.0)
        found += [
            Amplified(output, errors[output], before)
            for output in node.outputs
            if output in ahead and errors.get(output, 0.0) > limit
        ]
    amplifying = [c for c in found if c.before < inf and c.amplification >= AMPLIFIES]
    roots = [c for c in amplifying if c.before <= limit]
    return roots or sorted(amplifying, key=lambda c: -c.amplification)[:1]


def ahead_of(graph: Graph, outputs: Iterable[str]) -> set[str]:
    """Values that some outputs are computed from, themselves included."""
    found, pending = set(outputs), list(outputs)
    while pending:
        node = graph.producers.get(pending.pop())
        new = [v for v in (node.inputs.values() if node else ()) if v not in found]
        found.update(new)
        pending += new
    return found


def explain(graph: Graph, found: Sequence[Amplified]) -> str:
    """What needs more bits, in words."""
    first = max(found, key=lambda c: c.error)
    what = graph.describe(first.value)
    if first.bits is None:
        return f"{what} is nonfinite in FP16, of operands that are not"
    return (
        f"{what} has an error of {first.error:.2g} in FP16, of operands right to "
        f"{first.before:.1g}: they need about {first.bits} bits"
    )
