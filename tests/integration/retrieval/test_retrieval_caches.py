"""What is kept is as fresh as what is not: two processes of the service over one Postgres, Qdrant and Valkey."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest
import pytest_asyncio
from penstock.inference.v1 import generation_pb2
from penstock.retrieval.v1 import (
    collection_pb2,
    collection_service_pb2,
    document_pb2,
    search_service_pb2,
    search_service_pb2_grpc,
)

from tests.support.retrieval import Retrieval, ServerProcess, reason_of, retrieval
from tests.support.valkey import Valkey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.postgres import Postgres

CATS = {"document": "cats", "text": "Cats sleep most of the day."}
DOGS = {"document": "dogs", "text": "Dogs chase cats and sleep at night."}


class Pair:
    """The service twice, `one` started with the second one's caches in reach."""

    def __init__(self, one: Retrieval, other: ServerProcess, valkey: Valkey) -> None:
        self.one = one
        self.valkey = valkey
        self._stubs: dict[str, Any] = {
            "one": one.searches,
            "other": search_service_pb2_grpc.SearchServiceStub(other.channel),
        }

    async def search(
        self, which: str, query: str, collection: str, user: str = "", **fields: Any
    ) -> search_service_pb2.SearchResponse:
        request = search_service_pb2.SearchRequest(collections=[collection], query=query, **fields)
        metadata = (("x-penstock-user", user),) if user else ()
        response: search_service_pb2.SearchResponse = await self._stubs[which].Search(request, timeout=20, metadata=metadata)
        return response


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    folder: Path = tmp_path_factory.mktemp("pair")
    valkey = Valkey(folder)
    await valkey.start()
    try:
        async with retrieval(folder, postgres) as one:
            await one.service.terminate()
            environment = {**one.environment, "REDIS_URL": valkey.url}
            one.service._environment = environment
            other = ServerProcess("services.retrieval", folder / "other.log", environment)
            await asyncio.gather(one.service.start(), other.start())
            try:
                yield Pair(one, other, valkey)
            finally:
                await other.channel.close()
                await other.kill()
    finally:
        valkey.kill()


def found(response: search_service_pb2.SearchResponse) -> list[str]:
    return sorted(hit.document for hit in response.hits)


async def becomes_shared(pair: Pair, query: str, collection: str) -> None:
    """Results reach the shared store in the background."""
    async with asyncio.timeout(10):
        while not (await pair.search("other", query, collection)).cached:  # noqa: ASYNC110 - in another process
            await asyncio.sleep(0.02)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_search_is_answered_again_from_memory_and_in_the_other_process_from_the_shared_store(pair: Pair) -> None:
    await pair.one.create("again")
    await pair.one.add(CATS, DOGS, collection="again")
    first = await pair.search("one", "sleeping cats", "again")
    second = await pair.search("one", "sleeping cats", "again")
    assert (first.cached, second.cached) == (False, True)
    assert list(second.hits) == list(first.hits)
    await becomes_shared(pair, "sleeping cats", "again")
    assert list((await pair.search("other", "sleeping cats", "again")).hits) == list(first.hits)
    embedded = pair.one.embedder.texts
    bypassed = await pair.search("one", "sleeping cats", "again", cache=generation_pb2.CACHE_MODE_BYPASS)
    assert not bypassed.cached
    assert found(bypassed) == found(first)
    assert pair.one.embedder.texts == embedded, "the query's vector is kept for itself"


@pytest.mark.asyncio(loop_scope="module")
async def test_a_deletion_in_one_process_is_effective_at_once_in_the_other(pair: Pair) -> None:
    await pair.one.create("gone")
    await pair.one.add(CATS, DOGS, collection="gone")
    await pair.search("one", "cats", "gone")
    await becomes_shared(pair, "cats", "gone")
    for document, left in (("dogs", ["cats"]), ("cats", [])):
        await pair.one.delete(document, "gone")
        for which in ("other", "one"):
            assert found(await pair.search(which, "cats", "gone")) == left


@pytest.mark.asyncio(loop_scope="module")
async def test_whatever_changes_what_is_found_makes_the_kept_result_another(pair: Pair) -> None:
    await pair.one.create("changes")
    await pair.one.add(CATS, collection="changes")
    await pair.search("one", "cats", "changes")
    await becomes_shared(pair, "cats", "changes")
    await pair.one.add(DOGS, collection="changes")
    assert found(await pair.search("other", "cats", "changes")) == ["cats", "dogs"]
    retitled = document_pb2.DocumentInput(document=DOGS["document"], text=DOGS["text"])
    retitled.metadata.update({"shelf": 3})
    await pair.one.add(retitled, collection="changes")
    hits = {hit.document: hit for hit in (await pair.search("other", "cats", "changes")).hits}
    assert hits["dogs"].metadata["shelf"] == 3


@pytest.mark.asyncio(loop_scope="module")
async def test_a_permission_taken_away_is_gone_at_once_in_both_processes(pair: Pair) -> None:
    acl = collection_pb2.AccessList(readers=["user:ann"], writers=["*"])
    await pair.one.create("secret", acl=acl)
    await pair.one.add(CATS, collection="secret")
    assert found(await pair.search("one", "cats", "secret", user="ann")) == ["cats"]
    for which in ("one", "other"):
        assert found(await pair.search(which, "cats", "secret", user="ann")) == ["cats"]
    narrower = collection_pb2.AccessList(readers=["user:bob"], writers=["user:bob"])
    change = collection_service_pb2.UpdateCollectionRequest(collection="secret", acl=narrower)
    await pair.one.collections.UpdateCollection(change, timeout=10, metadata=(("x-penstock-user", "bob"),))
    for which in ("other", "one"):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await pair.search(which, "cats", "secret", user="ann")
        assert reason_of(refused.value) == "COLLECTION_NOT_FOUND"


@pytest.mark.asyncio(loop_scope="module")
async def test_losing_the_shared_store_loses_speed_only(pair: Pair) -> None:
    await pair.one.create("lost")
    await pair.one.add(CATS, collection="lost")
    pair.valkey.kill()
    for number in range(3):
        assert found(await pair.search("one", f"cats {number}", "lost")) == ["cats"]
        assert found(await pair.search("other", f"cats {number}", "lost")) == ["cats"]
    assert (await pair.search("one", "cats 0", "lost")).cached, "memory goes on"
    await pair.valkey.start()
