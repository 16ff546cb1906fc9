"""The report as one HTML file that needs no network: the argument as text, the data as JSON.

Python writes what is read from top to bottom; the explorer (map, table, details) is drawn in the
browser by the scripts in assets from the data that `explorer` gathers.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from math import isfinite
from string import Template
from typing import Any

from halfsafe.faults import Fault, FaultKind
from halfsafe.graph import Graph, Kind
from halfsafe.report import bisection_html
from halfsafe.report.data import Record, ValueReport
from halfsafe.report.explorer import explorer
from halfsafe.report.grammar import counted, sentence
from halfsafe.report.markup import (
    SHOWN,
    Markup,
    cells,
    folded,
    join,
    number,
    spaced,
    tag,
)
from halfsafe.report.words import (
    error,
    places,
    proved_on,
    short,
    verdict,
    worst_first,
)
from halfsafe.verdict import Verification

SCRIPTS = ("words.js", "map.js", "table.js", "details.js", "page.js")
"""Parts of one script, in this order."""


def render(report: Record) -> str:
    """The whole page."""
    return Template(_asset("template.html")).substitute(
        title=escape(f"{report.model}: halfsafe {report.tool}"),
        style=_asset("report.css"),
        header=_header(report),
        numbers=_numbers(report),
        bisection=bisection_html.section(report),
        faults=_faults(report),
        plan=_plan(report),
        proof=_proof(report),
        certificate=_certificate(report),
        bounds=_LEGEND if report.certificate else "",
        notes=_notes(report),
        command=tag("pre", tag("code", report.command)),
        data=_script_safe(explorer(report)),
        library=_asset("echarts/echarts.min.js"),
        script="\n".join(_asset(name) for name in SCRIPTS),
    )


def _asset(name: str) -> str:
    return resources.files("halfsafe.report").joinpath("assets", name).read_text(encoding="utf-8")


def _script_safe(data: Mapping[str, Any]) -> str:
    """JSON in which no text can end the script element that holds it."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c")


def _header(report: Record) -> Markup:
    about = (
        f"halfsafe {report.tool}",
        counted(report.samples, "sample"),
        counted(len(report.graph.nodes), "operator"),
        f"version {report.halfsafe}",
    )
    return join(
        [
            tag("p", spaced(about), class_="about"),
            tag("h1", report.model),
            tag("p", verdict(report), class_=f"verdict {'safe' if report.safe else 'unsafe'}"),
        ]
    )


def _numbers(report: Record) -> Markup:
    """The four figures that say most."""
    figures = _figures(report)
    return tag("ul", *(number(*figure) for figure in figures), class_="numbers")


def _figures(report: Record) -> list[tuple[str, str, str]]:
    if report.bisection is not None:
        return bisection_html.numbers_of(report.bisection)
    kinds = Counter(fault.kind for fault in report.faults)
    worst_first = sorted(kinds, key=lambda kind: kind.severity)
    faults = (
        str(len(report.faults)),
        "fault found" if len(report.faults) == 1 else "faults found",
        ", ".join(f"{kinds[kind]} {kind}" for kind in worst_first) or "every value is in range",
    )
    proof = report.verification
    rest = _numbers_of_fix(report, proof) if proof else _numbers_of_measuring(report)
    return [faults, *rest]


def _numbers_of_fix(report: Record, proof: Verification) -> list[tuple[str, str, str]]:
    moved = [v.exponent for _, v in _computed(report) if v.exponent]
    exponents = dict.fromkeys((min(moved), max(moved))) if moved else {}
    span = " to ".join(map(str, exponents)) or "none"
    constants = counted(len(report.folds), "constant")
    inserted = len(report.insertions)
    return [
        (str(len(moved)), "values rescaled", f"exponents: {span}; {constants} folded"),
        (
            str(inserted),
            "run-time operator inserted" if inserted == 1 else "run-time operators inserted",
            "every change is folded into constants" if not inserted else "Muls by a power of two",
        ),
        (
            f"{proof.ratio:.2f}" if isfinite(proof.ratio) else "∞",
            "FP16 error / floor",
            f"1.00 is the best to expect; before: {error(proof.before, proof.before_nonfinite)}",
        ),
    ]


def _numbers_of_measuring(report: Record) -> list[tuple[str, str, str]]:
    constants = len(report.values) - len(list(_computed(report)))
    measured = f"{len(report.values):,}", "values measured", f"{constants:,} of them constants"
    return [measured, _farthest(report), _broken(report)]


def _farthest(report: Record) -> tuple[str, str, str]:
    """How far the worst value is outside, or how close to the limit the closest comes."""
    outside = (fault for fault in report.faults if fault.kind != FaultKind.LATENT)
    worst = max(outside, key=lambda f: f.excess, default=None)
    if worst and worst.excess:
        bits = "bit" if worst.excess == 1 else "bits"
        return str(worst.excess), f"{bits} outside FP16, at worst", f"in {worst.value}"
    stored = [(n, v) for n, v in report.values.items() if report.graph.values[n].bounded]
    rooms = {name: value.range.headroom() for name, value in stored if value.range.amax}
    closest = min(rooms, key=lambda name: rooms[name], default="")
    if not closest:
        return "0", "bits outside FP16", "no value is other than zero"
    return f"{rooms[closest]:.1f}", "bits of headroom, at least", f"in {closest}"


def _broken(report: Record) -> tuple[str, str, str]:
    """What FP16 makes of the outputs and the values, or else what its range does."""
    compared = {n: v.comparison for n, v in report.values.items() if v.comparison}
    if not compared:
        stored = [v for n, v in report.values.items() if report.graph.values[n].bounded]
        outside = sum(1 for v in stored if v.range.overflowing() or v.range.lost())
        said = "with entries that are inf or 0 in FP16"
        return f"{outside:,} of {len(stored):,}", "values reach outside FP16", said
    bad = {name for name, found in compared.items() if found.nonfinite or found.wrong}
    outputs = [name for name in report.graph.outputs if name in compared]
    return (
        f"{len(bad.intersection(outputs))} of {len(outputs)}",
        "outputs broken in FP16",
        f"nonfinite or wrong, like {len(bad):,} of {len(compared):,} values",
    )


def _computed(report: Record) -> Iterable[tuple[str, ValueReport]]:
    """The values that are no constants."""
    known = report.graph.values
    return ((n, v) for n, v in report.values.items() if known[n].kind != Kind.CONSTANT)


def _faults(report: Record) -> Markup:
    """By kind, the worst first, and within a kind by the bits outside the range."""
    if not report.faults:
        return tag("p", "No value leaves the range of FP16 on these samples.")
    kinds: dict[FaultKind, list[Fault]] = defaultdict(list)
    for fault in worst_first(report.faults):
        kinds[fault.kind].append(fault)
    return join(_faults_of(report, kind, faults) for kind, faults in kinds.items())


def _faults_of(report: Record, kind: FaultKind, faults: Sequence[Fault]) -> Markup:
    meaning = tag("span", sentence(kind.meaning), class_="quiet")
    title = tag("h3", tag("span", str(kind), class_=f"kind {kind}"), Markup(" "), meaning)
    items = [_fault(report, fault) for fault in faults]
    return tag("section", title, folded(items, "faults", f"{kind} fault", "ol"), class_="kinds")


def _fault(report: Record, fault: Fault) -> Markup:
    line = [tag("p", short(fault.line), title=fault.line, class_="line")] if fault.line else []
    said = " ".join(sentence(text) for text in (fault.detail, _region(report.graph, fault)) if text)
    return tag(
        "li",
        tag("button", _headline(report.graph, fault), type="button", data_value=fault.value),
        tag("p", spaced(_fault_figures(report, fault)), class_="figures"),
        *line,
        *([tag("p", said, class_="said")] if said else []),
        class_="fault",
    )


def _fault_figures(report: Record, fault: Fault) -> Iterable[str]:
    value = report.graph.values.get(fault.value)
    sides = {FaultKind.UNDERFLOW: "below", FaultKind.LATENT: "into the headroom"}
    yield f"amax {fault.amax:.3g}"
    if fault.excess:
        yield f"{counted(fault.excess, 'bit')} {sides.get(fault.kind, 'beyond')}"
    if value and value.kind != Kind.CONSTANT:
        yield f"sample {fault.sample}"
    if fault.outcome and not report.bisection:  # which has another measure of outputs
        yield f"outputs {fault.outcome}"
    if fault.value in report.values and (exponent := report.values[fault.value].exponent):
        yield f"stored at exponent {exponent}"


def _headline(graph: Graph, fault: Fault) -> Markup:
    """The operator and its module, or the constant and who reads it."""
    reads = [graph.by_name[use.node] for use in graph.consumers.get(fault.value, ())]
    made = fault.value in graph.producers
    where = (fault.module or fault.value) if made else fault.value
    read = f", read by {reads[0].op}" if reads and not made else ""
    return join([tag("b", fault.op), Markup(" "), tag("code", where), Markup(escape(read))])


def _region(graph: Graph, fault: Fault) -> str:
    """How far a fault is carried, and where it ends."""
    if not fault.carriers:
        return ""
    carried = f"passed on by {counted(len(fault.carriers), 'value')}"
    ends = f"; in range again after {places(graph, fault.exits)}" if fault.exits else ""
    return f"{carried}{ends}"


def _plan(report: Record) -> Markup:
    if report.tool != "fix":
        said = f"halfsafe {report.tool} measures and changes nothing. For a plan and its proof run "
        return tag("p", said, tag("code", "halfsafe fix"), ".")
    remedies = (
        ("Unresolved", "no exponent saves them", report.conflicts),
        ("Inserted", "operators that run beside the others", report.insertions),
        ("Other forms", "the same function, written so that it fits", report.forms),
        ("Kept in FP32", "islands that FP16 cannot hold", report.islands),
        ("Replaced", "in FP16 only: these change the function", report.replacements),
        ("Folded", "into constants, free at run time", report.folds),
    )
    parts = [_remedy(*remedy) for remedy in remedies if remedy[2]]
    nothing = tag("p", "Nothing had to be changed.")
    return tag("div", *parts, class_="remedies") if parts else nothing


def _remedy(heading: str, meaning: str, lines: tuple[str, ...]) -> Markup:
    title = tag("h3", f"{heading} ({len(lines)})")
    return tag(
        "section",
        title,
        tag("p", sentence(meaning), class_="quiet"),
        folded([tag("li", line) for line in lines], "lines", "line"),
    )


def _proof(report: Record) -> Markup:
    proof = report.verification
    if proof is None:
        said = "Nothing was changed, so there is nothing to prove."
        return tag("p", said)
    exact = proof.exactness
    rows = [
        ("FP32, original and fixed", exact, "whether the fix is exact"),
        ("FP16, original", error(proof.before, proof.before_nonfinite), "what broke"),
        ("FP16, fixed", error(proof.after, proof.after_nonfinite), "what is shipped"),
        ("Floor of FP16", error(proof.floor, 0), "11 bits at any exponent: the least error"),
        ("Fixed / floor", f"{proof.ratio:.3f}", "1.000 is the best that FP16 can reach"),
        ("Tolerance", f"{proof.tolerance:.3g}", "of each output, batch item and row"),
        ("Proved on", proved_on(proof), "each sample by itself"),
    ]
    rows += [(str(answer).capitalize(), why, "") for answer, why in proof.reasons[:SHOWN]]
    lines = (tag("tr", tag("th", a, scope="row"), *cells(rest)) for a, *rest in rows)
    return tag("table", tag("tbody", *lines), class_="proof")


_LEGEND = tag("li", tag("i", class_="bound"), "bound for every input of the domain")


def _certificate(report: Record) -> Markup:
    """What holds for every input of the domain, and why no more does."""
    found = report.certificate
    if found is None:
        return Markup("")
    lines = (tag("tr", tag("th", name, scope="row"), *cells([said])) for name, said in found.rows)
    losses = [tag("li", line) for line in found.losses]
    return tag(
        "section",
        tag("h2", "Certificate", id="certificate-title"),
        tag("table", tag("tbody", *lines), class_="proof"),
        *([folded(losses, "lines", "line")] if losses else []),
        aria_labelledby="certificate-title",
    )


def _notes(report: Record) -> Markup:
    notes = [*report.notes]
    if report.unknown_ops:
        unknown = ", ".join(report.unknown_ops)
        notes.append(f"Operators without a law, pinned to exponent 0: {unknown}")
    if not notes:
        return Markup("")
    items = [tag("li", note) for note in notes]
    return tag("section", tag("h2", "Notes"), folded(items, "lines", "note"))
