"""A PyTorch module in FP16 as ONNX models, as people export it by hand."""

# torch.export and torch.onnx are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from halfsafe.engines.torch import on
from halfsafe.errors import BadInput, HalfsafeError, first_line
from halfsafe.frontends.onnx.arithmetic import arrays
from halfsafe.frontends.torch.deliver import HalfModule
from halfsafe.frontends.torch.private import (
    TreeSpec,
    arguments_of,
    tree_flatten,
    tree_unflatten,
)
from halfsafe.frontends.torch.quiet import exporting
from halfsafe.frontends.torch.schema import argument, draws
from halfsafe.samples import Call
from halfsafe.source import Arrays

SWITCHES = ("train", "training", "dropout_p")
"""Arguments of which one that is False or 0 keeps an operator from drawing."""


@dataclass(frozen=True)
class Exports:
    """ONNX models of one module: a sample brings the sizes, so there is one for each set of them.

    Types in the module decide: what is FP16 there is FP16 in the model.
    """

    half: HalfModule
    _kept: dict[Any, Exported] = field(default_factory=dict[Any, "Exported"])

    def of(self, call: Call) -> Exported:
        """The model for the sizes of a sample. Raises BadInput for what the exporter refuses."""
        key = shapes_of(self.half, call)
        if key not in self._kept:
            self._kept[key] = Exported(self.half, to_onnx(to_program(self.half, call)))
        return self._kept[key]


@dataclass(frozen=True)
class Exported:
    """A model whose inputs and outputs are the tensors of the module, in its order."""

    half: HalfModule
    model: ir.Model

    def feeds(self, call: Call) -> dict[str, NDArray[Any]]:
        """A sample as arrays by input name, in the types that the module is given."""
        names = (str(value.name) for value in self.model.graph.inputs)
        given = zip(names, tensors_of(self.half, call), strict=True)
        return {name: x.detach().cpu().numpy() for name, x in given}

    def read(self, outputs: Iterable[Any]) -> Arrays:
        """What the model gives, floating outputs in FP32 or FP64."""
        return arrays(outputs)


def to_program(half: HalfModule, call: Call, device: str = "cpu") -> ExportedProgram:
    """The module, from flat tensors to flat tensors, exported for the sizes of a sample.

    Raises BadInput for what torch.export refuses, and for a module that draws numbers.
    """
    leaves, spec = _flattened(half, call)
    module = Flat(on(device, half), leaves, spec).eval()
    tensors = tuple(x.to(device) for x in tensors_of(half, call))
    try:
        with exporting(), torch.no_grad():
            program = torch.export.export(module, tensors, strict=False)
    except HalfsafeError:
        raise
    except Exception as error:
        raise BadInput(
            f"torch.export refuses {type(half.module).__name__} in FP16: {first_line(error)}; "
            "choose the engine 'torch'"
        ) from error
    drawn = next((node for node in program.graph.nodes if _draws(node)), None)
    if drawn is not None:
        raise BadInput(
            f"{drawn.target} draws random numbers, and other ones where it is exported: choose the "
            "engine 'torch', or pass what it draws as an input"
        )
    return program


def to_onnx(program: ExportedProgram) -> ir.Model:
    """The model that torch.onnx makes of a program. Raises BadInput for what it refuses."""
    try:
        import onnxscript  # noqa: F401  # pyright: ignore
        import torch.onnx
    except ModuleNotFoundError as error:
        raise BadInput(
            f"exporting to ONNX needs the package {error.name}: pip install {error.name}"
        ) from error
    try:
        with exporting(), torch.no_grad():
            made = torch.onnx.export(program, dynamo=True, verbose=False)
    except Exception as error:
        raise BadInput(
            f"torch.onnx.export refuses the module in FP16: {first_line(_cause(error))}; choose "
            "the engine 'torch'"
        ) from error
    assert made is not None
    return made.model


class Flat(nn.Module):
    """A module that is given the tensors of a sample, and gives those of its outputs."""

    def __init__(self, half: HalfModule, leaves: list[Any], spec: TreeSpec) -> None:
        super().__init__()
        self.module = half.module
        self._half, self._spec = half, spec
        self._leaves = [None if isinstance(x, Tensor) else x for x in leaves]
        self._places = [i for i, x in enumerate(leaves) if isinstance(x, Tensor)]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Flat outputs in the order of the original's."""
        leaves = [*self._leaves]
        for i, tensor in zip(self._places, tensors, strict=True):
            leaves[i] = tensor
        args, kwargs = tree_unflatten(leaves, self._spec)
        found = self._half.leaves(self.module(*args, **kwargs))
        return tuple(x for x in found if isinstance(x, Tensor))


def tensors_of(half: HalfModule, call: Call) -> list[Tensor]:
    """The tensors of a sample as the module is given them, flat."""
    return [x for x in _flattened(half, call)[0] if isinstance(x, Tensor)]


def shapes_of(half: HalfModule, call: Call) -> Hashable:
    """What an exported program is for: structure, shapes, types, and all that is no tensor."""
    leaves, spec = _flattened(half, call)
    alike = ((*x.shape, x.dtype) if isinstance(x, Tensor) else repr(x) for x in leaves)
    return str(spec), *alike


def _flattened(half: HalfModule, call: Call) -> tuple[list[Any], TreeSpec]:
    taken = half.taken(call)
    return tree_flatten((tuple(taken.args), taken.kwargs))


def _draws(node: fx.Node) -> bool:
    """Whether an operator draws numbers; one that could drop entries out may be told not to."""
    if not draws(node):
        return False
    known = {each.name for each in arguments_of(node.target)}
    switches = {name: argument(node, name)[0] for name in SWITCHES if name in known}
    return not switches or all(switches.values())


def _cause(error: BaseException) -> BaseException:
    """What an error began with: the exporter wraps it in advice."""
    return error if error.__cause__ is None else _cause(error.__cause__)
