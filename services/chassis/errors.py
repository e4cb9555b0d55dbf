"""The one exception of the domain, and its reasons. Free of grpc and protobuf; `status` turns it into what a client sees."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Reason(StrEnum):
    """Why a call failed: penstock.errors.v1.ErrorReason without its prefix (a test holds the two together)."""

    INVALID_FIELD = "INVALID_FIELD"
    MALFORMED_REQUEST = "MALFORMED_REQUEST"
    REQUEST_TOO_LARGE = "REQUEST_TOO_LARGE"
    UNSUPPORTED_CONTENT_TYPE = "UNSUPPORTED_CONTENT_TYPE"
    ROUTE_NOT_FOUND = "ROUTE_NOT_FOUND"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    METHOD_NOT_FOUND = "METHOD_NOT_FOUND"
    RATE_LIMITED = "RATE_LIMITED"
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    MODEL_CAPABILITY_MISSING = "MODEL_CAPABILITY_MISSING"
    ENGINE_UNAVAILABLE = "ENGINE_UNAVAILABLE"
    GENERATION_FAILED = "GENERATION_FAILED"
    CONTEXT_TOO_LONG = "CONTEXT_TOO_LONG"
    ENGINE_OVERLOADED = "ENGINE_OVERLOADED"
    INVALID_OPENAI_REQUEST = "INVALID_OPENAI_REQUEST"
    ENGINE_REFUSED_CREDENTIALS = "ENGINE_REFUSED_CREDENTIALS"
    MODEL_NOT_LOADED = "MODEL_NOT_LOADED"
    DEVICE_UNAVAILABLE = "DEVICE_UNAVAILABLE"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    MODEL_IN_USE = "MODEL_IN_USE"
    OVERLOADED = "OVERLOADED"
    CONTENT_POLICY = "CONTENT_POLICY"
    POLICY_CHANGED = "POLICY_CHANGED"
    POLICY_READ_ONLY = "POLICY_READ_ONLY"
    ALIAS_NOT_FOUND = "ALIAS_NOT_FOUND"
    PROMPT_NOT_FOUND = "PROMPT_NOT_FOUND"
    PROMPTS_READ_ONLY = "PROMPTS_READ_ONLY"
    COLLECTION_NOT_FOUND = "COLLECTION_NOT_FOUND"
    COLLECTION_ALREADY_EXISTS = "COLLECTION_ALREADY_EXISTS"
    DOCUMENT_NOT_FOUND = "DOCUMENT_NOT_FOUND"
    DOCUMENT_UNREADABLE = "DOCUMENT_UNREADABLE"
    UNSUPPORTED_MEDIA_TYPE = "UNSUPPORTED_MEDIA_TYPE"
    EMBEDDER_UNAVAILABLE = "EMBEDDER_UNAVAILABLE"
    CONVERSATION_NOT_FOUND = "CONVERSATION_NOT_FOUND"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    REINDEX_NOT_FOUND = "REINDEX_NOT_FOUND"
    REINDEX_STATE = "REINDEX_STATE"
    JUDGMENTS_MISSING = "JUDGMENTS_MISSING"
    INGESTION_NOT_FOUND = "INGESTION_NOT_FOUND"
    INGESTION_STATE = "INGESTION_STATE"
    URL_NOT_ALLOWED = "URL_NOT_ALLOWED"
    URL_UNREACHABLE = "URL_UNREACHABLE"
    FETCHING_DISABLED = "FETCHING_DISABLED"
    EXPERIMENT_NOT_FOUND = "EXPERIMENT_NOT_FOUND"
    EXPERIMENT_ALREADY_EXISTS = "EXPERIMENT_ALREADY_EXISTS"
    EXPERIMENT_STATE = "EXPERIMENT_STATE"
    ASSIGNMENT_NOT_FOUND = "ASSIGNMENT_NOT_FOUND"
    METRIC_NOT_FOUND = "METRIC_NOT_FOUND"
    ANALYSIS_UNAVAILABLE = "ANALYSIS_UNAVAILABLE"
    VARIANT_NOT_FOUND = "VARIANT_NOT_FOUND"
    EXPERIMENT_CONFLICT = "EXPERIMENT_CONFLICT"
    PROMOTION_NOT_FOUND = "PROMOTION_NOT_FOUND"
    OPTIMIZATION_NOT_FOUND = "OPTIMIZATION_NOT_FOUND"
    OPTIMIZATION_ALREADY_EXISTS = "OPTIMIZATION_ALREADY_EXISTS"
    OPTIMIZATION_UNSUPPORTED = "OPTIMIZATION_UNSUPPORTED"
    DATABASE_UNAVAILABLE = "DATABASE_UNAVAILABLE"
    SERVICE_UNAVAILABLE = "SERVICE_UNAVAILABLE"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    INTERNAL = "INTERNAL"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"


class Failure(Exception):  # noqa: N818 - a failure is told to the caller as an answer; it need not be an error of ours
    """A call that cannot be answered, with all that its caller may know about it.

    Args:
        reason: Why; fixes the gRPC code.
        message: What was wrong, with which value, and what to do. Goes to the client as it is, so it never holds a
            driver's text, a path or a secret.
        metadata: Facts for programs, as documented with the reason.
        violations: Pairs of field path and what is wrong with it, for INVALID_ARGUMENT.
        retry_after: Seconds after which trying again may help.
        trailers: Metadata to send beside the status.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[tuple[str, str]] = (),
        retry_after: float | None = None,
        trailers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after = retry_after
        self.trailers = dict(trailers or {})


def invalid_field(field: str, problem: str, reason: Reason = Reason.INVALID_FIELD) -> Failure:
    """A field that the domain, not the proto, finds wrong. `problem` continues the sentence that the field's name begins."""
    return Failure(reason, f"{field}: {problem}", metadata={"field": field}, violations=[(field, problem)])
