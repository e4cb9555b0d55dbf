"""A small simulation: false discoveries within their bounds, planted effects found. `make simulate` has the large one."""

from __future__ import annotations

import pytest

from benchmarks.simulate import CASES, SIGNIFICANCE, Case, rate

RIGHT = [case for case in CASES if case.right]
WRONG = [case for case in CASES if not case.right]


def name(case: Case) -> str:
    return case.name


@pytest.mark.parametrize("case", RIGHT, ids=name)
def test_a_right_method_calls_few_differences_where_there_are_none(case: Case) -> None:
    low, _ = rate(case, 0.0, 150).interval(0.99)
    assert low <= SIGNIFICANCE


@pytest.mark.parametrize("case", RIGHT, ids=name)
def test_a_right_method_finds_what_is_planted(case: Case) -> None:
    assert rate(case, case.effect, 30).share > 0.5


@pytest.mark.parametrize("case", WRONG, ids=name)
def test_a_wrong_method_is_shown_to_be_wrong(case: Case) -> None:
    low, _ = rate(case, 0.0, 150).interval(0.99)
    assert low > SIGNIFICANCE
