"""What a certificate says of each value of a network that has been fixed, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log2
from typing import Literal

from halfsafe.certificate import Bounded, Certificate

Status = Literal["certified", "certified after rescaling", "measured only"]


@dataclass(frozen=True)
class Standing:
    """Of a value that FP16 stores: how it is known to fit, why it is not, and by how many bits the
    bound is above what samples show, None where there is no bound or nothing was seen."""

    status: Status
    why: str = ""
    bits: float | None = None


def standings(
    before: Certificate, after: Certificate, seen: Mapping[str, float]
) -> dict[str, Standing]:
    """Of all values of what is delivered, `after`; `seen` are the largest magnitudes of values of
    the network as it was, `before`."""
    return {
        name: _standing(before.values.get(name), value, seen.get(name, 0.0))
        for name, value in after.values.items()
        if value.stored
    }


def _standing(before: Bounded | None, after: Bounded, seen: float) -> Standing:
    known = None if before is None else before.bound
    bits = log2(known / seen) if known and seen else None
    if not after.fits:
        over = "" if after.bound is None else f"it may be {after.bound:.4g}"
        return Standing("measured only", after.lost or over, bits)
    fitted = before is not None and before.fits
    return Standing("certified" if fitted else "certified after rescaling", "", bits)
