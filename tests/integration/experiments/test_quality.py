"""AssessQuality over gRPC."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from penstock.experiments.v1 import quality_pb2, quality_service_pb2, quality_service_pb2_grpc

if TYPE_CHECKING:
    from tests.integration.experiments.conftest import Service

Request = quality_service_pb2.AssessQualityRequest


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
