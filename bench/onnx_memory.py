"""Peak memory of fixing a file of over 2 GB, whose constants lie beside it.

Run as ``python -m bench.onnx_memory``. A Llama with random weights and a loud channel is exported,
and fixed and written in a process of its own, whose peak of resident memory is compared with the
size of the file; beside it, a process that only loads the file into ONNX Runtime.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bench.record import record

COMMAND = "python -m bench.onnx_memory"

TOKENS = 16
MEASURE = """
import json, pathlib, re, sys, time
import numpy as np
{imports}
def peak():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) // 1024
before = peak()
start = time.perf_counter()
samples = [dict(np.load(path)) for path in sys.argv[2:]]
{work}
print(json.dumps({{
    "imports_mib": before,
    "peak_mib": peak(),
    "seconds": round(time.perf_counter() - start, 1),
    **found,
}}))
"""
WORK = {
    "halfsafe": (
        "import halfsafe",
        """
fixed = halfsafe.fix(sys.argv[1], samples)
fixed.save(sys.argv[1].replace("model", "half"))
proof = fixed.report.verification
found = {"bit_equal": proof.bit_equal, "before_nonfinite": proof.before_nonfinite,
    "after_nonfinite": proof.after_nonfinite, "ratio": round(proof.ratio, 3),
    "inserted": len(fixed.report.insertions), "islands": len(fixed.report.islands)}
""",
    ),
    "onnxruntime session": (
        "import onnxruntime",
        """
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
session.run(None, samples[0])
found = {}
""",
    ),
}


def export(folder: Path) -> tuple[Path, list[Path]]:
    """A Llama of 640 million parameters as a file, and two samples."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=10,
        num_attention_heads=16,
        num_key_value_heads=16,
        vocab_size=32000,
        use_cache=False,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.model.layers[3].mlp.up_proj.weight[7] *= 2.0**20
        model.model.layers[3].mlp.down_proj.weight[:, 7] *= 2.0**-20
    random = np.random.default_rng(0)
    samples = []
    for i in range(2):
        samples.append(folder / f"sample{i}.npz")
        np.savez(samples[-1], input_ids=random.integers(0, 32000, (1, TOKENS)))
    path = folder / "model.onnx"
    ids = torch.from_numpy(dict(np.load(samples[0]))["input_ids"])
    torch.onnx.export(
        model, (), path, kwargs={"input_ids": ids}, dynamo=True, verbose=False, external_data=True
    )
    return path, samples


def measure(tool: str, path: Path, samples: list[Path]) -> dict[str, Any]:
    imports, work = WORK[tool]
    text = MEASURE.format(imports=imports, work=work)
    command = [sys.executable, "-c", text, str(path), *map(str, samples)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        path, samples = export(Path(folder))
        size = sum(p.stat().st_size for p in Path(folder).glob("model.onnx*")) / 2**20
        rows = {}
        for tool in WORK:
            found = measure(tool, path, samples)
            rows[tool] = {**found, "peak_over_size": round(found["peak_mib"] / size, 3)}
            print(tool, rows[tool], flush=True)
    record("onnx_memory", COMMAND, {"file_mib": round(size), "tools": rows})


if __name__ == "__main__":
    main()
