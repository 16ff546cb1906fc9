"""The solver of exponents, against all choices there are and against HiGHS on the whole."""

from collections.abc import Iterable
from itertools import product
from random import Random

import numpy as np
import pytest

from halfsafe.exponents import elimination
from halfsafe.exponents.branching import branched
from halfsafe.exponents.choosing import Choice, Part, Solver, around, joined, within
from halfsafe.exponents.elimination import Elimination, Steps
from halfsafe.exponents.factors import Range
from halfsafe.exponents.system import MUL, Bounds, Column, Cost, Cut, System, Tie, Wish, parts
from halfsafe.integer_program import IntegerProgram
from halfsafe.windows import Window

NEVER = Cost(10**18, 0, 0)


def random_system(seed: int, columns: int, reach: int = 2, *, sparse: bool = False) -> System:
    """Windows of a few exponents, equations of laws, cuts and ties; some have no solution."""
    random = Random(seed)

    def window() -> Window:
        least = random.choice([-reach, -reach, -reach, -1, 0, 1])
        high = max(random.choice([reach, reach, reach, 1, 0]), least)
        return Window(least + random.randint(0, 1), least, high, random.randint(-reach, reach))

    made = System([Column(window(), random.choice([0, 1, 10, 500])) for _ in range(columns)])
    near = 2 if sparse else columns
    for _ in range(random.randint(0, columns // 2)):
        start = random.randrange(max(columns - near, 1))
        chosen = random.sample(range(start, min(start + near + 1, columns)), random.randint(2, 3))
        row = tuple((i, random.choice([-2, -1, 1, 1])) for i in chosen)
        made.equations.append(row)
    for _ in range(random.randint(columns // 2, columns)):
        far = random.randrange(columns)
        other = min(far + random.randint(1, near), columns - 1)
        end = None if random.random() < 0.3 or other == far else other
        made.cuts.append(Cut(far, end, MUL + random.choice([1, 1, 100])))
    for _ in range(random.randint(0, 2)):
        first, second = random.sample(range(columns), 2)
        made.ties.append(Tie(first, second, 100))
    return made


def solved(system: System, wish: Wish, *, near: bool = False) -> Choice:
    solver = Solver(60.0)
    found = list(solver.apart(system, wish, near=near))
    assert all(part.choice for part in found)
    return joined(system, found)


def only(found: Iterable[Part]) -> Part:
    (part,) = found
    return part


def least(system: System, wish: Wish, reach: int) -> Cost | None:
    """The least cost of all choices there are."""
    spans = (range(-reach, reach + 1) for _ in system.columns)
    costs = (system.cost(k, wish) for k in product(*spans))
    return min((cost for cost in costs if cost), default=None)


@pytest.mark.parametrize("wish", [Wish.HEADROOM, Wish.FIT])
def test_the_cost_is_the_least_of_all_choices(wish):
    with_solution = 0
    for seed in range(60):
        system = random_system(seed, 5)
        expected, found = least(system, wish, reach=2), solved(system, wish).exponents
        assert (found is None) == (expected is None), seed
        if found is not None:
            with_solution += 1
            assert system.cost(found, wish) == expected, seed
    assert with_solution > 20


def test_without_a_solution_the_fewest_bits_are_unresolved_part_by_part():
    for seed in range(20):
        system = random_system(seed, 4)
        found = solved(system, Wish.FIT, near=True).exponents
        assert found is not None
        fits = least(system, Wish.FIT, reach=4)
        wish = Wish.FIT if fits else Wish.NEAR
        assert system.cost(found, wish) == (fits or least(system, wish, reach=4)), seed


def test_parts_cost_level_by_level_what_the_whole_does():
    """HiGHS on all columns at once, and each part by itself."""
    compared = 0
    for seed in range(120):
        system = random_system(seed, 14, reach=5, sparse=True)
        found = solved(system, Wish.FIT).exponents
        bounds = within(system, Wish.FIT)
        whole, late = (None, False) if bounds is None else branched(system, bounds, Wish.FIT, 60.0)
        assert not late
        assert (found is None) == (whole is None), seed
        if found is not None and whole is not None:
            compared += len(parts(system)) > 1
            assert system.cost(found, Wish.FIT) == system.cost(whole, Wish.FIT), seed
    assert compared > 20


def test_a_bound_is_no_more_than_the_least_cost(monkeypatch):
    monkeypatch.setattr(elimination, "NARROW", 30)
    exact = 0
    for seed in range(60):
        system = random_system(seed, 5)
        bounds = within(system, Wish.FIT)
        if bounds is None:
            continue
        ranges = {i: Range(*k) for i, k in enumerate(zip(*bounds, strict=True))}
        bound = Elimination(system, ranges, Wish.FIT, Steps()).bound(lambda: False)
        cost = least(system, Wish.FIT, reach=2)
        assert cost is None or (bound is not None and bound <= cost), seed
        exact += bound == cost
    assert exact > 20


def test_wide_ranges_and_far_jumps_are_counted_too():
    """A Mul shifts by 80 bits at most, and two of them are needed for more."""
    ends = [Column(Window(-100, -100, -100, 200)), Column(Window(-120, -120, 120, 200))]
    system = System([*ends, Column(Window(50, 50, 50, 200))])
    system.cuts = [Cut(0, 1, MUL), Cut(1, 2, MUL)]
    found = solved(system, Wish.FIT)
    assert found.exponents is not None
    assert system.cost(found.exponents, Wish.FIT) == Cost(0, 2 * MUL, 0)
    system.columns[1] = Column(Window(-120, -120, -31, 200))
    assert solved(system, Wish.FIT).exponents is None
    assert solved(system, Wish.FIT, near=True).exponents is not None


def test_the_order_of_parts_does_not_matter():
    for seed in range(40):
        system = random_system(seed, 10, sparse=True)
        split = parts(system)
        forward, backward = Solver(60.0), Solver(60.0)
        first = {tuple(c): only(forward.apart(part, Wish.FIT)) for c, part in split}
        second = {tuple(c): only(backward.apart(part, Wish.FIT)) for c, part in split[::-1]}
        assert {c: p.choice for c, p in first.items()} == {c: p.choice for c, p in second.items()}


def test_what_is_the_same_twice_is_computed_once():
    system = random_system(3, 6)
    twice = System(system.columns * 2, list(system.equations), list(system.cuts), list(system.ties))
    n = len(system.columns)
    twice.equations += [tuple((i + n, f) for i, f in row) for row in system.equations]
    twice.cuts += [
        Cut(c.far + n, None if c.near is None else c.near + n, c.cost) for c in system.cuts
    ]
    twice.ties += [Tie(t.first + n, t.second + n, t.cost) for t in system.ties]
    solver = Solver(60.0)
    choices = [part.choice for part in solver.apart(twice, Wish.FIT, near=True)]
    half = len(choices) // 2
    assert all(a is b for a, b in zip(choices[:half], choices[half:], strict=True))


def knot(width: int) -> System:
    """Columns that are all beside each other, more than tables are made for; one must be cut."""
    columns = [Column(Window(1, 0, 12, 6), 1) for _ in range(width)]
    columns[0] = Column(Window(13, 13, 20, 20), 1)
    cuts = [Cut(a, b, MUL + a) for a in range(width) for b in range(a + 1, width)]
    return System(columns, cuts=cuts)


def test_what_cannot_be_taken_apart_is_branched_on():
    system = knot(9)
    solver = Solver(60.0)
    (part,) = solver.apart(system, Wish.FIT)
    assert part.choice is None
    choice = solver.together(part.system, None, solver.left)
    assert choice.proved
    assert choice.exponents is not None
    cost = system.cost(choice.exponents, Wish.FIT)
    assert cost is not None
    assert cost.inserted == 8 * MUL


def test_a_guess_that_costs_less_than_what_branching_has_found_in_time_is_kept(monkeypatch):
    """Time is up with 20 Muls inserted; the guess has 8."""
    system = knot(9)
    worse = [13, *range(1, 9)]
    guess = [13] + [1] * 8
    monkeypatch.setattr("halfsafe.exponents.choosing.branched", lambda *_: (worse, True))
    monkeypatch.setattr(Solver, "_is_least", lambda *_: False)
    choice = Solver(60.0).together(system, guess, 1.0)
    assert choice == Choice(guess, proved=False)
    choice = Solver(60.0).together(system, worse, 1.0)
    assert choice.exponents == worse
    assert Solver(60.0).together(system, None, 1.0).exponents == worse


def test_room_around_windows_holds_every_choice_that_is_as_good():
    system = System([Column(Window(5, 5, 9, 9)), Column(Window(-9, -9, -5, 0))])
    assert around(system, 2) == ([0, -11], [11, 0])


def test_one_budget_is_shared_out_among_all_that_is_solved(monkeypatch):
    """Branching takes all the time that it is given, of a clock that nothing else moves."""
    now, asked = [0.0], list[float]()

    def slow(system: System, _bounds: Bounds, _wish: Wish, seconds: float):
        asked.append(seconds)
        now[0] += seconds
        return [13] + [1] * (len(system.columns) - 1), True

    monkeypatch.setattr("halfsafe.exponents.choosing.branched", slow)
    both = System(knot(9).columns + knot(8).columns, cuts=list(knot(9).cuts))
    both.cuts += [Cut(c.far + 9, (c.near or 0) + 9, c.cost) for c in knot(8).cuts]
    solver = Solver(60.0, clock=lambda: now[0])
    assert not solver.solve(both, Wish.FIT, 1 / 4).proved
    assert asked == [7.5, 7.5]
    solver.together(knot(9), None, solver.left)
    assert sum(asked) == 60
    assert solver.left == 0


def test_what_highs_rounds_to_something_else_is_no_solution(monkeypatch):
    """A cut that is made by a billionth, and shifts by a bit all the same."""
    monkeypatch.setattr(
        IntegerProgram, "solve", lambda self: np.array([1.0, 0.0] + [1e-9] * (len(self.low) - 2))
    )
    system = System([Column(Window(0, 0, 1, 1))] * 2, equations=[((0, 1), (1, -1))])
    assert branched(system, ([0, 0], [1, 1]), Wish.FIT, 1.0) == (None, True)
