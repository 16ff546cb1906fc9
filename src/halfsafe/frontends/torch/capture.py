"""Captures a PyTorch model with torch.export, seen as the low-precision model that it becomes.

The capture is made on a bfloat16 copy without values, so that the model's own upcasts to FP32 are
visible; a float16 copy would not do, because models carry float16-only clamps. It is then read with
the FP32 weights, and must be bit-equal to the user's model on the first sample; if it is not, a
capture in FP32 is tried, where those upcasts cannot be seen.
"""

# torch.export is only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import inf
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from halfsafe.errors import BadInput, CaptureError, first_line
from halfsafe.frontends.torch.caches import is_cache, opening
from halfsafe.frontends.torch.complexes import ComplexInFloat32, has_complex
from halfsafe.frontends.torch.door import check_call
from halfsafe.frontends.torch.exported import read_exported
from halfsafe.frontends.torch.lines import is_own
from halfsafe.frontends.torch.model import Opened
from halfsafe.frontends.torch.private import registered
from halfsafe.frontends.torch.program import Program
from halfsafe.frontends.torch.quiet import exporting
from halfsafe.frontends.torch.sizes import dynamic_where_they_differ, mark_held
from halfsafe.frontends.torch.split import splitting
from halfsafe.frontends.torch.trees import cast, difference, flat, structure, unknown_in
from halfsafe.samples import Call


@dataclass(frozen=True)
class Capture:
    """A program, how far its FP32 outputs are from the model's, and what the user should know."""

    program: Program
    difference: float
    notes: tuple[str, ...]


def capture(
    model: nn.Module | Opened,
    call: Call,
    dynamic_shapes: Any = None,
    others: Sequence[Call] = (),
    *,
    runs: bool = True,
) -> Capture:
    """Captures a model for calls like `call`, and of any size on axes on which `others` differ.

    A capture in bfloat16 that is as close to the model as one in FP32 is preferred, since it shows
    the model's own upcasts. What never `runs` on others is not asked at which sizes it holds.
    Raises BadInput for a model or sample that cannot be used as it is, and CaptureError, with the
    line of the user's code, when torch.export cannot follow the model.
    """
    opened = model if isinstance(model, Opened) else Opened.of(model)
    check_call(call)
    asked = _Asked(opened, call, opened.run(call), dynamic_shapes)
    found = None
    if dynamic_shapes is None:
        found = _of_any_size(asked, others)
    if found is None:
        found = _closest(asked)
    if runs:
        mark_held(found.program.fx, call, others, partial(_holds, opened, found))
    return found


@dataclass(frozen=True)
class _Asked:
    """What is to be captured: a model on a sample, which gives the reference.

    With `free_sizes`, sizes of 0 and 1 are no special ones.
    """

    opened: Opened
    call: Call
    reference: Any
    dynamic_shapes: Any
    free_sizes: bool = False

    @cached_property
    def unknown(self) -> Mapping[type, tuple[Any, Any] | None]:
        """What the model gives, and torch.export does not know: dataclasses and caches."""
        found = unknown_in(self.reference)
        return {kind: opening(kind) if is_cache(kind) else None for kind in found}

    def off(self, program: Program) -> float:
        """How far a captured program is from the model."""
        return difference(program.run(self.call), flat(self.reference))


def _of_any_size(asked: _Asked, others: Sequence[Call]) -> Capture | None:
    """A capture of any size on axes on which samples differ; None where there is no such one."""
    shapes = dynamic_where_they_differ(asked.opened.module, asked.call, others)
    if shapes is None:
        return None
    with suppress(CaptureError, BadInput):
        found = _closest(replace(asked, dynamic_shapes=shapes, free_sizes=True))
        if all(_holds(asked.opened, found, other) for other in others[:2]):
            return found
    return None


def _holds(opened: Opened, found: Capture, call: Call) -> bool:
    """Whether a captured graph gives on a call what the model gives. Raises where that fails."""
    wanted = flat(opened.run(call))
    try:
        made = found.program.run(call)
    except BadInput:
        return False
    return difference(made, wanted) <= max(_SAME_FUNCTION, 2 * found.difference)


_SAME_FUNCTION = 1e-4
"""How far, over their largest entry, outputs may be from the model's at a size not captured."""


def _closest(asked: _Asked) -> Capture:
    """A capture in bfloat16, or, where that is not what the model computes, one in FP32."""
    reason = "it is not bit-equal to the model"
    low, distance = None, inf
    try:
        low = _export(asked, torch.bfloat16)
        distance = asked.off(low)
    except (CaptureError, RuntimeError) as error:  # some kernels take bfloat16 only
        low, reason = None, first_line(error)
    if low is not None and distance == 0:
        return Capture(low, 0.0, ())
    full = _export(asked, torch.float32)
    full_distance = asked.off(full)
    odd = _that_stays_float32(full)
    if low is not None and distance <= max(2 * full_distance, _ROUNDED if odd else 0.0):
        return Capture(low, distance, (_inexact(distance),))
    if odd:
        raise CaptureError(
            f"{asked.opened.name} computes with {odd}, which has to stay in FP32, and a capture "
            f"in bfloat16, which would show what else does, fails: {reason}"
        )
    note = f"the model's own casts to FP32 are not seen, since a bfloat16 capture fails: {reason}"
    notes = (note, _inexact(full_distance)) if full_distance else (note,)
    return Capture(full, full_distance, notes)


_ROUNDED = 2.0**-21
"""How far, over their largest entry, outputs may be from the model's by other kernels for complex
values: a few roundings of FP32."""


def _that_stays_float32(program: Program) -> str:
    """What has to be told from what is stored, which a capture in FP32 does not show."""
    odd = "complex values" if has_complex([n.meta.get("val") for n in program.fx.nodes]) else ""
    return odd or ("torch.cond" if program.bodies else "")


def _inexact(distance: float) -> str:
    return (
        f"the captured graph differs from the model by {distance:.1e} in FP32 (kernels that fuse "
        "what torch.export does not); the proof compares with the captured graph"
    )


def _export(asked: _Asked, dtype: torch.dtype) -> Program:
    exported = _exported(asked, dtype)
    known = structure(asked.reference) if asked.unknown else None
    try:
        parts = _decomposed(asked, exported, splitting())
        return read_exported(parts, asked.opened.tensors, dtype, known)
    except Exception:  # a composite that decides by its data, say, stays whole
        parts = _decomposed(asked, exported, {})
        return read_exported(parts, asked.opened.tensors, dtype, known)


def _exported(asked: _Asked, dtype: torch.dtype) -> ExportedProgram:
    """The model as torch.export sees it in a dtype."""
    args, kwargs = cast((asked.call.args, asked.call.kwargs), dtype)
    try:
        with _ready(asked), _casting(dtype):
            source = asked.opened.to_trace(dtype)
            return torch.export.export(
                source, args, kwargs, dynamic_shapes=asked.dynamic_shapes, strict=False
            )
    except Exception as error:
        raise CaptureError(_explain(asked.opened.name, error)) from error


def _decomposed(
    asked: _Asked, exported: ExportedProgram, table: Mapping[Any, Callable[..., Any]]
) -> ExportedProgram:
    """The program in functional ATen operators, split as the table says."""
    try:
        with _ready(asked):
            return exported.run_decompositions(dict(table))
    except Exception as error:
        raise CaptureError(_explain(asked.opened.name, error)) from error


@contextmanager
def _ready(asked: _Asked) -> Generator[None]:
    """Within it, torch.export runs without gradients, and looks inside what the model gives."""
    with exporting(free_sizes=asked.free_sizes), registered(asked.unknown), torch.no_grad():
        yield


def _casting(dtype: torch.dtype) -> AbstractContextManager[object]:
    """Casts around complex values where a model is captured in less than FP32."""
    return nullcontext() if dtype == torch.float32 else ComplexInFloat32(dtype)


def _explain(name: str, error: Exception) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not is_own(f.filename)]
    where = f" at {frames[-1].filename}:{frames[-1].lineno} ({frames[-1].line})" if frames else ""
    return (
        f"torch.export cannot follow {name}{where}: {first_line(error)}; "
        "replace data-dependent Python by torch.where or torch.cond, or pass a wrapper module "
        "whose forward() is the exportable part"
    )
