"""An embedded engine that runs in another process of this machine, where its models are loaded once for all workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import grpc
import grpc.aio

from services.chassis.errors import Failure, Reason
from services.inference.tokenization import Tokens
from services.inference.workers import frames

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from services.inference.engine import Embeddings, Event, Generation, Model

_Unary: TypeAlias = "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]"
_Stream: TypeAlias = "grpc.aio.UnaryStreamMultiCallable[bytes, bytes]"
# A fresh process takes its time to load what it embeds with; then it answers at once.
_EMBED_SECONDS: Final = 60.0
_AWAY_SECONDS: Final = 0.25


class BorrowedEngine:
    """Looks to a worker as the engine itself would.

    Args:
        name: The engine's name.
        channel: To the process that runs it; stays the caller's.
    """

    def __init__(self, name: str, channel: grpc.aio.Channel) -> None:
        self._name = name
        self._room = 1
        self._models: _Unary = channel.unary_unary(f"/{frames.SERVICE}/Models")
        self._generate: _Stream = channel.unary_stream(f"/{frames.SERVICE}/Generate")
        self._embed: _Unary = channel.unary_unary(f"/{frames.SERVICE}/Embed")
        self._tokenize: _Unary = channel.unary_unary(f"/{frames.SERVICE}/Tokenize")

    @property
    def name(self) -> str:
        """The engine's name."""
        return self._name

    @property
    def away_seconds(self) -> float:
        """How often to look for the process while it is being started again."""
        return _AWAY_SECONDS

    async def models(self) -> Sequence[Model]:
        """As the engine's own."""
        answer = await self._asked(self._models, frames.Listing(self._name))
        if not isinstance(answer, frames.Listed):
            raise self._gone()
        self._room = answer.room or self._room
        return answer.models

    async def generate(self, generation: Generation) -> AsyncGenerator[Event, None]:
        """As the engine's own; closing it ends the generation there."""
        call = self._generate(frames.encode(frames.Generating(self._name, generation)))
        has_said = False
        try:
            async for data in call:
                answer = frames.read_answer(data)
                if isinstance(answer, frames.More):
                    has_said = True
                    yield answer.delta
                elif isinstance(answer, frames.Over):
                    yield answer.end
                    return
                elif isinstance(answer, frames.Failed):
                    raise answer.failure()
        except grpc.aio.AioRpcError as error:
            raise self._cut() if has_said else self._gone() from error
        finally:
            call.cancel()

    async def embed(self, model: str, inputs: Sequence[str]) -> Embeddings:
        """As the engine's own."""
        answer = await self._asked(self._embed, frames.Embedding(self._name, model, list(inputs)), _EMBED_SECONDS)
        if not isinstance(answer, frames.Vectors):
            raise self._gone()
        return answer.unpacked()

    async def tokenize(self, model: str, text: str) -> Tokens:
        """As the engine's own."""
        answer = await self._asked(self._tokenize, frames.Tokenizing(self._name, model, text), _EMBED_SECONDS)
        if not isinstance(answer, frames.Counted):
            raise self._gone()
        return Tokens(answer.count, answer.ids, answer.source)

    async def close(self) -> None:
        """Holds nothing; the channel is its maker's."""

    async def _asked(self, method: _Unary, request: object, seconds: float | None = None) -> frames.Answer:
        try:
            answer: frames.Answer = frames.read_answer(await method(frames.encode(request), timeout=seconds))
        except grpc.aio.AioRpcError as error:
            raise self._gone() from error
        if isinstance(answer, frames.Failed):
            raise answer.failure()
        return answer

    def _gone(self) -> Failure:
        message = f"engine {self._name} is not available: the process that runs the embedded models does not answer; try again"
        return Failure(Reason.ENGINE_UNAVAILABLE, message, metadata={"engine": self._name}, retry_after=1.0)

    def _cut(self) -> Failure:
        message = f"engine {self._name} failed while it generated: the process that runs it has ended"
        return Failure(Reason.GENERATION_FAILED, message, metadata={"engine": self._name})


class BorrowedRoomyEngine(BorrowedEngine):
    """One that runs only so many generations of a model at once."""

    @property
    def room(self) -> int:
        """How many, as it says itself."""
        return self._room
