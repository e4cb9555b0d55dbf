"""What each request passes through, in order."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from envoy.config.core.v3 import base_pb2
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.compression.gzip.compressor.v3 import gzip_pb2
from envoy.extensions.filters.http.buffer.v3 import buffer_pb2
from envoy.extensions.filters.http.compressor.v3 import compressor_pb2
from envoy.extensions.filters.http.cors.v3 import cors_pb2
from envoy.extensions.filters.http.grpc_json_transcoder.v3 import transcoder_pb2
from envoy.extensions.filters.http.grpc_stats.v3 import config_pb2 as grpc_stats_pb2
from envoy.extensions.filters.http.grpc_web.v3 import grpc_web_pb2
from envoy.extensions.filters.http.health_check.v3 import health_check_pb2
from envoy.extensions.filters.http.lua.v3 import lua_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.type.matcher.v3 import string_pb2
from envoy.type.v3 import percent_pb2
from google.protobuf import any_pb2, wrappers_pb2

from services.gateway.authorization import authorization
from services.gateway.clusters import BACKENDS
from services.gateway.pages import FOLDER
from services.gateway.replies import HEALTH_PATH
from services.gateway.tokens import token_verification
from services.gateway.typed import any_of, header_is

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message

    from services.gateway.contract import Contract
    from services.gateway.settings import GatewaySettings

COMPRESSOR: Final = "penstock.compressor"
AUTHENTICATION: Final = "penstock.authentication"
BODY_LIMIT: Final = "penstock.body_limit"
CORS: Final = "envoy.filters.http.cors"
OPENAI_ERRORS: Final = "penstock.openai_errors"
NDJSON_TYPE: Final = "penstock.ndjson_type"
# One transcoder per framing of streams, each off until a route wants it: a route with a transcoder of its own would hold a
# descriptor pool of its own.
JSON: Final = "penstock.transcoder.json"
SSE: Final = "penstock.transcoder.sse"
NDJSON: Final = "penstock.transcoder.ndjson"

EXPOSED_HEADERS: Final = "x-request-id, retry-after, allow, grpc-status, grpc-message, grpc-status-details-bin"
LOOPBACK_ORIGINS: Final = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?"


def build_filters(settings: GatewaySettings, contract: Contract) -> list[Any]:
    """All HTTP filters, the first one first on the way in and last on the way out."""
    streamed = sorted({rpc.service for rpc in contract.rpcs if rpc.server_streaming and not rpc.raw})
    everything = sorted({rpc.service for rpc in contract.rpcs})
    found = [
        _filter(COMPRESSOR, _compressor(), disabled=True),
        _filter("penstock.health", _health()),
        _filter(CORS, cors_pb2.Cors()),
    ]
    # Before the authorizer, so that its refusals reach a browser in gRPC-Web's own shape.
    found.append(_filter("envoy.filters.http.grpc_web", grpc_web_pb2.GrpcWeb()))
    if settings.jwt_jwks:
        found.append(_filter("penstock.tokens", token_verification(settings)))
    if settings.is_guarded:
        found.append(_filter(AUTHENTICATION, authorization()))
    return [
        *found,
        _filter(BODY_LIMIT, _body_limit(settings.max_request_bytes), disabled=True),
        _filter(OPENAI_ERRORS, _lua("openai_errors.lua"), disabled=True),
        _filter(NDJSON_TYPE, _lua("ndjson_type.lua"), disabled=True),
        _filter(JSON, _transcoder(settings, contract, everything), disabled=True),
        _filter(SSE, _transcoder(settings, contract, streamed, stream_sse_style_delimited=True), disabled=True),
        _filter(NDJSON, _transcoder(settings, contract, streamed, stream_newline_delimited=True), disabled=True),
        _filter("envoy.filters.http.grpc_stats", _grpc_stats()),
        _filter("envoy.filters.http.router", router_pb2.Router(suppress_envoy_headers=True)),
    ]


def enabled() -> Any:
    """Turns a filter on for a route, as it is configured for all."""
    return any_of(route_components_pb2.FilterConfig(config=any_pb2.Any()))


def disabled() -> Any:
    """Turns a filter off for a route."""
    return any_of(route_components_pb2.FilterConfig(disabled=True))


def allowed_origins(origins: Sequence[str]) -> str:
    """A regular expression over the origins that browsers may call from."""
    if "*" in origins:
        return ".*"
    return "|".join(re.escape(origin) for origin in origins) or LOOPBACK_ORIGINS


def cors_policy(origins: Sequence[str]) -> Any:
    """Who may call from a browser, with what, and what they may read."""
    return cors_pb2.CorsPolicy(
        allow_origin_string_match=[string_pb2.StringMatcher(safe_regex={"regex": allowed_origins(origins)})],
        allow_methods="GET, POST, PUT, PATCH, DELETE, OPTIONS",
        allow_headers=(
            "authorization, content-type, accept, x-api-key, x-request-id, x-grpc-web, x-user-agent, grpc-timeout, "
            "traceparent, tracestate"
        ),
        expose_headers=EXPOSED_HEADERS,
        max_age="7200",
        # A preflight from elsewhere is answered without permission, and reaches no service.
        forward_not_matching_preflights=wrappers_pb2.BoolValue(value=False),
    )


def _filter(name: str, config: Message, *, disabled: bool = False) -> Any:
    return hcm_pb2.HttpFilter(name=name, typed_config=any_of(config), disabled=disabled)


def _compressor() -> Any:
    return compressor_pb2.Compressor(
        response_direction_config=compressor_pb2.Compressor.ResponseDirectionConfig(
            common_config=compressor_pb2.Compressor.CommonDirectionConfig(
                min_content_length=wrappers_pb2.UInt32Value(value=512)
            )
        ),
        compressor_library=TypedExtensionConfig(name="gzip", typed_config=any_of(_gzip())),
    )


def _gzip() -> Any:
    """Little effort: what is saved by more of it is not worth its time."""
    return gzip_pb2.Gzip(compression_level=gzip_pb2.Gzip.BEST_SPEED)


def _health() -> Any:
    return health_check_pb2.HealthCheck(
        pass_through_mode=wrappers_pb2.BoolValue(value=False),
        headers=[header_is(":path", HEALTH_PATH)],
        cluster_min_healthy_percentages={name: percent_pb2.Percent(value=1) for name in BACKENDS},
    )


def _body_limit(limit: int) -> Any:
    """Holds a request until all of it is there; the transcoder's own limit spares bodies that it reads piece by piece."""
    return buffer_pb2.Buffer(max_request_bytes=wrappers_pb2.UInt32Value(value=limit))


def _lua(file: str) -> Any:
    code = (FOLDER / file).read_text(encoding="utf-8")
    return lua_pb2.Lua(default_source_code=base_pb2.DataSource(inline_string=code))


def _transcoder(
    settings: GatewaySettings,
    contract: Contract,
    services: Sequence[str],
    *,
    stream_sse_style_delimited: bool = False,
    stream_newline_delimited: bool = False,
) -> Any:
    config = transcoder_pb2.GrpcJsonTranscoder
    return config(
        proto_descriptor_bin=contract.descriptors(services),
        services=services,
        print_options=config.PrintOptions(
            always_print_primitive_fields=True,
            preserve_proto_field_names=True,
            stream_sse_style_delimited=stream_sse_style_delimited,
            stream_newline_delimited=stream_newline_delimited,
        ),
        match_incoming_request_route=True,
        convert_grpc_status=True,
        # A document's id may hold a slash, written %2F.
        url_unescape_spec=config.UrlUnescapeSpec.Value("ALL_CHARACTERS"),
        query_param_unescape_plus=True,
        request_validation_options=config.RequestValidationOptions(
            reject_unknown_method=True, reject_unknown_query_parameters=True
        ),
        max_request_body_size=wrappers_pb2.UInt32Value(value=settings.max_request_bytes),
        max_response_body_size=wrappers_pb2.UInt32Value(value=settings.max_response_bytes),
    )


def _grpc_stats() -> Any:
    return grpc_stats_pb2.FilterConfig(stats_for_all_methods=wrappers_pb2.BoolValue(value=True))
