"""Answers from collections: penstock's retrieval service over gRPC."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import grpc.aio
from penstock.inference.v1 import generation_pb2
from penstock.retrieval.v1 import (
    answer_pb2,
    answer_service_pb2,
    answer_service_pb2_grpc,
    collection_service_pb2,
    collection_service_pb2_grpc,
)

from services.chassis.call import current_call, outgoing_metadata
from services.chassis.errors import Failure, Reason
from services.chassis.remote import failure_of, failure_told
from services.inference.engine import Delta, FinishReason, Usage, UsageSource
from services.inference.generation import Assignment, CacheMode, Finished, Started
from services.inference.openai.collections import Cited, Source, Sources
from services.inference.progress import Timings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from penstock.retrieval.v1 import search_pb2

    from services.inference.openai.collections import AnswerEvent, Question

_SERVICE: Final = "retrieval"
_NAMES_SECONDS: Final = 5.0
# The contract's limits, in bytes.
_ANSWER_BYTES: Final = 131072
_QUESTION_BYTES: Final = 32768
_REASONS: Final[dict[int, FinishReason]] = {
    generation_pb2.FINISH_REASON_STOP: FinishReason.STOP,
    generation_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    generation_pb2.FINISH_REASON_CONTENT_FILTER: FinishReason.CONTENT_FILTER,
}
_USAGE_SOURCES: Final[dict[int, UsageSource]] = {
    generation_pb2.USAGE_SOURCE_REPORTED: UsageSource.REPORTED,
    generation_pb2.USAGE_SOURCE_COUNTED: UsageSource.COUNTED,
}
_CACHE_MODES: Final = {
    CacheMode.USE: generation_pb2.CACHE_MODE_USE,
    CacheMode.BYPASS: generation_pb2.CACHE_MODE_BYPASS,
    CacheMode.REFRESH: generation_pb2.CACHE_MODE_REFRESH,
    CacheMode.EXACT: generation_pb2.CACHE_MODE_EXACT,
}
_SAMPLING: Final = ("temperature", "top_p", "top_k", "seed", "presence_penalty", "frequency_penalty")
# Members of a document's metadata that may hold its address.
_ADDRESSES: Final = ("url", "source_url", "source", "uri")


class Retrieval:
    """Asks the retrieval service."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._answers = answer_service_pb2_grpc.AnswerServiceStub(channel)
        self._collections = collection_service_pb2_grpc.CollectionServiceStub(channel)

    async def answer(self, question: Question) -> AsyncGenerator[AnswerEvent, None]:
        """See `AnswersFromCollections.answer`."""
        call = self._answers.StreamAnswer(_request(question), timeout=current_call().remaining(), metadata=outgoing_metadata())
        sources: tuple[Source, ...] = ()
        opening: answer_service_pb2.AnswerSources | None = None
        is_started = False
        try:
            async for response in call:
                kind = response.WhichOneof("event")
                if kind == "sources":
                    # What fails before the first word is still told by the status of HTTP: nothing goes out yet.
                    opening = response.sources
                    sources = tuple(_source(number, hit) for number, hit in enumerate(opening.hits, start=1))
                elif kind == "finished" and response.finished.HasField("error") and not is_started:
                    raise _told(response.finished)
                elif opening is not None:
                    if not is_started:
                        is_started = True
                        yield Sources(sources)
                        yield _started(question, opening)
                    if kind == "token":
                        yield Delta(response.token.text)
                    elif kind == "citation":
                        cited = response.citation
                        yield Cited(sources[cited.number - 1], cited.start, cited.end)
                    elif kind == "finished":
                        yield _finished(response.finished)
                        return
        except grpc.aio.AioRpcError as error:
            raise failure_of(error, _SERVICE) from error
        finally:
            call.cancel()
        raise Failure(Reason.GENERATION_FAILED, "the stream from retrieval ended before its last event")

    async def names(self) -> list[str]:
        """See `AnswersFromCollections.names`."""
        names: list[str] = []
        token = ""
        try:
            while True:
                listed = await self._collections.ListCollections(
                    collection_service_pb2.ListCollectionsRequest(page_size=250, page_token=token),
                    timeout=current_call().remaining(_NAMES_SECONDS),
                    metadata=outgoing_metadata(),
                )
                names += [one.collection for one in listed.collections]
                token = listed.next_page_token
                if not token:
                    return names
        except grpc.aio.AioRpcError as error:
            raise failure_of(error, _SERVICE) from error


def _request(question: Question) -> answer_service_pb2.StreamAnswerRequest:
    request, wanted = question.request, question.wanted
    chosen: dict[str, Any] = {name: value for name in _SAMPLING if (value := getattr(request.sampling, name)) is not None}
    return answer_service_pb2.StreamAnswerRequest(
        collections=question.collections,
        query=question.query,
        top_k=wanted.top_k,
        min_relevance=wanted.min_relevance,
        conversation=wanted.conversation,
        user=request.user,
        model=wanted.model,
        sampling=generation_pb2.Sampling(**chosen),
        max_tokens=request.max_tokens,
        cache=_CACHE_MODES[request.cache],
        attributes={name: value for name, value in request.attributes.items() if name != "tenant"},
        earlier=[
            answer_pb2.EarlierTurn(query=_cut(asked, _QUESTION_BYTES), text=_cut(said, _ANSWER_BYTES))
            for asked, said in question.earlier
        ],
        instructions=question.instructions,
    )


def _cut(text: str, most: int) -> str:
    """What was said before is background: its end may be left out."""
    return text.encode()[:most].decode(errors="ignore")


def _source(number: int, hit: search_pb2.Hit) -> Source:
    url = ""
    for name in _ADDRESSES:
        if name in hit.metadata.fields:
            text = hit.metadata.fields[name].string_value
            if text.startswith(("https://", "http://")):
                url = text
                break
    return Source(
        number=number,
        collection=hit.collection,
        document=hit.document,
        chunk=hit.chunk,
        title=hit.title,
        text=hit.text,
        url=url,
        start=hit.start,
        end=hit.end,
        relevance=hit.relevance,
    )


def _started(question: Question, opening: answer_service_pb2.AnswerSources) -> Started:
    assignment = None
    if opening.HasField("assignment"):
        given = opening.assignment
        assignment = Assignment(given.assignment, given.experiment, given.variant)
    return Started(question.request.model, _SERVICE, assignment, question.request.request_id, cached=opening.cached)


def _finished(finished: answer_service_pb2.AnswerFinished) -> Finished:
    usage = Usage(None, None, UsageSource.ESTIMATED)
    if finished.HasField("usage"):
        told = finished.usage
        usage = Usage(
            told.input_tokens if told.HasField("input_tokens") else None,
            told.output_tokens if told.HasField("output_tokens") else None,
            _USAGE_SOURCES.get(told.source, UsageSource.ESTIMATED),
        )
    times = finished.timings
    first = times.first_token.ToNanoseconds() / 1e9 if times.HasField("first_token") else None
    timings = Timings(first, times.total.ToNanoseconds() / 1e9)
    if finished.HasField("error"):
        return Finished(None, usage, timings, _told(finished))
    return Finished(_REASONS.get(finished.finish_reason, FinishReason.STOP), usage, timings)


def _told(finished: answer_service_pb2.AnswerFinished) -> Failure:
    return failure_told(finished.error) or Failure(Reason.GENERATION_FAILED, finished.error.message or "the answer failed")
