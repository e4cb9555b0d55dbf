"""Ingestions as a resource: begun, watched, cancelled, retried; what fails fails alone."""

import asyncio
import io
import json
import zipfile
from itertools import pairwise
from typing import Any

import grpc.aio
import pytest
from penstock.errors.v1 import error_reason_pb2
from penstock.retrieval.v1 import document_pb2, ingestion_pb2, ingestion_service_pb2

from tests.support.retrieval import INDEXED, Retrieval, reason_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

SUCCEEDED = ingestion_pb2.INGESTION_STATE_SUCCEEDED
FAILED = ingestion_pb2.INGESTION_STATE_FAILED
CANCELLED = ingestion_pb2.INGESTION_STATE_CANCELLED
HELD = document_pb2.DOCUMENT_STATE_HELD


def riddle(number: int) -> dict[str, Any]:
    return {"document": f"d{number}", "text": f"The answer to riddle{number} is secret{number}."}


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), reason_of(caught.value)


def done(ingestion: ingestion_pb2.Ingestion) -> list[tuple[int, int]]:
    return [(stage.documents_done, stage.chunks_done) for stage in ingestion.stages]


async def test_inline_documents_pass_all_stages(suite: Retrieval) -> None:
    await suite.create("inline")
    uid = await suite.ingest(*(riddle(number) for number in range(120)), collection="inline")
    told = [one async for one in suite.watch(uid)]
    last = told[-1]
    assert last.state == SUCCEEDED
    assert done(last) == [(120, 0), (120, 120), (120, 120), (120, 120)]
    assert all(stage.complete and stage.documents_total == 120 for stage in last.stages)
    assert last.stages[3].rate > 0
    assert last.stages[0].bytes_done == last.stages[0].bytes_total > 0
    for earlier, later in pairwise(told):
        assert all(a <= b for one, two in zip(done(earlier), done(later), strict=True) for a, b in zip(one, two, strict=True))
    assert await suite.found("riddle77", "inline", top_k=1) == ["d77"]


async def test_what_is_there_already_is_left_alone_and_embedded_nowhere_twice(suite: Retrieval) -> None:
    await suite.create("first")
    await suite.create("second")
    await suite.ended(await suite.ingest(riddle(1), riddle(2), collection="first"))
    before = suite.embedder.texts
    again = await suite.ended(await suite.ingest(riddle(1), riddle(2), collection="first"))
    assert (again.unchanged_count, again.state) == (2, SUCCEEDED)
    other = await suite.ended(
        await suite.ingest(riddle(1), {"document": "copy", "text": riddle(1)["text"]}, collection="second")
    )
    assert other.reused_chunk_count == 2
    assert suite.embedder.texts == before


async def test_a_file_fails_alone_with_its_reason_and_can_be_read_again(suite: Retrieval) -> None:
    await suite.create("zipped")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("good.md", "# Good\n\nA readable riddle501.")
        archive.writestr("broken.pdf", b"%PDF-1.7 this is none")
        archive.writestr("also/good.txt", "Another riddle502.")
    uid = await suite.upload("all.zip", packed.getvalue(), "zipped")
    ended = await suite.ended(uid)
    assert (ended.state, ended.failed_count) == (SUCCEEDED, 1)
    failure = ended.failures[0]
    assert (failure.name, failure.stage) == ("broken.pdf", ingestion_pb2.INGESTION_STAGE_READ)
    assert failure.reason == error_reason_pb2.ERROR_REASON_DOCUMENT_UNREADABLE
    assert failure.message
    assert sorted(await suite.found("riddle501 riddle502", "zipped")) == ["also/good.txt", "good.md"]

    listed = await suite.ingestions.ListIngestionFailures(ingestion_service_pb2.ListIngestionFailuresRequest(ingestion=uid))
    assert [one.name for one in listed.failures] == ["broken.pdf"]
    retry = ingestion_service_pb2.RetryIngestionRequest(ingestion=uid, stage=ingestion_pb2.INGESTION_STAGE_READ)
    await suite.ingestions.RetryIngestion(retry)
    ended = await suite.ended(uid)
    assert (ended.failed_count, done(ended)[3]) == (1, (2, 2))
    retry.stage = ingestion_pb2.INGESTION_STAGE_EMBED
    assert await refusal(suite.ingestions.RetryIngestion(retry)) == (grpc.StatusCode.FAILED_PRECONDITION, "INGESTION_STATE")


async def test_nothing_readable_is_a_failure(suite: Retrieval) -> None:
    await suite.create("unreadable")
    ended = await suite.ended(await suite.upload("x.pdf", b"%PDF-1.4 nothing", "unreadable"))
    assert (ended.state, ended.failed_count) == (FAILED, 1)


async def test_records_become_documents(suite: Retrieval) -> None:
    await suite.create("records")
    lines = "\n".join(json.dumps({"id": f"r{number}", "text": f"A record about riddle{number}."}) for number in range(700, 950))
    ended = await suite.ended(await suite.upload("all.jsonl", lines.encode(), "records"))
    assert done(ended)[3] == (250, 250)
    assert await suite.found("riddle801", "records", top_k=1) == ["r801"]


async def test_cancel_stops_and_retry_goes_on(suite: Retrieval) -> None:
    await suite.create("cancelled")
    await suite.add({"document": "d1", "text": "The old words of riddle1."}, collection="cancelled")
    suite.embedder.delay = 0.5
    try:
        uid = await suite.ingest(*(riddle(number) for number in range(1000, 1240)), riddle(1), collection="cancelled")
        async for told in suite.watch(uid):
            if told.stages[2].chunks_done:
                break
        cancel = ingestion_service_pb2.CancelIngestionRequest(ingestion=uid)
        cancelled = (await suite.ingestions.CancelIngestion(cancel)).ingestion
        assert cancelled.state == CANCELLED
        texts = suite.embedder.texts
        assert (await suite.ended(uid)).state == CANCELLED
        # What was on its way then is all that may still come: what is asked later comes behind it.
        await suite.add({"document": "later", "text": "Added later."}, collection="cancelled")
        assert suite.embedder.texts - texts <= 3 * 64 + 1
    finally:
        suite.embedder.delay = 0.0
    done_then = done(await suite.ended(uid))[3][0]
    assert done_then < 241
    assert await suite.found("riddle1 old", "cancelled", top_k=1) == ["d1"]
    await suite.ingestions.RetryIngestion(ingestion_service_pb2.RetryIngestionRequest(ingestion=uid))
    ended = await suite.ended(uid)
    assert (ended.state, done(ended)[3]) == (SUCCEEDED, (241, 241))
    assert (await suite.get("d1239", "cancelled")).state == INDEXED


async def test_a_large_one_is_cancelled_as_fast_as_a_small_one(suite: Retrieval) -> None:
    await suite.create("large")
    lines = "\n".join(json.dumps({"id": f"r{number}", "text": f"Riddle{number}."}) for number in range(2500))
    suite.embedder.delay = 0.5
    try:
        uid = await suite.upload("all.jsonl", lines.encode(), "large")
        async for told in suite.watch(uid):
            if told.stages[0].complete:
                break
        cancel = ingestion_service_pb2.CancelIngestionRequest(ingestion=uid)
        # More than one step holds, beside each other and the upkeep.
        answers = await asyncio.gather(*(suite.ingestions.CancelIngestion(cancel, timeout=20) for _ in range(4)))
        assert {answer.ingestion.state for answer in answers} == {CANCELLED}
        texts = suite.embedder.texts
        await suite.add({"document": "later", "text": "Added later."}, collection="large")
        assert suite.embedder.texts - texts <= 3 * 64 + 1
        async with asyncio.timeout(20):
            while (await suite.get("r2499", "large")).state != HELD:  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.05)
    finally:
        suite.embedder.delay = 0.0


async def test_a_stage_that_failed_is_done_again(suite: Retrieval) -> None:
    await suite.create("stages")
    suite.embedder.fingerprint = "another"
    try:
        ended = await suite.ended(await suite.ingest(riddle(2000), riddle(2001), collection="stages"))
        assert (ended.state, ended.failed_count) == (FAILED, 2)
        assert ended.failures[0].stage == ingestion_pb2.INGESTION_STAGE_EMBED
        assert ended.failures[0].reason == error_reason_pb2.ERROR_REASON_EMBEDDER_UNAVAILABLE
    finally:
        suite.embedder.fingerprint = "hashed-words-1"
    retry = ingestion_service_pb2.RetryIngestionRequest(ingestion=ended.ingestion, stage=ingestion_pb2.INGESTION_STAGE_EMBED)
    await suite.ingestions.RetryIngestion(retry)
    ended = await suite.ended(ended.ingestion)
    assert (ended.state, ended.failed_count, done(ended)[3]) == (SUCCEEDED, 0, (2, 2))


async def test_a_repeated_request_gets_the_same_ingestion(suite: Retrieval) -> None:
    await suite.create("repeated")
    first = await suite.ingest(riddle(1), collection="repeated", request_id="key")
    assert await suite.ingest(riddle(1), collection="repeated", request_id="key") == first
    error = await refusal(suite.ingest(riddle(2), collection="repeated", request_id="key"))
    assert error == (grpc.StatusCode.ABORTED, "REQUEST_ID_REUSED")
    request = ingestion_service_pb2.ListIngestionsRequest(collection="repeated")
    assert [one.ingestion for one in (await suite.ingestions.ListIngestions(request)).ingestions] == [first]


@pytest.mark.parametrize("unknown", ["00000000-0000-7000-8000-000000000000", "nonsense"])
async def test_no_such_ingestion(suite: Retrieval, unknown: str) -> None:
    request = ingestion_service_pb2.GetIngestionRequest(ingestion=unknown)
    assert await refusal(suite.ingestions.GetIngestion(request)) == (grpc.StatusCode.NOT_FOUND, "INGESTION_NOT_FOUND")


async def test_uploads_that_make_no_sense(suite: Retrieval) -> None:
    await suite.create("uploads")
    assert await refusal(suite.upload("x.txt", b"", "uploads")) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert await refusal(suite.upload("x.txt", b"text", "absent")) == (grpc.StatusCode.NOT_FOUND, "COLLECTION_NOT_FOUND")
    assert await refusal(suite.upload("x.txt", b"text", "")) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
