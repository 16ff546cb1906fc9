"""PyTorch's own half kernels: operator by operator, or compiled."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from halfsafe.engines import HALF, Profile
from halfsafe.engines.gpu import gpu
from halfsafe.errors import BadInput
from halfsafe.frontends.torch.deliver import HalfModule
from halfsafe.frontends.torch.private import tree_map_only
from halfsafe.frontends.torch.quiet import exporting
from halfsafe.samples import Call
from halfsafe.source import Arrays, Runnable


@dataclass(frozen=True)
class Eager:
    """On a CPU: slow, and with inf where a GPU has it."""

    name: str = "torch"
    profile: Profile = HALF
    needs: str = "PyTorch"
    device: str = "cpu"

    @property
    def version(self) -> str:
        return f"torch {torch.__version__}"

    def available(self) -> bool:
        return True

    def build(self, deliverable: Runnable) -> Module:
        half = deliverable.half()
        if not isinstance(half, HalfModule):
            raise BadInput(
                f"the engine '{self.name}' runs PyTorch modules, not ONNX: choose 'onnxruntime'"
            )
        moved = on(self.device, half)
        return Module(moved, self.device, self._ready(moved.module))

    def _ready(self, module: Callable[..., Any]) -> Callable[..., Any]:
        return module


@dataclass(frozen=True)
class OnCuda(Eager):
    """On an NVIDIA GPU."""

    name: str = "torch-cuda"
    needs: str = "a GPU, and PyTorch built for CUDA"
    device: str = "cuda"

    @property
    def version(self) -> str:
        return f"torch {torch.__version__}, {gpu()}"

    def available(self) -> bool:
        return torch.cuda.is_available()


@dataclass(frozen=True)
class Compiled(Eager):
    """Through `torch.compile`, which fuses operators and keeps FP32 between them."""

    name: str = "torch-compiled"
    needs: str = "a C++ compiler"

    def available(self) -> bool:
        return shutil.which(os.environ.get("CXX", "g++")) is not None

    def _ready(self, module: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(module)


def on(device: str, half: HalfModule) -> HalfModule:
    """A copy of a module on a device: a candidate is the user's own."""
    with exporting():  # PyTorch warns of its own structures where they are copied
        return replace(half, module=copy.deepcopy(half.module).to(device))


@dataclass(frozen=True)
class Module:
    """A module on its device, and what calls it."""

    half: HalfModule
    device: str
    compute: Callable[..., Any]

    def run(self, call: Call) -> Arrays:
        return self.half.outputs(self._there(call), self.compute)

    def census(self, call: Call) -> Mapping[str, int]:
        """Counted operator by operator, also of what is compiled: that fuses what it likes."""
        return self.half.census(self._there(call))

    def _there(self, call: Call) -> Call:
        args, kwargs = tree_map_only(Tensor, lambda x: x.to(self.device), (call.args, call.kwargs))
        return call.holding(args, kwargs)
