"""What every renderer says in the same words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from halfsafe.faults import Fault, FaultKind
from halfsafe.graph import Graph
from halfsafe.report.model import Report
from halfsafe.verify import Verification


def verdict(report: Report) -> str:
    """The conclusion, in one sentence."""
    if report.verification is not None:
        why = _why_not(report, report.verification)
        return "Safe in FP16." if report.safe else f"Not safe in FP16: {why}."
    if report.safe:
        latent = len(report.faults)
        some = f"{latent} of them within the headroom" if latent else ""
        return f"FP16 holds every value of these samples{', ' * bool(some)}{some}."
    outcomes = {fault.outcome for fault in report.faults}
    ends = next((f", and {o} outputs" for o in ("nonfinite", "wrong") if o in outcomes), "")
    return f"Not safe in FP16: {tally(report.faults)}{ends}."


def _why_not(report: Report, proof: Verification) -> str:
    if report.conflicts:
        return f"{len(report.conflicts)} values are unresolved"
    if proof.safe:
        return "the rescaled model is not bit-equal in FP32"
    if proof.after_nonfinite:
        return "the proof met values larger than those measured, so pass more samples"
    return f"its outputs are {proof.ratio:.0f} times as wrong as FP16 has to be"


def worst_first(faults: Iterable[Fault]) -> list[Fault]:
    """The worst kind first; in a kind operators before constants, and the farthest outside."""
    return sorted(faults, key=lambda f: (f.kind.severity, f.op == "constant", -f.excess))


def tally(faults: Iterable[Fault]) -> str:
    """Faults counted by kind, the worst first: ``2 overflow, 1 sentinel``."""
    counts = Counter(fault.kind for fault in faults)
    return ", ".join(f"{counts[kind]} {kind}" for kind in FaultKind if kind in counts)


def short(line: str) -> str:
    """A source line without the folders that say nothing.

    >>> short("/usr/lib/python3/site-packages/timm/models/vit.py:12")
    'timm/models/vit.py:12'
    """
    inside = line.rpartition("site-packages/")[2]
    return "/".join(inside.split("/")[-3:]) if inside == line else inside


def places(graph: Graph, nodes: Iterable[str]) -> str:
    """Operators by the modules they are in, the first two of them."""
    found = [graph.by_name[name] for name in nodes]
    names = list(dict.fromkeys(node.module or node.name for node in found))
    rest = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return ", ".join(names[:2]) + rest
