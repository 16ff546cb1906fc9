"""Up to which magnitude of its operands an engine's kernel gives what FP32 arithmetic gives.

A kernel that stores inside of an operator, or adds up in half precision, is right while what it
stores fits. The operator alone is built once, and run on its operands times 2^-k: the least k of
which the result is that of strict evaluation tells how loud operands may be. A plan for the engine
then keeps them below that, as it keeps any value below the largest number of FP16.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from halfsafe.bisecting.compared import Seen, alike
from halfsafe.bisecting.remainder import Values
from halfsafe.bisecting.trials import Bench
from halfsafe.errors import BadInput
from halfsafe.formats import FLOAT16

BITS = 24
"""Powers of two by which operands are made smaller, at most."""


def limit(bench: Bench, place: int, found: Seen) -> float | None:
    """The largest magnitude of operands of which the last of so many steps is right, a power of two
    below what it was; None where none is found."""
    reads, makes = bench.cuts.reads(place), bench.cuts.makes(place)
    part = bench.network.extract(reads, makes)
    known = {name: found.known[name] for name in reads}
    bench.log.builds += 1

    def wrong(bits: int) -> bool:
        call = bench.network.arguments(_scaled(known, bits))
        try:
            there = running.run(call)
        except BadInput:
            return True
        return not all(map(alike, part.evaluate(call, FLOAT16), map(np.asarray, there)))

    try:
        running = bench.engine.build(part)
    except BadInput:
        return None
    bits = next((k for k in range(BITS) if not wrong(k)), 0)
    return _amax(known) * 2.0**-bits if bits else None


def _scaled(values: Values, bits: int) -> Mapping[str, Any]:
    """Floating values times 2^-bits."""
    return {name: np.ldexp(x, -bits) if _floating(x) else x for name, x in values.items()}


def _amax(values: Values) -> float:
    arrays = (np.abs(np.asarray(x)) for x in values.values() if _floating(x))
    return max((float(x.max(initial=0.0)) for x in arrays), default=0.0)


def _floating(x: Any) -> bool:
    return np.asarray(x).dtype.kind == "f"
