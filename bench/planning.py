"""How planning grows: seven families of graphs, from 1,000 to 40,000 operators.

Run as ``python -m bench.planning``. Seconds are those of a processor, of windows and of the plan.
Of a thousand operators five need an insertion, but in "folding alone", which needs none.
"""

from __future__ import annotations

import gc
import math
import time
from functools import partial
from typing import Any

from bench.planning_graphs import FAMILIES, Drawing, transformer
from bench.record import record
from halfsafe.graph import Kind, Use
from halfsafe.plan import Plan, plan
from halfsafe.windows import Limits, windows

COMMAND = "python -m bench.planning"
SIZES = (1_000, 2_500, 5_000, 10_000, 20_000, 40_000)
TIMES = 2
DRAWN = {"folding alone": partial(transformer, forced=0), **FAMILIES}


def measure(family: str, operators: int) -> dict[str, Any]:
    """Draws a graph once and plans it a few times; the best one counts."""
    drawing = DRAWN[family](operators)
    graph, times = drawing.graph(), list[tuple[float, float]]()
    for _ in range(TIMES):
        gc.collect()
        start = time.process_time()
        bounds = windows(graph, drawing.ranges, Limits())
        between = time.process_time()
        found = plan(graph, bounds)
        times.append((time.process_time() - between, between - start))
    planning, drawing_windows = min(times)
    return {
        "family": family,
        "operators": len(graph.nodes),
        "insertions": _insertions(drawing, found),
        "conflicts": len(found.conflicts),
        "proved": not any("stopped after" in note for note in found.notes),
        "seconds_windows": round(drawing_windows, 2),
        "seconds_plan": round(planning, 2),
    }


def _insertions(drawing: Drawing, found: Plan) -> int:
    """Muls in front of operators and at the rim."""
    graph = drawing.graph()
    computed = (Kind.INPUT, Kind.ACTIVATION)
    inside = sum(
        found.uses[Use(node.name, operand)] != found.exponents[value]
        for node in graph.nodes
        for operand, value in node.inputs.items()
        if graph.values[value].kind in computed
    )
    return inside + sum(found.exponents[name] != 0 for name in (*graph.inputs, *graph.outputs))


def growth(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Of one family, from 2,500 operators on: how the time grows, and n log n."""
    first, last = (row for row in rows if row["operators"] in _ends(rows))
    a, b = first["operators"], last["operators"]
    return {
        "seconds": last["seconds_plan"],
        "growth": round(last["seconds_plan"] / first["seconds_plan"], 1),
        "n_log_n_growth": round(b * math.log(b) / (a * math.log(a)), 1),
    }


def _ends(rows: list[dict[str, Any]]) -> tuple[int, int]:
    return rows[1]["operators"], rows[-1]["operators"]


def main() -> None:
    rows: list[dict[str, Any]] = []
    for family in DRAWN:
        for operators in SIZES:
            rows.append(measure(family, operators))
            print(rows[-1], flush=True)
    summary = {f: growth([row for row in rows if row["family"] == f]) for f in DRAWN}
    print(summary)
    record("planning", COMMAND, {"summary": summary, "rows": rows})


if __name__ == "__main__":
    main()
