"""Torch-TensorRT: a PyTorch module, exported in FP16 and compiled by TensorRT."""

# torch_tensorrt may not be installed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingImports=false

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from halfsafe.engines import HALF, Profile
from halfsafe.engines.exported import shapes_of, tensors_of, to_program
from halfsafe.engines.gpu import gpu
from halfsafe.engines.packages import installed, release
from halfsafe.errors import BadInput, first_line
from halfsafe.frontends.torch.arithmetic import arrays
from halfsafe.frontends.torch.deliver import HalfModule
from halfsafe.frontends.torch.private import tree_leaves
from halfsafe.frontends.torch.quiet import exporting
from halfsafe.samples import Call
from halfsafe.source import Arrays, Runnable


@dataclass(frozen=True)
class TorchTensorrt:
    """What TensorRT has no converter for runs in PyTorch, in the types of the module as well."""

    name: str = "torch-tensorrt"
    profile: Profile = HALF
    needs: str = (
        "a GPU, PyTorch built for CUDA, and the package torch_tensorrt: pip install torch-tensorrt"
    )

    @property
    def version(self) -> str:
        return f"{release('torch_tensorrt')}, torch {torch.__version__}, {gpu()}"

    def available(self) -> bool:
        return installed("torch_tensorrt") and torch.cuda.is_available()

    def build(self, deliverable: Runnable) -> Compiled:
        half = deliverable.half()
        if not isinstance(half, HalfModule):
            raise BadInput(
                f"the engine '{self.name}' runs PyTorch modules, not ONNX: choose 'tensorrt'"
            )
        return Compiled(half)


@dataclass(frozen=True)
class Compiled:
    """A module, compiled for the shapes of each sample."""

    half: HalfModule
    _kept: dict[Any, Any] = field(default_factory=dict[Any, Any])

    def run(self, call: Call) -> Arrays:
        key = shapes_of(self.half, call)
        if key not in self._kept:
            self._kept[key] = _compiled(to_program(self.half, call, "cuda"))
        tensors = [x.cuda() for x in tensors_of(self.half, call)]
        try:
            with torch.no_grad():
                return arrays(tree_leaves(self._kept[key](*tensors)))
        except Exception as error:
            raise BadInput(f"sample {call.number} does not run: {first_line(error)}") from error

    def census(self, call: Call) -> Mapping[str, int]:
        """Of the operators of the exported program, whose types TensorRT keeps."""
        nodes = to_program(self.half, call).graph.nodes
        calls = (node for node in nodes if node.op == "call_function")
        made = (x for node in calls for x in tree_leaves(node.meta.get("val")))
        floating = (x for x in made if isinstance(x, Tensor) and x.is_floating_point())
        return Counter(str(x.dtype).removeprefix("torch.") for x in floating)


def _compiled(program: ExportedProgram) -> Any:
    """Even a single operator goes to TensorRT, and in the type that it has."""
    import torch_tensorrt

    args, _ = program.example_inputs or ((), {})
    try:
        with exporting():
            return torch_tensorrt.dynamo.compile(
                program, arg_inputs=list(args), min_block_size=1, use_explicit_typing=True
            )
    except Exception as error:
        raise BadInput(f"Torch-TensorRT does not take the module: {first_line(error)}") from error
