"""Networks of their real sizes through fix: peak memory over the weights, time over a forward pass.

Run as ``python -m bench.torch_sizes [ROW ...]``. Weights are random, with a channel in the second
block that overflows FP16 and is divided out again, so that constants alone mend it. Each row runs
in two processes of its own: one fixes and saves, with peak memory as the kernel has it, the other
inspects. "llama-1.1b from files" has the same network on the meta device, and its weights in files
of up to 500 MB. Imports are those of PyTorch, of the library that has the network, and of halfsafe.
Times are of one thread; a forward pass is the fastest of three.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.record import RESULTS, record

COMMAND = "python -m bench.torch_sizes"
LOUD = 2.0**20
TOKENS = 128
FILES = " from files"

Built = tuple[nn.Module, dict[str, torch.Tensor]]


def ids(vocabulary: int) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(2, vocabulary, (1, TOKENS))}


def amplify(first: nn.Module, second: nn.Module, axis: int = 0) -> None:
    """A channel of one layer is made loud, and quiet again where the other layer reads it."""
    with torch.no_grad():
        first.weight.select(axis, 7).mul_(LOUD)
        if getattr(first, "bias", None) is not None:
            first.bias[7] *= LOUD
        second.weight.select(1 - axis, 7).div_(LOUD)


def llama_config(layers: int = 22) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=4,
        vocab_size=32000,
        use_cache=False,
    )


def llama() -> Built:
    """The shape of TinyLlama-1.1B."""
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM(llama_config())
    amplify(model.model.layers[1].mlp.up_proj, model.model.layers[1].mlp.down_proj)
    return model, ids(32000)


def gpt2() -> Built:
    """Conv1D keeps weights the other way round; embeddings and head are tied."""
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(use_cache=False))
    attention = model.transformer.h[1].attn
    with torch.no_grad():  # a channel of the values, which the projection reads
        attention.c_attn.weight[:, 2 * 768 + 7] *= LOUD
        attention.c_attn.bias[2 * 768 + 7] = 0.0
        attention.c_proj.weight[7] /= LOUD
    return model, ids(50257)


def bert() -> Built:
    from transformers import BertConfig, BertModel

    model = BertModel(BertConfig())
    attention = model.encoder.layer[1].attention
    amplify(attention.self.value, attention.output.dense)
    return model, ids(30522)


def t5_encoder() -> Built:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(d_model=768, d_kv=64, d_ff=3072, num_layers=12, num_heads=12)
    model = T5EncoderModel(config)
    dense = model.encoder.block[1].layer[1].DenseReluDense
    amplify(dense.wi, dense.wo)
    return model, ids(32128)


def vit() -> Built:
    from transformers import ViTConfig, ViTModel

    model = ViTModel(ViTConfig())
    attention = next(m for m in model.modules() if type(m).__name__ == "ViTAttention")
    linears = [m for m in attention.modules() if isinstance(m, nn.Linear)]
    amplify(linears[2], linears[3])
    return model, {"pixel_values": torch.randn(1, 3, 224, 224)}


def resnet50() -> Built:
    from transformers import ResNetConfig, ResNetModel

    model = ResNetModel(ResNetConfig())
    bottleneck = model.encoder.stages[0].layers[1].layer
    amplify(bottleneck[1].normalization, bottleneck[2].convolution)
    return model, {"pixel_values": torch.randn(1, 3, 224, 224)}


def vae_decoder() -> Built:
    """That of Stable Diffusion 1, on a latent of 32 x 32: a picture of 256 x 256."""
    from diffusers import AutoencoderKL

    channels = (128, 256, 512, 512)
    vae = AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
    )
    attention = vae.decoder.mid_block.attentions[0]
    amplify(attention.to_v, attention.to_out[0])
    return vae.decoder, {"sample": torch.randn(1, 4, 32, 32)}


ROWS: dict[str, Callable[[], Built]] = {
    "resnet-50": resnet50,
    "vit-b/16": vit,
    "bert-base": bert,
    "gpt-2": gpt2,
    "t5-base encoder": t5_encoder,
    "sd vae decoder": vae_decoder,
    "llama-1.1b": llama,
    "llama-1.1b" + FILES: llama,
}


def memory(name: str) -> int:
    """MiB of resident memory now (VmRSS) or at most (VmHWM)."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+) kB", status)[1]) // 1024


def clocks() -> tuple[float, float]:
    """Seconds on the wall, and of the processor for this process."""
    return time.perf_counter(), time.process_time()


def since(start: tuple[float, float]) -> list[float]:
    return [round(now - then, 3) for now, then in zip(clocks(), start, strict=True)]


def forward_seconds(model: nn.Module, sample: dict[str, torch.Tensor]) -> list[float]:
    times = []
    with torch.no_grad():
        for _ in range(3):
            start = clocks()
            model(**sample)
            times.append(since(start))
    return min(times, key=lambda pair: pair[1])


def built(row: str) -> Built:
    torch.manual_seed(0)
    model, sample = ROWS[row]()
    return model.eval(), sample


def opened(row: str, folder: Path) -> tuple[nn.Module, dict[str, torch.Tensor], Any]:
    """The model, its sample and where its weights are: in the model, or in the files."""
    if not row.endswith(FILES):
        return *built(row), None
    from transformers import LlamaForCausalLM

    config = llama_config()
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    torch.manual_seed(0)
    return model.eval(), ids(32000), folder / "weights"


def work(row: str, what: str, folder: Path) -> dict[str, Any]:
    """In a process of its own: fixes and saves, or inspects."""
    import scipy.optimize  # noqa: F401
    import torch.export

    import halfsafe
    import halfsafe.frontends.torch.source

    with torch.device("meta"):
        ROWS[row]()
    imports = memory("VmRSS")
    model, sample, weights = opened(row, folder)
    peak_before = memory("VmHWM")
    forward = [] if weights else forward_seconds(model, sample)
    start = clocks()
    if what == "inspect":
        halfsafe.inspect(model, sample, weights=weights)
        return {"forward": forward, "inspect": since(start)}
    fixed = halfsafe.fix(model, sample, weights=weights)
    seconds = since(start)
    peak_of_fix = memory("VmHWM")
    start = clocks()
    suffix = saved(fixed, folder)
    proof = fixed.report.verification
    size = sum(p.numel() * 4 for p in model.parameters()) / 2**20
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "weights_mib": round(size),
        "imports_mib": imports,
        "built_mib": peak_before,
        "fix_peak_mib": peak_of_fix,
        "peak_mib": (peak := memory("VmHWM")),
        "peak_over_weights": round(peak / size, 3),
        "peak_less_imports_over_weights": round((peak - imports) / size, 3),
        "forward": forward,
        "fix": seconds,
        "save": since(start),
        "saved": suffix,
        "answer": proof.answer.value,
        "bit_equal": proof.bit_equal,
        "before_nonfinite": proof.before_nonfinite,
        "after_nonfinite": proof.after_nonfinite,
        "ratio": round(proof.ratio, 3),
        "inserted": len(fixed.report.insertions),
        "notes": list(fixed.report.notes),
    }


def saved(fixed: Any, folder: Path) -> str:
    """Writes a .safetensors file, or, where constants alone do not suffice, a .pt2."""
    from halfsafe.errors import FoldError

    for suffix in (".safetensors", ".pt2"):
        try:
            fixed.save(folder / f"fixed{suffix}")
            return suffix
        except FoldError:
            continue
    return ""


def in_process(row: str, what: str, folder: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.torch_sizes", "--work", row, what, folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{row}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measured(row: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        if row.endswith(FILES):
            in_process(row, "write", folder)
        found = in_process(row, "fix", folder)
        inspected = in_process(row, "inspect", folder)
    times = {"forward": found.pop("forward"), "fix": found.pop("fix"), "save": found.pop("save")}
    times["inspect"] = inspected["inspect"]
    found["seconds"] = {name: pair[0] for name, pair in times.items() if pair}
    found["cpu_seconds"] = {name: pair[1] for name, pair in times.items() if pair}
    if times["forward"]:
        forward = min(times["forward"][1], inspected["forward"][1])
        found["fix_over_forward"] = round(times["fix"][1] / forward, 1)
        found["inspect_over_forward"] = round(times["inspect"][1] / forward, 1)
    return found


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--work"]:
        row, what, folder = sys.argv[2:]
        if what == "write":
            built(row)[0].save_pretrained(Path(folder) / "weights", max_shard_size="500MB")
            print("{}")
            return
        print(json.dumps(work(row, what, Path(folder))))
        return
    known = RESULTS / "torch_sizes.json"
    rows = json.loads(known.read_text())["rows"] if known.is_file() else {}
    for row in sys.argv[1:] or ROWS:
        rows[row] = measured(row)
        print(row, rows[row], flush=True)
        record(
            "torch_sizes",
            COMMAND,
            {"tokens": TOKENS, "rows": {r: rows[r] for r in ROWS if r in rows}},
        )


if __name__ == "__main__":
    main()
