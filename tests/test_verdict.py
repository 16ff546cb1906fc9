"""The verdict on plain arrays: what is measured, and which of three answers it gives."""

import json
from dataclasses import replace
from math import inf

import numpy as np
import pytest

from halfsafe.deviation import ROUNDING
from halfsafe.errors import BadInput
from halfsafe.verdict import (
    TOLERANCE,
    Answer,
    Verification,
    find,
    findings_of,
    judge,
    metric_of,
)
from halfsafe.verdict.metrics import top1

RNG = np.random.default_rng(0)
X = RNG.standard_normal((6, 40))
STATE = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def same_numbers():
    """Every test draws the same numbers, whichever ran before it."""
    RNG.bit_generator.state = STATE


def rounded(x):
    """To 11 bits: what a floor looks like."""
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.rint(mantissa * 2048) / 2048, exponent)


def proof(*pairs, floor=None, tolerance=TOLERANCE, scale=0.0, **rest):
    """A verification of one output: a pair of reference and candidate for each sample."""
    found = []
    for i, (x, y) in enumerate(pairs):
        x, y = np.asarray(x), np.asarray(y)
        z = floor if floor is not None else rounded(x) if x.dtype.kind == "f" else x
        found.append(find(0, "y", i, x, y, np.asarray(z), scale))
    fields = {"bit_equal": True, "worst_difference": 0.0, "engine": "strict", **rest}
    return Verification(
        samples=len(pairs), unmeasured=0, findings=tuple(found), tolerance=tolerance, **fields
    )


def assert_not_safe(found, *words):
    assert found.answer == Answer.NOT_SAFE, found.reasons
    assert all(word in found.reasons[0][1] for word in words), found.reasons


def assert_safe(found):
    assert found.answer == Answer.SAFE, found.reasons
    assert found.safe and not found.reasons


def test_the_floor_itself_is_safe():
    assert_safe(proof((X, rounded(X))))
    assert_safe(proof((X, X)))


@pytest.mark.parametrize("row", range(6))
def test_a_row_of_zeros_is_not_safe_whichever_it_is(row):
    y = rounded(X)
    y[row] = 0
    assert_not_safe(proof((X, y)))


def test_a_quiet_row_counts_by_itself():
    x = X * np.array([1, 1, 1e-8, 1, 1, 1])[:, None]
    y = rounded(x)
    assert_safe(proof((x, y)))
    y[2] = 0
    assert_not_safe(proof((x, y)), "40 of 240 entries are lost, 40 of them flushed to 0")
    y[2] = 1.3 * x[2]
    assert_not_safe(proof((x, y)), "row 2", "0.3")


def test_rows_of_a_batch_of_matrices_and_items_of_a_batch_of_images():
    x = RNG.standard_normal((3, 5, 40))
    y = rounded(x)
    y[1, 2] *= 1.012
    assert_not_safe(proof((x, y)), "row 7")
    images = RNG.standard_normal((64, 3, 8, 8))
    y = rounded(images)
    y[40] *= 1.02
    assert_not_safe(proof((images, y)), "row 40")


def test_a_row_of_few_entries_may_be_near_0_by_chance():
    x = RNG.standard_normal((40, 1))
    x[7] = 1e-5
    y = x + 3e-5 * np.sign(x)
    assert_safe(proof((x, y), floor=x + 2e-5))


@pytest.mark.parametrize("sample", range(3))
def test_every_sample_counts(sample):
    pairs = [(x, rounded(x)) for x in (X, 2 * X, X + 1)]
    pairs[sample] = (pairs[sample][0], 1.05 * pairs[sample][0])
    assert_not_safe(proof(*pairs), f"sample {sample}", "0.05")


def test_a_quiet_sample_is_not_averaged_away():
    assert_not_safe(proof((X, rounded(X)), (1e-9 * X, 0 * X)), "sample 1")


def test_integers_have_to_be_the_same():
    labels = np.arange(12)
    assert_safe(proof((labels, labels)))
    other = labels.copy()
    other[5] = 0
    assert_not_safe(proof((labels, other)), "1 of 12 integers differ")
    assert proof((labels, other)).differing == 1
    assert proof((labels, other), floor=other).answer == Answer.LIMITED
    assert_not_safe(proof((labels, labels[:-1])))
    assert_not_safe(proof((labels > 3, labels > 4)))


def test_an_integer_answered_by_a_float_is_compared_by_value():
    labels = np.arange(12)
    assert_safe(proof((labels, labels.astype(float))))
    assert_not_safe(proof((labels, labels + 0.5)))


def test_nonfinite_entries_and_where_they_belong():
    for wrong in (inf, -inf, np.nan):
        y = rounded(X)
        y[3, 3] = wrong
        found = proof((X, y))
        assert_not_safe(found, "1 of 240 entries are nonfinite, or should be")
        assert found.after == inf and found.after_nonfinite == 1


def test_minus_infinity_is_answered_by_itself_alone():
    x = X.copy()
    x[2, 4] = -inf
    y = rounded(x)
    assert_safe(proof((x, y)))
    for wrong in (-65504.0, inf, np.nan):
        y[2, 4] = wrong
        assert_not_safe(proof((x, y)))


def test_nonfinite_at_the_floor_too_is_limited():
    y = rounded(X)
    y[0, 0] = inf
    assert proof((X, y), floor=y).answer == Answer.LIMITED


def test_another_shape_is_wrong_in_every_entry():
    found = proof((X, X[:, :-1]))
    assert_not_safe(found, "240 of 240")
    assert_not_safe(proof((X, X.T)))


def test_another_number_of_outputs_is_bad_input():
    with pytest.raises(BadInput, match="the candidate gives 1 outputs, the model 2"):
        findings_of(["a", "b"], [0.0, 0.0], 0, [X, X], [X], [X, X])


def test_a_second_output_counts_beside_a_noisy_first():
    noise = 0.02 * RNG.standard_normal(X.shape)
    first = find(0, "noisy", 0, X, X + noise, X - noise)
    second = find(1, "clean", 0, X, 1.5 * X, rounded(X))
    answers = [answer for _, answer, _ in judge([first, second], TOLERANCE)]
    assert answers == [Answer.SAFE, Answer.NOT_SAFE]


def test_lost_entries_are_counted_and_those_that_cross_0_are_not():
    y = rounded(X)
    y[2, 5] = 0
    found = find(0, "y", 0, X, y, rounded(X))
    assert (found.lost, found.flushed) == (1, 1)
    x = X.copy()
    x[2, 5] = 1e-6
    y = rounded(x)
    y[2, 5] = -3e-4
    z = rounded(x)
    z[2, 5] = 2e-4
    assert find(0, "y", 0, x, y, z).lost == 0
    assert_safe(proof((x, y), floor=z))


def test_probabilities_near_0_may_be_flushed():
    x = np.exp(3 * X)
    x[:, :5] *= 1e-12
    x /= x.sum(-1, keepdims=True)
    y = np.where(x < 1e-7, 0.0, rounded(x))
    assert_safe(proof((x, y)))
    assert_not_safe(proof((3 * x, 3 * y)), "flushed to 0")
    assert_not_safe(proof((x, 1.1 * y)))


def test_a_bounded_output_is_measured_by_its_scale():
    x = 1 / (1 + np.exp(-6 * X))
    x[:, :4] = 1e-9
    y = np.where(x < 1e-8, 0.0, rounded(x))
    assert_safe(proof((x, y), scale=1.0))
    assert_not_safe(proof((x, y)), "lost")
    y[1] = 0.0
    assert_not_safe(proof((x, y), scale=1.0))


def test_rows_of_zeros_and_tiny_errors_are_harmless():
    x = np.maximum(X, 0)
    x[3] = 0
    assert_safe(proof((x, rounded(x))))
    large = X.copy()
    large[:, 0] = 1024
    assert_safe(proof((large, large + 4e-11)))


def test_a_reference_of_zeros_is_answered_by_zeros():
    zeros = np.zeros((4, 20))
    assert_safe(proof((zeros, zeros)))
    assert_not_safe(proof((zeros, zeros + 0.1)))


def test_an_error_that_the_floor_has_too_is_limited():
    y = X + 0.1 * RNG.standard_normal(X.shape)
    z = X + 0.08 * RNG.standard_normal(X.shape)
    found = proof((X, y), floor=z)
    assert found.answer == Answer.LIMITED
    assert "and the floor of FP16 is" in found.reasons[0][1]
    assert found.ratio == pytest.approx(0.1 / 0.08, rel=0.2)


def test_an_avoidable_failure_comes_before_a_limited_one():
    noise = 0.1 * RNG.standard_normal(X.shape)
    found = proof((X, X + noise), floor=X - noise)
    both = replace(found, findings=(*found.findings, find(1, "z", 0, X, 0 * X, rounded(X))))
    assert both.answer == Answer.NOT_SAFE
    assert [answer for answer, _ in both.reasons] == [Answer.NOT_SAFE, Answer.LIMITED]


def test_a_tolerance_decides_what_is_of_use():
    noise = 0.1 * RNG.standard_normal(X.shape)
    assert proof((X, X + noise), floor=X - noise).answer == Answer.LIMITED
    assert_safe(proof((X, X + noise), floor=X - noise, tolerance=0.5))
    small = 0.01 * RNG.standard_normal(X.shape)
    assert_safe(proof((X, X + small), floor=X - small))
    strict = proof((X, X + small), floor=X - small, tolerance=1e-3)
    assert strict.answer == Answer.LIMITED


def test_errors_of_a_rounding_are_never_called_wrong():
    assert_safe(proof((X, X * (1 + ROUNDING)), floor=X))


def test_a_metric_takes_the_place_of_errors_but_not_of_finiteness():
    far = proof((X, 1.2 * X), metric="top-1", metric_error=0.0)
    assert_safe(far)
    assert_not_safe(proof((X, 1.2 * X), metric="top-1", metric_error=0.5), "top-1 is 0.5")
    assert_not_safe(proof((X, 1.2 * X), metric="top-1", metric_error=np.nan))
    y = X.copy()
    y[0, 0] = np.nan
    assert_not_safe(proof((X, y), metric="top-1", metric_error=0.0), "nonfinite")


def test_metrics_by_name():
    y = X.copy()
    y[0] = -y[0]
    _, cosine = metric_of("cosine")
    assert cosine is not None
    assert cosine([y], [X]) == pytest.approx(2.0)
    assert cosine([2 * X], [X]) == pytest.approx(0.0, abs=1e-12)
    assert top1([y], [X]) == pytest.approx(1 / 6)
    assert metric_of(None) == ("", None)
    assert metric_of(top1) == ("top1", top1)
    with pytest.raises(BadInput, match="unknown metric 'mse'"):
        metric_of("mse")


def test_fp32_has_to_be_bit_equal_unless_forms_were_replaced():
    rest = {"bit_equal": False, "worst_difference": 1e-6}
    assert_not_safe(proof((X, rounded(X)), **rest), "differs by 1e-06 in FP32")
    assert_safe(proof((X, rounded(X)), forms=True, **rest))
    assert_safe(proof((X, rounded(X)), in_float32=False, **rest))
    far = {"bit_equal": False, "worst_difference": 1e-3}
    assert_not_safe(proof((X, rounded(X)), forms=True, **far))
    assert_not_safe(proof((X, rounded(X)), forms=True, bit_equal=False, worst_difference=np.nan))


def test_a_wrong_capture_is_not_safe_whatever_the_graph_gives():
    assert_not_safe(proof((X, rounded(X)), captured=0.5), "the captured graph is not the model")
    assert_safe(proof((X, rounded(X)), captured=1e-6))


def test_a_verification_goes_through_json():
    y = rounded(X)
    y[1, 1] = inf
    y[2] = 0
    found = proof((X, y), (X, rounded(X)), metric="", captured=1e-7)
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    again = Verification.from_json(data)
    assert again.answer == found.answer and again.reasons == found.reasons
    assert again.after == inf and again.findings == found.findings
    assert again == found


def test_what_a_finding_says_of_itself():
    found = find(3, "y", 2, X, 1.01 * X, rounded(X))
    assert (found.output, found.name, found.sample, found.count) == (3, "y", 2, 240)
    assert found.error == pytest.approx(0.01)
    assert found.largest == pytest.approx(0.01 * np.abs(X).max())
    assert found.floor < 2 * ROUNDING
    assert found.ratio == pytest.approx(0.01 / found.floor)
    assert find(0, "y", 0, X, rounded(X), rounded(X)).ratio <= 1.0


def test_empty_outputs_and_single_numbers():
    empty = np.zeros((0, 4))
    assert_safe(proof((empty, empty)))
    assert_safe(proof((np.array(3.0), np.array(3.0))))
    assert_not_safe(proof((np.array(3.0), np.array(4.0))))


def test_a_lucky_floor_of_few_numbers_is_held_against_that_of_other_samples():
    scores = np.array([[3.5, 3.3, 2.9]])
    lucky, usual = 1 + 3e-4, 1 + 1.5e-3
    finds = [
        find(0, "y", i, scores, scores * (1 + 5e-3), scores * floor)
        for i, floor in enumerate((lucky, usual))
    ]
    assert [a for _, a, _ in judge(finds[:1], TOLERANCE)] == [Answer.NOT_SAFE]
    assert [a for _, a, _ in judge(finds, TOLERANCE)] == [Answer.SAFE, Answer.SAFE]
    many = np.tile(scores, 8)
    finds = [
        find(0, "y", i, many, many * (1 + 5e-3), many * floor)
        for i, floor in enumerate((lucky, usual))
    ]
    assert judge(finds, TOLERANCE)[0][1] is Answer.NOT_SAFE
