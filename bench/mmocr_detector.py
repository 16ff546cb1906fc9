"""The detector that this project comes from: mmocr's PANet, rewritten by hand and by halfsafe.

``make mmocr`` makes an environment with mmocr, mmdet and mmdeploy, and runs ``python -m
bench.mmocr_detector`` in it. The network is built from mmocr's own config of PANet ResNet-18 with
FPEM_FFM. Its weights are random, seeded and amplified, so that sums of BasicBlocks exceed 65,504.

Two rewrites carry x / 32 by hand, between layer3's first block and the neck. BasicBlock.forward
does so in the four blocks of layer3 and layer4. It starts in the first of them, where the last
BatchNorm and that of the shortcut give 1/32 of what they gave: their gain and bias are divided.
From there each block reads and gives its sum divided: the BatchNorm after a convolution that reads
it has its mean divided and its gain multiplied, so that what lies between is as it was.
FPEM_FFM.forward takes it back alike in reduce_conv_c4 and _c5, where the convolution has a bias,
which is divided too. All of that changes constants only, in eager runs anew at each call: no
operator on activations is added.

mmdeploy's own rewrites of these two (panet_trt_fp16.py, in its documentation; not in the package)
do less and more. They touch the one block that reads 400 channels or more: it computes as it was
up to its second convolution and divides there, and again its sum of bias and identity, after adding
them. Which form is taken is decided while tracing, by what the last BatchNorm gives for that one
sample, the identity not yet added, and passed on in a global variable that is never reset. The neck
multiplies the result of the BatchNorm by 32 and takes away 31 times the bias that it contains. That
cancels digits, so it is not bit-equal, and repeats constants per channel over height and width.
Here, what is carried follows from the widths alone, and every term is divided alike, which changes
no bit.
"""

from __future__ import annotations

import copy
import json
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections import Counter
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import halfsafe
from bench.mmocr_rewriters import BACKEND, Body, Found, compare
from bench.onnx_accuracy import is_bit_equal
from bench.peer_macs import left
from bench.record import RESULTS
from halfsafe.graph import Kind

COMMAND = "make mmocr"
NEEDED = ("mmengine", "mmcv", "mmdet", "mmocr", "mmdeploy")
PACKAGES = ("mmengine", "mmcv-lite", "mmdet", "mmocr", "mmdeploy", "torch", "onnx", "onnxscript")
PACKAGES += ("onnxruntime", "numpy", "scipy", "halfsafe")
CONFIG = "textdet/panet/panet_resnet18_fpem-ffm_600e_icdar2015.py"
SIZE = 256

BLOCK = "mmdet.models.backbones.resnet.BasicBlock.forward"
NECK = "mmocr.models.textdet.necks.fpem_ffm.FPEM_FFM.forward"

FACTOR = 32.0
WIDTH = 256
"""Blocks that give this many channels or more are carried, and the neck's layers that read them."""


# --- the two rewrites ---


def affine(norm: nn.BatchNorm2d, x: Tensor, read: float = 1.0, give: float = 1.0) -> Tensor:
    """norm(read * x) / give, by constants alone."""
    mean, gain, bias = norm.running_mean / read, norm.weight * (read / give), norm.bias / give
    return F.batch_norm(x, mean, norm.running_var, gain, bias, False, 0.0, norm.eps)


def taken_back(layer: nn.Sequential, x: Tensor) -> Tensor:
    """layer(FACTOR * x), of a 1x1 convolution, BatchNorm and ReLU."""
    conv, norm, relu = layer
    return relu(affine(norm, F.conv2d(x, conv.weight, conv.bias / FACTOR), read=FACTOR))


@halfsafe.rewrites(BLOCK, backend=BACKEND)
def block_forward(original: Body, self: Any, x: Tensor) -> Tensor:
    """The block's result over FACTOR, in wide blocks; all but the first read such a result."""
    if self.conv1.out_channels < WIDTH:
        return original(self, x)
    read = FACTOR if self.conv1.in_channels >= WIDTH else 1.0
    out = self.relu(affine(self.norm1, self.conv1(x), read))
    out = affine(self.norm2, self.conv2(out), give=FACTOR)
    if self.downsample is None:
        return self.relu(out + x)
    conv, norm = self.downsample
    return self.relu(out + affine(norm, conv(x), read, FACTOR))


@halfsafe.rewrites(NECK, backend=BACKEND)
def neck_forward(original: Body, self: Any, x: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The original, run on a stand-in whose wide reducing layers read features over FACTOR."""
    layers = {name: m for name, m in self.named_children() if name.startswith("reduce_conv_")}
    read = {
        name: partial(taken_back, m) if m[0].in_channels >= WIDTH else m
        for name, m in layers.items()
    }
    return original(SimpleNamespace(fpems=self.fpems, align_corners=self.align_corners, **read), x)


REWRITES: dict[str, Body] = {BLOCK: block_forward, NECK: neck_forward}


class Rewritten(nn.Module):
    """A model that always runs under the rewrites, so that it can be exported and verified."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.train(model.training)

    def forward(self, x: Tensor) -> Tensor:
        with halfsafe.rewriting(backend=BACKEND):
            return self.model(x)


# --- the environment and the detector ---


class Uncompiled(ModuleType):
    """Stands in for mmcv._ext: it has every operator, and none of them runs."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*_: Any, **__: Any) -> Any:
            raise NotImplementedError(f"mmcv._ext.{name} is not compiled in this environment")

        return missing


def enter_environment() -> None:
    """Puts the stub in place; ends with one line where mmocr is not installed."""
    absent = [name for name in NEEDED if find_spec(name) is None]
    if absent:
        sys.exit(f"not installed here: {', '.join(absent)}; run `make mmocr`")
    warnings.filterwarnings("ignore")
    sys.modules["mmcv._ext"] = Uncompiled("mmcv._ext")


class Maps(nn.Module):
    """The tensor part of the detector: image [N, 3, H, W] -> maps [N, 6, H/4, W/4]."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, x: Tensor) -> Tensor:
        return self.detector(x, mode="tensor")


def image(seed: int) -> Tensor:
    """Noise at three scales, normalised: [1, 3, SIZE, SIZE]."""
    generator = torch.Generator().manual_seed(seed)
    noise = [torch.randn(1, 3, n, n, generator=generator) for n in (4, 16, 64)]
    x = sum((F.interpolate(n, SIZE, mode="bilinear") for n in noise), torch.zeros(()))
    return x / x.std()


def build(amplified: bool = True) -> Maps:
    """mmocr's PANet ResNet-18 from its own config, in eval mode, with seeded random weights."""
    import mmocr.models
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmocr.registry import MODELS

    init_default_scope("mmocr")
    config = Config.fromfile(Path(mmocr.__file__).parent / ".mim" / "configs" / CONFIG).model
    config.backbone.init_cfg = None  # would be downloaded
    torch.manual_seed(0)
    detector = MODELS.build(config)
    if amplified:
        amplify(detector.backbone, detector.neck)
    calibrate(detector)
    return Maps(detector).eval()


@torch.no_grad()
def amplify(backbone: Any, neck: Any, gain: float = 4.0e4, damping: float = 1 / 64) -> None:
    """Layers 3 and 4 give large values, most in every eighth channel; what reads them damps."""
    for layer, size in ((backbone.layer3, gain / 3), (backbone.layer4, gain)):
        for block in layer:
            norms = [block.norm2, *(block.downsample or ())[1:]]
            for norm in norms:
                norm.weight.fill_(size / 64)
                norm.weight[::8] = size
                norm.bias.normal_().mul_(0.1 * norm.weight)
    for conv in (
        backbone.layer3[1].conv1,
        backbone.layer4[0].conv1,
        backbone.layer4[0].downsample[0],
        backbone.layer4[1].conv1,
        neck.reduce_conv_c4[0],
        neck.reduce_conv_c5[0],
    ):
        conv.weight.mul_(damping)


@torch.no_grad()
def calibrate(detector: nn.Module) -> None:
    """Gives every BatchNorm the statistics of four images, as training would."""
    for norm in detector.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = None
    detector.train()
    for seed in range(4):
        detector(image(100 + seed), mode="tensor")


# --- figures of the detector ---


def run(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


def nonfinite(x: Tensor) -> int:
    return int((~x.isfinite()).sum())


def described(model: Maps, x: Tensor) -> Found:
    """What was built, how large its blocks get, and what FP16 makes of it before any fix."""
    detector: Any = model.detector
    largest: dict[str, float] = {}

    def see(name: str, _: nn.Module, __: Any, y: Tensor) -> None:
        largest[name] = float(f"{y.abs().max():.4g}")

    blocks = {n: m for n, m in detector.named_modules() if type(m).__name__ == "BasicBlock"}
    seen = {k: m for n, b in blocks.items() for k, m in ((n, b), (f"{n}.bn2", b.norm2))}
    hooks = [m.register_forward_hook(partial(see, name)) for name, m in seen.items()]
    y = run(model, x)
    for hook in hooks:
        hook.remove()
    half = run(copy.deepcopy(model).half(), x.half())
    return {
        "config": CONFIG,
        "detector": qualified(detector),
        "blocks": sorted({qualified(block) for block in blocks.values()}),
        "neck": qualified(detector.neck),
        "parameters": sum(p.numel() for p in detector.parameters()),
        "image": list(x.shape),
        "maps": list(y.shape),
        "amax": largest,
        "amax_maps": round(float(y.abs().max()), 4),
        "nonfinite_maps_float32": nonfinite(y),
        "nonfinite_maps_float16": nonfinite(half),
        "values_maps": y.numel(),
        "error_float16_not_amplified": float(f"{error_not_amplified(x):.4g}"),
    }


def error_not_amplified(x: Tensor) -> float:
    """What FP16 costs a network with random weights that it holds well."""
    model = build(amplified=False)
    y = run(model, x)
    return float((run(model.half(), x.half()) - y).norm() / y.norm())


def qualified(thing: Any) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def proof(found: halfsafe.Verification) -> Found:
    """A verification in short. In FP16 kernels nothing is bit-equal, and nothing is claimed."""
    strict = {"bit_equal": found.bit_equal} if found.engine == "strict" else {}
    return {
        **strict,
        "nonfinite_before": found.before_nonfinite,
        "nonfinite_after": found.after_nonfinite,
        "error": float(f"{found.after:.4g}"),
        "floor": float(f"{found.floor:.4g}"),
        "ratio": round(found.ratio, 4),
    }


def operators(model: nn.Module, x: Tensor) -> Counter[str]:
    """ATen operators that depend on the image: what is computed from constants alone is free."""
    program = torch.export.export(model, (x,)).run_decompositions({})
    inputs, live = set(program.graph_signature.user_inputs), set[Any]()
    for node in program.graph.nodes:
        if node.name in inputs or live.intersection(node.all_input_nodes):
            live.add(node)
    calls = [str(n.target) for n in live if n.op == "call_function"]
    return Counter(name for name in calls if "getitem" not in name)


def added(model: nn.Module, candidate: nn.Module, x: Tensor) -> Found:
    before, after = operators(model, x), operators(candidate, x)
    return {
        "operators_before": before.total(),
        "operators_added": dict(after - before),
        "operators_removed": dict(before - after),
    }


def in_half(model: nn.Module, candidate: nn.Module, x: Tensor) -> Found:
    """A candidate that is in FP16 already, in PyTorch's own half kernels."""
    return proof(halfsafe.verify(model, candidate, (x,)))


def through_registry(model: Maps, x: Tensor) -> Found:
    """The rewrites by hand, by halfsafe's registry."""
    candidate = Rewritten(model)
    half = Rewritten(copy.deepcopy(model).half())
    return {
        "maps_equal": torch.equal(run(candidate, x), run(model, x)),
        "strict": proof(halfsafe.verify(model, candidate, (x,))),
        "half_kernels": in_half(model, half, x),
        **added(model, candidate, x),
    }


def through_fix(model: Maps, fixed: halfsafe.Fixed, x: Tensor) -> Found:
    """halfsafe.fix of the same model, with no rewrite."""
    strict = fixed.report.verification
    assert strict is not None
    return {
        "maps_equal": torch.equal(run(fixed.model, x), run(model, x)),
        "strict": proof(strict),
        "half_kernels": in_half(model, fixed.half(), x),
        **added(model, fixed.model, x),
        **planned(fixed.report),
    }


def planned(report: halfsafe.Report) -> Found:
    """The plan, also in words."""
    words = report.text().split("\nPlan", 1)[-1].strip().splitlines()[0].strip()
    return {
        "faults": len(report.faults),
        "folds": len(report.folds),
        "insertions": report.insertions,
        "islands": report.islands,
        "replacements": report.replacements,
        "conflicts": report.conflicts,
        "unknown_operators": report.unknown_ops,
        "exponents": exponents(report),
        "plan": words,
    }


def exponents(report: halfsafe.Report) -> dict[str, int]:
    """How many activations are stored at each exponent."""
    kinds = {name: value.kind for name, value in report.graph.values.items()}
    count = Counter(v.exponent for n, v in report.values.items() if kinds[n] == Kind.ACTIVATION)
    return {str(k): count[k] for k in sorted(count)}


def through_onnx(model: Maps, samples: list[Tensor]) -> Found:
    """The files that torch.onnx exports, without the rewrites and with them."""
    with tempfile.TemporaryDirectory() as folder:
        path, by_hand = Path(folder) / "plain.onnx", Path(folder) / "rewritten.onnx"
        for module, file in ((model, path), (Rewritten(model), by_hand)):
            torch.onnx.export(module, (samples[0],), file, dynamo=True, verbose=False)
        return in_files(path, by_hand, samples)


def in_files(path: Path, by_hand: Path, samples: list[Tensor]) -> Found:
    """The plain file fixed; and that of the rewrites, verified against the plain one."""
    original = ir.load(path)
    name = str(original.graph.inputs[0].name)
    feeds = [{name: x.numpy()} for x in samples]
    fixed = halfsafe.fix(path, feeds)
    verification = fixed.report.verification
    assert verification is not None
    before = Counter(node.op_type for node in original.graph)
    rewritten = Counter(node.op_type for node in ir.load(by_hand).graph)
    return {
        "nodes": before.total(),
        "strict": proof(verification),
        "bit_equal_optimised": is_bit_equal(original, fixed.model, feeds[-1], optimised=True),
        "nodes_added": dict(Counter(n.op_type for n in fixed.model.graph) - before),
        **left(fixed.half(), feeds[-1]),
        **planned(fixed.report),
        "registry": {
            "nodes_added": dict(rewritten - before),
            "nodes_removed": dict(before - rewritten),
            "strict": proof(halfsafe.verify(path, by_hand, feeds[-1])),
        },
    }


def latency(model: Maps, fixed: halfsafe.Fixed, x: Tensor, rounds: int = 15) -> Found:
    """FP32 on the CPU over the plain model: medians over rounds of the three in turn."""
    candidates = {"plain": model, "registry": Rewritten(model), "fixed.model": fixed.model}
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, candidate in candidates.items():
            start = time.perf_counter()
            run(candidate, x)
            taken[name].append(time.perf_counter() - start)
    ratios = {
        name: statistics.median(t / plain for t, plain in zip(times, taken["plain"], strict=True))
        for name, times in taken.items()
    }
    return {
        "milliseconds_plain": round(1e3 * min(taken["plain"]), 1),
        "over_plain": {name: round(ratio, 3) for name, ratio in ratios.items()},
    }


def setting() -> Found:
    return {
        "command": COMMAND,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": {package: version(package) for package in PACKAGES},
        "stubs": {"mmcv._ext": "every attribute is a function that raises NotImplementedError"},
    }


def main() -> None:
    enter_environment()
    model, samples = build(), [image(seed) for seed in (1, 2, 3)]
    x = samples[-1]
    fixed = halfsafe.fix(model, [(sample,) for sample in samples])
    found = setting()
    for name, measure in (
        ("model", lambda: described(model, x)),
        ("registry", lambda: through_registry(model, x)),
        ("fix", lambda: through_fix(model, fixed, x)),
        ("onnx", lambda: through_onnx(model, samples)),
        ("rewriters", lambda: compare(REWRITES, lambda: run(model, x))),
        ("latency_cpu_float32", lambda: latency(model, fixed, x)),
    ):
        found[name] = measure()
        print(json.dumps({name: found[name]}, indent=1), flush=True)
    path = RESULTS / "mmocr_detector.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path.relative_to(Path.cwd())}")


if __name__ == "__main__":
    main()
