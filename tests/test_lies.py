"""The verdict on candidates that are wrong in one way, and on some that are right: one a kind.

All of them are in bench/lies.py; `python -m bench.lies` runs them.
"""

import pytest

from bench.lies import CASES, asked, judged

FIRST = list({case.kind: case for case in reversed(CASES)}.values())[::-1]
LIES, TRUTHS = (
    [pytest.param(c, id=c.name) for c in FIRST if c.right is right] for right in (False, True)
)

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
