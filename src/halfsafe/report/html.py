"""The report as one HTML file that needs no network: the argument as text, the data as JSON.

Python writes what is read from top to bottom; the explorer (map, table, details) is drawn in the
browser by the scripts in assets from the data that `explorer` gathers.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from math import inf, isfinite
from string import Template
from typing import Any

from halfsafe.faults import Fault, FaultKind
from halfsafe.formats import FLOAT16
from halfsafe.graph import Graph, Kind, Node, Use
from halfsafe.report.model import Report, ValueReport
from halfsafe.rules import Equation, Unknown, equations, law_of
from halfsafe.verify import Verification
from halfsafe.windows import ANY, Limits, Window, windows

SCRIPTS = ("words.js", "map.js", "table.js", "details.js", "page.js")
"""Parts of one script, in this order."""

SHOWN = 6
"""Lines of a long list that are seen without unfolding it."""


def render(report: Report) -> str:
    """The whole page."""
    return Template(_asset("template.html")).substitute(
        title=escape(f"{report.model}: halfsafe {report.tool}"),
        style=_asset("report.css"),
        header=_header(report),
        numbers=_numbers(report),
        faults=_faults(report),
        plan=_plan(report),
        proof=_proof(report),
        notes=_notes(report),
        command=_tag("pre", _tag("code", report.command)),
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


# The argument: text, escaped unless it is Markup.


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def _tag(name: str, *children: str, **attributes: str) -> Markup:
    """An element. Children that are not Markup are escaped.

    >>> print(_tag("a", "1 < 2", class_="x", data_value="3"))
    <a class="x" data-value="3">1 &lt; 2</a>
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(text)}"' for key, text in attributes.items()
    )
    inner = "".join(c if isinstance(c, Markup) else escape(c) for c in children)
    return Markup(f"<{name}{written}>{inner}</{name}>")


def _join(parts: Iterable[Markup]) -> Markup:
    return Markup("".join(parts))


def _counted(number: int, singular: str, plural: str = "") -> str:
    """A number and its noun.

    >>> _counted(1, "fault"), _counted(1200, "fault")
    ('1 fault', '1,200 faults')
    """
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def _header(report: Report) -> Markup:
    safe, verdict = _verdict(report)
    about = (
        f"halfsafe {report.tool}",
        _counted(report.samples, "sample"),
        _counted(len(report.graph.nodes), "operator"),
        f"version {report.halfsafe}",
    )
    return _join(
        [
            _tag("p", _spaced(about), class_="about"),
            _tag("h1", report.model),
            _tag("p", verdict, class_="verdict safe" if safe else "verdict unsafe"),
        ]
    )


def _spaced(texts: Iterable[str]) -> Markup:
    return Markup(" ".join(_tag("span", text) for text in texts))


def _verdict(report: Report) -> tuple[bool, str]:
    proof = report.verification
    if proof is not None:
        return report.safe, _verdict_of_fix(report, proof)
    if report.safe:
        latent = len(report.faults)
        some = _counted(latent, "value comes", "values come")
        but = f", but {some} within the headroom" if latent else ""
        return True, f"Safe in FP16 on these samples{but}."
    counted = _counted(sum(f.kind != FaultKind.LATENT for f in report.faults), "fault")
    outcomes = {fault.outcome for fault in report.faults}
    for outcome in ("nonfinite", "wrong"):
        if outcome in outcomes:
            return False, f"Not safe: {counted}, and FP16 gives {outcome} outputs."
    return False, f"Not safe: {counted}."


def _verdict_of_fix(report: Report, proof: Verification) -> str:
    if report.safe:
        return "Safe in FP16."
    if report.conflicts:
        return f"Not safe: {_counted(len(report.conflicts), 'value')} could not be resolved."
    if proof.safe:
        return "Not safe: the rescaled model is not bit-equal in FP32."
    if proof.after_nonfinite:
        return "Not safe: the proof met values larger than those measured. Pass more samples."
    return f"Not safe: the outputs are {proof.ratio:.0f} times as wrong as FP16 has to be."


def _numbers(report: Report) -> Markup:
    """The four figures that say most."""
    kinds = Counter(fault.kind for fault in report.faults)
    worst_first = sorted(kinds, key=lambda kind: kind.severity)
    faults = (
        str(len(report.faults)),
        "fault found" if len(report.faults) == 1 else "faults found",
        ", ".join(f"{kinds[kind]} {kind}" for kind in worst_first) or "every value is in range",
    )
    proof = report.verification
    rest = _numbers_of_fix(report, proof) if proof else _numbers_of_measuring(report)
    return _tag("ul", *(_number(*figure) for figure in (faults, *rest)), class_="numbers")


def _number(figure: str, label: str, detail: str) -> Markup:
    return _tag(
        "li",
        _tag("strong", figure),
        _tag("span", label, class_="label"),
        _tag("span", detail, class_="detail"),
    )


def _numbers_of_fix(report: Report, proof: Verification) -> list[tuple[str, str, str]]:
    moved = [v.exponent for _, v in _computed(report) if v.exponent]
    exponents = dict.fromkeys((min(moved), max(moved))) if moved else {}
    span = " to ".join(map(str, exponents)) or "none"
    folded = _counted(len(report.folds), "constant")
    inserted = len(report.insertions)
    return [
        (str(len(moved)), "values rescaled", f"exponents: {span}; {folded} folded"),
        (
            str(inserted),
            "run-time operator inserted" if inserted == 1 else "run-time operators inserted",
            "every change is folded into constants" if not inserted else "Muls by a power of two",
        ),
        (
            f"{proof.ratio:.2f}" if isfinite(proof.ratio) else "∞",
            "FP16 error / floor",
            f"1.00 is the best to expect; before: {_error(proof.before, proof.before_nonfinite)}",
        ),
    ]


def _numbers_of_measuring(report: Report) -> list[tuple[str, str, str]]:
    constants = len(report.values) - len(list(_computed(report)))
    measured = f"{len(report.values):,}", "values measured", f"{constants:,} of them constants"
    return [measured, _farthest(report), _broken(report)]


def _farthest(report: Report) -> tuple[str, str, str]:
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


def _broken(report: Report) -> tuple[str, str, str]:
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


def _computed(report: Report) -> Iterable[tuple[str, ValueReport]]:
    """The values that are no constants."""
    known = report.graph.values
    return ((n, v) for n, v in report.values.items() if known[n].kind != Kind.CONSTANT)


def _faults(report: Report) -> Markup:
    """By kind, the worst first, and within a kind by the bits outside the range."""
    if not report.faults:
        return _tag("p", "No value leaves the range of FP16 on these samples.")
    kinds: dict[FaultKind, list[Fault]] = defaultdict(list)
    for fault in sorted(report.faults, key=lambda f: (f.kind.severity, -f.excess)):
        kinds[fault.kind].append(fault)
    return _join(_faults_of(report, kind, faults) for kind, faults in kinds.items())


def _faults_of(report: Report, kind: FaultKind, faults: Sequence[Fault]) -> Markup:
    meaning = _tag("span", _sentence(kind.meaning), class_="quiet")
    title = _tag("h3", _tag("span", str(kind), class_=f"kind {kind}"), Markup(" "), meaning)
    items = [_fault(report, fault) for fault in faults]
    return _tag("section", title, _folded(items, "faults", f"{kind} fault", "ol"), class_="kinds")


def _fault(report: Report, fault: Fault) -> Markup:
    line = [_tag("p", _short(fault.line), title=fault.line, class_="line")] if fault.line else []
    said = " ".join(_sentence(text) for text in (fault.detail, _region(fault)) if text)
    return _tag(
        "li",
        _tag("button", _headline(report.graph, fault), type="button", data_value=fault.value),
        _tag("p", _spaced(_fault_figures(report, fault)), class_="figures"),
        *line,
        *([_tag("p", said, class_="said")] if said else []),
        class_="fault",
    )


def _fault_figures(report: Report, fault: Fault) -> Iterable[str]:
    value = report.graph.values.get(fault.value)
    sides = {FaultKind.UNDERFLOW: "below", FaultKind.LATENT: "into the headroom"}
    yield f"amax {fault.amax:.3g}"
    if fault.excess:
        yield f"{_counted(fault.excess, 'bit')} {sides.get(fault.kind, 'beyond')}"
    if value and value.kind != Kind.CONSTANT:
        yield f"sample {fault.sample}"
    if fault.outcome:
        yield f"outputs {fault.outcome}"
    if fault.value in report.values and (exponent := report.values[fault.value].exponent):
        yield f"stored at exponent {exponent}"


def _headline(graph: Graph, fault: Fault) -> Markup:
    """The operator and its module, or the constant and who reads it."""
    reads = [graph.by_name[use.node] for use in graph.consumers.get(fault.value, ())]
    made = fault.value in graph.producers
    where = (fault.module or fault.value) if made else fault.value
    read = f", read by {reads[0].op}" if reads and not made else ""
    return _join([_tag("b", fault.op), Markup(" "), _tag("code", where), Markup(escape(read))])


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _region(fault: Fault) -> str:
    """How far a fault is carried, and the operators that end it."""
    if not fault.carriers:
        return ""
    carried = f"passed on by {_counted(len(fault.carriers), 'value')}"
    named = ", ".join(fault.exits[:3]) + (", ..." if len(fault.exits) > 3 else "")
    ends = f"; in range again after {_counted(len(fault.exits), 'operator')} ({named})"
    return f"{carried}{ends if fault.exits else ''}"


def _short(line: str) -> str:
    """A source line without the folders that say nothing.

    >>> _short("/usr/lib/python3/site-packages/timm/models/vit.py:12")
    'timm/models/vit.py:12'
    """
    inside = line.rpartition("site-packages/")[2]
    return "/".join(inside.split("/")[-3:]) if inside == line else inside


def _folded(items: Sequence[Markup], class_: str, noun: str, tag: str = "ul") -> Markup:
    """A list of which only the beginning is seen at first."""
    head = _tag(tag, *items[:SHOWN], class_=class_)
    rest = items[SHOWN:]
    if not rest:
        return head
    more = _tag("summary", f"{_counted(len(rest), f'more {noun}')}")
    numbered = {"start": str(SHOWN + 1)} if tag == "ol" else {}
    return _join([head, _tag("details", more, _tag(tag, *rest, class_=class_, **numbered))])


def _plan(report: Report) -> Markup:
    if report.tool != "fix":
        said = f"halfsafe {report.tool} measures and changes nothing. For a plan and its proof run "
        return _tag("p", said, _tag("code", "halfsafe fix"), ".")
    remedies = (
        ("Unresolved", "no exponent saves them", report.conflicts),
        ("Inserted", "operators that run beside the others", report.insertions),
        ("Other forms", "the same function, written so that it fits", report.forms),
        ("Kept in FP32", "islands that FP16 cannot hold", report.islands),
        ("Replaced", "in FP16 only: these change the function", report.replacements),
        ("Folded", "into constants, free at run time", report.folds),
    )
    parts = [_remedy(*remedy) for remedy in remedies if remedy[2]]
    nothing = _tag("p", "Nothing had to be changed.")
    return _tag("div", *parts, class_="remedies") if parts else nothing


def _remedy(heading: str, meaning: str, lines: tuple[str, ...]) -> Markup:
    title = _tag("h3", f"{heading} ({len(lines)})")
    return _tag(
        "section",
        title,
        _tag("p", _sentence(meaning), class_="quiet"),
        _folded([_tag("li", line) for line in lines], "lines", "line"),
    )


def _proof(report: Report) -> Markup:
    proof = report.verification
    if proof is None:
        said = "Nothing was changed, so there is nothing to prove."
        return _tag("p", said)
    exact = "bit-equal" if proof.bit_equal else f"differs by {proof.worst_difference:.1e}"
    held_out = "a sample held out of measuring"
    rows = (
        ("FP32, original and fixed", exact, "whether the fix is exact"),
        ("FP16, original", _error(proof.before, proof.before_nonfinite), "what broke"),
        ("FP16, fixed", _error(proof.after, proof.after_nonfinite), "what is shipped"),
        ("Floor of FP16", f"error {proof.floor:.2e}", "11 bits at any exponent: the least error"),
        ("Fixed / floor", f"{proof.ratio:.3f}", "1.000 is the best that FP16 can reach"),
        (
            "Checked on",
            held_out if proof.held_out else _counted(proof.samples, "sample"),
            f"{proof.kernels} FP16",
        ),
    )
    lines = (_tag("tr", _tag("th", a, scope="row"), *_cells(rest)) for a, *rest in rows)
    return _tag("table", _tag("tbody", *lines), class_="proof")


def _cells(texts: Iterable[str]) -> list[Markup]:
    return [_tag("td", text) for text in texts]


def _error(error: float, nonfinite: int) -> str:
    return f"{nonfinite:,} nonfinite outputs" if error == inf else f"error {error:.2e}"


def _notes(report: Report) -> Markup:
    notes = [*report.notes]
    if report.unknown_ops:
        unknown = ", ".join(report.unknown_ops)
        notes.append(f"Operators without a law, pinned to exponent 0: {unknown}")
    if not notes:
        return Markup("")
    items = [_tag("li", note) for note in notes]
    return _tag("section", _tag("h2", "Notes"), _folded(items, "lines", "note"))


# The data: columns, with texts and histograms by index.


def explorer(report: Report) -> dict[str, Any]:
    """All that the map, the table and the details show, as columns by value and by node."""
    graph = report.graph
    order = _by_depth(graph, report.values)
    place = {name: i for i, name in enumerate(order)}
    shared = _Shared(place, {node.name: i for i, node in enumerate(graph.nodes)})
    ties = _ties(report)
    return {
        "tool": report.tool,
        "headroom": report.headroom,
        "max_binade": FLOAT16.max_binade,
        "min_binade": FLOAT16.min_binade,
        "least_binade": FLOAT16.min_binade - FLOAT16.mantissa_bits,
        "names": order,
        "values": {
            **_columns([_identity(graph, name, shared) for name in order]),
            **_columns([_figures(report.values[name], shared) for name in order]),
            **_columns(_reasons(report, order, ties, shared)),
        },
        "nodes": _columns([_node(graph, n, ties.laws[n.name], shared) for n in graph.nodes]),
        "faults": [[place[f.value], str(f.kind)] for f in report.faults if f.value in place],
        "texts": list(shared.texts),
        "histograms": [list(h) for h in shared.histograms],
    }


@dataclass(frozen=True)
class _Shared:
    """Texts and histograms, each written once and named by its index."""

    values: Mapping[str, int]
    nodes: Mapping[str, int]
    texts: dict[str, int] = field(default_factory=dict[str, int])
    histograms: dict[tuple[int, ...], int] = field(default_factory=dict[tuple[int, ...], int])

    def text(self, text: str) -> int:
        return self.texts.setdefault(text, len(self.texts))

    def histogram(self, counts: Iterable[int]) -> int:
        return self.histograms.setdefault(tuple(counts), len(self.histograms))


Row = Mapping[str, Any]


def _columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Rows of the same keys, as one list for each key."""
    keys = rows[0] if rows else ()
    return {key: [row[key] for row in rows] for key in keys}


def _by_depth(graph: Graph, measured: Mapping[str, ValueReport]) -> list[str]:
    """Measured values in the order of execution, constants where they are first read."""
    order = dict.fromkeys(graph.inputs)
    for node in graph.nodes:
        order.update(dict.fromkeys((*node.inputs.values(), *node.outputs)))
    order.update(dict.fromkeys(measured))
    return [name for name in order if name in measured]


def _identity(graph: Graph, name: str, shared: _Shared) -> Row:
    """What a value is, who makes it and who reads it."""
    value, node = graph.values[name], graph.producers.get(name)
    readers = dict.fromkeys(shared.nodes[use.node] for use in graph.consumers[name])
    return {
        "kind": shared.text(str(value.kind)),
        "op": shared.text(node.op if node else ""),
        "module": shared.text(node.module if node else ""),
        "line": shared.text(node.line if node else ""),
        "shape": shared.text(" × ".join(map(str, value.shape)) or "scalar"),
        "bounded": int(value.bounded),
        "output": int(name in graph.outputs),
        "producer": shared.nodes[node.name] if node else -1,
        "readers": list(readers),
    }


def _figures(value: ValueReport, shared: _Shared) -> Row:
    """What was measured. Where FP16 gives no finite entry there is no error of finite entries."""
    found, compared = value.range, value.comparison
    finite = compared and compared.half.nonfinite < max(compared.half.count, 1)
    error = compared if finite else None
    return {
        "amax": _number_of(found.amax),
        "smallest": _number_of(found.smallest) if found.amax else None,
        "headroom": _number_of(found.headroom()) if found.amax else None,
        "overflowing": _number_of(found.overflowing()),
        "subnormal": _number_of(found.subnormal()),
        "lost": _number_of(found.lost()),
        "zeros": found.zeros,
        "nonfinite": found.nonfinite,
        "count": found.count,
        "sample": found.amax_sample,
        "exponent": value.exponent,
        "histogram": shared.histogram(found.to_json()["binades"]),
        "error": error and _number_of(error.half.relative_of_finite),
        "times_floor": error and _number_of(error.times_floor),
        "broken": compared and compared.half.nonfinite,
    }


def _number_of(number: float) -> float | str:
    """Six digits; JSON has no infinity.

    >>> _number_of(65504.1234567), _number_of(inf)
    (65504.1, 'inf')
    """
    return float(f"{number:.6g}") if isfinite(number) else "inf"


def _node(graph: Graph, node: Node, laws: Sequence[str], shared: _Shared) -> Row:
    """An operator with its operands; a measured value by index, anything else as text."""

    def operand(name: str) -> int | str:
        number = graph.values[name].number
        return shared.values.get(name, name if number is None else f"{number:.6g}")

    return {
        "name": shared.text(node.name),
        "op": shared.text(node.op),
        "module": shared.text(node.module),
        "line": shared.text(node.line),
        "inputs": [[shared.text(key), operand(name)] for key, name in node.inputs.items()],
        "outputs": [operand(name) for name in node.outputs],
        "laws": [shared.text(law) for law in laws],
    }


def _reasons(report: Report, order: Sequence[str], ties: _Ties, shared: _Shared) -> list[Row]:
    """Why each value has its exponent: its window, the value that drives it, and what pins it."""
    bounds = _windows(report)
    exponents = {name: value.exponent for name, value in report.values.items()}
    drivers = [n for n in order if exponents[n] and not bounds[n].low <= 0 <= bounds[n].high]
    driven = _nearest(drivers, ties.links, lambda name: bool(exponents.get(name)))
    pinned = _nearest(list(ties.pins), ties.links, lambda _: True)
    rows: list[Row] = []
    for name in order:
        driver, law = driven.get(name, ("", ""))
        pin = pinned.get(name, ("", ""))[0]
        rows.append(
            {
                "low": bounds[name].low if bounds[name].low > -ANY else None,
                "high": bounds[name].high if bounds[name].high < ANY else None,
                "driver": shared.values[driver] if driver else -1,
                "tie": shared.text(law),
                "pin": shared.text(ties.pins.get(pin, "")),
            }
        )
    return rows


def _windows(report: Report) -> Mapping[str, Window]:
    """The window of each value, of a constant that of all its uses together."""
    ranges = {name: value.range for name, value in report.values.items()}
    found: dict[str, Window] = defaultdict(Window)
    for unknown, window in windows(report.graph, ranges, Limits(headroom=report.headroom)).items():
        if isinstance(unknown, str):
            found[unknown] &= window
        elif isinstance(unknown, Use):
            name = report.graph.by_name[unknown.node].inputs[unknown.operand]
            if report.graph.values[name].kind == Kind.CONSTANT:
                found[name] &= window
    return found


@dataclass(frozen=True, slots=True)
class _Ties:
    """How values hang together: the laws by node, their links by value, and what is pinned by whom.

    A link is an equation as text and the values whose exponents it ties.
    """

    laws: Mapping[str, Sequence[str]]
    links: Mapping[str, Sequence[tuple[str, Sequence[str]]]]
    pins: Mapping[str, str]


def _ties(report: Report) -> _Ties:
    """Equations of all operators. Modules that were watched have none."""
    graph = report.graph
    laws: dict[str, list[str]] = {node.name: [] for node in graph.nodes}
    links: dict[str, list[tuple[str, Sequence[str]]]] = defaultdict(list)
    pins: dict[str, str] = {}
    if report.tool == "watch":
        return _Ties(laws, links, pins)
    for name in (*graph.inputs, *graph.outputs):
        if graph.values[name].floating:
            pins.setdefault(name, f"the graph's own input or output {name}")
    for node in graph.nodes:
        for equation in equations(graph, node, law_of(node)):
            text = _law(equation, node)
            tied = list(filter(None, (_value_of(graph, u) for u in equation.terms)))
            laws[node.name].append(text)
            if len(equation.terms) == 1:
                pins.update((name, str(node)) for name in tied if name not in pins)
            elif _holds(report, equation):
                for name in tied:
                    links[name].append((f"{text} of {node.name}", tied))
    return _Ties(laws, links, pins)


def _law(equation: Equation, node: Node) -> str:
    """An equation as seen from its operator: k[weight], not k[conv1.weight]."""
    short = str(equation).replace(f"k[{node.name}.", "k[")
    return re.sub(r"\('.*?', '(.*?)'\)", r"\1", short)


def _value_of(graph: Graph, unknown: Unknown) -> str:
    """The value behind an unknown; empty for a rule's own integer."""
    if isinstance(unknown, Use):
        return graph.by_name[unknown.node].inputs[unknown.operand]
    return unknown if isinstance(unknown, str) else ""


def _holds(report: Report, equation: Equation) -> bool:
    """Whether the exponents that are known satisfy an equation: an inserted Mul breaks it."""
    names = [_value_of(report.graph, unknown) for unknown in equation.terms]
    if any(name not in report.values for name in names):
        return True
    known = (report.values[name].exponent for name in names)
    return sum(k * factor for k, factor in zip(known, equation.terms.values(), strict=True)) == 0


def _nearest(
    sources: Sequence[str],
    links: Mapping[str, Sequence[tuple[str, Sequence[str]]]],
    passes: Callable[[str], bool],
) -> dict[str, tuple[str, str]]:
    """For each value the source that is the fewest links away, and the last link on the way."""
    found = {source: (source, "") for source in sources}
    pending = deque(sources)
    while pending:
        name = pending.popleft()
        for text, tied in links.get(name, ()):
            for other in tied:
                if other not in found and passes(other):
                    found[other] = found[name][0], text
                    pending.append(other)
    return found
