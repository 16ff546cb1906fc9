"""The verdict on candidates that are wrong in one way, and on some that are right: one a kind.

All of them are in bench/lies.py; `python -m bench.lies` runs them.
"""

import pytest

from bench.lies import CASES, asked, judged

KNOWN = {
    "optimised by ONNX Runtime": "a file of FP32 values with rounded weights has to be bit-equal",
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
