"""The report for a terminal, 80 columns wide: what broke, where, what was changed, the proof."""

from __future__ import annotations

from io import StringIO
from math import inf

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from halfsafe.faults import Fault
from halfsafe.report.model import Report
from halfsafe.verify import Verification

SHOWN = 8
"""Rows of a long list; the JSON holds them all."""


def render(report: Report, width: int = 80) -> str:
    """Plain text, without colours."""
    console = Console(file=StringIO(), width=width, color_system=None, highlight=False)
    console.print(renderable(report))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def renderable(report: Report) -> RenderableType:
    """The report as something that rich can print."""
    plural = "" if report.samples == 1 else "s"
    title = f"{report.model}: {report.nodes} operators, {report.samples} sample{plural}"
    parts: list[RenderableType] = [Text(title, style="bold"), *_notes(report), Text()]
    parts += _faults(report)
    parts += _plan(report)
    parts += [Text("Proof", style="bold"), _proof(report.verification), Text(), _verdict(report)]
    return Group(*parts)


def _notes(report: Report) -> list[RenderableType]:
    notes = [Text(f"note: {note}", style="yellow") for note in report.notes]
    if report.unknown_ops:
        known = f"operators without a law, pinned: {', '.join(report.unknown_ops)}"
        notes.append(Text(f"note: {known}", style="yellow"))
    return [*notes]


def _faults(report: Report) -> list[RenderableType]:
    if not report.faults:
        return [Text("No value leaves the range of FP16 on these samples."), Text()]
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
    table.add_column("fault", no_wrap=True)
    table.add_column("amax", justify="right", no_wrap=True)
    table.add_column("bits", justify="right", no_wrap=True)
    table.add_column("producer", overflow="fold")
    worst = sorted(report.faults, key=lambda f: (f.kind, -f.excess))
    for fault in worst[:SHOWN]:
        where = f"{fault.op} {fault.module or fault.value}"
        table.add_row(str(fault.kind), f"{fault.amax:.3g}", str(fault.excess), where)
    return [Text(f"Faults ({len(report.faults)})", style="bold"), table, *_more(worst), Text()]


def _more(faults: list[Fault]) -> list[RenderableType]:
    rest = len(faults) - SHOWN
    return [Text(f"... and {rest} more, in the JSON report", style="dim")] if rest > 0 else []


def _plan(report: Report) -> list[RenderableType]:
    moved = [v for v in report.values if v.exponent and v.kind != "constant"]
    parts: list[RenderableType] = [Text("Plan", style="bold")]
    exponents = [v.exponent for v in moved] or [0]
    parts.append(
        Text(
            f"{len(moved)} values stored at exponents {min(exponents)} to {max(exponents)}, "
            f"{len(report.folds)} constants folded, {len(report.insertions)} operators inserted"
        )
    )
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


def _proof(proof: Verification) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False, show_edge=False)
    exact = "bit-equal" if proof.bit_equal else f"differs by {proof.worst_difference:.1e}"
    kind = "a sample held out of measuring" if proof.held_out else f"{proof.samples} sample(s)"
    table.add_row("FP32, original and fixed", exact)
    table.add_row("FP16, original", _error(proof.before, proof.before_nonfinite))
    table.add_row("FP16, fixed", _error(proof.after, proof.after_nonfinite))
    table.add_row("floor of FP16", f"error {proof.floor:.2e}")
    table.add_row("fixed / floor", f"{proof.ratio:.3f}")
    table.add_row("checked on", f"{kind}, {proof.kernels} FP16")
    return table


def _error(error: float, nonfinite: int) -> str:
    return f"{nonfinite} nonfinite outputs" if error == inf else f"error {error:.2e}"


def _verdict(report: Report) -> Text:
    if report.safe:
        return Text("Safe in FP16.", style="bold green")
    if report.conflicts:
        why = "see the unresolved values above"
    elif report.verification.safe:
        why = "the rescaled model is not bit-equal in FP32"
    elif report.verification.after_nonfinite:
        why = "the proof met values larger than those measured, so pass more samples"
    else:
        why = f"its outputs are {report.verification.ratio:.0f} times as wrong as FP16 has to be"
    return Text(f"Not safe in FP16: {why}.", style="bold red")
