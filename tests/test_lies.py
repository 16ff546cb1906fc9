"""The verdict on candidates that are wrong in one way, and on some that are right: one a kind.

All of them are in bench/lies.py; `python -m bench.lies` runs them.
"""

import pytest

from bench.lies import CASES, asked, judged

KNOWN = {
    "a dead pixel": "one entry of many is lost, though not near 0",
    "a quiet channel 40 % off": "parts are rows and items, not channels",
    "a quiet feature 40 % off": "parts are rows and items, not features",
    "a row of zeros, by cosine": "a row of zeros has no cosine, and is left out",
    "all zeros, by cosine": "a row of zeros has no cosine, and is left out",
    "a label is another, by cosine": "metrics by name leave integers out",
    "another shape, by top-1": "the metric fails before the shape is looked at",
    "a metric that is NaN": "max(0.0, nan) is 0.0",
    "outputs under each other's names": "outputs are compared by place, not by name",
    "outputs in another order": "outputs are compared by place, not by name",
    "a file that tells no types": "is_half reads types that nobody has inferred",
    "converted, nodes not in order": "nodes are checked before they are sorted",
    "FP16 at the rim": "samples are not cast to the candidate's inputs",
    "optimised by ONNX Runtime": "a file of FP32 values with rounded weights has to be bit-equal",
    "complex numbers": "complex outputs are compared as integers are",
}
"""Verdicts that are wrong, and why: strict, so that a line goes when its reason does."""


def marked(case):
    reason = KNOWN.get(case.kind)
    return pytest.param(case, marks=[pytest.mark.xfail(reason=reason)] * bool(reason), id=case.name)


FIRST = list({case.kind: case for case in reversed(CASES)}.values())[::-1]
LIES, TRUTHS = ([marked(c) for c in FIRST if c.right is right] for right in (False, True))

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("case", LIES)
def test_what_is_wrong_is_never_called_safe(case):
    trial = case.build()
    answer, why, candidate = asked(trial)
    found = judged(trial, candidate)
    assert found.verdict != "right", f"the case is none: the judge finds an error of {found.error}"
    assert answer != "safe", f"the judge says {found.why}; the verdict says {answer} {why}"


@pytest.mark.parametrize("case", TRUTHS)
def test_what_is_right_is_called_safe(case):
    trial = case.build()
    answer, why, candidate = asked(trial)
    found = judged(trial, candidate)
    assert found.verdict == "right", f"the case is none: {found.why}"
    assert answer == "safe", f"{answer}: {why}"


def test_there_are_as_many_cases_as_the_bench_promises():
    assert sum(not case.right for case in CASES) >= 60
    assert sum(case.right for case in CASES) >= 60
    assert len({case.name for case in CASES}) == len(CASES)
