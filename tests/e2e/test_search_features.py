"""What a search and an answer can be told, the same over gRPC and REST."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import json_format
from penstock import Client
from penstock.retrieval.v1 import (
    answer_service_pb2,
    collection_pb2,
    collection_service_pb2,
    document_service_pb2,
    search_service_pb2,
)

from tests.e2e.faces import Face, Grpc, Refused, Rest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.suite import Suite

TURBINE = "A penstock is a pipe that brings water from a reservoir to a turbine. The penstock of Kirkwall is 412 metres long."
OLD = "A penstock is a pipe that brings water to a turbine. The penstock of Kirkwall was 380 metres long."
BRIDGE = "The bridge of Stenness was built in 1859. It carries one lane of traffic over the loch."
LIBRARY = "圖書館連接電腦網絡。"


@pytest.fixture(params=[Grpc, Rest], ids=["grpc", "rest"])
def face(request: pytest.FixtureRequest, suite: Suite) -> Iterator[Face]:
    face = request.param(suite.grpc if request.param is Grpc else suite.url)
    yield face
    face.close()


@pytest.fixture
def collection(face: Face) -> Iterator[str]:
    name = f"e2e-{uuid.uuid4().hex[:12]}"
    wanted = collection_pb2.Collection(collection=name)
    face.call("CreateCollection", collection_service_pb2.CreateCollectionRequest(collection=wanted))
    documents: list[dict[str, Any]] = [
        {
            "document": "turbine",
            "text": TURBINE,
            "metadata": {"year": 2024, "checked": "2026-03-01", "tags": ["steel", "long"]},
        },
        {"document": "old", "text": OLD, "metadata": {"year": 1998, "checked": "1998-01-01T08:00:00Z", "outdated": True}},
        {"document": "bridge", "text": BRIDGE, "metadata": {"tags": ["stone"]}},
        {"document": "library", "text": LIBRARY},
    ]
    add(face, name, *documents)
    yield name
    face.call("DeleteCollection", collection_service_pb2.DeleteCollectionRequest(collection=name))


def add(face: Face, collection: str, *documents: dict[str, Any]) -> None:
    fields = {"collection": collection, "documents": list(documents)}
    face.call("AddDocuments", json_format.ParseDict(fields, document_service_pb2.AddDocumentsRequest()))


def search(face: Face, collection: str, query: str, **more: Any) -> search_service_pb2.SearchResponse:
    fields = {"collections": [collection], "query": query, **more}
    request = json_format.ParseDict(fields, search_service_pb2.SearchRequest())
    response: search_service_pb2.SearchResponse = face.call("Search", request)
    return response


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"equals": {"key": "outdated", "value": True}}, {"old"}),
        ({"none_of": {"filters": [{"equals": {"key": "outdated", "value": True}}]}}, {"turbine", "bridge"}),
        ({"one_of": {"key": "tags", "values": ["stone", "steel"]}}, {"turbine", "bridge"}),
        ({"range": {"key": "year", "gt": 1998, "lte": 2024}}, {"turbine"}),
        ({"time_range": {"key": "checked", "gte": "1998-01-01T08:00:00Z", "lt": "2026-03-01T00:00:00Z"}}, {"old"}),
        ({"all_of": {"filters": [{"exists": {"key": "year"}}, {"exists": {"key": "tags"}}]}}, {"turbine"}),
        (
            {"any_of": {"filters": [{"exists": {"key": "outdated"}}, {"equals": {"key": "year", "value": 2024}}]}},
            {"turbine", "old"},
        ),
    ],
    ids=["equals", "none_of", "one_of", "range", "time_range", "all_of", "any_of"],
)
def test_filters(face: Face, collection: str, condition: dict[str, Any], expected: set[str]) -> None:
    found = search(face, collection, "penstock bridge", filter=condition, top_k=10, mode="SEARCH_MODE_SPARSE")
    assert {hit.document for hit in found.hits} == expected


def test_new_facts_hold_at_once(face: Face, collection: str) -> None:
    current = {"none_of": {"filters": [{"exists": {"key": "outdated"}}]}}
    add(face, collection, {"document": "turbine", "text": TURBINE, "metadata": {"outdated": True}})
    assert "turbine" not in {hit.document for hit in search(face, collection, "penstock of Kirkwall", filter=current).hits}


@pytest.mark.parametrize(
    ("fusion", "weights"),
    [
        ({"rrf": {"k": 10}}, (1, 1)),
        ({"dbsf": {}}, (1, 1)),
        ({"weighted": {}}, (0.7, 0.3)),
        ({"weighted": {"dense": 0.0}}, (0, 1)),
    ],
    ids=["rrf", "dbsf", "weighted", "words-alone"],
)
def test_fusions_are_explained(face: Face, collection: str, fusion: dict[str, Any], weights: tuple[float, float]) -> None:
    hits = search(face, collection, "How long is the penstock?", fusion=fusion, explain=True).hits
    assert hits[0].document in {"turbine", "old"}
    assert hits[0].explanation.matched_terms[-1] == "penstock"
    assert 0 < hits[0].explanation.coverage <= 1
    for hit in hits:
        legs = (hit.explanation.dense, hit.explanation.sparse)
        told = sum(weight * leg.normalized_score for weight, leg in zip(weights, legs, strict=True))
        assert hit.score == pytest.approx(told, abs=1e-6)
    ranks = [hit.explanation.dense.rank for hit in hits if hit.explanation.HasField("dense")]
    assert sorted(ranks) == list(range(1, len(ranks) + 1))


def test_threshold_and_diversity(face: Face, collection: str) -> None:
    hits = search(face, collection, "How long is the penstock of Kirkwall?", top_k=4).hits
    relevant = search(face, collection, "How long is the penstock of Kirkwall?", top_k=4, min_relevance=0.4).hits
    assert [hit.chunk for hit in relevant] == [hit.chunk for hit in hits if hit.relevance >= 0.4]
    assert {hit.document for hit in relevant} == {"turbine", "old"}
    diverse = search(face, collection, "penstock of Kirkwall", top_k=2, mmr_lambda=0.1).hits
    assert {hit.document for hit in diverse} != {"turbine", "old"}


def test_neighbors(face: Face, collection: str) -> None:
    text = " ".join(f"Pump {number} stands in hall {number}, and it was oiled with care in that year." for number in range(100))
    add(face, collection, {"document": "pumps", "text": text})
    (narrow,) = search(face, collection, "Pump 50", mode="SEARCH_MODE_SPARSE", top_k=1).hits
    (wide,) = search(face, collection, "Pump 50", mode="SEARCH_MODE_SPARSE", top_k=1, neighbors=1).hits
    assert wide.chunk == narrow.chunk
    assert wide.start < narrow.start < narrow.end < wide.end
    assert wide.text == text[wide.start : wide.end]


def test_simplified_finds_traditional(face: Face, collection: str) -> None:
    assert [hit.document for hit in search(face, collection, "图书馆的电脑").hits] == ["library"]


def test_answers_heed_filter_and_threshold(face: Face, collection: str) -> None:
    fields: dict[str, Any] = {"collections": [collection], "query": "How long is the penstock of Kirkwall?"}
    current = {"range": {"key": "year", "gte": 2000}}
    asked = json_format.ParseDict({**fields, "filter": current, "min_relevance": 0.3}, answer_service_pb2.AnswerRequest())
    answer = face.call("Answer", asked)
    assert {source.document for source in answer.sources} == {"turbine"}
    assert "412 metres" in answer.text
    nothing = {"equals": {"key": "year", "value": 1}}
    streamed = json_format.ParseDict({**fields, "filter": nothing}, answer_service_pb2.StreamAnswerRequest())
    events = list(face.stream("StreamAnswer", streamed))
    assert not events[0].sources.hits
    assert events[-1].HasField("finished")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"filter": {"range": {"key": "year"}}}, "filter.range"),
        ({"filter": {"equals": {"key": "year", "value": [1]}}}, "filter.equals.value"),
        ({"fusion": {"weighted": {"dense": 0, "sparse": 0}}}, "fusion.weighted"),
        ({"mmr_lambda": 2}, "mmr_lambda"),
    ],
)
def test_bad_options_are_named(face: Face, collection: str, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(Refused) as caught:
        search(face, collection, "penstock", **fields)
    assert (caught.value.code, caught.value.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert field in caught.value.message


def test_a_collection_tells_what_it_holds(face: Face, collection: str) -> None:
    request = collection_service_pb2.GetCollectionStatsRequest(collection=collection)
    stats = face.call("GetCollectionStats", request).stats
    assert (stats.collection, stats.document_count, stats.pending_document_count) == (collection, 4, 0)
    assert (stats.chunk_count, stats.vector_count) == (4, 3)
    assert (stats.embedder, stats.dimensions, list(stats.embedder_languages)) == ("all-minilm-l6-v2", 384, ["en"])
    assert stats.text_bytes == sum(len(text.encode()) for text in (TURBINE, OLD, BRIDGE, LIBRARY))
    assert stats.last_ingest_time.ToSeconds() > 0


def test_a_collection_is_described_anew(face: Face, collection: str) -> None:
    request = collection_service_pb2.UpdateCollectionRequest(collection=collection, description="Water and stone.")
    assert face.call("UpdateCollection", request).collection.description == "Water and stone."
    kept = face.call("GetCollection", collection_service_pb2.GetCollectionRequest(collection=collection)).collection
    assert (kept.description, kept.document_count) == ("Water and stone.", 4)
    with pytest.raises(Refused) as caught:
        face.call("UpdateCollection", collection_service_pb2.UpdateCollectionRequest(collection="nowhere", description="x"))
    assert (caught.value.code, caught.value.reason) == ("NOT_FOUND", "COLLECTION_NOT_FOUND")


def test_the_clients_tell_the_same(suite: Suite) -> None:
    name = f"e2e-{uuid.uuid4().hex[:12]}"
    with Client(suite.grpc) as client:
        client.create_collection(name)
        try:
            client.add_documents(name, [{"document": "old", "text": OLD, "metadata": {"year": 1998}}, BRIDGE])
            assert client.update_collection(name, description="x").description == "x"
            assert client.collection_stats(name).document_count == 2
            old = {"range": {"key": "year", "lt": 2000}}
            found = client.search("penstock or bridge", name, filter=old, fusion={"weighted": {}}, explain=True)
            assert [hit.document for hit in found.hits] == ["old"]
            assert found.hits[0].explanation.matched_terms
            answer = client.answer("How long was the penstock?", name, filter=old, min_relevance=0.1)
            assert {source.document for source in answer.sources} == {"old"}
        finally:
            client.delete_collection(name)
