"""Copies of a module that own no second one of its tensors.

A module is deeply copied but for its parameters, and for its buffers where they are large: these
are the original's, or memory that nobody touches, or are read from elsewhere each time that
forward() asks for one, and are dropped after the operator. A layer at a time is in memory then.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from halfsafe.frontends.torch.constants import Constant, fresh
from halfsafe.frontends.torch.private import tree_leaves, with_tensors
from halfsafe.frontends.torch.trees import cast


def hollow(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy in a dtype, to be captured: parameters have shapes and types, but no values.

    Buffers are small, and code that is traced may compute with them, so that they have values, but
    for those on the meta device.
    """

    def emptied(x: Tensor) -> Tensor:
        kind = dtype if x.is_floating_point() else x.dtype
        if x.device.type in ("cpu", "meta"):
            made = fresh(x.shape, kind, torch.empty_like(x, device="meta").stride())
        else:
            made = torch.empty_like(x, dtype=kind, requires_grad=False)
        return nn.Parameter(made, requires_grad=False) if isinstance(x, nn.Parameter) else made

    memo = {id(p): emptied(p) for p in module.parameters()}
    memo |= {id(b): emptied(b) for b in module.buffers() if b.is_meta}
    return with_tensors(copy.deepcopy(module, memo), lambda x: cast(x, dtype))


def lent(
    module: nn.Module, tensors: Mapping[str, Constant], dtype: torch.dtype | None = None
) -> nn.Module:
    """A copy that reads each parameter and buffer that is named when its code asks for it.

    All others are the original's, or in a dtype. Where a part of the code holds a parameter other
    than by name, as an LSTM does, it has it in memory as long as the copy lives. What no name leads
    to is NaN.
    """
    tied = _by_identity(module, tensors)
    aliased = {id(x) for part in module.modules() for x in _held_otherwise(part)} & tied.keys()
    memo: dict[int, Any] = {}
    for x in (*module.parameters(), *module.buffers()):
        source = tied.get(id(x))
        if source is None:
            memo[id(x)] = x if dtype is None else _like(x, cast(x, dtype))
        else:
            memo[id(x)] = _like(x, source.read() if id(x) in aliased else _nothing(source))
    made = copy.deepcopy(module, memo)
    for path, part in module.named_modules(remove_duplicate=False):
        for kind in ("_parameters", "_buffers"):
            own: dict[str, Tensor | None] = vars(part)[kind]
            found = {
                name: tensors.get(f"{path}.{name}".lstrip("."), tied[id(x)])
                for name, x in own.items()
                if id(x) in tied and id(x) not in aliased
            }
            if found:
                copied = vars(made.get_submodule(path))
                copied[kind] = _Lent(copied[kind], found)
    return made


class _Lent(dict[str, Any]):
    """A module's tensors by name. Looking one up reads it; all of them together are not read."""

    def __init__(self, own: Mapping[str, Any], sources: Mapping[str, Constant]) -> None:
        super().__init__(own)
        self._sources = sources

    def __getitem__(self, name: str) -> Any:
        own = super().__getitem__(name)
        if name not in self._sources:
            return own
        return _like(own, self._sources[name].read())


def _by_identity(module: nn.Module, tensors: Mapping[str, Constant]) -> dict[int, Constant]:
    """Where each of a module's tensors comes from; tied ones have several names."""
    named = {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
    return {id(x): tensors[name] for name, x in named.items() if name in tensors}


def _held_otherwise(part: nn.Module) -> list[Tensor]:
    """Tensors among a module's plain attributes, containers of them included."""
    rest = {k: v for k, v in vars(part).items() if k not in ("_parameters", "_buffers", "_modules")}
    return [x for x in tree_leaves(rest) if isinstance(x, Tensor)]


def _like(x: Tensor, tensor: Tensor) -> Tensor:
    if tensor is x or not isinstance(x, nn.Parameter):
        return tensor
    return nn.Parameter(tensor, requires_grad=False)


def _nothing(source: Constant) -> Tensor:
    """A tensor of NaN, or of zeros, that takes no memory."""
    broken = source.dtype.is_floating_point or source.dtype.is_complex
    blank = torch.full((), torch.nan if broken else 0, dtype=source.dtype)
    return blank.expand(source.shape)
