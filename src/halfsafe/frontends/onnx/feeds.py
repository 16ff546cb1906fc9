"""A sample as what a model's inputs take."""

# onnx_ir and onnxruntime are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from halfsafe.errors import BadInput
from halfsafe.frontends.onnx.values import Elements
from halfsafe.samples import Call

Array = NDArray[Any]


def feeds_of(model: ir.Model, call: Call) -> dict[str, Array]:
    """A sample as arrays by input name. Raises BadInput for missing, unknown or misfit ones."""
    inputs = [value for value in model.graph.inputs if value.name not in model.graph.initializers]
    names = [str(value.name) for value in inputs]
    if len(call.args) > len(names):
        raise BadInput(f"sample {call.number} has {len(call.args)} arrays for inputs {names}")
    given = {**dict(zip(names, call.args, strict=False)), **call.kwargs}
    if set(given) != set(names):
        raise BadInput(f"sample {call.number} has {sorted(given)}, the model takes {names}")
    found = {str(v.name): _given(v, given[str(v.name)], call.number) for v in inputs}
    if not call.computed:
        _check_finite(found, call.number)
    return found


def _given(value: ir.Value, x: Any, sample: int) -> Any:
    """What a sample has for an input: an array, several for a sequence, None for what is missing.

    Raises BadInput for a misfit.
    """
    kind = value.type
    if isinstance(kind, ir.OptionalType):
        if x is None:
            return None
        kind = kind.elem_type
    if not isinstance(kind, ir.SequenceType):
        return _fitting(value, np.asarray(x), sample)
    if not isinstance(x, (list, tuple)):
        raise BadInput(
            f"sample {sample}: input '{value.name}' is a sequence: pass a list of arrays"
        )
    return Elements((_fitting(value, np.asarray(e), sample) for e in x), kind.dtype.numpy())


def _fitting(value: ir.Value, x: Array, sample: int) -> Array:
    """An array of the input's own type; NumPy's default FP64 becomes FP32."""
    expected = value.dtype.numpy() if value.dtype else x.dtype
    wider = {np.dtype(np.float32): (np.float64,), np.dtype(np.float16): (np.float64, np.float32)}
    if x.dtype in wider.get(np.dtype(expected), ()):
        with np.errstate(over="ignore"):
            x = x.astype(expected)
    if x.dtype != expected:
        raise BadInput(
            f"sample {sample}: input '{value.name}' is {x.dtype}, the model takes {expected}"
        )
    return np.asarray(x, order="C")


def _check_finite(found: Mapping[str, Any], sample: int) -> None:
    for name, given in found.items():
        arrays = given if isinstance(given, Elements) else [given]
        bad = sum(int((~np.isfinite(x)).sum()) for x in arrays if _floating(x))
        if bad:
            raise BadInput(f"sample {sample}: '{name}' holds {bad} NaN or inf: pass finite ones")


def _floating(x: Any) -> bool:
    return x is not None and x.dtype.kind == "f"
