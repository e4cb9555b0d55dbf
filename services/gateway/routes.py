"""Which request goes where: pages, REST by the contract's paths, gRPC by package, and plain refusals for the rest."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from envoy.config.core.v3 import base_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2
from envoy.type.v3 import range_pb2
from google.protobuf import wrappers_pb2

from services.gateway import filters
from services.gateway.clusters import ANY_BACKEND
from services.gateway.pages import SECURITY_HEADERS
from services.gateway.replies import GRPC, OPENAI_PREFIX
from services.gateway.typed import any_of, header_begins, header_contains, header_is, header_matches, seconds, set_header

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from services.gateway.contract import Contract, Rpc
    from services.gateway.pages import Page
    from services.gateway.settings import GatewaySettings

# An absent content type counts: a POST without a body has none.
_JSON_BODY: Final = r"(?i)|\s*application/([a-z0-9.+-]+\+)?json\s*(;.*)?"
# Asks proxies on the way to the client to pass each event on as it comes.
_UNBUFFERED: Final = {"cache-control": "no-cache", "x-accel-buffering": "no"}
_REFLECTION: Final = ("/grpc.reflection.", "/grpc.health.v1.Health/")
# The protocol that providers of OpenFeature speak; not part of our own contract.
_OPENFEATURE: Final = ("/flagd.evaluation.v1.Service/", "/flagd.evaluation.v2.Service/")
_LARGEST_LENGTH: Final = 1 << 62


def build_routes(settings: GatewaySettings, contract: Contract, pages: Sequence[Page]) -> Any:
    """The whole table; the first route that matches is taken."""
    host = route_components_pb2.VirtualHost(
        name="gateway",
        domains=["*"],
        routes=[
            _preflight(),
            *(route for page in pages for route in _page(page, is_secure=settings.tls_key_file is not None)),
            _to("/docs/", "/docs"),
            # What takes bodies of any size is not asked for theirs.
            *(route for rpc in contract.rpcs if rpc.raw_body for route in _rest(settings, rpc)),
            *_oversized(settings),
            *(_grpc(f"/{package}.", package.split(".")[1]) for package in contract.packages),
            *(_grpc(prefix, ANY_BACKEND) for prefix in _REFLECTION),
            *(_grpc(prefix, "experiments") for prefix in _OPENFEATURE),
            # Envoy tries one route after the other: exact paths, which cost least and are asked for most, come first.
            *(route for rpc in sorted(contract.rpcs, key=_cost) if not rpc.raw_body for route in _rest(settings, rpc)),
            *_refusals(settings, contract.rpcs, pages),
            *_refuse(settings, route_components_pb2.RouteMatch(prefix="/"), 404),
        ],
    )
    host.typed_per_filter_config[filters.CORS].CopyFrom(any_of(filters.cors_policy(settings.cors_origins)))
    return route_pb2.RouteConfiguration(
        name="gateway",
        virtual_hosts=[host],
        max_direct_response_body_size_bytes=wrappers_pb2.UInt32Value(
            value=max((len(page.body) for page in pages), default=0) + 4096
        ),
    )


def _preflight() -> Any:
    """A browser's question whether it may call; the CORS filter answers it, but only on a route that forwards."""
    asked = route_components_pb2.HeaderMatcher(name="access-control-request-method", present_match=True)
    route = _route(route_components_pb2.RouteMatch(prefix="/", headers=[header_is(":method", "OPTIONS"), asked]))
    route.route.cluster = ANY_BACKEND
    return _open(route)


def _page(page: Page, *, is_secure: bool) -> list[Any]:
    read = header_matches(":method", "GET|HEAD")
    known = header_is("if-none-match", page.etag)
    headers = {"cache-control": "no-cache", "etag": page.etag, **SECURITY_HEADERS}
    if is_secure:
        headers["strict-transport-security"] = "max-age=31536000"
    unchanged = _direct(route_components_pb2.RouteMatch(path=page.path, headers=[read, known]), 304, headers)
    whole = _direct(
        route_components_pb2.RouteMatch(path=page.path, headers=[read]),
        200,
        {"content-type": page.content_type, **headers},
        page.body,
    )
    whole.typed_per_filter_config[filters.COMPRESSOR].CopyFrom(filters.enabled())
    return [_open(unchanged), _open(whole)]


def _to(path: str, target: str) -> Any:
    route = _route(route_components_pb2.RouteMatch(path=path))
    route.redirect.path_redirect = target
    return _open(route)


def _oversized(settings: GatewaySettings) -> list[Any]:
    """Refuses a body by the length it announces, before any of it is read. gRPC's limit is the services' own."""
    too_long = route_components_pb2.HeaderMatcher(
        name="content-length",
        range_match=range_pb2.Int64Range(start=settings.max_request_bytes + 1, end=_LARGEST_LENGTH),
    )
    no_grpc = header_begins("content-type", GRPC, negate=True)
    no_grpc.treat_missing_header_as_empty = True
    return _refuse(settings, route_components_pb2.RouteMatch(prefix="/", headers=[too_long, no_grpc]), 413)


def _grpc(prefix: str, cluster: str) -> Any:
    """Calls of gRPC and gRPC-Web as they come. The caller's deadline is the only limit on time."""
    headers = [header_begins("content-type", GRPC)]
    route = _route(route_components_pb2.RouteMatch(prefix=prefix, headers=headers))
    _forward(route, cluster, timeout=0, idle=0)
    return route


def _cost(rpc: Rpc) -> tuple[bool, int]:
    """The longest pattern comes first, so that `{ingestion}:watch` is not taken for an ingestion's id."""
    return bool(rpc.pattern), -len(rpc.template)


def _rest(settings: GatewaySettings, rpc: Rpc) -> list[Any]:
    if not rpc.server_streaming or rpc.raw:
        framings: Mapping[str, str] = {"": filters.JSON}
    else:
        framings = {"text/event-stream": filters.SSE, "application/x-ndjson": filters.NDJSON, "": filters.JSON}
    routes = []
    for accept, transcoder in framings.items():
        match = _match(rpc, [header_is(":method", rpc.verb)])
        if rpc.body and not rpc.raw_body:
            match.headers.append(header_matches("content-type", _JSON_BODY))
        if accept:
            match.headers.append(header_contains("accept", accept))
        route = _route(match)
        _limit(settings, route, rpc)
        route.typed_per_filter_config[transcoder].CopyFrom(filters.enabled())
        if rpc.body and not rpc.client_streaming:
            route.typed_per_filter_config[filters.BODY_LIMIT].CopyFrom(filters.enabled())
        route.response_headers_to_remove.append("grpc-accept-encoding")
        if transcoder == filters.NDJSON:
            route.typed_per_filter_config[filters.NDJSON_TYPE].CopyFrom(filters.enabled())
        if rpc.template.startswith(OPENAI_PREFIX):
            route.typed_per_filter_config[filters.OPENAI_ERRORS].CopyFrom(filters.enabled())
        routes.append(route)
    return routes


def _limit(settings: GatewaySettings, route: Any, rpc: Rpc) -> None:
    """How long a call may take, whether it is tried again, and whether its answer is compressed."""
    if rpc.raw_body:
        # It takes as long as its sender needs, but may not pause for ever.
        _forward(route, rpc.backend, timeout=0, idle=settings.stream_idle_timeout)
    elif rpc.server_streaming:
        _forward(route, rpc.backend, timeout=0, idle=settings.stream_idle_timeout)
        route.response_headers_to_add.extend(set_header(name, value) for name, value in _UNBUFFERED.items())
    else:
        _forward(route, rpc.backend, timeout=settings.request_timeout, idle=0)
        # The caller's own deadline, from `grpc-timeout`; a little before the service's, for Envoy tells it in REST's shape.
        route.route.max_stream_duration.grpc_timeout_header_max.CopyFrom(seconds(0))
        route.route.max_stream_duration.grpc_timeout_header_offset.CopyFrom(seconds(0.01))
        if rpc.idempotent:
            # Another one is asked where a service goes away in the middle of it, or cannot do it now.
            route.route.retry_policy.retry_on += ",reset,unavailable"
    if rpc.raw or not rpc.server_streaming:
        # Of what may be either, the compressor leaves server-sent events alone.
        route.typed_per_filter_config[filters.COMPRESSOR].CopyFrom(filters.enabled())


def _refusals(settings: GatewaySettings, rpcs: Sequence[Rpc], pages: Sequence[Page]) -> list[Any]:
    """What a known path answers to a wrong content type (415) or method (405)."""
    by_path: dict[str, list[Rpc]] = defaultdict(list)
    for rpc in rpcs:
        by_path[rpc.template].append(rpc)
    routes = []
    # The longest first, so that `{experiment}:start` is not taken for an experiment's id.
    for template in sorted(by_path, key=len, reverse=True):
        group = by_path[template]
        for rpc in group:
            if rpc.body and not rpc.raw_body:
                routes += _refuse(settings, _match(rpc, [header_is(":method", rpc.verb)]), 415)
        allow = ", ".join(sorted({rpc.verb for rpc in group}))
        routes += _refuse(settings, _match(group[0], []), 405, {"allow": allow})
    for page in pages:
        routes += _refuse(settings, route_components_pb2.RouteMatch(path=page.path), 405, {"allow": "GET, HEAD"})
    return routes


def _refuse(settings: GatewaySettings, match: Any, status: int, headers: Mapping[str, str] | None = None) -> list[Any]:
    """Refusals; Envoy's CORS filter passes over them, so they themselves let browsers of allowed origins read them."""
    readable = route_components_pb2.RouteMatch()
    readable.CopyFrom(match)
    allowed = header_matches("origin", filters.allowed_origins(settings.cors_origins))
    allowed.treat_missing_header_as_empty = False
    readable.headers.append(allowed)
    told = {
        "access-control-allow-origin": "%REQ(ORIGIN)%",
        "access-control-expose-headers": filters.EXPOSED_HEADERS,
        **(headers or {}),
    }
    # Whoever may not call may know that there is nothing to call: /openapi.json tells it anyway.
    return [_open(_direct(readable, status, told)), _open(_direct(match, status, headers))]


def _match(rpc: Rpc, headers: Sequence[Any]) -> Any:
    if rpc.pattern:
        return route_components_pb2.RouteMatch(safe_regex={"regex": rpc.pattern}, headers=headers)
    return route_components_pb2.RouteMatch(path=rpc.template, headers=headers)


def _forward(route: Any, cluster: str, *, timeout: float, idle: float) -> None:
    action = route.route
    action.cluster = cluster
    action.timeout.CopyFrom(seconds(timeout))
    action.idle_timeout.CopyFrom(seconds(idle))
    # Only what certainly reached no handler is tried again.
    action.retry_policy.retry_on = "connect-failure,refused-stream,reset-before-request"
    action.retry_policy.num_retries.value = 2
    elsewhere = action.retry_policy.retry_host_predicate.add(name="envoy.retry_host_predicates.previous_hosts")
    elsewhere.typed_config.CopyFrom(any_of(previous_hosts_pb2.PreviousHostsPredicate()))
    action.retry_policy.host_selection_retry_max_attempts = 5


def _direct(match: Any, status: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Any:
    route = _route(match)
    route.direct_response.status = status
    if body:
        route.direct_response.body.CopyFrom(base_pb2.DataSource(inline_bytes=body))
    route.response_headers_to_add.extend(set_header(name, value) for name, value in (headers or {}).items())
    return route


def _route(match: Any) -> Any:
    return route_components_pb2.Route(match=match)


def _open(route: Any) -> Any:
    """Lets everyone in, key or not."""
    route.typed_per_filter_config[filters.AUTHENTICATION].CopyFrom(filters.disabled())
    return route
