"""Texts judged over gRPC and REST, relevance by the suite's own embedder."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest
from penstock.experiments.v1 import quality_pb2, quality_service_pb2

from tests.e2e.faces import Face, Grpc, Refused, Rest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.suite import Suite


@pytest.fixture(params=[Grpc, Rest], ids=["grpc", "rest"])
def face(request: pytest.FixtureRequest, suite: Suite) -> Iterator[Face]:
    face = request.param(suite.grpc if request.param is Grpc else suite.url)
    yield face
    face.close()


def relevance(face: Face, text: str, question: str) -> quality_pb2.QualityScore:
    request = quality_service_pb2.AssessQualityRequest(text=text, question=question)
    response = face.call("AssessQuality", request)
    assert isinstance(response, quality_service_pb2.AssessQualityResponse)
    assert all(
        one.HasField("score") == (one.state == quality_pb2.QUALITY_STATE_SCORED) and 0 <= one.score <= 1
        for one in response.assessment.scores
    )
    return next(one for one in response.assessment.scores if one.criterion == quality_pb2.QUALITY_CRITERION_RELEVANCE)


def test_an_answer_is_more_relevant_than_another_text(face: Face) -> None:
    question = "How do plants make sugar from light?"
    answer = relevance(face, "Plants use sunlight to turn water and carbon dioxide into sugar.", question)
    other = relevance(face, "The football match ended in a draw after extra time.", question)
    assert answer.state == other.state == quality_pb2.QUALITY_STATE_SCORED
    assert answer.score > 0.7
    assert other.score < 0.2
    assert other.suggestions
    russian = relevance(face, "Растения делают сахар из света.", "Как растения делают сахар?")
    assert russian.reason == quality_pb2.QUALITY_REASON_LANGUAGE_UNSUPPORTED


def test_a_text_is_needed(face: Face) -> None:
    with pytest.raises(Refused) as caught:
        face.call("AssessQuality", quality_service_pb2.AssessQualityRequest())
    assert (caught.value.code, caught.value.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")


def test_recorded_scores_are_counted(face: Face) -> None:
    model = f"model-{uuid.uuid4().hex}"
    for index in range(2):
        request = quality_service_pb2.AssessQualityRequest(
            text="Plants use sunlight to turn water and air into sugar.",
            assessment=f"{model}/{index}",
            origin=quality_pb2.QualityOrigin(model=model),
        )
        assert face.call("AssessQuality", request).recorded
    asked = quality_service_pb2.GetQualityStatsRequest(model=model, grouping=quality_pb2.QUALITY_GROUPING_MODEL, days=2)
    found = face.call("GetQualityStats", asked).statistics
    assert {(one.group, one.scored + one.abstained) for one in found} == {(model, 2)}
    assert all(one.days and one.mean == one.days[0].mean for one in found if one.scored)
