"""Lends the engines of this process to the workers beside it, so that there is one copy of each model on the machine."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from services.chassis.errors import Failure, Reason
from services.inference.backends import Roomy
from services.inference.engine import Delta
from services.inference.tokenization import Tokenizes
from services.inference.workers import frames

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from services.chassis.interceptors import Context
    from services.inference.engine import Engine


class Lender:
    """The engines, by their names."""

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        self._engines = engines

    async def models(self, request: bytes) -> frames.Answer:
        """Tells what an engine serves; one that is not installed serves nothing."""
        engine = self._engines.get(frames.read_listing(request).engine)
        if engine is None:
            return frames.Listed((), 0)
        return frames.Listed(tuple(await engine.models()), engine.room if isinstance(engine, Roomy) else 0)

    async def generate(self, request: bytes, _context: Context) -> AsyncIterator[bytes]:
        """Streams what an engine writes; a failure is the last that it tells."""
        asked = frames.read_generating(request)
        try:
            async with aclosing(self._engine(asked.engine).generate(asked.generation)) as events:
                async for event in events:
                    yield frames.encode(frames.More(event) if isinstance(event, Delta) else frames.Over(event))
        except Failure as failure:
            yield frames.encode(frames.Failed.of(failure))

    async def embed(self, request: bytes) -> frames.Answer:
        """Embeds."""
        asked = frames.read_embedding(request)
        return frames.Vectors.of(await self._engine(asked.engine).embed(asked.model, asked.inputs))

    async def tokenize(self, request: bytes) -> frames.Answer:
        """Counts tokens."""
        asked = frames.read_tokenizing(request)
        engine = self._engine(asked.engine)
        if not isinstance(engine, Tokenizes):
            raise Failure(Reason.MODEL_CAPABILITY_MISSING, f"model: {asked.model} does not tell its tokens")
        tokens = await engine.tokenize(asked.model, asked.text)
        return frames.Counted(tokens.count, tokens.ids, tokens.source)

    def _engine(self, name: str) -> Engine:
        engine = self._engines.get(name)
        if engine is None:
            raise Failure(Reason.ENGINE_UNAVAILABLE, f"engine {name} is not installed here", metadata={"engine": name})
        return engine


def register(lender: Lender, server: grpc.aio.Server) -> None:
    """Serves the engines. Bytes go in and out as they are."""
    unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "Models": unary(_told(lender.models)),
        "Generate": stream(lender.generate),
        "Embed": unary(_told(lender.embed)),
        "Tokenize": unary(_told(lender.tokenize)),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(frames.SERVICE, handlers),))


def _told(answer: Callable[[bytes], Awaitable[frames.Answer]]) -> Any:
    async def call(request: bytes, _context: Context) -> bytes:
        try:
            return frames.encode(await answer(request))
        except Failure as failure:
            return frames.encode(frames.Failed.of(failure))

    return call
