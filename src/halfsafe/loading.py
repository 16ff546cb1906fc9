"""Models and samples as the command line names them: files, folders, and callables."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path
from typing import Any, NamedTuple, cast

from halfsafe.errors import BadInput, HalfsafeError, first_line, needing


class Loaded(NamedTuple):
    """A model, its samples, and what of these is made up."""

    model: Any
    samples: Any
    notes: tuple[str, ...] = ()


def load(model: str, samples: str | None) -> Loaded:
    """The model and its samples. Raises BadInput, also when there are none.

    Of a file or a directory, samples are made up where none are given.
    """
    if Path(model).is_dir():
        return _load_directory(Path(model), samples)
    loaded, given = load_model(model)
    in_numpy = isinstance(loaded, Path)
    if samples:
        return Loaded(loaded, load_samples(samples, in_numpy=in_numpy))
    if isinstance(loaded, Path):
        with needing("onnx", "ONNX files"):
            from halfsafe.frontends.onnx.made import made_samples

        given = made_samples(loaded)
        return Loaded(loaded, given.samples, given.notes)
    if given is None:
        raise BadInput(f"no samples: pass --samples, or let {model} return (model, samples)")
    return Loaded(loaded, given)


def _load_directory(path: Path, samples: str | None) -> Loaded:
    """The network of a directory without its states, and its samples, made up if need be."""
    with needing("huggingface", "directories"):
        from halfsafe.frontends.huggingface.opened import open_directory

    given = load_samples(samples, in_numpy=False) if samples else None
    model, made = open_directory(path, given)
    return Loaded(model, made.samples, made.notes)


def load_metric(spec: str | None) -> Any:
    """A metric by name, or the callable that package.module:callable names."""
    return _find(spec) if spec and ":" in spec else spec


def load_model(spec: str) -> tuple[Any, Any]:
    """The model, and the samples if the callable or the file has them as well."""
    if spec.endswith(".onnx"):
        return Path(spec), None
    if spec.endswith(".pt2"):
        with needing("torch", ".pt2 files"):
            from halfsafe.frontends.torch.model import load_exported

        return load_exported(Path(spec))
    made = _call(spec)
    pair = cast("tuple[Any, ...]", made) if isinstance(made, tuple) else (made, None)
    if len(pair) != 2:
        raise BadInput(f"{spec} returns {len(pair)} things: a model, or a model and samples")
    return pair[0], pair[1]


def load_samples(spec: str, *, in_numpy: bool) -> Any:
    """Samples from a file, a folder or a callable. Raises BadInput."""
    path = Path(spec)
    if path.is_dir():
        files = sorted(path.glob("*.npz"))
        if not files:
            raise BadInput(f"the folder '{spec}' holds no .npz files")
        return [_load_file(file, in_numpy) for file in files]
    if path.suffix in (".npz", ".safetensors"):
        return _load_file(path, in_numpy)
    return _call(spec)


def _load_file(path: Path, in_numpy: bool) -> Any:
    """One sample: arrays by argument name, or arr_0, arr_1, ... as positional arguments.

    NumPy's default FP64 becomes FP32.
    """
    import numpy as np

    if not path.is_file():
        raise BadInput(f"there is no file '{path}'")
    try:
        if path.suffix == ".safetensors":
            from safetensors.numpy import load_file  # pyright: ignore[reportUnknownVariableType]

            found = load_file(path)
        else:
            with np.load(path) as archive:
                found = {name: archive[name] for name in archive.files}
    except Exception as error:
        raise BadInput(f"cannot read '{path}': {error}") from error
    arrays: dict[str, Any] = {
        k: x.astype(np.float32) if x.dtype == np.float64 else x for k, x in found.items()
    }
    if not in_numpy:
        import torch

        arrays = {k: torch.as_tensor(x) for k, x in arrays.items()}
    if all(name.startswith("arr_") for name in arrays):
        return tuple(arrays.values())
    return arrays


def _call(spec: str) -> Any:
    target = _find(spec)
    try:
        return target()
    except HalfsafeError:
        raise
    except Exception as error:
        raise BadInput(f"'{spec}' fails: {located(error)}") from error


def _find(spec: str) -> Any:
    """What package.module:callable names. Raises BadInput."""
    module_name, _, name = spec.partition(":")
    if not (module_name and name):
        raise BadInput(f"'{spec}' is not package.module:callable, nor a file that halfsafe reads")
    sys.path.insert(0, "")
    try:
        target = importlib.import_module(module_name)
        for part in name.split("."):
            target = getattr(target, part)
    except (ImportError, AttributeError) as error:
        raise BadInput(f"cannot find '{spec}': {error}") from error
    except Exception as error:
        raise BadInput(f"importing '{module_name}' fails: {located(error)}") from error
    if not callable(target):
        raise BadInput(f"'{spec}' is a {type(target).__name__}, not a callable")
    return target


def located(error: Exception) -> str:
    """An error in the user's code on one line, with the place where it was raised."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{first_line(error)} at {frame.filename}:{frame.lineno}"
