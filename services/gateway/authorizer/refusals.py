"""Refusals as Envoy passes them on: a body, or gRPC's status, in the shape that the caller's protocol has for errors."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Final

from google.protobuf import json_format

from services.chassis.errors import Failure, Reason
from services.chassis.status import DETAILS_TRAILER, to_status
from services.gateway.replies import GRPC, OPENAI_PREFIX

if TYPE_CHECKING:
    from collections.abc import Mapping

HTTP: Final[Mapping[Reason, tuple[int, str, str]]] = {
    Reason.UNAUTHENTICATED: (401, "Unauthorized", "invalid_request_error"),
    Reason.PERMISSION_DENIED: (403, "Forbidden", "permission_error"),
    Reason.METHOD_NOT_FOUND: (404, "Not Found", "invalid_request_error"),
    Reason.RATE_LIMITED: (429, "Too Many Requests", "rate_limit_error"),
}
"""HTTP's status and its phrase, and OpenAI's type, for each reason that the authorizer refuses for."""


def refusal(failure: Failure, headers: Mapping[str, str], path: str) -> bytes:
    """An HTTP/1.1 response that tells Envoy to refuse the request, and how."""
    status, phrase, kind = HTTP[failure.reason]
    told = to_status(failure, headers.get("x-request-id", ""))
    added = dict(failure.trailers)
    if failure.retry_after is not None:
        added["retry-after"] = str(max(1, round(failure.retry_after)))
    if failure.reason == Reason.UNAUTHENTICATED:
        added["www-authenticate"] = "Bearer"
    if headers.get("content-type", "").lower().startswith(GRPC):
        body = failure.message
        # gRPC writes binary metadata without padding.
        added[DETAILS_TRAILER] = base64.b64encode(told.SerializeToString()).decode().rstrip("=")
        added["grpc-status"] = str(told.code)
    elif path.startswith(OPENAI_PREFIX):
        error = {"message": failure.message, "type": kind, "param": None, "code": failure.reason.value.lower()}
        body = json.dumps({"error": error})
    else:
        body = json_format.MessageToJson(told, preserving_proto_field_name=True, indent=None)
    content = body.encode()
    lines = [f"HTTP/1.1 {status} {phrase}", f"content-length: {len(content)}", *(f"{k}: {v}" for k, v in added.items())]
    return "\r\n".join([*lines, "", ""]).encode() + content
