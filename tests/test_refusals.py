"""What halfsafe cannot make safe, it says so."""

import torch
import torch.nn.functional as F

import halfsafe
from tests.replicas import Net, draws, scaled


def rows_of_different_size(m, x):
    """One tensor holds rows of 1e7 and rows of 1e-2, and each row is normalised by itself."""
    small, large = m.small(x), m.large(x)
    return m.head(m.norm(torch.cat([small, large])))


def mixed(forward, **parts):
    torch.manual_seed(0)
    return Net(
        forward,
        small=scaled(torch.nn.Linear(16, 16), 1e-3),
        large=scaled(torch.nn.Linear(16, 16), 1e8),
        norm=torch.nn.LayerNorm(16),
        head=torch.nn.Linear(16, 4),
        **parts,
    ).eval()


def test_rows_of_different_size_are_kept_in_fp32():
    report = halfsafe.fix(mixed(rows_of_different_size), draws(6, 16)).report
    assert report.safe
    assert report.islands


def test_looking_for_remedies_ends():
    """A softmax keeps its name when it is rewritten, and must not be rewritten for ever."""

    def forward(m, x):
        return rows_of_different_size(m, x), F.softmax(m.scores(x) * 1e6, dim=-1)

    model = mixed(forward, scores=torch.nn.Linear(16, 16))
    report = halfsafe.fix(model, draws(6, 16)).report
    assert sum("(softmax)" in form for form in report.forms) == 1
