"""The gRPC services of inference, but for the OpenAI face: convert, call the domain, convert back."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from penstock.inference.v1 import (
    embedding_service_pb2_grpc,
    generation_service_pb2_grpc,
    tokenization_service_pb2_grpc,
)

from services.chassis.call import current_call
from services.inference import convert, dimensions, tokenization

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from penstock.inference.v1 import embedding_service_pb2, generation_service_pb2, tokenization_service_pb2

    from services.chassis.interceptors import Context
    from services.inference.models import Models
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

    def __init__(self, inference: Serves, models: Models) -> None:
        self._inference = inference
        self._models = models

    async def Embed(
        self,
        request: embedding_service_pb2.EmbedRequest,
        context: Context,
    ) -> embedding_service_pb2.EmbedResponse:
        """Embeds texts."""
        wanted = request.dimensions if request.HasField("dimensions") else None
        embedded = await dimensions.embed(
            self._inference,
            self._models,
            request.model,
            list(request.inputs),
            wanted,
            priority=convert.PRIORITIES[request.priority],
        )
        return convert.embed_response_of(embedded)


class TokenizationService(tokenization_service_pb2_grpc.TokenizationServiceServicer):
    """Counts tokens."""

    def __init__(self, models: Models) -> None:
        self._models = models

    async def Tokenize(
        self,
        request: tokenization_service_pb2.TokenizeRequest,
        context: Context,
    ) -> tokenization_service_pb2.TokenizeResponse:
        """Tells how many tokens a text is for a model."""
        return convert.tokenize_response_of(await tokenization.tokenize(self._models, request.model, request.text))
