"""What engines that run ONNX take: files, and PyTorch modules, which are exported for them."""

# onnx_ir is only partly typed.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Generic, Protocol, TypeVar

import onnx_ir as ir
from numpy.typing import NDArray

from halfsafe.errors import BadInput
from halfsafe.frontends.onnx.deliver import HalfFile
from halfsafe.frontends.onnx.draws import model_draws
from halfsafe.frontends.onnx.file import save
from halfsafe.samples import Call
from halfsafe.source import Arrays, Runnable

Feeds = Mapping[str, NDArray[Any]]
"""A sample as arrays by input name."""

T = TypeVar("T")


class Served(Protocol):
    """An ONNX model in FP16, and how samples go in and outputs come out."""

    @property
    def model(self) -> ir.Model: ...

    def feeds(self, call: Call) -> Feeds:
        """A sample in the types that the model takes. Raises BadInput for a misfit one."""
        ...

    def read(self, outputs: Iterable[Any]) -> Arrays:
        """What the model gives, in the order of the original's outputs, in FP32 or FP64."""
        ...


Serving = Callable[[Call], Served]
"""The model for a sample; the same one for as many samples as it takes."""


def serving(deliverable: Runnable, engine: str) -> Serving:
    """ONNX models of a deliverable. Raises BadInput for what is neither a file nor a module."""
    half = deliverable.half()
    if isinstance(half, HalfFile):
        return lambda _: half
    if half.engine == "torch":  # nobody else has a module, and PyTorch is there for it
        from halfsafe.engines.exported import Exports
        from halfsafe.frontends.torch.deliver import HalfModule

        if isinstance(half, HalfModule):
            return Exports(half).of
    raise BadInput(
        f"the engine '{engine}' runs ONNX models and PyTorch modules, not a {type(half).__name__}"
    )


@dataclass(frozen=True)
class Built(Generic[T]):
    """What an engine makes of each model, once; with `per_shape`, once for the shapes of a sample.

    `make` is given the feeds of the first sample.
    """

    serving: Serving
    make: Callable[[Served, Feeds], T]
    per_shape: bool = False
    _kept: dict[Any, tuple[Served, T]] = field(default_factory=dict[Any, Any])

    def of(self, call: Call) -> tuple[Served, Feeds, T]:
        """The model for a sample, the sample's feeds, and what was made of the model."""
        served = self.serving(call)
        feeds = served.feeds(call)
        shapes = tuple(x.shape for x in feeds.values()) if self.per_shape else ()
        key = id(served), shapes
        if key not in self._kept:
            self._kept[key] = served, self.make(served, feeds)
        return served, feeds, self._kept[key][1]


@contextmanager
def saved(model: ir.Model) -> Generator[Path]:
    """A model as a file, while an engine of another package reads it.

    Raises BadInput for a model that draws random numbers: each engine has its own.
    """
    if model_draws(model):
        raise BadInput(
            "the model draws random numbers, and each engine other ones: choose 'onnxruntime', or "
            "pass what it draws as an input"
        )
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "model.onnx"
        save(model, path)
        yield path
