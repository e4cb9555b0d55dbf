"""The gRPC service of the OpenAI face: raw JSON in, raw JSON or server-sent events out."""

from __future__ import annotations

from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING

from google.api.httpbody_pb2 import HttpBody
from penstock.inference.v1 import openai_service_pb2, openai_service_pb2_grpc

from services.chassis.call import current_call
from services.chassis.errors import Failure
from services.inference import dimensions, openai_face, openai_requests
from services.inference.engine import Delta
from services.inference.generation import Finished, Started

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    from services.chassis.interceptors import Context
    from services.inference.generation import Request
    from services.inference.models import Models
    from services.inference.serving import Serves


class OpenAIService(openai_service_pb2_grpc.OpenAIServiceServicer):
    """The OpenAI API, for clients that speak it."""

    def __init__(self, inference: Serves, models: Models) -> None:
        self._inference = inference
        self._models = models

    async def CreateChatCompletion(
        self,
        request: openai_service_pb2.CreateChatCompletionRequest,
        context: Context,
    ) -> AsyncIterator[openai_service_pb2.CreateChatCompletionResponse]:
        """Chat completion, as one body of JSON or as server-sent events."""
        with _openai_errors():
            chat = openai_requests.parse_chat(request.body.data)
            asked = openai_requests.request_of(chat, current_call().request_id)
            if not chat.stream:
                completed = await self._inference.complete(asked)
                yield _piece(openai_face.completion(completed), openai_face.JSON)
                return
            include_usage = bool(chat.stream_options and chat.stream_options.include_usage)
            async with aclosing(self._events(asked, include_usage)) as events:
                content_type = openai_face.EVENT_STREAM
                async for event in events:
                    yield _piece(event, content_type)
                    content_type = ""

    async def _events(self, asked: Request, include_usage: bool) -> AsyncGenerator[bytes, None]:
        writer: openai_face.ChunkWriter | None = None
        async with aclosing(self._inference.stream(asked)) as events:
            async for event in events:
                if isinstance(event, Started):
                    writer = openai_face.ChunkWriter(event, include_usage, asked.form.alternatives)
                    yield writer.first()
                elif writer is None:
                    continue
                elif isinstance(event, Delta):
                    yield writer.delta(event)
                elif isinstance(event, Finished):
                    if event.failure is not None:
                        # The HTTP status is out by now: the error can only be told in the stream.
                        yield openai_face.error_event(event.failure)
                    elif event.finish_reason is not None:
                        yield writer.last(event.finish_reasons or (event.finish_reason,), event.usage)
                    return

    async def CreateEmbeddings(
        self,
        request: openai_service_pb2.CreateEmbeddingsRequest,
        context: Context,
    ) -> openai_service_pb2.CreateEmbeddingsResponse:
        """Embeddings, as floats or base64."""
        with _openai_errors():
            asked = openai_requests.parse_embeddings(request.body.data)
            embedded = await dimensions.embed(self._inference, self._models, asked.model, asked.inputs(), asked.dimensions)
            data = openai_face.embeddings(asked, embedded)
        return openai_service_pb2.CreateEmbeddingsResponse(body=HttpBody(content_type=openai_face.JSON, data=data))

    async def ListOpenAIModels(
        self,
        request: openai_service_pb2.ListOpenAIModelsRequest,
        context: Context,
    ) -> openai_service_pb2.ListOpenAIModelsResponse:
        """The models in reach, as OpenAI lists them."""
        data = openai_face.model_list(self._models.listed())
        return openai_service_pb2.ListOpenAIModelsResponse(body=HttpBody(content_type=openai_face.JSON, data=data))


@contextmanager
def _openai_errors() -> Iterator[None]:
    try:
        yield
    except Failure as failure:
        raise openai_face.with_error_body(failure) from failure


def _piece(data: bytes, content_type: str) -> openai_service_pb2.CreateChatCompletionResponse:
    return openai_service_pb2.CreateChatCompletionResponse(body=HttpBody(content_type=content_type, data=data))
