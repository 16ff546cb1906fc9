"""The pipeline on one screen: measure, localise, plan, rewrite, verify."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from halfsafe import remedies
from halfsafe.edits import Edit
from halfsafe.errors import BadInput, EditError
from halfsafe.faults import Fault, find_faults
from halfsafe.frontends import open_model
from halfsafe.plan import Plan, plan
from halfsafe.ranges import Ranges
from halfsafe.report.model import Report, write_report
from halfsafe.rewrite import rewrite
from halfsafe.samples import Samples
from halfsafe.source import Forms, Kernels, Progress, Source
from halfsafe.verify import Verification, verify_source
from halfsafe.windows import Limits, windows

Target = Literal["torch"]


@dataclass(frozen=True)
class Fixed:
    """The fixed model in its forms, and the report on it."""

    report: Report
    forms: Forms

    @cached_property
    def model(self) -> Any:
        """A model of the same kind as the argument of `fix`, in FP32, of the same function.

        It is bit-identical unless the report lists other forms of operators.
        """
        return self.forms.float32()

    def half(self) -> Any:
        """The FP16 deployable. It takes FP16 inputs; FP32 ones are cast."""
        return self.forms.half()

    def state_dict(self) -> dict[str, Any]:
        """The original's keys with folded constants; FoldError if constants do not suffice."""
        return self.forms.state_dict()

    def apply_to(self, model: Any) -> Any:
        """Loads constants and epsilons into a model of the original class, in place."""
        return self.forms.apply_to(model)

    def save(
        self,
        path: str | Path,
        *,
        dtype: Literal["float16", "float32"] = "float16",
        io: Literal["float32", "float16"] = "float32",
    ) -> None:
        """Writes .onnx, .pt2 (the whole model) or .safetensors (its state_dict), atomically.

        `io` is the type of floating inputs and outputs of an .onnx file in FP16, whose nodes have
        range and exponent of what they compute among their metadata, where viewers show them.
        """
        self.forms.save(Path(path), dtype, io, self.report.labels)


def fix(
    model: Any,
    samples: Any,
    target: Target = "torch",
    *,
    headroom: int = 1,
    dynamic_shapes: Any = None,
    kernels: Kernels = "strict",
    progress: Progress = lambda _: None,
) -> Fixed:
    """The same function, safe in half precision. The argument is never changed.

    `model` is a torch.nn.Module, an onnx.ModelProto, an onnx_ir.Model or the path of a .onnx file.
    `samples` is one sample (an array, a tuple of positional arguments or a dict of keyword
    arguments) or an iterable of them; of three or more, the last is kept for the proof.
    `headroom` bits are left free above the largest magnitudes seen. `dynamic_shapes` goes to
    torch.export. `kernels` chooses how FP16 is run for the proof: by strict evaluation, or by the
    framework's own half kernels. Raises BadInput and CaptureError.
    """
    if target != "torch":
        raise BadInput(f"unknown target {target!r}: this version knows 'torch'")
    if headroom < 0:
        raise BadInput(f"headroom is {headroom}: give a number of bits, 0 or more")
    supply = Samples(samples)
    progress("capturing")
    original = open_model(model, supply.first, dynamic_shapes)
    if not any(v.floating for v in original.graph.values.values()):
        raise BadInput("the model computes with integers only: FP16 cannot hurt it")
    prepared = prepare(original, supply, Limits(headroom=headroom), progress)
    exact = original.apply(prepared.forms).apply(prepared.edits)
    deployed = exact.apply(prepared.replacements)
    progress("verifying")
    proof = verify_source(original, exact, deployed, supply.proof, supply.held_out, kernels)
    report = write_report(original, prepared, proof, supply.count, headroom)
    forms = exact.forms(original, deployed, supply.first, dynamic_shapes)
    return Fixed(report, forms)


def verify(model: Any, candidate: Any, samples: Any) -> Verification:
    """How far a candidate is from the FP32 model, on all samples, and over the floor of FP16.

    An FP32 candidate must be bit-equal, and is judged in FP16 by strict evaluation; one that is in
    FP16 already runs as it is, an ONNX one both strictly and in ONNX Runtime. Raises BadInput and
    CaptureError.
    """
    supply = Samples(samples)
    original = open_model(model, supply.first)
    calls = supply.all()
    if original.is_half(candidate):
        running = original.running(candidate)
        kernels = running.kernels
        return verify_source(
            original, None, running, calls, False, kernels, own=kernels == "strict"
        )
    rewritten = open_model(candidate, supply.first)
    return verify_source(original, rewritten, rewritten, calls, False, "strict")


@dataclass(frozen=True)
class Prepared:
    """A source that can be planned, the plan, and all that has to be done for it.

    `forms` keep the function but not its bits, `edits` keep the bits, and `replacements` change
    what FP16 cannot hold: they go into the FP16 deployable only.
    """

    source: Source
    ranges: Ranges
    faults: tuple[Fault, ...]
    plan: Plan
    forms: tuple[Edit, ...]
    edits: tuple[Edit, ...]
    replacements: tuple[Edit, ...]


def prepare(original: Source, supply: Samples, limits: Limits, progress: Progress) -> Prepared:
    """Measures and plans; where pinned operators stand in the way, again with other forms."""
    masks = remedies.sentinels(original.graph, original.constants())
    source, forms, faults = original.apply(masks), list[Edit](), None
    while True:
        ranges = source.measure(supply.measured(), progress) | source.constants()
        progress("planning")
        bounds = windows(source.graph, ranges, limits)
        if faults is None:
            faults = find_faults(source.graph, ranges, limits)
        found = plan(source.graph, bounds)
        remedy = remedies.next_remedy(source.graph, bounds, found, forms)
        try:
            changed = source.apply(remedy) if remedy else None
        except EditError:
            changed = None  # the conflicts stay, and are reported
        if changed is None:
            break
        source = changed
        forms += remedy
    return Prepared(
        source=source,
        ranges=ranges,
        faults=tuple(faults),
        plan=found,
        forms=tuple(forms),
        edits=tuple(rewrite(source.graph, found, ranges, limits)),
        replacements=(
            *remedies.stored_masks(masks, found),
            *remedies.floors(source.graph, found.exponents, ranges),
        ),
    )
