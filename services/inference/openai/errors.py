"""Errors in the shape of the OpenAI API."""

from __future__ import annotations

import json
from typing import Any, Final

from services.chassis.errors import Failure, Reason

_MAX_MESSAGE: Final = 1000

_ERROR_TYPES: Final = {
    Reason.ENGINE_OVERLOADED: ("rate_limit_exceeded", "rate_limit_exceeded"),
    Reason.MODEL_NOT_FOUND: ("invalid_request_error", "model_not_found"),
    Reason.MODEL_CAPABILITY_MISSING: ("invalid_request_error", "model_not_supported"),
    Reason.CONTEXT_TOO_LONG: ("invalid_request_error", "context_length_exceeded"),
    Reason.COLLECTION_NOT_FOUND: ("invalid_request_error", "model_not_found"),
    Reason.PERMISSION_DENIED: ("invalid_request_error", "permission_denied"),
    Reason.UNAUTHENTICATED: ("invalid_request_error", "invalid_api_key"),
    Reason.OVERLOADED: ("rate_limit_exceeded", "rate_limit_exceeded"),
    Reason.CONTENT_POLICY: ("invalid_request_error", "content_policy_violation"),
    Reason.REQUEST_TOO_LARGE: ("invalid_request_error", "request_too_large"),
    Reason.INVALID_FIELD: ("invalid_request_error", None),
    Reason.INVALID_OPENAI_REQUEST: ("invalid_request_error", None),
    Reason.ENGINE_UNAVAILABLE: ("server_error", "engine_unavailable"),
    Reason.DEADLINE_EXCEEDED: ("server_error", "timeout"),
}


def error_of(failure: Failure) -> dict[str, Any]:
    """OpenAI's error object."""
    kind, code = _ERROR_TYPES.get(failure.reason, ("server_error", failure.reason.value.lower()))
    param = failure.metadata.get("field")
    if failure.reason in {Reason.MODEL_NOT_FOUND, Reason.COLLECTION_NOT_FOUND}:
        param = "model"
    message = failure.message if len(failure.message) <= _MAX_MESSAGE else f"{failure.message[:_MAX_MESSAGE]}..."
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def with_error_body(failure: Failure) -> Failure:
    """The same failure with OpenAI's error object in a trailer; the gateway makes it the body of the HTTP response."""
    # Metadata holds ASCII only.
    trailers = {**failure.trailers, "x-openai-error": json.dumps(error_of(failure), ensure_ascii=True)}
    return Failure(
        failure.reason,
        failure.message,
        metadata=failure.metadata,
        violations=failure.violations,
        retry_after=failure.retry_after,
        trailers=trailers,
    )
