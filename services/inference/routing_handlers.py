"""The gRPC service of routing by what is recorded: convert, call the domain, convert back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from penstock.inference.v1 import routing_service_pb2, routing_service_pb2_grpc

from services.chassis.call import current_call
from services.inference.auto.records import Feedback, Source, key_of
from services.inference.routing_convert import state_message

if TYPE_CHECKING:
    from services.chassis.interceptors import Context
    from services.inference.auto.learning import Learning

_SOURCES: Final = {
    routing_service_pb2.FEEDBACK_SOURCE_UNSPECIFIED: Source.USER,
    routing_service_pb2.FEEDBACK_SOURCE_USER: Source.USER,
    routing_service_pb2.FEEDBACK_SOURCE_EVALUATOR: Source.EVALUATOR,
}
# What the OpenAI API puts before the id of the request.
_OPENAI: Final = "chatcmpl-"


class RoutingService(routing_service_pb2_grpc.RoutingServiceServicer):
    """Takes feedback, and tells what has been learned."""

    def __init__(self, learning: Learning) -> None:
        self._learning = learning

    async def RecordFeedback(
        self,
        request: routing_service_pb2.RecordFeedbackRequest,
        context: Context,
    ) -> routing_service_pb2.RecordFeedbackResponse:
        """Keeps feedback."""
        key = key_of(current_call().tenant, request.request_id.removeprefix(_OPENAI))
        is_known = await self._learning.feedback(Feedback(key, _SOURCES[request.source], request.reward, time.time()))
        return routing_service_pb2.RecordFeedbackResponse(is_known=is_known)

    async def GetRouting(
        self,
        request: routing_service_pb2.GetRoutingRequest,
        context: Context,
    ) -> routing_service_pb2.GetRoutingResponse:
        """Tells what has been learned."""
        standings = await self._learning.standings(request.alias)
        return routing_service_pb2.GetRoutingResponse(states=map(state_message, standings))

    async def CalibrateRouting(
        self,
        request: routing_service_pb2.CalibrateRoutingRequest,
        context: Context,
    ) -> routing_service_pb2.CalibrateRoutingResponse:
        """Fits an alias to its records."""
        return routing_service_pb2.CalibrateRoutingResponse(state=state_message(await self._learning.calibrate(request.alias)))
