"""One answer through every room of the house, the same over gRPC and REST."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import struct_pb2
from penstock.experiments.v1 import (
    assignment_service_pb2,
    experiment_pb2,
    experiment_service_pb2,
    outcome_pb2,
    outcome_service_pb2,
    result_service_pb2,
)
from penstock.inference.v1 import embedding_service_pb2, generation_pb2, generation_service_pb2, model_pb2, model_service_pb2
from penstock.retrieval.v1 import (
    answer_service_pb2,
    collection_pb2,
    collection_service_pb2,
    conversation_service_pb2,
    document_pb2,
    document_service_pb2,
    search_pb2,
    search_service_pb2,
)

from tests.e2e.faces import Face, Grpc, Refused, Rest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.suite import Suite

TURBINE = (
    "A penstock is a pipe that brings water from a reservoir to a turbine. The gate at its head is closed for inspection. "
    "In the plant of Kirkwall the penstock is 412 metres long. Its steel is 18 millimetres thick."
)
BRIDGE = "The bridge of Stenness was built in 1859. It carries one lane of traffic over the loch."
RUSSIAN = (
    "Напорный водовод подводит воду к турбине. Длина водовода на станции Нурек составляет 550 метров. "
    "Затвор закрывают на время осмотра."
)
CHINESE = "压力管道把水从水库引到水轮机。三峡电站的压力管道直径为十二点四米。检修时关闭闸门。"


@pytest.fixture(params=[Grpc, Rest], ids=["grpc", "rest"])
def face(request: pytest.FixtureRequest, suite: Suite) -> Iterator[Face]:
    face = request.param(suite.grpc if request.param is Grpc else suite.url)
    yield face
    face.close()


@pytest.fixture
def collection(face: Face) -> Iterator[str]:
    name = f"e2e-{uuid.uuid4().hex[:12]}"
    created = face.call(
        "CreateCollection",
        collection_service_pb2.CreateCollectionRequest(collection=collection_pb2.Collection(collection=name)),
    )
    assert created.collection.collection == name
    assert created.collection.embedder == "all-minilm-l6-v2"
    assert created.collection.dimensions == 384
    yield name
    face.call("DeleteCollection", collection_service_pb2.DeleteCollectionRequest(collection=name))


def add(face: Face, collection: str, **texts: str) -> None:
    metadata = struct_pb2.Struct()
    metadata.update({"shelf": 3})
    documents = [
        document_pb2.DocumentInput(document=name, title=name.title(), text=text, metadata=metadata)
        for name, text in texts.items()
    ]
    added = face.call("AddDocuments", document_service_pb2.AddDocumentsRequest(collection=collection, documents=documents))
    assert [document.state for document in added.documents] == [document_pb2.DOCUMENT_STATE_INDEXED] * len(texts)


def search(face: Face, collection: str, query: str, **more: Any) -> search_service_pb2.SearchResponse:
    response: search_service_pb2.SearchResponse = face.call(
        "Search", search_service_pb2.SearchRequest(collections=[collection], query=query, **more)
    )
    return response


def test_documents_are_found_by_meaning_and_by_words(face: Face, collection: str) -> None:
    add(face, collection, turbine=TURBINE, bridge=BRIDGE)
    for mode in (search_pb2.SEARCH_MODE_HYBRID, search_pb2.SEARCH_MODE_DENSE, search_pb2.SEARCH_MODE_SPARSE):
        found = search(face, collection, "How long is the penstock of Kirkwall?", mode=mode, top_k=1)
        assert found.mode == mode
        assert [hit.document for hit in found.hits] == ["turbine"]
        hit = found.hits[0]
        assert hit.text == TURBINE[hit.start : hit.end]
        assert 0 < hit.relevance <= 1
        assert hit.metadata["shelf"] == 3


@pytest.mark.parametrize(
    ("text", "query"),
    [(RUSSIAN, "Какова длина водовода на станции Нурек?"), (CHINESE, "三峡电站的压力管道直径是多少?")],
    ids=["ru", "zh"],
)
def test_other_languages_are_served_by_words_and_say_so(face: Face, collection: str, text: str, query: str) -> None:
    add(face, collection, bridge=BRIDGE, other=text)
    found = search(face, collection, query, top_k=1)
    assert [hit.document for hit in found.hits] == ["other"]
    assert found.mode == search_pb2.SEARCH_MODE_SPARSE
    assert "all-minilm-l6-v2" in found.mode_note


def test_a_document_is_replaced_kept_and_deleted_at_once(face: Face, collection: str) -> None:
    add(face, collection, d1=TURBINE)
    add(face, collection, d1=BRIDGE)
    request = document_service_pb2.GetDocumentRequest(collection=collection, document="d1")
    document = face.call("GetDocument", request).document
    assert (document.text, document.version) == (BRIDGE, 2)
    assert all("bridge" in hit.text for hit in search(face, collection, "penstock turbine").hits)
    face.call("DeleteDocument", document_service_pb2.DeleteDocumentRequest(collection=collection, document="d1"))
    assert not search(face, collection, "bridge of Stenness").hits
    with pytest.raises(Refused) as gone:
        face.call("GetDocument", request)
    assert (gone.value.code, gone.value.reason) == ("NOT_FOUND", "DOCUMENT_NOT_FOUND")


def test_answer_names_its_sources_and_citations(face: Face, collection: str) -> None:
    add(face, collection, turbine=TURBINE, bridge=BRIDGE)
    answer = face.call(
        "Answer", answer_service_pb2.AnswerRequest(collections=[collection], query="How long is the penstock of Kirkwall?")
    )
    assert "412 metres" in answer.text
    assert answer.finish_reason == generation_pb2.FINISH_REASON_STOP
    assert answer.usage.output_tokens > 0
    assert answer.model
    assert answer.request_id
    cited = {answer.sources[citation.number - 1].document for citation in answer.citations}
    assert "turbine" in cited
    for citation in answer.citations:
        sentence = answer.text[citation.start : citation.end]
        assert sentence
        assert answer.text[citation.end :].lstrip().startswith(f"[{citation.number}]")
        assert 0 <= citation.support <= 1


def test_streamed_answer_opens_with_sources_and_ends_once(face: Face, collection: str) -> None:
    add(face, collection, turbine=TURBINE)
    request = answer_service_pb2.StreamAnswerRequest(collections=[collection], query="What is a penstock?")
    events = list(face.stream("StreamAnswer", request))
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[0] == "sources"
    assert kinds[-1] == "finished"
    assert kinds.count("sources") == kinds.count("finished") == 1
    assert kinds.count("token") > 1
    assert "citation" in kinds
    text = "".join(event.token.text for event in events if event.HasField("token"))
    assert "reservoir" in text
    finished = events[-1].finished
    assert finished.usage.output_tokens > 0
    assert finished.timings.total.ToMicroseconds() >= finished.timings.first_token.ToMicroseconds() > 0


def test_conversation_is_kept_and_really_deleted(face: Face, collection: str) -> None:
    add(face, collection, turbine=TURBINE)
    conversation = f"c-{uuid.uuid4()}"
    for query in ("What is a penstock?", "How thick is its steel?"):
        face.call("Answer", answer_service_pb2.AnswerRequest(collections=[collection], query=query, conversation=conversation))
    request = conversation_service_pb2.GetConversationRequest(conversation=conversation)
    kept = face.call("GetConversation", request).conversation
    assert [turn.query for turn in kept.turns] == ["What is a penstock?", "How thick is its steel?"]
    assert all(turn.complete and turn.text and turn.sources for turn in kept.turns)
    face.call("DeleteConversation", conversation_service_pb2.DeleteConversationRequest(conversation=conversation))
    with pytest.raises(Refused) as gone:
        face.call("GetConversation", request)
    assert gone.value.reason == "CONVERSATION_NOT_FOUND"


def test_generate_answers_from_passages_only(face: Face) -> None:
    request = generation_service_pb2.GenerateRequest(
        model="extractive",
        prompt="How long is the penstock of Kirkwall?",
        passages=[generation_pb2.Passage(text=BRIDGE), generation_pb2.Passage(text=TURBINE)],
    )
    answer = face.call("Generate", request)
    assert "412 metres" in answer.text
    assert "[2]" in answer.text
    assert (answer.model, answer.engine) == ("extractive", "extractive")


def test_generate_with_nothing_to_answer_from_says_so(face: Face) -> None:
    answer = face.call("Generate", generation_service_pb2.GenerateRequest(model="extractive", prompt="Who are you?"))
    assert "OLLAMA_BASE_URL" in answer.text
    assert "GGUF" in answer.text


def test_streamed_generation_opens_with_what_was_decided(face: Face) -> None:
    request = generation_service_pb2.StreamGenerateRequest(
        prompt="What is a penstock?", passages=[generation_pb2.Passage(text=TURBINE)]
    )
    events = list(face.stream("StreamGenerate", request))
    kinds = [event.WhichOneof("event") for event in events]
    assert (kinds[0], kinds[-1]) == ("started", "finished")
    assert kinds.count("finished") == 1
    assert events[0].started.model == "extractive"
    assert "reservoir" in "".join(event.delta.text for event in events)


def test_embeddings_are_normalised_and_alike_for_like_texts(face: Face) -> None:
    response = face.call(
        "Embed",
        embedding_service_pb2.EmbedRequest(inputs=["a cat sat on the mat", "a kitten rests on a rug", "stock prices fell"]),
    )
    assert (response.model, response.dimensions) == ("all-minilm-l6-v2", 384)
    vectors = [list(embedding.values) for embedding in response.embeddings]

    def cosine(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    assert cosine(vectors[0], vectors[0]) == pytest.approx(1, abs=0.01)
    assert cosine(vectors[0], vectors[1]) > cosine(vectors[0], vectors[2]) + 0.2


def test_models_are_honest(face: Face) -> None:
    models = {model.model: model for model in face.call("ListModels", model_service_pb2.ListModelsRequest()).models}
    extractive = models["extractive"]
    assert extractive.capabilities == [model_pb2.CAPABILITY_EXTRACTION]
    assert "sentence" in extractive.description
    embedder = models["all-minilm-l6-v2"]
    assert embedder.capabilities == [model_pb2.CAPABILITY_EMBEDDING]
    assert list(embedder.languages) == ["en"]


def test_experiment_shapes_answers_and_counts_outcomes(face: Face, collection: str) -> None:
    add(face, collection, turbine=TURBINE, bridge=BRIDGE)
    name = f"x-{uuid.uuid4().hex[:12]}"
    experiment = experiment_pb2.Experiment(
        experiment=name,
        unit=experiment_pb2.UNIT_USER,
        variants=[
            experiment_pb2.Variant(variant="one", weight=1, top_k=1),
            experiment_pb2.Variant(variant="two", weight=1, top_k=2),
        ],
        metrics=[experiment_pb2.Metric(metric="thumbs_up")],
    )
    face.call("CreateExperiment", experiment_service_pb2.CreateExperimentRequest(experiment=experiment))
    started = face.call("StartExperiment", experiment_service_pb2.StartExperimentRequest(experiment=name))
    assert started.experiment.state == experiment_pb2.EXPERIMENT_STATE_RUNNING
    try:
        time.sleep(1)  # a change reaches the services within a second
        sizes = {"one": 1, "two": 2}
        met: dict[str, str] = {}
        for user in map(str, range(8)):
            request = answer_service_pb2.AnswerRequest(collections=[collection], query="penstock or bridge", user=user)
            answers = [face.call("Answer", request) for _ in range(2)]
            assert {answer.variant for answer in answers} == {answers[0].variant}
            assert len(answers[0].sources) == sizes[answers[0].variant]
            assert answers[0].assignment.experiment == name
            met[answers[0].assignment.assignment] = answers[0].variant
            assigned = face.call("Assign", assignment_service_pb2.AssignRequest(experiment=name, unit_id=user))
            assert (assigned.assignment, assigned.variant) == (answers[0].assignment.assignment, answers[0].variant)
        assert set(met.values()) == {"one", "two"}
        outcomes = [
            outcome_pb2.Outcome(outcome=f"{name}-{key}", assignment=key, metric="thumbs_up", value=float(variant == "two"))
            for key, variant in met.items()
        ]
        recorded = face.call("RecordOutcomes", outcome_service_pb2.RecordOutcomesRequest(outcomes=outcomes))
        assert (recorded.recorded, recorded.duplicates) == (8, 0)
        again = face.call("RecordOutcomes", outcome_service_pb2.RecordOutcomesRequest(outcomes=outcomes))
        assert (again.recorded, again.duplicates) == (0, 8)
        results = wait_for_exposures(face, name, 16)
        for variant, mean in (("one", 0.0), ("two", 1.0)):
            result = results[variant]
            assert result.exposed_units == list(met.values()).count(variant)
            assert result.metrics[0].outcomes == list(met.values()).count(variant)
            assert result.metrics[0].mean == mean
    finally:
        stopped = face.call("StopExperiment", experiment_service_pb2.StopExperimentRequest(experiment=name))
        assert stopped.experiment.state == experiment_pb2.EXPERIMENT_STATE_STOPPED
        time.sleep(1)


def wait_for_exposures(face: Face, experiment: str, least: int) -> dict[str, Any]:
    deadline = time.monotonic() + 5
    while True:
        response = face.call("GetResults", result_service_pb2.GetResultsRequest(experiment=experiment))
        results = {variant.variant: variant for variant in response.variants}
        if sum(variant.exposures for variant in results.values()) >= least:
            return results
        assert time.monotonic() < deadline, f"exposures are missing: {results}"
        time.sleep(0.1)
