"""Complex values, each known by its modulus: between minus and plus that, and no sign is meant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import log2, prod, sqrt

import numpy as np

from halfsafe.checking.calls import Call
from halfsafe.checking.known import MORE, Array, Known, V, between, nothing

OFF = 1 + 16 * V
"""What some roundings of both parts add."""


def known_by(shape: tuple[int, ...], modulus: Array | float, lost: str = "") -> Known:
    """A complex value that is no larger, entry by entry."""
    reach = np.asarray(modulus) * OFF
    return between(shape, -reach, reach, lost)


def pair(c: Call) -> Known:
    """a + i b of rows of two."""
    size = np.broadcast_to(c.first.size, c.first.shape)
    whole = np.sqrt(size[..., 0] ** 2 + size[..., 1] ** 2)
    return known_by(c.shape, np.minimum(whole, c.first.length * MORE), c.first.lost)


def compose(c: Call) -> Known:
    """a + i b of two tensors, and r e^(i phi)."""
    x, y = (c.walk[v] for v in c.tensors)
    size = x.size if c.node.op == "aten.polar" else np.hypot(x.size, y.size)
    return known_by(c.shape, size, x.lost or y.lost)


def multiply(c: Call) -> Known:
    """|a| |b|."""
    x, y = c["self"], second(c)
    if not np.isfinite(x.amax) or not np.isfinite(y.amax):
        return c.unknown()
    return known_by(c.shape, x.size * y.size)


def second(c: Call) -> Known:
    """The other operand, a number where it is none of the graph's values."""
    return c["other"] if "other" in c.given else known_by((), abs(c.node.attributes["other"]))


def divide(c: Call) -> Known:
    """|a| over a number."""
    by = c.number("other") or c.node.attributes.get("other")
    return known_by(c.shape, c["self"].size / abs(by), c["self"].lost) if by else c.unknown()


def add(c: Call) -> Known:
    """|a| + |s| |b|."""
    s = c.number("alpha")
    x, y = c["self"], second(c)
    return known_by(c.shape, x.size + (1.0 if s is None else abs(s)) * y.size, x.lost or y.lost)


def keep(c: Call) -> Known:
    """The same modulus, unless parts become FP16."""
    if "complex32" in str(c.node.attributes.get("dtype")):
        return c.unknown()
    return known_by(c.shape, c.first.size, c.first.lost)


def move(c: Call) -> list[Known]:
    """Any entry anywhere."""
    parts = [c.walk[v] for v in c.tensors]
    most, lost = max(p.amax for p in parts), next((p.lost for p in parts if p.lost), "")
    return [known_by(c.graph.values[o].shape, most, lost) for o in c.node.outputs]


def modulus(c: Call) -> Known:
    """|z|."""
    return between(c.shape, 0.0, c.first.size * OFF, c.first.lost)


def parts(c: Call) -> Known:
    """Rows of both parts, as long as the modulus."""
    most, size = c.first.amax, np.broadcast_to(c.first.size, c.first.shape)[..., None]
    return replace(between(c.shape, -size, size, c.first.lost), lengths=(lambda: most,))


def phase(c: Call) -> Known:
    """-pi to pi."""
    return between(c.shape, -np.pi - 1e-6, np.pi + 1e-6)


def transform(c: Call) -> Known:
    """sum |x|, and sqrt(n) ||x||_2 along the last axis; of half a spectrum both halves."""
    x, options = c.first, c.node.attributes
    axes, twice = [int(a) % len(x.shape) for a in options["dim"]], 1 + ("c2r" in c.node.op)
    n = prod((c.shape if twice == 2 else x.shape)[a] for a in axes)
    if not np.isfinite(x.amax):
        return nothing(c.shape, x.lost)
    most = twice * float(np.broadcast_to(x.size, x.shape).sum(tuple(axes)).max())
    if axes == [len(x.shape) - 1]:
        most = min(most, sqrt(n * twice) * x.length)
    most *= (1 + 32 * V * sqrt(n) * (log2(4 * n) + 2)) * MORE
    return known_by(c.shape, most / n ** (int(options.get("normalization", 0)) / 2))


_NAMES: Mapping[Callable[[Call], Known | list[Known]], str] = {
    move: "alias clone detach view _unsafe_view reshape flatten squeeze unsqueeze expand permute "
    "transpose t slice select split split_with_sizes unbind flip roll repeat index index_select "
    "cat stack",
    pair: "view_as_complex",
    compose: "complex polar",
    multiply: "mul",
    divide: "div",
    add: "add sub",
    keep: "_to_copy to neg conj _conj _conj_physical conj_physical resolve_conj",
    modulus: "abs",
    parts: "view_as_real",
    phase: "angle",
    transform: "_fft_r2c _fft_c2c _fft_c2r",
}

RULES = {f"aten.{name}": rule for rule, names in _NAMES.items() for name in names.split()}

BEGINS = ("aten.view_as_complex", "aten.complex", "aten.polar", "aten._fft_r2c", "aten._fft_c2c")
"""What makes complex values of real ones."""
