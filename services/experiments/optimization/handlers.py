"""OptimizationService: convert, call the domain, convert back. Its methods are documented in the protos."""
# ruff: noqa: D102 - see above

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from penstock.experiments.v1 import optimization_service_pb2 as messages
from penstock.experiments.v1 import optimization_service_pb2_grpc

from services.experiments.convert import page_mark, page_token
from services.experiments.optimization.convert import design_from_proto, optimization_to_proto
from services.experiments.optimization.optimizations import ENDED

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from services.chassis.interceptors import Context
    from services.experiments.optimization.optimizations import Optimizations


class OptimizationHandlers(optimization_service_pb2_grpc.OptimizationServiceServicer):
    """Searches for better settings."""

    def __init__(self, optimizations: Optimizations) -> None:
        self._optimizations = optimizations

    async def CreateOptimization(
        self, request: messages.CreateOptimizationRequest, context: Context
    ) -> messages.CreateOptimizationResponse:
        made = await self._optimizations.create(design_from_proto(request.optimization), request.request_id)
        return messages.CreateOptimizationResponse(optimization=optimization_to_proto(made))

    async def GetOptimization(
        self, request: messages.GetOptimizationRequest, context: Context
    ) -> messages.GetOptimizationResponse:
        found = await self._optimizations.get(request.optimization)
        return messages.GetOptimizationResponse(optimization=optimization_to_proto(found))

    async def ListOptimizations(
        self, request: messages.ListOptimizationsRequest, context: Context
    ) -> messages.ListOptimizationsResponse:
        page = await self._optimizations.page(request.page_size, page_mark(request.page_token, "optimizations"))
        return messages.ListOptimizationsResponse(
            optimizations=[optimization_to_proto(one, with_cases=False) for one in page.optimizations],
            next_page_token=page_token(page.next_before, "optimizations"),
        )

    async def WatchOptimization(
        self, request: messages.WatchOptimizationRequest, context: Context
    ) -> AsyncIterator[messages.WatchOptimizationResponse]:
        async with aclosing(self._optimizations.watch(request.optimization)) as changes:
            async for now in changes:
                message = optimization_to_proto(now)
                if now.state in ENDED:
                    yield messages.WatchOptimizationResponse(finished=message)
                else:
                    yield messages.WatchOptimizationResponse(progress=message)

    async def CancelOptimization(
        self, request: messages.CancelOptimizationRequest, context: Context
    ) -> messages.CancelOptimizationResponse:
        ended = await self._optimizations.cancel(request.optimization)
        return messages.CancelOptimizationResponse(optimization=optimization_to_proto(ended))
