"""Where requests go: a cluster per service, and one over all of them for what any service can answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from envoy.config.cluster.v3 import circuit_breaker_pb2, cluster_pb2, outlier_detection_pb2
from envoy.config.core.v3 import health_check_pb2, protocol_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from envoy.extensions.clusters.aggregate.v3 import cluster_pb2 as aggregate_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from google.protobuf import wrappers_pb2

from services.gateway.authorization import authorizer_cluster
from services.gateway.settings import GatewaySettings, is_ip, parse_address, split_addresses
from services.gateway.tokens import is_url, jwks_cluster
from services.gateway.typed import any_of, seconds, socket_address

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BACKENDS: Final = ("experiments", "inference", "retrieval")
ANY_BACKEND: Final = "any"
ADMIN: Final = "admin"

# Calls at once to one service: far above what services take in, and little enough to leave Envoy its memory.
_MOST_CALLS: Final = 1 << 14
# An HTTP/2 window a stream and a connection: bounds what a slow reader makes Envoy hold.
_STREAM_WINDOW: Final = 1 << 20
_CONNECTION_WINDOW: Final = 4 << 20


def keepalive() -> Any:
    """Pings that find a peer that vanished without a word."""
    return protocol_pb2.KeepaliveSettings(interval=seconds(30), timeout=seconds(10))


def build_clusters(settings: GatewaySettings) -> list[Any]:
    """All clusters."""
    addresses: Mapping[str, str] = {
        "experiments": settings.experiments_address,
        "inference": settings.inference_address,
        "retrieval": settings.retrieval_address,
    }
    clusters = [_backend(name, split_addresses(addresses[name])) for name in BACKENDS]
    clusters.append(_any_backend())
    if is_url(settings.jwt_jwks):
        clusters.append(jwks_cluster(settings))
    if settings.is_guarded:
        clusters.append(authorizer_cluster(settings.authorizer_socket, _limits()))
    if settings.metrics_address:
        clusters.append(_admin(settings.admin_address))
    return clusters


def _backend(name: str, addresses: Sequence[str]) -> Any:
    static = all(is_ip(parse_address(one)[0]) for one in addresses)
    cluster = cluster_pb2.Cluster(
        name=name,
        type=cluster_pb2.Cluster.STATIC if static else cluster_pb2.Cluster.STRICT_DNS,
        connect_timeout=seconds(2),
        # Calls differ in length by orders of magnitude, so counting open ones beats taking turns.
        lb_policy=cluster_pb2.Cluster.LEAST_REQUEST,
        load_assignment=_endpoints(name, addresses),
        circuit_breakers=_limits(),
        health_checks=[_grpc_health_check()],
        per_connection_buffer_limit_bytes=wrappers_pb2.UInt32Value(value=_STREAM_WINDOW),
    )
    if not static:
        cluster.dns_lookup_family = cluster_pb2.Cluster.V4_PREFERRED
    if len(addresses) > 1:
        cluster.outlier_detection.CopyFrom(_outliers())
    options = http_protocol_options_pb2.HttpProtocolOptions()
    http2 = options.explicit_http_config.http2_protocol_options
    http2.connection_keepalive.CopyFrom(keepalive())
    http2.initial_stream_window_size.value = _STREAM_WINDOW
    http2.initial_connection_window_size.value = _CONNECTION_WINDOW
    name_of_options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    cluster.typed_extension_protocol_options[name_of_options].CopyFrom(any_of(options))
    return cluster


def _endpoints(name: str, addresses: Sequence[str]) -> Any:
    return endpoint_pb2.ClusterLoadAssignment(
        cluster_name=name,
        endpoints=[
            endpoint_components_pb2.LocalityLbEndpoints(
                lb_endpoints=[
                    endpoint_components_pb2.LbEndpoint(endpoint=endpoint_components_pb2.Endpoint(address=socket_address(one)))
                    for one in addresses
                ]
            )
        ],
    )


def _grpc_health_check() -> Any:
    return health_check_pb2.HealthCheck(
        timeout=seconds(2),
        interval=seconds(1),
        # The default of a minute would keep a gateway without traffic unready for as long.
        no_traffic_interval=seconds(1),
        no_traffic_healthy_interval=seconds(1),
        unhealthy_threshold=wrappers_pb2.UInt32Value(value=2),
        healthy_threshold=wrappers_pb2.UInt32Value(value=1),
        grpc_health_check=health_check_pb2.HealthCheck.GrpcHealthCheck(),
    )


def _limits() -> Any:
    """Services refuse what is too much for them, in a typed error; beyond these, the gateway answers 503 by itself."""
    most = wrappers_pb2.UInt32Value(value=_MOST_CALLS)
    thresholds = circuit_breaker_pb2.CircuitBreakers.Thresholds(
        max_connections=most, max_pending_requests=most, max_requests=most, max_retries=wrappers_pb2.UInt32Value(value=64)
    )
    return circuit_breaker_pb2.CircuitBreakers(thresholds=[thresholds])


def _outliers() -> Any:
    """Leaves out an endpoint that cannot be reached. What an endpoint answers never counts: it may be the engine's fault."""
    zero = wrappers_pb2.UInt32Value(value=0)
    return outlier_detection_pb2.OutlierDetection(
        split_external_local_origin_errors=True,
        consecutive_local_origin_failure=wrappers_pb2.UInt32Value(value=3),
        enforcing_consecutive_5xx=zero,
        enforcing_consecutive_gateway_failure=zero,
        enforcing_success_rate=zero,
        enforcing_local_origin_success_rate=zero,
        base_ejection_time=seconds(5),
        max_ejection_percent=wrappers_pb2.UInt32Value(value=50),
    )


def _any_backend() -> Any:
    cluster = cluster_pb2.Cluster(name=ANY_BACKEND, connect_timeout=seconds(2), lb_policy=cluster_pb2.Cluster.CLUSTER_PROVIDED)
    cluster.cluster_type.name = "envoy.clusters.aggregate"
    cluster.cluster_type.typed_config.CopyFrom(any_of(aggregate_pb2.ClusterConfig(clusters=BACKENDS)))
    return cluster


def _admin(address: str) -> Any:
    return cluster_pb2.Cluster(
        name=ADMIN,
        type=cluster_pb2.Cluster.STATIC if is_ip(parse_address(address)[0]) else cluster_pb2.Cluster.STRICT_DNS,
        connect_timeout=seconds(1),
        load_assignment=_endpoints(ADMIN, [address]),
    )
