"""The service of evaluation. Its methods are documented in the protos."""
# ruff: noqa: D102 - see above

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from penstock.retrieval.v1 import evaluation_service_pb2 as messages
from penstock.retrieval.v1 import evaluation_service_pb2_grpc

from services.retrieval.evaluation_convert import (
    from_queries,
    from_settings,
    most_made,
    to_calibration,
    to_query,
    to_response,
)

if TYPE_CHECKING:
    import grpc.aio

    from services.retrieval.evaluation.evaluations import Evaluations

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class EvaluationHandlers(evaluation_service_pb2_grpc.EvaluationServiceServicer):
    """EvaluationService."""

    def __init__(self, evaluations: Evaluations) -> None:
        self._evaluations = evaluations

    async def SetJudgments(self, request: messages.SetJudgmentsRequest, context: Context) -> messages.SetJudgmentsResponse:
        queries = from_queries(request.queries)
        await self._evaluations.put(request.collection, queries)
        return messages.SetJudgmentsResponse(query_count=len(queries))

    async def GetJudgments(self, request: messages.GetJudgmentsRequest, context: Context) -> messages.GetJudgmentsResponse:
        kept = await self._evaluations.judgments(request.collection)
        return messages.GetJudgmentsResponse(queries=[to_query(one) for one in kept])

    async def EvaluateRetrieval(
        self, request: messages.EvaluateRetrievalRequest, context: Context
    ) -> messages.EvaluateRetrievalResponse:
        ways, queries = from_settings(request.settings), from_queries(request.queries)
        evaluated = await self._evaluations.evaluate(request.collection, ways, queries, most_made(request))
        return to_response(evaluated, request.collection)

    async def CalibrateCollection(
        self, request: messages.CalibrateCollectionRequest, context: Context
    ) -> messages.CalibrateCollectionResponse:
        if request.remove:
            await self._evaluations.remove_calibration(request.collection)
            return messages.CalibrateCollectionResponse()
        calibrated = await self._evaluations.calibrate(request.collection, from_queries(request.queries))
        return messages.CalibrateCollectionResponse(calibration=to_calibration(calibrated))
