"""ONNX Runtime, as people run a file in it: whole, and optimised."""

# onnxruntime is only partly typed.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import onnxruntime as ort

from halfsafe.engines import HALF, Profile
from halfsafe.errors import BadInput
from halfsafe.frontends.onnx.deliver import HalfFile
from halfsafe.frontends.onnx.runtime import Sessions, computed_types
from halfsafe.samples import Call
from halfsafe.source import Arrays, Runnable


@dataclass(frozen=True)
class OnCpu:
    """The CPU provider keeps FP32 between the FP16 nodes of a model, and hides what overflows."""

    name: str = "onnxruntime"
    profile: Profile = HALF
    needs: str = "the package onnxruntime"
    provider: str = "CPUExecutionProvider"

    def available(self) -> bool:
        return self.provider in ort.get_available_providers()

    def build(self, deliverable: Runnable) -> File:
        half = deliverable.half()
        if not isinstance(half, HalfFile):
            raise BadInput(
                f"the engine '{self.name}' runs ONNX models, not PyTorch modules: export it, or "
                "choose 'torch'"
            )
        return File(half, self.provider)


@dataclass(frozen=True)
class OnCuda(OnCpu):
    """The CUDA provider."""

    name: str = "onnxruntime-cuda"
    needs: str = "a GPU, and the package onnxruntime-gpu"
    provider: str = "CUDAExecutionProvider"


@dataclass(frozen=True)
class File:
    """A model in sessions of one provider."""

    half: HalfFile
    provider: str

    @cached_property
    def _sessions(self) -> Sessions:
        return Sessions(self.half.model, optimised=True, provider=self.provider)

    def run(self, call: Call) -> Arrays:
        return self.half.read(self._sessions.run(call))

    def census(self, call: Call) -> Mapping[str, int]:
        """Of the nodes that the optimised graph really runs, casts of its own included."""
        return computed_types(self.half.model, call, self.provider)


ENGINES = {"onnxruntime": OnCpu, "onnxruntime-cuda": OnCuda}
