"""The changes a plan asks for, in words that every front end understands."""

from __future__ import annotations

from dataclasses import dataclass

from halfsafe.graph import Use


@dataclass(frozen=True, slots=True)
class Fold:
    """Store a constant, as one use reads it, times 2**-exponent."""

    constant: str
    use: Use
    exponent: int


@dataclass(frozen=True, slots=True)
class SetNumber:
    """Write a literal, `number` in the original, times 2**-exponent."""

    use: Use
    number: float
    exponent: int


@dataclass(frozen=True, slots=True)
class Insert:
    """Multiply what one use reads by 2**bits, at run time.

    With `clip`, entries are first limited to magnitudes that are 2**14 after the multiplication,
    where the consumer is constant anyway.
    """

    value: str
    use: Use
    bits: int
    clip: bool = False


@dataclass(frozen=True, slots=True)
class ScaleInput:
    """Multiply a graph input by 2**bits in FP32, before it is cast to the deployed format."""

    value: str
    bits: int


@dataclass(frozen=True, slots=True)
class ScaleOutput:
    """Multiply graph output number `index` by 2**bits; in FP32 where it would not fit otherwise."""

    value: str
    index: int
    bits: int
    in_float32: bool


@dataclass(frozen=True, slots=True)
class Lower:
    """Replace one operator by its gate form, carrier times gate: x * sigmoid(x) for SiLU."""

    node: str
    form: str


@dataclass(frozen=True, slots=True)
class Island:
    """Compute these nodes in FP32, between casts."""

    nodes: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Replace:
    """Change the function: a sentinel or a floor that the deployed format cannot hold.

    In a constant tensor, every entry of larger magnitude than `new` is replaced, its sign kept.
    """

    use: Use
    old: float
    new: float
    why: str


Edit = Fold | SetNumber | Insert | ScaleInput | ScaleOutput | Lower | Island | Replace


def steps(bits: int) -> list[int]:
    """Factors that FP16 holds, one after the other.

    >>> steps(17), steps(-3)
    ([14, 3], [-3])
    """
    sign = 1 if bits > 0 else -1
    whole, rest = divmod(abs(bits), 14)
    return [sign * 14] * whole + [sign * rest] * bool(rest)
