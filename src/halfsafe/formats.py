"""Binary floating-point formats, named as in `numpy.finfo`."""

from __future__ import annotations

from dataclasses import dataclass
from math import frexp


@dataclass(frozen=True, slots=True)
class FloatFormat:
    """An IEEE 754 binary format.

    >>> FLOAT16.max, FLOAT16.smallest_normal == 2**-14, FLOAT16.smallest_subnormal == 2**-24
    (65504.0, True, True)
    """

    name: str
    exponent_bits: int
    mantissa_bits: int

    @property
    def max_binade(self) -> int:
        """floor(log2(max)), which is also the exponent bias."""
        return 2 ** (self.exponent_bits - 1) - 1

    @property
    def min_binade(self) -> int:
        """log2(smallest_normal)."""
        return 1 - self.max_binade

    @property
    def max(self) -> float:
        return (2.0 - 2.0**-self.mantissa_bits) * 2.0**self.max_binade

    @property
    def smallest_normal(self) -> float:
        return 2.0**self.min_binade

    @property
    def smallest_subnormal(self) -> float:
        return 2.0 ** (self.min_binade - self.mantissa_bits)

    def bits_above(self, magnitude: float, headroom: int = 0) -> int:
        """The least integer k with magnitude * 2**-k <= max * 2**-headroom.

        >>> FLOAT16.bits_above(65504.0), FLOAT16.bits_above(65505.0), FLOAT16.bits_above(65504.0, 1)
        (0, 1, 1)
        """
        mantissa, exponent = frexp(magnitude)
        limit, top = frexp(self.max)
        return exponent - top + headroom + (1 if mantissa > limit else 0)


FLOAT16 = FloatFormat("float16", 5, 10)
BFLOAT16 = FloatFormat("bfloat16", 8, 7)
FLOAT32 = FloatFormat("float32", 8, 23)
