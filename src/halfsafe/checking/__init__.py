"""A certificate, proved once more: a second, smaller implementation of the same mathematics.

It shares no code with the first one but what reads models, and differs where it can: singular
values come from LAPACK, whose result is off by a small multiple of 2^-53 of the largest, and
matrices are in FP64. A claim is confirmed if the bound found here is no larger. Where this
implementation knows less than the first, it says so: then nothing is disproved, nor confirmed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from halfsafe.certificate import Certificate
from halfsafe.checking.known import MORE, Known
from halfsafe.checking.walk import Walk
from halfsafe.errors import BadInput, needing
from halfsafe.frontends import open_model
from halfsafe.graph import Kind
from halfsafe.progress import Progress
from halfsafe.samples import Samples
from halfsafe.source import Source

__all__ = ["Checked", "check"]


@dataclass(frozen=True)
class Checked:
    """Whether every claim of a certificate is confirmed, why not, and of how many values."""

    confirmed: bool
    why: tuple[str, ...]
    values: int


def check(
    certificate: Certificate | str | Path,
    model: Any,
    *,
    sample: Any = None,
    progress: Progress = lambda _: None,
) -> Checked:
    """Whether what a certificate says of a model is true, found out independently.

    `sample` lends its shapes; of the path of a file it may be left out. Raises BadInput and
    CaptureError.
    """
    told = certificate if isinstance(certificate, Certificate) else Certificate.load(certificate)
    progress("capturing")
    first = Samples(_sample(model) if sample is None else sample).first
    source = open_model(model, first, runs=False)
    why = _misfits(told, source)
    if not why:
        known = Walk(source, told.domain, told.refined, told.cuts).known(progress)
        why = [line for name in told.values if (line := _unconfirmed(told, name, known, source))]
        why += _left_out(told, source, known)
        fits = all(
            v.bound is not None and v.bound <= 65504 for v in told.values.values() if v.stored
        )
        if told.certified and not fits:
            why.append("it says that FP16 holds all values, and its bounds do not")
    return Checked(not why, tuple(why), len(told.values))


def _sample(model: Any) -> Any:
    if not isinstance(model, (str, Path)):
        raise BadInput("a model in memory tells no shapes: pass sample=, of which no entry matters")
    with needing("onnx", "ONNX files"):
        from halfsafe.frontends.onnx.made import made_samples

    return made_samples(Path(model)).samples[0]


def _misfits(told: Certificate, source: Source) -> list[str]:
    """What makes a certificate one of something else."""
    shapes = {name: tuple(source.graph.values[name].shape) for name in source.graph.inputs}
    if {name: tuple(shape) for name, shape in told.shapes.items()} != shapes:
        return [f"the certificate is for inputs of {dict(told.shapes)}, these are {shapes}"]
    if set(told.domain) != set(shapes):
        return ["the certificate's domain is of other inputs"]
    if told.fingerprint != source.fingerprint():
        return ["the certificate is of other operators or weights"]
    return []


def _unconfirmed(told: Certificate, name: str, known: Mapping[str, Known], source: Source) -> str:
    claim, found = told.values[name], known.get(name)
    value = source.graph.values.get(name)
    if value is None or found is None:
        return f"{name} is no value of this model"
    if claim.stored != value.bounded:
        return f"{claim.where}: FP16 {'stores' if value.bounded else 'does not store'} it"
    if claim.bound is None or found.amax <= claim.bound * MORE:
        return ""
    if not np.isfinite(found.amax):
        return (
            f"{claim.where}: {claim.bound:.4g} is claimed, and nothing is known here: {found.lost}"
        )
    why = f", as nothing is known of what comes from {found.lost}" if found.lost else ""
    return f"{claim.where}: {claim.bound:.4g} is claimed, and {found.amax:.4g} is found{why}"


def _left_out(told: Certificate, source: Source, known: Mapping[str, Known]) -> list[str]:
    graph, data = source.graph, set(source.graph.outputs)
    for node in reversed(graph.nodes):  # what only whole numbers come from does not count
        if any(graph.values[o].floating and o in data for o in node.outputs):
            data.update(node.inputs.values())
    varies = set(graph.inputs)
    for node in graph.nodes:
        if varies.intersection(node.inputs.values()):
            varies.update(node.outputs)
    needed = {
        n for n, v in graph.values.items()
        if v.floating and v.bounded and v.number is None and n not in told.values
        and (n in varies or n in data or v.kind is Kind.CONSTANT)
    }  # fmt: skip
    return [f"nothing is said of {graph.describe(name)}" for name in sorted(needed & set(known))]
