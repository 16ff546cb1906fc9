"""The report for a terminal, 80 columns wide: what broke, where, what was changed, the proof."""

from __future__ import annotations

from io import StringIO

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from halfsafe.deviation import Comparison
from halfsafe.faults import Fault, FaultKind
from halfsafe.graph import Kind
from halfsafe.report import bisection_text
from halfsafe.report.data import Record
from halfsafe.report.words import error, places, proved_on, short, tally, verdict, worst_first
from halfsafe.verdict import Answer, Verification

SHOWN = 8
"""Rows of a long list; the JSON holds them all."""


def render(report: Record, width: int = 80) -> str:
    """Plain text, without colours."""
    console = Console(file=StringIO(), width=width, color_system=None, highlight=False)
    console.print(renderable(report))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def renderable(report: Record) -> RenderableType:
    """The report as something that rich can print."""
    plural = "" if report.samples == 1 else "s"
    unit = "module calls" if report.tool == "watch" else "operators"
    title = f"{report.model}: {len(report.graph.nodes)} {unit}, {report.samples} sample{plural}"
    parts: list[RenderableType] = [Text(title, style="bold"), *_notes(report), Text()]
    parts += bisection_text.parts_of(report.bisection) if report.bisection else ()
    parts += _faults(report)
    if report.verification is None:
        return Group(*parts, *_ranges(report), _verdict(report))
    parts += _plan(report)
    parts += [
        Text("Proof", style="bold"),
        proof_table(report.verification),
        Text(),
        *_certificate(report),
        _verdict(report),
    ]
    return Group(*parts)


def _notes(report: Record) -> list[RenderableType]:
    notes = [Text(f"note: {note}", style="yellow") for note in report.notes]
    if report.unknown_ops:
        known = f"operators without a law, pinned: {', '.join(report.unknown_ops)}"
        notes.append(Text(f"note: {known}", style="yellow"))
    return [*notes]


def _faults(report: Record) -> list[RenderableType]:
    if not report.faults:
        return [Text("No value leaves the range of FP16 on these samples."), Text()]
    worst = worst_first(report.faults)
    parts: list[RenderableType] = [Text(f"Faults ({len(worst)}), the worst first", style="bold")]
    for fault in worst[:SHOWN]:
        parts += _fault(report, fault)
    if len(worst) > SHOWN:
        parts.append(Text(f"... and {tally(worst[SHOWN:])} more, in the JSON report", style="dim"))
    return [*parts, Text()]


_BEYOND = {FaultKind.LATENT: "within the headroom", FaultKind.UNDERFLOW: "too small"}
_STYLE = {FaultKind.OVERFLOW: "red", FaultKind.ABSORBED: "red", FaultKind.UNDERFLOW: "red"}


def _fault(report: Record, fault: Fault) -> list[RenderableType]:
    """What and by how much, who makes it and where that is written, and what becomes of it."""
    bits = f"{fault.excess} bit{'s' * (fault.excess > 1)}"
    outside = f", {bits} {_BEYOND.get(fault.kind, 'outside')}" if fault.excess else ""
    size = f"amax {fault.amax:.3g}{outside}"
    head = Text.assemble((f"{fault.kind}", _STYLE.get(fault.kind, "yellow")), f"  {size}")
    if fault.outcome and not report.bisection:  # which has another measure of outputs
        head.append(f", outputs {fault.outcome}", style="dim")
    producer = fault.value if fault.op in ("constant", "input") else f"{fault.op} {fault.value}"
    parts = [
        _place(producer, fault.module),
        short(fault.line),
        fault.detail,
    ]
    if fault.carriers or (fault.exits and fault.op != "constant"):
        values = f"carried by {len(fault.carriers)} more values, " if fault.carriers else ""
        after = (
            f"back in range after {places(report.graph, fault.exits)}"
            if fault.exits
            else "to the outputs"
        )
        parts.append(f"{values}{after}; most in sample {fault.sample}")
    below = (
        Padding(Text(part, style="dim" if i else ""), (0, 0, 0, 2))
        for i, part in enumerate(parts)
        if part
    )
    return [head, *below]


def _place(producer: str, module: str) -> str:
    """The producer and its module, unless its name has the module in it."""
    return producer if not module or module in producer else f"{producer} in {module}"


def _ending(name: str, width: int = 30) -> str:
    """A long qualified name from its end, where it differs from others."""
    return name if len(name) <= width else f"...{name[3 - width :]}"


def _ranges(report: Record) -> list[RenderableType]:
    """The values that come closest to the end of the range, or lie the furthest beyond."""
    values = report.graph.values
    known = {n: v for n, v in report.values.items() if values[n].bounded and v.range.amax}
    if not known:
        return []
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
    for heading in ("headroom", "amax", "subnormal", "in FP16"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("value", overflow="fold")
    for name in sorted(known, key=lambda n: known[n].range.headroom())[:SHOWN]:
        found = known[name]
        node = report.graph.producers.get(name)
        where = f"{node.op} {_ending(node.module)}" if node and node.module else _ending(name)
        table.add_row(
            f"{found.range.headroom():.1f} bits",
            f"{found.range.amax:.3g}",
            f"{found.range.subnormal():.0%}",
            _in_half(found.comparison),
            where,
        )
    in_float32 = sum(values[n].floating and not values[n].bounded for n in report.values)
    rest = f"; {in_float32} of them the model computes in FP32 itself" if in_float32 else ""
    heading = f"Least headroom, of {len(report.values)} values{rest}"
    return [Text(heading, style="bold"), table, Text()]


def _in_half(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    if comparison.nonfinite:
        return f"{comparison.half.nonfinite} nonfinite"
    return f"{comparison.times_floor:.1f} x floor"


def _plan(report: Record) -> list[RenderableType]:
    moved = [
        v
        for name, v in report.values.items()
        if v.exponent and report.graph.values[name].kind != Kind.CONSTANT
    ]
    parts: list[RenderableType] = [Text("Plan", style="bold")]
    exponents = [v.exponent for v in moved] or [0]
    parts.append(
        Text(
            f"{len(moved)} values stored at exponents {min(exponents)} to {max(exponents)}, "
            f"{len(report.folds)} constants folded, {len(report.insertions)} operators inserted"
        )
    )
    if report.tightest is not None:
        name, bits = report.tightest
        where = f"{report.graph.describe(name)} may grow {2**bits:.1f} times"
        parts.append(Text(f"  headroom left: {bits:.1f} bits, {where}"))
    for heading, lines, style in (
        ("inserted", report.insertions, ""),
        ("other form", report.forms, ""),
        ("kept in FP32", report.islands, "yellow"),
        ("replaced, in FP16 only", report.replacements, "yellow"),
        ("unresolved", report.conflicts, "red"),
    ):
        parts += [Text(f"  {heading}: {line}", style=style) for line in lines[:SHOWN]]
        if len(lines) > SHOWN:
            parts.append(Text(f"  ... and {len(lines) - SHOWN} more {heading}", style="dim"))
    return [*parts, Text()]


def proof_table(proof: Verification) -> Table:
    """The proof, a finding a row."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False, show_edge=False)
    if proof.in_float32:  # of a candidate in FP16 there is no FP32 form
        exact = proof.exactness
        table.add_row("FP32, original and fixed", exact)
    if proof.findings_before:
        table.add_row("FP16, original", error(proof.before, proof.before_nonfinite))
    table.add_row("FP16, fixed", error(proof.after, proof.after_nonfinite))
    if proof.own is not None:
        table.add_row("  in its own framework", error(proof.own, proof.own_nonfinite))
    table.add_row("floor of FP16", error(proof.floor, 0))
    table.add_row("fixed / floor", f"{proof.ratio:.3f}")
    if any(f.differing or f.floor_differing for f in proof.findings):
        table.add_row("integers", f"{proof.differing} differ")
    if proof.metric:
        table.add_row(proof.metric, f"{proof.metric_error:.3g}, at most {proof.tolerance:.3g}")
    else:
        table.add_row("tolerance", f"{proof.tolerance:.3g} of each output, batch item and row")
    table.add_row("proved on", proved_on(proof))
    if proof.delivered:
        table.add_row("delivered", proof.delivered)
    return table


def _certificate(report: Record) -> list[RenderableType]:
    """What holds for every input of the domain, and why no more does."""
    found = report.certificate
    if found is None:
        return []
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False, show_edge=False)
    for row in found.rows:
        table.add_row(*row)
    losses = found.losses
    lines = [Text(f"  {line}", style="yellow") for line in losses[:SHOWN]]
    if len(losses) > SHOWN:
        lines.append(Text(f"  ... and {len(losses) - SHOWN} more, in the JSON report", style="dim"))
    return [Text("Certificate", style="bold"), table, *lines, Text()]


_COLOURS = {
    Answer.SAFE: "bold green",
    Answer.LIMITED: "bold yellow",
    Answer.UNKNOWN: "bold yellow",
    Answer.NOT_SAFE: "bold red",
}


def _verdict(report: Record) -> Text:
    return Text(verdict(report), style=_COLOURS[report.answer])
