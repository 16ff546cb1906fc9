"""What it brings to cut inputs of few entries into pieces.

    python -m bench.certificates_pieces

Networks of coordinates (6 linear layers of width 64, random weights), and a DiT in small, whose
norms are modulated by a time. Each is amplified, so that bounds do not fit and all pieces are made.
Told are the bits by which the bound of the last product is above the largest of 200,000 inputs
drawn, without pieces and with them; the most that any bound loses; seconds; and whether
halfsafe.check confirms it.
"""

# pyright: basic

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

import halfsafe
from bench.certificates import TINY, built, domain_of
from bench.record import record

INPUTS = 200_000
SECONDS = 300.0


class Field(nn.Module):
    """Three numbers at a place."""

    def __init__(self, entries: int, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        pairs = pairwise([entries, *[64] * 5, 3])
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairs)
        self.act = act
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight)

    def forward(self, place: Tensor) -> Tensor:
        *layers, last = self.layers
        for layer in layers:
            place = self.act(layer(place))
        return 1e6 * last(place)


def field(entries: int, act: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    torch.manual_seed(0)
    model = Field(entries, act).eval()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        largest = model(2 * torch.rand(INPUTS, entries, generator=draw) - 1).abs().max().item()
    row = compared(model, {"place": torch.zeros(1, entries)}, {"place": (-1.0, 1.0)})
    *_, last = (n for n in row["bounds"][0] if n.startswith("mul"))
    bits = [round(math.log2(bounds[last] / largest), 2) for bounds in row.pop("bounds")]
    return {"name": f"{act.__name__}, {entries} entries", "bits": bits, **row}


def modulated() -> dict[str, Any]:
    model, samples = built("dit", TINY)
    sample = {name: x[:1] for name, x in samples[0].items()}
    domain = domain_of(samples) | {"timestep": (0.0, 999.0)}
    row = compared(model, sample, domain)
    del row["bounds"]
    return {"name": "DiT", **row}


def compared(model: nn.Module, sample: dict[str, Tensor], domain: dict) -> dict[str, Any]:
    """Bounds without pieces and with them."""
    plain = halfsafe.certify(model, domain, sample=sample, refine=0)
    began = time.perf_counter()
    found = halfsafe.certify(model, domain, sample=sample, refine=SECONDS)
    seconds = time.perf_counter() - began
    told = [{n: v.bound for n, v in claims.values.items() if v.bound} for claims in (plain, found)]
    return {
        "bounds": told,
        "most_bits": round(max(math.log2(told[0][n] / told[1][n]) for n in told[0]), 2),
        "pieces": math.prod(c ** sample[n].numel() for n, c in found.cuts.items()),
        "seconds": round(seconds, 1),
        "confirmed": halfsafe.check(found, model, sample=sample).confirmed,
    }


def main() -> None:
    warnings.simplefilter("ignore")
    acts = (torch.relu, nn.functional.silu, torch.sin)
    rows = [field(entries, act) for act in acts for entries in (1, 2, 3)] + [modulated()]
    for row in rows:
        print(json.dumps(row))
    record("certificates_pieces", "python -m bench.certificates_pieces", {"rows": rows})


if __name__ == "__main__":
    main()
