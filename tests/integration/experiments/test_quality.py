"""AssessQuality over gRPC."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncpg
import grpc
import pytest
from penstock.experiments.v1 import quality_pb2, quality_service_pb2, quality_service_pb2_grpc

if TYPE_CHECKING:
    from tests.integration.experiments.conftest import Service

Request = quality_service_pb2.AssessQualityRequest
Stats = quality_service_pb2.GetQualityStatsRequest


async def test_a_text_is_judged_by_all_criteria_that_apply(service: Service) -> None:
    stub: Any = quality_service_pb2_grpc.QualityServiceStub(service.channel)
    request = Request(
        text="The capital of France is Paris. It has 7 million inhabitants.",
        question="What is the capital of France?",
        contexts=["Paris is the capital of France. The city has 2.1 million inhabitants."],
    )
    assessment = (await stub.AssessQuality(request, timeout=10)).assessment
    assert assessment == (await stub.AssessQuality(request, timeout=10)).assessment
    scores = {one.criterion: one for one in assessment.scores}
    assert list(scores) == sorted(scores)
    assert quality_pb2.QUALITY_CRITERION_ACCURACY not in scores
    grounded = scores[quality_pb2.QUALITY_CRITERION_GROUNDEDNESS]
    assert grounded.state == quality_pb2.QUALITY_STATE_SCORED
    assert 0 < grounded.score < 0.7
    assert grounded.out_of_ten == round(grounded.score * 10, 1)
    assert request.text[grounded.evidence[0].start : grounded.evidence[0].end] == "It has 7 million inhabitants."
    # This service was started without an inference service.
    relevance = scores[quality_pb2.QUALITY_CRITERION_RELEVANCE]
    assert (relevance.state, relevance.reason) == (
        quality_pb2.QUALITY_STATE_ABSTAINED,
        quality_pb2.QUALITY_REASON_SERVICE_UNAVAILABLE,
    )
    assert not relevance.HasField("score")
    assert (assessment.language, assessment.formula_version) == ("en", 1)


async def test_bad_requests_are_refused(service: Service) -> None:
    stub: Any = quality_service_pb2_grpc.QualityServiceStub(service.channel)
    for request in (
        Request(),
        Request(text="a" * 65537),
        Request(text="a", language="in English"),
        Request(text="a", criteria=[quality_pb2.QUALITY_CRITERION_UNSPECIFIED]),
        Request(text="a", criteria=[quality_pb2.QualityCriterion.ValueType(99)]),
        Request(text="a", contexts=[""]),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.AssessQuality(request, timeout=10)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_recorded_scores_are_counted_exactly(service: Service, database_url: str) -> None:
    stub: Any = quality_service_pb2_grpc.QualityServiceStub(service.channel)
    means: dict[tuple[str, int], list[float]] = {}
    for index in range(12):
        origin = quality_pb2.QualityOrigin(model="ab"[index % 2], prompt="p@1", variant=f"e1/{'xyz'[index % 3]}")
        text = "The train leaves the old town at noon from platform nine. " * (1 + index % 3)
        request = Request(text=text, assessment=f"a{index}", origin=origin)
        response = await stub.AssessQuality(request, timeout=10)
        assert response.recorded
        for one in response.assessment.scores:
            if one.HasField("score"):
                means.setdefault((origin.model, one.criterion), []).append(one.score)
    again = await stub.AssessQuality(Request(text="Something else.", assessment="a0"), timeout=10)
    assert not again.recorded

    by_model = Stats(grouping=quality_pb2.QUALITY_GROUPING_MODEL)
    found = (await stub.GetQualityStats(by_model, timeout=30)).statistics
    got = {(one.group, one.criterion): (one.scored, one.mean) for one in found if one.scored}
    assert got == {key: (len(values), pytest.approx(sum(values) / len(values))) for key, values in means.items()}
    abstained = [one for one in found if one.criterion == quality_pb2.QUALITY_CRITERION_RELEVANCE]
    assert [(one.group, one.scored, one.abstained, one.HasField("mean")) for one in abstained] == [
        ("a", 0, 6, False),
        ("b", 0, 6, False),
    ]
    assert {one.trend_missing for one in found} == {quality_pb2.QUALITY_TREND_MISSING_TOO_FEW_DAYS}
    one = (await stub.GetQualityStats(Stats(model="a", variant="e1/x"), timeout=30)).statistics
    assert {statistic.scored + statistic.abstained for statistic in one} == {2}
    assert not (await stub.GetQualityStats(Stats(model="c"), timeout=30)).statistics

    # Assessments of earlier days: the database's own clock says when one was recorded.
    connection = await asyncpg.connect(database_url)
    await connection.execute("SET search_path = experiments")
    await connection.execute(
        "UPDATE quality_assessments SET assess_time = assess_time - make_interval(days => substr(assessment, 2)::int)"
    )
    await connection.close()
    days = (await stub.GetQualityStats(Stats(), timeout=30)).statistics
    repeated = next(one for one in days if one.criterion == quality_pb2.QUALITY_CRITERION_REPETITION)
    assert [day.scored for day in repeated.days] == [1] * 12
    assert [day.day for day in repeated.days] == sorted(day.day for day in repeated.days)
    assert repeated.HasField("trend")
    assert repeated.trend.lower <= repeated.trend.slope <= repeated.trend.upper
    assert 0 <= repeated.trend.p_value <= 1
    few = (await stub.GetQualityStats(Stats(days=5), timeout=30)).statistics
    assert {one.scored + one.abstained for one in few} == {5}


async def test_what_was_recorded_survives_a_kill(service: Service) -> None:
    stub: Any = quality_service_pb2_grpc.QualityServiceStub(service.channel)
    assert (await stub.AssessQuality(Request(text="A text.", assessment="kept"), timeout=10)).recorded
    await service.kill()
    await service.start()
    assert not (await stub.AssessQuality(Request(text="A text.", assessment="kept"), timeout=10, wait_for_ready=True)).recorded
    statistics = (await stub.GetQualityStats(Stats(), timeout=30)).statistics
    assert {one.scored + one.abstained for one in statistics} == {1}
