"""Recipes: made on one checkpoint, applied to others; time and memory of applying one to 5 GB.

    python -m bench.recipes

What `halfsafe apply` writes is compared, byte for byte, with what `halfsafe fix` writes of the same
checkpoint; a fine-tune and a copy in other shards are read again by transformers. For the large
file, each step is a process of its own, its peak memory imports included, beside copying the file.
"""

# pyright: basic

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bench.architectures import amplify
from bench.directories import ROWS, words
from bench.record import record

LAYERS, WIDTH = 24, 2560
NAMES = "q k v o gate up down".split()
TIMES = 3


PROCESS = """
import sys
{body}
peak = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(peak[0].split()[1])
"""
"""What a process does, and how many KiB it has had in memory, imports included."""

APPLY = "from halfsafe import apply_recipe; apply_recipe(*sys.argv[1:])"
COPY = "import shutil; shutil.copyfile(*sys.argv[1:])"


def ran(body: str, *arguments: object) -> tuple[float, float]:
    """Seconds, until all is on the disk, and MiB of a process at its peak."""
    command = [sys.executable, "-c", PROCESS.format(body=body), *map(str, arguments)]
    os.sync()
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    os.sync()
    return time.perf_counter() - start, int(done.stdout) / 1024


def halfsafe(*arguments: object) -> None:
    command = [sys.executable, "-m", "halfsafe", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr or done.stdout[-300:])


def llama(seed: int, tuned: float = 0.0) -> Any:
    """A Llama that FP16 breaks; another seed of the noise is another fine-tune of it."""
    torch.manual_seed(0)
    model = ROWS["llama"].build().eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p += tuned * p.abs().mean() * torch.randn_like(p)
    for pattern, factor in ROWS["llama"].amplify.items():
        amplify(model, pattern, factor)
    return model


def checkpoints(place: Path) -> dict[str, Any]:
    """One plan, three checkpoints of its architecture."""
    from transformers import LlamaForCausalLM

    llama(0).save_pretrained(place / "one")
    llama(0).save_pretrained(place / "shards", max_shard_size="50KB")
    llama(1, 0.05).save_pretrained(place / "tuned")
    halfsafe("fix", place / "one", "-o", place / "fixed", "--recipe", place / "r.json")
    row: dict[str, Any] = {"recipe_bytes": (place / "r.json").stat().st_size}
    for name in ("one", "shards", "tuned"):
        halfsafe("apply", place / "r.json", place / name, "-o", place / f"{name}-applied")
    same = [
        (place / "fixed" / p.name).read_bytes() == p.read_bytes()
        for p in (place / "one-applied").iterdir()
    ]
    row["bytes_equal_to_fix"] = all(same) and len(same) == len(list((place / "fixed").iterdir()))
    for name in ("shards", "tuned"):
        kinds = (torch.float32, torch.float32, torch.float16)
        places = (place / name, *[place / f"{name}-applied"] * 2)
        models = [
            LlamaForCausalLM.from_pretrained(p, dtype=d).eval()
            for p, d in zip(places, kinds, strict=True)
        ]
        sample = words(models[0], 2)
        with torch.no_grad():
            known, exact, half = (m(**sample).logits for m in models)
        row[name] = {
            "bit_equal": torch.equal(known, exact),
            "half_error": float((half.float() - known).norm() / known.norm()),
        }
    row["files"] = len(list((place / "shards-applied").glob("*.safetensors")))
    return row


def large(place: Path) -> dict[str, Any]:
    """A file of 5 GB in bfloat16, of which a third of the tensors is rescaled."""
    from halfsafe.recipe import Recipe, Recipes

    shapes = {"embed.weight": (32_000, WIDTH)}
    for i in range(LAYERS):
        for name in NAMES:
            wide = (4 * WIDTH, WIDTH) if name in ("gate", "up") else (WIDTH, WIDTH)
            wide = (WIDTH, 4 * WIDTH) if name == "down" else wide
            shapes[f"layers.{i}.{name}.weight"] = wide
    exponents = {n: 4 for n in shapes if n.split(".")[-2] in ("embed", "o", "down")}
    Recipes({"": Recipe("Large", shapes, exponents)}).save(place / "r.json")
    source = place / "model.safetensors"
    write(source, shapes)
    size = source.stat().st_size
    applied, copied, peaks = list[float](), list[float](), list[float]()
    target = place / "out.safetensors"
    for _ in range(TIMES):
        seconds, peak = ran(APPLY, place / "r.json", source, target)
        applied.append(seconds)
        peaks.append(peak)
        target.unlink()
        copied.append(ran(COPY, source, target)[0])
        target.unlink()
    return {
        "gigabytes": round(size / 1e9, 2),
        "rescaled": f"{len(exponents)} of {len(shapes)} tensors",
        "peak_mib_with_imports": round(max(peaks)),
        "seconds": [round(s, 1) for s in applied],
        "seconds_of_copying": [round(s, 1) for s in copied],
        "times_copying": round(min(applied) / min(copied), 2),
    }


def write(path: Path, shapes: dict[str, tuple[int, int]]) -> None:
    """Random weights, a tensor at a time."""
    head: dict[str, Any] = {}
    end = 0
    for name, (rows, columns) in shapes.items():
        begin, end = end, end + 2 * rows * columns
        head[name] = {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [begin, end]}
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for rows, columns in shapes.values():
            file.write(torch.randn(rows, columns).bfloat16().view(torch.uint8).numpy().data)


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        row = {"checkpoints": checkpoints(Path(place))}
        print(json.dumps(row))
    with tempfile.TemporaryDirectory() as place:
        row["large"] = large(Path(place))
        print(json.dumps(row["large"]))
    record("recipes", "python -m bench.recipes", row)


if __name__ == "__main__":
    main()
