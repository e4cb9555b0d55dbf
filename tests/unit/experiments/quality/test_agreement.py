"""Cohen's kappa."""

from __future__ import annotations

import pytest

from services.experiments.quality.agreement import cohens_kappa


def test_it_is_as_published() -> None:
    # The usual worked example: 20 both yes, 15 both no, 5 and 10 apart: observed .70, by chance .50.
    one = ["yes"] * 25 + ["no"] * 25
    other = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert cohens_kappa(one, other) == pytest.approx(0.4)


def test_its_ends_and_where_it_is_not_defined() -> None:
    assert cohens_kappa([1, 0, 1, 0], [1, 0, 1, 0]) == 1
    assert cohens_kappa([1, 0], [0, 1]) == -1
    assert cohens_kappa([1, 1], [1, 1]) is None
    assert cohens_kappa([], []) is None
    with pytest.raises(ValueError, match="verdicts"):
        cohens_kappa([1], [])
