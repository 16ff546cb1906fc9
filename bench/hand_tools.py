"""Hand tools: exactness of rescaled modules, and the PAN network fixed by hand in three ways.

Run as ``python -m bench.hand_tools``. Every option of `halfsafe.manual.rescaled` is compared with
the module itself. The overflowing detector of the demo is fixed by a scaled region, by rewrites
registered for a backend, and by `halfsafe.fix`: FP32 bit by bit, FP16 in PyTorch's CPU kernels,
operators run in addition, and latency side by side in one run.
"""

from __future__ import annotations

import copy
import statistics
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import halfsafe
from bench.record import record
from examples.panet import by_hand
from examples.panet.demo import detector
from halfsafe.manual import rescaled
from tests.test_manual import MODULES, exact, largest

COMMAND = "python -m bench.hand_tools"
EXPONENTS = (-12, -5, -1, 1, 5, 12)
FACTORS = (3.0, 10.0, 32.1, 0.3)
SIDES = (("full", "full"), ("full", "scaled"), ("scaled", "full"))
REGION = {
    "start": "backbone.layer3",
    "end": ["neck.reduce_conv_c4", "neck.reduce_conv_c5"],
    "exponent": 4,
}
ROUNDS = 9


def modules() -> dict[str, Any]:
    """How many are bit-equal at powers of two, and the errors at other factors."""
    equal, others, begun, ended, own = 0, 0, [0.0], [0.0], [0.0]
    for make in MODULES.values():
        torch.manual_seed(0)
        module, x = make()
        with torch.no_grad():
            y, ulp = module(x), 2.0**-23 * largest(module, x)
            equal += sum(
                torch.equal(_between(module, x, k, *sides), y) for k in EXPONENTS for sides in SIDES
            )
            for f in FACTORS:
                others += torch.equal(rescaled(module, factor=f)(x), y)
                y_scaled = rescaled(module, factor=f, output="scaled")(x).double()
                begun.append(float(((y_scaled * f - y).abs() / ulp).max()))
                given = (x / f).double() * f
                truth = exact(module, given)
                y_full = rescaled(module, factor=f, input="scaled")(x / f).double()
                ended.append(float(((y_full - truth).abs() / ulp).max()))
                own.append(float(((module(given.float()) - truth).abs() / ulp).max()))
    return {
        "options": len(MODULES),
        "runs_at_powers_of_two": len(MODULES) * len(EXPONENTS) * len(SIDES),
        "bit_equal": equal,
        "other_factors": list(FACTORS),
        "runs_at_other_factors": len(MODULES) * len(FACTORS),
        "bit_equal_at_other_factors": others,
        "worst_ulp_of_the_largest_term_output_scaled": round(max(begun), 2),
        "worst_ulp_of_the_largest_term_input_scaled": round(max(ended), 2),
        "worst_ulp_of_the_largest_term_of_the_module_itself": round(max(own), 2),
    }


def _between(module: nn.Module, x: Tensor, k: int, before: Any, after: Any) -> Tensor:
    """What a rescaled module gives, given and taken at full size."""
    made = rescaled(module, k, input=before, output=after)
    y = made(x if before == "full" else x * 2.0**-k)
    return y if after == "full" else y * 2.0**k


def textbook() -> dict[str, float]:
    """Errors of both identities over the plain convolution's own, where the bias is large."""
    torch.manual_seed(0)
    conv, x, f = nn.Conv2d(16, 8, 3), torch.randn(1, 16, 32, 32), 32.0
    found: dict[str, float] = {}
    with torch.no_grad():
        for bias in (1.0, 1e2, 1e4):
            nn.init.constant_(conv.bias, bias)
            truth = exact(conv, x)
            own = (conv(x) - truth).abs().max()
            cancelling = f * conv(x / f) - (f - 1) * conv.bias[:, None, None]
            ours = rescaled(conv, 5)(x)
            found[f"bias {bias:g}: f*conv(x/f) - (f-1)*b"] = _ratio(cancelling - truth, own)
            found[f"bias {bias:g}: f*(W(x/f) + b/f)"] = _ratio(ours - truth, own)
    return found


def _ratio(error: Tensor, own: Tensor) -> float:
    return round(float(error.abs().max() / own), 2)


Way = tuple[nn.Module, Callable[[nn.Module], AbstractContextManager[Any]]]


def ways(model: nn.Module, samples: list[Any]) -> tuple[dict[str, Way], Any]:
    """Models, and the contexts in which they run."""
    (image,) = samples[-1]
    folded = copy.deepcopy(model)
    with halfsafe.scaled(folded, **REGION) as region:
        folded(image)
        region.fold()
    fixed = halfsafe.fix(model, samples, engine="torch")
    alone = lambda _: nullcontext()  # noqa: E731
    found: dict[str, Way] = {
        "as it is": (model, alone),
        "scaled region": (model, lambda m: halfsafe.scaled(m, **REGION)),
        "scaled region, folded": (folded, alone),
        "registry rewrites": (model, lambda _: halfsafe.rewriting(backend=by_hand.BACKEND)),
        "halfsafe.fix": (fixed.model, alone),
    }
    return found, fixed


def pan() -> dict[str, Any]:
    model, samples = detector()
    (image,) = samples[-1]
    with torch.no_grad():
        expected = model(image)
        found, fixed = ways(model, samples)
        floor = fixed.report.verification.floor
        halves = {name: copy.deepcopy(m).half() for name, (m, _) in found.items()}
        halves["halfsafe.fix"] = fixed.half()
        plain = operators(model, nullcontext(), image)
        rows: dict[str, dict[str, Any]] = {}
        for name, (way, context) in found.items():
            with context(way):
                same = torch.equal(way(image), expected)
            with context(halves[name]):
                half = halves[name](image.half()).float()
            error = float((half - expected).norm() / expected.norm())
            finite = bool(half.isfinite().all())
            rows[name] = {
                "same_maps_in_float32": same,
                "nonfinite_in_float16": int((~half.isfinite()).sum()),
                "error_over_floor": round(error / floor, 3) if finite else None,
                "operators_added": operators(way, context(way), image) - plain,
            }
        for name, ratio in latency(found, image).items():
            rows[name]["latency_over_as_it_is"] = ratio
    return {"floor": floor, "inserted_by_fix": len(fixed.report.insertions), "ways": rows}


class _Count(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def operators(model: nn.Module, context: AbstractContextManager[Any], image: Tensor) -> int:
    """ATen operators of one call."""
    with _Count() as counter, context:
        model(image)
    return counter.count


def latency(found: dict[str, Way], image: Tensor) -> dict[str, float]:
    """Medians of the ratios to the model as it is, all run in turn."""
    times: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(ROUNDS):
        for name, (model, context) in found.items():
            with context(model):
                model(image)
                start = time.perf_counter()
                model(image)
                times[name].append(time.perf_counter() - start)
    first = times["as it is"]
    return {
        name: round(statistics.median(t / f for t, f in zip(ts, first, strict=True)), 3)
        for name, ts in times.items()
    }


def main() -> None:
    warnings.simplefilter("ignore")
    figures = {"rescaled": modules(), "textbook_identity": textbook(), "pan": pan()}
    for name, found in figures.items():
        print(name, found)
    record("hand_tools", COMMAND, figures)


if __name__ == "__main__":
    main()
