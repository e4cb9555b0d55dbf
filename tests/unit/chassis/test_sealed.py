"""A server with the secret takes signed calls only, and channels of this process sign theirs."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from penstock.retrieval.v1 import search_service_pb2, search_service_pb2_grpc
from pydantic import SecretStr

from services.chassis import seal
from services.chassis.call import Call, current_call, enter_call, outgoing_metadata
from services.chassis.channels import open_channel
from services.chassis.server import Served, new_server
from services.chassis.settings import ServerSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SECRET = "the secret of the gateway and its services"  # noqa: S105 (of these tests alone)


class Searches(search_service_pb2_grpc.SearchServiceServicer):
    async def Search(self, request: Any, context: Any) -> Any:  # noqa: ARG002 (the signature is gRPC's)
        call = current_call()
        return search_service_pb2.SearchResponse(mode_note=f"{call.tenant} {call.scopes} {call.key}")


@pytest.fixture
async def address() -> AsyncIterator[str]:
    settings = ServerSettings(grpc_address="127.0.0.1:0", gateway_secret=SecretStr(SECRET))
    register = search_service_pb2_grpc.add_SearchServiceServicer_to_server
    server, checks = new_server(settings, [Served("penstock.retrieval.v1.SearchService", Searches(), register)])
    port = server.add_insecure_port("127.0.0.1:0")
    await checks.set("", health_pb2.HealthCheckResponse.SERVING)
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def search(channel: Any, metadata: Any = ()) -> str:
    stub: Any = search_service_pb2_grpc.SearchServiceStub(channel)
    request = search_service_pb2.SearchRequest(collections=["c"], query="q")
    response = await stub.Search(request, timeout=5, metadata=metadata)
    return str(response.mode_note)


async def test_only_signed_calls_are_served(address: str) -> None:
    told = {"x-penstock-tenant": "acme", "x-penstock-scopes": "retrieval:read", "x-penstock-key": "psk_1"}
    signed = {**told, seal.SEAL_HEADER: seal.Seal(SECRET).sign(told)}
    async with grpc.aio.insecure_channel(address) as channel:
        assert await search(channel, tuple(signed.items())) == "acme retrieval:read psk_1"
        stale = {**told, seal.SEAL_HEADER: seal.Seal(SECRET).sign(told, at=1.0)}
        for forged in ({}, told, {**signed, "x-penstock-tenant": "other"}, {**signed, "x-penstock-user": "root"}, stale):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await search(channel, tuple(forged.items()))
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        health: Any = health_pb2_grpc.HealthStub(channel)
        checked = await health.Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert checked.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_process_that_holds_the_secret_signs_its_calls(address: str) -> None:
    enter_call(Call("/x", "r", None, tenant="acme", key="psk_1", scopes="inference"))
    seal.hold(SECRET)
    try:
        async with AsyncExitStack() as stack:
            channel = await open_channel(stack, address)
            assert await search(channel, outgoing_metadata()) == "acme inference psk_1"
            assert (await search(channel)).split() == []
    finally:
        seal.hold("")
