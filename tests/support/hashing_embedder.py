"""A small embedder for tests: real gRPC, vectors made of hashed words, so that shared words mean nearness.

It stands in for inference where a test is about retrieval; the end-to-end tests use the real embedder.
"""

# ruff: noqa: ARG002 - methods have the arguments that gRPC gives them

from __future__ import annotations

import asyncio
import math
import zlib
from typing import TYPE_CHECKING, Any

from penstock.inference.v1 import (
    embedding_pb2,
    embedding_service_pb2,
    embedding_service_pb2_grpc,
    form_pb2,
    generation_service_pb2,
    generation_service_pb2_grpc,
    model_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
)

from services.chassis.errors import Failure, Reason
from services.chassis.server import Served, new_server
from services.chassis.settings import ServerSettings
from tests.support.ports import free_port

if TYPE_CHECKING:
    import grpc.aio

NAME = "hashing"
DIMENSIONS = 64
# Another model: longer vectors, of which the first half is the same for all texts, so that no two of them are far apart.
NARROW, NARROW_DIMENSIONS, NARROW_FINGERPRINT = "hashing-narrow", 128, "hashed-words-narrow-1"


# Models that grade passages: with likelihoods, without, and one that cannot choose among answers.
JUDGE, PLAIN_JUDGE, NO_JUDGE = "judge", "plain-judge", "no-judge"


class HashingEmbedder(
    embedding_service_pb2_grpc.EmbeddingServiceServicer,
    model_service_pb2_grpc.ModelServiceServicer,
    generation_service_pb2_grpc.GenerationServiceServicer,
):
    """Serves Embed, ListModels and Generate; it knows English alone."""

    def __init__(self) -> None:
        self.port = free_port()
        self.fingerprint = "hashed-words-1"
        self.texts = 0
        # Calls that have begun.
        self.calls = 0
        self.delay = 0.0
        # Words that make a passage right in the eyes of a judge, and how long a judge thinks, seconds.
        self.right = ""
        self.thinking = 0.0
        self.grades = 0
        # Whether the narrow model gives vectors that say nothing of their texts.
        self.muddled = False
        self._server: grpc.aio.Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        settings = ServerSettings(grpc_address=self.address)
        register = embedding_service_pb2_grpc.add_EmbeddingServiceServicer_to_server
        register_models = model_service_pb2_grpc.add_ModelServiceServicer_to_server
        served = [
            Served("penstock.inference.v1.EmbeddingService", self, register),
            Served("penstock.inference.v1.ModelService", self, register_models),
            Served(
                "penstock.inference.v1.GenerationService",
                self,
                generation_service_pb2_grpc.add_GenerationServiceServicer_to_server,
            ),
        ]
        self._server, _ = new_server(settings, served)
        self._server.add_insecure_port(self.address)
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def Embed(self, request: embedding_service_pb2.EmbedRequest, context: Any) -> embedding_service_pb2.EmbedResponse:
        narrow = request.model == NARROW
        if request.model not in {NAME, NARROW, "", "auto"}:
            raise Failure(Reason.MODEL_NOT_FOUND, f"there is no model {request.model!r}", metadata={"model": request.model})
        self.calls += 1
        await asyncio.sleep(self.delay)
        self.texts += len(request.inputs)
        return embedding_service_pb2.EmbedResponse(
            embeddings=[
                embedding_pb2.Embedding(values=self._narrow(text) if narrow else _vector(text)) for text in request.inputs
            ],
            model=NARROW if narrow else NAME,
            dimensions=NARROW_DIMENSIONS if narrow else DIMENSIONS,
            fingerprint=NARROW_FINGERPRINT if narrow else self.fingerprint,
        )

    async def Generate(
        self, request: generation_service_pb2.GenerateRequest, context: Any
    ) -> generation_service_pb2.GenerateResponse:
        """Grades: the right passage is a sure 3, every other one a 1 or, a little likelier, a 0."""
        missing = {NO_JUDGE: "CHOICE", PLAIN_JUDGE: "LOGPROBS" if request.HasField("top_logprobs") else ""}.get(request.model)
        if missing:
            facts = {"model": request.model, "capability": missing}
            raise Failure(Reason.MODEL_CAPABILITY_MISSING, f"{request.model} cannot do {missing}", metadata=facts)
        if request.model not in {JUDGE, PLAIN_JUDGE}:
            raise Failure(Reason.MODEL_NOT_FOUND, f"there is no model {request.model!r}", metadata={"model": request.model})
        assert list(request.output.choice.texts) == ["0", "1", "2", "3"]
        await asyncio.sleep(self.thinking)
        self.grades += 1
        right = self.right in request.messages[-1].parts[0].text
        likely = {"3": 0.9, "2": 0.1} if right else {"0": 0.6, "1": 0.4}
        top = [form_pb2.TokenLogprob(token=token, logprob=math.log(part)) for token, part in likely.items()]
        told = [form_pb2.TokenLogprob(token=top[0].token, logprob=top[0].logprob, top=top)]
        return generation_service_pb2.GenerateResponse(
            text=top[0].token, model=request.model, logprobs=told if request.HasField("top_logprobs") else []
        )

    def _narrow(self, text: str) -> list[float]:
        return narrowed(_vector(str(zlib.crc32(text.encode()) % 7) if self.muddled else text))

    async def ListModels(
        self, request: model_service_pb2.ListModelsRequest, context: Any
    ) -> model_service_pb2.ListModelsResponse:
        model = model_pb2.Model(
            model=NAME,
            capabilities=[model_pb2.CAPABILITY_EMBEDDING],
            dimensions=DIMENSIONS,
            languages=["en"],
            fingerprint=self.fingerprint,
        )
        other = model_pb2.Model(
            model=NARROW,
            capabilities=[model_pb2.CAPABILITY_EMBEDDING],
            dimensions=NARROW_DIMENSIONS,
            languages=["en"],
            fingerprint=NARROW_FINGERPRINT,
        )
        return model_service_pb2.ListModelsResponse(models=[model, other])


def narrowed(vector: list[float]) -> list[float]:
    """As many constants before the vector: cosines come to lie in the upper tenth of their range."""
    return [*(math.sqrt(9 / DIMENSIONS) for _ in vector), *vector]


def _vector(text: str) -> list[float]:
    values = [0.0] * DIMENSIONS
    for word in text.lower().split():
        number = zlib.crc32(word.strip(".,?!").encode())
        values[number % DIMENSIONS] += 1.0 if number & 0x40000000 else -1.0
    norm = math.sqrt(sum(value * value for value in values)) or 1.0
    return [value / norm for value in values]
