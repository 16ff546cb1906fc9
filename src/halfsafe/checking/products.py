"""Sums of products of what is computed."""

from __future__ import annotations

from math import prod

import numpy as np

from halfsafe.checking.calls import Call, sums
from halfsafe.checking.known import Known, U, between, rounded
from halfsafe.checking.linear import affine, inner, linear, turned


def dot(c: Call) -> Known:
    """<a, b>, or those of the rows of a."""
    return inner(c, *(c.walk[v] for v in c.tensors[:2]))


def outer(c: Call) -> Known:
    """a_i b_j."""
    x, y = (c.walk[v] for v in c.tensors[:2])
    reach = x.amax * y.amax
    return between(c.shape, -reach, reach, x.lost or y.lost) if reach < np.inf else c.unknown()


def added(c: Call) -> Known:
    """b c + a A B, of batches that are added where there are more."""
    first, second = (
        next(c[n] for n in names if n in c.given)
        for names in (("mat1", "batch1", "mat"), ("mat2", "batch2", "vec"))
    )
    a, b = (1.0 if (n := c.number(k)) is None else n for k in ("alpha", "beta"))
    made, x = inner(c, first, second), c["self"]
    n = first.shape[0] if len(first.shape) > len(c.shape) and "batch1" in c.given else 1
    reach = abs(a) * n * made.amax * (1 + sums(n + 4))
    ends = b * x.low, b * x.high
    off = (U * (b not in (0, 1)) * abs(b) + sums(4) * abs(b)) * x.amax + U * reach
    low, high = np.minimum(*ends) - reach - off, np.maximum(*ends) + reach + off
    return between(c.shape, low, high, made.lost or x.lost)


def biased(c: Call) -> Known:
    """c + A B, a linear layer where B and c are constants."""
    held = c.array("self")
    plain = all(c.number(n) in (None, 1.0) for n in ("alpha", "beta"))
    layer = plain and c.array("mat2") is not None and held is not None and held.ndim == 1
    return affine(c) if layer else added(c)


def grouped(c: Call) -> Known:
    """Each row times one of several constant matrices, or 0."""
    stack, x = c.array("mat2"), c["self"]
    if stack is None or stack.ndim != 3 or "bias" in c.given:
        return c.unknown()
    each = [linear(c, x, w.T, None) for w in stack]
    low, high = (np.stack(np.broadcast_arrays(*ends)) for ends in
                 ([y.low for y in each], [y.high for y in each]))  # fmt: skip
    low, high = np.minimum(low.min(0), 0.0), np.maximum(high.max(0), 0.0)
    return between(c.shape, low, high, x.lost)


def contracted(c: Call) -> Known:
    """sum a b over n: n max |a| max |b|, or ||a||_2 ||b||_2 along the last axis of both."""
    read, arrow, kept = str(c.node.attributes["equation"]).replace(" ", "").partition("->")
    parts, letters = [c.walk[v] for v in c.given.values()], read.split(",")
    if not arrow or "." in read or len(letters) != len(parts) or len(parts) > 2:
        return c.unknown()
    sizes = {k: n for w, x in zip(letters, parts, strict=True)
             for k, n in zip(w, x.shape, strict=True)}  # fmt: skip
    gone = [k for k in sizes if k not in kept]
    n = prod(sizes[k] for k in gone)
    if not all(np.isfinite(x.amax) for x in parts):
        return c.unknown()
    found = n * prod(x.amax for x in parts)
    if len(parts) == 2 and len(gone) == 1 and all(w.endswith(gone[0]) for w in letters):
        found = min(found, parts[0].length * parts[1].length)
    reach = found * (1 + sums(n + 2))
    return between(c.shape, -reach, reach, next((x.lost for x in parts if x.lost), ""))


def factored(c: Call) -> Known:
    """a A B, either of them turned."""
    options, pair = c.node.attributes, [c["self"], c["other"]]
    if any(options.get(k) for k in ("transBatchA", "transBatchB")):
        return c.unknown()
    x, y = (turned(z) if options.get(k) else z
            for z, k in zip(pair, ("transA", "transB"), strict=True))  # fmt: skip
    a = 1.0 if (n := c.number("factor")) is None else n
    made = inner(c, x, y)
    reach = abs(a) * made.amax
    return rounded(between(c.shape, -reach, reach, made.lost), U, 0.0)
