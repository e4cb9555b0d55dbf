"""What every penstock server does, shown on a real process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import urllib.request
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from penstock.inference.v1 import generation_service_pb2, generation_service_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).parents[3]
ECHO = "tests.integration.chassis.echo"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """The process and how to reach it."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, metrics_port: int, channel: grpc.aio.Channel) -> None:
        self.process = process
        self.port = port
        self.metrics_port = metrics_port
        self.channel = channel
        self.stub = generation_service_pb2_grpc.GenerationServiceStub(channel)

    async def state(self, service: str = "") -> int:
        stub: Any = health_pb2_grpc.HealthStub(self.channel)
        response = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5, wait_for_ready=True)
        return int(response.status)


@asynccontextmanager
async def running(**settings: str) -> AsyncIterator[Server]:
    port, metrics_port = free_port(), free_port()
    environment = {
        **os.environ,
        "GRPC_ADDRESS": f"127.0.0.1:{port}",
        "METRICS_ADDRESS": f"127.0.0.1:{metrics_port}",
        **settings,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", ECHO, cwd=ROOT, env=environment, stderr=asyncio.subprocess.PIPE
    )
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        server = Server(process, port, metrics_port, channel)
        try:
            assert await server.state() == health_pb2.HealthCheckResponse.SERVING
            yield server
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server() -> AsyncIterator[Server]:
    async with running() as server:
        yield server


def details_of(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """Unpacks the rich status of an error by message name."""
    found: dict[str, Any] = {}
    for key, value in error.trailing_metadata():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value if isinstance(value, bytes) else value.encode()).details:
                message = getattr(error_details_pb2, detail.TypeName().rpartition(".")[2])()
                detail.Unpack(message)
                found[detail.TypeName().rpartition(".")[2]] = message
    return found


async def failure_of(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_failure_becomes_code_reason_and_request_id(server: Server) -> None:
    request = generation_service_pb2.GenerateRequest(prompt="hi", model="missing")
    error = await failure_of(server.stub.Generate(request, metadata=(("x-request-id", "r-7"),)))
    details = details_of(error)
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert details["ErrorInfo"].reason == "MODEL_NOT_FOUND"
    assert dict(details["ErrorInfo"].metadata) == {"model": "missing"}
    assert details["RequestInfo"].request_id == "r-7"
    assert details["RetryInfo"].retry_delay.seconds == 2


async def test_defect_tells_nothing_of_itself(server: Server) -> None:
    error = await failure_of(server.stub.Generate(generation_service_pb2.GenerateRequest(prompt="hi", model="defect")))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert details_of(error)["ErrorInfo"].reason == "INTERNAL"
    assert "secret" not in (error.details() or "")


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (generation_service_pb2.GenerateRequest(prompt=""), "prompt"),
        (generation_service_pb2.GenerateRequest(prompt="x" * (1 << 20) + "x"), "prompt"),
        (generation_service_pb2.GenerateRequest(prompt="x", max_tokens=-1), "max_tokens"),
        (generation_service_pb2.GenerateRequest(prompt="x", stop=["a", ""]), "stop[1]"),
    ],
)
async def test_limits_of_the_proto_name_the_field(server: Server, request_: Any, field: str) -> None:
    error = await failure_of(server.stub.Generate(request_))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    details = details_of(error)
    assert details["ErrorInfo"].reason == "INVALID_FIELD"
    assert [violation.field for violation in details["BadRequest"].field_violations] == [field]
    assert field in (error.details() or "")


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b"\x12\x02\xff\xfe", "prompt"),
        (b"\x1a\x08\x08\x02\x12\x04\x0a\x02\xff\xfe", "messages[0].parts[0].text"),
        (b"\x12\x7fshort", None),
    ],
)
async def test_broken_bytes_are_the_callers_fault(server: Server, data: bytes, field: str | None) -> None:
    call: Any = server.channel.unary_unary("/penstock.inference.v1.GenerationService/Generate")
    error = await failure_of(call(data))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    info = details_of(error)["ErrorInfo"]
    assert info.reason == "MALFORMED_REQUEST"
    assert info.metadata.get("field") == field


async def test_too_large_a_request_says_the_limit(server: Server) -> None:
    request = generation_service_pb2.GenerateRequest(prompt="x" * 50_000_000)
    error = await failure_of(server.stub.Generate(request))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details_of(error)["ErrorInfo"].metadata["limit_bytes"] == str(32 * 1024 * 1024)


async def test_unknown_method_is_told_and_makes_no_metric_of_its_own(server: Server) -> None:
    call: Any = server.channel.unary_unary("/penstock.inference.v1.GenerationService/Invented")
    error = await failure_of(call(b""))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert details_of(error)["ErrorInfo"].reason == "METHOD_NOT_FOUND"
    assert "Invented" not in metrics(server)


async def test_stream_failure_after_content_keeps_the_content(server: Server) -> None:
    request = generation_service_pb2.StreamGenerateRequest(prompt="a b", model="missing")
    events = aiter(server.stub.StreamGenerate(request))
    received = [(await anext(events)).delta.text, (await anext(events)).delta.text]
    assert received == ["a", "b"]
    assert details_of(await failure_of(anext(events)))["ErrorInfo"].reason == "GENERATION_FAILED"


async def test_cancelled_stream_reaches_the_handler(server: Server) -> None:
    call = server.stub.StreamGenerate(generation_service_pb2.StreamGenerateRequest(prompt="a", model="forever"))
    async for _ in call:
        break
    call.cancel()
    probe = generation_service_pb2.GenerateRequest(prompt="x", model="cancelled")
    for _ in range(200):  # tests/faults holds how soon; here it is that it happens at all
        if (await server.stub.Generate(probe)).text == "1" and 'code="CANCELLED"' in metrics(server):
            break
        await asyncio.sleep(0.01)
    else:
        pytest.fail("the handler was never told")


def metrics(server: Server) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics") as response:
        text: str = response.read().decode()
        return text


async def test_health_knows_each_service(server: Server) -> None:
    assert await server.state("penstock.inference.v1.GenerationService") == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await server.state("penstock.inference.v1.Unknown")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_describes_all_packages(server: Server) -> None:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(server.channel)  # type: ignore[arg-type]  # typed for sync only

    async def asks() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    names: set[str] = set()
    async for response in stub.ServerReflectionInfo(asks()):
        names |= {service.name for service in response.list_services_response.service}
    assert {
        "penstock.inference.v1.GenerationService",
        "penstock.retrieval.v1.AnswerService",
        "penstock.experiments.v1.AssignmentService",
    } <= names


async def test_draining_says_not_serving_and_lets_calls_end() -> None:
    async with running(DRAIN_SECONDS="5") as server:
        slow = asyncio.ensure_future(server.stub.Generate(generation_service_pb2.GenerateRequest(prompt="done", model="slow")))
        stream = server.stub.StreamGenerate(generation_service_pb2.StreamGenerateRequest(prompt="a", model="until-drained"))
        health: Any = health_pb2_grpc.HealthStub(server.channel)
        states = aiter(health.Watch(health_pb2.HealthCheckRequest()))
        assert (await anext(states)).status == health_pb2.HealthCheckResponse.SERVING
        events = aiter(stream)
        await anext(events)
        server.process.send_signal(signal.SIGTERM)
        assert (await anext(states)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert (await slow).text == "done"
        assert (await anext(events)).WhichOneof("event") == "finished"
        async with asyncio.timeout(5):
            assert await server.process.wait() == 0


async def test_taken_address_is_said_plainly(server: Server) -> None:
    environment = {**os.environ, "GRPC_ADDRESS": f"127.0.0.1:{server.port}", "METRICS_ADDRESS": ""}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", ECHO, cwd=ROOT, env=environment, stderr=asyncio.subprocess.PIPE
    )
    _, logged = await process.communicate()
    assert process.returncode == 1
    last = json.loads(logged.decode().strip().splitlines()[-1])
    assert f"127.0.0.1:{server.port}" in last["message"]
    assert "taken" in last["message"]


async def test_logs_carry_the_request_and_the_trace() -> None:
    async with running() as server:
        await logs_carry_the_request_and_the_trace(server)


async def logs_carry_the_request_and_the_trace(server: Server) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    metadata = (("x-request-id", "r-9"), ("traceparent", f"00-{trace}-b7ad6b7169203331-01"))
    await failure_of(
        server.stub.Generate(generation_service_pb2.GenerateRequest(prompt="x", model="defect"), metadata=metadata)
    )
    server.process.terminate()
    assert server.process.stderr is not None
    lines = [json.loads(line) for line in (await server.process.stderr.read()).splitlines()]
    defect = next(line for line in lines if line["level"] == "ERROR")
    assert (defect["request_id"], defect["trace_id"]) == ("r-9", trace)
