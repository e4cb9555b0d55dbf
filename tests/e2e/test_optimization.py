"""Tuning how many passages an answer is made from, on the running suite, the same over gRPC and REST."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import penstock
import pytest
from penstock.experiments.v1 import experiment_pb2, experiment_service_pb2, optimization_pb2, optimization_service_pb2
from penstock.retrieval.v1 import collection_pb2, collection_service_pb2, document_pb2, document_service_pb2

from tests.e2e.conftest import GIBBERISH
from tests.e2e.faces import Face, Grpc, Refused, Rest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.suite import Suite

TOPICS = ("warranty", "cleaning", "delivery", "colours")


@pytest.fixture(params=[Grpc, Rest], ids=["grpc", "rest"])
def face(request: pytest.FixtureRequest, suite: Suite) -> Iterator[Face]:
    face = request.param(suite.grpc if request.param is Grpc else suite.url)
    yield face
    face.close()


def test_tuning_top_k_ends_in_a_draft(face: Face) -> None:
    name = f"e2e-{uuid.uuid4().hex[:12]}"
    kept = collection_pb2.Collection(collection=name)
    face.call("CreateCollection", collection_service_pb2.CreateCollectionRequest(collection=kept))
    # Seven documents a topic: with five passages, which are the default, two of them are never found.
    documents = [
        document_pb2.DocumentInput(document=f"{topic}-{part}", text=f"Part {part} of the manual tells all about {topic}.")
        for topic in TOPICS
        for part in range(7)
    ]
    face.call("AddDocuments", document_service_pb2.AddDocumentsRequest(collection=name, documents=documents))
    asked = optimization_pb2.Optimization(
        optimization=name,
        type=optimization_pb2.OPTIMIZATION_TYPE_HYPERPARAMETER_TUNING,
        request_type=experiment_pb2.REQUEST_TYPE_ANSWER,
        collections=[name],
        space=optimization_pb2.SearchSpace(top_k=optimization_pb2.IntegerRange(min=2, max=7), models=["extractive"]),
        cases=[
            optimization_pb2.EvaluationCase(question=f"What about {topic}?", relevant=[f"{topic}-{part}" for part in range(7)])
            for topic in TOPICS
        ],
        objectives=[optimization_pb2.TARGET_METRIC_QUALITY_SCORE, optimization_pb2.TARGET_METRIC_ERROR_RATE],
        trials=6,
        finalists=2,
    )
    made = face.call("CreateOptimization", optimization_service_pb2.CreateOptimizationRequest(optimization=asked)).optimization
    assert made.state == optimization_pb2.OPTIMIZATION_STATE_PENDING
    events = list(face.stream("WatchOptimization", optimization_service_pb2.WatchOptimizationRequest(optimization=name)))
    last = events[-1].finished
    assert (last.state, last.note) == (optimization_pb2.OPTIMIZATION_STATE_SUCCEEDED, "")
    assert (last.finished_count, last.planned_count) == (9, 9)
    best = last.pareto_front[0]
    assert (best.settings.top_k, best.measures.quality_score, best.measures.error_rate) == (7, 1, 0)
    assert last.finals[0].measures.quality_score == pytest.approx(5 / 7)
    assert last.winner == best.trial
    request = experiment_service_pb2.GetExperimentRequest(experiment=last.experiment)
    draft = face.call("GetExperiment", request).experiment
    assert draft.state == experiment_pb2.EXPERIMENT_STATE_DRAFT
    assert (draft.variants[1].top_k, draft.variants[1].model) == (7, "extractive")
    unknown = optimization_service_pb2.GetOptimizationRequest(optimization=f"{name}-unknown")
    with pytest.raises(Refused) as refused:
        face.call("GetOptimization", unknown)
    assert (refused.value.code, refused.value.reason) == ("NOT_FOUND", "OPTIMIZATION_NOT_FOUND")
    listed = face.call("ListOptimizations", optimization_service_pb2.ListOptimizationsRequest(page_size=10)).optimizations
    assert name in [one.optimization for one in listed]
    cancel = optimization_service_pb2.CancelOptimizationRequest(optimization=name)
    assert face.call("CancelOptimization", cancel).optimization == last


def test_prompts_are_tried_by_generation_and_the_client(suite: Suite) -> None:
    name = f"e2e-{uuid.uuid4().hex[:12]}"
    asked = optimization_pb2.Optimization(
        optimization=name,
        type=optimization_pb2.OPTIMIZATION_TYPE_PROMPT,
        request_type=experiment_pb2.REQUEST_TYPE_GENERATE,
        space=optimization_pb2.SearchSpace(
            models=[GIBBERISH],
            prompts=["Be brief.", "Be kind."],
            temperature=optimization_pb2.NumberRange(),
            max_tokens=optimization_pb2.IntegerRange(min=4, max=4),
        ),
        cases=[optimization_pb2.EvaluationCase(question=f"What of the {topic}?", reference=topic) for topic in TOPICS],
        objectives=[optimization_pb2.TARGET_METRIC_ERROR_RATE, optimization_pb2.TARGET_METRIC_RESPONSE_TIME],
    )
    with penstock.Client(suite.url) as client:
        assert client.create_optimization(asked).planned_count == 2 + 1 + 2
        with client.watch_optimization(name) as events:
            last = [event.finished for event in events if event.HasField("finished")][-1]
        assert last.state == optimization_pb2.OPTIMIZATION_STATE_SUCCEEDED, last.note
        tried = [one for one in last.finals if one.trial]
        assert sorted(one.settings.prompt for one in tried) == ["Be brief.", "Be kind."]
        assert {(one.measures.error_rate, one.settings.sampling.max_tokens) for one in tried} == {(0, 4)}
        assert client.get_optimization(name) == last == client.cancel_optimization(name)
        assert name in [one.optimization for one in client.list_optimizations()]
