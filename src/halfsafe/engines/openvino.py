"""OpenVINO on a CPU: asked for FP16, it computes in what the processor does well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from typing import Any

from halfsafe.engines import HALF, Profile
from halfsafe.engines.packages import installed, release
from halfsafe.engines.served import Built, Feeds, Served, Serving, saved, serving
from halfsafe.errors import BadInput
from halfsafe.formats import BFLOAT16
from halfsafe.samples import Call
from halfsafe.source import Arrays, Runnable

HINT = "INFERENCE_PRECISION_HINT"
"""In which precision a device is to compute; read back, in which it does."""

NAMES = {
    "f16": "float16", "bf16": "bfloat16", "f32": "float32", "f64": "float64", "boolean": "bool",
    "i8": "int8", "i32": "int32", "i64": "int64", "u8": "uint8",
}  # fmt: skip
"""OpenVINO's names of types, as others call them."""

STILL = {"Const", "Input", "Output"}
"""Nodes of a compiled graph that compute nothing."""


@dataclass(frozen=True)
class OnCpu:
    """Its profile is that of the precision in which the device really computes."""

    name: str = "openvino"
    needs: str = "the package openvino: pip install openvino"
    device: str = "CPU"

    @property
    def profile(self) -> Profile:
        """bfloat16, where FP16 is computed so. FP32 stores all that FP16 does."""
        wide = installed("openvino") and computed(self.device) == "bfloat16"
        return Profile(stores=BFLOAT16) if wide else HALF

    @property
    def version(self) -> str:
        if not installed("openvino"):
            return release("openvino")
        model = _core().get_property(self.device, "FULL_DEVICE_NAME")
        return f"{release('openvino')}, {model}, computes in {computed(self.device)}"

    def available(self) -> bool:
        return installed("openvino")

    def build(self, deliverable: Runnable) -> Compiled:
        return Compiled(serving(deliverable, self.name), self.device)


@dataclass(frozen=True)
class Compiled:
    """Models, compiled for a device."""

    serving: Serving
    device: str

    @cached_property
    def _built(self) -> Built[Any]:
        return Built(self.serving, self._compiled)

    def _compiled(self, served: Served, _: Feeds) -> Any:
        core = _core()
        with saved(served.model) as path:
            try:
                return core.compile_model(core.read_model(path), self.device, {HINT: "f16"})
            except Exception as error:
                raise BadInput(f"OpenVINO does not take the model: {_reason(error)}") from error

    @property
    def notes(self) -> tuple[str, ...]:
        kind = computed(self.device)
        if kind == "float16":
            return ()
        return (
            f"OpenVINO was asked for float16 and computes in {kind} on this {self.device}: what "
            "overflows in FP16 elsewhere may be finite here",
        )

    def run(self, call: Call) -> Arrays:
        served, feeds, compiled = self._built.of(call)
        try:
            found = compiled(dict(feeds))
        except Exception as error:
            raise BadInput(f"sample {call.number} does not fit: {_reason(error)}") from error
        return served.read(found[i] for i in range(len(found)))

    def census(self, call: Call) -> Mapping[str, int]:
        """Of the nodes of the compiled graph, by the precision in which each computes."""
        _, _, compiled = self._built.of(call)
        nodes = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
        kinds = (n["runtimePrecision"].value for n in nodes if n["layerType"].value not in STILL)
        return Counter(NAMES.get(kind, kind) for kind in map(str, kinds))


@cache
def computed(device: str) -> str:
    """In which type a device computes that is asked for FP16, as it says of a small network."""
    library, operators = import_module("openvino"), import_module("openvino.opset13")
    x = operators.parameter([1, 4], library.Type.f16)
    model = library.Model([operators.relu(x)], [x], "probe")
    found = _core().compile_model(model, device, {HINT: "f16"}).get_property(HINT)
    return NAMES.get(str(found.to_string()), str(found.to_string()))


@cache
def _core() -> Any:
    return import_module("openvino").Core()


def _reason(error: BaseException) -> str:
    """The last line: those before it are where in OpenVINO's sources it was thrown."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
