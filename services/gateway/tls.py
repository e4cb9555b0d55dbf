"""TLS at the gateway's own port."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from envoy.config.core.v3 import base_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, tls_pb2

from services.gateway.typed import any_of

if TYPE_CHECKING:
    from pathlib import Path


def tls_socket(certificate: Path, key: Path) -> Any:
    """Speaks TLS 1.2 or newer with this certificate, and HTTP/2 or HTTP/1.1 in it, as the client prefers."""
    pair = common_pb2.TlsCertificate(
        certificate_chain=base_pb2.DataSource(filename=str(certificate.absolute())),
        private_key=base_pb2.DataSource(filename=str(key.absolute())),
    )
    context = tls_pb2.DownstreamTlsContext(
        common_tls_context=tls_pb2.CommonTlsContext(
            tls_certificates=[pair],
            alpn_protocols=["h2", "http/1.1"],
            tls_params=common_pb2.TlsParameters(tls_minimum_protocol_version=common_pb2.TlsParameters.TLSv1_2),
        )
    )
    return base_pb2.TransportSocket(name="envoy.transport_sockets.tls", typed_config=any_of(context))
