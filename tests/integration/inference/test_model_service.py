"""The model service as a process: Ollama's models by RPC, and limits of memory by the environment."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest
from penstock.inference.v1 import model_pb2, model_service_pb2, model_service_pb2_grpc

from tests.contract.engines import tiny_llama
from tests.contract.engines.fixture_ollama import CHAT, written_ollama
from tests.contract.engines.ollama_store import LARGE, LAYERS, OllamaStore
from tests.integration.inference.processes import Service, reason_of, status_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def store_and_models(tmp_path: Path) -> AsyncIterator[tuple[OllamaStore, Any]]:
    """A written Ollama, and the stub of a service that is connected to it and may load 10 MiB of its own."""
    tiny_llama.build(tmp_path / "models")
    store = OllamaStore()
    async with written_ollama(store) as (_, address):
        variables = {"OLLAMA_BASE_URL": address, "MAX_MEMORY": "10MiB", "OLLAMA_KEEP_ALIVE": "7m"}
        service = await asyncio.to_thread(Service, tmp_path, **variables)
        async with grpc.aio.insecure_channel(service.address) as channel:
            yield store, model_service_pb2_grpc.ModelServiceStub(channel)
        assert await asyncio.to_thread(service.stop) == 0


async def names(models: Any) -> dict[str, Any]:
    listed = await models.ListModels(model_service_pb2.ListModelsRequest())
    return {model.model: model for model in listed.models}


async def test_models_of_ollama_by_rpc(store_and_models: tuple[OllamaStore, Any]) -> None:
    store, models = store_and_models
    pull = [event async for event in models.PullModel(model_service_pb2.PullModelRequest(model=LARGE))]
    assert [event.WhichOneof("event") for event in pull] == ["progress"] * (len(pull) - 1) + ["finished"]
    assert max(event.progress.total_bytes for event in pull[:-1]) == sum(LAYERS.values())
    assert {event.progress.stage for event in pull[:-1]} >= {model_pb2.MODEL_STAGE_DOWNLOADING}
    assert pull[-1].finished.model.quantization == "Q4_K_M"
    load = [event async for event in models.LoadModel(model_service_pb2.LoadModelRequest(model=CHAT))]
    assert load[-1].finished.model.state == model_pb2.MODEL_STATE_READY
    assert store.asked[-1] == ("generate", {"model": CHAT, "stream": False, "keep_alive": "7m"})
    unloaded = await models.UnloadModel(model_service_pb2.UnloadModelRequest(model=CHAT))
    assert unloaded.model.state == model_pb2.MODEL_STATE_UNLOADED
    await models.DeleteModel(model_service_pb2.DeleteModelRequest(model=LARGE))
    assert LARGE not in await names(models)
    store.pull_ends.clear()
    pulling = models.PullModel(model_service_pb2.PullModelRequest(model=LARGE))
    await anext(aiter(pulling))
    pulling.cancel()
    async with asyncio.timeout(5):
        await store.pull_cancelled.wait()


async def test_failures_are_told_in_the_stream_and_as_status(store_and_models: tuple[OllamaStore, Any]) -> None:
    _, models = store_and_models
    seen: list[Any] = []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await fill(seen, models.PullModel(model_service_pb2.PullModelRequest(model="missing:1b")))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert reason_of(status_of(caught.value)) == "MODEL_NOT_FOUND"
    if seen:
        assert reason_of(seen[-1].finished.error) == "MODEL_NOT_FOUND"
    # And the limit that the environment sets holds.
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await fill([], models.LoadModel(model_service_pb2.LoadModelRequest(model="tiny")))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert reason_of(status_of(caught.value)) == "OUT_OF_MEMORY"
    assert "10 MiB" in str(caught.value.details())
    system = (await models.GetSystem(model_service_pb2.GetSystemRequest())).system
    assert (system.memory.max_bytes, system.memory.models_bytes) == (10 << 20, 0)


async def fill(seen: list[Any], events: AsyncIterator[Any]) -> None:
    async for event in events:
        seen.append(event)  # noqa: PERF401 - what came before it failed counts
