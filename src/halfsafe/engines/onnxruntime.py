"""ONNX Runtime, as people run a file in it: whole, and optimised."""

# onnxruntime is only partly typed.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import onnxruntime as ort

from halfsafe.engines import HALF, Profile
from halfsafe.engines.gpu import gpu
from halfsafe.engines.packages import release
from halfsafe.engines.served import Built, Served, Serving, serving
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
    notes: tuple[str, ...] = (
        "ONNX Runtime's CPU provider computes in FP32 between FP16 operators: what overflows in "
        "FP16 elsewhere may be finite here",
    )

    @property
    def version(self) -> str:
        return f"onnxruntime {ort.__version__}"

    def available(self) -> bool:
        return self.provider in ort.get_available_providers()

    def build(self, deliverable: Runnable) -> File:
        return File(serving(deliverable, self.name), self.provider, self.notes)


@dataclass(frozen=True)
class OnCuda(OnCpu):
    """The CUDA provider."""

    name: str = "onnxruntime-cuda"
    needs: str = "a GPU, and the package onnxruntime-gpu: pip install onnxruntime-gpu"
    provider: str = "CUDAExecutionProvider"
    notes: tuple[str, ...] = ()

    @property
    def version(self) -> str:
        return f"onnxruntime {ort.__version__}, {gpu()}"


@dataclass(frozen=True)
class OnTensorrt(OnCuda):
    """The TensorRT provider, which is told that it may compute in FP16."""

    name: str = "onnxruntime-tensorrt"
    needs: str = "a GPU, TensorRT, and the package onnxruntime-gpu: pip install onnxruntime-gpu"
    provider: str = "TensorrtExecutionProvider"

    @property
    def version(self) -> str:
        return f"onnxruntime {ort.__version__}, {release('tensorrt')}, {gpu()}"


@dataclass(frozen=True)
class File:
    """Models in sessions of one provider."""

    serving: Serving
    provider: str
    notes: tuple[str, ...] = ()

    @cached_property
    def _built(self) -> Built[Sessions]:
        return Built(self.serving, lambda served, _: self._sessions(served))

    def _sessions(self, served: Served) -> Sessions:
        return Sessions(served.model, optimised=True, provider=self.provider)

    def run(self, call: Call) -> Arrays:
        served, feeds, sessions = self._built.of(call)
        return served.read(sessions.fed(feeds, call.number))

    def census(self, call: Call) -> Mapping[str, int]:
        """Of the nodes that the optimised graph really runs, casts of its own included."""
        served, feeds, _ = self._built.of(call)
        return computed_types(served.model, feeds, self.provider)
