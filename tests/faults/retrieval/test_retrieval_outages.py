"""What dies while documents are added, deleted and searched: nothing acknowledged is lost, nothing deleted comes back."""

import asyncio
import signal
import time
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2
from penstock.retrieval.v1 import document_service_pb2, document_service_pb2_grpc, search_pb2

from tests.support.postgres import Postgres
from tests.support.retrieval import INDEXED, PENDING, Retrieval, ServerProcess, reason_of

SPARSE = search_pb2.SEARCH_MODE_SPARSE


def document(number: int) -> dict[str, Any]:
    return {"document": f"d{number}", "text": f"The answer to riddle{number} is secret{number}."}


async def assert_found(suite: Retrieval, *numbers: int) -> None:
    for number in numbers:
        assert (await suite.found(f"riddle{number}"))[0] == f"d{number}"


async def refused(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_store_down_while_adding(suite: Retrieval) -> None:
    await suite.create()
    await suite.add(document(0))
    await suite.qdrant.kill()
    added = await suite.add(document(1), document(2))
    assert [one.state for one in added] == [PENDING, PENDING]

    error = await refused(suite.search("riddle0"))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")

    await suite.delete("d0")
    await suite.qdrant.start()
    await suite.becomes_indexed(["d1", "d2"])
    await assert_found(suite, 1, 2)
    assert "d0" not in await suite.found("riddle0", top_k=100)


async def test_a_replacement_shows_the_old_content_until_the_new_is_complete(suite: Retrieval) -> None:
    await suite.create()
    await suite.add(document(0))
    await suite.embedder.stop()
    added = await suite.add({"document": "d0", "text": "Now it is about whales."})
    assert (added[0].state, added[0].version) == (PENDING, 2)
    response = await suite.search("riddle0 whales", mode=SPARSE)
    assert [hit.text for hit in response.hits] == [document(0)["text"]]
    await suite.embedder.start()
    await suite.becomes_indexed(["d0"])
    assert [hit.text for hit in (await suite.search("riddle0 whales")).hits] == ["Now it is about whales."]


async def test_embedder_down(suite: Retrieval) -> None:
    await suite.create()
    await suite.add(document(0))
    await suite.embedder.stop()
    assert (await suite.add(document(1)))[0].state == PENDING

    error = await refused(suite.search("riddle0"))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.UNAVAILABLE, "SERVICE_UNAVAILABLE")
    trailers: Any = error.trailing_metadata()
    status = status_pb2.Status.FromString(dict(trailers)["grpc-status-details-bin"])
    assert any(detail.Unpack(error_details_pb2.RetryInfo()) for detail in status.details)
    assert await suite.found("riddle0", mode=SPARSE) == ["d0"]

    await suite.embedder.start()
    await suite.becomes_indexed(["d1"])
    await assert_found(suite, 0, 1)


async def test_a_deadline_that_nears_is_kept(suite: Retrieval) -> None:
    await suite.create()
    suite.embedder.delay = 4.0
    started = time.monotonic()
    assert (await suite.add(document(1), seconds=2))[0].state == PENDING
    assert time.monotonic() - started < 2
    # The work goes on where it was, instead of beginning again.
    await suite.becomes_indexed(["d1"])
    assert suite.embedder.texts == 2


async def test_a_caller_that_goes_away_leaves_a_document_that_becomes_searchable(suite: Retrieval) -> None:
    await suite.create()
    suite.embedder.delay = 1.0
    adding = asyncio.create_task(suite.add(document(1)))
    await asyncio.sleep(0.5)
    adding.cancel()
    await suite.becomes_indexed(["d1"])


async def test_another_process_ends_what_a_killed_one_began(suite: Retrieval, tmp_path: Path) -> None:
    other = ServerProcess("services.retrieval", tmp_path / "other.log", suite.environment)
    try:
        await other.start()
        await suite.create()
        suite.embedder.delay = 1.0
        adding = asyncio.create_task(suite.add(*(document(number) for number in range(250))))
        await asyncio.sleep(1.5)
        await suite.service.kill()
        with pytest.raises(grpc.aio.AioRpcError):
            await adding
        suite.embedder.delay = 0.0
        await suite.release_leases()
        documents: Any = document_service_pb2_grpc.DocumentServiceStub(other.channel)
        request = document_service_pb2.GetDocumentRequest(collection="docs", document="d249")
        async with asyncio.timeout(50):
            while (await documents.GetDocument(request, timeout=10)).document.state != INDEXED:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.5)
    finally:
        await other.kill()
        await other.channel.close()


async def test_service_killed_while_adding_loses_nothing_acknowledged(suite: Retrieval) -> None:
    await suite.create()
    acknowledged: list[int] = []

    async def add_all() -> None:
        for number in range(10_000):
            await suite.add(document(number))
            acknowledged.append(number)

    adding = asyncio.create_task(add_all())
    while len(acknowledged) < 30:  # noqa: ASYNC110 - a list has no event
        await asyncio.sleep(0.01)
    await suite.service.kill()
    with pytest.raises(grpc.aio.AioRpcError):
        await adding
    await suite.service.start()
    await suite.becomes_indexed([f"d{number}" for number in acknowledged])
    await assert_found(suite, *acknowledged[-5:])


async def test_service_killed_with_documents_pending(suite: Retrieval) -> None:
    await suite.create()
    await suite.qdrant.kill()
    assert (await suite.add(document(1)))[0].state == PENDING
    await suite.service.kill()
    await suite.qdrant.start()
    await suite.service.start()
    await suite.becomes_indexed(["d1"])
    await assert_found(suite, 1)


async def test_database_killed(suite: Retrieval, postgres: Postgres) -> None:
    await suite.create()
    assert (await suite.add(document(1)))[0].state == INDEXED
    postgres.stop(signal.SIGQUIT)
    error = await refused(suite.add(document(2)))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE")
    postgres.start()
    assert (await suite.add(document(2)))[0].state == INDEXED
    await assert_found(suite, 1, 2)


async def test_database_killed_while_a_document_is_embedded(suite: Retrieval, postgres: Postgres) -> None:
    await suite.create()
    suite.embedder.delay = 1.0
    before = suite.embedder.calls
    adding = asyncio.create_task(suite.add(document(1)))
    async with asyncio.timeout(20):
        while suite.embedder.calls == before:  # noqa: ASYNC110 - a counter has no event
            await asyncio.sleep(0.01)
    postgres.stop(signal.SIGQUIT)
    assert (await adding)[0].state == PENDING
    postgres.start()
    # Its lease lasts half a minute, but is given back once the database is there.
    await suite.becomes_indexed(["d1"], seconds=20)
    await assert_found(suite, 1)


async def assert_found_soon(suite: Retrieval, *numbers: int) -> None:
    """While the store is rebuilt, a search is refused or finds nothing; it never finds something else first."""
    async with asyncio.timeout(30):
        for number in numbers:
            found: list[str] = []
            while not found:
                try:
                    found = await suite.found(f"riddle{number}", mode=SPARSE)
                except grpc.aio.AioRpcError as error:
                    assert reason_of(error) == "STORE_UNAVAILABLE"  # noqa: PT017 - it may be refused, and need not
                await asyncio.sleep(0.1)
            assert found[0] == f"d{number}"


async def test_store_lost_between_two_lives_is_rebuilt(suite: Retrieval) -> None:
    await suite.create()
    await suite.add(*(document(number) for number in range(5)))
    await suite.service.kill()
    await suite.qdrant.kill()
    suite.lose_qdrant_data()
    await suite.qdrant.start()
    await suite.service.start()
    await assert_found_soon(suite, *range(5))
    await suite.becomes_indexed([f"d{number}" for number in range(5)])


async def test_store_lost_while_running_is_rebuilt_once_searched(suite: Retrieval) -> None:
    await suite.create()
    await suite.add(*(document(number) for number in range(3)))
    await suite.qdrant.kill()
    suite.lose_qdrant_data()
    await suite.qdrant.start()
    await assert_found_soon(suite, *range(3))


async def test_store_lost_while_running_is_rebuilt_once_written_to(suite: Retrieval) -> None:
    await suite.create()
    await suite.add(*(document(number) for number in range(3)))
    await suite.qdrant.kill()
    suite.lose_qdrant_data()
    await suite.qdrant.start()
    await suite.add(document(3))
    await suite.becomes_indexed([f"d{number}" for number in range(4)])
    await assert_found(suite, *range(4))


async def test_a_stop_is_orderly(suite: Retrieval) -> None:
    await suite.create()
    await suite.add(document(1))
    assert await suite.service.terminate() == 0
