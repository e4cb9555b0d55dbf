"""A small real server on the chassis, for its tests: echoes, counts, fails on demand."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

from penstock.inference.v1 import generation_pb2, generation_service_pb2, generation_service_pb2_grpc

from services.chassis.errors import Failure, Reason
from services.chassis.server import Served, run
from services.chassis.settings import ServerSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AsyncExitStack

    from services.chassis.call import Lifecycle

NAME = "penstock.inference.v1.GenerationService"


class Echo(generation_service_pb2_grpc.GenerationServiceServicer):
    """`model` says what happens: `missing` fails, `defect` breaks, `slow` takes long; else the prompt comes back."""

    def __init__(self, draining: asyncio.Event) -> None:
        self.draining = draining
        self.cancelled = 0

    async def Generate(self, request: generation_service_pb2.GenerateRequest, _context: Any) -> Any:
        if request.model == "missing":
            raise Failure(Reason.MODEL_NOT_FOUND, "no model 'missing'", metadata={"model": "missing"}, retry_after=2)
        if request.model == "defect":
            raise KeyError("a secret detail")
        if request.model == "slow":
            await asyncio.sleep(1)
        if request.model == "cancelled":
            return generation_service_pb2.GenerateResponse(text=str(self.cancelled))
        return generation_service_pb2.GenerateResponse(text=request.prompt)

    async def StreamGenerate(
        self, request: generation_service_pb2.StreamGenerateRequest, _context: Any
    ) -> AsyncIterator[generation_service_pb2.StreamGenerateResponse]:
        try:
            for word in request.prompt.split():
                delta = generation_pb2_delta(word)
                yield delta
                await asyncio.sleep(0.02)
            if request.model == "until-drained":
                await self.draining.wait()
            if request.model == "forever":
                await asyncio.sleep(3600)
            if request.model == "missing":
                raise Failure(Reason.GENERATION_FAILED, "cut")
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise
        finished = generation_service_pb2.GenerationFinished(finish_reason=generation_pb2.FINISH_REASON_STOP)
        yield generation_service_pb2.StreamGenerateResponse(finished=finished)


def generation_pb2_delta(text: str) -> generation_service_pb2.StreamGenerateResponse:
    return generation_service_pb2.StreamGenerateResponse(delta=generation_service_pb2.GenerationDelta(text=text))


async def build(_stack: AsyncExitStack, lifecycle: Lifecycle) -> Sequence[Served]:
    register = generation_service_pb2_grpc.add_GenerationServiceServicer_to_server
    return [Served(NAME, Echo(lifecycle.draining), register)]


if __name__ == "__main__":
    run("echo", ServerSettings(), build)  # type: ignore[call-arg]  # read from the environment
    sys.exit(0)
