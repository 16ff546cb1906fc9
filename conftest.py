"""What every test finds, those in the documentation as well."""

from collections.abc import Iterator

import pytest
import torch

from halfsafe.manual import rewrites as rewriter
from halfsafe.rules import LAWS

torch.set_num_threads(1)

collect_ignore = ["docs/conf.py"]
"""Sphinx reads it, which only those have who build the site."""


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
