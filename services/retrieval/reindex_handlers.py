"""The service of reindexings. Its methods are documented in the protos."""
# ruff: noqa: D102 - see above

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import UUID

from penstock.retrieval.v1 import reindexing_service_pb2 as messages
from penstock.retrieval.v1 import reindexing_service_pb2_grpc

from services.retrieval.reindex_convert import from_request, to_reindexing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import grpc.aio

    from services.retrieval.reindexing.reindexing import Reindexings

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class ReindexingHandlers(reindexing_service_pb2_grpc.ReindexingServiceServicer):
    """ReindexingService."""

    def __init__(self, reindexings: Reindexings) -> None:
        self._reindexings = reindexings

    async def Reindex(self, request: messages.ReindexRequest, context: Context) -> messages.ReindexResponse:
        started = await self._reindexings.start(request.collection, from_request(request))
        return messages.ReindexResponse(reindexing=to_reindexing(started))

    async def GetReindexing(self, request: messages.GetReindexingRequest, context: Context) -> messages.GetReindexingResponse:
        found = await self._reindexings.get(UUID(request.reindexing))
        return messages.GetReindexingResponse(reindexing=to_reindexing(found))

    async def ListReindexings(
        self, request: messages.ListReindexingsRequest, context: Context
    ) -> messages.ListReindexingsResponse:
        found = await self._reindexings.of(request.collection)
        return messages.ListReindexingsResponse(reindexings=[to_reindexing(one) for one in found])

    async def WatchReindexing(
        self, request: messages.WatchReindexingRequest, context: Context
    ) -> AsyncIterator[messages.WatchReindexingResponse]:
        async with aclosing(self._reindexings.watch(UUID(request.reindexing))) as states:
            async for state in states:
                yield messages.WatchReindexingResponse(reindexing=to_reindexing(state))

    async def CancelReindexing(
        self, request: messages.CancelReindexingRequest, context: Context
    ) -> messages.CancelReindexingResponse:
        ended = await self._reindexings.cancel(UUID(request.reindexing))
        return messages.CancelReindexingResponse(reindexing=to_reindexing(ended))

    async def SwitchReindexing(
        self, request: messages.SwitchReindexingRequest, context: Context
    ) -> messages.SwitchReindexingResponse:
        serving = await self._reindexings.switch(UUID(request.reindexing))
        return messages.SwitchReindexingResponse(reindexing=to_reindexing(serving))

    async def RollBackReindexing(
        self, request: messages.RollBackReindexingRequest, context: Context
    ) -> messages.RollBackReindexingResponse:
        ended = await self._reindexings.roll_back(UUID(request.reindexing))
        return messages.RollBackReindexingResponse(reindexing=to_reindexing(ended))
