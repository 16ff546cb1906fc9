"""Models and samples as the command line names them: files, folders, and callables."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, cast

from halfsafe.errors import BadInput, needing
from halfsafe.named import call, find
from halfsafe.pictures import NAMED, Pictures, Takes
from halfsafe.sample_files import Supplied, load_samples


class Loaded(NamedTuple):
    """A model, its samples, and what of these is made up or left out."""

    model: Any
    samples: Any
    notes: tuple[str, ...] = ()


def load(model: str, supplied: Supplied) -> Loaded:
    """The model and its samples. Raises BadInput, also when there are none.

    Of a file or a directory, samples are made up where none are given.
    """
    if Path(model).is_dir():
        return _load_directory(Path(model), supplied)
    loaded, given = load_model(model)
    in_numpy, pictures = isinstance(loaded, Path), supplied.pictures
    if pictures is not None:
        return _pictured(loaded, given, supplied, pictures)
    if supplied.samples:
        supplied.only_samples()
        return Loaded(loaded, load_samples(supplied.samples, in_numpy=in_numpy))
    if isinstance(loaded, Path):
        with needing("onnx", "ONNX files"):
            from halfsafe.frontends.onnx.made import made_samples

        made = made_samples(loaded, supplied.batch)
        return Loaded(loaded, made.samples, made.notes)
    supplied.only_samples()
    if given is None:
        raise BadInput(f"no samples: pass --samples, or let {model} return (model, samples)")
    return Loaded(loaded, given)


def _pictured(model: Any, given: Any, supplied: Supplied, pictures: Pictures) -> Loaded:
    """A folder of pictures, as a model takes them by what is known of it."""
    if isinstance(model, Path):
        with needing("onnx", "ONNX files"):
            from halfsafe.frontends.onnx.made import takes_pictures

        takes = takes_pictures(model)
        if takes is None and supplied.preprocess in NAMED:
            raise BadInput(
                f"'{model}' does not take a picture and nothing else: give --preprocess "
                "package.module:callable from a PIL image to a sample"
            )
    else:
        with needing("torch", "PyTorch modules"):
            from halfsafe.frontends.torch.model import takes_pictures

        takes = takes_pictures(given)
    batches = supplied.batches(pictures, takes or Takes(), in_numpy=isinstance(model, Path))
    left = len(pictures) - len(batches) * batches.size
    told = f"the last {left} of {len(pictures)} pictures fill no batch of {batches.size}"
    return Loaded(model, batches, (told,) if left > 0 else ())


def _load_directory(path: Path, supplied: Supplied) -> Loaded:
    """The network of a directory without its states, and its samples, made up if need be."""
    with needing("huggingface", "directories"):
        from halfsafe.frontends.huggingface.opened import open_directory

    model, made = open_directory(path, supplied.raw())
    return Loaded(model, made.samples, made.notes)


def load_metric(spec: str | None) -> Any:
    """A metric by name, or the callable that package.module:callable names."""
    return find(spec) if spec and ":" in spec else spec


def load_model(spec: str) -> tuple[Any, Any]:
    """The model, and the samples if the callable or the file has them as well."""
    if spec.endswith(".onnx"):
        return Path(spec), None
    if spec.endswith(".pt2"):
        with needing("torch", ".pt2 files"):
            from halfsafe.frontends.torch.model import load_exported

        return load_exported(Path(spec))
    made = call(spec)
    pair = cast("tuple[Any, ...]", made) if isinstance(made, tuple) else (made, None)
    if len(pair) != 2:
        raise BadInput(f"{spec} returns {len(pair)} things: a model, or a model and samples")
    return pair[0], pair[1]
