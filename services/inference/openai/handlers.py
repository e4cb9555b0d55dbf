"""The gRPC service of the OpenAI face: raw JSON in, raw JSON or server-sent events out."""

from __future__ import annotations

import logging
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from google.api.httpbody_pb2 import HttpBody
from penstock.inference.v1 import openai_service_pb2, openai_service_pb2_grpc

from services.chassis.call import current_call
from services.chassis.errors import Failure, Reason
from services.inference import dimensions
from services.inference.engine import Delta
from services.inference.generation import Finished, Started
from services.inference.inference import completed
from services.inference.openai import collections, completions, errors, face, requests, responses
from services.inference.openai.response_events import ResponseWriter, response_body

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence

    from services.chassis.interceptors import Context
    from services.inference.engine import FinishReason, Usage
    from services.inference.generation import Completed, Event, Request
    from services.inference.models import Models
    from services.inference.openai.collections import AnswerEvent, AnswersFromCollections, Cited, Retrieving, Source
    from services.inference.serving import Serves

_log = logging.getLogger(__name__)
_READING: Final = "retrieval:read"


class Writer(Protocol):
    """Writes one answer as server-sent events."""

    def first(self) -> bytes:
        """That it has begun."""

    def delta(self, delta: Delta) -> bytes:
        """More of it."""

    def cited(self, cited: Cited) -> bytes:
        """What it cites."""

    def last(self, reasons: Sequence[FinishReason], usage: Usage) -> bytes:
        """Its end."""

    def failed(self, failure: Failure) -> bytes:
        """Its end, where it failed on the way."""


@dataclass(frozen=True, slots=True)
class _Whole:
    """A whole answer; sources and citations where it comes from a collection."""

    completed: Completed
    sources: tuple[Source, ...] = ()
    cited: tuple[Cited, ...] = ()


class OpenAIService(openai_service_pb2_grpc.OpenAIServiceServicer):
    """The OpenAI API, for clients that speak it."""

    def __init__(self, inference: Serves, models: Models, answers: AnswersFromCollections | None = None) -> None:
        self._inference = inference
        self._models = models
        self._answers = answers

    async def CreateChatCompletion(
        self,
        request: openai_service_pb2.CreateChatCompletionRequest,
        context: Context,
    ) -> AsyncIterator[openai_service_pb2.CreateChatCompletionResponse]:
        """Chat completion, as one body of JSON or as server-sent events."""
        respond = openai_service_pb2.CreateChatCompletionResponse
        with _openai_errors():
            chat = requests.parse_chat(request.body.data)
            asked = requests.request_of(chat, current_call().request_id)
            if not chat.stream:
                whole = await self._whole(asked, chat.penstock)
                yield respond(body=_json(face.completion(whole.completed, whole.sources, whole.cited)))
                return
            include_usage = bool(chat.stream_options and chat.stream_options.include_usage)

            def begun(started: Started, sources: Sequence[Source]) -> Writer:
                return face.ChunkWriter(started, include_usage, asked.form.alternatives, sources)

            async with aclosing(self._written(asked, chat.penstock, begun)) as bodies:
                async for body in bodies:
                    yield respond(body=body)

    async def CreateCompletion(
        self,
        request: openai_service_pb2.CreateCompletionRequest,
        context: Context,
    ) -> AsyncIterator[openai_service_pb2.CreateCompletionResponse]:
        """Completion of a text, as one body of JSON or as server-sent events."""
        respond = openai_service_pb2.CreateCompletionResponse
        with _openai_errors():
            chat = completions.parse_completion(request.body.data)
            asked = requests.request_of(chat, current_call().request_id)
            if not chat.stream:
                whole = await self._whole(asked, chat.penstock)
                yield respond(body=_json(completions.text_completion(whole.completed, whole.sources)))
                return
            include_usage = bool(chat.stream_options and chat.stream_options.include_usage)

            def begun(started: Started, sources: Sequence[Source]) -> Writer:
                return completions.CompletionWriter(started, include_usage, asked.form.alternatives, sources)

            async with aclosing(self._written(asked, chat.penstock, begun)) as bodies:
                async for body in bodies:
                    yield respond(body=body)

    async def CreateResponse(
        self,
        request: openai_service_pb2.CreateResponseRequest,
        context: Context,
    ) -> AsyncIterator[openai_service_pb2.CreateResponseResponse]:
        """A response, as one body of JSON or as typed server-sent events."""
        respond = openai_service_pb2.CreateResponseResponse
        with _openai_errors():
            wanted = responses.parse_response(request.body.data)
            asked = responses.response_request_of(wanted, current_call().request_id)
            if not wanted.stream:
                whole = await self._whole(asked, wanted.penstock)
                yield respond(body=_json(response_body(wanted, whole.completed, whole.sources, whole.cited)))
                return

            def begun(started: Started, sources: Sequence[Source]) -> Writer:
                return ResponseWriter(wanted, started, sources)

            async with aclosing(self._written(asked, wanted.penstock, begun)) as bodies:
                async for body in bodies:
                    yield respond(body=body)

    async def CreateEmbeddings(
        self,
        request: openai_service_pb2.CreateEmbeddingsRequest,
        context: Context,
    ) -> openai_service_pb2.CreateEmbeddingsResponse:
        """Embeddings, as floats or base64."""
        with _openai_errors():
            asked = requests.parse_embeddings(request.body.data)
            embedded = await dimensions.embed(self._inference, self._models, asked.model, asked.inputs(), asked.dimensions)
            data = face.embeddings(asked, embedded)
        return openai_service_pb2.CreateEmbeddingsResponse(body=_json(data))

    async def ListOpenAIModels(
        self,
        request: openai_service_pb2.ListOpenAIModelsRequest,
        context: Context,
    ) -> openai_service_pb2.ListOpenAIModelsResponse:
        """The models in reach, as OpenAI lists them, and the collections that can be asked like models."""
        names: Sequence[str] = ()
        if self._answers is not None and _may_read():
            try:
                names = await self._answers.names()
            except Failure as failure:
                # Models can be used without retrieval, so they are listed without it.
                _log.warning("collections are not listed: %s", failure.message)
        data = face.model_list(self._models.listed(), names)
        return openai_service_pb2.ListOpenAIModelsResponse(body=_json(data))

    async def _whole(self, asked: Request, wanted: Retrieving | None) -> _Whole:
        if not collections.is_collection(asked.model):
            return _Whole(await self._inference.complete(asked))
        sources: list[Source] = []
        cited: list[Cited] = []
        answered = await completed(_gathered(self._answered(asked, wanted), sources, cited), 1)
        return _Whole(answered, tuple(sources), tuple(cited))

    async def _written(
        self, asked: Request, wanted: Retrieving | None, begin: Callable[[Started, Sequence[Source]], Writer]
    ) -> AsyncGenerator[HttpBody, None]:
        """Server-sent events; the first body tells the content type of all."""
        events: AsyncGenerator[AnswerEvent, None]
        events = self._answered(asked, wanted) if collections.is_collection(asked.model) else self._inference.stream(asked)
        writer: Writer | None = None
        sources: tuple[Source, ...] = ()
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Started):
                    writer = begin(event, sources)
                    yield HttpBody(content_type=face.EVENT_STREAM, data=writer.first())
                elif isinstance(event, collections.Sources):
                    sources = event.sources
                elif writer is None:
                    continue
                elif isinstance(event, Delta):
                    yield HttpBody(data=writer.delta(event))
                elif isinstance(event, collections.Cited):
                    yield HttpBody(data=writer.cited(event))
                elif isinstance(event, Finished):
                    if event.failure is not None:
                        # The HTTP status is out by now: the error can only be told in the stream.
                        yield HttpBody(data=writer.failed(event.failure))
                    elif event.finish_reason is not None:
                        yield HttpBody(data=writer.last(event.finish_reasons or (event.finish_reason,), event.usage))
                    return

    def _answered(self, asked: Request, wanted: Retrieving | None) -> AsyncGenerator[AnswerEvent, None]:
        if self._answers is None:
            message = f"model {asked.model[:256]!r}: this service knows no retrieval service; set its RETRIEVAL_ADDRESS"
            raise Failure(Reason.MODEL_NOT_FOUND, message, metadata={"model": asked.model[:256]})
        if not _may_read():
            # The gateway let it in as inference; what it asks for is documents.
            message = f"model {asked.model[:256]!r}: the API key must be good for {_READING} too"
            raise Failure(Reason.PERMISSION_DENIED, message, metadata={"scope": _READING})
        return self._answers.answer(collections.question_of(asked, wanted))


def _may_read() -> bool:
    scopes = current_call().scopes
    return not scopes or _READING in scopes.split()


async def _gathered(
    events: AsyncGenerator[AnswerEvent, None], sources: list[Source], cited: list[Cited]
) -> AsyncGenerator[Event, None]:
    """What any model says of it; sources and citations are put aside."""
    async with aclosing(events):
        async for event in events:
            if isinstance(event, collections.Sources):
                sources += event.sources
            elif isinstance(event, collections.Cited):
                cited.append(event)
            else:
                if isinstance(event, Finished) and event.failure is not None:
                    raise event.failure
                yield event


@contextmanager
def _openai_errors() -> Iterator[None]:
    try:
        yield
    except Failure as failure:
        raise errors.with_error_body(failure) from failure


def _json(data: bytes) -> HttpBody:
    return HttpBody(content_type=face.JSON, data=data)
