"""What Envoy itself answers when it cannot or will not forward a call, in the shapes that services answer with.

REST gets google.rpc.Status as JSON, paths of OpenAI's API get OpenAI's error object, and gRPC gets a status with details.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import base_pb2, substitution_format_string_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from google.protobuf import struct_pb2

from services.chassis.errors import Failure, Reason
from services.chassis.status import DETAILS_TRAILER, DOMAIN, code_of, to_status
from services.gateway.typed import header_begins, header_is, set_header

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

GRPC: Final = "application/grpc"
HEALTH_PATH: Final = "/healthz"
OPENAI_PREFIX: Final = "/openai/"
# The transcoder turns a REST request into a gRPC one and keeps its path here.
ORIGINAL_PATH: Final = "x-envoy-original-path"
_PATH: Final = "%PATH(NQ:ORIG_OR_PATH)%"
_METHOD: Final = "%REQ(X-ENVOY-ORIGINAL-METHOD?:METHOD)%"
_REQUEST_ID: Final = "%REQ(X-REQUEST-ID)%"
_UPSTREAM: Final = "%UPSTREAM_CLUSTER%"
_ENVOYS_WORDS: Final = "%LOCAL_REPLY_BODY%"
_ERROR_INFO: Final = "type.googleapis.com/google.rpc.ErrorInfo"
_REQUEST_INFO: Final = "type.googleapis.com/google.rpc.RequestInfo"
_SERVER_FAULTS: Final = 500
# The HTTP statuses that Envoy turns into the very gRPC code that our reason stands for. Elsewhere details would contradict it.
_SAME_IN_GRPC: Final = frozenset({401, 404, 502, 503})


@dataclass(frozen=True, slots=True)
class Reply:
    """What to say for one HTTP status that Envoy answers with. Texts may hold Envoy's command operators."""

    status: int
    """The HTTP status, or the lowest one where `above` is set."""
    reason: Reason
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    above: bool = False
    """Speak for all higher statuses as well."""
    grpc: Reason | None = None
    """The reason for gRPC, where it is another one."""
    grpc_message: str = ""
    """What gRPC is told, where it differs."""


def replies(max_request_bytes: int) -> tuple[Reply, ...]:
    """All of them; the first that fits an answer shapes it."""
    down = Reply(
        503,
        Reason.SERVICE_UNAVAILABLE,
        f"the service {_UPSTREAM} does not answer; retry, and see /healthz",
        {"service": _UPSTREAM},
        grpc_message="the service behind the gateway does not answer; retry",
    )
    slow = "the call took longer than the gateway waits; ask for less, or stream the answer"
    return (
        Reply(
            401,
            Reason.UNAUTHENTICATED,
            "no valid API key; send one as `Authorization: Bearer <key>` or `x-api-key: <key>`",
        ),
        Reply(
            404,
            Reason.ROUTE_NOT_FOUND,
            f"no route for {_METHOD} {_PATH}; /docs lists them",
            {"method": _METHOD, "path": _PATH},
            grpc=Reason.METHOD_NOT_FOUND,
            grpc_message="no such method; the gateway's reflection lists them",
        ),
        Reply(
            405,
            Reason.ROUTE_NOT_FOUND,
            f"{_PATH} does not know the method {_METHOD}; the header `allow` names those that it knows",
            {"method": _METHOD, "path": _PATH},
        ),
        Reply(408, Reason.DEADLINE_EXCEEDED, slow),
        Reply(
            413,
            Reason.REQUEST_TOO_LARGE,
            f"the request's body is larger than {max_request_bytes} bytes; send it in several requests",
            {"limit_bytes": str(max_request_bytes)},
        ),
        Reply(
            415,
            Reason.UNSUPPORTED_CONTENT_TYPE,
            "the body's content type is not application/json; send JSON with the header "
            "`content-type: application/json` (curl: -H 'content-type: application/json')",
            {"content_type": "%REQ(CONTENT-TYPE)%"},
        ),
        Reply(431, Reason.REQUEST_TOO_LARGE, "the request's headers are too large"),
        Reply(400, Reason.MALFORMED_REQUEST, f"the request cannot be read: {_ENVOYS_WORDS}", above=True),
        down,
        Reply(502, down.reason, down.message, down.metadata, grpc_message=down.grpc_message),
        Reply(504, Reason.DEADLINE_EXCEEDED, slow),
        Reply(500, Reason.INTERNAL, "the gateway failed; the request id finds it in the logs", above=True),
    )


def build_local_replies(max_request_bytes: int) -> Any:
    """Envoy's configuration for all that it answers itself. Answers of pages are below 400 and stay as they are."""
    table = sorted(replies(max_request_bytes), key=lambda reply: (reply.above, -reply.status if reply.above else 0))
    unhealthy = Reply(503, Reason.SERVICE_UNAVAILABLE, "not all services are healthy; the gateway's metrics say which")
    mappers = [_rest(unhealthy, _header(header_is(":path", HEALTH_PATH))), *_refused()]
    for reply in table:
        mappers += [_openai(reply), _rest(reply), _grpc(reply)]
    return hcm_pb2.LocalReplyConfig(mappers=mappers)


def _refused() -> list[Any]:
    """What the authorizer refused, in its own words: it has put them into the caller's shape already."""
    by_authorizer = [
        accesslog_pb2.AccessLogFilter(response_flag_filter=accesslog_pb2.ResponseFlagFilter(flags=["UAEX"])),
        _at_most(_SERVER_FAULTS - 1),
    ]
    words = base_pb2.DataSource(inline_string=_ENVOYS_WORDS)
    json = substitution_format_string_pb2.SubstitutionFormatString(text_format_source=words, content_type="application/json")
    plain = substitution_format_string_pb2.SubstitutionFormatString(text_format_source=words)
    grpc = _header(header_begins("content-type", GRPC))
    return [
        hcm_pb2.ResponseMapper(filter=_all([*by_authorizer, grpc]), body_format_override=plain),
        hcm_pb2.ResponseMapper(filter=_all(by_authorizer), body_format_override=json),
    ]


def _openai(reply: Reply) -> Any:
    error = {
        "message": reply.message,
        "type": "server_error" if reply.status >= _SERVER_FAULTS else "invalid_request_error",
        # An operator for a header that no request has: the only way to write null.
        "param": "%REQ(X-PENSTOCK-NULL)%",
        "code": reply.reason.value.lower(),
    }
    on_path = [_header(header_begins(ORIGINAL_PATH, OPENAI_PREFIX)), _header(header_begins(":path", OPENAI_PREFIX))]
    return _json_mapper(_all([_status(reply), _any_of(on_path)]), {"error": error})


def _rest(reply: Reply, only: Any = None) -> Any:
    failure = Failure(reply.reason, reply.message)
    status = {
        "code": code_of(failure).value[0],
        "message": reply.message,
        "details": [
            {"@type": _ERROR_INFO, "reason": reply.reason.value, "domain": DOMAIN, "metadata": dict(reply.metadata)},
            {"@type": _REQUEST_INFO, "request_id": _REQUEST_ID},
        ],
    }
    no_grpc = [
        accesslog_pb2.AccessLogFilter(header_filter=accesslog_pb2.HeaderFilter(header=_present(ORIGINAL_PATH))),
        _header(_not_grpc()),
    ]
    return _json_mapper(_all([_status(reply), only or _any_of(no_grpc)]), status)


def _grpc(reply: Reply) -> Any:
    message = reply.grpc_message or reply.message
    mapper = hcm_pb2.ResponseMapper(
        filter=_all([_status(reply), _header(header_begins("content-type", GRPC))]),
        body_format_override=substitution_format_string_pb2.SubstitutionFormatString(
            text_format_source=base_pb2.DataSource(inline_string=message)
        ),
    )
    if reply.status in _SAME_IN_GRPC:
        status = to_status(Failure(reply.grpc or reply.reason, message))
        # gRPC writes binary metadata without padding.
        details = base64.b64encode(status.SerializeToString(deterministic=True)).decode().rstrip("=")
        mapper.headers_to_add.append(set_header(DETAILS_TRAILER, details))
    return mapper


def _json_mapper(accept: Any, shape: Mapping[str, Any]) -> Any:
    body = struct_pb2.Struct()
    body.update(shape)
    return hcm_pb2.ResponseMapper(
        filter=accept,
        body_format_override=substitution_format_string_pb2.SubstitutionFormatString(json_format=body),
    )


def _status(reply: Reply) -> Any:
    comparison = accesslog_pb2.ComparisonFilter(
        op=accesslog_pb2.ComparisonFilter.GE if reply.above else accesslog_pb2.ComparisonFilter.EQ,
        value=base_pb2.RuntimeUInt32(default_value=reply.status, runtime_key="penstock.unset"),
    )
    return accesslog_pb2.AccessLogFilter(status_code_filter=accesslog_pb2.StatusCodeFilter(comparison=comparison))


def _at_most(status: int) -> Any:
    comparison = accesslog_pb2.ComparisonFilter(
        op=accesslog_pb2.ComparisonFilter.LE,
        value=base_pb2.RuntimeUInt32(default_value=status, runtime_key="penstock.unset"),
    )
    return accesslog_pb2.AccessLogFilter(status_code_filter=accesslog_pb2.StatusCodeFilter(comparison=comparison))


def _header(matcher: Any) -> Any:
    return accesslog_pb2.AccessLogFilter(header_filter=accesslog_pb2.HeaderFilter(header=matcher))


def _present(name: str) -> Any:
    matcher = header_begins(name, "")
    matcher.ClearField("string_match")
    matcher.present_match = True
    return matcher


def _not_grpc() -> Any:
    matcher = header_begins("content-type", GRPC, negate=True)
    matcher.treat_missing_header_as_empty = True
    return matcher


def _all(filters: Sequence[Any]) -> Any:
    return accesslog_pb2.AccessLogFilter(and_filter=accesslog_pb2.AndFilter(filters=filters))


def _any_of(filters: Sequence[Any]) -> Any:
    return accesslog_pb2.AccessLogFilter(or_filter=accesslog_pb2.OrFilter(filters=filters))
