"""The user's model before anything is captured: read from a file, checked, run."""

# torch.export is only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from halfsafe.errors import BadInput, first_line
from halfsafe.frontends.torch.constants import Constant, Held
from halfsafe.frontends.torch.hollow import hollow
from halfsafe.frontends.torch.program import check_memory, same_draws
from halfsafe.frontends.torch.quiet import exporting
from halfsafe.samples import Call


@dataclass(frozen=True)
class Opened:
    """A user's module in FP32, checked, and what its parameters and buffers are by all their names.

    `runs` is what has its function: the module itself.
    """

    module: nn.Module
    tensors: Mapping[str, Constant]
    runs: nn.Module

    @classmethod
    def of(cls, module: Any) -> Self:
        """Raises BadInput for what is not an nn.Module in eval mode with finite FP32 weights."""
        check_model(module)
        held: dict[int, Constant] = {}
        named = named_tensors(module)
        tensors = {name: held.setdefault(id(x), Held.of(x)) for name, x in named.items()}
        return cls(module, tensors, module)

    @property
    def name(self) -> str:
        """What the user calls the class."""
        return type(self.module).__name__

    def to_trace(self, dtype: torch.dtype) -> nn.Module:
        """What torch.export is given: the module itself, or a copy in a dtype without values."""
        whole = dtype == torch.float32 and self.runs is self.module
        return self.module if whole else hollow(self.module, dtype)

    def run(self, call: Call) -> Any:
        """What the user's own model gives on a sample. Raises BadInput for a misfit."""
        return run_model(self.runs, call)


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; a tied one has several."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def load_exported(path: Path) -> tuple[nn.Module, Any]:
    """The module in a .pt2 file, and the example inputs that torch.export keeps with it.

    The inputs are None if they are both positional and named. Raises BadInput.
    """
    if not path.is_file():
        raise BadInput(f"there is no file '{path}'")
    try:
        with exporting():
            exported = torch.export.load(path)
            module = exported.module()
    except Exception as error:
        raise BadInput(
            f"cannot read '{path}' with torch.export.load: {first_line(error)}"
        ) from error
    for part in module.modules():
        part.training = False  # an exported program has no modes, and says that it trains
    args, kwargs = exported.example_inputs or ((), {})
    return module, None if bool(args) == bool(kwargs) else args or kwargs


def run_model(model: Callable[..., Any], call: Call) -> Any:
    """The user's own model on one sample, in FP32. Raises BadInput when the sample does not fit."""
    try:
        with torch.no_grad(), same_draws():
            return model(*call.args, **call.kwargs)
    except Exception as error:
        check_memory(call, error)
        raise BadInput(
            f"{type(model).__name__} itself fails on sample {call.number}: {first_line(error)}; "
            "pass what its forward() takes"
        ) from error


def check_model(model: Any) -> None:
    """Raises BadInput for what is not an nn.Module in eval mode with finite FP32 weights."""
    if not isinstance(model, nn.Module):
        raise BadInput(f"the model is a {type(model).__name__}, not a torch.nn.Module")
    if model.training:
        raise BadInput(
            f"{type(model).__name__} is in training mode: call model.eval() first, since only "
            "inference can be rescaled exactly"
        )
    inner = next((name for name, m in model.named_modules() if m.training), None)
    if inner is not None:
        raise BadInput(f"submodule '{inner}' is in training mode: call model.eval() first")
    tensors = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in tensors:
        if isinstance(tensor, nn.Parameter) and tensor.dtype == torch.float64:
            raise BadInput(f"'{name}' is float64: pass the FP32 model, model.float()")
        if tensor.dtype in (torch.float16, torch.bfloat16):
            raise BadInput(
                f"'{name}' is already {_name(tensor.dtype)}: pass the FP32 model, the values that "
                "rounding lost cannot be found again"
            )
        if tensor.is_floating_point() and not _is_finite(tensor):
            allowed = not isinstance(tensor, nn.Parameter) and not bool(torch.isnan(tensor).any())
            if not allowed:  # a buffer may hold the -inf of an attention mask
                bad = int((~torch.isfinite(tensor)).sum())
                raise BadInput(f"'{name}' holds {bad} NaN or inf: repair the checkpoint first")


def _is_finite(x: Tensor) -> bool:
    """Whether all entries are finite, found without a second tensor: NaN spoils both extremes."""
    if not x.numel():
        return True
    least, largest = torch.aminmax(x.detach())
    return bool(torch.isfinite(least) & torch.isfinite(largest))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
