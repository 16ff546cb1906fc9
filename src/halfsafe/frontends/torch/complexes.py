"""Complex values in a model captured in bfloat16: FP16 has no kernels for them, FP32 has.

A transform takes its operands in FP32, as a model has to cast them itself to run in half precision
at all, and what becomes real again is stored in the deployed format. A factor of 1 stands on either
side, in FP32: complex values have no exponents, so that a plan needs a number there to change.
"""

# Modes are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from halfsafe.frontends.torch.private import tree_leaves, tree_map

_MAKERS = {
    *(
        getattr(torch.fft, name)
        for name in dir(torch.fft)
        if name.lstrip("ih")[:3] in ("fft", "rff")
    ),
    *(torch.stft, torch.istft, Tensor.stft, Tensor.istft),
    *(torch.complex, torch.polar, torch.view_as_complex),
}
"""The functions that make complex values of real ones, and their inverses."""

_MARK = "_halfsafe_narrow"


class ComplexInFloat32(TorchFunctionMode):
    """Casts around complex values, where a model does not do so itself."""

    def __init__(self, deployed: torch.dtype) -> None:
        super().__init__()
        self._deployed = deployed
        self._met = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _MAKERS and not self._met:
            return func(*args, **kwargs)
        given = tree_leaves((args, kwargs))
        if func not in _MAKERS and not has_complex(given):
            return func(*args, **kwargs)
        narrow = any(getattr(x, _MARK, False) for x in given)
        if func in _MAKERS:
            narrow = narrow or any(self._is_deployed(x) for x in given)
            args, kwargs = tree_map(self._entering, (args, kwargs))
        made = func(*args, **kwargs)
        return tree_map(partial(self._leaving, narrow), made)

    def _is_deployed(self, x: Any) -> bool:
        return isinstance(x, Tensor) and x.dtype == self._deployed

    def _entering(self, x: Any) -> Any:
        if isinstance(x, Tensor) and x.is_floating_point():
            return x.to(torch.promote_types(x.dtype, torch.float32)) * 1.0
        return x

    def _leaving(self, narrow: bool, x: Any) -> Any:
        """A complex value is marked, so that what becomes real of it is cast back."""
        if not isinstance(x, Tensor):
            return x
        if x.is_complex():
            self._met = True
            setattr(x, _MARK, narrow)
            return x
        if not x.is_floating_point():
            return x
        return (x * 1.0).to(self._deployed) if narrow else x * 1.0


def has_complex(values: Any) -> bool:
    """Whether any of these is a complex tensor."""
    return any(isinstance(x, Tensor) and x.is_complex() for x in tree_leaves(values))
