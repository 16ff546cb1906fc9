"""Amplified architectures: bit-equality in FP32, and FP16 error over the floor.

Run as ``python -m bench.accuracy``.
"""

from __future__ import annotations

import copy
import logging
import statistics
import time
import warnings
from typing import Any

import halfsafe
from bench.architectures import ARCHITECTURES
from bench.record import record

COMMAND = "python -m bench.accuracy"


def measure(name: str) -> dict[str, Any]:
    """One row: an architecture amplified, fixed, and verified on a sample held out."""
    model, samples = ARCHITECTURES[name].build()
    told: list[str] = []
    start = time.perf_counter()
    fixed = halfsafe.fix(model, samples, progress=told.append)
    seconds = time.perf_counter() - start
    report, proof = fixed.report, fixed.report.verification
    try:
        with warnings.catch_warnings():  # nobody saves the copy
            warnings.simplefilter("ignore", UserWarning)
            as_state_dict = bool(fixed.apply_to(copy.deepcopy(model)))
    except halfsafe.FoldError:
        as_state_dict = False
    return {
        "architecture": name,
        "operators": len(report.graph.nodes),
        "bit_equal": proof.bit_equal,
        "answer": str(proof.answer),
        "before": None if proof.before_nonfinite else proof.before,
        "before_nonfinite": proof.before_nonfinite,
        "after": proof.after,
        "after_nonfinite": proof.after_nonfinite,
        "floor": proof.floor,
        "ratio": proof.ratio,
        "folded": len(report.folds),
        "inserted": list(report.insertions),
        "forms": list(report.forms),
        "replaced_in_fp16": len(report.replacements),
        "unresolved": len(report.conflicts),
        "in_the_original_class": as_state_dict,
        "passes": {
            "measuring": sum(message.startswith("sample ") for message in told),
            "comparing": sum(message.startswith("comparing ") for message in told),
            "proving": sum(message.startswith("proving ") for message in told),
        },
        "seconds": round(seconds, 2),
    }


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    rows = []
    for name in ARCHITECTURES:
        row = measure(name)
        before = row["before_nonfinite"] or f"{row['before']:.1e}"
        print(
            f"{name:18} bit-equal {row['bit_equal']!s:5} before {before!s:8} "
            f"after/floor {row['ratio']:.3f} inserted {len(row['inserted'])}",
            flush=True,
        )
        rows.append(row)
    ratios = [row["ratio"] for row in rows]
    summary = {
        "architectures": len(rows),
        "bit_equal": sum(row["bit_equal"] for row in rows),
        "finite": sum(row["after_nonfinite"] == 0 for row in rows),
        "median_ratio": statistics.median(ratios),
        "worst_ratio": max(ratios),
        "inserted": sum(len(row["inserted"]) for row in rows),
        "passes": {k: sum(row["passes"][k] for row in rows) for k in rows[0]["passes"]},
    }
    print(summary)
    record("accuracy", COMMAND, {"summary": summary, "rows": rows})


if __name__ == "__main__":
    main()
