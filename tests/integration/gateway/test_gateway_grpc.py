from __future__ import annotations

import base64
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from penstock.inference.v1 import generation_service_pb2, generation_service_pb2_grpc
from penstock.retrieval.v1 import search_service_pb2, search_service_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.gateway.backends import Backends
    from tests.integration.gateway.launched import Gateway

BUF = str(Path(sys.executable).parent / "buf")


@pytest.fixture
def channel(gateway: Gateway) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(gateway.address) as opened:
        yield opened


def reason_of(error: Any) -> str:
    details = dict(error.trailing_metadata())["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(details)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert status.code == error.code().value[0]
    return info.reason


def test_calls_reach_each_service_by_its_package(channel: grpc.Channel) -> None:
    generated = generation_service_pb2_grpc.GenerationServiceStub(channel).Generate(
        generation_service_pb2.GenerateRequest(prompt="hi"), timeout=10
    )
    found = search_service_pb2_grpc.SearchServiceStub(channel).Search(search_service_pb2.SearchRequest(query="q"), timeout=10)
    assert (generated.text, found.hits[0].document) == ("HI", "d1")


def test_streams_end_with_finished(channel: grpc.Channel) -> None:
    call = generation_service_pb2_grpc.GenerationServiceStub(channel).StreamGenerate(
        generation_service_pb2.StreamGenerateRequest(prompt="one two"), timeout=10
    )
    assert [event.WhichOneof("event") for event in call] == ["started", "delta", "delta", "finished"]


def test_request_ids_and_metadata_pass(channel: grpc.Channel, backends: Backends) -> None:
    metadata = (("x-request-id", "mine-2"), ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"))
    stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
    _, call = stub.Generate.with_call(generation_service_pb2.GenerateRequest(prompt="p"), timeout=10, metadata=metadata)
    assert dict(call.initial_metadata())["x-request-id"] == "mine-2"
    assert backends.seen.metadata[-1]["x-request-id"] == "mine-2"
    assert backends.seen.metadata[-1]["traceparent"] == metadata[1][1]


def test_cancelling_reaches_the_handler(channel: grpc.Channel, backends: Backends) -> None:
    backends.seen.started.clear()
    backends.seen.cancelled.clear()
    request = generation_service_pb2.StreamGenerateRequest(prompt="p", model="endless")
    call = generation_service_pb2_grpc.GenerationServiceStub(channel).StreamGenerate(request, timeout=30)
    assert next(call).WhichOneof("event") == "started"
    assert backends.seen.started.wait(5)
    call.cancel()
    assert backends.seen.cancelled.wait(5)


def test_a_service_s_error_keeps_its_details(channel: grpc.Channel) -> None:
    request = generation_service_pb2.GenerateRequest(prompt="p", model="missing")
    with pytest.raises(grpc.RpcError) as caught:
        generation_service_pb2_grpc.GenerationServiceStub(channel).Generate(request, timeout=10)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    assert reason_of(caught.value) == "MODEL_NOT_FOUND"


def test_unknown_services_are_unimplemented(channel: grpc.Channel) -> None:
    call = channel.unary_unary("/nobody.v1.Nothing/Do", request_serializer=bytes, response_deserializer=bytes)
    with pytest.raises(grpc.RpcError) as caught:
        call(b"", timeout=10)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert reason_of(caught.value) == "METHOD_NOT_FOUND"


def test_health_is_asked_through_the_gateway(channel: grpc.Channel) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    response = stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert response.status == health_pb2.HealthCheckResponse.SERVING


def buf(*arguments: str) -> str:
    done = subprocess.run([BUF, "curl", *arguments], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_reflection_through_the_gateway(gateway: Gateway) -> None:
    plain = ("--protocol", "grpc", "--http2-prior-knowledge")
    listed = buf(*plain, f"http://{gateway.address}", "--list-services").split()
    assert "penstock.inference.v1.GenerationService" in listed
    assert "penstock.retrieval.v1.SearchService" in listed
    target = f"http://{gateway.address}/penstock.inference.v1.GenerationService/Generate"
    assert '"HELLO"' in buf(*plain, "-d", '{"prompt": "hello"}', target)


def frame(message: bytes) -> bytes:
    return struct.pack(">BI", 0, len(message)) + message


@pytest.mark.parametrize("text", [False, True])
def test_grpc_web(gateway: Gateway, text: bool) -> None:
    kind = "application/grpc-web-text" if text else "application/grpc-web+proto"
    body = frame(generation_service_pb2.GenerateRequest(prompt="web").SerializeToString())
    headers = {"content-type": kind, "accept": kind, "x-grpc-web": "1", "origin": "http://localhost:3000"}
    path = "/penstock.inference.v1.GenerationService/Generate"
    response = gateway.http.post(path, content=base64.b64encode(body) if text else body, headers=headers)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "http://localhost:3000"
    content = base64.b64decode(response.content) if text else response.content
    length = struct.unpack(">I", content[1:5])[0]
    assert generation_service_pb2.GenerateResponse.FromString(content[5 : 5 + length]).text == "WEB"
    assert b"grpc-status:0" in content[5 + length :].replace(b" ", b"")


def test_json_on_a_grpc_path_is_no_route(gateway: Gateway) -> None:
    response = gateway.http.post("/penstock.inference.v1.GenerationService/Generate", json={"prompt": "p"})
    assert response.status_code == 404
    assert response.json()["details"][0]["reason"] == "ROUTE_NOT_FOUND"
