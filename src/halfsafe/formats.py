"""Binary floating-point formats, named as in `numpy.finfo`."""

from __future__ import annotations

from dataclasses import dataclass
from math import frexp


@dataclass(frozen=True, slots=True)
class FloatFormat:
    """A binary format: one of IEEE 754, or of its kin in machine learning.

    A `finite` format has no inf: its last exponent holds numbers too, all but the one that is NaN
    (OCP 8-bit floating point, E4M3). In an `unlimited` one every exponent of FP32 will do: nothing
    is lost to it but bits.

    >>> FLOAT16.max, FLOAT16.smallest_normal == 2**-14, FLOAT16.smallest_subnormal == 2**-24
    (65504.0, True, True)
    >>> FLOAT8_E4M3FN.max
    448.0
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    finite: bool = False
    unlimited: bool = False

    @property
    def max_binade(self) -> int:
        """floor(log2(max))."""
        return 2 ** (self.exponent_bits - 1) - 1 + self.finite

    @property
    def min_binade(self) -> int:
        """log2(smallest_normal)."""
        return 2 - 2 ** (self.exponent_bits - 1)

    @property
    def max(self) -> float:
        missing = 2.0**-self.mantissa_bits * (1 + self.finite)
        return (2.0 - missing) * 2.0**self.max_binade

    @property
    def smallest_normal(self) -> float:
        return 2.0**self.min_binade

    @property
    def smallest_subnormal(self) -> float:
        return 2.0 ** (self.min_binade - self.mantissa_bits)

    @property
    def at_any_exponent(self) -> FloatFormat:
        """Numbers of as many bits, with the exponents of FP32: the floor of this format."""
        return FloatFormat(f"{self.name} at any exponent", 8, self.mantissa_bits, unlimited=True)

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
FLOAT8_E4M3FN = FloatFormat("float8_e4m3fn", 4, 3, finite=True)
FLOOR = FLOAT16.at_any_exponent
