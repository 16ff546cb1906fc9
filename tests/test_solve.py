"""The solver of the laws' equations, on systems whose solutions are known."""

import pytest

from halfsafe.rules.solve import ZERO, Classes, drawn, is_pinned, least, propagated, rank

PRODUCT = {"y": 1, "a": -1, "b": -1}
EVEN = {"b": 1, "half": -2}


def test_equal_unknowns_become_one_and_the_rest_speaks_of_classes():
    classes = Classes()
    left = classes.absorb(
        [{"a": 1, "b": -1}, {"c": 1}, {"b": 1, "d": -2}, {"d": 1, "e": -1, "c": 5}]
    )
    assert classes.find("a") == classes.find("b")
    assert classes.find("c") == ZERO
    assert classes.find("d") == classes.find("e")
    assert left == [{classes.find("a"): 1, classes.find("d"): -2}]


def test_a_row_that_becomes_an_equality_joins_too():
    classes = Classes()
    assert classes.absorb([{"y": 1, "a": -1, "b": -1}, {"b": 1}]) == []
    assert classes.find("y") == classes.find("a")


@pytest.mark.parametrize(
    ("known", "found"),
    [
        ({"y": 3, "a": 1}, {"b": 2, "half": 1}),
        ({"y": 3, "a": 2}, None),
        ({"y": 1, "half": 1}, {"a": -1}),
    ],
)
def test_what_follows_is_whole_or_nothing(known, found):
    followed = propagated([PRODUCT, EVEN], known)
    if found is None:
        assert followed is None
    else:
        assert followed is not None
        assert followed[0].items() >= found.items()
        assert followed[1] == []


def test_rows_that_contradict_what_is_known_have_no_solution():
    assert propagated([{"a": 1, "b": -1}], {"a": 1, "b": 2}) is None
    assert least([{"a": 1, "b": -1}], {"a": 1, "b": 2}) is None
    assert least([{"a": 1, "b": -4}], {"b": 2}, reach=7) is None


def test_the_least_solution_is_whole_where_the_least_squares_are_not():
    """a + b == 3 with the least squares has 1.5 twice."""
    found = least([PRODUCT], {"y": 3})
    assert found is not None
    assert found["a"] + found["b"] == 3
    assert abs(found["a"]) + abs(found["b"]) == 3


def test_only_what_should_be_small_counts():
    found = least([PRODUCT], {"y": 3}, small=["a"])
    assert found == {"y": 3, "a": 0, "b": 3}


@pytest.mark.parametrize("seed", range(5))
def test_drawn_exponents_satisfy_the_rows_and_reach_far(seed):
    found = drawn([PRODUCT, EVEN], ["free"], reach=6, seed=seed)
    assert found.keys() == {"y", "a", "b", "half", "free"}
    assert found["y"] == found["a"] + found["b"]
    assert found["b"] == 2 * found["half"]
    assert max(map(abs, found.values())) == 6
    assert found == drawn([EVEN, PRODUCT], ["free"], reach=6, seed=seed)


def test_nothing_is_drawn_of_nothing():
    assert drawn([], reach=6, seed=0) == {}
    assert rank([]) == 0


def test_pinned_is_what_the_rows_leave_nothing_but_0():
    rows = [PRODUCT, {"y": 1, "a": -1}, {"c": 1, "d": -2}]
    assert is_pinned(rows, "b")
    assert not any(is_pinned(rows, unknown) for unknown in ("y", "a", "c", "d", "unheard of"))
