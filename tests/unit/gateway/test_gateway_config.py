"""The configuration as a whole: complete over the contract, the same each time."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from envoy.extensions.filters.http.grpc_json_transcoder.v3 import transcoder_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from google.protobuf import descriptor_pb2, json_format
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import Reason
from services.gateway import filters
from services.gateway.bootstrap import DESCRIPTORS, build_bootstrap
from services.gateway.contract import Contract
from services.gateway.pages import read_pages
from services.gateway.replies import replies
from services.gateway.settings import GatewaySettings

if TYPE_CHECKING:
    from pathlib import Path

CONTRACT = Contract.read(DESCRIPTORS)


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> GatewaySettings:
    for name in GatewaySettings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    return GatewaySettings()


def manager_of(bootstrap: Any) -> Any:
    manager = http_connection_manager_pb2.HttpConnectionManager()
    chain = bootstrap.static_resources.listeners[0].filter_chains[0]
    assert chain.filters[0].typed_config.Unpack(manager)
    return manager


def routes_for(manager: Any, verb: str, path: str, content_type: str) -> list[Any]:
    """The routes that would take such a request, the first one first."""
    found = []
    for route in manager.route_config.virtual_hosts[0].routes:
        match = route.match
        if match.path and match.path != path:
            continue
        if match.safe_regex.regex and not re.fullmatch(match.safe_regex.regex, path):
            continue
        if match.prefix and not path.startswith(match.prefix):
            continue
        headers = {":method": verb, "content-type": content_type, "accept": "*/*"}
        if all(header_fits(one, headers) for one in match.headers):
            found.append(route)
    return found


def header_fits(matcher: Any, headers: dict[str, str]) -> bool:
    value = headers.get(matcher.name, "" if matcher.treat_missing_header_as_empty else None)
    text = matcher.string_match
    if value is None or matcher.HasField("range_match") or matcher.HasField("present_match"):
        return False
    if text.HasField("safe_regex"):
        return re.fullmatch(text.safe_regex.regex, value) is not None
    if text.exact:
        return bool(value == text.exact)
    if text.contains:
        return text.contains in value
    return value.startswith(text.prefix)


def test_the_same_settings_give_the_same_bytes(settings: GatewaySettings) -> None:
    first, second = (build_bootstrap(settings).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_every_rpc_of_the_contract_has_a_rest_path() -> None:
    declared = [
        method.name
        for file in descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file
        for service in file.service
        for method in service.method
        if file.package.startswith("penstock.")
    ]
    assert sorted(declared) == sorted(rpc.name for rpc in CONTRACT.rpcs)


@given(st.data(), st.sampled_from([rpc for rpc in CONTRACT.rpcs if rpc.variables]))
def test_a_path_matches_whatever_ids_fill_it(data: st.DataObject, rpc: Any) -> None:
    segment = st.text(st.characters(exclude_characters="/\n", exclude_categories=["Cs"]), min_size=1)
    filled = re.sub(r"\{[^}]+\}", lambda _: data.draw(segment), rpc.template)
    assert re.fullmatch(rpc.pattern, filled)
    emptied = re.sub(r"\{[^}]+\}", "", rpc.template)
    assert not re.fullmatch(rpc.pattern, emptied)


@pytest.mark.parametrize("rpc", CONTRACT.rpcs, ids=lambda rpc: rpc.name)
def test_every_rpc_is_routed_to_its_service(settings: GatewaySettings, rpc: Any) -> None:
    manager = manager_of(build_bootstrap(settings))
    path = re.sub(r"\{[^}]+\}", "some-id", rpc.template)
    first = routes_for(manager, rpc.verb, path, "application/json" if rpc.body else "")[0]
    assert first.route.cluster == rpc.backend == rpc.service.split(".")[1]
    assert filters.JSON in first.typed_per_filter_config
    unlimited = first.route.timeout.ToSeconds() == 0
    assert unlimited is (rpc.server_streaming or rpc.raw_body)
    assert first.route.idle_timeout.ToSeconds() > 0 or not rpc.server_streaming


@pytest.mark.parametrize("rpc", CONTRACT.rpcs, ids=lambda rpc: rpc.name)
def test_every_rpc_is_routed_over_grpc(settings: GatewaySettings, rpc: Any) -> None:
    manager = manager_of(build_bootstrap(settings))
    first = routes_for(manager, "POST", f"/{rpc.service}/{rpc.name}", "application/grpc")[0]
    assert (first.route.cluster, first.route.timeout.ToSeconds()) == (rpc.backend, 0)


def test_transcoders_hold_just_what_they_need(settings: GatewaySettings) -> None:
    manager = manager_of(build_bootstrap(settings))
    sizes = {}
    for one in manager.http_filters:
        if one.name not in {filters.JSON, filters.SSE, filters.NDJSON}:
            continue
        assert one.disabled
        config = transcoder_pb2.GrpcJsonTranscoder()
        assert one.typed_config.Unpack(config)
        held = descriptor_pb2.FileDescriptorSet.FromString(config.proto_descriptor_bin)
        names = [file.name for file in held.file]
        assert "google/rpc/error_details.proto" in names
        assert not any(file.HasField("source_code_info") for file in held.file)
        assert all(dependency in names[:index] for index, file in enumerate(held.file) for dependency in file.dependency)
        sizes[one.name] = len(config.proto_descriptor_bin)
    assert sizes[filters.SSE] == sizes[filters.NDJSON] < sizes[filters.JSON]


def test_authentication_comes_with_keys_and_before_anything_that_costs(settings: GatewaySettings, tmp_path: Path) -> None:
    assert filters.AUTHENTICATION not in [one.name for one in manager_of(build_bootstrap(settings)).http_filters]
    file = tmp_path / "keys"
    file.write_text("a: secret-of-a\n")
    guarded = manager_of(build_bootstrap(settings.model_copy(update={"api_keys_file": file})))
    names = [one.name for one in guarded.http_filters]
    assert names.index(filters.CORS) < names.index(filters.AUTHENTICATION) < names.index(filters.BODY_LIMIT)


def test_pages_need_no_key_and_carry_their_guards(settings: GatewaySettings) -> None:
    routes = manager_of(build_bootstrap(settings)).route_config.virtual_hosts[0].routes
    paths = {page.path for page in read_pages(b"{}")}
    assert {"/", "/docs", "/openapi.json"} <= paths
    served = [route for route in routes if route.match.path in paths and route.direct_response.status == 200]
    assert {route.match.path for route in served} == paths
    for route in served:
        assert filters.AUTHENTICATION in route.typed_per_filter_config
        headers = {option.header.key for option in route.response_headers_to_add}
        assert {"content-type", "content-security-policy", "etag", "cache-control"} <= headers


def test_every_reply_has_a_known_reason_and_a_message() -> None:
    for reply in replies(1024):
        assert reply.reason in set(Reason)
        assert reply.message
    assert {401, 404, 405, 413, 415, 503} <= {reply.status for reply in replies(1024)}


def test_it_can_be_written_as_json(settings: GatewaySettings) -> None:
    printed = json.loads(json_format.MessageToJson(build_bootstrap(settings)))
    assert printed["admin"]["address"]["socketAddress"]["address"] == "127.0.0.1"


def test_calls_at_once_are_bounded_and_only_repeatable_ones_are_repeated(settings: GatewaySettings) -> None:
    bootstrap = build_bootstrap(settings)
    for cluster in bootstrap.static_resources.clusters:
        if cluster.name in {"experiments", "inference", "retrieval"}:
            (limits,) = cluster.circuit_breakers.thresholds
            assert limits.max_requests.value == limits.max_pending_requests.value == 1 << 14
    manager = manager_of(bootstrap)
    for rpc in Contract.read(DESCRIPTORS).rpcs:
        for route in manager.route_config.virtual_hosts[0].routes:
            if route.route.cluster != rpc.backend or (route.match.path or route.match.safe_regex.regex) not in {
                rpc.template,
                rpc.pattern,
            }:
                continue
            verbs = [header.string_match.exact for header in route.match.headers if header.name == ":method"]
            if rpc.verb in verbs and not rpc.server_streaming and not rpc.raw_body:
                assert ("reset," in f"{route.route.retry_policy.retry_on},") == rpc.idempotent, rpc.name
