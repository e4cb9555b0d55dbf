"""The gRPC server: Qdrant's services and grpc.health.v1 on one port."""

from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from deploy.local.qdrant_edge.collections_servicer import CollectionsServicer
from deploy.local.qdrant_edge.points_servicer import PointsServicer
from deploy.local.qdrant_edge.refusals import RefusalInterceptor
from deploy.local.qdrant_edge.store import Store
from deploy.local.qdrant_edge.stubs import (
    collections_service_pb2_grpc,
    points_service_pb2_grpc,
    qdrant_pb2,
    qdrant_pb2_grpc,
    snapshots_service_pb2_grpc,
)

# The release of Qdrant whose API this is; clients compare it with their own.
API_VERSION = "1.20.0"
SERVICES = ("", "qdrant.Qdrant", "qdrant.Collections", "qdrant.Points")
MAX_REQUEST_BYTES = 64 * 2**20


class QdrantServicer(qdrant_pb2_grpc.QdrantServicer):
    """Says which version answers."""

    async def HealthCheck(
        self,
        request: qdrant_pb2.HealthCheckRequest,  # noqa: ARG002  # gRPC gives it
        context: grpc.aio.ServicerContext[Any, Any],  # noqa: ARG002  # gRPC gives it
    ) -> qdrant_pb2.HealthCheckReply:
        """Answer whenever the process lives."""
        return qdrant_pb2.HealthCheckReply(title="qdrant-edge", version=API_VERSION)


async def serve(store: Store, address: str) -> tuple[grpc.aio.Server, health_aio.HealthServicer]:
    """Start answering on `address` (host:port). Raises OSError when it is taken."""
    server = grpc.aio.server(
        interceptors=[RefusalInterceptor()],
        options=[
            ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
            ("grpc.max_send_message_length", -1),
            # A second process on the port must fail, not share it.
            ("grpc.so_reuseport", 0),
        ],
    )
    health = health_aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    for add, servicer in (
        (qdrant_pb2_grpc.add_QdrantServicer_to_server, QdrantServicer()),
        (collections_service_pb2_grpc.add_CollectionsServicer_to_server, CollectionsServicer(store)),
        (points_service_pb2_grpc.add_PointsServicer_to_server, PointsServicer(store)),
        (snapshots_service_pb2_grpc.add_SnapshotsServicer_to_server, snapshots_service_pb2_grpc.SnapshotsServicer()),
    ):
        add(servicer, server)  # type: ignore[no-untyped-call]  # generated without types
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: it is taken, or is no address of this machine") from error
    await server.start()
    for service in SERVICES:
        await health.set(service, health_pb2.HealthCheckResponse.SERVING)
    return server, health
