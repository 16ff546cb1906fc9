"""From a framework's model to a graph, and back. A framework is imported when its model arrives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from halfsafe.errors import BadInput, needing
from halfsafe.samples import Call
from halfsafe.sharing import Group
from halfsafe.source import Source


def open_model(
    model: Any,
    call: Call,
    dynamic_shapes: Any = None,
    others: Sequence[Call] = (),
    weights: Any = None,
    *,
    runs: bool = True,
) -> Source:
    """The source for a user's model. Raises BadInput for what no front end takes.

    It is captured on `call`; sizes on which `others` differ from it are left free. `weights` are
    those of a PyTorch module on the meta device. What never `runs` on other samples is not asked at
    which sizes it holds.
    """
    if any(kind.__module__.startswith("torch.") for kind in type(model).__mro__):
        with needing("torch", "PyTorch models"):
            from halfsafe.frontends.torch.source import TorchSource

        return TorchSource.open(model, call, dynamic_shapes, others, weights, runs=runs)
    if weights is not None:
        raise BadInput("weights are given for what is no torch.nn.Module on the meta device")
    if isinstance(model, (str, Path)) and Path(model).is_dir():
        raise BadInput(f"'{model}' is a directory: give it to halfsafe.fix_directory")
    if isinstance(model, (str, Path)) or type(model).__module__.startswith("onnx"):
        with needing("onnx", "ONNX models"):
            from halfsafe.frontends.onnx.source import OnnxSource
        return OnnxSource.open(model, call)
    raise BadInput(
        f"the model is a {type(model).__name__}: pass a torch.nn.Module in eval mode, or an ONNX "
        "model or its path"
    )


def process_group() -> Group:
    """The processes that torchrun, or the user, has started. Raises BadInput without them."""
    from halfsafe.frontends.torch.distributed import TorchGroup

    return TorchGroup.join()
