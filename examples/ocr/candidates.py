"""FP16 files of the detector as people make them, run value by value, and whole."""

# onnxruntime and onnxconverter_common are only partly typed.
# pyright: basic

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto
from onnxconverter_common import float16 as common
from onnxruntime.transformers import float16 as runtime

from bench import judge
from examples.ocr.detector import Feeds

Array = np.ndarray[Any, Any]
Convert = Callable[[onnx.ModelProto], onnx.ModelProto]


def plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every constant as FP16 rounds it: beyond 65,504 is inf. Sizes of Resize have to stay FP32."""
    keep: dict[str, Any] = {"min_positive_val": 0.0, "max_finite_val": np.inf}
    return _converted(common, model, op_block_list=["Resize"], **keep)


def by_common(model: onnx.ModelProto) -> onnx.ModelProto:
    """With its defaults, which cut constants off at 10,000."""
    return _converted(common, model)


def by_runtime(model: onnx.ModelProto) -> onnx.ModelProto:
    """With its defaults, which cut constants off at 65,504."""
    return _converted(runtime, model)


def by_runtime_without_norms(model: onnx.ModelProto) -> onnx.ModelProto:
    """The operator at fault is listed as one to keep in FP32; its constants are cut off before."""
    blocked = [*runtime.DEFAULT_OP_BLOCK_LIST, "BatchNormalization"]
    return _converted(runtime, model, op_block_list=blocked)


CONVERTERS: dict[str, Convert] = {
    "FP16 before": plain,
    "onnxconverter_common": by_common,
    "onnxruntime.transformers": by_runtime,
    "the same, norms in FP32": by_runtime_without_norms,
}


def _converted(module: Any, model: onnx.ModelProto, **options: Any) -> onnx.ModelProto:
    """What a converter makes of a copy; it warns of each constant that it cuts off."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        return module.convert_float_to_float16(copy.deepcopy(model), keep_io_types=True, **options)


def strict(model: onnx.ModelProto, feeds: Feeds) -> list[Array]:
    """Outputs of an FP16 file, or of an FP32 file as though it were one: each value is rounded.

    No code of halfsafe runs.
    """
    mode: judge.Mode = "own" if judge.has_half(model) else "half"
    return judge.fed(judge.session(judge.Strict(model, mode).model), feeds)


def whole(model: onnx.ModelProto, feeds: Feeds) -> list[Array]:
    """Outputs in ONNX Runtime's CPU provider, which keeps FP32 between the FP16 nodes of a file."""
    return judge.fed(judge.session(model, optimised=True), feeds)


@dataclass(frozen=True)
class Left:
    """What of a file is not in FP16: operators that compute in FP32, and Casts between them."""

    float32: int
    casts: int


def left(model: onnx.ModelProto) -> Left:
    """Counts by the types of values, without constants and the Casts at inputs and outputs."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.output)}
    rim = {v.name for v in (*graph.input, *graph.output)}
    casts = [n for n in graph.node if n.op_type == "Cast"]
    rest = [n for n in graph.node if n.op_type not in ("Cast", "Constant")]
    return Left(
        float32=sum(kinds.get(n.output[0]) == TensorProto.FLOAT for n in rest),
        casts=sum(not rim & {n.input[0], n.output[0]} for n in casts),
    )
