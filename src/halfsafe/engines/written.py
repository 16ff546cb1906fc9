"""Engines of TensorRT as files: built of what a fix delivers, strongly typed, ready to be run.

TensorRT itself builds on the machine with the GPU. TensorRT for RTX builds without one, for every
compute capability that it knows, and its engines are compiled for the GPU where they first run.
"""

# The TensorRT packages have no types, and may not be installed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from halfsafe.atomic import atomically
from halfsafe.engines.packages import installed, release
from halfsafe.engines.served import serving
from halfsafe.engines.tensorrt import Network, kind, on_gpu
from halfsafe.errors import BadInput
from halfsafe.samples import Call
from halfsafe.source import Runnable

LIBRARIES = ("tensorrt", "tensorrt_rtx")
"""In the order in which they are tried; the first one needs a GPU."""

SHAPES = 64
"""Samples that are looked at for the sizes of a profile."""


def write_engine(
    deliverable: Runnable, calls: Iterable[Call], path: Path, timing_cache: Path | None = None
) -> str:
    """Writes a serialised engine for all sizes that samples have; what it is, in words.

    A timing cache is read, if it is there, and written. Raises BadInput where no package is
    installed that can build here, and for what it refuses.
    """
    library = _library()
    serve = serving(deliverable, library.__name__)
    some = list(islice(calls, SHAPES))
    served = serve(some[0])
    alike = [call for call in some if serve(call) is served]
    feeds = [served.feeds(call) for call in alike]
    network = Network(library, served.model)
    cache = None
    if timing_cache is not None:
        cache = timing_cache.read_bytes() if timing_cache.is_file() else b""
    targets = () if on_gpu() else _every_capability(library)
    made = network.engine(feeds[0], targets, feeds[1:], cache)
    atomically(path, lambda partial: Path(partial).write_bytes(made))
    if timing_cache is not None:
        atomically(timing_cache, lambda partial: Path(partial).write_bytes(network.timings))
    return _words(library, network, len(made), targets)


def _library() -> Any:
    """The package that builds. Raises BadInput where there is none."""
    for name in LIBRARIES if on_gpu() else LIBRARIES[1:]:
        if installed(name):
            return import_module(name)
    raise BadInput(
        "an .engine is built by TensorRT, which needs a GPU, or by TensorRT for RTX: pip install "
        "'halfsafe[tensorrt]'"
    )


def _every_capability(library: Any) -> tuple[Any, ...]:
    members = library.ComputeCapability.__members__
    return tuple(x for name, x in members.items() if name not in ("NONE", "CURRENT"))


def _words(library: Any, network: Network, size: int, targets: tuple[Any, ...]) -> str:
    """What an engine is: of which package, for what, and the types that its layers give."""
    types = Counter(kind(output.dtype, library) for _, output in network.outputs())
    census = ", ".join(f"{count} {name}" for name, count in types.most_common())
    where = f"for {', '.join(target.name for target in targets)}" if targets else "for this GPU"
    made = release(library.__name__.replace("_", "-"))
    return f"an engine of {made} {where}, {size / 2**20:.1f} MiB: layers give {census}"
