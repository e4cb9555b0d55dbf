"""Models of Ollama come and go, over a server written from Ollama's documentation."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from services.chassis.errors import Failure, Reason
from services.inference.engine import Capability, Delta, Device, Files, Generation, Message, ModelState, Role, Sampling
from services.inference.engines import ollama_models
from services.inference.engines.ollama import OllamaEngine
from services.inference.lifecycle import CreateOptions, Finished, LoadOptions, ModelLifecycle, Progress, Stage
from services.inference.memory import Memory
from services.inference.models import Models
from tests.contract.engines.fixture_ollama import CHAT, EMBEDDER, written_ollama
from tests.contract.engines.ollama_store import LARGE, LAYERS, OllamaStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from services.inference.engine import Model


@asynccontextmanager
async def ollama(keep_alive: str = "") -> AsyncIterator[tuple[OllamaStore, OllamaEngine]]:
    store = OllamaStore()
    async with written_ollama(store) as (_, address):
        engine = OllamaEngine(address, keep_alive=keep_alive)
        try:
            yield store, engine
        finally:
            await engine.close()


async def listed(engine: OllamaEngine) -> dict[str, Model]:
    return {model.name: model for model in await engine.models()}


async def test_models_are_listed_with_their_files_and_where_they_are() -> None:
    async with ollama() as (store, engine):
        store.loaded = {CHAT: 0, EMBEDDER: 60}
        models = await listed(engine)
        chat, embedder = models[CHAT], models[EMBEDDER]
        assert chat.files == Files("Q4_K_M", "gguf", updated=1763632800.123456 + 31_536_000)
        assert (chat.state, chat.size_bytes) == (ModelState.READY, 42)
        assert chat.residence is not None
        assert (chat.residence.device, chat.residence.memory_bytes) == (Device.CPU, 100)
        assert embedder.residence is not None
        assert embedder.residence.device is None  # on a GPU, of which Ollama does not tell whose it is
        store.loaded = {}
        engine._models.changed()
        unloaded = (await listed(engine))[CHAT]
        assert (unloaded.state, unloaded.residence) == (ModelState.UNLOADED, None)


async def test_the_status_is_asked_once_in_a_while_and_after_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ollama() as (store, engine):
        for _ in range(3):
            await engine.models()
        assert store.status_asked == 1
        await drained(engine.load(CHAT, LoadOptions()))
        assert (await listed(engine))[CHAT].state is ModelState.READY
        assert store.status_asked == 2
        monkeypatch.setattr(ollama_models, "STATUS_SECONDS", 0.0)
        await engine.models()
        assert store.status_asked == 3


async def drained(steps: AsyncIterator[Progress]) -> list[Progress]:
    return [step async for step in steps]


async def test_loading_and_unloading_keep_what_is_told_of_keeping() -> None:
    async with ollama("10m") as (store, engine):
        await engine.models()
        assert await drained(engine.load(CHAT, LoadOptions())) == [Progress(Stage.LOADING)]
        await drained(engine.load(EMBEDDER, LoadOptions(keep_alive=90.0)))
        await drained(engine.load(CHAT, LoadOptions(keep_alive=0)))
        await engine.unload(EMBEDDER, force=False)
        assert store.asked == [
            ("generate", {"model": CHAT, "stream": False, "keep_alive": "10m"}),
            ("embed", {"model": EMBEDDER, "input": [], "keep_alive": 90.0}),
            ("generate", {"model": CHAT, "stream": False, "keep_alive": -1}),
            ("embed", {"model": EMBEDDER, "input": [], "keep_alive": 0}),
        ]
        assert set(store.loaded) == {CHAT}
        with pytest.raises(Failure) as caught:
            await engine.unload(EMBEDDER, force=False)
        assert caught.value.reason is Reason.MODEL_NOT_LOADED


@pytest.mark.parametrize(("given", "sent"), [("", None), ("10m", "10m"), ("-1", -1), ("300", 300)])
def test_keep_alive_is_written_as_ollama_reads_it(given: str, sent: str | int | None) -> None:
    assert ollama_models.keep_alive_of(given) == sent


async def test_a_model_in_use_is_left_alone() -> None:
    async with ollama() as (_, engine):
        await drained(engine.load(CHAT, LoadOptions()))
        async with aclosing(engine.generate(Generation(CHAT, (Message(Role.USER, "Go on."),)))) as events:
            assert isinstance(await anext(events), Delta)
            for refused in (engine.unload(CHAT, force=False), engine.delete(CHAT, force=False)):
                with pytest.raises(Failure) as caught:
                    await refused
                assert caught.value.reason is Reason.MODEL_IN_USE
        await engine.unload(CHAT, force=False)


async def test_a_pull_tells_its_bytes_over_all_layers() -> None:
    async with ollama() as (_, engine):
        steps = await drained(engine.pull(LARGE))
        sizes = [step.completed_bytes for step in steps if step.stage is Stage.DOWNLOADING]
        assert sizes == sorted(sizes)
        downloaded = [step for step in steps if step.stage is Stage.DOWNLOADING][-1]
        assert downloaded.total_bytes == sum(LAYERS.values())
        assert steps[-1].stage is Stage.VERIFYING
        assert LARGE in await listed(engine)


async def test_a_pull_of_what_the_registry_has_not_is_said_so() -> None:
    async with ollama() as (_, engine):
        with pytest.raises(Failure) as caught:
            await drained(engine.pull("missing:1b"))
    assert caught.value.reason is Reason.MODEL_NOT_FOUND
    assert caught.value.metadata == {"model": "missing:1b"}


async def test_leaving_a_pull_stops_the_download() -> None:
    async with ollama() as (store, engine):
        store.pull_ends.clear()
        async with aclosing(engine.pull(LARGE)) as steps:
            await anext(steps)
        async with asyncio.timeout(2):
            await store.pull_cancelled.wait()
        assert LARGE not in store.names


async def test_a_deleted_model_is_gone() -> None:
    async with ollama() as (store, engine):
        await engine.delete(EMBEDDER, force=False)
        assert set(await listed(engine)) == {CHAT}
        assert store.names == [CHAT]
        with pytest.raises(Failure) as caught:
            await engine.delete(EMBEDDER, force=False)
    assert caught.value.reason is Reason.MODEL_NOT_FOUND


async def test_a_device_cannot_be_chosen() -> None:
    async with ollama() as (_, engine):
        with pytest.raises(Failure) as caught:
            await drained(engine.load(CHAT, LoadOptions(device=Device.CUDA)))
    assert caught.value.reason is Reason.MODEL_CAPABILITY_MISSING


async def test_the_list_of_all_models_follows_at_once() -> None:
    async with ollama() as (_, engine), Models([engine], probe_seconds=60) as models:
        lifecycle = ModelLifecycle(models, [engine], Memory())
        *_, finished = [event async for event in lifecycle.pull(LARGE)]
        assert not isinstance(finished, Progress)
        assert finished.model is not None
        assert finished.model.capabilities[0] is Capability.GENERATION
        assert LARGE in {one.model.name for one in models.listed()}
        assert await lifecycle.delete(LARGE, force=False) == 42
        assert LARGE not in {one.model.name for one in models.listed()}


async def test_a_model_is_made_of_another_with_progress_and_can_be_used() -> None:
    async with ollama() as (store, engine), Models([engine], probe_seconds=60) as models:
        lifecycle = ModelLifecycle(models, [engine], Memory())
        options = CreateOptions(CHAT, "Be brief.", sampling=Sampling(temperature=0.0), context_tokens=8192, stop=("END",))
        *steps, finished = [event async for event in lifecycle.create("helper", options)]
        assert all(isinstance(step, Progress) for step in steps)
        assert steps
        assert isinstance(finished, Finished)
        assert finished.model is not None
        assert finished.model.name == "helper:latest"
        assert store.asked[-1] == (
            "create",
            {
                "model": "helper",
                "from": CHAT,
                "system": "Be brief.",
                "parameters": {"temperature": 0.0, "num_ctx": 8192, "stop": ["END"]},
                "stream": True,
            },
        )


async def test_quantizing_tells_its_progress_where_this_ollama_does_it() -> None:
    async with ollama() as (store, engine):
        store.version = "0.33.0-rc2"
        steps = [step async for step in engine.create("small", CreateOptions(CHAT, quantization="q4_K_M"))]
        done = [
            (step.completed_bytes, step.total_bytes) for step in steps if step.stage is Stage.CONVERTING and step.total_bytes
        ]
        assert done[-1] == (100, 100)
        with pytest.raises(Failure) as refused:
            _ = [step async for step in engine.create("small", CreateOptions(CHAT, quantization="q9_9"))]
        assert (refused.value.reason, refused.value.metadata["field"]) == (Reason.INVALID_FIELD, "quantization")


@pytest.mark.parametrize("version", ["0.34.0", "1.2.3", "unknown"])
async def test_an_ollama_that_may_not_quantize_is_not_asked_to(version: str) -> None:
    async with ollama() as (store, engine):
        store.version = version
        with pytest.raises(Failure) as caught:
            _ = [step async for step in engine.create("small", CreateOptions(CHAT, quantization="q4_K_M"))]
        assert caught.value.reason is Reason.MODEL_CAPABILITY_MISSING
        assert not [how for how, _ in store.asked if how == "create"]
        # Without it there is nothing to refuse.
        _ = [step async for step in engine.create("same", CreateOptions(CHAT))]


async def test_a_base_that_is_nowhere_is_not_found() -> None:
    async with ollama() as (_, engine):
        with pytest.raises(Failure) as caught:
            _ = [step async for step in engine.create("helper", CreateOptions("nothing"))]
        assert (caught.value.reason, caught.value.metadata["model"]) == (Reason.MODEL_NOT_FOUND, "nothing")


async def test_leaving_while_a_model_is_made_stops_it() -> None:
    async with ollama() as (store, engine):
        store.pull_ends.clear()
        async with aclosing(engine.create("helper", CreateOptions(CHAT))) as steps:
            await anext(steps)
        async with asyncio.timeout(5):
            await store.pull_cancelled.wait()
