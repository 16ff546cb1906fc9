"""The package as a whole: what importing it costs, and which layer may know which."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from inspect import ismodule
from pathlib import Path

import pytest

import halfsafe

SOURCE = Path(halfsafe.__file__).parent
LOWER = (
    "errors", "samples", "formats", "graph", "ranges", "deviation", "rules", "edits", "forms",
    "windows", "integer_program", "measure", "plan", "rewrite", "remedies", "faults", "source",
    "verdict", "amplifiers", "prepare", "mending", "proof", "replacements", "exponents",
    "progress", "sharing", "references", "chunks", "garbage", "restriction", "recipe",
    "tensor_files", "checkpoint", "rescaling", "asked", "drawn", "named", "pictures", "bounds",
)  # fmt: skip
"""Modules below the front ends; none of them knows a framework."""


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """Modules that a file imports, and names of them: within functions, for type checkers too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{path.name} imports relative to itself"
            yield from ((node.module, alias.name) for alias in node.names)


def imports(path: Path) -> set[str]:
    """Modules that a file imports, and names of them that may be modules as well."""
    found = [*imported(path)]
    return {module for module, _ in found} | {f"{module}.{name}" for module, name in found if name}


def dotted(path: Path) -> str:
    """The name under which a file is imported."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def files(module: str) -> list[Path]:
    """The files of a module or subpackage of halfsafe."""
    single = SOURCE / f"{module}.py"
    return [single] if single.is_file() else sorted((SOURCE / module).glob("*.py"))


def test_importing_halfsafe_imports_no_framework():
    code = "import sys, halfsafe; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ran.stdout.split())
    assert "halfsafe.fix" in loaded
    assert not loaded & {"torch", "onnx", "onnxruntime", "scipy.optimize", "transformers"}


def test_importing_the_command_line_imports_no_framework():
    code = "import sys, halfsafe.cli; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(ran.stdout.split()) & {"torch", "onnx", "scipy.optimize"}


def test_the_public_names_are_those_of_all():
    given = vars(halfsafe).items()
    public = {n for n, found in given if not n.startswith("_") and not ismodule(found)}
    assert public == set(halfsafe.__all__)
    assert halfsafe.__all__ == sorted(halfsafe.__all__)


@pytest.mark.parametrize("name", halfsafe.__all__)
def test_a_public_name_is_documented(name):
    found = getattr(halfsafe, name)
    members = vars(found).items() if isinstance(found, type) else ()
    public = [member for n, member in members if not n.startswith("_")]
    assert found.__doc__
    assert all(m.__doc__ for m in public if callable(m) or isinstance(m, property))


@pytest.mark.parametrize("module", LOWER)
def test_a_lower_layer_knows_no_framework_and_no_higher_layer(module):
    higher = ("torch", "onnx", "halfsafe.frontends", "halfsafe.cli", "halfsafe.report")
    for path in files(module):
        known = {n for n in imports(path) if n.startswith(higher) or n == "halfsafe.fix"}
        assert not known, f"{path.name} imports {known}"


def test_nobody_below_the_command_line_knows_it():
    doors = {*(SOURCE / "cli").glob("*.py"), SOURCE / "__main__.py"}
    everyone = [path for path in SOURCE.rglob("*.py") if path not in doors]
    assert len(everyone) > 20
    known = (name for path in everyone for name in imports(path))
    assert not [name for name in known if name.startswith("halfsafe.cli")]


@pytest.mark.parametrize("path", sorted((SOURCE / "report").glob("*.py")), ids=lambda p: p.name)
def test_a_report_is_plain_data(path):
    assert not {name for name in imports(path) if name.startswith(("torch", "halfsafe.frontends"))}


@pytest.mark.parametrize("path", sorted((SOURCE / "frontends").rglob("*.py")), ids=lambda p: p.name)
def test_a_front_end_knows_neither_plan_nor_proof(path):
    above = {"plan", "prepare", "mending", "proof", "fix", "inspection", "report", "engines", "cli"}
    known = {name.removeprefix("halfsafe.").partition(".")[0] for name in imports(path)}
    assert not known & above


def test_there_is_no_circle_of_imports():
    """`from package import name` is of the submodule, where there is one of that name."""
    paths = {dotted(path): path for path in SOURCE.rglob("*.py")}
    known = {
        name: {full if (full := f"{m}.{n}") in paths else m for m, n in imported(path)}
        for name, path in paths.items()
    }
    edges = {name: found & paths.keys() for name, found in known.items()}
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_the_explorer_derives_nothing():
    known = imports(SOURCE / "report" / "explorer.py")
    assert not known & {"halfsafe.rules", "halfsafe.windows", "halfsafe.plan"}


def test_every_module_has_its_layer():
    above = {
        "atomic", "bisect", "bisecting", "cli", "engines", "fix", "frontends", "inspection",
        "loading", "manual", "report", "watching", "__main__", "applying", "directory",
        "sample_files", "certify", "certificate", "standing", "checking",
    }  # fmt: skip
    modules = {p.stem for p in SOURCE.glob("*.py")} | {p.parent.name for p in SOURCE.glob("*/*.py")}
    assert modules - {"__init__", SOURCE.name} <= set(LOWER) | above


def test_the_table_of_operators_is_current():
    from halfsafe.rules.__main__ import table

    page = Path(__file__).parents[1] / "docs" / "operators.md"
    assert page.read_text() == table(), "run: python -m halfsafe.rules > docs/operators.md"
