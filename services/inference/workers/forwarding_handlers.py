"""Model management in a worker: it is done by the process that runs the embedded engines, for all workers at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio
from penstock.inference.v1 import model_service_pb2, model_service_pb2_grpc

from services.chassis.call import current_call, outgoing_metadata
from services.chassis.errors import Failure, Reason

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from services.chassis.interceptors import Context
    from services.inference.engine import Engine
    from services.inference.model_handlers import ModelService
    from services.inference.models import Models

_DETAILS: Final = "grpc-status-details-bin"


class ForwardedModelService(model_service_pb2_grpc.ModelServiceServicer):
    """Passes calls on, and their answers back as they come.

    Args:
        listing: Lists the models as this process sees them.
        models: What this process knows of them; made to look after each change.
        borrowed: The engines of the other process, which know at any moment how their models stand.
        channel: To the process that runs the engines.
        changed: Told after each change, to have the other workers look as well.
    """

    def __init__(
        self,
        listing: ModelService,
        models: Models,
        borrowed: Sequence[Engine],
        channel: grpc.aio.Channel,
        changed: Callable[[], None],
    ) -> None:
        self._listing = listing
        self._models = models
        self._borrowed = borrowed
        self._stub = model_service_pb2_grpc.ModelServiceStub(channel)
        self._changed = changed

    async def ListModels(
        self, request: model_service_pb2.ListModelsRequest, context: Context
    ) -> model_service_pb2.ListModelsResponse:
        """Lists the models as they stand now."""
        await asyncio.gather(*(self._models.refresh(engine) for engine in self._borrowed))
        return await self._listing.ListModels(request, context)

    async def LoadModel(
        self, request: model_service_pb2.LoadModelRequest, context: Context
    ) -> AsyncIterator[model_service_pb2.LoadModelResponse]:
        """Brings a model into memory."""
        async for response in self._streamed(self._stub.LoadModel, request, context):
            yield response

    async def UnloadModel(
        self, request: model_service_pb2.UnloadModelRequest, context: Context
    ) -> model_service_pb2.UnloadModelResponse:
        """Takes a model out of memory."""
        response: model_service_pb2.UnloadModelResponse = await self._answered(self._stub.UnloadModel, request, context)
        return response

    async def PullModel(
        self, request: model_service_pb2.PullModelRequest, context: Context
    ) -> AsyncIterator[model_service_pb2.PullModelResponse]:
        """Fetches a model from a registry."""
        async for response in self._streamed(self._stub.PullModel, request, context):
            yield response

    async def CreateModel(
        self, request: model_service_pb2.CreateModelRequest, context: Context
    ) -> AsyncIterator[model_service_pb2.CreateModelResponse]:
        """Makes a model out of another one."""
        async for response in self._streamed(self._stub.CreateModel, request, context):
            yield response

    async def DeleteModel(
        self, request: model_service_pb2.DeleteModelRequest, context: Context
    ) -> model_service_pb2.DeleteModelResponse:
        """Deletes a model's files."""
        response: model_service_pb2.DeleteModelResponse = await self._answered(self._stub.DeleteModel, request, context)
        return response

    async def OptimizeMemory(
        self, request: model_service_pb2.OptimizeMemoryRequest, context: Context
    ) -> model_service_pb2.OptimizeMemoryResponse:
        """Unloads idle models."""
        response: model_service_pb2.OptimizeMemoryResponse = await self._answered(self._stub.OptimizeMemory, request, context)
        return response

    async def GetSystem(
        self, request: model_service_pb2.GetSystemRequest, context: Context
    ) -> model_service_pb2.GetSystemResponse:
        """Tells of the machine, and of the process that has the models loaded."""
        response: model_service_pb2.GetSystemResponse = await self._answered(
            self._stub.GetSystem, request, context, changes=False
        )
        return response

    async def _answered(self, method: Any, request: Any, context: Context, *, changes: bool = True) -> Any:
        try:
            return await method(request, timeout=current_call().remaining(), metadata=outgoing_metadata())
        except grpc.aio.AioRpcError as error:
            await _passed_on(error, context)
        finally:
            if changes:
                await self._look()

    async def _streamed(self, method: Any, request: Any, context: Context) -> AsyncIterator[Any]:
        call = method(request, timeout=current_call().remaining(), metadata=outgoing_metadata())
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            await _passed_on(error, context)
        finally:
            call.cancel()
            await self._look()

    async def _look(self) -> None:
        self._changed()
        await self._models.refresh_all()


async def _passed_on(error: grpc.aio.AioRpcError, context: Context) -> None:
    """Answers with the other process's own failure, or says that it is not there."""
    trailers = tuple((key, value) for key, value in error.trailing_metadata() or ())
    if not any(key == _DETAILS for key, _ in trailers):
        message = "the process that runs the embedded models does not answer; try again"
        raise Failure(Reason.ENGINE_UNAVAILABLE, message, metadata={"engine": "llamacpp"}, retry_after=1.0)
    abort: Callable[..., Awaitable[None]] = context.abort
    await abort(error.code(), error.details(), trailers)
