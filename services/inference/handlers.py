"""The gRPC services of inference, but for the OpenAI face: convert, call the domain, convert back."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from penstock.inference.v1 import (
    embedding_service_pb2_grpc,
    generation_service_pb2_grpc,
)

from services.chassis.call import current_call
from services.inference import convert

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from penstock.inference.v1 import embedding_service_pb2, generation_service_pb2

    from services.chassis.interceptors import Context
    from services.inference.serving import Serves


class GenerationService(generation_service_pb2_grpc.GenerationServiceServicer):
    """Generates text."""

    def __init__(self, inference: Serves) -> None:
        self._inference = inference

    async def Generate(
        self,
        request: generation_service_pb2.GenerateRequest,
        context: Context,
    ) -> generation_service_pb2.GenerateResponse:
        """Generates, and answers once all of it is there."""
        return convert.response_of(await self._inference.complete(convert.request_of(request, current_call().request_id)))

    async def StreamGenerate(
        self,
        request: generation_service_pb2.StreamGenerateRequest,
        context: Context,
    ) -> AsyncIterator[generation_service_pb2.StreamGenerateResponse]:
        """Generates, and streams what is there."""
        request_id = current_call().request_id
        async with aclosing(self._inference.stream(convert.request_of(request, request_id))) as events:
            async for event in events:
                for message in convert.events_of(event, request_id):
                    yield message


class EmbeddingService(embedding_service_pb2_grpc.EmbeddingServiceServicer):
    """Turns text into vectors."""

    def __init__(self, inference: Serves) -> None:
        self._inference = inference

    async def Embed(
        self,
        request: embedding_service_pb2.EmbedRequest,
        context: Context,
    ) -> embedding_service_pb2.EmbedResponse:
        """Embeds texts."""
        return convert.embed_response_of(await self._inference.embed(request.model, list(request.inputs)))
