"""From evidence to verdicts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from services.experiments.analysis import (
    Comparison,
    Direction,
    Effect,
    Evidence,
    Kind,
    Look,
    Method,
    Metric,
    Moments,
    Plan,
    Question,
    Role,
    SampleRatio,
    Uncomputable,
    Verdict,
)
from services.experiments.conclusions import analyse
from services.experiments.sequential import bounds

QUALITY = Metric("quality", role=Role.PRIMARY)
SECONDS = Metric("seconds", Direction.DECREASE, role=Role.GUARDRAIL)
CLICKS = Metric("clicks", kind=Kind.PROPORTION)


def arm(mean: float, units: int = 2000, deviation: float = 1.0) -> Moments:
    """Units with one outcome each."""
    squares = deviation**2 * (units - 1)
    return Moments(units, mean, squares, mean, 1.0, squares, 0.0, 0.0, 0.0, 1.0)


def question(metric: Metric, difference: float, plan: Plan | None = None, **changes: Any) -> Question:
    evidence = Evidence({("a", metric.metric): arm(10.0), ("b", metric.metric): arm(10.0 + difference)})
    asked = Question(
        weights={"a": 1, "b": 1},
        exposed={"a": 2000, "b": 2000},
        metrics=(metric,),
        plan=plan or Plan(),
        evidence=evidence,
        look=0,
        seen=Evidence(),
        finished=False,
    )
    return replace(asked, **changes)


def only(asked: Question) -> Comparison:
    (comparison,) = analyse(asked).comparisons
    return comparison


@pytest.mark.parametrize(
    ("metric", "difference", "verdict"),
    [
        (QUALITY, 0.3, Verdict.BETTER),
        (QUALITY, -0.3, Verdict.WORSE),
        (SECONDS, 0.3, Verdict.WORSE),
        (SECONDS, -0.3, Verdict.BETTER),
        (QUALITY, 0.02, Verdict.INCONCLUSIVE),
        (replace(QUALITY, minimal_effect=1.0), 0.3, Verdict.EQUIVALENT),
        (replace(QUALITY, minimal_effect=1.0), 0.02, Verdict.EQUIVALENT),
        (replace(QUALITY, minimal_effect=0.2), 0.3, Verdict.BETTER),
    ],
)
def test_verdicts_follow_direction_and_minimal_effect(metric: Metric, difference: float, verdict: Verdict) -> None:
    found = only(question(metric, difference))
    assert found.verdict is verdict
    assert found.decided_by is Method.ALWAYS_VALID
    assert (found.adjusted_p_value is None) is (metric.role is Role.GUARDRAIL)


def test_always_valid_needs_more_than_one_look_would() -> None:
    found = only(question(QUALITY, 0.07))
    assert isinstance(found.effect, Effect)
    assert found.effect.p_value < 0.05
    assert found.verdict is Verdict.INCONCLUSIVE


def test_a_fixed_horizon_decides_at_its_end_only() -> None:
    asked = question(QUALITY, 0.07, Plan(Method.FIXED_HORIZON))
    assert only(asked).verdict is Uncomputable.NOT_FINISHED
    assert only(replace(asked, finished=True)).verdict is Verdict.BETTER


def test_looks_decide_on_what_was_seen_by_then() -> None:
    plan = Plan(duration=100)
    asked = question(QUALITY, 0.5, plan)
    early = only(asked)
    assert (early.look, early.verdict) == (Uncomputable.NO_LOOK_YET, Uncomputable.NO_LOOK_YET)
    seen = Evidence({("a", "quality"): arm(10.0), ("b", "quality"): arm(10.0)})
    undecided = only(replace(asked, look=2, seen=seen))
    assert undecided.verdict is Verdict.INCONCLUSIVE
    decided = only(replace(asked, look=2, seen=asked.evidence))
    assert decided.verdict is Verdict.BETTER
    look = decided.look
    assert isinstance(look, Look)
    assert look.crossed
    assert look.bound == bounds(plan.boundary, 5, 0.05)[1]
    assert 0 < look.spent < 0.1
    assert decided.adjusted_p_value is None
    last = only(replace(asked, look=5, seen=seen)).look
    assert isinstance(last, Look)
    assert last.spent == pytest.approx(1, rel=1e-6)
    assert only(replace(asked, look=1)).look is Uncomputable.TOO_FEW_UNITS


def test_looks_are_for_primary_metrics_and_shared_among_them() -> None:
    metrics = (QUALITY, Metric("other", role=Role.PRIMARY), SECONDS)
    moments = {(variant, metric.metric): arm(10.0) for variant in ("a", "b", "c") for metric in metrics}
    asked = question(
        QUALITY,
        0,
        Plan(duration=1),
        weights={"a": 1, "b": 1, "c": 1},
        exposed={"a": 9, "b": 9, "c": 9},
        metrics=metrics,
        evidence=Evidence(moments),
        seen=Evidence(moments),
        look=5,
    )
    found = analyse(asked).comparisons
    assert [(one.variant, one.metric) for one in found] == [(v, m.metric) for v in ("b", "c") for m in metrics]
    for one in found:
        if one.role is Role.PRIMARY:
            assert isinstance(one.look, Look)
            assert one.look.bound == bounds(Plan().boundary, 5, 0.05 / 4)[4]
            assert one.look.spent == pytest.approx(1, rel=1e-6)
        else:
            assert one.look is None
            assert one.decided_by is Method.ALWAYS_VALID


def test_secondary_metrics_are_corrected_and_guardrails_are_not() -> None:
    metrics = tuple(Metric(f"m{number}") for number in range(4))
    moments = {("a", metric.metric): arm(10.0) for metric in metrics} | {
        ("b", metric.metric): arm(10.0 + difference) for metric, difference in zip(metrics, (0.07, 0.05, 0.0, 0.0), strict=True)
    }
    asked = question(CLICKS, 0, Plan(Method.FIXED_HORIZON), metrics=metrics, evidence=Evidence(moments), finished=True)
    first, second, *_ = analyse(asked).comparisons
    assert isinstance(first.effect, Effect)
    assert first.adjusted_p_value == pytest.approx(4 * first.effect.p_value)
    assert (first.verdict, second.verdict) == (Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE)
    guarded = replace(asked, metrics=tuple(replace(metric, role=Role.GUARDRAIL) for metric in metrics))
    first, *_ = analyse(guarded).comparisons
    assert first.adjusted_p_value is None
    assert first.verdict is Verdict.BETTER


@pytest.mark.parametrize("plan", [Plan(), Plan(Method.FIXED_HORIZON), Plan(duration=1)])
def test_a_sample_ratio_mismatch_stops_all_verdicts(plan: Plan) -> None:
    asked = question(QUALITY, 5.0, plan, finished=True, look=5, exposed={"a": 2000, "b": 1700})
    asked = replace(asked, seen=asked.evidence)
    found = analyse(asked)
    assert isinstance(found.sample_ratio, SampleRatio)
    assert found.sample_ratio.mismatch
    assert found.comparisons[0].verdict is Uncomputable.SAMPLE_RATIO_MISMATCH
    assert isinstance(found.comparisons[0].effect, Effect)
    agreed = analyse(replace(asked, exposed={"a": 2000, "b": 1950}))
    assert agreed.comparisons[0].verdict is Verdict.BETTER


@pytest.mark.parametrize(
    ("moments", "missing"),
    [
        ({}, Uncomputable.TOO_FEW_UNITS),
        ({("a", "clicks"): arm(0.5)}, Uncomputable.TOO_FEW_UNITS),
        ({("a", "clicks"): arm(0.5), ("b", "clicks"): arm(0.5, units=1)}, Uncomputable.TOO_FEW_UNITS),
        ({("a", "clicks"): None, ("b", "clicks"): arm(0.5)}, Uncomputable.VALUE_TOO_LARGE),
        ({("a", "clicks"): arm(0.5), ("b", "clicks"): replace(arm(0.5), highest=2)}, Uncomputable.VALUE_OUT_OF_RANGE),
        ({("a", "clicks"): arm(0.5, deviation=0), ("b", "clicks"): arm(0.6, deviation=0)}, Uncomputable.NO_VARIANCE),
    ],
)
@pytest.mark.parametrize("plan", [Plan(), Plan(Method.FIXED_HORIZON)])
def test_what_cannot_be_computed_says_why(
    moments: dict[tuple[str, str], Moments | None], missing: Uncomputable, plan: Plan
) -> None:
    found = only(question(CLICKS, 0, plan, evidence=Evidence(moments)))
    assert (found.effect, found.verdict, found.anytime, found.adjusted_p_value) == (missing, missing, None, None)


def test_the_plan_places_its_looks() -> None:
    plan = Plan(duration=100, looks=4)
    assert [plan.look_at(seconds) for seconds in (0, 24.9, 25, 74, 75, 100, 1e9)] == [0, 0, 1, 2, 3, 4, 4]
    assert Plan().look_at(1e9) == 0
    assert (Plan().effective_method, plan.effective_method) == (Method.ALWAYS_VALID, Method.GROUP_SEQUENTIAL)
    assert Plan(Method.FIXED_HORIZON, duration=5).effective_method is Method.FIXED_HORIZON
