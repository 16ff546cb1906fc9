"""A whole model in ONNX Runtime."""

# onnx_ir and onnxruntime are only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any
from weakref import finalize

import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from halfsafe.errors import BadInput, first_line
from halfsafe.frontends.onnx.draws import model_draws, seed
from halfsafe.frontends.onnx.feeds import feeds_of
from halfsafe.frontends.onnx.mapped import in_one_folder, refer, without_tensors, written_to
from halfsafe.samples import Call

Array = NDArray[Any]

CPU = "CPUExecutionProvider"

ASKED: dict[str, list[Any]] = {
    "TensorrtExecutionProvider": [
        ("TensorrtExecutionProvider", {"trt_fp16_enable": "True"}),
        "CUDAExecutionProvider",
    ]
}
"""Providers that are asked for with options, and with another one for what they do not take."""

NUMPY = {"float": "float32", "double": "float64"}
"""ONNX Runtime's names of types, where NumPy has others."""

PROTOBUF_LIMIT = 2**31 - 2**20
"""Bytes that one message can hold, with some room for the nodes."""


def session(model: ir.Model, *, optimised: bool = False, provider: str = CPU) -> Any:
    """A session, by default on the CPU and without any rewriting of the graph; all of a model draw
    the same numbers.

    Raises BadInput where ONNX Runtime does not take the model.
    """
    options = options_of(optimised=optimised)
    try:
        return _opened(model, options, provider)
    except Exception as error:
        raise BadInput(f"ONNX Runtime does not take the model: {first_line(error)}") from error


def _opened(model: ir.Model, options: Any, provider: str) -> Any:
    """A session whose constants are mapped; a folder that was made for them goes when it does."""
    given, folder = _referring(model, options)
    try:
        made = opened(given, options, provider)
    except BaseException:
        if folder is not None:
            rmtree(folder, ignore_errors=True)
        raise
    if folder is not None:
        finalize(made, rmtree, folder, ignore_errors=True)
    return made


FOLDER = "session.model_external_initializers_file_folder_path"
"""What tells ONNX Runtime where the constants of a model in memory lie; old ones do not listen."""


def _referring(model: ir.Model, options: Any) -> tuple[bytes | Path, Path | None]:
    """A model that refers to its large constants, in memory or as a file, and a folder made for it.

    They are mapped where they lie, if that is in one folder and they begin where numbers may begin
    in memory; else they are written to a file of that kind, one after the other. So no size is too
    much for a message, and a session has no copy of its own.
    """
    proto, tensors = without_tensors(model)
    seed(chain(proto.graph.node, *(function.node for function in proto.functions)))
    if not tensors:
        return proto.SerializeToString(), None
    placed = in_one_folder(tensors) if _listens() else None
    if placed is not None:
        folder, lying = placed
        refer(proto, lying)
        options.add_session_config_entry(FOLDER, str(folder))
        return proto.SerializeToString(), None
    made = Path(mkdtemp()).resolve()
    refer(proto, written_to(made / "constants", tensors))
    path = made / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path, made


@lru_cache
def _listens() -> bool:
    """Whether ONNX Runtime takes the constants of a model in memory from a folder."""
    make = onnx.helper
    x, y = (make.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    held = onnx.TensorProto(name="c", data_type=onnx.TensorProto.FLOAT, dims=[1])
    held.data_location = onnx.TensorProto.EXTERNAL
    held.external_data.add(key="location", value="c")
    graph = make.make_graph([make.make_node("Add", ["x", "c"], ["y"])], "g", [x], [y], [held])
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 13)], ir_version=8)
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        (Path(folder) / "c").write_bytes(bytes(4))
        options = options_of(optimised=False)
        options.add_session_config_entry(FOLDER, str(Path(folder).resolve()))
        try:
            opened(model.SerializeToString(), options)
        except Exception:
            return False
    return True


def opened(model: bytes | Path, options: Any, provider: str = CPU) -> Any:
    """A session on one provider, and on the CPU what that does not take.

    Raises RuntimeError where the provider's libraries are missing: ONNX Runtime itself goes on
    without it, and prints that it does.
    """
    asked = ASKED.get(provider, [provider])
    others = [] if provider == CPU else [CPU]
    made = ort.InferenceSession(model, options, providers=[*asked, *others], enable_fallback=0)
    if provider not in made.get_providers():
        raise RuntimeError(f"{provider} cannot be loaded: the libraries that it needs are missing")
    return made


def fits_message(model: ir.Model) -> bool:
    """Whether a model's constants fit into one message."""
    held = (value.const_value for value in model.graph.initializers.values())
    return sum(tensor.nbytes for tensor in held if tensor is not None) < PROTOBUF_LIMIT


def data_files(model: ir.Model) -> frozenset[Path]:
    """The files beside the model's own in which constants lie."""
    held = (value.const_value for value in model.graph.initializers.values())
    return frozenset(Path(t.path).resolve() for t in held if isinstance(t, ir.ExternalTensor))


OLDEST = 7
"""The first opset of which ONNX Runtime has all operators."""


def check_versions(model: ir.Model) -> None:
    """Raises BadInput for an opset or an IR version that ONNX Runtime does not read."""
    opset, name = model.opset_imports.get("", OLDEST), f"ONNX Runtime {ort.__version__}"
    newest = _newest(onnx.defs.onnx_opset_version(), lambda version: _reads(version, 8))
    if not OLDEST <= opset <= newest:
        raise BadInput(
            f"the model is at opset {opset}, and {name} reads {OLDEST} to {newest}: "
            "export it at one of these, or try onnx.version_converter"
        )
    newest = _newest(onnx.IR_VERSION, lambda version: _reads(OLDEST, version))
    if (model.ir_version or newest) > newest:
        raise BadInput(
            f"the model has IR version {model.ir_version}, and {name} reads up to {newest}: "
            f"set model.ir_version = {newest} if it uses nothing newer"
        )


def _newest(known: int, reads: Callable[[int], bool]) -> int:
    return next(version for version in range(known, 0, -1) if reads(version))


@lru_cache
def _reads(opset: int, ir_version: int) -> bool:
    """Whether ONNX Runtime takes a model of these versions."""
    x, y = (onnx.helper.make_tensor_value_info(name, 1, [1]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Neg", ["x"], ["y"])], "g", [x], [y])
    imports = [onnx.helper.make_opsetid("", opset)]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=ir_version)
    try:
        opened(model.SerializeToString(), options_of(optimised=False))
    except Exception:
        return False
    return True


def options_of(*, optimised: bool) -> Any:
    """Threads sleep while they wait: there is a session for each kind of operator."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = False  # which keeps what it has once been given
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimised:  # which copies the weights, in another order
        options.add_session_config_entry("session.disable_prepacking", "1")
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    )
    return options


@dataclass(frozen=True)
class Sessions:
    """A whole model in ONNX Runtime: in one session, or one for each run of a model that draws."""

    model: ir.Model
    optimised: bool = False
    provider: str = CPU

    @cached_property
    def _kept(self) -> Any:
        return None if model_draws(self.model) else self._made()

    def _made(self) -> Any:
        return session(self.model, optimised=self.optimised, provider=self.provider)

    def run(self, call: Call) -> list[Array]:
        """Outputs of the model. Raises BadInput for a misfit sample."""
        return self.fed(feeds_of(self.model, call), call.number)

    def fed(self, feeds: Mapping[str, Array], number: int) -> list[Array]:
        """Outputs for arrays by input name. Raises BadInput for a misfit sample."""
        running = self._kept or self._made()
        try:
            return running.run(None, feeds)
        except Exception as error:
            raise BadInput(f"sample {number} does not fit: {first_line(error)}") from error


def computed_types(
    model: ir.Model, feeds: Mapping[str, Array], provider: str = CPU
) -> Counter[str]:
    """How many values of each type ONNX Runtime's own graph computes: it profiles one run."""
    options = options_of(optimised=True)
    options.enable_profiling = True
    with TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "run")
        running = _opened(model, options, provider)
        running.run(None, feeds)
        events = json.loads(Path(running.end_profiling()).read_text(encoding="utf-8"))
    outputs = (event["args"].get("output_type_shape", ()) for event in events if "args" in event)
    kinds = (str(kind) for made in outputs for one in made for kind in one)
    return Counter(NUMPY.get(kind, kind) for kind in kinds)
