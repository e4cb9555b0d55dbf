"""Puts Envoy's whole configuration together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from envoy.config.bootstrap.v3 import bootstrap_pb2
from envoy.config.core.v3 import base_pb2
from envoy.config.overload.v3 import overload_pb2
from envoy.extensions.resource_monitors.downstream_connections.v3 import downstream_connections_pb2
from google.protobuf import struct_pb2

from services.gateway.clusters import build_clusters
from services.gateway.contract import Contract
from services.gateway.listener import build_listeners
from services.gateway.openapi import describe
from services.gateway.pages import FOLDER, read_pages
from services.gateway.typed import any_of, seconds, socket_address

if TYPE_CHECKING:
    from services.gateway.settings import GatewaySettings

DESCRIPTORS: Final = FOLDER / "api.binpb"
_MOST_CONNECTIONS: Final = 50_000
_RELEASED_AT_ONCE: Final = 64 << 20


def build_bootstrap(settings: GatewaySettings) -> Any:
    """Envoy's configuration; the same bytes for the same settings and files. It holds no keys: the authorizer has them."""
    contract = Contract.read(DESCRIPTORS)
    pages = read_pages(describe(contract))
    log = struct_pb2.Struct()
    log.update({"time": "%Y-%m-%dT%T.%e%z", "level": "%l", "logger": "envoy.%n", "message": "%j"})
    return bootstrap_pb2.Bootstrap(
        node=base_pb2.Node(id="gateway", cluster="penstock"),
        static_resources=bootstrap_pb2.Bootstrap.StaticResources(
            listeners=build_listeners(settings, contract, pages),
            clusters=build_clusters(settings),
        ),
        admin=bootstrap_pb2.Admin(address=socket_address(settings.admin_address)),
        overload_manager=overload_pb2.OverloadManager(resource_monitors=[_most_connections()]),
        # Gives back what large bodies needed.
        memory_allocator_manager=bootstrap_pb2.MemoryAllocatorManager(
            bytes_to_release=_RELEASED_AT_ONCE, memory_release_interval=seconds(1)
        ),
        application_log_config=bootstrap_pb2.Bootstrap.ApplicationLogConfig(
            log_format=bootstrap_pb2.Bootstrap.ApplicationLogConfig.LogFormat(json_format=log)
        ),
    )


def _most_connections() -> Any:
    limit = downstream_connections_pb2.DownstreamConnectionsConfig(max_active_downstream_connections=_MOST_CONNECTIONS)
    return overload_pb2.ResourceMonitor(
        name="envoy.resource_monitors.global_downstream_max_connections", typed_config=any_of(limit)
    )
