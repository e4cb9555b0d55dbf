"""An engine that dies in the midst of a text, and one that appears while the service runs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from penstock.inference.v1 import (
    generation_pb2,
    generation_service_pb2,
    generation_service_pb2_grpc,
    model_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
)

from tests.integration.inference.processes import LlamaServer, Service, reason_of, status_of

if TYPE_CHECKING:
    from pathlib import Path


async def states(channel: grpc.aio.Channel) -> dict[str, Any]:
    stub: Any = model_service_pb2_grpc.ModelServiceStub(channel)
    return {one.model: one for one in (await stub.ListModels(model_service_pb2.ListModelsRequest())).models}


async def auto_becomes(channel: grpc.aio.Channel, model: str) -> None:
    async with asyncio.timeout(10):
        while not (one := (await states(channel)).get(model)) or not one.is_auto:  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.02)


async def test_an_engine_appears_dies_within_a_text_and_comes_back(tmp_path: Path) -> None:
    llama = LlamaServer(tmp_path)
    service = Service(tmp_path, VLLM_BASE_URL=llama.address, PROBE_SECONDS="0.2")
    try:
        async with grpc.aio.insecure_channel(service.address) as channel:
            stub: Any = generation_service_pb2_grpc.GenerationServiceStub(channel)
            assert "tiny" not in await states(channel)
            assert (await stub.Generate(generation_service_pb2.GenerateRequest(prompt="Hi"))).engine == "extractive"

            await asyncio.to_thread(llama.start)
            await auto_becomes(channel, "tiny")

            events, error = await _killed_within(stub, llama)
            assert error.code() is grpc.StatusCode.INTERNAL
            assert reason_of(status_of(error)) == "GENERATION_FAILED"
            finished = events[-1].finished
            assert finished.finish_reason == generation_pb2.FINISH_REASON_ERROR
            assert reason_of(finished.error) == "GENERATION_FAILED"
            assert finished.usage.output_tokens > 0
            assert [event.WhichOneof("event") for event in events].count("finished") == 1

            await auto_becomes(channel, "extractive")
            assert (await states(channel))["tiny"].state == model_pb2.MODEL_STATE_UNREACHABLE
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Generate(generation_service_pb2.GenerateRequest(prompt="Hi", model="tiny"))
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert reason_of(status_of(caught.value)) == "ENGINE_UNAVAILABLE"

            await asyncio.to_thread(llama.start)
            await auto_becomes(channel, "tiny")
    finally:
        llama.kill()
        assert service.stop() == 0


async def _killed_within(stub: Any, llama: LlamaServer) -> tuple[list[Any], grpc.aio.AioRpcError]:
    """The events of a stream whose engine is killed after its first text, and the error that the call ends with."""
    events: list[Any] = []
    call = stub.StreamGenerate(generation_service_pb2.StreamGenerateRequest(prompt="Hello", max_tokens=12_000))
    try:
        async for event in call:
            if event.WhichOneof("event") == "delta" and not any(seen.HasField("delta") for seen in events):
                await asyncio.to_thread(llama.kill)
            events.append(event)
    except grpc.aio.AioRpcError as error:
        return events, error
    pytest.fail("the call ended well")
