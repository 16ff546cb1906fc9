"""Carrying a value divided by a power of two from one module to another, by hand."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from halfsafe.errors import BadInput

if TYPE_CHECKING:
    from halfsafe.manual.region import Region


@contextmanager
def scaled(model: Any, *, start: str, end: str | Sequence[str], exponent: int) -> Generator[Region]:
    """Within the context, what enters module `start` is divided by 2**exponent up to `end`.

    What `end` gives, or each of several ends where the value branches, is multiplied again, so that
    the model computes the same function. Between the two, biases, means and epsilons are divided as
    the operators' laws ask for; an operator through which no power of two passes is refused by name
    when the model runs. Nothing is exported.

    ``region.fold()`` makes it permanent, without anything more to run, where the model's own
    constants suffice. Otherwise the model is as before when the context ends. Raises BadInput.

    >>> import torch
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> x = torch.randn(3, 4)
    >>> y = net(x)
    >>> with scaled(net, start="0", end="2", exponent=5) as region:
    ...     print(torch.equal(net(x), y))
    ...     region.fold()
    True
    >>> torch.equal(net(x), y)
    True
    """
    try:
        from halfsafe.manual.region import Region
    except ImportError as error:
        raise BadInput("regions are of PyTorch modules: pip install torch") from error
    ends = [end] if isinstance(end, str) else list(end)
    region = Region(model, start, ends, exponent)
    region.attach()
    try:
        yield region
    finally:
        region.detach()
