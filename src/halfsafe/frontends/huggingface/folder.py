"""What lies in a directory: one network, or a pipeline of several, and files beside the weights.

A directory of transformers has a config.json that names the class; a pipeline of diffusers has a
model_index.json that names a library and a class for each folder in it; one of
sentence-transformers has a modules.json, with folders of what is computed behind the network.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ldexp
from pathlib import Path
from typing import Any, Literal, cast

from halfsafe.checkpoint import STEMS, tensors_in
from halfsafe.errors import BadInput, first_line
from halfsafe.recipe import Recipe, Recipes, Setting
from halfsafe.rescaling import DTYPES, Rescaling, shapes_of

Library = Literal["transformers", "diffusers"]

CONFIG, PIPELINE, MODULES = "config.json", "model_index.json", "modules.json"

ADAPTER = "adapter_config.json"
"""What a directory with a LoRA alone has in place of them."""

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".ot", ".onnx",
           ".gguf", ".tflite", ".pt2", ".index.json")  # fmt: skip
"""Suffixes of files of weights. Those that are not rescaled would be of another network."""


@dataclass(frozen=True)
class Network:
    """One network of a directory: its name in the pipeline, "" for one alone, and its class."""

    name: str
    path: Path
    library: Library
    kind: str

    @property
    def config(self) -> dict[str, Any]:
        """Its configuration, as the file has it."""
        return read_json(self.path / CONFIG)

    def __str__(self) -> str:
        return f"{self.name} ({self.kind})" if self.name else self.kind


def networks_in(path: Path) -> list[Network]:
    """The networks of a directory. Raises BadInput for what is none that halfsafe knows."""
    if (path / PIPELINE).is_file():
        listed = read_json(path / PIPELINE)
        left = copied_in(path)
        found = [
            _part(path, name, entry)
            for name, entry in listed.items()
            if _is_part(entry) and name not in left
        ]
        networks = [network for network in found if network is not None]
        if not networks:
            raise BadInput(f"'{path / PIPELINE}' lists no network of transformers or diffusers")
        return networks
    if not (path / CONFIG).is_file():
        if (path / ADAPTER).is_file():
            raise BadInput(
                f"'{path}' holds an adapter, which is no network: fix the checkpoint that it is "
                "for, and give its weights to halfsafe apply"
            )
        inside = [p.name for p in sorted(path.glob("*/")) if (p / CONFIG).is_file()]
        if inside:
            raise BadInput(
                f"the folder '{path}' has neither {CONFIG} nor {PIPELINE}, but '{inside[0]}' in it "
                "has: give that"
            )
        raise BadInput(
            f"the folder '{path}' has neither {CONFIG} nor {PIPELINE}: give a directory that "
            "save_pretrained has written"
        )
    return [_alone(path, "")]


def modules_behind(path: Path) -> list[str]:
    """Folders with modules of sentence-transformers that hold weights of their own.

    They read what the network gives, and are no part of it. Raises BadInput.
    """
    if not (path / MODULES).is_file():
        return []
    try:
        listed: Any = json.loads((path / MODULES).read_text(encoding="utf-8"))
        folders = [str(entry["path"]) for entry in listed if entry["path"]]
    except (ValueError, TypeError, LookupError) as error:
        raise BadInput(f"'{path / MODULES}' is no list of modules: {first_line(error)}") from error
    return [folder for folder in folders if _has_weights(path / folder)]


def copied_in(path: Path) -> list[str]:
    """Parts of a pipeline whose class stands beside the pipeline's own, as a safety checker's does.

    They are no networks for halfsafe: what they do with pictures is not captured. They are copied.
    """
    if not (path / PIPELINE).is_file():
        return []
    listed = read_json(path / PIPELINE)
    known = (None, "transformers", "diffusers")
    return [name for name, entry in listed.items()
            if _is_part(entry) and len(entry) == 2 and entry[0] not in known
            and _has_weights(path / name)]  # fmt: skip


def _has_weights(path: Path) -> bool:
    return path.is_dir() and any(p.suffix in WEIGHTS for p in path.iterdir())


def _is_part(entry: Any) -> bool:
    return isinstance(entry, list) and all(isinstance(x, str) for x in cast("list[Any]", entry))


def _part(path: Path, name: str, entry: list[str]) -> Network | None:
    """A network in a folder of a pipeline; None for a scheduler or a tokenizer."""
    if not (path / name / CONFIG).is_file():
        return None
    try:
        if not tensors_in(path / name):
            return None
    except BadInput:
        if not any(p.suffix in WEIGHTS for p in (path / name).iterdir()):
            return None
        raise
    return _alone(path / name, name)


def _alone(path: Path, name: str) -> Network:
    config = read_json(path / CONFIG)
    if "quantization_config" in config:
        raise BadInput(f"'{path}' is quantised: give the checkpoint that it was made from")
    if "auto_map" in config:
        raise BadInput(
            f"the class of '{path}' is in code of its own, which is not run: load it, and pass "
            "the module to halfsafe.fix"
        )
    kind = config.get("_class_name")
    if isinstance(kind, str):
        return Network(name, path, "diffusers", kind)
    kinds: list[str] = config.get("architectures") or []
    if not kinds:
        raise BadInput(f"'{path / CONFIG}' names no class ('architectures'): load it and save it")
    return Network(name, path, "transformers", kinds[0])


def read_json(path: Path) -> dict[str, Any]:
    """Raises BadInput."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"cannot read '{path}': {error.strerror}") from error
    except ValueError as error:
        raise BadInput(f"'{path}' is no JSON: {first_line(error)}") from error
    if not isinstance(found, dict):
        raise BadInput(f"'{path}' holds no object")
    return cast("dict[str, Any]", found)


# Writing


def write_directory(
    source: Path,
    networks: list[Network],
    recipes: Recipes,
    target: Path,
    dtype: str | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """A copy of a directory with rescaled weights and settings, in a folder that is there already.

    What is beside the weights is copied; other files of weights (those of another library, or of
    another type) are left out. Raises BadInput for a recipe of other networks.
    """
    odd = sorted(recipes.of.keys() - {network.name for network in networks})
    if odd:
        raise BadInput(f"the recipe is of a pipeline with '{odd[0]}', which '{source}' has not")
    inside = {network.path for network in networks}
    whole = {source / name for name in copied_in(source)}
    _copy_beside(source, target, inside | whole)
    for path in whole:
        shutil.copytree(path, target / path.name)
    for network in networks:
        to = target / network.path.relative_to(source)
        to.mkdir(exist_ok=True)
        recipe = recipes.of.get(network.name)
        if recipe is None:
            raise BadInput(f"the recipe knows nothing of '{network.name}', a {network.kind}")
        write_network(network, recipe, to, dtype, progress)


def write_network(
    network: Network,
    recipe: Recipe,
    to: Path,
    dtype: str | None,
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """The rescaled weights of one network, its changed configuration, and the files beside."""
    files = tensors_in(network.path)
    exponents = recipe.exponents_of(shapes_of(files), str(network.path))
    as_type = DTYPES[dtype] if dtype else None
    rescaling = Rescaling(exponents, as_type, rounds=dtype == "float16")
    for file in {file.path: file for file in files.values()}.values():
        rescaling.file(file, to / file.path.name, progress)
    for stem in STEMS:
        index = network.path / f"{stem}.safetensors.index.json"
        if index.is_file() and not (to / f"{stem}.safetensors").is_file():
            _write_index(index, to, as_type)
    _copy_beside(network.path, to, set())
    config = rescaled_config(network.config, recipe.settings)
    if dtype:
        config |= {key: dtype for key in ("dtype", "torch_dtype") if key in config}
    (to / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _write_index(index: Path, to: Path, as_type: str | None) -> None:
    """An index beside its files: as it was, or, where they have another type, with their size."""
    if as_type is None:
        shutil.copyfile(index, to / index.name)
        return
    listed = read_json(index)
    size = sum(file.entries[name].length for name, file in tensors_in(to).items())
    listed["metadata"] = {**listed.get("metadata", {}), "total_size": size}
    (to / index.name).write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")


def rescaled_config(config: Mapping[str, Any], settings: Mapping[str, Setting]) -> dict[str, Any]:
    """A configuration with these numbers rescaled, of its own or, where it has none, of default.

    >>> rescaled_config({"a": 3.0, "b": {}}, {"a": Setting(1.0, 1), "b.c": Setting(1.0, -2)})
    {'a': 1.5, 'b': {'c': 4.0}}
    """
    made: dict[str, Any] = json.loads(json.dumps(config))
    for name, setting in settings.items():
        *path, leaf = name.split(".")
        part = made
        for key in path:
            part = part.setdefault(key, {})
        part[leaf] = ldexp(float(part.get(leaf, setting.number)), -setting.exponent)
    return made


def _copy_beside(source: Path, target: Path, but: set[Path]) -> None:
    """Copies files that hold no weights, and folders with such, but for some folders.

    Modules behind the network are copied with their weights.
    """
    for name in modules_behind(source):
        shutil.copytree(source / name, target / name, dirs_exist_ok=True)
    for path in sorted(source.iterdir()):
        if path.name.startswith(".") or path in but or path.name.endswith(WEIGHTS):
            continue
        if path.is_dir():
            (target / path.name).mkdir(exist_ok=True)
            _copy_beside(path, target / path.name, but)
        elif path.name != CONFIG or path.parent not in but:
            shutil.copyfile(path, target / path.name)
