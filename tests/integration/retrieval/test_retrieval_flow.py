"""Documents in, passages out, through the service's gRPC."""

import asyncio
from typing import Any

import grpc.aio
import pytest
from google.protobuf import json_format
from penstock.retrieval.v1 import collection_service_pb2, document_pb2, search_pb2

from tests.support.postgres import migrate
from tests.support.retrieval import INDEXED, Retrieval, info_of, reason_of
from tests.unit.retrieval.test_parsing import pdf, word

pytestmark = pytest.mark.asyncio(loop_scope="module")

CATS: dict[str, Any] = {
    "document": "cats",
    "title": "Cats",
    "text": "Cats sleep for most of the day. They hunt mice at night.",
    "metadata": {"n": 1},
}
DOGS = {"document": "dogs", "text": "Dogs bark at strangers. A dog guards the house and eats bones."}
RUSSIAN = {"document": "ru", "text": "Кошки спят почти весь день. Ночью они охотятся на мышей."}
CHINESE = {"document": "zh", "text": "猫一天大部分时间都在睡觉。它们晚上捉老鼠。"}


async def test_what_is_added_is_found_in_all_modes(suite: Retrieval) -> None:
    created = await suite.create("docs", description="animals")
    assert (created.embedder, created.dimensions) == ("hashing", 64)
    added = await suite.add(CATS, DOGS)
    assert [(one.state, one.version, one.chunk_count) for one in added] == [(INDEXED, 1, 1)] * 2

    for mode in (search_pb2.SEARCH_MODE_HYBRID, search_pb2.SEARCH_MODE_DENSE, search_pb2.SEARCH_MODE_SPARSE):
        response = await suite.search("when do cats hunt mice", mode=mode)
        first = response.hits[0]
        assert (response.mode, response.mode_note) == (mode, "")
        assert (first.collection, first.document, first.title, dict(first.metadata)) == ("docs", "cats", "Cats", {"n": 1.0})
        assert first.text == CATS["text"][first.start : first.end]
        assert 0.4 < first.relevance <= 1
        assert first.relevance > max((hit.relevance for hit in response.hits[1:]), default=0)


async def test_a_language_the_embedder_does_not_know_is_served_by_words(suite: Retrieval) -> None:
    await suite.create("languages")
    await suite.add(CATS, RUSSIAN, CHINESE, collection="languages")
    for query, document in (("на кого охотится кошка?", "ru"), ("猫在晚上做什么", "zh")):
        response = await suite.search(query, "languages")
        assert [hit.document for hit in response.hits] == [document]
        assert response.mode == search_pb2.SEARCH_MODE_SPARSE
        assert "hashing" in response.mode_note
        assert 0 < response.hits[0].relevance <= 1


async def test_a_collection_without_vectors_says_so(suite: Retrieval) -> None:
    await suite.create("russian")
    await suite.add(RUSSIAN, collection="russian")
    before = suite.embedder.texts
    response = await suite.search("cats", "russian")
    assert response.mode == search_pb2.SEARCH_MODE_SPARSE
    assert "russian" in response.mode_note
    assert suite.embedder.texts == before


async def test_several_collections_are_merged_by_relevance(suite: Retrieval) -> None:
    await suite.create("one")
    await suite.create("two")
    await suite.add(CATS, collection="one")
    await suite.add(DOGS, {**CATS, "document": "copy"}, collection="two")
    response = await suite.search("cats hunt mice", "one", "two", top_k=2)
    assert {(hit.collection, hit.document) for hit in response.hits} == {("one", "cats"), ("two", "copy")}
    scores = [hit.score for hit in response.hits]
    assert scores == sorted(scores, reverse=True)


async def test_replacing_a_document_leaves_only_the_new_one(suite: Retrieval) -> None:
    await suite.create("replaced")
    await suite.add({"document": "d", "text": "The quick brown fox."}, collection="replaced")
    added = await suite.add({"document": "d", "text": "A slow green turtle."}, collection="replaced")
    assert (added[0].version, added[0].state) == (2, INDEXED)
    response = await suite.search("quick fox or slow turtle", "replaced")
    assert [hit.text for hit in response.hits] == ["A slow green turtle."]


async def test_same_content_is_not_embedded_again(suite: Retrieval) -> None:
    await suite.create("same")
    await suite.add(CATS, collection="same")
    before = suite.embedder.texts
    assert (await suite.add(CATS, collection="same"))[0].version == 1
    changed = (await suite.add({**CATS, "metadata": {"n": 2}}, collection="same"))[0]
    assert (changed.version, changed.state) == (2, INDEXED)
    assert suite.embedder.texts == before
    assert dict((await suite.search("cats", "same")).hits[0].metadata) == {"n": 2.0}


async def test_a_deleted_document_is_not_found(suite: Retrieval) -> None:
    await suite.create("deleted")
    await suite.add(CATS, DOGS, collection="deleted")
    await suite.delete("cats", "deleted")
    assert "cats" not in await suite.found("cats", "deleted")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await suite.get("cats", "deleted")
    assert (caught.value.code(), reason_of(caught.value)) == (grpc.StatusCode.NOT_FOUND, "DOCUMENT_NOT_FOUND")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await suite.delete("cats", "deleted")
    assert reason_of(caught.value) == "DOCUMENT_NOT_FOUND"


async def test_a_deleted_collection_is_gone_and_its_id_free(suite: Retrieval) -> None:
    await suite.create("gone")
    await suite.add(CATS, collection="gone")
    await suite.collections.DeleteCollection(collection_service_pb2.DeleteCollectionRequest(collection="gone"), timeout=10)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await suite.search("cats", "gone")
    assert (caught.value.code(), reason_of(caught.value)) == (grpc.StatusCode.NOT_FOUND, "COLLECTION_NOT_FOUND")
    await suite.create("gone")
    assert await suite.found("cats", "gone") == []


async def test_creating_twice(suite: Retrieval) -> None:
    first = await suite.create("twice", description="a", request_id="request-1")
    assert await suite.create("twice", description="a", request_id="request-1") == first
    for fields, code, reason in (
        ({"description": "b", "request_id": "request-1"}, grpc.StatusCode.ABORTED, "REQUEST_ID_REUSED"),
        ({"description": "a"}, grpc.StatusCode.ALREADY_EXISTS, "COLLECTION_ALREADY_EXISTS"),
        ({"description": "a", "request_id": "request-2"}, grpc.StatusCode.ALREADY_EXISTS, "COLLECTION_ALREADY_EXISTS"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await suite.create("twice", **fields)
        assert (caught.value.code(), reason_of(caught.value)) == (code, reason)


async def test_an_unknown_embedder(suite: Retrieval) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await suite.create("unknown-embedder", embedder="no-such-model")
    assert (caught.value.code(), reason_of(caught.value)) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")


async def test_pages_of_collections(suite: Retrieval) -> None:
    for number in range(5):
        await suite.create(f"page-{number}")
    names, token = [], ""
    while True:
        request = collection_service_pb2.ListCollectionsRequest(page_size=2, page_token=token)
        page = await suite.collections.ListCollections(request, timeout=10)
        assert len(page.collections) <= 2
        names += [one.collection for one in page.collections]
        token = page.next_page_token
        if not token:
            break
    assert names == sorted(names)
    assert {f"page-{number}" for number in range(5)} <= set(names)
    request = collection_service_pb2.ListCollectionsRequest(page_token="***")  # noqa: S106 - no secret
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await suite.collections.ListCollections(request, timeout=10)
    assert info_of(caught.value).metadata["field"] == "page_token"


async def test_a_bad_document_lets_none_in(suite: Retrieval) -> None:
    await suite.create("bad")
    good = {"document": "good", "text": "Fine."}
    for bad, reason, field in (
        ({"document": "x", "data": "JVBERi0xLjQKZ2FyYmFnZQ=="}, "DOCUMENT_UNREADABLE", "documents[1].data"),
        ({"document": "x", "text": " \n "}, "DOCUMENT_UNREADABLE", "documents[1].text"),
        ({"document": "x", "text": "a", "mediaType": "image/png"}, "UNSUPPORTED_MEDIA_TYPE", "documents[1].text"),
        ({"document": "good", "text": "a"}, "INVALID_FIELD", "documents[1].document"),
        ({"document": "x", "text": "a", "metadata": {"a": {"b": 1}}}, "INVALID_FIELD", "documents[1].metadata.a"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await suite.add(good, bad, collection="bad")
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert (reason_of(caught.value), info_of(caught.value).metadata["field"]) == (reason, field)
        assert field in (caught.value.details() or "")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await suite.get("good", "bad")
    assert reason_of(caught.value) == "DOCUMENT_NOT_FOUND"


async def test_files_of_all_kinds(suite: Retrieval) -> None:
    await suite.create("files")
    inputs = [
        document_pb2.DocumentInput(document="pdf", data=pdf("Penguins swim", "Whales dive")),
        document_pb2.DocumentInput(document="docx", data=word(heading="Eagles", text="Eagles soar.")),
        document_pb2.DocumentInput(document="html", data=b"<html><title>Bees</title><body><p>Bees hum.</p></body></html>"),
        document_pb2.DocumentInput(data="Мыши шуршат по ночам, и коты их слышат.".encode("cp1251")),
    ]
    added = await suite.add(*inputs, collection="files")
    assert [one.state for one in added] == [INDEXED] * 4
    assert [one.media_type.rpartition("/")[2][:4] for one in added] == ["pdf", "vnd.", "html", "plai"]
    assert added[3].document.startswith("sha256-")
    queries = {"whales": "pdf", "soaring eagles": "docx", "humming bee": "html", "мышь шуршит": added[3].document}
    for query, document in queries.items():
        assert (await suite.found(query, "files"))[0] == document


async def test_metadata_and_title_survive(suite: Retrieval) -> None:
    await suite.create("facts")
    facts = {"text": "ж", "number": 1.5, "flag": True, "list": ["a", 2.0, False]}
    await suite.add({"document": "d/1 ?#", "title": "Über", "text": "facts", "metadata": facts}, collection="facts")
    kept = await suite.get("d/1 ?#", "facts")
    assert kept.title == "Über"
    assert json_format.MessageToDict(kept.metadata) == facts
    assert json_format.MessageToDict((await suite.search("facts", "facts")).hits[0].metadata) == facts


async def test_migrating_again_changes_nothing(suite: Retrieval) -> None:
    before = await suite.found("cats")
    migrate(suite.environment["DATABASE_URL"], "retrieval")
    assert await suite.found("cats") == before != []


async def test_counts_and_text(suite: Retrieval) -> None:
    await suite.create("counted")
    text = "# Title\n\n" + "A sentence about something that matters. " * 100
    added = await suite.add({"document": "long.md", "text": text}, collection="counted")
    assert added[0].title == "Title"
    assert added[0].media_type == "text/markdown"
    request = collection_service_pb2.GetCollectionRequest(collection="counted")
    collection = (await suite.collections.GetCollection(request, timeout=10)).collection
    assert (collection.document_count, collection.chunk_count) == (1, added[0].chunk_count)
    assert added[0].chunk_count > 2
    assert (await suite.get("long.md", "counted")).text == text


async def test_many_adds_at_once(suite: Retrieval) -> None:
    await suite.create("parallel")

    async def add(number: int) -> None:
        documents = [{"document": f"d{number}-{place}", "text": f"word{number} and number{place}"} for place in range(20)]
        assert {one.state for one in await suite.add(*documents, collection="parallel")} == {INDEXED}

    await asyncio.gather(*(add(number) for number in range(6)))
    assert (await suite.found("word3 number7", "parallel"))[0] == "d3-7"


async def test_an_embedder_that_changed_is_told_apart(suite: Retrieval) -> None:
    await suite.create("changed")
    await suite.add(CATS, collection="changed")
    suite.embedder.fingerprint = "hashed-words-2"
    try:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await suite.search("cats that nobody asked for before", "changed")
        assert (caught.value.code(), reason_of(caught.value)) == (grpc.StatusCode.FAILED_PRECONDITION, "EMBEDDER_UNAVAILABLE")
        assert dict(info_of(caught.value).metadata) == {"collection": "changed", "embedder": "hashing"}
        assert await suite.found("cats", "changed", mode=search_pb2.SEARCH_MODE_SPARSE) == ["cats"]
    finally:
        suite.embedder.fingerprint = "hashed-words-1"


async def test_statistics_count_what_is_there(suite: Retrieval) -> None:
    await suite.create("stats")
    request = collection_service_pb2.GetCollectionStatsRequest(collection="stats")
    empty = (await suite.collections.GetCollectionStats(request, timeout=10)).stats
    assert (empty.document_count, empty.chunk_count, empty.text_bytes) == (0, 0, 0)
    assert not empty.HasField("last_ingest_time")
    assert (empty.embedder, empty.embedder_fingerprint, empty.dimensions) == ("hashing", "hashed-words-1", 64)

    long = "A sentence about something that matters. " * 500
    await suite.add(CATS, RUSSIAN, {"document": "long", "text": long}, collection="stats")
    stats = (await suite.collections.GetCollectionStats(request, timeout=10)).stats
    assert (stats.document_count, stats.pending_document_count) == (3, 0)
    assert (stats.chunk_count, stats.vector_count) == (stats.vector_count + 1, stats.chunk_count - 1)
    assert stats.text_bytes == sum(len(text.encode()) for text in (CATS["text"], RUSSIAN["text"], long))
    assert 0 < stats.stored_bytes < stats.text_bytes
    assert list(stats.embedder_languages) == ["en"]
    assert stats.last_ingest_time == max(
        [(await suite.get(name, "stats")).create_time for name in ("cats", "ru", "long")], key=lambda time: time.ToNanoseconds()
    )


async def test_a_collection_is_described_anew(suite: Retrieval) -> None:
    await suite.create("described", description="before")
    for given, description in (("after", "after"), (None, "after"), ("", "")):
        request = collection_service_pb2.UpdateCollectionRequest(collection="described", description=given)
        assert (await suite.collections.UpdateCollection(request, timeout=10)).collection.description == description
    read = await suite.collections.GetCollection(
        collection_service_pb2.GetCollectionRequest(collection="described"), timeout=10
    )
    assert read.collection.description == ""
    nowhere = "no-such-collection"
    for method, asked in (
        ("UpdateCollection", collection_service_pb2.UpdateCollectionRequest(collection=nowhere, description="x")),
        ("UpdateCollection", collection_service_pb2.UpdateCollectionRequest(collection=nowhere)),
        ("GetCollectionStats", collection_service_pb2.GetCollectionStatsRequest(collection=nowhere)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await getattr(suite.collections, method)(asked, timeout=10)
        assert (caught.value.code(), reason_of(caught.value)) == (grpc.StatusCode.NOT_FOUND, "COLLECTION_NOT_FOUND")


async def test_a_name_that_no_database_text_can_hold(suite: Retrieval) -> None:
    await suite.create("names")
    for call in (suite.search("cats", "a\0b"), suite.get("a\0b", "names"), suite.delete("a\0b", "names")):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert (caught.value.code(), reason_of(caught.value)) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST")
