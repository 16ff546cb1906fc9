"""Modules rewritten by hand to compute through a smaller range: ``f * (W (x/f) + b/f) = W x + b``.

The textbook identity ``f * conv(x/f) - (f - 1) * b`` is the same on paper, and cancels where b is
large beside W x/f. Here every term is divided alike, which for a power of two changes no bit.
"""

# torch's own modules are only partly typed.
# pyright: reportPrivateUsage=false, reportUnknownMemberType=false

from __future__ import annotations

import copy
from collections import OrderedDict
from math import ceil, log2
from typing import TYPE_CHECKING, Any, Literal, cast

from halfsafe.errors import BadInput

try:
    from torch import Tensor, nn
    from torch.nn import functional as F

    from halfsafe.frontends.torch.private import (
        PARTS_OF_FORWARD,
        BatchNorm,
        check_dimensions,
        convolve,
        output_padding,
    )
except ImportError as error:  # pragma: no cover
    raise BadInput("halfsafe.manual works on PyTorch modules: pip install torch") from error

Side = Literal["full", "scaled"]
"""Whether a tensor comes or goes as it is, or divided by the factor."""


def rescaled(
    module: nn.Module,
    exponent: int | None = None,
    *,
    factor: float | None = None,
    input: Side = "full",
    output: Side = "full",
) -> nn.Module:
    """A copy of a module that computes the same function of values divided by 2**exponent.

    Takes Conv, ConvTranspose, Linear and BatchNorm (in eval mode) of any dimension, and a
    Sequential of them, with ReLU, pooling and other homogeneous modules between. The copy has the
    keys of the module's state_dict, and takes one. Bit-equal in FP32 for any exponent at which
    nothing becomes subnormal. A `factor` that is no power of two costs a rounding where one side is
    scaled and the other is not, and one of the bias; otherwise the next power of two stands in.

    With ``output="scaled"`` the result stays divided, for whatever follows: homogeneous operators
    (ReLU, max pooling, additions of values divided alike) hand it on, and a module rescaled with
    ``input="scaled"`` reads it. Raises BadInput for other modules, and in training.

    >>> import torch
    >>> conv, x = torch.nn.Conv2d(3, 4, 3), torch.randn(1, 3, 8, 8)
    >>> torch.equal(rescaled(conv, 5)(x), conv(x))
    True
    """
    if (exponent is None) == (factor is None):
        raise BadInput("give either an exponent, for the factor 2**exponent, or a factor")
    found = 2.0**exponent if exponent is not None else cast("float", factor)
    if not 0.0 < found < float("inf"):
        raise BadInput(f"the factor is {found}: give a positive number")
    for name, side in (("input", input), ("output", output)):
        if side not in ("full", "scaled"):
            raise BadInput(f"{name} is {side!r}: say 'full' or 'scaled'")
    if input == output == "full":
        found = _next_power(found)
    if type(module) is nn.Sequential:
        return _chain(module, found, input, output)
    return _one(module, found, input, output)


def _next_power(factor: float) -> float:
    return 2.0 ** ceil(log2(factor))


def _chain(module: nn.Sequential, factor: float, input: Side, output: Side) -> nn.Sequential:
    """The first module that is not homogeneous divides, the last one multiplies."""
    parts = dict(module.named_children())
    affine = [name for name, part in parts.items() if type(part) not in HOMOGENEOUS]
    if not affine:
        raise BadInput("every module of the Sequential is homogeneous, or there is none")
    made = {
        name: _one(
            part,
            factor,
            input if name == affine[0] else "scaled",
            output if name == affine[-1] else "scaled",
        )
        if name in affine
        else copy.deepcopy(part)
        for name, part in parts.items()
    }
    return nn.Sequential(OrderedDict(made)).train(module.training)


def _one(module: nn.Module, factor: float, input: Side, output: Side) -> nn.Module:
    base = next((base for base in _FORMS if _computes_as(module, base)), None)
    if base is None:
        names = ", ".join(base.__name__ for base in _FORMS)
        raise BadInput(
            f"a {type(module).__name__} cannot be rescaled by hand, only {names}, or a Sequential "
            "of them; halfsafe.fix follows whole networks"
        )
    if isinstance(module, BatchNorm) and not module.track_running_stats:
        raise BadInput("a BatchNorm without running statistics normalises what it is given")
    made: Any = copy.deepcopy(module)
    made.__class__ = _FORMS[base]
    made.factor, made.input, made.output = factor, input, output
    return made


def _computes_as(module: nn.Module, base: type[nn.Module]) -> bool:
    """Whether a module is of a class, or of a subclass that computes nothing else."""
    names = ("forward", *PARTS_OF_FORWARD)
    return isinstance(module, base) and all(
        getattr(type(module), name, None) is getattr(base, name, None) for name in names
    )


HOMOGENEOUS = (
    nn.Identity,
    nn.ReLU,
    nn.LeakyReLU,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.Upsample,
    nn.Flatten,
)
"""Modules of which f(x/s) = f(x)/s: they stand in a chain as they are."""


class _Rescaled(nn.Module if TYPE_CHECKING else object):
    """What a rescaled module does before and after; parameters are as they were."""

    factor: float
    input: Side
    output: Side

    @property
    def inner(self) -> float:
        """By what values inside are divided: the next power of two, where the choice is free."""
        return self.factor if self.input == "scaled" else _next_power(self.factor)

    def down(self, x: Tensor) -> Tensor:
        return x if self.input == "scaled" else x / self.inner

    def up(self, y: Tensor) -> Tensor:
        wanted = self.factor if self.output == "scaled" else 1.0
        return y if wanted == self.inner else y * (self.inner / wanted)

    def shift(self, term: Tensor | None) -> Tensor | None:
        """A bias or a mean, divided; it has an entry a channel."""
        return None if term is None else term / self.inner

    def extra_repr(self) -> str:
        sides = f"factor={self.factor:g}, input={self.input}, output={self.output}"
        return f"{super().extra_repr()}, {sides}"


class _RescaledConv(_Rescaled):
    def forward(self, input: Tensor) -> Tensor:
        conv: Any = self
        return self.up(convolve(conv, self.down(input), conv.weight, self.shift(conv.bias)))


class RescaledConv1d(_RescaledConv, nn.Conv1d):
    """``f * (W (x/f) + b/f)``."""


class RescaledConv2d(_RescaledConv, nn.Conv2d):
    """``f * (W (x/f) + b/f)``."""


class RescaledConv3d(_RescaledConv, nn.Conv3d):
    """``f * (W (x/f) + b/f)``."""


class _RescaledConvTranspose(_Rescaled):
    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        conv: Any = self
        spatial = len(conv.kernel_size)
        padding = output_padding(conv, input, output_size)
        compute = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[spatial - 1]
        y = compute(
            self.down(input),
            conv.weight,
            self.shift(conv.bias),
            conv.stride,
            conv.padding,
            padding,
            conv.groups,
            conv.dilation,
        )
        return self.up(y)


class RescaledConvTranspose1d(_RescaledConvTranspose, nn.ConvTranspose1d):
    """``f * (W' (x/f) + b/f)``."""


class RescaledConvTranspose2d(_RescaledConvTranspose, nn.ConvTranspose2d):
    """``f * (W' (x/f) + b/f)``."""


class RescaledConvTranspose3d(_RescaledConvTranspose, nn.ConvTranspose3d):
    """``f * (W' (x/f) + b/f)``."""


class _RescaledAffine(_Rescaled):
    def forward(self, input: Tensor) -> Tensor:
        linear: Any = self
        return self.up(F.linear(self.down(input), linear.weight, self.shift(linear.bias)))


class RescaledLinear(_RescaledAffine, nn.Linear):
    """``f * (W (x/f) + b/f)``."""


class _RescaledBatchNorm(_Rescaled):
    def forward(self, input: Tensor) -> Tensor:
        norm: Any = self
        if norm.training:
            raise BadInput("a rescaled BatchNorm is for inference: call .eval() first")
        check_dimensions(norm, input)
        mean, bias = self.shift(norm.running_mean), self.shift(norm.bias)
        x = self.down(input)
        return self.up(
            F.batch_norm(x, mean, norm.running_var, norm.weight, bias, False, 0.0, norm.eps)
        )


class RescaledBatchNorm1d(_RescaledBatchNorm, nn.BatchNorm1d):
    """``f * ((x/f - m/f) / sqrt(v + eps) * w + b/f)``."""


class RescaledBatchNorm2d(_RescaledBatchNorm, nn.BatchNorm2d):
    """``f * ((x/f - m/f) / sqrt(v + eps) * w + b/f)``."""


class RescaledBatchNorm3d(_RescaledBatchNorm, nn.BatchNorm3d):
    """``f * ((x/f - m/f) / sqrt(v + eps) * w + b/f)``."""


_FORMS: dict[type[nn.Module], Any] = {
    nn.Conv1d: RescaledConv1d,
    nn.Conv2d: RescaledConv2d,
    nn.Conv3d: RescaledConv3d,
    nn.ConvTranspose1d: RescaledConvTranspose1d,
    nn.ConvTranspose2d: RescaledConvTranspose2d,
    nn.ConvTranspose3d: RescaledConvTranspose3d,
    nn.Linear: RescaledLinear,
    nn.BatchNorm1d: RescaledBatchNorm1d,
    nn.BatchNorm2d: RescaledBatchNorm2d,
    nn.BatchNorm3d: RescaledBatchNorm3d,
}
