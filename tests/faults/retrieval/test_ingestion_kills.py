"""Workers killed in the midst of an ingestion, at every stage: no chunk is lost, none is there twice, no progress goes back.

The stage is told by WatchIngestion itself; sizes and the embedder's delay make each last long enough to be met.
"""

import asyncio
import io
import json
import zipfile
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import asyncpg
import grpc.aio
import pytest
import pytest_asyncio
from google.api import httpbody_pb2
from penstock.retrieval.v1 import ingestion_pb2, ingestion_service_pb2, search_pb2
from qdrant_client import AsyncQdrantClient

from tests.support.retrieval import INDEXED, Retrieval, retrieval

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.postgres import Postgres

pytestmark = pytest.mark.asyncio(loop_scope="module")

READ, CHUNK, EMBED, INDEX = range(4)
SPARSE = search_pb2.SEARCH_MODE_SPARSE
SENTENCES = 40
DOCUMENTS = 120


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(postgres: "Postgres", tmp_path_factory: pytest.TempPathFactory) -> "AsyncIterator[Retrieval]":
    async with retrieval(tmp_path_factory.mktemp("kills"), postgres) as suite:
        yield suite


@pytest_asyncio.fixture(loop_scope="module")
async def suite(running: Retrieval) -> Retrieval:
    """The suite, whatever the test before has left of it."""
    running.embedder.delay = 0.0
    if not running.service.runs:
        await running.service.start()
    return running


def long_text(tale: str, number: int) -> str:
    """About 4 chunks, all different: nothing would be embedded twice, in whichever collection it stands."""
    places = range(SENTENCES)
    sentences = (f"Sentence {place} of {tale}{number} tells of word{number}x{place} and of nothing else." for place in places)
    return " ".join(sentences)


def archive(tale: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as written:
        for number in range(DOCUMENTS):
            written.writestr(f"tale{number}.txt", long_text(tale, number))
    return packed.getvalue()


def records(tale: str) -> bytes:
    lines = (json.dumps({"id": f"tale{number}.txt", "text": long_text(tale, number)}) for number in range(DOCUMENTS))
    return "\n".join(lines).encode()


class Progress:
    """All that was ever told of an ingestion; none of it may become less."""

    def __init__(self) -> None:
        self.best = [(0, 0)] * 4

    def note(self, told: ingestion_pb2.Ingestion) -> None:
        now = [(stage.documents_done, stage.chunks_done) for stage in told.stages]
        for before, after in zip(self.best, now, strict=True):
            assert before[0] <= after[0]
            assert before[1] <= after[1]
        self.best = now


def has_reached(told: ingestion_pb2.Ingestion, stage: int) -> bool:
    """Whether the stage is under way: some of it is done, and not all."""
    one = told.stages[stage]
    return (one.documents_done if stage == READ else one.chunks_done) > 0


async def watched(suite: Retrieval, uid: str, progress: Progress, stage: int) -> bool:
    """Watches until the stage is reached; False if the ingestion ended before."""
    async for told in suite.watch(uid):
        progress.note(told)
        if told.HasField("end_time"):
            return False
        if has_reached(told, stage):
            return True
    return False


async def points_of(suite: Retrieval, collection: str) -> list[tuple[str, int, int]]:
    """Document, edition and start of each point of the collection in the store."""
    connection = await asyncpg.connect(suite.environment["DATABASE_URL"])
    try:
        uid = await connection.fetchval("SELECT uid FROM retrieval.collections WHERE collection = $1", collection)
    finally:
        await connection.close()
    port = int(suite.qdrant.address.rpartition(":")[2])
    client = AsyncQdrantClient(host="127.0.0.1", grpc_port=port, prefer_grpc=True, check_compatibility=False)
    found: list[tuple[str, int, int]] = []
    try:
        offset: Any = None
        while True:
            points, offset = await client.scroll(f"penstock-{uid.hex}", limit=500, offset=offset)
            payloads: list[Any] = [point.payload for point in points]
            found += [(payload["document"], payload["edition"], payload["start"]) for payload in payloads]
            if offset is None:
                return found
    finally:
        await client.close()


@pytest.mark.parametrize("stage", [READ, CHUNK, EMBED, INDEX], ids=["read", "chunk", "embed", "index"])
async def test_killed_at_a_stage(suite: Retrieval, stage: int) -> None:
    collection = f"killed{stage}"
    await suite.create(collection)
    suite.embedder.delay = 0.8
    embedded_before = suite.embedder.texts
    uid = await suite.upload("tales.zip", archive(collection), collection)
    progress = Progress()
    assert await watched(suite, uid, progress, stage)
    await suite.service.kill()
    embedded_then = suite.embedder.texts - embedded_before

    await suite.service.start()
    await suite.release_leases()
    suite.embedder.delay = 0.0
    async for told in suite.watch(uid):
        progress.note(told)
    await assert_whole(suite, uid, collection)
    # What was embedded before the kill was kept: but for batches on their way then, nothing is embedded twice.
    assert suite.embedder.texts - embedded_before <= chunk_count(told) + min(embedded_then, 4 * 64) + 1


def chunk_count(told: ingestion_pb2.Ingestion) -> int:
    return told.stages[CHUNK].chunks_total


async def assert_whole(suite: Retrieval, uid: str, collection: str) -> None:
    request = ingestion_service_pb2.GetIngestionRequest(ingestion=uid)
    ended = (await suite.ingestions.GetIngestion(request)).ingestion
    assert ended.state == ingestion_pb2.INGESTION_STATE_SUCCEEDED
    assert [stage.documents_done for stage in ended.stages] == [DOCUMENTS] * 4
    assert [stage.chunks_done for stage in ended.stages[1:]] == [chunk_count(ended)] * 3
    points = await points_of(suite, collection)
    assert len(points) == len(set(points)) == chunk_count(ended)
    documents = [await suite.get(f"tale{number}.txt", collection) for number in range(0, DOCUMENTS, 7)]
    assert all(document.state == INDEXED for document in documents)
    last = f"word{DOCUMENTS - 1}x{SENTENCES - 1}"
    assert (await suite.found(last, collection, top_k=1)) == [f"tale{DOCUMENTS - 1}.txt"]


async def test_killed_again_and_again(suite: Retrieval) -> None:
    await suite.create("again")
    suite.embedder.delay = 0.2
    uid = await suite.upload("tales.jsonl", records("again"), "again")
    progress = Progress()
    for _ in range(3):
        with suppress(TimeoutError, grpc.aio.AioRpcError):
            async with asyncio.timeout(0.6):
                async for told in suite.watch(uid):
                    progress.note(told)
        await suite.service.kill()
        await suite.service.start()
        await suite.release_leases()
    async for told in suite.watch(uid):
        progress.note(told)
    await assert_whole(suite, uid, "again")


async def test_killed_while_a_file_is_sent(suite: Retrieval) -> None:
    await suite.create("sent")

    async def slowly() -> Any:
        yield ingestion_service_pb2.UploadIngestionRequest(collection="sent", name="tales.zip")
        for _ in range(1000):
            body = httpbody_pb2.HttpBody(data=bytes(256 * 1024))
            yield ingestion_service_pb2.UploadIngestionRequest(body=body)
            await asyncio.sleep(0.02)

    sending = suite.ingestions.UploadIngestion(slowly(), timeout=30)
    await asyncio.sleep(0.5)
    await suite.service.kill()
    with pytest.raises(grpc.aio.AioRpcError):
        await sending
    await suite.service.start()
    # Nothing was acknowledged: nothing is begun.
    listed = await suite.ingestions.ListIngestions(ingestion_service_pb2.ListIngestionsRequest(collection="sent"))
    assert {one.state for one in listed.ingestions} <= {ingestion_pb2.INGESTION_STATE_RECEIVING}


async def test_old_or_new_at_every_moment_of_a_replacement(suite: Retrieval) -> None:
    await suite.create("replaced")
    await suite.add({"document": "d", "text": "Kirkwall keeps an old secret."}, collection="replaced")
    suite.embedder.delay = 0.05
    seen: set[tuple[str, ...]] = set()

    async def look() -> None:
        while True:
            hits = (await suite.search("Kirkwall secret", "replaced", mode=SPARSE)).hits
            seen.add(tuple(hit.text for hit in hits))

    looking = asyncio.create_task(look())
    for number in range(8):
        replacement = {"document": "d", "text": f"Kirkwall keeps secret number {number}."}
        await suite.ended(await suite.ingest(replacement, collection="replaced"))
    looking.cancel()
    assert all(len(texts) == 1 for texts in seen)
    assert len(seen) > 2


async def test_deleted_in_every_state(suite: Retrieval) -> None:
    """Queued, read, cut, embedded in part, written in part, and searchable: a delete is effective at once in each."""
    suite.embedder.delay = 0.5
    for stage in (READ, CHUNK, EMBED, INDEX):
        collection = f"deleted{stage}"
        await suite.create(collection)
        uid = await suite.upload("tales.jsonl", records(f"story{stage}"), collection)
        assert await watched(suite, uid, Progress(), stage)
        gone: set[str] = set()
        for number in range(DOCUMENTS):
            with suppress(grpc.aio.AioRpcError):  # one that is not read yet
                await suite.delete(f"tale{number}.txt", collection)
                gone.add(f"tale{number}.txt")
        assert gone
        assert not gone & set(await suite.found("sentence of a story", collection, mode=SPARSE, top_k=100))
        ended = await suite.ended(uid)
        assert ended.state == ingestion_pb2.INGESTION_STATE_SUCCEEDED
        assert not gone & set(await suite.found("sentence of a story", collection, mode=SPARSE, top_k=100))
    await suite.add({"document": "d", "text": "A sentence that is searchable."}, collection="deleted0")
    await suite.delete("d", "deleted0")
    assert "d" not in await suite.found("sentence that is searchable", "deleted0", mode=SPARSE)
