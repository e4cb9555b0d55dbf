"""How Envoy asks its authorizer, and what it believes of callers and of the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.common.mutation_rules.v3 import mutation_rules_pb2
from envoy.config.core.v3 import address_pb2, base_pb2, http_uri_pb2, substitution_format_string_pb2
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.access_loggers.file.v3 import file_pb2
from envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2
from envoy.extensions.http.early_header_mutation.header_mutation.v3 import header_mutation_pb2
from envoy.type.matcher.v3 import string_pb2
from envoy.type.v3 import http_status_pb2
from google.protobuf import wrappers_pb2

from services.chassis.seal import SEAL_HEADER
from services.chassis.status import DETAILS_TRAILER
from services.gateway.headers import JWT_HEADER, LEASE_HEADER, OURS
from services.gateway.typed import any_of, seconds

if TYPE_CHECKING:
    from pathlib import Path

AUTHORIZER: Final = "authorizer"
_LIMIT_SECONDS: Final = 2.0
"""For a decision; a healthy authorizer takes some microseconds, and a restarting one a few hundred milliseconds."""
# What a decision depends on beside method and path.
_ASKED_WITH: Final = ("authorization", "x-api-key", "content-type", "x-request-id", JWT_HEADER)
_TOLD_ON_REFUSAL: Final = ("www-authenticate", "retry-after", "grpc-status", DETAILS_TRAILER)


def authorization() -> Any:
    """Asks the authorizer about each request. Without its answer none passes."""
    return ext_authz_pb2.ExtAuthz(
        transport_api_version="V3",
        http_service=ext_authz_pb2.HttpService(
            server_uri=http_uri_pb2.HttpUri(uri="http://authorizer", cluster=AUTHORIZER, timeout=seconds(_LIMIT_SECONDS)),
            authorization_response=ext_authz_pb2.AuthorizationResponse(
                allowed_upstream_headers=_prefixed(OURS),
                allowed_client_headers=_exactly(*_TOLD_ON_REFUSAL, begin="x-ratelimit-"),
                allowed_client_headers_on_success=_prefixed("x-ratelimit-"),
            ),
            # While the authorizer starts anew, its socket takes no connection.
            retry_policy=base_pb2.RetryPolicy(
                retry_on="connect-failure,reset-before-request",
                num_retries=wrappers_pb2.UInt32Value(value=3),
                retry_back_off={"base_interval": seconds(0.1), "max_interval": seconds(0.5)},
            ),
        ),
        allowed_headers=_exactly(*_ASKED_WITH),
        status_on_error=http_status_pb2.HttpStatus(code=503),
    )


def stripping(is_guarded: bool) -> Any:
    """Removes, before anything else looks at a request, what only the gateway may say.

    Where nothing guards the gateway, which then listens on loopback only, a caller may say for whom it calls.
    """
    mutations = [mutation_rules_pb2.HeaderMutation(remove=SEAL_HEADER), mutation_rules_pb2.HeaderMutation(remove=JWT_HEADER)]
    if is_guarded:
        match = mutation_rules_pb2.HeaderMutation.RemoveOnMatch(key_matcher=string_pb2.StringMatcher(prefix=OURS))
        mutations = [mutation_rules_pb2.HeaderMutation(remove_on_match=match)]
    config = header_mutation_pb2.HeaderMutation(mutations=mutations)
    return TypedExtensionConfig(name="penstock.stripping", typed_config=any_of(config))


def ended_log(pipe: Path) -> Any:
    """Tells the authorizer of the end of each call that counts as under way."""
    line = base_pb2.DataSource(inline_string=f"%REQ({LEASE_HEADER})%\n")
    log = file_pb2.FileAccessLog(
        path=str(pipe.absolute()), log_format=substitution_format_string_pb2.SubstitutionFormatString(text_format_source=line)
    )
    counted = route_components_pb2.HeaderMatcher(name=LEASE_HEADER, present_match=True)
    return accesslog_pb2.AccessLog(
        name="envoy.access_loggers.file",
        filter=accesslog_pb2.AccessLogFilter(header_filter=accesslog_pb2.HeaderFilter(header=counted)),
        typed_config=any_of(log),
    )


def authorizer_cluster(socket: Path, limits: Any) -> Any:
    """The authorizer, at its socket."""
    address = address_pb2.Address(pipe=address_pb2.Pipe(path=str(socket)))
    endpoint = endpoint_components_pb2.LbEndpoint(endpoint=endpoint_components_pb2.Endpoint(address=address))
    return cluster_pb2.Cluster(
        name=AUTHORIZER,
        type=cluster_pb2.Cluster.STATIC,
        connect_timeout=seconds(1),
        circuit_breakers=limits,
        load_assignment=endpoint_pb2.ClusterLoadAssignment(
            cluster_name=AUTHORIZER, endpoints=[endpoint_components_pb2.LocalityLbEndpoints(lb_endpoints=[endpoint])]
        ),
    )


def _exactly(*names: str, begin: str = "") -> Any:
    patterns = [string_pb2.StringMatcher(exact=name) for name in names]
    return string_pb2.ListStringMatcher(patterns=[*patterns, *([string_pb2.StringMatcher(prefix=begin)] if begin else [])])


def _prefixed(prefix: str) -> Any:
    return string_pb2.ListStringMatcher(patterns=[string_pb2.StringMatcher(prefix=prefix)])
