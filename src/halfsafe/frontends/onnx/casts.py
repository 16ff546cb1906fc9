"""Casts between FP32 and FP16 as ONNX Runtime makes them, with the processor's own instruction."""

# onnxruntime is only partly typed.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto

SMALL = 2**12
"""Entries up to which calling ONNX Runtime costs more than it saves."""

Array = NDArray[Any]


def to_half(x: Array) -> Array:
    """FP32 as FP16, to nearest even; what is beyond the range becomes infinite."""
    if x.size > SMALL and x.dtype == np.float32:
        return _casts(TensorProto.FLOAT16).run(None, {"x": x})[0]
    with np.errstate(over="ignore", under="ignore"):
        return x.astype(np.float16)


def through_half(x: Array) -> Array:
    """The same, and back in its own type."""
    if x.size > SMALL and x.dtype == np.float32:
        return _casts(TensorProto.FLOAT16, TensorProto.FLOAT).run(None, {"x": x})[0]
    return to_half(x).astype(x.dtype)


@lru_cache
def _casts(*types: int) -> Any:
    """A session that casts FP32 to each of these types in turn."""
    make, names = onnx.helper, ["x", *(f"to{i}" for i in range(len(types)))]
    nodes = [
        make.make_node("Cast", [names[i]], [names[i + 1]], to=kind) for i, kind in enumerate(types)
    ]
    x = make.make_tensor_value_info("x", TensorProto.FLOAT, None)
    y = make.make_tensor_value_info(names[-1], types[-1], None)
    graph = make.make_graph(nodes, "casts", [x], [y])
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 13)], ir_version=8)
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    options.enable_cpu_mem_arena = False
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
