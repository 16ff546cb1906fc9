"""Under which names, and in which pieces, the files of a checkpoint hold the tensors of a class.

Libraries rename tensors as they read them, leave out the prefix of a base model, join what a file
has apart. What becomes of a tensor is asked of the library itself: it is given a state_dict whose
entries say from which tensor they are, and writes that as it would write the real one.
"""

# transformers is only partly typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingImports=false, reportMissingTypeStubs=false

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from halfsafe.errors import FoldError
from halfsafe.recipe import Recipe, Shape


def as_in_files(
    model: nn.Module, recipe: Recipe, shapes: Mapping[str, Shape], where: str
) -> Recipe:
    """A recipe under the names of files, of tensors of these shapes.

    Tensors that files have in excess, as buffers of an older version, stay as they are. Raises
    FoldError where a tensor to be rescaled is in no file.
    """
    numbers = {name: i for i, name in enumerate(recipe.shapes)}
    marks = {
        name: torch.tensor(float(numbers[recipe.tied.get(name, name)])).expand(x.shape)
        for name, x in model.state_dict().items()
    }
    exponents: dict[str, int] = {}
    first: dict[tuple[float, ...], str] = {}
    tied: dict[str, str] = {}
    by_number = {float(i): recipe.exponents.get(name, 0) for name, i in numbers.items()}
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    written: dict[str, tuple[float, ...]] = {}
    for name, x in _written(model, marks).items():
        bare = name.removeprefix(prefix)  # as checkpoints of the base model alone have it
        written[bare if name not in shapes and bare in shapes else name] = tuple(
            x.unique().tolist()
        )
    for name in sorted(written, key=lambda name: name not in shapes):
        held = written[name]
        if first.setdefault(held, name) != name and name not in shapes:
            tied[name] = first[held]
        needed = {by_number[number] for number in held}
        if len(needed) > 1:
            raise FoldError(f"'{name}' in '{where}' is needed at the exponents {sorted(needed)}")
        if name in shapes and needed != {0}:
            exponents[name] = needed.pop()
    there = {number for name, held in written.items() if name in shapes for number in held}
    for name, i in numbers.items():
        if name in recipe.exponents and i not in there:
            raise FoldError(
                f"'{where}' has no '{name}', nor what its class makes that of: load it and save it "
                f"once more, by {type(model).__name__}.save_pretrained, and fix that"
            )
    return Recipe(recipe.architecture, dict(shapes), exponents, recipe.settings, tied)


def _written(model: Any, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A state_dict as the class would write it."""
    if not hasattr(model.config, "to_dict"):
        return state
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # before transformers 5, files had the names of the class
        return state
    return revert_weight_conversion(model, dict(state))
