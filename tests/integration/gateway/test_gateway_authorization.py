"""Keys, scopes and signatures, through a real Envoy and its authorizer."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from penstock.retrieval.v1 import search_service_pb2, search_service_pb2_grpc

from services.chassis.seal import SEAL_HEADER, Seal
from services.gateway.authorizer.scopes import SCOPES, Scope
from services.gateway.bootstrap import DESCRIPTORS
from services.gateway.contract import Contract
from tests.integration.gateway.launched import environment, running, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.gateway.backends import Backends
    from tests.integration.gateway.launched import Gateway

CONTRACT = Contract.read(DESCRIPTORS)
SECRET = "s" * 40
SEARCH, BODY = "/v1/search", {"query": "q"}
UNPRIVILEGED = frozenset({401, 403})


class Keys:
    """A file of keys, changed as an operator changes it."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __call__(self, *arguments: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "services.gateway.key", "--file", str(self.file), "--json", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        found: dict[str, Any] = json.loads(done.stdout) if done.stdout.startswith("{") else {}
        return found

    def create(self, name: str, scopes: str, *more: str) -> dict[str, Any]:
        return self("create", "--name", name, "--scopes", scopes, *more)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys") / "api-keys.json")


@pytest.fixture(scope="module")
def by_scope(keys: Keys) -> dict[Scope, str]:
    """A key for each scope alone."""
    return {scope: keys.create(f"{scope.name.lower()}", scope.value, "--tenant", "acme")["secret"] for scope in Scope}


@pytest.fixture(scope="module")
def guarded(
    backends: Backends, keys: Keys, by_scope: dict[Scope, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    assert by_scope
    told = {"API_KEYS_FILE": str(keys.file), "GATEWAY_SECRET": SECRET, "LOG_LEVEL": "INFO"}
    settings = environment(tmp_path_factory.mktemp("guarded"), backends.ports, **told)
    with running(settings) as gateway:
        wait_for(lambda: gateway.http.get("/healthz").status_code == 200)
        yield gateway


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def answer(gateway: Gateway, rpc: Any, headers: dict[str, str]) -> int:
    """The status that a call of the RPC over REST gets, or an impossible one where its stream only opens."""
    path = re.sub(r"\{[^}]+\}", "some-id", rpc.template)
    content = "{}" if rpc.body else None
    told = {**headers, "content-type": "application/json"} if rpc.body else headers
    with gateway.http.stream(rpc.verb, path, content=content, headers=told) as response:
        return response.status_code


@pytest.mark.parametrize("rpc", CONTRACT.rpcs, ids=lambda rpc: rpc.name)
def test_every_rpc_takes_the_key_of_its_scope_alone(guarded: Gateway, by_scope: dict[Scope, str], rpc: Any) -> None:
    wanted = SCOPES[f"/{rpc.service}/{rpc.name}"]
    other = next(scope for scope in Scope if scope != wanted)
    assert answer(guarded, rpc, {}) == 401
    assert answer(guarded, rpc, bearer(by_scope[other])) == 403
    assert answer(guarded, rpc, bearer(by_scope[wanted])) not in UNPRIVILEGED


def test_every_rpc_takes_the_key_of_its_scope_alone_over_grpc(guarded: Gateway, by_scope: dict[Scope, str]) -> None:
    with grpc.insecure_channel(guarded.address) as channel:
        for method, wanted in SCOPES.items():
            found = {}
            for scope in (None, *Scope):
                metadata = (("authorization", f"Bearer {by_scope[scope]}"),) if scope else ()
                call: Any = channel.unary_stream(method)
                try:
                    next(iter(call(b"", timeout=5, metadata=metadata)), None)
                    found[scope] = grpc.StatusCode.OK
                except grpc.RpcError as error:
                    found[scope] = error.code()
            assert found.pop(None) is grpc.StatusCode.UNAUTHENTICATED, method
            refused = {scope for scope, code in found.items() if code is grpc.StatusCode.PERMISSION_DENIED}
            assert refused == set(Scope) - {wanted}, method


def test_refusals_in_every_dialect(guarded: Gateway, by_scope: dict[Scope, str]) -> None:
    inference, admin = bearer(by_scope[Scope.INFERENCE]), bearer(by_scope[Scope.ADMIN])
    rest = guarded.http.post(SEARCH, json=BODY, headers={**inference, "x-request-id": "r-1"})
    assert (rest.status_code, rest.json()["code"], rest.headers["content-type"]) == (403, 7, "application/json")
    info, request = rest.json()["details"]
    assert (info["reason"], info["metadata"]["scope"], request["request_id"]) == ("PERMISSION_DENIED", "retrieval:read", "r-1")
    unknown = guarded.http.post(SEARCH, json=BODY)
    assert (unknown.status_code, unknown.headers["www-authenticate"]) == (401, "Bearer")
    assert unknown.json()["details"][0]["reason"] == "UNAUTHENTICATED"
    openai = guarded.http.get("/openai/v1/models", headers=admin)
    assert (openai.status_code, openai.json()["error"]["code"]) == (403, "permission_denied")
    assert guarded.http.get("/openai/v1/models").json()["error"]["code"] == "unauthenticated"
    with grpc.insecure_channel(guarded.address) as channel:
        stub = search_service_pb2_grpc.SearchServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Search(search_service_pb2.SearchRequest(query="q"), timeout=5, metadata=tuple(inference.items()))
    error: Any = caught.value
    details = dict(error.trailing_metadata())["grpc-status-details-bin"]
    told, found = status_pb2.Status.FromString(details), error_details_pb2.ErrorInfo()
    assert told.details[0].Unpack(found)
    assert (error.code(), found.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    assert "retrieval:read" in error.details()


def test_refusals_in_grpc_web(guarded: Gateway) -> None:
    call = search_service_pb2.SearchRequest(query="q").SerializeToString()
    frame = b"\0" + len(call).to_bytes(4, "big") + call
    path = "/penstock.retrieval.v1.SearchService/Search"
    response = guarded.http.post(path, content=frame, headers={"content-type": "application/grpc-web+proto"})
    assert (response.status_code, response.headers["grpc-status"]) == (401, "16")


def test_services_are_told_who_calls_and_it_is_signed(guarded: Gateway, backends: Backends, by_scope: dict[Scope, str]) -> None:
    forged = {
        "x-penstock-tenant": "mallory",
        "x-penstock-user": "root",
        "x-penstock-groups": "admins",
        "x-penstock-scopes": "admin",
        "x-penstock-signature": Seal("another secret, as long as it must").sign({}),
        "x-penstock-jwt": "eyJ0ZW5hbnQiOiJtYWxsb3J5Iiwic3ViIjoicm9vdCIsInNjb3BlIjoiYWRtaW4ifQ",
        "x-penstock-anything": "else",
    }
    assert guarded.http.post(SEARCH, json=BODY, headers=forged).status_code == 401
    secret = by_scope[Scope.RETRIEVAL_READ]
    assert guarded.http.post(SEARCH, json=BODY, headers={"x-api-key": secret, **forged}).status_code == 200
    told = backends.seen.metadata[-1]
    ours = {name: value for name, value in told.items() if name.startswith("x-penstock-")}
    assert ours.keys() == {"x-penstock-tenant", "x-penstock-scopes", "x-penstock-key", SEAL_HEADER}
    assert (ours["x-penstock-tenant"], ours["x-penstock-scopes"]) == ("acme", "retrieval:read")
    assert secret.startswith(ours["x-penstock-key"])
    assert Seal(SECRET).holds(told)
    assert not Seal(SECRET).holds({**told, "x-penstock-tenant": "mallory"})
    assert not {"x-api-key", "authorization"} & told.keys()


def test_what_is_no_method_is_open_to_nobody(guarded: Gateway, by_scope: dict[Scope, str]) -> None:
    with grpc.insecure_channel(guarded.address) as channel:
        for method in ("/penstock.inference.v1.GenerationService/Nothing", "/penstock.inference.v1.Nothing/Generate"):
            for metadata, code in (
                ((), grpc.StatusCode.UNAUTHENTICATED),
                (tuple(bearer(by_scope[Scope.ADMIN]).items()), grpc.StatusCode.UNIMPLEMENTED),
            ):
                call: Any = channel.unary_unary(method)
                with pytest.raises(grpc.RpcError) as caught:
                    call(b"", timeout=5, metadata=metadata)
                assert caught.value.code() is code
    assert guarded.http.get("/v1/nothing").status_code == 404


def test_a_revoked_key_is_refused_within_two_seconds(guarded: Gateway, keys: Keys) -> None:
    made = keys.create("leaver", "retrieval:read")
    wait_for(lambda: guarded.http.post(SEARCH, json=BODY, headers=bearer(made["secret"])).status_code == 200, seconds=2)
    keys("revoke", made["key"])
    wait_for(lambda: guarded.http.post(SEARCH, json=BODY, headers=bearer(made["secret"])).status_code == 401, seconds=2)


def test_a_rotated_key_and_its_heir_are_both_good_for_a_while(guarded: Gateway, keys: Keys) -> None:
    old = keys.create("rotating", "retrieval:read", "--tenant", "acme")
    heir = keys("rotate", old["key"], "--overlap", "3s")
    assert (heir["tenant"], heir["scopes"]) == ("acme", ["retrieval:read"])

    def status(made: dict[str, Any]) -> int:
        return guarded.http.post(SEARCH, json=BODY, headers=bearer(made["secret"])).status_code

    wait_for(lambda: status(heir) == 200, seconds=2)
    assert status(old) == 200
    wait_for(lambda: status(old) == 401, seconds=6)
    assert status(heir) == 200


def test_a_file_that_cannot_be_read_leaves_the_keys_as_they_were(
    guarded: Gateway, keys: Keys, by_scope: dict[Scope, str]
) -> None:
    good = keys.file.read_bytes()
    try:
        keys.file.write_text('{"version": 1, "keys": [')
        time.sleep(0.6)
        known = bearer(by_scope[Scope.RETRIEVAL_READ])
        assert guarded.http.post(SEARCH, json=BODY, headers=known).status_code == 200
    finally:
        keys.file.write_bytes(good)


def test_no_call_passes_without_the_authorizer_and_it_comes_back(guarded: Gateway, by_scope: dict[Scope, str]) -> None:
    secret = bearer(by_scope[Scope.RETRIEVAL_READ])
    parent = children(guarded.process.pid)[0]
    (worker,) = children(parent)
    os.kill(worker, signal.SIGKILL)
    statuses = [guarded.http.post(SEARCH, json=BODY, headers=one).status_code for one in (secret, {})]
    assert set(statuses) <= {200, 401, 503}
    wait_for(lambda: guarded.http.post(SEARCH, json=BODY, headers=secret).status_code == 200, seconds=5)
    assert guarded.http.post(SEARCH, json=BODY).status_code == 401


def test_the_authorizer_ends_with_the_gateway(
    backends: Backends, keys: Keys, by_scope: dict[Scope, str], tmp_path: Path
) -> None:
    assert by_scope
    with running(environment(tmp_path, backends.ports, API_KEYS_FILE=str(keys.file))) as gateway:
        parent = children(gateway.process.pid)[0]
        worker = children(parent)[0]
        gateway.process.kill()
        gateway.process.wait(timeout=5)
        wait_for(lambda: not any(Path(f"/proc/{one}/cmdline").exists() for one in (parent, worker)), seconds=5)


def children(process: int) -> list[int]:
    """Processes that this one started and that live."""
    found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(one) for one in found]
