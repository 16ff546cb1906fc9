"""What every renderer says in the same words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import inf

from halfsafe.faults import Fault, FaultKind
from halfsafe.graph import Graph
from halfsafe.report import bisection
from halfsafe.report.data import Record, Tie
from halfsafe.verdict import Answer, Verification


def verdict(report: Record) -> str:
    """The conclusion, in one sentence."""
    if report.verification is not None:
        told = conclusion(report.verification)
        assured = report.certificate if report.safe else None
        return f"{told} {assured.verdict}" if assured else told
    if report.bisection is not None:
        return bisection.verdict(report.bisection)
    if report.answer is Answer.UNKNOWN:
        return "By their ranges all values fit FP16, which was not run: outputs may be wrong still."
    if report.safe:
        latent = sum(fault.kind == FaultKind.LATENT for fault in report.faults)
        rest = len(report.faults) - latent
        if rest:
            return f"No output is harmed in FP16: {tally(report.faults)}, and outputs are unharmed."
        some = f"{latent} of them within the headroom" if latent else ""
        return f"FP16 holds every value of these samples{', ' * bool(some)}{some}."
    outcomes = {fault.outcome for fault in report.faults}
    ends = next((f", and {o} outputs" for o in ("nonfinite", "wrong") if o in outcomes), "")
    return f"Not safe in FP16: {tally(report.faults) or 'outputs are wrong'}{ends}."


def conclusion(proof: Verification) -> str:
    """The answer of a proof with the worst of its reasons, in one sentence."""
    reasons = proof.reasons
    if not reasons:
        return "Safe in FP16."
    answer, why = reasons[0]
    more = f", and {len(reasons) - 1} more like it" if len(reasons) > 1 else ""
    if answer is Answer.LIMITED:
        return f"FP16 cannot do better here: {why}{more}."
    return f"Not safe in FP16: {why}{more}."


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


def pinned_by(graph: Graph, pin: Tie | str) -> str:
    """What holds an exponent at 0: an operator, or the graph's rim."""
    if isinstance(pin, Tie):
        return str(graph.by_name[pin.node])
    return f"the graph's own input or output {pin}" if pin else ""


def proved_on(proof: Verification) -> str:
    """The samples of a proof, and how FP16 was run."""
    count = f"{proof.samples} sample{'s' * (proof.samples > 1)}"
    kept = f", {proof.unmeasured} of them not measured" if proof.unmeasured else ""
    return f"{count}{kept}, {proof.engine} FP16"


def error(error: float, nonfinite: int) -> str:
    """An error, or how many outputs have none because they are not finite."""
    if error < inf:
        return f"error {error:.2e}"
    return f"{nonfinite:,} nonfinite outputs" if nonfinite else "nonfinite"
