"""What is known of each operator: its law and its traits, by name."""

from halfsafe.rules.algebra import (
    Auxiliary,
    Equation,
    Exponents,
    Law,
    Traits,
    Unknown,
    equations,
)
from halfsafe.rules.registry import LAWS, law_of, register, traits_of, unknown_ops

__all__ = [
    "LAWS",
    "Auxiliary",
    "Equation",
    "Exponents",
    "Law",
    "Traits",
    "Unknown",
    "equations",
    "law_of",
    "register",
    "traits_of",
    "unknown_ops",
]
