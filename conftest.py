"""What every test finds, those in the documentation as well."""

import pytest
import torch

from halfsafe.manual import rewrites as rewriter

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewrites registered by another test, or by an import in it, are not seen."""
    monkeypatch.setattr(rewriter, "_registry", {})
