"""halfsafe doctor: what of this machine halfsafe can use."""

from __future__ import annotations

import json
import platform
import re
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Annotated, Any

import typer
from rich.table import Table

from halfsafe.cli.shown import out, say_next
from halfsafe.engines import engine_of, names
from halfsafe.engines.gpu import gpu
from halfsafe.errors import HalfsafeError, first_line

USED = {
    "torch": "PyTorch models",
    "onnx": "ONNX files",
    "huggingface": "directories of transformers and diffusers",
    "tensorrt": "engines of TensorRT",
    "openvino": "OpenVINO",
    "report": "pictures",
}
"""The extras that users ask for, and what they are for."""


def doctor_command(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print it as JSON, and nothing else.")
    ] = False,
) -> None:
    """Tell what is installed, which versions are supported, and where FP16 can run here.

    Example: halfsafe doctor
    """
    machine = f"Python {platform.python_version()} on {platform.platform()}, {gpu()}"
    packages, engines = _packages(), _engines()
    if as_json:
        data = {"halfsafe": version("halfsafe"), "machine": machine}
        print(json.dumps({**data, "packages": packages, "engines": engines}))
        return
    out.print(f"halfsafe {version('halfsafe')}, {machine}", highlight=False, soft_wrap=True)
    table = Table("for", "package", "installed", "supported")
    for row in packages:
        table.add_row(row["for"], row["package"], row["installed"] or "-", row["supported"])
    out.print(table)
    table = Table("engine", "runs here")
    for row in engines:
        table.add_row(row["engine"], row["needs"] or "yes")
    out.print(table)
    missing = [r["extra"] for r in packages if not r["installed"] and r["extra"] in USED]
    say_next(f"pip install 'halfsafe[{missing[0]}]'" if missing else "halfsafe MODEL")


def _packages() -> list[dict[str, Any]]:
    """Every package that halfsafe works with, by extra, with the version that is there."""
    rows: list[dict[str, Any]] = []
    for line in requires("halfsafe") or []:
        needed, _, marker = line.partition(";")
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", marker)
        name = extra[1] if extra else ""
        found = re.match(r"([\w.-]+)\s*(.*)", needed.strip())
        if found is None or found[1] == "halfsafe" or (name and name not in USED):
            continue
        rows.append({"for": USED.get(name, "halfsafe itself"), "extra": name, "package": found[1],
                     "installed": _version(found[1]), "supported": found[2].strip()})  # fmt: skip
    return rows


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _engines() -> list[dict[str, str]]:
    """Every engine, with what it lacks where it cannot run here."""
    rows: list[dict[str, str]] = []
    for name in names():
        try:
            engine_of(name)
            needs = ""
        except (HalfsafeError, ImportError, OSError) as error:
            needs = first_line(error).partition("it needs ")[2] or first_line(error)
        rows.append({"engine": name, "needs": needs})
    return rows
