"""A plan by itself: at which exponent a checkpoint's tensors are stored, in a few kilobytes.

What a fix changes of a model are powers of two, one a tensor, and a few numbers of its
configuration. These can be handed on without the weights, and made good for any checkpoint of the
same architecture: tensors of the same names and shapes. In the file, layers that are alike are
written once: ``layers.{0-31}.fc1.weight``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, Self, cast

from halfsafe.atomic import atomically
from halfsafe.errors import BadInput, first_line

SCHEMA = 1

Shape = tuple[int, ...]


class Setting(NamedTuple):
    """A number of a configuration, stored times 2**-exponent; `number` where none is written."""

    number: float
    exponent: int


@dataclass(frozen=True)
class Recipe:
    """Shapes of all tensors of a network, exponents of those that are not stored at 0, settings.

    `architecture` is the name of the class. Settings have dots between their names where they lie
    in a part of the configuration: ``text_config.layer_norm_eps``. `tied` gives further names of
    tensors, under which a checkpoint may have them as well, or instead.
    """

    architecture: str
    shapes: Mapping[str, Shape]
    exponents: Mapping[str, int]
    settings: Mapping[str, Setting] = field(default_factory=dict[str, Setting])
    tied: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def fingerprint(self) -> str:
        """The same for networks whose tensors have the same names and shapes."""
        names = sorted((name, list(shape)) for name, shape in self.shapes.items())
        return sha256(json.dumps(names).encode()).hexdigest()[:16]

    def exponents_of(self, shapes: Mapping[str, Shape], where: str) -> dict[str, int]:
        """The exponents of a checkpoint's tensors, of those that are not stored at 0.

        Raises BadInput for tensors that are not those of this architecture.
        """
        found = {self.tied.get(name, name): shape for name, shape in shapes.items()}
        self._check(found, where)
        names = {name: self.exponents.get(self.tied.get(name, name), 0) for name in shapes}
        return {name: k for name, k in names.items() if k}

    def _check(self, shapes: Mapping[str, Shape], where: str) -> None:
        for name, shape in self.shapes.items():
            if name not in shapes:
                raise BadInput(
                    f"'{where}' has no '{name}', which a {self.architecture} has: the recipe is of "
                    "another architecture, or names differ (--names)"
                )
            if shapes[name] != shape:
                raise BadInput(
                    f"'{name}' has the shape {shapes[name]} in '{where}' and {shape} in the "
                    "recipe: it is of another configuration"
                )
        odd = sorted(shapes.keys() - self.shapes.keys())
        if odd:
            raise BadInput(
                f"'{where}' has '{odd[0]}', of which the recipe knows nothing: it was made for a "
                f"{self.architecture} of {len(self.shapes)} tensors, and here are {len(shapes)}"
            )

    def to_json(self) -> dict[str, Any]:
        """Plain data for json.dump; `from_json` is the inverse."""
        tensors = [
            [name, list(shape), exponent]
            for name, (shape, exponent) in _braced(
                {name: (shape, self.exponents.get(name, 0)) for name, shape in self.shapes.items()}
            )
        ]
        settings = {name: list(setting) for name, setting in self.settings.items()}
        return {
            "architecture": self.architecture,
            "fingerprint": self.fingerprint,
            "settings": settings,
            "tied": dict(self.tied),
            "tensors": tensors,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Raises BadInput for tensors that do not have the fingerprint."""
        shapes, exponents = dict[str, Shape](), dict[str, int]()
        for braced, shape, exponent in data["tensors"]:
            for name in spelled_out(braced):
                shapes[name] = tuple(shape)
                if exponent:
                    exponents[name] = int(exponent)
        settings = {
            name: Setting(float(number), int(exponent))
            for name, (number, exponent) in data["settings"].items()
        }
        made = cls(str(data["architecture"]), shapes, exponents, settings, dict(data["tied"]))
        if made.fingerprint != data["fingerprint"]:
            raise BadInput("its tensors do not have its fingerprint: it was changed by hand")
        return made


@dataclass(frozen=True)
class Recipes:
    """Of each network of a folder, by its name: "" for one alone, "unet" in a pipeline."""

    of: Mapping[str, Recipe]

    def save(self, path: str | Path) -> None:
        """Writes a .json file, whole or not at all."""
        parts = {name: recipe.to_json() for name, recipe in self.of.items()}
        text = _compact({"halfsafe": "recipe", "schema": SCHEMA, "networks": parts})
        atomically(Path(path), lambda partial: Path(partial).write_text(text, encoding="utf-8"))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Raises BadInput for what is no recipe, or one of another schema."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            if data.get("halfsafe") != "recipe" or data.get("schema") != SCHEMA:
                raise ValueError(f"it says {data.get('halfsafe')!r}, schema {data.get('schema')!r}")
            return cls({n: Recipe.from_json(part) for n, part in data["networks"].items()})
        except OSError as error:
            raise BadInput(f"cannot read '{path}': {error.strerror}") from error
        except (BadInput, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"'{path}' is no recipe: {first_line(error)}") from error

    @property
    def only(self) -> Recipe:
        """The one recipe there is. Raises BadInput where there are several."""
        if len(self.of) != 1:
            raise BadInput(
                f"the recipe is of {len(self.of)} networks ({', '.join(self.of)}): apply it to the "
                "folder of the pipeline, or name one (--component)"
            )
        return next(iter(self.of.values()))


def _compact(data: Any) -> str:
    """JSON with a line for each tensor."""
    text = json.dumps(data, indent=1)
    return re.sub(r"\[(?:[^\[\]]|\[[^\[\]]*\])*\]", _on_one_line, text) + "\n"


def _on_one_line(found: re.Match[str]) -> str:
    return re.sub(r"\s+", " ", found[0]).replace("[ ", "[").replace(" ]", "]")


def _braced(tensors: Mapping[str, tuple[Shape, int]]) -> Iterable[tuple[str, tuple[Shape, int]]]:
    """Names that differ in their first number alone, and are alike, as one.

    >>> list(_braced({"h.0.w": ((3,), 1), "h.1.w": ((3,), 1), "h.2.w": ((3,), 0), "x": ((), 0)}))
    [('h.{0-1}.w', ((3,), 1)), ('h.2.w', ((3,), 0)), ('x', ((), 0))]
    """
    rows: dict[tuple[str, str, tuple[Shape, int]], list[int]] = {}
    for name, kind in tensors.items():
        before, number, after = _split(name)
        rows.setdefault((before, after, kind), []).append(number)
    for (before, after, kind), numbers in rows.items():
        for first, last in _runs(sorted(numbers)):
            number = "" if first < 0 else str(first) if first == last else f"{{{first}-{last}}}"
            yield f"{before}{number}{after}", kind


def _split(name: str) -> tuple[str, int, str]:
    """What is before and behind the first number between dots, and that; -1 without one."""
    parts = name.split(".")
    for i, part in enumerate(parts):
        if part.isdecimal() and part == str(int(part)):
            before, after = parts[:i], parts[i + 1 :]
            return ".".join([*before, ""]), int(part), ".".join(["", *after] if after else [])
    return name, -1, ""


def _runs(numbers: list[int]) -> list[tuple[int, int]]:
    """Numbers in a row, as first and last."""
    runs: list[tuple[int, int]] = []
    for n in numbers:
        if runs and n >= 0 and runs[-1][1] == n - 1 >= 0:
            runs[-1] = runs[-1][0], n
        else:
            runs.append((n, n))
    return runs


def spelled_out(braced: str) -> list[str]:
    """The reverse: all names that one in braces stands for.

    >>> spelled_out("h.{0-1}.w"), spelled_out("x")
    (['h.0.w', 'h.1.w'], ['x'])
    """
    found = re.fullmatch(r"(.*)\{(\d+)-(\d+)\}(.*)", braced)
    if not found:
        return [braced]
    before, first, last, after = cast("tuple[str, ...]", found.groups())
    return [f"{before}{n}{after}" for n in range(int(first), int(last) + 1)]
