"""What an experiment shows, over gRPC: effects, looks, the sample ratio, reasons, and the power of a plan."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from penstock.assignment import assignment_key
from penstock.experiments.v1 import (
    assignment_pb2,
    assignment_service_pb2,
    experiment_pb2,
    outcome_pb2,
    outcome_service_pb2,
    result_pb2,
    result_service_pb2,
)
from scipy import stats

from tests.integration.experiments.test_experiments_service import refusal

if TYPE_CHECKING:
    from tests.integration.experiments.conftest import Service

Metric = experiment_pb2.Metric
Plan = experiment_pb2.AnalysisPlan


async def record(service: Service, metric: str, values: dict[str, list[list[float]]]) -> None:
    """Outcomes by variant and unit."""
    batch = [
        outcome_pb2.Outcome(
            outcome=f"{metric}-{variant}-{unit}-{number}",
            assignment=assignment_key("e1", variant, f"{variant}{unit}"),
            metric=metric,
            value=value,
        )
        for variant, units in values.items()
        for unit, outcomes in enumerate(units)
        for number, value in enumerate(outcomes)
    ]
    for start in range(0, len(batch), 1000):
        await service.outcomes.RecordOutcomes(
            outcome_service_pb2.RecordOutcomesRequest(outcomes=batch[start : start + 1000]), timeout=10
        )


async def expose(service: Service, units: dict[str, int]) -> None:
    """So many different units of each variant."""
    exposures = [
        assignment_pb2.Exposure(
            exposure=f"{variant}{unit}",
            assignment=assignment_pb2.Assignment(
                assignment=assignment_key("e1", variant, f"{variant}{unit}"), experiment="e1", variant=variant
            ),
            unit_id=f"{variant}{unit}",
        )
        for variant, count in units.items()
        for unit in range(count)
    ]
    batches = [
        assignment_service_pb2.RecordExposuresRequest(exposures=exposures[start : start + 1000])
        for start in range(0, len(exposures), 1000)
    ]
    await service.assignments.RecordExposures(iter(batches), timeout=10)


async def results(service: Service) -> result_service_pb2.GetResultsResponse:
    request = result_service_pb2.GetResultsRequest(experiment="e1")
    found: result_service_pb2.GetResultsResponse = await service.results.GetResults(request, timeout=30)
    return found


async def test_effects_against_the_control(service: Service) -> None:
    source = random.Random(5)  # noqa: S311 - it must be repeatable, not secret
    await service.create(
        metrics=[
            Metric(metric="score", role=experiment_pb2.METRIC_ROLE_PRIMARY, minimal_effect=0.1),
            Metric(metric="seconds", kind=experiment_pb2.METRIC_KIND_RATIO, direction=experiment_pb2.DIRECTION_DECREASE),
            Metric(metric="unseen"),
        ],
        analysis=Plan(method=experiment_pb2.ANALYSIS_METHOD_FIXED_HORIZON),
    )
    scores = {variant: [[source.gauss(mean, 1)] for _ in range(200)] for variant, mean in (("a", 5.0), ("b", 5.6))}
    await record(service, "score", scores)
    seconds = {variant: [[source.expovariate(1) for _ in range(1 + unit % 4)] for unit in range(50)] for variant in "ab"}
    await record(service, "seconds", seconds)
    await expose(service, {"a": 200, "b": 200})
    running = await results(service)
    assert (running.control, running.sample_ratio.state) == ("a", result_pb2.SAMPLE_RATIO_STATE_MATCH)
    score, ratio, unseen = running.comparisons
    control, variant = ([values[0] for values in scores[one]] for one in "ab")
    expected = stats.ttest_ind(variant, control, equal_var=False)
    interval = expected.confidence_interval()
    assert score.effect.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert (score.effect.interval.lower, score.effect.interval.upper) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert score.anytime_interval.lower < score.effect.interval.lower
    assert score.effect.relative == pytest.approx(score.effect.difference / running.variants[0].metrics[0].estimate)
    assert score.verdict_missing == result_pb2.UNCOMPUTABLE_NOT_FINISHED
    measured = running.variants[1].metrics[1]
    assert measured.estimate == pytest.approx(measured.mean)
    assert ratio.HasField("effect")
    assert (unseen.effect_missing, unseen.HasField("effect")) == (result_pb2.UNCOMPUTABLE_TOO_FEW_UNITS, False)
    await service.stop_experiment("e1")
    score = (await results(service)).comparisons[0]
    assert (score.verdict, score.verdict_missing) == (result_pb2.VERDICT_BETTER, 0)
    assert score.adjusted_p_value == pytest.approx(expected.pvalue, rel=1e-9)


async def test_a_mismatch_of_the_sample_ratio_withholds_verdicts(service: Service) -> None:
    await service.create()
    await record(service, "clicks", {"a": [[0.0], [0.1]] * 50, "b": [[5.0], [5.1]] * 50})
    await expose(service, {"a": 300, "b": 200})
    found = await results(service)
    assert found.sample_ratio.state == result_pb2.SAMPLE_RATIO_STATE_MISMATCH
    assert found.sample_ratio.p_value < 0.001
    assert found.comparisons[0].verdict_missing == result_pb2.UNCOMPUTABLE_SAMPLE_RATIO_MISMATCH
    assert found.comparisons[0].effect.difference == pytest.approx(5)


async def test_looks_come_with_time(service: Service) -> None:
    plan = Plan(looks=2, boundary=experiment_pb2.BOUNDARY_POCOCK)
    plan.duration.FromSeconds(6)
    primary = Metric(metric="score", role=experiment_pb2.METRIC_ROLE_PRIMARY)
    created = await service.create(metrics=[primary], analysis=plan)
    assert created.analysis.method == experiment_pb2.ANALYSIS_METHOD_GROUP_SEQUENTIAL
    assert created.analysis.duration.seconds == 6
    await record(service, "score", {"a": [[0.0], [1.0]] * 40, "b": [[2.0], [3.0]] * 40})
    (early,) = (await results(service)).comparisons
    assert (early.look_missing, early.verdict_missing) == (result_pb2.UNCOMPUTABLE_NO_LOOK_YET,) * 2
    await asyncio.sleep(3.2)
    await record(service, "score", {"b": [[float(number)] for number in range(100, 140)]})
    (seen,) = (await results(service)).comparisons
    assert (seen.look.look, seen.look.looks, seen.look.crossed) == (1, 2, True)
    assert seen.look.bound == pytest.approx(2.178, abs=0.001)
    # What came after the look does not count for it.
    assert seen.look.interval.lower < 2 < seen.look.interval.upper < 10
    assert seen.verdict == result_pb2.VERDICT_BETTER


async def test_a_draft_has_no_analysis(service: Service) -> None:
    await service.create(start=False)
    found = await results(service)
    assert found.analysis_missing == result_pb2.UNCOMPUTABLE_NOT_STARTED
    assert [variant.variant for variant in found.variants] == ["a", "b"]
    assert not found.comparisons


async def test_extreme_outcomes_have_reasons(service: Service) -> None:
    await service.create(metrics=[Metric(metric="m"), Metric(metric="p", kind=experiment_pb2.METRIC_KIND_PROPORTION)])
    await record(service, "m", {"a": [[1e290], [-1e290]], "b": [[1.0], [2.0]]})
    await record(service, "p", {"a": [[0.0], [2.0]], "b": [[1.0], [0.0]]})
    large, outside = (await results(service)).comparisons
    assert large.effect_missing == result_pb2.UNCOMPUTABLE_VALUE_TOO_LARGE
    assert outside.effect_missing == result_pb2.UNCOMPUTABLE_VALUE_OUT_OF_RANGE


def children_of(process_id: int) -> list[str]:
    return Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()


async def results_without_the_child(service: Service, process_id: int) -> result_service_pb2.GetResultsResponse:
    """Results whose analysis dies on the way."""
    for pause in (0.3, 1.0, 3.0, 6.0):
        (child,) = children_of(process_id)
        os.kill(int(child), signal.SIGSTOP)
        asked = asyncio.create_task(results(service))
        # On a busy machine the question may come after the child's end, and then another child answers it.
        await asyncio.sleep(pause)
        os.kill(int(child), signal.SIGKILL)
        found = await asked
        if found.analysis_missing:
            return found
    pytest.fail("no question was on its way when its child died")


async def test_counts_stand_without_their_analysis(service: Service) -> None:
    await service.create()
    await record(service, "clicks", {"a": [[1.0], [0.0]], "b": [[1.0], [0.0]]})
    assert (await results(service)).comparisons
    assert service.process is not None
    found = await results_without_the_child(service, service.process.pid)
    assert found.analysis_missing == result_pb2.UNCOMPUTABLE_ANALYSIS_FAILED
    assert found.variants[0].metrics[0].outcomes == 2
    for _ in range(5):  # as the failure says: ask again
        if (await results(service)).comparisons:
            return
        await asyncio.sleep(1)
    pytest.fail("the analysis never came back")


def power(**fields: Any) -> result_service_pb2.ComputePowerRequest:
    return result_service_pb2.ComputePowerRequest(**fields)


async def test_the_power_of_a_plan(service: Service) -> None:
    found = await service.results.ComputePower(power(standard_deviation=1, minimal_effect=0.2), timeout=30)
    assert (round(found.units_control, 2), found.units, round(found.power, 9)) == (393.41, 788, 0.8)
    found = await service.results.ComputePower(power(baseline=0.1, units=1000, ratio=2, significance=0.01), timeout=30)
    assert found.units_variant == 2000
    again = power(baseline=0.1, units=1000, ratio=2, significance=0.01, minimal_effect=found.minimal_effect)
    assert (await service.results.ComputePower(again, timeout=30)).power == pytest.approx(0.8)


BAD_QUESTIONS = [
    (power(standard_deviation=1), ""),
    (power(standard_deviation=1, units=5, minimal_effect=1, power=0.5), ""),
    (power(units=5), "spread"),
    (power(standard_deviation=-1, units=5), "standard_deviation"),
    (power(standard_deviation=float("nan"), units=5), "standard_deviation"),
    (power(baseline=1, units=5), "baseline"),
    (power(baseline=0.5, minimal_effect=0.5), "minimal_effect"),
    (power(baseline=0.5, units=1), "units"),
]
BAD_PLANS: list[tuple[dict[str, Any], str]] = [
    ({"analysis": Plan(method=experiment_pb2.ANALYSIS_METHOD_GROUP_SEQUENTIAL)}, "experiment.analysis"),
    ({"analysis": Plan(significance=0)}, "experiment.analysis.significance"),
    ({"analysis": Plan(looks=21)}, "experiment.analysis.looks"),
    ({"metrics": [Metric(metric="m", kind=77)]}, "experiment.metrics[0].kind"),  # type: ignore[arg-type]  # no such kind
    ({"metrics": [Metric(metric="m", minimal_effect=-1)]}, "experiment.metrics[0].minimal_effect"),
]


async def test_questions_and_plans_that_make_no_sense_are_refused_by_field(service: Service) -> None:
    for question, field in BAD_QUESTIONS:
        code, reason, metadata, message = await refusal(service.results.ComputePower(question, timeout=30))
        assert (code, reason, metadata.get("field", "")) == ("INVALID_ARGUMENT", "INVALID_FIELD", field), message
    for fields, field in BAD_PLANS:
        code, reason, metadata, message = await refusal(service.create(**fields))
        assert (code, reason, metadata["field"]) == ("INVALID_ARGUMENT", "INVALID_FIELD", field), message
