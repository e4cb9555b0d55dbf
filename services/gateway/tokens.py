"""JSON Web Tokens: verified by Envoy against a key set, and read by the authorizer."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import base_pb2, http_uri_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2 as jwt_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, tls_pb2
from envoy.type.matcher.v3 import string_pb2
from google.protobuf import empty_pb2

from services.gateway.headers import JWT_HEADER
from services.gateway.typed import any_of, seconds, socket_address

if TYPE_CHECKING:
    from services.gateway.settings import GatewaySettings

JWKS: Final = "jwks"
_PROVIDER: Final = "tokens"
_FETCH_SECONDS: Final = 5.0
_KEPT_SECONDS: Final = 300.0
"""For how long a fetched key set is used: a key that its issuer withdraws is good for that long."""
_USUAL_CERTIFICATES: Final = "/etc/ssl/certs/ca-certificates.crt"
_CLOCK_SKEW_SECONDS: Final = 30


def token_verification(settings: GatewaySettings) -> Any:
    """Verifies a bearer token, if there is one, and puts its claims where the authorizer reads them.

    What is no valid token passes without claims: it may be an API key, and the authorizer refuses what is neither.
    """
    provider = jwt_pb2.JwtProvider(
        issuer=settings.jwt_issuer,
        audiences=settings.jwt_audiences,
        require_expiration=True,
        clock_skew_seconds=_CLOCK_SKEW_SECONDS,
        forward_payload_header=JWT_HEADER,
    )
    if is_url(settings.jwt_jwks):
        provider.remote_jwks.CopyFrom(
            jwt_pb2.RemoteJwks(
                http_uri=http_uri_pb2.HttpUri(uri=settings.jwt_jwks, cluster=JWKS, timeout=seconds(_FETCH_SECONDS)),
                cache_duration=seconds(_KEPT_SECONDS),
                # Fetched at the start and then ahead of time, so that no call waits for it.
                async_fetch=jwt_pb2.JwksAsyncFetch(fast_listener=True),
            )
        )
    else:
        provider.local_jwks.CopyFrom(base_pb2.DataSource(filename=settings.jwt_jwks))
    either = jwt_pb2.JwtRequirementOrList(
        requirements=[
            jwt_pb2.JwtRequirement(provider_name=_PROVIDER),
            jwt_pb2.JwtRequirement(allow_missing_or_failed=empty_pb2.Empty()),
        ]
    )
    rule = jwt_pb2.RequirementRule(
        match=route_components_pb2.RouteMatch(prefix="/"), requires=jwt_pb2.JwtRequirement(requires_any=either)
    )
    return jwt_pb2.JwtAuthentication(providers={_PROVIDER: provider}, rules=[rule])


def jwks_cluster(settings: GatewaySettings) -> Any:
    """Where the key set is fetched from."""
    target = urlsplit(settings.jwt_jwks)
    is_secure = target.scheme == "https"
    host = target.hostname or ""
    at = f"[{host}]" if ":" in host else host
    address = socket_address(f"{at}:{target.port or (443 if is_secure else 80)}")
    endpoint = endpoint_components_pb2.LbEndpoint(endpoint=endpoint_components_pb2.Endpoint(address=address))
    cluster = cluster_pb2.Cluster(
        name=JWKS,
        type=cluster_pb2.Cluster.STRICT_DNS,
        dns_lookup_family=cluster_pb2.Cluster.V4_PREFERRED,
        connect_timeout=seconds(_FETCH_SECONDS),
        load_assignment=endpoint_pb2.ClusterLoadAssignment(
            cluster_name=JWKS, endpoints=[endpoint_components_pb2.LocalityLbEndpoints(lb_endpoints=[endpoint])]
        ),
    )
    if is_secure:
        san = common_pb2.SubjectAltNameMatcher(
            san_type=common_pb2.SubjectAltNameMatcher.DNS, matcher=string_pb2.StringMatcher(exact=host)
        )
        checks = common_pb2.CertificateValidationContext(
            # The system's, or those that SSL_CERT_FILE names.
            trusted_ca=base_pb2.DataSource(
                filename=ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt"
            ),
            match_typed_subject_alt_names=[san],
        )
        secure = tls_pb2.CommonTlsContext(validation_context=checks)
        cluster.transport_socket.name = "envoy.transport_sockets.tls"
        cluster.transport_socket.typed_config.CopyFrom(any_of(tls_pb2.UpstreamTlsContext(sni=host, common_tls_context=secure)))
    return cluster


def is_url(place: str) -> bool:
    """Whether a key set is fetched, not read from a file."""
    return place.startswith(("https://", "http://"))
