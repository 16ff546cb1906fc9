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
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from halfsafe.errors import FoldError
from halfsafe.recipe import Recipe, Shape


@dataclass(frozen=True)
class Names:
    """The tensors of a class in files: for each tensor of the files, those of the class that are in
    it, by their names; for what would be written and is in no file, too."""

    model: nn.Module
    shapes: Mapping[str, Shape]
    where: str
    written: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, model: nn.Module, shapes: Mapping[str, Shape], where: str) -> Self:
        """Of files with tensors of these shapes."""
        state = model.state_dict()
        names = list(state)
        marks = {
            name: torch.tensor(float(i)).expand(state[name].shape) for i, name in enumerate(names)
        }
        prefix = f"{getattr(model, 'base_model_prefix', '')}."
        written: dict[str, frozenset[str]] = {}
        for name, x in _written(model, marks).items():
            if not x.numel():  # no entry says where it is from, and it needs no exponent
                continue
            bare = name.removeprefix(prefix)  # as checkpoints of the base model alone have it
            spelled = bare if name not in shapes and bare in shapes else name
            written[spelled] = frozenset(names[int(i)] for i in _entries(x))
        return cls(model, shapes, where, written)

    @property
    def held(self) -> frozenset[str]:
        """The tensors of the class that are in files."""
        return frozenset[str]().union(*(self.written.get(name, ()) for name in self.shapes))

    def as_in_files(self, recipe: Recipe) -> Recipe:
        """A recipe under the names of the files.

        Tensors that files have in excess, as buffers of an older version, stay as they are. Raises
        FoldError where one tensor of a file is needed at two exponents.
        """
        exponents: dict[str, int] = {}
        first: dict[frozenset[str], str] = {}
        tied: dict[str, str] = {}
        for name in sorted(self.written, key=lambda name: name not in self.shapes):
            own = frozenset(recipe.tied.get(n, n) for n in self.written[name])
            if first.setdefault(own, name) != name and name not in self.shapes:
                tied[name] = first[own]
            needed = {recipe.exponents.get(n, 0) for n in own}
            if len(needed) > 1:
                what = f"'{name}' in '{self.where}' is needed at the exponents {sorted(needed)}"
                raise FoldError(f"{what}: the class has several tensors, and the file one")
            if name in self.shapes and needed != {0}:
                exponents[name] = needed.pop()
        return Recipe(recipe.architecture, dict(self.shapes), exponents, recipe.settings, tied)


def _entries(x: Tensor) -> list[float]:
    """The different entries of a tensor, which nearly always are one."""
    least, most = (float(e) for e in x.aminmax())
    return [least] if least == most else x.unique().tolist()


def _written(model: Any, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A state_dict as the class would write it."""
    if not hasattr(model.config, "to_dict"):
        return state
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # before transformers 5, files had the names of the class
        return state
    return revert_weight_conversion(model, dict(state))
