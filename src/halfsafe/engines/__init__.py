"""Where FP16 really runs.

An *engine* builds what can be delivered, runs it, and tells of which types it really computed. The
modules of this package hold ENGINES by name. A third-party engine is one class, found by an entry
point:

    [project.entry-points."halfsafe.engines"]
    mine = "my_package.my_module:MyEngine"
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from typing import Protocol

from halfsafe.errors import BadInput
from halfsafe.formats import FLOAT16, FloatFormat
from halfsafe.samples import Call
from halfsafe.source import Arrays, Runnable

GROUP = "halfsafe.engines"


@dataclass(frozen=True, slots=True)
class Profile:
    """What an engine does that no graph shows: in which format it stores what is in half precision.

    The floor of a proof has its bits. What `fix` delivers is FP16 all the same.
    """

    stores: FloatFormat = FLOAT16


HALF = Profile()
"""FP16, as most store it."""


class Running(Protocol):
    """Something that an engine has built."""

    def run(self, call: Call) -> Arrays:
        """Outputs on a sample that is given in FP32; floating ones in FP64.

        Raises BadInput for a misfit sample.
        """
        ...

    def census(self, call: Call) -> Mapping[str, int]:
        """How many values of each type the engine computes: ``{"float16": 41, "float32": 2}``."""
        ...


class Engine(Protocol):
    """A place where a model in half precision runs."""

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
    found = {name for module in _modules() for name in _held(module)}
    return sorted(found | {point.name for point in entry_points(group=GROUP)})


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
    """The engine "torch-cuda" is in the module torch of this package, or an entry point."""
    module = name.partition("-")[0]
    if module in _modules():
        try:
            held = import_module(f"{__name__}.{module}").ENGINES
        except ModuleNotFoundError as error:
            raise BadInput(f"the engine '{name}' needs the package {error.name}") from error
        if name in held:
            return held[name]()
    for point in entry_points(group=GROUP):
        if point.name == name:
            return point.load()()
    raise BadInput(f"there is no engine '{name}': it is one of {', '.join(names())}")


def _modules() -> list[str]:
    return [module.name for module in iter_modules(__path__)]


def _held(module: str) -> Iterable[str]:
    """The engines of a module; none where what they run is not installed."""
    try:
        return import_module(f"{__name__}.{module}").ENGINES
    except ModuleNotFoundError:
        return ()
