"""Makes a recipe good for a checkpoint: a file, a folder of shards, a directory, or a LoRA.

A LoRA adds B A to a weight W. Where W is stored times 2**-k, B A has to be, and B is: A reads what
W reads. So a LoRA of the original becomes one of the rescaled model, tensor by tensor.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from math import inf, log2
from pathlib import Path
from typing import Any, cast

import numpy as np

from halfsafe.atomic import atomically
from halfsafe.checkpoint import STEMS, tensors_in
from halfsafe.directory import apply_directory, into
from halfsafe.errors import BadInput, first_line
from halfsafe.formats import FLOAT16
from halfsafe.recipe import Recipe, Recipes, spelled_out
from halfsafe.rescaling import DTYPES, Rescaling, decoded, shapes_of
from halfsafe.tensor_files import FLOATING, TensorFile

Told = Callable[[int], None]
"""Called with bytes that have been written."""


@dataclass(frozen=True)
class Applied:
    """What was done, and, if it was looked at, how FP16 holds the tensors that were written.

    `settings` are exponents of numbers of a configuration, which has been `configured` where there
    is one: a file of tensors has none. `room` is how many bits the largest entry has above it, that
    of tensor `tightest`. `sunk` is the tensor of which the largest share of entries is below FP16's
    normal range, and that share.
    """

    rescaled: int
    tensors: int
    settings: Mapping[str, float]
    configured: bool = False
    checked: bool = False
    room: float = inf
    tightest: str = ""
    sunk: tuple[str, float] = ("", 0.0)

    @property
    def fits(self) -> bool:
        """Whether nothing that was looked at leaves the range of FP16."""
        return self.room >= 0

    def words(self) -> str:
        """For people."""
        found = f"{self.rescaled} of {self.tensors} tensors rescaled, each bit exact"
        for name, exponent in self.settings.items():
            found += f"; the configuration's {name} times 2^{-exponent:.0f}"
        if self.settings and not self.configured:
            found += ", which no file of tensors holds: set it where the model is built"
        if not self.checked:
            return found
        if not self.fits:
            found += f"\n'{self.tightest}' does not fit FP16: {-self.room:.1f} bits too large"
        elif self.tightest:
            found += f"\nFP16 holds all: '{self.tightest}' has {self.room:.1f} bits left"
        if self.sunk[0]:
            found += f"; of '{self.sunk[0]}', {self.sunk[1]:.2%} of the entries are subnormal"
        return found + "\nThis is of weights: halfsafe inspect shows what samples make of them"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        room = None if self.room == inf else self.room
        return {**asdict(self), "room": room, "settings": dict(self.settings)}


def apply_recipe(
    recipe: str | Path | Recipes,
    checkpoint: str | Path,
    output: str | Path,
    *,
    dtype: str | None = None,
    names: str | Path | Mapping[str, str] | None = None,
    component: str = "",
    check: bool = False,
    progress: Told = lambda _: None,
) -> Applied:
    """Writes a checkpoint rescaled as a recipe says; no network is run, no framework imported.

    `checkpoint` is a .safetensors file, a folder of them, or a directory of transformers or
    diffusers; `output` is the same kind. It may be of another training, in other types, sharded
    otherwise, or a LoRA. `names` maps the recipe's names to those of the checkpoint; `component`
    says which network of a pipeline a single file is of. With `check`, what is written is looked
    at: whether FP16 holds it. Raises BadInput for a checkpoint of another architecture, and for
    tensors whose type does not hold the result exactly, unless `dtype` asks for FP16.
    """
    recipes = recipe if isinstance(recipe, Recipes) else Recipes.load(recipe)
    source, target = Path(checkpoint), Path(output)
    if dtype is not None and dtype not in DTYPES:
        raise BadInput(f"dtype is {dtype!r}: it is one of {', '.join(DTYPES)}")
    if not source.exists():
        raise BadInput(f"there is no checkpoint '{source}'")
    if source.is_dir() and any((source / n).is_file() for n in ("config.json", "model_index.json")):
        if names is not None or component:
            raise BadInput("names and component are for single files: a directory has its own")
        apply_directory(source, recipes, target, dtype, progress)
        parts = [(n, target / n) for n in recipes.of]
        return _seen([(recipes.of[n], tensors_in(path), None) for n, path in parts], check, True)
    one = recipes.of.get(component) if component else recipes.only
    if one is None:
        raise BadInput(f"the recipe has no '{component}': it is of {', '.join(recipes.of)}")
    files = tensors_in(source)
    exponents = _exponents(one, files, names, str(source))
    as_type = DTYPES[dtype] if dtype else None
    rescaling = Rescaling(exponents, as_type, rounds=dtype == "float16")
    _write(source, files, rescaling, target, progress)
    return _seen([(one, tensors_in(target), exponents)], check, False)


def _write(
    source: Path,
    files: Mapping[str, TensorFile],
    rescaling: Rescaling,
    target: Path,
    progress: Told,
) -> None:
    """The files of a checkpoint, whole or not at all."""
    if source.is_dir():

        def fill(folder: Path) -> None:
            for file in {file.path: file for file in files.values()}.values():
                rescaling.file(file, folder / file.path.name, progress)
            for index in (source / f"{stem}.safetensors.index.json" for stem in STEMS):
                if index.is_file():
                    (folder / index.name).write_bytes(index.read_bytes())

        into(target, fill)
        return
    if target.suffix != ".safetensors":
        raise BadInput(f"cannot write '{target}': give it the suffix .safetensors")
    file = next(iter(files.values()), None)
    if file is None:
        raise BadInput(f"'{source}' holds no tensors")
    if target.exists() and target.samefile(source):
        raise BadInput(f"'{target}' is the checkpoint itself: write to another file")
    atomically(target, lambda partial: rescaling.file(file, partial, progress))


def _exponents(
    recipe: Recipe,
    files: Mapping[str, TensorFile],
    names: str | Path | Mapping[str, str] | None,
    where: str,
) -> dict[str, int]:
    """The exponents of a checkpoint's tensors, by its own names."""
    shapes = shapes_of(files)
    mapped = _mapping(names)
    if _is_lora(shapes):
        return _of_lora(recipe, shapes, mapped, where)
    if not mapped:
        return recipe.exponents_of(shapes, where)
    theirs = {**{name: name for name in (*recipe.shapes, *recipe.tied)}, **mapped}
    ours = {their: our for our, their in theirs.items()}
    known = {ours[name]: shape for name, shape in shapes.items() if name in ours}
    return {theirs[name]: k for name, k in recipe.exponents_of(known, where).items()}


def _mapping(names: str | Path | Mapping[str, str] | None) -> dict[str, str]:
    """Names of a recipe to those of a checkpoint, numbers in braces written out."""
    if names is None:
        return {}
    if isinstance(names, (str, Path)):
        try:
            names = cast("Mapping[str, str]", json.loads(Path(names).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise BadInput(f"cannot read the names in '{names}': {first_line(error)}") from error
    found: dict[str, str] = {}
    for our, their in names.items():
        pairs = spelled_out(our), spelled_out(their)
        if len(pairs[0]) != len(pairs[1]):
            raise BadInput(f"the name '{our}' stands for other numbers than '{their}'")
        found |= dict(zip(*pairs, strict=True))
    return found


# LoRA

_FACTOR = re.compile(
    r"^(?P<of>.+?)[._](?:(?P<a>lora_A|lora_down|lora\.down|lora_embedding_A)"
    r"|(?P<b>lora_B|lora_up|lora\.up|lora_embedding_B|lora_magnitude_vector))(?:\..+)?$"
)
"""A factor's name: the module that it is of, and which of the two it is. The second one, and the
magnitudes that some have, follow the exponent of the weight."""

_PREFIXES = ("base_model.model.", "lora_unet_", "lora_te_", "lora_te1_", "lora_te2_", "unet.",
             "text_encoder.", "transformer.", "diffusion_model.")  # fmt: skip
"""What trainers put in front of a module's name."""


def _is_lora(names: Iterable[str]) -> bool:
    return any(_FACTOR.match(name) for name in names)


def _of_lora(
    recipe: Recipe, names: Iterable[str], mapped: Mapping[str, str], where: str
) -> dict[str, int]:
    """The exponent of the weight for each second factor. Raises BadInput for one of no weight."""
    weights = {mapped.get(name, name): recipe.exponents.get(name, 0) for name in recipe.shapes}
    weights |= {mapped.get(n, n): recipe.exponents.get(o, 0) for n, o in recipe.tied.items()}
    modules = {_plain(name.removesuffix(".weight")): k for name, k in weights.items()}
    found: dict[str, int] = {}
    for name in names:
        factor = _FACTOR.match(name)
        if factor is None:
            continue
        of = _plain(_without_prefix(factor["of"], modules))
        if of not in modules:
            raise BadInput(
                f"'{name}' in '{where}' is of no weight of a {recipe.architecture}: it is a LoRA "
                "of another architecture, or names differ (--names)"
            )
        if factor["b"] and modules[of]:
            found[name] = modules[of]
    return found


def _plain(name: str) -> str:
    """A module's name as trainers that have no dots write it."""
    return name.replace(".", "_")


def _without_prefix(name: str, modules: Mapping[str, int]) -> str:
    for prefix in ("", *_PREFIXES):
        left = name.removeprefix(prefix)
        if _plain(left) in modules:
            return left
    return name


# Looking at what was written


def _seen(
    parts: Iterable[tuple[Recipe, Mapping[str, TensorFile], Mapping[str, int] | None]],
    check: bool,
    configured: bool,
) -> Applied:
    rescaled, tensors, settings = 0, 0, dict[str, float]()
    room, tightest, sunk = inf, "", ("", 0.0)
    for recipe, files, exponents in parts:
        known = recipe.exponents_of(shapes_of(files), "") if exponents is None else exponents
        rescaled, tensors = rescaled + len(known), tensors + len(files)
        settings |= {name: setting.exponent for name, setting in recipe.settings.items()}
        for name, file in files.items() if check else ():
            if file.entries[name].dtype not in FLOATING:
                continue
            amax, below = _looked_at(file, name)
            bits = log2(FLOAT16.max / amax) if amax else inf
            if bits < room:
                room, tightest = bits, name
            sunk = max(sunk, (name, below), key=lambda found: found[1])
    return Applied(rescaled, tensors, settings, configured, check, room, tightest, sunk)


def _looked_at(file: TensorFile, name: str) -> tuple[float, float]:
    """A tensor's largest magnitude, and which share of its entries FP16 has as subnormals or 0."""
    amax, below, count = 0.0, 0, 0
    for piece in file.pieces(name):
        sizes = np.abs(decoded(piece, file.entries[name].dtype))
        amax = max(amax, float(sizes.max(initial=0.0)))
        below += int(((sizes < FLOAT16.smallest_normal) & (sizes > 0)).sum())
        count += sizes.size
    return amax, below / max(count, 1)
