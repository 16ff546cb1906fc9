"""The user's model before anything is captured: read from a file, checked, run."""

# torch.export is only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from halfsafe.errors import BadInput, first_line
from halfsafe.frontends.torch.constants import Constant, Held
from halfsafe.frontends.torch.dispatched import is_dispatched, plain
from halfsafe.frontends.torch.hollow import hollow, lent
from halfsafe.frontends.torch.program import check_memory, same_draws
from halfsafe.frontends.torch.quiet import exporting
from halfsafe.frontends.torch.weights import Weights, weights_of
from halfsafe.pictures import Takes
from halfsafe.samples import Call, Samples


@dataclass(frozen=True)
class Opened:
    """A user's module in FP32, checked, and its parameters and buffers by all their names.

    `runs` is what has its function: the module itself, or, if tensors of it are elsewhere, a copy
    that reads them when its code asks for them.
    """

    module: nn.Module
    tensors: Mapping[str, Constant]
    runs: nn.Module
    elsewhere: Mapping[str, Constant]

    @classmethod
    def of(cls, module: Any, weights: Weights | None = None) -> Self:
        """Raises BadInput for what is not an nn.Module in eval mode with finite FP32 weights.

        What is on the meta device comes from `weights`, or from where accelerate has put it; all
        else is as it is in the module.
        """
        check_model(module)
        if is_dispatched(module):
            module, own = plain(module)
            if weights is None and any(x.is_meta for x in named_tensors(module).values()):
                weights = own
        held: dict[int, Constant] = {}
        named = named_tensors(module)
        absent = {name: x for name, x in named.items() if x.is_meta}
        if absent or weights is not None:
            _supply(held, absent, weights)
        tensors = {name: held.setdefault(id(x), Held.of(x)) for name, x in named.items()}
        elsewhere = {name: tensors[name] for name in absent}
        return cls(module, tensors, lent(module, elsewhere) if absent else module, elsewhere)

    @property
    def name(self) -> str:
        """What the user calls the class."""
        return type(self.module).__name__

    def to_trace(self, dtype: torch.dtype) -> nn.Module:
        """What torch.export is given: the module itself, or a copy in a dtype without values."""
        whole = dtype == torch.float32 and self.runs is self.module
        return self.module if whole else hollow(self.module, dtype)

    def lent(self, tensors: Mapping[str, Constant], dtype: torch.dtype | None = None) -> nn.Module:
        """A copy with other tensors in place of some, and the rest in a dtype, if one is given."""
        return lent(self.module, {**self.elsewhere, **tensors}, dtype)

    def run(self, call: Call) -> Any:
        """What the user's own model gives on a sample. Raises BadInput for a misfit."""
        return run_model(self.runs, call)


def _supply(
    held: dict[int, Constant], absent: Mapping[str, Tensor], weights: Weights | None
) -> None:
    """Finds what is on the meta device, tied tensors under any of their names.

    Raises BadInput for what is not found, or holds NaN or inf.
    """
    if weights is None:
        raise BadInput(
            f"'{next(iter(absent))}' is on the meta device and has no values: pass weights=, a "
            ".safetensors file, a folder of them, or a function from a tensor's name to the tensor"
        )
    if not absent:
        raise BadInput(
            "weights are given for a model that has its own: build it within torch.device('meta')"
        )
    find = weights_of(weights)
    for name, x in absent.items():
        if id(x) not in held and (source := find(name, x)) is not None:
            held[id(x)] = source
    for name, x in absent.items():
        if id(x) not in held:
            raise BadInput(f"weights has no '{name}': {_how_to_give(name, x)}")
        bad = held[id(x)].range.nonfinite if x.is_floating_point() else 0
        if bad and isinstance(x, nn.Parameter):
            raise BadInput(f"'{name}' holds {bad} NaN or inf: repair the checkpoint first")


def _how_to_give(name: str, x: Tensor) -> str:
    if isinstance(x, nn.Parameter):
        return "are these the weights of this model? Their names have to be those of its state_dict"
    module = name.rpartition(".")[0] or "it"
    return (
        f"a buffer that __init__ computes has to have its values, so make the module '{module}' "
        "again outside of torch.device('meta')"
    )


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


def takes_pictures(samples: Any) -> Takes | None:
    """How a module takes a picture, by samples that it came with; None where they tell nothing."""
    if samples is None:
        return None
    call = Samples(samples).first
    given = [*call.args, *call.kwargs.values()]
    if len(given) != 1 or not isinstance(given[0], Tensor):
        return None
    dtype = np.dtype(str(given[0].dtype).removeprefix("torch."))
    return Takes.of((None, *given[0].shape[1:]), dtype, next(iter(call.kwargs), None))


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
    held = model.state_dict(keep_vars=True).keys()
    for name, tensor in tensors:
        if isinstance(tensor, nn.Parameter) and tensor.dtype == torch.float64:
            raise BadInput(f"'{name}' is float64: pass the FP32 model, model.float()")
        if tensor.dtype in (torch.float16, torch.bfloat16) and name in held:
            raise BadInput(
                f"'{name}' is already {_name(tensor.dtype)}: pass the FP32 model, the values that "
                "rounding lost cannot be found again"
            )
        if tensor.is_meta:
            continue
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
