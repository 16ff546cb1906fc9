"""The pipeline on one screen: measure, localise, plan, rewrite, prove, mend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from halfsafe.asked import Asked
from halfsafe.certificate import Certificate
from halfsafe.certify import certified
from halfsafe.engines import Engine, engine_of
from halfsafe.engines.profile import Profile
from halfsafe.errors import BadInput
from halfsafe.frontends import open_model, process_group
from halfsafe.progress import Counted
from halfsafe.proof import Proof, Standard, delivered, prove
from halfsafe.recipe import Recipes
from halfsafe.references import References
from halfsafe.report.gather import write_report
from halfsafe.report.report import Report
from halfsafe.samples import Samples
from halfsafe.sharing import ALONE
from halfsafe.source import Delivery, Progress
from halfsafe.verdict import TOLERANCE, Metric, Verification

Target = Literal["torch"]


@dataclass(frozen=True)
class Fixed:
    """The fixed model, ready to be delivered, and the report on it."""

    report: Report
    delivery: Delivery
    samples: Samples | None = None
    certificate: Certificate | None = None

    @cached_property
    def model(self) -> Any:
        """A model of the same kind as the argument of `fix`, in FP32, of the same function.

        It is bit-identical unless the report lists other forms of operators.
        """
        return self.delivery.float32()

    def half(self) -> Any:
        """The FP16 deployable. It takes FP16 inputs; FP32 ones are cast.

        Of the path of a .onnx file this, and `model`, is an onnx_ir.Model. An input that an island
        needs in FP32 has to be given so: then FP16 raises BadInput.
        """
        return self.delivery.half()

    def state_dict(self) -> dict[str, Any]:
        """The original's keys with folded constants; FoldError if constants do not suffice."""
        return self.delivery.state_dict()

    def recipe(self) -> Recipes:
        """The plan by itself: exponents of tensors by their names, for other checkpoints.

        Raises FoldError like `state_dict`; an ONNX file has none.
        """
        return Recipes({"": self.delivery.recipe()})

    def apply_to(self, model: Any) -> Any:
        """Loads constants and epsilons into a model of the original class, in place."""
        return self.delivery.apply_to(model)

    def save(
        self,
        path: str | Path,
        *,
        dtype: Literal["float16", "float32"] = "float16",
        io: Literal["float32", "float16"] = "float32",
    ) -> None:
        """Writes .onnx, .pt2 (the whole model) or .safetensors (its state_dict), atomically; or an
        .engine of TensorRT, strongly typed, for all sizes that the samples have.

        `io` is the type of floating inputs and outputs of an .onnx file in FP16, whose nodes have
        range and exponent of what they compute among their metadata, where viewers show them.
        """
        if Path(path).suffix == ".engine":
            self.save_engine(path)
            return
        self.delivery.save(Path(path), dtype, io, self.report.labels)

    def save_engine(self, path: str | Path, timing_cache: str | Path | None = None) -> str:
        """Writes an .engine, and says what it is; a timing cache is read and written.

        Raises BadInput where neither TensorRT and a GPU nor TensorRT for RTX are here.
        """
        from halfsafe.engines.written import write_engine

        if self.samples is None:
            raise BadInput("an engine is built of a model, not of a directory")
        cache = None if timing_cache is None else Path(timing_cache)
        return write_engine(self.delivery.runnable(), self.samples, Path(path), cache)


def fix(
    model: Any,
    samples: Any,
    target: Target = "torch",
    *,
    headroom: int = 1,
    tolerance: float = TOLERANCE,
    metric: str | Metric | None = None,
    dynamic_shapes: Any = None,
    engine: str | Engine = "strict",
    profile: str | Path | Profile | None = None,
    weights: Any = None,
    keep_fp32: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    certify: Mapping[str, tuple[float, float]] | None = None,
    distributed: bool = False,
    progress: Progress = lambda _: None,
) -> Fixed:
    """The same function, safe in half precision. The argument is never changed.

    `model` is a torch.nn.Module, an onnx.ModelProto, an onnx_ir.Model or the path of a .onnx file.
    `samples` is one sample (an array, a tuple of positional arguments or a dict of keyword
    arguments) or an iterable of them; of three or more, the last is kept out of measuring. The
    proof is on all of them. `headroom` bits are left free above the largest magnitudes seen.
    `tolerance` is the relative error of an output that is still of use, or, with a `metric`
    ("top-1", "cosine" or a callable of two lists of arrays), the largest value of that.
    `dynamic_shapes` goes to torch.export. `engine` chooses where FP16 is run for the proof:
    in strict evaluation, or in a framework's own kernels (`halfsafe.engines.names()`). A `profile`
    that `halfsafe.bisect` has written tells what its operators bear. `weights` are those of a
    module on the meta device, read when they are needed and never held whole: a .safetensors file,
    a folder of them, or a function from a tensor's name to the tensor. `keep_fp32` are patterns of
    operators that stay in FP32, by node, operator or module: "model.layers.0.*"; those that
    `exclude` names run in FP16 and keep their constants, operands and results as they are.
    `certify` is a domain, as `halfsafe.certify` takes it: then there is room for whatever comes in
    where that can be had, and `fixed.certificate` says how far it is. With `distributed`, each of
    the n processes of a torch.distributed group measures and proves every nth sample, and all of
    them return the same. Raises BadInput and CaptureError.
    """
    if target != "torch":
        raise BadInput(f"unknown target {target!r}: this version knows 'torch'")
    asked = Asked.of(headroom, tolerance, metric, engine, profile, keep_fp32, exclude)
    supply = Samples(samples)
    progress = Counted(progress, supply.known)
    progress("capturing")
    original = open_model(model, supply.first, dynamic_shapes, supply.some, weights)
    references = asked.references(original)
    if distributed and certify is not None:
        raise BadInput("certify is for one process: leave out distributed")
    group = process_group() if distributed else ALONE
    if certify is None:
        prepared, proof = asked.mended(references, supply, progress, group)
        held = None
    else:
        held = certified(asked, references, supply, certify, progress)
        prepared, proof = held.prepared, held.proof
    group.leave()
    exact = prepared.exact(original)
    delivery = exact.deliver(original, prepared.replaced(exact), supply.first)
    progress("running what is delivered")
    proof, notes = delivered(delivery, references, supply, proof)
    notes += [*delivery.notes, *asked.notes(original)]
    report = write_report(original, prepared, proof, supply.count, headroom, notes, held)
    return Fixed(report, delivery, supply, held.after if held else None)


def verify(
    model: Any,
    candidate: Any,
    samples: Any,
    *,
    tolerance: float = TOLERANCE,
    metric: str | Metric | None = None,
    engine: str | Engine | None = None,
    progress: Progress = lambda _: None,
) -> Verification:
    """How far a candidate is from the FP32 model, on all samples, and over the floor of FP16.

    An FP32 candidate must be bit-equal, unless its constants have been rounded to FP16, and is
    judged in FP16 by strict evaluation; one that is in FP16 already runs as it is, a module in
    PyTorch's kernels, a file both strictly and in ONNX Runtime; or each in the `engine` that is
    named. `tolerance` and `metric` are those of `fix`. Raises BadInput and CaptureError.
    """
    standard = Standard(tolerance, metric)
    supply = Samples(samples)
    progress = Counted(progress, supply.known)
    progress("capturing")
    original = open_model(model, supply.first, others=supply.some)
    if original.is_half(candidate):
        running = original.running(candidate)
        runs_in = engine_of(engine or running.engine)
        also = None if engine or runs_in.name == "torch" else engine_of("onnxruntime")
        references = References(original, runs_in.profile.stores.at_any_exponent)
        proof = Proof(references, None, running, runs_in, standard, also=also)
    else:
        rewritten = open_model(candidate, supply.first, others=supply.some)
        exact = None if rewritten.holds_half and not original.holds_half else rewritten
        runs_in = engine_of(engine or "strict")
        references = References(original, runs_in.profile.stores.at_any_exponent)
        proof = Proof(references, exact, rewritten, runs_in, standard)
    return prove(proof, supply, last=0, unmeasured=0, progress=progress)
