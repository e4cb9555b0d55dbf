"""The gRPC service: convert, call the domain, convert back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.experiments.v1 import quality_service_pb2, quality_service_pb2_grpc

from services.experiments.quality import convert
from services.experiments.quality.records import statistics

if TYPE_CHECKING:
    from services.chassis.interceptors import Context
    from services.experiments.analyst import Analyst
    from services.experiments.quality.assessor import Assessor
    from services.experiments.quality.records import Records


class QualityService(quality_service_pb2_grpc.QualityServiceServicer):
    """Judges texts, and counts what was recorded."""

    def __init__(self, assessor: Assessor, records: Records, analyst: Analyst) -> None:
        self._assessor = assessor
        self._records = records
        self._analyst = analyst

    async def AssessQuality(
        self, request: quality_service_pb2.AssessQualityRequest, context: Context
    ) -> quality_service_pb2.AssessQualityResponse:
        """Judges a text by criteria, and records the scores where the request has an id for them."""
        assessment = await self._assessor.assess(convert.subject_from_proto(request), convert.criteria_from_proto(request))
        recorded = False
        if request.assessment:
            recorded = await self._records.record(request.assessment, convert.origin_from_proto(request.origin), assessment)
        return quality_service_pb2.AssessQualityResponse(assessment=convert.assessment_to_proto(assessment), recorded=recorded)

    async def GetQualityStats(
        self, request: quality_service_pb2.GetQualityStatsRequest, context: Context
    ) -> quality_service_pb2.GetQualityStatsResponse:
        """Counts, means and trends of recorded assessments."""
        found = await statistics(self._records, self._analyst, convert.wanted_from_proto(request))
        return quality_service_pb2.GetQualityStatsResponse(statistics=[convert.statistic_to_proto(one) for one in found])
