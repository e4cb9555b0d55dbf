"""Where calls come in: the one port for HTTP/1.1 and HTTP/2, and a port for metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import protocol_pb2, socket_option_pb2, substitution_format_string_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.access_loggers.stream.v3 import stream_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.request_id.uuid.v3 import uuid_pb2
from google.protobuf import struct_pb2, wrappers_pb2

from services.gateway import filters
from services.gateway.authorization import ended_log, stripping
from services.gateway.clusters import ADMIN, keepalive
from services.gateway.replies import build_local_replies
from services.gateway.routes import build_routes
from services.gateway.tls import tls_socket
from services.gateway.typed import any_of, seconds, socket_address

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.gateway.contract import Contract
    from services.gateway.pages import Page
    from services.gateway.settings import GatewaySettings

_STREAM_WINDOW: Final = 1 << 20
_CONNECTION_WINDOW: Final = 4 << 20
_BUFFER: Final = 1 << 20
_ACCESS_LOG: Final = {
    "time": "%START_TIME%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "method": "%REQ(X-ENVOY-ORIGINAL-METHOD?:METHOD)%",
    # Without the query, which may hold what users wrote.
    "path": "%PATH(NQ:ORIG_OR_PATH)%",
    "protocol": "%PROTOCOL%",
    "status": "%RESPONSE_CODE%",
    "grpc_status": "%GRPC_STATUS%",
    "flags": "%RESPONSE_FLAGS%",
    "milliseconds": "%DURATION%",
    "bytes_in": "%BYTES_RECEIVED%",
    "bytes_out": "%BYTES_SENT%",
    "service": "%UPSTREAM_CLUSTER%",
}


def build_listeners(settings: GatewaySettings, contract: Contract, pages: Sequence[Page]) -> list[Any]:
    """The gateway's listener, and one for metrics if they are wanted."""
    api = _http(
        stat_prefix="api",
        route_config=build_routes(settings, contract, pages),
        http_filters=filters.build_filters(settings, contract),
        local_reply_config=build_local_replies(settings.max_request_bytes),
    )
    api.early_header_mutation_extensions.append(stripping(settings.is_guarded))
    api.always_set_request_id_in_response = True
    api.preserve_external_request_id = True
    api.http2_protocol_options.initial_stream_window_size.value = _STREAM_WINDOW
    api.http2_protocol_options.initial_connection_window_size.value = _CONNECTION_WINDOW
    api.http2_protocol_options.max_concurrent_streams.value = 1024
    api.http2_protocol_options.connection_keepalive.CopyFrom(keepalive())
    if settings.is_guarded:
        api.access_log.append(ended_log(settings.ended_pipe))
    if settings.access_log:
        api.access_log.append(_access_log())
    host = f"[{settings.listen_host}]" if ":" in settings.listen_host else settings.listen_host
    listeners = [_listener("api", f"{host}:{settings.port}", api)]
    if settings.tls_certificate_file and settings.tls_key_file:
        secure = tls_socket(settings.tls_certificate_file, settings.tls_key_file)
        listeners[0].filter_chains[0].transport_socket.CopyFrom(secure)
    if settings.metrics_address:
        metrics = _http(stat_prefix="metrics", route_config=_metrics_route(), http_filters=[_router()])
        listeners.append(_listener("metrics", settings.metrics_address, metrics))
    return listeners


def _http(**parts: Any) -> Any:
    manager = hcm_pb2.HttpConnectionManager(
        codec_type=hcm_pb2.HttpConnectionManager.AUTO,
        server_name="penstock",
        normalize_path=wrappers_pb2.BoolValue(value=True),
        # The gateway stands at the edge: nothing that a caller says of itself is believed.
        use_remote_address=wrappers_pb2.BoolValue(value=True),
        # Routes set their own limits; this one holds until a route is known.
        stream_idle_timeout=seconds(300),
        request_headers_timeout=seconds(30),
        stream_error_on_invalid_http_message=wrappers_pb2.BoolValue(value=True),
        common_http_protocol_options=protocol_pb2.HttpProtocolOptions(idle_timeout=seconds(3600)),
        **parts,
    )
    # Envoy would else write its tracing decision into the request id.
    ids = uuid_pb2.UuidRequestIdConfig(
        pack_trace_reason=wrappers_pb2.BoolValue(value=False),
        use_request_id_for_trace_sampling=wrappers_pb2.BoolValue(value=False),
    )
    manager.request_id_extension.typed_config.CopyFrom(any_of(ids))
    return manager


def _listener(name: str, address: str, manager: Any) -> Any:
    chain = listener_components_pb2.FilterChain(
        filters=[
            listener_components_pb2.Filter(name="envoy.filters.network.http_connection_manager", typed_config=any_of(manager))
        ]
    )
    return listener_pb2.Listener(
        name=name,
        address=socket_address(address),
        filter_chains=[chain],
        per_connection_buffer_limit_bytes=wrappers_pb2.UInt32Value(value=_BUFFER),
        # With it, a second gateway on this port would start and silently take half of the calls.
        enable_reuse_port=wrappers_pb2.BoolValue(value=False),
        socket_options=_tcp_keepalive(),
    )


def _tcp_keepalive() -> list[Any]:
    """Finds HTTP/1.1 clients that vanished without a word within about a minute (numbers are Linux's)."""
    options = {(1, 9): 1, (6, 4): 30, (6, 5): 10, (6, 6): 3}
    return [
        socket_option_pb2.SocketOption(
            level=level, name=name, int_value=value, state=socket_option_pb2.SocketOption.STATE_LISTENING
        )
        for (level, name), value in options.items()
    ]


def _access_log() -> Any:
    line = struct_pb2.Struct()
    line.update(_ACCESS_LOG)
    log = stream_pb2.StdoutAccessLog(log_format=substitution_format_string_pb2.SubstitutionFormatString(json_format=line))
    return accesslog_pb2.AccessLog(name="envoy.access_loggers.stdout", typed_config=any_of(log))


def _metrics_route() -> Any:
    """Only the metrics of Envoy's admin, which itself stays on loopback."""
    route = route_components_pb2.Route(match=route_components_pb2.RouteMatch(path="/metrics"))
    route.route.cluster = ADMIN
    route.route.prefix_rewrite = "/stats/prometheus?usedonly"
    host = route_components_pb2.VirtualHost(name="metrics", domains=["*"], routes=[route])
    return route_pb2.RouteConfiguration(name="metrics", virtual_hosts=[host])


def _router() -> Any:
    return hcm_pb2.HttpFilter(name="envoy.filters.http.router", typed_config=any_of(router_pb2.Router()))
