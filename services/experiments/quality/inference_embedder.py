"""The embedder: penstock's inference service over gRPC."""

from __future__ import annotations

import time
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
from services.experiments.quality.relevance import Embedded

if TYPE_CHECKING:
    from collections.abc import Sequence

# Most that a call may take where the caller set no deadline, seconds.
_LIMIT: Final = 10.0
# What a model knows changes with the model only; it is asked again after so many seconds.
_KNOWN_SECONDS: Final = 60.0


class InferenceEmbedder:
    """Embeds through the channel to inference, by the model of that name."""

    def __init__(self, channel: grpc.aio.Channel, model: str) -> None:
        self._embedding = embedding_service_pb2_grpc.EmbeddingServiceStub(channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(channel)
        self._model = model
        self._languages: tuple[str, ...] = ()
        self._asked_at = float("-inf")

    async def languages(self) -> tuple[str, ...]:
        """See `Embedder.languages`."""
        if time.monotonic() - self._asked_at > _KNOWN_SECONDS:
            try:
                response = await self._models.ListModels(
                    model_service_pb2.ListModelsRequest(),
                    timeout=current_call().remaining(_LIMIT),
                    metadata=outgoing_metadata(),
                )
            except grpc.aio.AioRpcError as error:
                raise failure_of(error, "inference") from error
            found = next((one.languages for one in response.models if one.model == self._model), ())
            self._languages = tuple(tag.partition("-")[0] for tag in found)
            self._asked_at = time.monotonic()
        return self._languages

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """See `Embedder.embed`."""
        request = embedding_service_pb2.EmbedRequest(
            model=self._model, inputs=texts, priority=generation_pb2.PRIORITY_INTERACTIVE
        )
        try:
            response = await self._embedding.Embed(
                request, timeout=current_call().remaining(_LIMIT), metadata=outgoing_metadata()
            )
        except grpc.aio.AioRpcError as error:
            raise failure_of(error, "inference") from error
        return Embedded([one.values for one in response.embeddings], response.model)
