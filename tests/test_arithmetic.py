"""PyTorch and NumPy measure and round alike, and as the libraries that know a format do."""

import ml_dtypes
import numpy as np
import pytest
import torch

from halfsafe.deviation import Deviation
from halfsafe.formats import BFLOAT16, FLOAT8_E4M3FN, FLOAT16, FLOAT32, FLOOR, FloatFormat
from halfsafe.frontends.onnx import arithmetic as in_numpy
from halfsafe.frontends.torch import arithmetic as in_torch
from halfsafe.measure import Arithmetic

BOTH: tuple[Arithmetic, ...] = (in_numpy, in_torch)
FORMATS = (FLOAT16, BFLOAT16, FLOAT8_E4M3FN, FloatFormat("float8_e5m2", 5, 2))


def of_all_kinds(count=200_000):
    """FP32 numbers of any bits, ties and neighbours of every format's ends among them."""
    bits = np.random.default_rng(2).integers(0, 2**32, count, dtype=np.uint32)
    steps = np.arange(-4096, 4096, dtype=np.float64)
    ends = [steps / 8 * f.smallest_subnormal for f in FORMATS]
    ends += [f.max * (1 + steps / 2**15) for f in FORMATS]
    odd = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, -3.4028235e38, 3.4e38])
    with np.errstate(over="ignore"):
        return np.concatenate([bits.view(np.float32), np.concatenate([*ends, odd]).astype("f4")])


def bits_of(x):
    """Bits, all NaN being one."""
    return np.where(np.isnan(x), np.float32(np.nan), x).view(np.uint32)


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f.name)
def test_a_format_rounds_as_the_library_that_knows_it(fmt):
    x = of_all_kinds()
    with np.errstate(over="ignore", invalid="ignore"):
        known = x.astype(getattr(ml_dtypes, fmt.name, fmt.name)).astype(np.float32)
    for rounded in (in_numpy.rounded, in_numpy.by_bits):
        assert np.array_equal(bits_of(rounded(x, fmt)), bits_of(known))
    for rounded in (in_torch.rounded, in_torch.by_bits):
        assert np.array_equal(bits_of(rounded(torch.from_numpy(x), fmt).numpy()), bits_of(known))


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f.name)
def test_a_format_has_the_limits_that_others_state(fmt):
    known = np.finfo(np.float16) if fmt.name == "float16" else ml_dtypes.finfo(fmt.name)
    assert fmt.max == float(known.max)
    assert fmt.smallest_normal == float(known.smallest_normal)
    assert fmt.smallest_subnormal == float(known.smallest_subnormal)


def test_the_floor_keeps_eleven_bits_at_any_exponent():
    x = of_all_kinds()
    found = in_numpy.rounded(x, FLOOR)
    assert np.array_equal(bits_of(found), bits_of(in_torch.rounded(torch.from_numpy(x), FLOOR)))
    assert np.array_equal(np.isfinite(found), np.isfinite(x))
    inside = np.isfinite(x) & (np.abs(x) > 1e-37) & (np.abs(x) < 3e38)
    fraction, _ = np.frexp(found[inside])
    assert np.array_equal(fraction * 2**11, np.round(fraction * 2**11))
    assert np.all(np.abs(found[inside] - x[inside]) <= np.abs(x[inside]) * 2.0**-11)
    assert in_numpy.rounded(np.array(3.0, np.float32), FLOOR).shape == ()


@pytest.mark.parametrize("scale", [1.0, 1e6, 1e-9, 1e-42])
def test_arrays_are_measured_as_tensors_are(scale):
    x = (np.random.default_rng(1).standard_normal((40, 30)) * scale).astype(np.float32)
    x[0, :3] = [0.0, np.inf, -np.nan]
    assert in_numpy.range_of(x) == in_torch.range_of(torch.from_numpy(x))


def test_arrays_are_compared_as_tensors_are():
    generator = np.random.default_rng(1)
    a, b = (generator.standard_normal((40, 30)).astype(np.float32) for _ in range(2))
    a[0, :4], b[0, :4] = [np.nan, np.inf, 1.0, np.nan], [np.nan, 1.0, np.nan, np.inf]
    a[1] = b[1]
    tensors = torch.from_numpy(a), torch.from_numpy(b)
    found = in_numpy.deviation(a, b), in_torch.deviation(*tensors)
    assert found[0].nonfinite == found[1].nonfinite == 1
    assert found[0].count == found[1].count == a.size - 3
    assert found[0].squared_error == pytest.approx(found[1].squared_error, rel=1e-12)
    assert found[0].squared_norm == pytest.approx(found[1].squared_norm, rel=1e-12)
    assert in_numpy.differing(a, b) == in_torch.differing(*tensors) == a.size - 31
    assert in_numpy.deviation(b, b) == Deviation(0.0, found[0].squared_norm, 0, found[0].count)


@pytest.mark.parametrize("library", BOTH, ids=["numpy", "torch"])
def test_outputs_are_given_as_they_are(library):
    made = np.ones(3, np.float32) if library is in_numpy else torch.ones(3)
    (found,) = library.arrays([made])
    assert found.dtype == np.float32
    assert np.array_equal(library.rounded(made, FLOAT32), made)


def test_views_that_are_computed_when_read():
    """NumPy does not take them as they lie."""
    z = torch.complex(torch.randn(4), torch.randn(4)).conj()
    x = z.imag
    assert x.is_neg()
    assert in_torch.deviation(x, x.clone()).squared_error == 0
    assert in_torch.differing(x, x + 1) == 4
    assert in_torch.differing(z, z.resolve_conj()) == 0
