"""The verdict: every output of every sample beside its reference, and beside what FP16 can reach.

An error is measured where somebody may look at it: over an output of a sample, over each item of
its batch, and over each row, never averaged over more. It counts twice: against the floor (what is
further off than FP16 has to be is wrong, however large the norm of the others is), and against a
tolerance (an error that nobody can use is one, even where FP16 cannot do better). So there are
three answers. Nothing here knows how the arrays came about.
"""

from halfsafe.verdict.finding import (
    ROWS,
    TOLERANCE,
    VISIBLE,
    Answer,
    Finding,
    Row,
    finding,
    judge,
    plain,
)
from halfsafe.verdict.look import find, findings_of
from halfsafe.verdict.metrics import METRICS, Metric, error_by, metric_of
from halfsafe.verdict.verification import CAPTURED, EXACT, Verification

__all__ = [
    "CAPTURED",
    "EXACT",
    "METRICS",
    "ROWS",
    "TOLERANCE",
    "VISIBLE",
    "Answer",
    "Finding",
    "Metric",
    "Row",
    "Verification",
    "error_by",
    "find",
    "finding",
    "findings_of",
    "judge",
    "metric_of",
    "plain",
]
