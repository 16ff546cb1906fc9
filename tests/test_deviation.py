"""How outputs are compared: the one measure of whole outputs, the other of single entries."""

from math import inf, nan

import numpy as np
import pytest
import torch

from halfsafe.deviation import bit_equal, largest_difference, worst_difference
from halfsafe.frontends.torch.trees import difference

ONE = np.array([1.0, 2.0, -2.0])
"""Of norm 3, with 2 as its largest entry."""


def test_a_difference_is_relative_to_the_norm_or_to_the_largest_entry():
    found = ONE + np.array([0.0, 0.0, 0.3])
    assert worst_difference([found], [ONE]) == pytest.approx(0.1)
    assert largest_difference([found], [ONE]) == pytest.approx(0.15)


def test_the_worst_output_counts():
    assert largest_difference([ONE, ONE + 1, ONE], [ONE] * 3) == pytest.approx(0.5)
    assert worst_difference([], []) == largest_difference([], []) == 0.0


@pytest.mark.parametrize("measure", [worst_difference, largest_difference])
def test_what_has_no_size_is_the_same_or_infinitely_far(measure):
    odd = np.array([nan, inf, -inf, 0.0])
    same = [(odd, odd), (np.array([-0.0]), np.array([0.0])), (np.arange(3), np.arange(3))]
    other = [
        (odd, np.array([nan, inf, inf, 0.0])),
        (np.array([nan, inf, -inf, nan]), odd),
        (np.zeros((1, 2)), np.zeros((2, 1))),
        (np.arange(3), np.arange(3) + 1),
    ]
    for found, known in same:
        assert measure([found], [known]) == 0.0 and bit_equal([found], [known])
    for found, known in other:
        assert measure([found], [known]) == inf and not bit_equal([found], [known])
    assert measure([ONE], []) == inf and not bit_equal([ONE], [])


def test_flat_outputs_of_torch_differ_in_dtype_too():
    x = torch.tensor([1.0, -4.0])
    assert difference([x, 3, "a", None], [x, 3, "a", None]) == 0.0
    assert difference([x], [x + torch.tensor([0.5, 0.0])]) == 0.125
    for found, known in [([x], [x.double()]), ([3], [4]), ([x, None], [x, x]), ([x], [x, x])]:
        assert difference(found, known) == inf
