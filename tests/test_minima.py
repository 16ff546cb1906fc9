"""The minima that pyproject.toml declares are the versions that `make oldest` tests."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
RUNTIME = [*PROJECT["dependencies"], *EXTRAS["torch"], *EXTRAS["onnx"], *EXTRAS["report"]]


def pins(file: str) -> dict[str, Version]:
    """The version at which a file of constraints holds each package."""
    lines = (ROOT / file).read_text(encoding="utf-8").split()
    pairs = [line.split("==") for line in lines]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


@pytest.mark.parametrize("text", RUNTIME)
def test_the_oldest_run_is_on_the_declared_minimum(text):
    requirement = Requirement(text)
    (minimum,) = requirement.specifier
    assert minimum.operator == ">="
    assert pins("constraints-oldest.txt")[canonicalize_name(requirement.name)] == Version(
        minimum.version
    ), f"constraints-oldest.txt pins another {requirement.name} than pyproject.toml declares"


@pytest.mark.parametrize("file", ["constraints.txt", "constraints-oldest.txt"])
def test_pins_are_within_the_declared_ranges(file):
    pinned = pins(file)
    declared = [Requirement(text) for text in [*RUNTIME, *EXTRAS["test"]]]
    known = {r: pinned[canonicalize_name(r.name)] for r in declared if r.name != PROJECT["name"]}
    assert not [f"{r} at {version}" for r, version in known.items() if version not in r.specifier]
