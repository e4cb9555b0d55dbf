"""The gRPC service of models: convert, call the domain, convert back."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

from penstock.inference.v1 import model_service_pb2, model_service_pb2_grpc

from services.chassis.call import current_call
from services.inference import model_convert, system
from services.inference.engine import ModelState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from services.chassis.interceptors import Context
    from services.inference.lifecycle import ModelLifecycle
    from services.inference.memory import Memory
    from services.inference.models import Models


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """Tells which models there are, and brings them in and out."""

    def __init__(self, models: Models, lifecycle: ModelLifecycle, memory: Memory) -> None:
        self._models = models
        self._lifecycle = lifecycle
        self._memory = memory

    async def ListModels(
        self,
        request: model_service_pb2.ListModelsRequest,
        context: Context,
    ) -> model_service_pb2.ListModelsResponse:
        """Lists the models of all engines in reach."""
        return model_service_pb2.ListModelsResponse(models=[model_convert.model_of(one) for one in self._models.listed()])

    async def LoadModel(
        self,
        request: model_service_pb2.LoadModelRequest,
        context: Context,
    ) -> AsyncIterator[model_service_pb2.LoadModelResponse]:
        """Brings a model into memory."""
        request_id = current_call().request_id
        async with aclosing(self._lifecycle.load(request.model, model_convert.options_of(request))) as events:
            async for event in events:
                yield model_convert.load_event_of(event, request_id)

    async def UnloadModel(
        self,
        request: model_service_pb2.UnloadModelRequest,
        context: Context,
    ) -> model_service_pb2.UnloadModelResponse:
        """Takes a model out of memory."""
        return model_convert.unload_response_of(await self._lifecycle.unload(request.model, force=request.force))

    async def PullModel(
        self,
        request: model_service_pb2.PullModelRequest,
        context: Context,
    ) -> AsyncIterator[model_service_pb2.PullModelResponse]:
        """Fetches a model from a registry."""
        request_id = current_call().request_id
        async with aclosing(self._lifecycle.pull(request.model)) as events:
            async for event in events:
                yield model_convert.pull_event_of(event, request_id)

    async def CreateModel(
        self,
        request: model_service_pb2.CreateModelRequest,
        context: Context,
    ) -> AsyncIterator[model_service_pb2.CreateModelResponse]:
        """Makes a model out of another one."""
        request_id = current_call().request_id
        async with aclosing(self._lifecycle.create(request.model, model_convert.create_options_of(request))) as events:
            async for event in events:
                yield model_convert.create_event_of(event, request_id)

    async def DeleteModel(
        self,
        request: model_service_pb2.DeleteModelRequest,
        context: Context,
    ) -> model_service_pb2.DeleteModelResponse:
        """Deletes a model's files."""
        deleted = await self._lifecycle.delete(request.model, force=request.force)
        return model_service_pb2.DeleteModelResponse(deleted_bytes=deleted)

    async def OptimizeMemory(
        self,
        request: model_service_pb2.OptimizeMemoryRequest,
        context: Context,
    ) -> model_service_pb2.OptimizeMemoryResponse:
        """Unloads idle models."""
        optimized = await self._lifecycle.optimize(request.idle.ToNanoseconds() / 1e9)
        return model_convert.optimize_response_of(optimized)

    async def GetSystem(
        self,
        request: model_service_pb2.GetSystemRequest,
        context: Context,
    ) -> model_service_pb2.GetSystemResponse:
        """Tells of the machine and the loaded models."""
        seen = await asyncio.to_thread(system.look)
        there = {ModelState.READY, ModelState.LOADING}
        loaded = [one for one in self._models.listed() if one.model.residence is not None and one.model.state in there]
        return model_service_pb2.GetSystemResponse(system=model_convert.system_of(seen, self._memory, loaded))
