"""Bounds of complex values, as a rotation of pairs or a Fourier transform has them.

The bound of a complex value is that of its modulus: both parts, and their root of squares, are no
larger than its `size`. So it says nothing of signs, and no family of real values may read it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import log2, prod, sqrt

import numpy as np

from halfsafe.bounds.activations import ANGLE
from halfsafe.bounds.bound import Bound
from halfsafe.bounds.gains import SLACK, Array
from halfsafe.bounds.moving import over_all
from halfsafe.bounds.operands import Operands
from halfsafe.bounds.rounding import UNIT
from halfsafe.graph import Graph, Kind

STEPS = 1 + 16 * UNIT
"""What an operator on complex values is off in FP32, at most: some roundings of both parts."""


def of_modulus(shape: Sequence[int], size: Array | float, lost: str = "") -> Bound:
    """A complex value by its largest modulus, entry by entry."""
    reach = np.asarray(size) * STEPS
    return Bound.between(shape, -reach, reach, lost)


def paired(b: Operands) -> Bound:
    """a + i b of the two entries of each row: as long as the row."""
    size = np.hypot(*(np.broadcast_to(b.first.size, b.first.shape)[..., i] for i in (0, 1)))
    return of_modulus(b.shape, np.minimum(size, b.first.length), b.first.lost)


def composed(b: Operands) -> Bound:
    """a + i b of two tensors."""
    x, y = b.tensors
    return of_modulus(b.shape, np.hypot(x.size, y.size), x.lost or y.lost)


def polar(b: Operands) -> Bound:
    """r e^(i phi)."""
    x = b["abs"]
    return of_modulus(b.shape, x.size, x.lost)


def product(b: Operands) -> Bound:
    """|a b| = |a| |b|."""
    x, y = b["self"], _other(b)
    reach = x.size * y.size if x.is_finite and y.is_finite else np.inf
    return of_modulus(b.shape, reach, x.lost or y.lost)


def quotient(b: Operands) -> Bound:
    """|a / s| of a number s."""
    divisor = b.number("other") or b.attributes.get("other", 0.0)
    if not divisor:
        return of_modulus(b.shape, np.inf, f"{b.name}, whose divisor may be 0")
    return of_modulus(b.shape, b["self"].size / abs(divisor), b["self"].lost)


def _other(b: Operands) -> Bound:
    """The second operand, which may be a number."""
    return b["other"] if "other" in b else of_modulus((), abs(b.attributes["other"]))


def total(b: Operands) -> Bound:
    """|a +- s b| <= |a| + |s| |b|."""
    x, y = b["self"], _other(b)
    factor = b.number("alpha")
    reach = x.size + y.size * (1.0 if factor is None else abs(factor))
    return of_modulus(b.shape, reach, x.lost or y.lost)


def same(b: Operands) -> Bound:
    """What keeps the modulus, as casts, signs and conjugates do; not one to parts in FP16."""
    if "complex32" in str(b.attributes.get("dtype")):
        return Bound.unknown(b.shape, f"{b.name}, a cast to ComplexHalf")
    return of_modulus(b.shape, b.first.size, b.first.lost)


def moved(b: Operands) -> list[Bound]:
    """Entries go anywhere."""
    made = over_all(b.tensors, ())
    return [of_modulus(s, made.amax, made.lost) for s in b.shapes]


def modulus(b: Operands) -> Bound:
    """|z|."""
    return Bound.between(b.shape, 0.0, b.first.size * STEPS, b.first.lost)


def parts(b: Operands) -> Bound:
    """Both parts beside each other, each row of which is as long as the modulus."""
    x = b.first
    reach = np.broadcast_to(x.size, x.shape)[..., None]
    return replace(Bound.between(b.shape, -reach, reach, x.lost), lengths=(lambda: x.amax,))


def angle(b: Operands) -> Bound:
    """From -pi to pi."""
    return Bound.between(b.shape, -ANGLE, ANGLE)


def transformed(b: Operands) -> Bound:
    """sum of x_k e^(i f k): the sum of magnitudes, and sqrt(n) ||x||_2 along the last axis.

    A fast transform of n = 2^t terms in FP32 is off by some t u of ||x||_2 sqrt(n), in ||.||_2
    (Higham, section 24.1); of other n it is one of 4 n terms at most.
    """
    x = b.first
    axes = [int(axis) % len(x.shape) for axis in b.attributes["dim"]]
    half = "c2r" in b.op  # of a spectrum, of which the other half is as large
    terms = prod((b.shape if half else x.shape)[axis] for axis in axes)
    times = 2.0 if half else 1.0
    size = np.broadcast_to(x.size, x.shape)
    summed = times * float(size.sum(axis=tuple(axes)).max(initial=0.0))
    by_length = sqrt(terms * times) * x.length if axes == [len(x.shape) - 1] else np.inf
    off = 1 + 32 * (log2(4 * terms) + 2) * sqrt(terms) * UNIT
    how = int(b.attributes.get("normalization", 0))
    reach = min(summed, by_length) * off * SLACK / terms ** (how / 2)
    return of_modulus(b.shape, reach, x.lost)


_MOVED = """
    alias clone detach view _unsafe_view reshape flatten squeeze unsqueeze expand permute transpose
    t slice select split split_with_sizes unbind flip roll repeat index index_select cat stack
""".split()

_BY_FAMILY: Mapping[Callable[[Operands], Bound | list[Bound]], Sequence[str]] = {
    moved: _MOVED,
    paired: ["view_as_complex"],
    composed: ["complex"],
    polar: ["polar"],
    product: ["mul"],
    quotient: ["div"],
    total: ["add", "sub"],
    same: "_to_copy to neg conj _conj _conj_physical conj_physical resolve_conj".split(),
    modulus: ["abs"],
    parts: ["view_as_real"],
    angle: ["angle"],
    transformed: ["_fft_r2c", "_fft_c2c", "_fft_c2r"],
}

BOUNDS = {f"aten.{name}": family for family, names in _BY_FAMILY.items() for name in names}
"""Of operators that read complex values, or make them."""

_MAKERS = frozenset(f"aten.{n}" for n in "view_as_complex complex polar _fft_r2c _fft_c2c".split())


def complex_values(graph: Graph, constants: Callable[[str], Array]) -> frozenset[str]:
    """Values that are complex: constants, what operators make of real ones, and what any make of
    complex ones, if it is not floating; truths are taken for such as well."""
    held = (n for n, v in graph.values.items() if v.kind is Kind.CONSTANT and not v.floating)
    found = {n for n in held if constants(n).dtype.kind == "c"}
    for node in graph.nodes:
        given = node.attributes.values()
        makes = node.op in _MAKERS or "complex" in str(node.attributes.get("dtype"))
        makes |= any(isinstance(number, complex) for number in given)
        if makes or found.intersection(node.inputs.values()):
            found.update(o for o in node.outputs if not graph.values[o].floating)
    return frozenset(found)
