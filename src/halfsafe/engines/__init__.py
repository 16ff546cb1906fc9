"""Where FP16 really runs.

An *engine* builds what can be delivered, runs it, and tells of which types it really computed. A
third-party engine is one class, found by an entry point:

    [project.entry-points."halfsafe.engines"]
    mine = "my_package.my_module:MyEngine"
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Protocol

from halfsafe.engines.profile import HALF as HALF
from halfsafe.engines.profile import Profile as Profile
from halfsafe.errors import BadInput
from halfsafe.samples import Call
from halfsafe.source import Arrays, Runnable

GROUP = "halfsafe.engines"

OWN = {
    "strict": "strict:Strict",
    "torch": "torch:Eager",
    "torch-cuda": "torch:OnCuda",
    "torch-compiled": "torch:Compiled",
    "torch-tensorrt": "torch_tensorrt:TorchTensorrt",
    "onnxruntime": "onnxruntime:OnCpu",
    "onnxruntime-cuda": "onnxruntime:OnCuda",
    "onnxruntime-tensorrt": "onnxruntime:OnTensorrt",
    "openvino": "openvino:OnCpu",
    "tensorrt": "tensorrt:Tensorrt",
    "tensorrt-rtx": "tensorrt:ForRtx",
}
"""The engines of this package by name: module and class, imported when one is asked for."""


class Running(Protocol):
    """Something that an engine has built. It may have `notes` as well, which `notes_of` reads."""

    def run(self, call: Call) -> Arrays:
        """Outputs on a sample that is given in FP32; floating ones in FP32 or FP64.

        Raises BadInput for a misfit sample.
        """
        ...

    def census(self, call: Call) -> Mapping[str, int]:
        """How many values of each type the engine computes: ``{"float16": 41, "float32": 2}``."""
        ...


class Engine(Protocol):
    """A place where a model in half precision runs.

    It may have a `version` as well, which `version_of` reads.
    """

    @property
    def name(self) -> str: ...

    @property
    def profile(self) -> Profile: ...

    @property
    def needs(self) -> str:
        """What has to be installed or at hand, as one says it: "a GPU"."""
        ...

    def available(self) -> bool:
        """Whether it can run here."""
        ...

    def build(self, deliverable: Runnable) -> Running:
        """Makes a deliverable ready to run. Raises BadInput for a kind that it does not take."""
        ...


def names() -> list[str]:
    """The engines of all packages that are installed, whether or not they can run here."""
    return sorted(OWN.keys() | {point.name for point in entry_points(group=GROUP)})


def version_of(engine: Engine) -> str:
    """What an engine runs on, as far as it says so in its `version`: library, device and driver.

    Results of an engine hold for one version of it. "" of an engine that has none.
    """
    return str(getattr(engine, "version", ""))


def notes_of(running: Running) -> tuple[str, ...]:
    """What the user should know of how something runs, as far as it says so in its `notes`."""
    return tuple(getattr(running, "notes", ()))


def engine_of(given: str | Engine) -> Engine:
    """An engine by name, or as it is. Raises BadInput for one that is unknown or cannot run here.

    >>> engine_of("strict").profile.stores.name
    'float16'
    """
    engine = _named(given) if isinstance(given, str) else given
    if not engine.available():
        raise BadInput(f"the engine '{engine.name}' cannot run here: it needs {engine.needs}")
    return engine


def _named(name: str) -> Engine:
    """One of this package or of an entry point."""
    if name in OWN:
        module, _, held = OWN[name].partition(":")
        try:
            return getattr(import_module(f"{__name__}.{module}"), held)()
        except ModuleNotFoundError as error:
            raise BadInput(
                f"the engine '{name}' needs the package {error.name}: pip install {error.name}"
            ) from error
    for point in entry_points(group=GROUP):
        if point.name == name:
            return point.load()()
    raise BadInput(f"there is no engine '{name}': it is one of {', '.join(names())}")
