"""Starting, refusing to start, keys, and services that come and go."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from penstock.retrieval.v1 import search_service_pb2, search_service_pb2_grpc

from tests.integration.gateway.launched import environment, free_ports, running, wait_for

if TYPE_CHECKING:
    from tests.integration.gateway.backends import Backends


def start(settings: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "services.gateway", *arguments]
    return subprocess.run(command, env=settings, capture_output=True, text=True, timeout=30, check=False)


def test_the_process_becomes_envoy_and_keeps_its_id(backends: Backends, tmp_path: Path) -> None:
    with running(environment(tmp_path, backends.ports)) as gateway:
        assert os.path.basename(os.readlink(f"/proc/{gateway.process.pid}/exe")) == "envoy"  # noqa: PTH115, PTH119 (a link to no file)
        assert (tmp_path / "gateway" / "envoy.pb").stat().st_mode & 0o777 == 0o600


def test_the_configuration_is_printed(backends: Backends, tmp_path: Path) -> None:
    printed = start(environment(tmp_path, backends.ports), "--print")
    assert printed.returncode == 0
    assert [one["name"] for one in json.loads(printed.stdout)["static_resources"]["listeners"]] == ["api"]
    assert not list(tmp_path.iterdir())


def test_what_is_printed_holds_no_keys(backends: Backends, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("alice: key-of-alice\n")
    printed = start(environment(tmp_path, backends.ports, API_KEYS_FILE=str(keys)), "--print")
    assert printed.returncode == 0
    assert "authorizer.sock" in printed.stdout
    assert "key-of-alice" not in printed.stdout


def test_an_idle_gateway_stays_small(backends: Backends, tmp_path: Path) -> None:
    with running(environment(tmp_path, backends.ports)) as gateway:
        wait_for(lambda: gateway.http.get("/healthz").status_code == 200)
        status = (Path("/proc") / str(gateway.process.pid) / "status").read_text()
        kilobytes = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        assert kilobytes < 90_000


def test_all_addresses_of_both_families_are_listened_on(backends: Backends, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("alice: key-of-alice\n")
    with running(environment(tmp_path, backends.ports, LISTEN_HOST="::", API_KEYS_FILE=str(keys))) as gateway:
        assert httpx.get(f"http://127.0.0.1:{gateway.port}/docs").status_code == 200
        assert httpx.get(f"http://[::1]:{gateway.port}/docs").status_code == 200


def test_a_taken_port_is_named(backends: Backends, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = start(environment(tmp_path, backends.ports, PORT=str(port)))
    assert refused.returncode == 1
    assert str(port) in refused.stderr
    assert "Traceback" not in refused.stderr


def test_off_loopback_it_refuses_to_start_without_keys(backends: Backends, tmp_path: Path) -> None:
    refused = start(environment(tmp_path, backends.ports, LISTEN_HOST="0.0.0.0"))  # noqa: S104 (what must be refused)
    assert refused.returncode == 1
    assert "API_KEYS_FILE" in refused.stderr


def test_keys_guard_calls_but_not_pages(backends: Backends, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# who may call\nalice: key-of-alice\nbob key-of-bob\n")
    settings = environment(tmp_path, backends.ports, API_KEYS_FILE=str(keys), LISTEN_HOST="0.0.0.0")  # noqa: S104 (with keys)
    with running(settings) as gateway:
        search, body = "/v1/search", {"query": "q"}
        wait_for(lambda: gateway.http.get("/healthz").status_code == 200)
        assert gateway.http.get("/openapi.json").status_code == 200
        refused = gateway.http.post(search, json=body)
        assert (refused.status_code, refused.json()["code"]) == (401, 16)
        assert refused.json()["details"][0]["reason"] == "UNAUTHENTICATED"
        assert gateway.http.post(search, json=body, headers={"x-api-key": "wrong"}).status_code == 401
        assert gateway.http.get("/openai/v1/models").json()["error"]["code"] == "unauthenticated"
        pretence = {"x-penstock-tenant": "mallory", "x-penstock-user": "root", "x-penstock-groups": "admins"}
        for tenant, headers in (
            ("alice", {"authorization": "Bearer key-of-alice", **pretence}),
            ("bob", {"x-api-key": "key-of-bob"}),
        ):
            assert gateway.http.post(search, json=body, headers=headers).status_code == 200
            hidden = {"authorization", "x-api-key", "x-penstock-user", "x-penstock-groups"}
            assert not hidden & backends.seen.metadata[-1].keys()
            assert backends.seen.metadata[-1]["x-penstock-tenant"] == tenant
        asked = {"origin": "http://localhost:1", "access-control-request-method": "POST"}
        assert gateway.http.options(search, headers=asked).headers["access-control-allow-origin"] == "http://localhost:1"
        with grpc.insecure_channel(gateway.address) as channel:
            stub = search_service_pb2_grpc.SearchServiceStub(channel)
            request = search_service_pb2.SearchRequest(query="q")
            assert stub.Search(request, timeout=10, metadata=(("authorization", "Bearer key-of-bob"),)).hits
            with pytest.raises(grpc.RpcError) as caught:
                stub.Search(request, timeout=10)
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        dump = httpx.get(f"http://127.0.0.1:{gateway.admin_port}/config_dump").text
        assert "key-of-alice" not in dump


def test_origins_of_the_operator_s_choice(backends: Backends, tmp_path: Path) -> None:
    with running(environment(tmp_path, backends.ports, CORS_ORIGINS="https://app.example.com")) as gateway:
        for origin, allowed in (("https://app.example.com", True), ("http://localhost:3000", False)):
            response = gateway.http.get("/v1/nothing", headers={"origin": origin})
            assert ("access-control-allow-origin" in response.headers) is allowed


def test_metrics_without_the_rest_of_the_admin(backends: Backends, tmp_path: Path) -> None:
    port = free_ports(1)[0]
    with running(environment(tmp_path, backends.ports, METRICS_ADDRESS=f"127.0.0.1:{port}")):
        assert "envoy_server_uptime" in httpx.get(f"http://127.0.0.1:{port}/metrics").text
        assert httpx.get(f"http://127.0.0.1:{port}/config_dump").status_code == 404


def test_the_access_log_has_the_request_id_and_no_query(backends: Backends, tmp_path: Path) -> None:
    with running(environment(tmp_path, backends.ports, ACCESS_LOG="true")) as gateway:
        gateway.http.get("/v1/nothing?q=private", headers={"x-request-id": "logged-1"})
        gateway.http.post("/v1/search", json={"query": "q"}, headers={"x-request-id": "logged-2"})
        gateway.process.terminate()
        output = gateway.process.communicate(timeout=20)[0]
    lines = [json.loads(line) for line in output.splitlines() if '"logged-' in line]
    assert [(line["request_id"], line["path"], line["status"]) for line in lines] == [
        ("logged-1", "/v1/nothing", 404),
        ("logged-2", "/v1/search", 200),
    ]
    assert "private" not in output


def test_a_service_that_is_down_is_said_to_be_and_comes_back(backends: Backends, tmp_path: Path) -> None:
    with running(environment(tmp_path, backends.ports)) as gateway:

        def healthy() -> int:
            return gateway.http.get("/healthz").status_code

        wait_for(lambda: healthy() == 200)
        backends.stop("retrieval")
        try:
            for accept in ("*/*", "text/event-stream"):
                path = "/v1/search" if accept == "*/*" else "/v1/answer:stream"
                response = gateway.http.post(path, json={"query": "q"}, headers={"accept": accept})
                info = response.json()["details"][0]
                assert (response.status_code, response.json()["code"]) == (503, 14)
                assert (info["reason"], info["metadata"]) == ("SERVICE_UNAVAILABLE", {"service": "retrieval"})
            wait_for(lambda: healthy() == 503, seconds=5)
            with grpc.insecure_channel(gateway.address) as channel:
                # What any service can answer, the others still do.
                stub: Any = health_pb2_grpc.HealthStub(channel)
                for _ in range(6):
                    stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
                with pytest.raises(grpc.RpcError) as caught:
                    search_service_pb2_grpc.SearchServiceStub(channel).Search(
                        search_service_pb2.SearchRequest(query="q"), timeout=10
                    )
                assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        finally:
            backends.start("retrieval")
        wait_for(lambda: healthy() == 200, seconds=5)
        assert gateway.http.post("/v1/search", json={"query": "q"}).status_code == 200


def test_openai_s_paths_say_down_in_openai_s_shape(tmp_path: Path) -> None:
    names = ("inference", "retrieval", "experiments")
    nobody = dict(zip(names, free_ports(3), strict=True))
    with running(environment(tmp_path, nobody)) as gateway:
        unhealthy = gateway.http.get("/healthz")
        assert (unhealthy.status_code, unhealthy.json()["details"][0]["reason"]) == (503, "SERVICE_UNAVAILABLE")
        assert "not all services are healthy" in unhealthy.json()["message"]
        response = gateway.http.post("/openai/v1/chat/completions", json={"model": "x", "stream": True})
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "service_unavailable"
        assert response.json()["error"]["type"] == "server_error"


def test_an_endpoint_that_is_down_costs_no_call(backends: Backends, tmp_path: Path) -> None:
    addresses = f"127.0.0.1:{free_ports(1)[0]}, localhost:{backends.ports['retrieval']}"
    with running(environment(tmp_path, backends.ports, RETRIEVAL_ADDRESS=addresses)) as gateway:
        answered = [gateway.http.post("/v1/search", json={"query": "q"}).status_code for _ in range(20)]
        assert answered == [200] * 20
        gateway.process.terminate()
        assert "eprecated" not in gateway.process.communicate(timeout=20)[0]


def test_draining_waits_for_running_calls(backends: Backends, tmp_path: Path) -> None:
    settings = environment(tmp_path, backends.ports, DRAIN_SECONDS="20", DRAIN_NOTICE_SECONDS="0.1")
    body = {"prompt": "p", "model": "endless"}
    with running(settings) as gateway:
        wait_for(lambda: gateway.http.get("/healthz").status_code == 200)
        with gateway.http.stream("POST", "/v1/generate:stream", json=body) as response:
            assert response.status_code == 200
            draining = subprocess.Popen([sys.executable, "-m", "services.gateway", "--drain"], env=settings)
            wait_for(lambda: gateway.http.get("/healthz").status_code == 503)
            time.sleep(1.5)
            assert draining.poll() is None
        assert draining.wait(timeout=10) == 0
        impatient = start({**settings, "DRAIN_SECONDS": "0"}, "--drain")
        assert impatient.returncode == 1
    nobody = start(settings, "--drain")
    assert (nobody.returncode, "admin" in nobody.stderr) == (1, True)
