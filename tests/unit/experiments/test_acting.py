"""What the service does by itself."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from penstock.assignment import Arm, Unit

from services.experiments.acting import Actor, advance_when_due, breaches, is_clean
from services.experiments.analysis import (
    Analysis,
    Anytime,
    Comparison,
    Direction,
    Interval,
    Method,
    Metric,
    Role,
    SampleRatio,
    Uncomputable,
    Verdict,
)
from services.experiments.analyst import Analyst
from services.experiments.experiments import Design, Experiment, Ramp, State
from services.experiments.lifecycle import Experiments
from services.experiments.outcomes import Asked, Assigned, Measurement, Outcomes
from services.experiments.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ERRORS = Metric("errors", Direction.DECREASE, role=Role.GUARDRAIL)
RATING = Metric("rating", Direction.INCREASE, role=Role.GUARDRAIL, minimal_effect=0.1)


def experiment(*metrics: Metric, **changes: object) -> Experiment:
    design = Design("e", "", Unit.USER, (Arm("a", 1), Arm("b", 1)), metrics, ramp=Ramp((0.1, 0.5, 1.0), 60))
    now = datetime.now(UTC)
    base = Experiment(design, State.RUNNING, 1, "s", now, now, traffic=0.1, stage_time=now - timedelta(seconds=61))
    return replace(base, **changes)  # type: ignore[arg-type]  # as the test names them


def analysis(metric: Metric, lower: float, upper: float, p_of_split: float = 0.5) -> Analysis:
    one = Comparison(
        variant="b",
        metric=metric.metric,
        role=metric.role,
        effect=Uncomputable.TOO_FEW_UNITS,
        anytime=Anytime(Interval(lower, upper), 0.01),
        look=None,
        adjusted_p_value=None,
        decided_by=Method.ALWAYS_VALID,
        verdict=Verdict.INCONCLUSIVE,
    )
    return Analysis(SampleRatio(1.0, p_of_split), {}, (one,))


@pytest.mark.parametrize(
    ("metric", "lower", "upper", "breached"),
    [
        (ERRORS, 0.01, 0.2, True),
        (ERRORS, -0.01, 0.2, False),
        (ERRORS, -0.2, -0.01, False),
        (RATING, -0.5, -0.01, True),
        (RATING, -0.09, -0.01, False),
        (RATING, -0.5, 0.01, False),
        (Metric("rating", Direction.INCREASE, role=Role.SECONDARY), -0.5, -0.01, False),
    ],
)
def test_a_breach_is_surely_worse(metric: Metric, lower: float, upper: float, breached: bool) -> None:
    found = breaches(experiment(metric), analysis(metric, lower, upper))
    assert [breach.variant for breach in found] == ["b"] * breached
    assert all("guardrail" in breach.why and f"{lower:g}" in breach.why for breach in found)
    assert breaches(experiment(metric, paused=("b",)), analysis(metric, lower, upper)) == []


def test_a_ramp_needs_a_split_to_trust_and_measured_guardrails() -> None:
    good = analysis(ERRORS, -0.1, 0.1)
    assert is_clean(experiment(ERRORS), good)
    assert not is_clean(experiment(ERRORS), analysis(ERRORS, -0.1, 0.1, p_of_split=0.0001))
    assert not is_clean(experiment(ERRORS), analysis(ERRORS, 0.01, 0.1))
    unmeasured = replace(good, comparisons=(replace(good.comparisons[0], anytime=None),))
    assert not is_clean(experiment(ERRORS), unmeasured)
    assert not is_clean(experiment(ERRORS, paused=("b",)), good)


def test_a_stage_lasts_as_long_as_it_says() -> None:
    due = advance_when_due(experiment(), ())
    assert (due.experiment.traffic, due.what) == (0.5, "traffic 0.1 -> 0.5")
    assert advance_when_due(due.experiment, ()).experiment == due.experiment
    for early in (
        experiment(stage_time=datetime.now(UTC)),
        experiment(state=State.PAUSED),
        experiment(traffic=1.0),
    ):
        assert advance_when_due(early, ()).experiment == early


@pytest.fixture
async def analyst() -> AsyncIterator[Analyst]:
    one = Analyst()
    yield one
    await one.close()


async def test_errors_of_one_variant_pause_it_and_stop_the_ramp(analyst: Analyst) -> None:
    store = MemoryStore()
    experiments, outcomes = Experiments(store), Outcomes(store)
    design = Design("e", "", Unit.USER, (Arm("a", 1), Arm("b", 1)), (ERRORS,), ramp=Ramp((0.9, 1.0), 0.001))
    await experiments.create(design)
    await experiments.start("e")
    actor = Actor(store, analyst, 60.0)
    await actor.act(await experiments.get("e"))
    assert (await experiments.get("e")).traffic == 0.9, "nothing is measured yet"
    for number in range(3000):
        [assigned] = await outcomes.assign([Asked("e", f"u{number}", {})], f"r{number}")
        if isinstance(assigned, Assigned):
            failed = number % 10 < (6 if assigned.arm.variant == "b" else 2)
            await outcomes.record_outcomes([Measurement(f"o{number}", assigned.key, "errors", float(failed))])
    await actor.act(await experiments.get("e"))
    found = await experiments.get("e")
    assert found.paused == ("b",)
    assert found.traffic == 0.9
    changes = (await experiments.changes("e", 10, 0)).changes
    assert (changes[-1].author.who, changes[-1].what) == ("penstock", "variant b paused")
    assert changes[-1].author.why.startswith("guardrail errors")
    await actor.act(found)
    assert await experiments.get("e") == found
    await experiments.start("e", variant="b")
    await actor.act(await experiments.get("e"))
    assert (await experiments.get("e")).paused == ("b",)
