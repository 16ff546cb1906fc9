"""What every test finds, those in the documentation as well."""

import os
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
import torch

from halfsafe.manual import rewrites as rewriter
from halfsafe.rules import LAWS

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of processes that tests start, beside as many others as cores

collect_ignore = ["docs/conf.py"]
"""Sphinx reads it, which only those have who build the site."""

PAGES = {"other-tools.md": ("openvino", "polygraphy"), "tensorrt-11.md": ("tensorrt_rtx",)}
"""What a page of the documentation needs beyond the extra `test`."""


SLOW = ("bisecting.md",)
"""Pages that take long."""


@pytest.hookimpl(tryfirst=True)  # before what is slow is left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks pages that take long, and skips those whose packages are not here."""
    for item in items:
        if item.path.name in SLOW:
            item.add_marker(pytest.mark.slow)
        for package in PAGES.get(item.path.name, ()):
            if find_spec(package) is None:
                item.add_marker(pytest.mark.skip(reason=f"{package} is not installed"))


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewrites registered by another test, or by an import in it, are not seen."""
    monkeypatch.setattr(rewriter, "_registry", {})


@pytest.fixture(autouse=True)
def laws() -> Iterator[None]:
    """Laws registered by another test are not seen."""
    known = dict(LAWS)
    yield
    LAWS.clear()
    LAWS.update(known)
