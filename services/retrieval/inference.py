"""The embedder: penstock's inference service over gRPC."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import grpc.aio
from penstock.inference.v1 import (
    embedding_service_pb2,
    embedding_service_pb2_grpc,
    generation_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
)

from services.chassis.call import current_call, outgoing_metadata
from services.chassis.remote import failure_of
from services.retrieval.embedding import Embedded

if TYPE_CHECKING:
    from collections.abc import Sequence

# Most that one batch may take where the caller set no deadline, seconds.
_EMBED_LIMIT: Final = 60.0
_LIST_LIMIT: Final = 10.0
# A few texts are a question that somebody waits for; more are documents on their way in.
_MOST_ASKED: Final = 32


class InferenceEmbedder:
    """Embeds through the channel to inference."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._embedding = embedding_service_pb2_grpc.EmbeddingServiceStub(channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(channel)

    async def embed(self, model: str, texts: Sequence[str], fingerprint: str = "") -> Embedded:  # noqa: ARG002 - keeps none
        """See `Embedder.embed`. The vectors are the message's own lists, not copies."""
        priority = generation_pb2.PRIORITY_INTERACTIVE if len(texts) <= _MOST_ASKED else generation_pb2.PRIORITY_BULK
        request = embedding_service_pb2.EmbedRequest(model=model, inputs=texts, priority=priority)
        try:
            response = await self._embedding.Embed(
                request, timeout=current_call().remaining(_EMBED_LIMIT), metadata=outgoing_metadata()
            )
        except grpc.aio.AioRpcError as error:
            raise failure_of(error, "inference") from error
        vectors = [embedding.values for embedding in response.embeddings]
        return Embedded(vectors, response.model, response.fingerprint, response.dimensions)

    async def languages(self, model: str) -> tuple[str, ...]:
        """See `Embedder.languages`."""
        try:
            response = await self._models.ListModels(
                model_service_pb2.ListModelsRequest(),
                timeout=current_call().remaining(_LIST_LIMIT),
                metadata=outgoing_metadata(),
            )
        except grpc.aio.AioRpcError as error:
            raise failure_of(error, "inference") from error
        return next((tuple(one.languages) for one in response.models if one.model == model), ())
