"""Results as JSON with the versions they were measured with."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results")
PACKAGES = ("halfsafe", "torch", "transformers", "diffusers", "numpy", "scipy")


def record(name: str, command: str, figures: dict[str, Any]) -> None:
    """Writes bench/results/NAME.json and says so."""
    RESULTS.mkdir(exist_ok=True)
    found = {
        "command": command,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": {package: version(package) for package in PACKAGES},
        **figures,
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path.relative_to(Path.cwd())}")
