"""The report that people hold in their hands: the record, with every way to show it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from halfsafe.atomic import atomically
from halfsafe.errors import BadInput, first_line
from halfsafe.graph import Graph, Kind
from halfsafe.report.data import Record, ValueReport
from halfsafe.report.html import render
from halfsafe.report.model_explorer import node_data
from halfsafe.report.reasons import faults_of, with_windows


@dataclass(frozen=True)
class Report(Record):
    """Everything that halfsafe found, did and proved."""

    def __or__(self, other: Self) -> Self:
        """The report on both sets of samples, of one model. Raises ValueError for two models."""
        if self.verification or other.verification:
            raise ValueError("a proof cannot be merged: merge reports of inspect or watch")
        if self.graph != other.graph or self.headroom != other.headroom:
            raise ValueError(f"'{self.model}' and '{other.model}' were not measured alike")
        merged = _merged(self.graph, self.values, other.values)
        values = with_windows(self.graph, merged, self.headroom)
        findings = (*self.findings, *other.findings)
        return replace(
            self,
            samples=self.samples + other.samples,
            values=values,
            faults=tuple(faults_of(self.graph, values, self.headroom, findings)),
            findings=tuple(sorted(findings, key=lambda f: (f.sample, f.output))),
            notes=tuple(dict.fromkeys((*self.notes, *other.notes))),
        )

    def save(self, path: str | Path) -> None:
        """Writes JSON, whole or not at all."""
        _write(path, json.dumps(self.to_json(), indent=1, allow_nan=False))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads what `save` wrote. Raises BadInput."""
        try:
            data: Any = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls.from_json(data)
        except BadInput as error:
            raise BadInput(f"'{path}' is not a report of this version: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"'{path}' is not a report: {first_line(error)}") from error

    def html(self, path: str | Path) -> None:
        """Writes one HTML file that needs no network, whole or not at all."""
        _write(path, render(self))

    def model_explorer(self, path: str | Path) -> None:
        """Writes node data that Google's Model Explorer shows over the model's graph."""
        _write(path, json.dumps(node_data(self), indent=1, allow_nan=False))

    def text(self) -> str:
        """The report for a terminal, 80 columns wide."""
        from halfsafe.report.text import render  # rich: only who prints a report pays for it

        return render(self)


def _merged(
    graph: Graph, first: Mapping[str, ValueReport], second: Mapping[str, ValueReport]
) -> dict[str, ValueReport]:
    """What two sets of samples have shown; constants are the same in both."""
    return {
        name: value if graph.values[name].kind == Kind.CONSTANT else _both(value, second[name])
        for name, value in first.items()
    }


def _both(first: ValueReport, second: ValueReport) -> ValueReport:
    both = first.comparison, second.comparison
    comparison = both[0] | both[1] if both[0] and both[1] else both[0] or both[1]
    return replace(first, range=first.range | second.range, comparison=comparison)


def _write(path: str | Path, text: str) -> None:
    atomically(Path(path), lambda partial: Path(partial).write_text(text, encoding="utf-8"))
