"""Finds the first place at which something is bad, in as few trials as there can be.

Where `low` is good and `high` is bad, some operator between them turns good into bad, whether or
not it is the only one: every trial keeps that so, and halves the interval. Of n operators that
takes ceil(log2 n) trials at most. Which of the places near the middle is tried makes no difference
to that bound as long as neither side has more than half of what the trials that are left can tell
apart: there the cheapest one is taken.

A *suspect* is tried first, behind and ahead of it. If it is guilty, two trials have found it. The
first suspect that is not ends the guessing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any


def trials_for(operators: int) -> int:
    """ceil(log2 n): how many trials tell n operators apart.

    >>> [trials_for(n) for n in (1, 2, 3, 500, 512)]
    [0, 1, 2, 9, 9]
    """
    return (operators - 1).bit_length() if operators > 1 else 0


def first_bad(
    low: int,
    high: int,
    bad: Callable[[int], bool],
    cost: Callable[[int], Any],
    suspects: Iterable[int] = (),
) -> int:
    """The place p at which `bad(p)` and not `bad(p - 1)`, with low < p <= high.

    `bad(low)` is known to be false and `bad(high)` to be true. A suspect is a place as well.

    >>> first_bad(0, 500, lambda p: p >= 123, abs)
    123
    >>> tried = []
    >>> first_bad(0, 500, lambda p: tried.append(p) or p >= 123, abs, [123]), tried
    (123, [123, 122])
    """
    for suspect in suspects:
        if not low < suspect <= high:
            continue
        if suspect < high:
            if not bad(suspect):
                low = suspect
                break
            high = suspect
        if suspect - 1 > low:
            if bad(suspect - 1):
                high = suspect - 1
                break
            low = suspect - 1
        return suspect
    while high - low > 1:
        place = _middle(low, high, cost)
        if bad(place):
            high = place
        else:
            low = place
    return high


def _middle(low: int, high: int, cost: Callable[[int], Any]) -> int:
    """The cheapest place that leaves no more on either side than the trials left tell apart."""
    reach = 2 ** (trials_for(high - low) - 1)
    return min(range(max(low + 1, high - reach), min(high - 1, low + reach) + 1), key=cost)
