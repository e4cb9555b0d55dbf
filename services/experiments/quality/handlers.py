"""The gRPC service: convert, call the domain, convert back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.experiments.v1 import quality_service_pb2, quality_service_pb2_grpc

from services.experiments.quality import convert

if TYPE_CHECKING:
    from services.chassis.interceptors import Context
    from services.experiments.quality.assessor import Assessor


class QualityService(quality_service_pb2_grpc.QualityServiceServicer):
    """Judges texts."""

    def __init__(self, assessor: Assessor) -> None:
        self._assessor = assessor

    async def AssessQuality(
        self, request: quality_service_pb2.AssessQualityRequest, context: Context
    ) -> quality_service_pb2.AssessQualityResponse:
        """Judges a text by criteria."""
        assessment = await self._assessor.assess(convert.subject_from_proto(request), convert.criteria_from_proto(request))
        return quality_service_pb2.AssessQualityResponse(assessment=convert.assessment_to_proto(assessment))
