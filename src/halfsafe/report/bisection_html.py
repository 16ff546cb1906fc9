"""A bisection as a part of the page: the culprits, and the interval as it shrinks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf, log10

from halfsafe.bisecting.record import Alone, Bisection, Culprit, Shown
from halfsafe.report.bisection import (
    HEADINGS,
    Run,
    about,
    asked,
    cost,
    errors,
    figures,
    heading,
    is_open,
    limit,
    mended,
    runs,
    values,
    whole,
)
from halfsafe.report.data import Record
from halfsafe.report.grammar import counted, sentence
from halfsafe.report.markup import Markup, cells, folded, join, tag
from halfsafe.report.words import short

STRONG = 3.0
"""Decades between an error and the tolerance from which on a mark has its full colour."""


def numbers_of(found: Bisection) -> list[tuple[str, str, str]]:
    """The figures that say most: how many culprits, errors with and without, and the cost."""
    known = sum(not is_open(culprit) for culprit in found.culprits)
    ends = f"the search is {'complete' if found.complete else 'not complete'}"
    culprits = str(known), "culprit" if known == 1 else "culprits", ends
    error = whole(found), "error of the whole network", limit(found)
    builds = f"{found.builds:,}", "build" if found.builds == 1 else "builds", cost(found)
    return [culprits, error, *_number_mended(found), builds]


def _number_mended(found: Bisection) -> Iterable[tuple[str, str, str]]:
    how, error, most = mended(found)
    if how:
        yield error, f"error {how}", most
    elif not found.within:
        yield "none", "network found within the tolerance", "of those that have run"


def section(report: Record) -> Markup:
    """All of a bisection; nothing for a report without one."""
    found = report.bisection
    if found is None:
        return Markup("")
    culprits = [_culprit(report, found, n, c) for n, c in enumerate(found.culprits, 1)]
    parts = [
        tag("h2", "Bisection", id="bisection-title"),
        tag("p", f"On {asked(found)}.", class_="quiet"),
        folded([tag("li", sentence(note)) for note in found.notes], "lines", "note"),
        tag("ol", *culprits, class_="culprits"),
        _runs(report, found),
        _alone(report, found.alone),
    ]
    if found.advice:
        parts.append(tag("p", "Next: ", tag("code", found.advice)))
    return tag("section", *parts, class_="bisection", aria_labelledby="bisection-title")


def _culprit(report: Record, found: Bisection, number: int, culprit: Culprit) -> Markup:
    """Where it is written, errors and reason, values in both precisions, and what mends it."""
    one = not is_open(culprit)
    title = [_operator(report, culprit.node), f" {about(culprit.op, culprit.module)}"]
    badge = tag("span", f"culprit {number}", class_="kind")
    parts = [
        tag("h3", badge, " ", *(title if one else [heading(found, culprit)])),
        tag("p", errors(found, culprit), class_="figures"),
    ]
    if culprit.line and one:
        parts.append(tag("p", short(culprit.line), title=culprit.line, class_="line"))
    if culprit.reason and one:
        parts.append(tag("p", culprit.reason))
    if shown := values(culprit):
        rows = (tag("tr", *_shown(report, role, value)) for role, value in shown)
        parts.append(_table(("", "value", *HEADINGS), rows, f"Values of {culprit.node}"))
    if culprit.kept:
        kept = [tag("li", _operator(report, name)) for name in culprit.kept]
        parts.append(tag("h4", "In FP32 instead"))
        parts.append(folded(kept, "operators", "operator"))
    return tag("li", *parts, class_="culprit panel")


def _shown(report: Record, role: str, value: Shown) -> Iterable[Markup]:
    yield tag("th", role, scope="row")
    yield tag("td", _value(report, value.name))
    yield from cells(figures(value))


def _runs(report: Record, found: Bisection) -> Markup:
    """A run a row, each with a strip of all operators."""
    if not found.trials:
        return Markup("")
    legend = (
        ("tried", "in FP16 on the engine"),
        ("left", "left after the run"),
        ("good", "within what was asked"),
        ("bad", "beyond it: the stronger, the further"),
    )
    marks = [tag("li", tag("i", class_=name), text) for name, text in legend]
    headings = ("FP16 up to", f"operators 1 to {found.operators:,}", "in FP32", "error", "left")
    rows = (_run(report, found, run) for run in runs(found))
    return join(
        [
            tag("h3", "Runs, and which operators are left"),
            _table(headings, rows, "Runs", "runs"),
            tag("ul", *marks, class_="legend"),
        ]
    )


def _run(report: Record, found: Bisection, run: Run) -> Markup:
    what = run.what if run.trial.whole else _operator(report, run.trial.node)
    refused = [tag("p", run.trial.why, class_="quiet")] if run.trial.why else []
    return tag(
        "tr",
        tag("th", what, *refused, scope="row"),
        tag("td", _strip(found, run), class_="strip"),
        *cells((str(run.trial.kept or ""), run.figure, run.left)),
    )


def _strip(found: Bisection, run: Run) -> Markup:
    """All steps from left to right: what ran in FP16, what is left, and a mark where it was cut."""
    place = run.trial.place

    def bar(class_: str, start: int, end: int, height: int) -> Markup:
        span = {"x": _share(start, run.steps), "width": _share(end - start, run.steps)}
        return tag("rect", class_=class_, y=str(9 - height // 2), height=str(height), **span)

    left = [bar("left", run.low, run.high, 14)] if run.high else []
    marked = {"class_": "good" if run.good else "bad", "opacity": f"{_strength(found, run):.2f}"}
    mark = tag("circle", cx=_share(place, run.steps), cy="9", r="5", **marked)
    parts = [bar("track", 0, run.steps, 2), *left, bar("tried", 0, place, 4), mark]
    return tag("svg", *parts, aria_hidden="true")


def _share(place: int, steps: int) -> str:
    return f"{100 * place / max(steps, 1):.3f}%"


def _strength(found: Bisection, run: Run) -> float:
    """From 0.4 at the tolerance to 1 where an error is far from it."""
    error, tolerance = run.trial.error, run.trial.limit
    if run.good or error == inf or not tolerance:
        return 1.0
    return min(1.0, 0.4 + 0.6 * log10(error / tolerance) / STRONG)


def _alone(report: Record, found: Sequence[Alone]) -> Markup:
    if not found:
        return Markup("")
    rows = (
        tag(
            "tr",
            tag("th", _operator(report, each.node), scope="row"),
            *cells((about(each.op, each.module), f"{each.error:.3g}", each.why)),
        )
        for each in found
    )
    title = f"Alone in FP16, all others in FP32: {counted(len(found), 'operator')}, the worst first"
    headings = ("operator", "", "error", "refused")
    return join([tag("h3", title), _table(headings, rows, "Single operators")])


def _table(headings: Sequence[str], rows: Iterable[Markup], label: str, class_: str = "") -> Markup:
    """A table that scrolls sideways where there is no room, with keys too."""
    head = tag("tr", *(tag("th", text, scope="col") for text in headings))
    table = tag("table", tag("thead", head), tag("tbody", *rows), class_=f"figures-table {class_}")
    return tag("div", table, class_="sideways", tabindex="0", role="region", aria_label=label)


def _operator(report: Record, name: str) -> Markup:
    """An operator by its first measured result, which the explorer shows."""
    node = report.graph.by_name.get(name)
    made = [output for output in (node.outputs if node else ()) if output in report.values]
    return _value(report, made[0], name) if made else tag("code", name)


def _value(report: Record, value: str, name: str = "") -> Markup:
    """A value that is selected in the explorer where it was measured."""
    if value not in report.values:
        return tag("code", name or value)
    return tag("button", name or value, type="button", class_="link", data_value=value)
