"""An engine in memory that says what a test tells it to, and remembers what it was asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.inference.engine import (
    Capability,
    Delta,
    Embeddings,
    End,
    FinishReason,
    Generation,
    Model,
    Usage,
    UsageSource,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from services.chassis.errors import Failure
    from services.inference.engine import Event


class ScriptedEngine:
    """Says `texts`, then ends, or fails where `failure` is set."""

    def __init__(self, name: str, *models: Model) -> None:
        self.name = name
        self.listed: Sequence[Model] = models
        self.away: Failure | None = None
        self.texts: Sequence[str] = ("Water ", "flows.")
        self.failure: Failure | None = None
        self.usage = Usage(7, 2, UsageSource.REPORTED)
        self.finish_reason = FinishReason.STOP
        self.asked: list[Generation] = []
        self.probes = 0
        self.is_closed_early = False

    async def models(self) -> Sequence[Model]:
        self.probes += 1
        if self.away is not None:
            raise self.away
        return self.listed

    async def generate(self, generation: Generation) -> AsyncGenerator[Event, None]:
        self.asked.append(generation)
        self.is_closed_early = True
        for text in self.texts:
            yield Delta(text)
        self.is_closed_early = False
        if self.failure is not None:
            raise self.failure
        yield End(self.finish_reason, self.usage)

    async def embed(self, model: str, inputs: Sequence[str]) -> Embeddings:  # noqa: ARG002 - one model only
        if self.failure is not None:
            raise self.failure
        return Embeddings([[float(len(text)), 1.0] for text in inputs], None, UsageSource.ESTIMATED)

    async def close(self) -> None:
        return


def writer(name: str, engine: str) -> Model:
    return Model(name, engine, (Capability.GENERATION,))


def embedder(name: str, engine: str = "minilm") -> Model:
    return Model(name, engine, (Capability.EMBEDDING,), dimensions=2, fingerprint=f"{name}:1")


def extractor(name: str = "extractive") -> Model:
    return Model(name, "extractive", (Capability.EXTRACTION,))
