"""Bounds and confidence sequences, held to published figures."""

from __future__ import annotations

import math

import pytest

from services.experiments.analysis import Boundary
from services.experiments.sequential import TUNED_UNITS, anytime, bounds, spent

# Classical bounds after Jennison and Turnbull; those by spending after Lan and DeMets.
PUBLISHED = [
    (Boundary.O_BRIEN_FLEMING, [4.562, 3.226, 2.634, 2.281, 2.040]),
    (Boundary.POCOCK, [2.413] * 5),
    (Boundary.O_BRIEN_FLEMING_SPENDING, [4.877, 3.357, 2.680, 2.290, 2.031]),
    (Boundary.POCOCK_SPENDING, [2.438, 2.427, 2.410, 2.397, 2.386]),
]


@pytest.mark.parametrize(("boundary", "expected"), PUBLISHED)
def test_five_looks_have_the_published_bounds(boundary: Boundary, expected: list[float]) -> None:
    assert [round(bound, 3) for bound in bounds(boundary, 5, 0.05)] == expected


@pytest.mark.parametrize("boundary", list(Boundary))
@pytest.mark.parametrize(("looks", "significance"), [(1, 0.05), (2, 0.01), (20, 0.05), (20, 0.0001), (3, 0.5)])
def test_bounds_spend_the_significance(boundary: Boundary, looks: int, significance: float) -> None:
    found = bounds(boundary, looks, significance)
    assert len(found) == looks
    sums = spent(found)
    assert sums == tuple(sorted(sums))
    assert sums[-1] == pytest.approx(significance, rel=1e-6)


def test_a_single_look_is_the_usual_test() -> None:
    for boundary in Boundary:
        assert bounds(boundary, 1, 0.05)[0] == pytest.approx(1.959964, abs=1e-6)


@pytest.mark.parametrize("units", [2, 100, TUNED_UNITS, 10**9])
@pytest.mark.parametrize("significance", [0.0001, 0.05, 0.5])
def test_a_confidence_sequence_and_its_p_value_agree(units: int, significance: float) -> None:
    wide = anytime(0.0, 1.0, units, significance)
    assert wide.p_value == 1
    half = wide.interval.upper
    assert anytime(half, 1.0, units, significance).p_value == pytest.approx(significance)
    assert anytime(half * 1.01, 1.0, units, significance).interval.lower > 0
    assert anytime(half * 1.01, 1.0, units, significance).p_value < significance


def test_a_confidence_sequence_is_tightest_where_it_is_tuned() -> None:
    # In standard errors: wider than the usual 1.96 everywhere, and least at the tuned number of units.
    halves = {units: anytime(0, 1, units, 0.05).interval.upper for units in (TUNED_UNITS // 10, TUNED_UNITS, TUNED_UNITS * 10)}
    assert min(halves, key=halves.__getitem__) == TUNED_UNITS
    assert all(half > 1.96 for half in halves.values())
    assert math.isfinite(anytime(1e140, 1e-10, 10, 0.05).p_value)
