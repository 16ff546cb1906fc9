"""What a plan may change: less than everything, where its constants go into a class that somebody
else has written, and where a user wants operators left alone.

A checkpoint is read by code that nobody edits: it holds tensors by name, and a few numbers in its
configuration. Everything else that a plan could do, an inserted multiplication, another form, a
second copy of a tied tensor, an epsilon of one layer alone, has no place there. So these are not
looked for and then refused, they are constraints: tensors that are tied have one exponent, and so
have all numbers that one setting of the configuration gives; what is written into the code is at 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from halfsafe.graph import Use
from halfsafe.rules import Unknown


@dataclass(frozen=True)
class Restriction:
    """A plan that does not choose freely.

    Of each group in `together`, all are stored at one exponent. What is `pinned` is at 0, with what
    holds it there, in words. Numbers that are `kept` count as if they were rescaled, and stay as
    they are: epsilons too small to be seen. Unless it `inserts`, it folds constants alone.
    """

    together: tuple[tuple[Unknown, ...], ...] = ()
    pinned: Mapping[Unknown, str] = field(default_factory=dict[Unknown, str])
    kept: frozenset[Use] = frozenset()
    inserts: bool = False

    def pinning(self, pinned: Mapping[Unknown, str]) -> Restriction:
        """The same, with more at 0."""
        return replace(self, pinned={**self.pinned, **pinned})
