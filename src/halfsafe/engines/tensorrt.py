"""TensorRT, and TensorRT for RTX: strongly typed networks, in which the types of the file decide.

Parsing needs no GPU in TensorRT for RTX, nor does building; running does.
"""

# The TensorRT packages have no types, and may not be installed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from halfsafe.engines import HALF, Profile
from halfsafe.engines.gpu import gpu
from halfsafe.engines.packages import installed, release
from halfsafe.engines.served import Built, Feeds, Serving, saved, serving
from halfsafe.errors import BadInput, first_line
from halfsafe.samples import Call
from halfsafe.source import Arrays, Runnable


@dataclass(frozen=True)
class Tensorrt:
    """TensorRT itself."""

    name: str = "tensorrt"
    profile: Profile = HALF
    needs: str = "a GPU, PyTorch built for CUDA, and the package tensorrt: pip install tensorrt"
    package: str = "tensorrt"

    @property
    def version(self) -> str:
        return f"{release(self.package)}, {gpu()}"

    def available(self) -> bool:
        return installed(self.package) and on_gpu()

    def build(self, deliverable: Runnable) -> Networks:
        """Raises BadInput where the package cannot be imported."""
        try:
            library = import_module(self.package)
        except ImportError as error:
            raise BadInput(
                f"the engine '{self.name}' needs {self.needs}; {first_line(error)}"
            ) from error
        return Networks(serving(deliverable, self.name), library)


@dataclass(frozen=True)
class ForRtx(Tensorrt):
    """TensorRT for RTX, which compiles for the GPU where it runs."""

    name: str = "tensorrt-rtx"
    needs: str = (
        "a GPU, PyTorch built for CUDA, and the package tensorrt_rtx: pip install tensorrt-rtx"
    )
    package: str = "tensorrt_rtx"


@dataclass(frozen=True)
class Networks:
    """Models as networks, and as engines for the shapes of each sample."""

    serving: Serving
    library: Any

    @cached_property
    def _networks(self) -> Built[Network]:
        return Built(self.serving, lambda served, _: Network(self.library, served.model))

    @cached_property
    def _engines(self) -> Built[Execution]:
        return Built(
            self.serving,
            lambda served, feeds: Execution(
                self.library, Network(self.library, served.model).engine(feeds)
            ),
            per_shape=True,
        )

    def run(self, call: Call) -> Arrays:
        served, feeds, engine = self._engines.of(call)
        found = engine.run(feeds, call.number)
        return served.read(found[str(value.name)] for value in served.model.graph.outputs)

    def census(self, call: Call) -> Mapping[str, int]:
        """Of what the layers of the network give: a strongly typed one is built in these types."""
        _, _, network = self._networks.of(call)
        return Counter(kind(output.dtype, self.library) for _, output in network.outputs())

    def engine(self, call: Call) -> bytes:
        """A serialised engine for the shapes of a sample. Raises BadInput where none is built."""
        _, feeds, network = self._networks.of(call)
        return network.engine(feeds)


class Network:
    """A model as a strongly typed network. Raises BadInput for what the parser refuses."""

    def __init__(self, library: Any, model: ir.Model) -> None:
        self._library = library
        self._logger = listener(library)
        try:
            self._builder = library.Builder(self._logger)
        except TypeError as error:  # what the bindings make of a null pointer
            raise BadInput(
                f"{library.__name__} makes no builder here: it needs an NVIDIA driver"
            ) from error
        typed = 1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self.network = self._builder.create_network(typed)
        self._parser = library.OnnxParser(self.network, self._logger)
        with saved(model) as path:
            accepted = self._parser.parse_from_file(str(path))
        if not accepted:
            raise BadInput(f"{library.__name__} does not take the model: {self._refusal()}")

    def _refusal(self) -> str:
        """The parser's first reason, with the node that it is of."""
        if not self._parser.num_errors:
            return self._logger.last()
        error = self._parser.get_error(0)
        return f"{error.node_name() or 'model'} ({error.node_operator()}): {_line(error.desc())}"

    def outputs(self) -> Iterator[tuple[Any, Any]]:
        """Every layer with each of its outputs."""
        for index in range(self.network.num_layers):
            layer = self.network.get_layer(index)
            yield from ((layer, layer.get_output(i)) for i in range(layer.num_outputs))

    def engine(
        self,
        feeds: Feeds,
        targets: tuple[Any, ...] = (),
        others: Sequence[Feeds] = (),
        cache: bytes | None = None,
    ) -> bytes:
        """A serialised engine for the shapes of a sample, and for all between it and `others`, for
        compute capabilities or the GPU here.

        A timing `cache`, empty at first, is taken and kept in `timings`. Raises BadInput where none
        is built.
        """
        config = self._builder.create_builder_config()
        config.add_optimization_profile(self._profile(feeds, others))
        if cache is not None:
            config.set_timing_cache(config.create_timing_cache(cache), False)
        if targets:
            config.num_compute_capabilities = len(targets)
            for i, target in enumerate(targets):
                config.set_compute_capability(target, i)
        made = self._builder.build_serialized_network(self.network, config)
        if made is None:
            name = self._library.__name__
            raise BadInput(f"{name} cannot build an engine of the model: {self._logger.last()}")
        if cache is not None:
            self.timings = bytes(config.get_timing_cache().serialize())
        return bytes(made)

    timings: bytes = b""
    """The timing cache of the last engine, if one was asked for."""

    def _profile(self, feeds: Feeds, others: Sequence[Feeds]) -> Any:
        """The shapes of a sample as the best, those of all as the least and the most.

        Of inputs that are shapes, their values.
        """
        profile = self._builder.create_optimization_profile()
        for i in range(self.network.num_inputs):
            given = self.network.get_input(i)
            every = [np.asarray(each[given.name]) for each in (feeds, *others)]
            sizes = [x.reshape(-1) if given.is_shape_tensor else np.array(x.shape) for x in every]
            stated = [x.tolist() for x in (np.min(sizes, 0), sizes[0], np.max(sizes, 0))]
            if given.is_shape_tensor:
                profile.set_shape_input(given.name, *stated)
            else:
                profile.set_shape(given.name, *map(tuple, stated))
        return profile


class Execution:
    """An engine on the GPU. Raises BadInput where it cannot be loaded there."""

    def __init__(self, library: Any, plan: bytes) -> None:
        self._library, self._logger = library, listener(library)
        self._runtime = library.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        self._context = self._engine and self._engine.create_execution_context()
        if self._context is None:
            raise BadInput(f"{library.__name__} cannot load its engine: {self._logger.last()}")
        self._names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]

    def run(self, feeds: Feeds, number: int) -> dict[str, NDArray[Any]]:
        """Outputs by name. Raises BadInput where the engine does not run on a sample."""
        held = self.hold(feeds)
        self.execute(number)
        return {name: x.cpu().numpy() for name, x in held.items() if self._is(name, "OUTPUT")}

    def hold(self, feeds: Feeds) -> dict[str, Any]:
        """A sample, and room for outputs, where the engine finds them for as long as they live."""
        inputs = [name for name in self._names if self._is(name, "INPUT")]
        held = {name: self._given(name, feeds[name]) for name in inputs}
        held |= {name: self._room(name) for name in self._names if name not in held}
        for name, tensor in held.items():
            self._context.set_tensor_address(name, tensor.data_ptr())
        return held

    def execute(self, number: int = 0) -> None:
        """Computes the outputs of what is held. Raises BadInput where that fails."""
        import torch

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        done = self._context.execute_async_v3(stream.cuda_stream)
        stream.synchronize()
        if not done:
            raise BadInput(f"sample {number} does not run: {self._logger.last()}")

    def _is(self, name: str, mode: str) -> bool:
        found = self._engine.get_tensor_mode(name)
        return bool(found == getattr(self._library.TensorIOMode, mode))

    def _place(self, name: str) -> str:
        """Tensors that are shapes are read on the host."""
        host = self._engine.get_tensor_location(name) == self._library.TensorLocation.HOST
        return "cpu" if host else "cuda"

    def _given(self, name: str, x: NDArray[Any]) -> Any:
        import torch

        expected = self._library.nptype(self._engine.get_tensor_dtype(name))
        self._context.set_input_shape(name, x.shape)
        return torch.from_numpy(np.array(x, expected, order="C")).to(self._place(name))

    def _room(self, name: str) -> Any:
        """Where an output is written to; its shape is known once those of the inputs are."""
        import torch

        shape = tuple(self._context.get_tensor_shape(name))
        if -1 in shape:
            raise BadInput(f"the shape of '{name}' depends on data: this engine cannot run it")
        empty = np.empty(shape, self._library.nptype(self._engine.get_tensor_dtype(name)))
        return torch.from_numpy(empty).to(self._place(name))


def kind(dtype: Any, library: Any) -> str:
    """A type of TensorRT by NumPy's name, or by its own where NumPy has none."""
    try:
        return np.dtype(library.nptype(dtype)).name
    except TypeError:
        return str(dtype.name).lower()


def listener(library: Any) -> Any:
    """A logger that keeps what TensorRT says of errors, and prints nothing."""

    class Listener(library.ILogger):
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (library.ILogger.ERROR, library.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

        def last(self) -> str:
            return _line(self.errors[-1]) if self.errors else "it does not say why"

    return Listener()


def on_gpu() -> bool:
    """Whether PyTorch can put tensors on a GPU."""
    if not installed("torch"):
        return False
    import torch

    return torch.cuda.is_available()


def _line(text: str) -> str:
    return " ".join(text.split())
