"""Every law is exact, and none is weaker than it should be."""

import pytest
import torch

from halfsafe.rules.aten import LAWS
from tests.case import Case, laws, parse, random_exponents, rank, unknowns
from tests.cases_aten import CASES


@pytest.mark.parametrize("case", CASES, ids=str)
def test_op_of_stored_operands_is_bit_equal_to_stored_op(case: Case):
    graph, _, _ = case.graph()
    expected = case.stored({})
    for seed in range(5):
        k = random_exponents(laws(graph), unknowns(graph), seed)
        for i, (found, real) in enumerate(zip(case.stored(k), expected, strict=True)):
            if not isinstance(real, torch.Tensor):
                assert found == real, f"{case} is not exact at {k}"
                continue
            shift = k.get("out" if len(expected) == 1 else f"out.{i}", 0)
            back = torch.ldexp(found, torch.tensor(shift)) if shift else found
            assert torch.equal(torch.nan_to_num(back), torch.nan_to_num(real)), (
                f"{case} is not exact at {k}: {back}, expected {real}"
            )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_law_states_the_expected_equations(case: Case):
    graph, _, _ = case.graph()
    stated = laws(graph)
    expected = [parse(e) for e in case.expected]
    columns = sorted({c for row in stated + expected for c in row} | set(unknowns(graph)))
    both = rank(stated + expected, columns)
    assert rank(stated, columns) == rank(expected, columns) == both, (
        f"{case} states {stated}, expected {case.expected}"
    )


def test_every_law_has_a_case():
    assert sorted(set(LAWS) - {case.op for case in CASES}) == []
