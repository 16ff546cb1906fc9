"""What holds for every input of a domain, from the weights alone: certificates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite
from pathlib import Path
from typing import Any

import numpy as np

from halfsafe.asked import Asked
from halfsafe.bounds.bound import Bound
from halfsafe.bounds.refining import refined
from halfsafe.bounds.rounding import in_half
from halfsafe.certificate import Bounded, Certificate, rounded_up
from halfsafe.errors import BadInput, needing
from halfsafe.frontends import open_model
from halfsafe.graph import Graph, Kind, Value
from halfsafe.prepare import Prepared
from halfsafe.references import References
from halfsafe.samples import Samples
from halfsafe.source import Progress, Source
from halfsafe.standing import Standing, standings
from halfsafe.verdict import Verification

Interval = tuple[float, float]

SECONDS = 60.0
"""For which bounds are refined at most, where one does not fit."""

DEARER = 1.1
"""By how much the error of a plan may be larger that fits more values, and not all."""


def certify(
    model: Any,
    domain: Mapping[str, Interval] | None = None,
    *,
    sample: Any = None,
    refine: float = SECONDS,
    progress: Progress = lambda _: None,
) -> Certificate:
    """Bounds of every value of a model in FP32 and in FP16, for every input of a domain.

    Nothing is measured: a `sample` lends its shapes and types alone; of the path of a file it may
    be left out, and those of the file are taken. `domain` gives inputs by name an interval, ends
    included; whole numbers may be anything where it gives none, of a mask 0 or 1, and floating
    inputs need one. Bounds hold for FP32 and for FP16, each value rounded as it is stored, as long
    as none passes 65,504; operators accumulate in FP32. A row of attention that is masked whole is
    not among the inputs. Where a bound does not fit, those that could be tighter are computed again
    for so many seconds at most as `refine` says. Raises BadInput and CaptureError.

    >>> import torch, halfsafe
    >>> net = torch.nn.Sequential(torch.nn.LayerNorm(16), torch.nn.Linear(16, 4)).eval()
    >>> found = halfsafe.certify(net, {"input_1": (-1e4, 1e4)}, sample=torch.zeros(2, 16))
    >>> found.certified, found.worst[0]
    (True, 'input_1')
    """
    progress("capturing")
    first = Samples(_sample(model) if sample is None else sample).first
    source = open_model(model, first, runs=False)
    return certificate_of(source, domain or {}, progress, refine)


def certificate_of(
    source: Source,
    domain: Mapping[str, Interval],
    progress: Progress = lambda _: None,
    refine: float = 0.0,
) -> Certificate:
    """The certificate of a captured network, refined for so many seconds at most. Raises BadInput
    for a domain that is none."""
    spans = _spans(source, dict(domain))
    inputs = {n: _bound(source.graph.values[n], span) for n, span in spans.items()}
    found = refined(source, inputs, refine, progress)
    left = _positions(source.graph)
    return Certificate(
        model=source.name,
        fingerprint=source.fingerprint(),
        shapes={name: source.graph.values[name].shape for name in source.graph.inputs},
        domain=spans,
        values=_constants(source)
        | {n: _told(source, n, bound) for n, bound in found.bounds.items() if n not in left},
        refined=found.operators,
        cuts=found.cuts,
        ended=found.ended,
    )


def _positions(graph: Graph) -> frozenset[str]:
    """Values that depend on no input, and of which only whole numbers come: the same each time."""
    varying = set(graph.inputs)
    for node in graph.nodes:
        if varying.intersection(node.inputs.values()):
            varying.update(node.outputs)
    data = set(graph.outputs)
    for node in reversed(graph.nodes):
        if any(graph.values[o].floating and o in data for o in node.outputs):
            data.update(node.inputs.values())
    return frozenset(graph.values) - varying - data


def _constants(source: Source) -> dict[str, Bounded]:
    """Weights and other constants, which FP16 has to hold as well."""
    values = source.graph.values.values()
    largest = {
        value: _largest(source.array(value.name) if value.number is None else [value.number])
        for value in values
        if value.floating and value.kind is Kind.CONSTANT
    }
    return {
        value.name: Bounded(
            rounded_up(max(amax, _as_stored(amax, value))),
            f"the constant {value.name}",
            value.bounded,
            by="constants",
        )
        for value, amax in largest.items()
    }


def _largest(entries: Any) -> float:
    """The largest finite magnitude, found without a second array where all are finite."""
    array = np.asarray(entries)
    largest = float(max(array.max(initial=0.0), -array.min(initial=0.0)))
    if not isfinite(largest):
        largest = float(np.abs(array[np.isfinite(array)]).max(initial=0.0))
    return largest


def _sample(model: Any) -> Any:
    """One for a file. Raises BadInput where there is none to be had."""
    if not isinstance(model, (str, Path)):
        raise BadInput("a model in memory tells no shapes: pass sample=, of which no entry matters")
    with needing("onnx", "ONNX files"):
        from halfsafe.frontends.onnx.made import made_samples

    return made_samples(Path(model)).samples[0]


def _spans(source: Source, given: dict[str, Interval]) -> dict[str, Interval | None]:
    """The interval of each input. Raises BadInput for one that is missing, odd, or empty."""
    spans: dict[str, Interval | None] = {}
    for name in source.graph.inputs:
        span = given.pop(name, None)
        value = source.graph.values[name]
        if span is None and "mask" in name.lower():
            span = (0.0, 1.0)
        if span is None and value.floating:
            raise BadInput(f"input '{name}' has floating entries: give their domain, ({name}=-1:1)")
        if span is not None and not (isfinite(span[0]) and span[0] <= span[1] < inf):
            raise BadInput(
                f"the domain of '{name}' is {span[0]:g} to {span[1]:g}: give it two ends"
            )
        spans[name] = span
    if given:
        known = ", ".join(source.graph.inputs)
        raise BadInput(f"there is no input '{next(iter(given))}': the model has {known}")
    return spans


def _bound(value: Value, span: Interval | None) -> Bound:
    ends = span or (-inf, inf)
    if value.floating:
        ends = min(ends[0], _as_stored(ends[0], value)), max(ends[1], _as_stored(ends[1], value))
    return Bound.between(value.shape, *ends, by="domain")


def _as_stored(end: float, value: Value) -> float:
    """What the end of an interval is in FP16: entries inside are rounded to nothing beyond."""
    return float(in_half(np.float64(end))) if value.bounded else end


def _told(source: Source, name: str, bound: Bound) -> Bounded:
    value = source.graph.values[name]
    known = rounded_up(bound.amax) if bound.is_finite else None
    lost = (
        ""
        if bound.is_finite
        else bound.lost or "a number that is infinite, or an input that may be anything"
    )
    summed = None if bound.summed is None else rounded_up(bound.summed)
    by = bound.by if bound.is_finite else ""
    return Bounded(known, source.graph.describe(name), value.bounded, lost, by, summed)


@dataclass(frozen=True)
class Certified:
    """A plan with its proof, and certificates of the network as it was and of what is deployed."""

    prepared: Prepared
    proof: Verification
    before: Certificate
    after: Certificate

    @property
    def whole(self) -> bool:
        """Whether outputs are safe, and FP16 holds every value of the domain."""
        return self.proof.safe and self.after.certified

    @property
    def count(self) -> int:
        """How many values are certified to fit."""
        return sum(value.fits for value in self.after.values.values())

    def standings(self) -> dict[str, Standing]:
        """What is known of each value that is deployed."""
        ranges = self.prepared.ranges
        return standings(self.before, self.after, {n: r.amax for n, r in ranges.items()})


def certified(
    asked: Asked,
    references: References,
    supply: Samples,
    domain: Mapping[str, Interval],
    progress: Progress,
) -> Certified:
    """The best plan that has room for whatever comes in, where bounds say what that is, and for
    what samples show elsewhere. Where that is not whole, bounds are refined and it is made anew;
    where it still is not, that of the samples alone is taken if the first is not safe, fits no more
    values, or costs accuracy.

    The certificate is of what is deployed, with its constants as they are stored there.
    """
    original = references.original

    def planned(before: Certificate, refine: float, *, by_samples: bool = False) -> Certified:
        known = {n: v.bound for n, v in before.values.items() if v.bound is not None}
        bounds = {} if by_samples else known
        prepared, proof = asked.mended(references, supply, progress, bounds=bounds)
        after = certificate_of(prepared.deployed(original), domain, progress, refine)
        return Certified(prepared, proof, before, after)

    found = planned(certificate_of(original, domain, progress), 0.0)
    if not found.whole:
        sharper = certificate_of(original, domain, progress, SECONDS)
        if sharper.values != found.before.values:
            found = planned(sharper, SECONDS)
    if found.whole:
        return found
    plain = planned(found.before, SECONDS, by_samples=True)
    dearer = found.proof.ratio > DEARER * plain.proof.ratio
    return found if found.proof.safe and found.count > plain.count and not dearer else plain
