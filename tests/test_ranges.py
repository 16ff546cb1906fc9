import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from halfsafe.formats import BFLOAT16, FLOAT16, FLOAT32
from halfsafe.frontends.torch.arithmetic import range_of
from halfsafe.ranges import Range

numbers = st.floats(width=32, allow_nan=True, allow_infinity=True)


def plainly(values: list[float]) -> Range:
    """The definition of a Range, one number at a time."""
    finite = [abs(v) for v in values if math.isfinite(v)]
    nonzero = [v for v in finite if v]
    binades: dict[int, int] = {}
    for v in nonzero:
        b = math.frexp(v)[1] - 1
        binades[b] = binades.get(b, 0) + 1
    return Range(
        amax=max(nonzero, default=0.0),
        smallest=min(nonzero, default=math.inf),
        zeros=len(finite) - len(nonzero),
        nonfinite=len(values) - len(finite),
        count=len(values),
        binades=binades,
    )


@given(st.lists(numbers, max_size=30))
def test_a_tensor_is_measured_exactly(values):
    assert range_of(torch.tensor(values, dtype=torch.float32)) == plainly(values)


@given(st.lists(numbers, max_size=20), st.lists(numbers, max_size=20))
def test_merging_is_measuring_together(first, second):
    together = range_of(torch.tensor(first + second, dtype=torch.float32))
    apart = [range_of(torch.tensor(v, dtype=torch.float32)) for v in (first, second)]
    assert apart[0] | apart[1] == together


@given(st.lists(numbers, max_size=20))
def test_json_keeps_a_range(values):
    found = plainly(values)
    assert Range.from_json(found.to_json()) == found


@given(st.floats(1e-30, 1e30), st.integers(0, 3))
def test_bits_above_is_the_least_exponent_that_fits(magnitude, headroom):
    k = FLOAT16.bits_above(magnitude, headroom)
    limit = FLOAT16.max * 2.0**-headroom
    assert magnitude * 2.0**-k <= limit < magnitude * 2.0 ** (1 - k)


@pytest.mark.parametrize(
    ("fmt", "dtype"),
    [(FLOAT16, torch.float16), (BFLOAT16, torch.bfloat16), (FLOAT32, torch.float32)],
)
def test_formats_agree_with_finfo(fmt, dtype):
    info = torch.finfo(dtype)
    assert fmt.max == info.max
    assert fmt.smallest_normal == info.smallest_normal
    assert fmt.smallest_subnormal == info.smallest_normal * info.eps


def test_rounding_loss_predicts_the_rounding_error_of_half():
    x = torch.randn(100_000)
    exponents = (0, 10, 14, 16, 18)
    for exponent, loss in zip(exponents, range_of(x).rounding_loss(exponents), strict=True):
        stored = torch.ldexp(x, torch.tensor(-exponent))
        error = (stored.half().float() - stored).norm()
        ideal = (x.half().float() - x).norm() * 2.0**-exponent
        assert loss == pytest.approx(float(error / ideal), rel=0.05)


def test_highest_exponent_is_where_the_loss_begins():
    found = range_of(torch.randn(10_000))
    (k,) = found.highest_exponents([1.15])
    below, above = found.rounding_loss([k, k + 1])
    assert below <= 1.15 < above
