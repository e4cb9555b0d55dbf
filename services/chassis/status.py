"""The one table from reasons to gRPC codes, and the one function that writes a status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from services.chassis.errors import Failure, Reason

if TYPE_CHECKING:
    from google.protobuf.message import Message

DOMAIN: Final = "penstock"
DETAILS_TRAILER: Final = "grpc-status-details-bin"

_Code = grpc.StatusCode
CODES: Final[dict[Reason, grpc.StatusCode]] = {
    Reason.INVALID_FIELD: _Code.INVALID_ARGUMENT,
    Reason.MALFORMED_REQUEST: _Code.INVALID_ARGUMENT,
    Reason.REQUEST_TOO_LARGE: _Code.RESOURCE_EXHAUSTED,
    Reason.UNSUPPORTED_CONTENT_TYPE: _Code.INVALID_ARGUMENT,
    Reason.ROUTE_NOT_FOUND: _Code.NOT_FOUND,
    Reason.UNAUTHENTICATED: _Code.UNAUTHENTICATED,
    Reason.METHOD_NOT_FOUND: _Code.UNIMPLEMENTED,
    Reason.RATE_LIMITED: _Code.RESOURCE_EXHAUSTED,
    Reason.MODEL_NOT_FOUND: _Code.NOT_FOUND,
    Reason.MODEL_CAPABILITY_MISSING: _Code.FAILED_PRECONDITION,
    Reason.ENGINE_UNAVAILABLE: _Code.UNAVAILABLE,
    Reason.GENERATION_FAILED: _Code.INTERNAL,
    Reason.CONTEXT_TOO_LONG: _Code.INVALID_ARGUMENT,
    Reason.ENGINE_OVERLOADED: _Code.RESOURCE_EXHAUSTED,
    Reason.INVALID_OPENAI_REQUEST: _Code.INVALID_ARGUMENT,
    Reason.ENGINE_REFUSED_CREDENTIALS: _Code.FAILED_PRECONDITION,
    Reason.MODEL_NOT_LOADED: _Code.FAILED_PRECONDITION,
    Reason.DEVICE_UNAVAILABLE: _Code.FAILED_PRECONDITION,
    Reason.OUT_OF_MEMORY: _Code.RESOURCE_EXHAUSTED,
    Reason.MODEL_IN_USE: _Code.FAILED_PRECONDITION,
    Reason.OVERLOADED: _Code.RESOURCE_EXHAUSTED,
    Reason.CONTENT_POLICY: _Code.INVALID_ARGUMENT,
    Reason.POLICY_CHANGED: _Code.ABORTED,
    Reason.POLICY_READ_ONLY: _Code.FAILED_PRECONDITION,
    Reason.ALIAS_NOT_FOUND: _Code.NOT_FOUND,
    Reason.PROMPT_NOT_FOUND: _Code.NOT_FOUND,
    Reason.PROMPTS_READ_ONLY: _Code.FAILED_PRECONDITION,
    Reason.COLLECTION_NOT_FOUND: _Code.NOT_FOUND,
    Reason.COLLECTION_ALREADY_EXISTS: _Code.ALREADY_EXISTS,
    Reason.DOCUMENT_NOT_FOUND: _Code.NOT_FOUND,
    Reason.DOCUMENT_UNREADABLE: _Code.INVALID_ARGUMENT,
    Reason.UNSUPPORTED_MEDIA_TYPE: _Code.INVALID_ARGUMENT,
    Reason.EMBEDDER_UNAVAILABLE: _Code.FAILED_PRECONDITION,
    Reason.CONVERSATION_NOT_FOUND: _Code.NOT_FOUND,
    Reason.STORE_UNAVAILABLE: _Code.UNAVAILABLE,
    Reason.PERMISSION_DENIED: _Code.PERMISSION_DENIED,
    Reason.REINDEX_NOT_FOUND: _Code.NOT_FOUND,
    Reason.REINDEX_STATE: _Code.FAILED_PRECONDITION,
    Reason.JUDGMENTS_MISSING: _Code.FAILED_PRECONDITION,
    Reason.INGESTION_NOT_FOUND: _Code.NOT_FOUND,
    Reason.INGESTION_STATE: _Code.FAILED_PRECONDITION,
    Reason.URL_NOT_ALLOWED: _Code.PERMISSION_DENIED,
    Reason.URL_UNREACHABLE: _Code.UNAVAILABLE,
    Reason.FETCHING_DISABLED: _Code.FAILED_PRECONDITION,
    Reason.EXPERIMENT_NOT_FOUND: _Code.NOT_FOUND,
    Reason.EXPERIMENT_ALREADY_EXISTS: _Code.ALREADY_EXISTS,
    Reason.EXPERIMENT_STATE: _Code.FAILED_PRECONDITION,
    Reason.ASSIGNMENT_NOT_FOUND: _Code.NOT_FOUND,
    Reason.METRIC_NOT_FOUND: _Code.INVALID_ARGUMENT,
    Reason.ANALYSIS_UNAVAILABLE: _Code.UNAVAILABLE,
    Reason.VARIANT_NOT_FOUND: _Code.NOT_FOUND,
    Reason.EXPERIMENT_CONFLICT: _Code.FAILED_PRECONDITION,
    Reason.PROMOTION_NOT_FOUND: _Code.NOT_FOUND,
    Reason.OPTIMIZATION_NOT_FOUND: _Code.NOT_FOUND,
    Reason.OPTIMIZATION_ALREADY_EXISTS: _Code.ALREADY_EXISTS,
    Reason.OPTIMIZATION_UNSUPPORTED: _Code.FAILED_PRECONDITION,
    Reason.DATABASE_UNAVAILABLE: _Code.UNAVAILABLE,
    Reason.SERVICE_UNAVAILABLE: _Code.UNAVAILABLE,
    Reason.DEADLINE_EXCEEDED: _Code.DEADLINE_EXCEEDED,
    Reason.INTERNAL: _Code.INTERNAL,
    Reason.SHUTTING_DOWN: _Code.UNAVAILABLE,
    Reason.REQUEST_ID_REUSED: _Code.ABORTED,
}
# A grpc.StatusCode's value is a pair of its number and a phrase.
_NUMBER: Final = {code: code.value[0] for code in grpc.StatusCode}


def code_of(failure: Failure) -> grpc.StatusCode:
    """The gRPC code that the failure's reason stands for."""
    return CODES[failure.reason]


def to_status(failure: Failure, request_id: str = "") -> status_pb2.Status:
    """Writes a failure as google.rpc.Status with ErrorInfo, and BadRequest, RetryInfo, RequestInfo where they apply."""
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=failure.reason.value, domain=DOMAIN, metadata=failure.metadata)
    ]
    if failure.violations:
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(field=field, description=problem)
                    for field, problem in failure.violations
                ]
            )
        )
    if failure.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(failure.retry_after * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if request_id:
        details.append(error_details_pb2.RequestInfo(request_id=request_id))
    status = status_pb2.Status(code=_NUMBER[code_of(failure)], message=failure.message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def trailers_of(failure: Failure, request_id: str = "") -> tuple[tuple[str, str | bytes], ...]:
    """The trailing metadata that carries the status to the client."""
    rich: tuple[str, str | bytes] = (DETAILS_TRAILER, to_status(failure, request_id).SerializeToString())
    retry = () if failure.retry_after is None else (("retry-after", str(max(1, round(failure.retry_after)))),)
    return (rich, *retry, *failure.trailers.items())
