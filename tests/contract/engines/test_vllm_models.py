"""Sleeping, waking and adapters of a vLLM server, over one written from its documentation; the lifecycle has a real one."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from services.chassis.errors import Failure, Reason
from services.inference.engine import Device, Generation, Message, ModelState, Role
from services.inference.engines.vllm import VllmEngine
from services.inference.lifecycle import Finished, LoadOptions, ModelLifecycle, Progress, Stage
from services.inference.memory import Memory
from services.inference.models import Models
from tests.unit.inference.test_models import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BASE = "base"


class WrittenVllm:
    """The routes beside the OpenAI API; those of sleeping and of adapters are there only where it was started so."""

    def __init__(self, *, sleeps: bool, takes_adapters: bool) -> None:
        self.sleeps = sleeps
        self.takes_adapters = takes_adapters
        self.is_asleep = False
        self.asked = 0
        self.held: list[asyncio.Event] = []
        self.adapters: dict[str, str] = {}

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/v1/models", self.models)
        if self.sleeps:
            application.router.add_get("/is_sleeping", self.is_sleeping)
            application.router.add_post("/sleep", self.sleep)
            application.router.add_post("/wake_up", self.wake_up)
        if self.takes_adapters:
            application.router.add_post("/v1/load_lora_adapter", self.load_adapter)
            application.router.add_post("/v1/unload_lora_adapter", self.unload_adapter)
        application.router.add_route("*", "/{rest:.*}", self.missing)
        return application

    async def missing(self, _request: web.Request) -> web.Response:
        self.asked += 1
        return web.json_response({"detail": "Not Found"}, status=404)

    async def models(self, _request: web.Request) -> web.Response:
        base: dict[str, Any] = {"id": BASE, "owned_by": "vllm", "root": "weights", "parent": None, "max_model_len": 2048}
        adapters = [{**base, "id": name, "root": path, "parent": BASE} for name, path in self.adapters.items()]
        return web.json_response({"object": "list", "data": [base, *adapters]})

    async def is_sleeping(self, _request: web.Request) -> web.Response:
        is_asleep = self.is_asleep
        if self.held:
            await self.held.pop().wait()
        return web.json_response({"is_sleeping": is_asleep})

    async def sleep(self, request: web.Request) -> web.Response:
        assert request.query["level"] == "1"
        self.is_asleep = True
        return web.Response()

    async def wake_up(self, _request: web.Request) -> web.Response:
        self.is_asleep = False
        return web.Response()

    async def load_adapter(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body["lora_path"] == "nowhere":
            error = {"message": "The lora adapter 'x' does not exist.", "type": "NotFoundError", "code": 404}
            return web.json_response({"error": error}, status=404)
        self.adapters[body["lora_name"]] = body["lora_path"]
        return web.Response(text=f"Success: LoRA adapter '{body['lora_name']}' added successfully.")

    async def unload_adapter(self, request: web.Request) -> web.Response:
        del self.adapters[(await request.json())["lora_name"]]
        return web.Response(text="Success")


@asynccontextmanager
async def vllm(*, sleeps: bool = True, takes_adapters: bool = True) -> AsyncIterator[tuple[WrittenVllm, VllmEngine]]:
    written = WrittenVllm(sleeps=sleeps, takes_adapters=takes_adapters)
    runner = web.AppRunner(written.application(), shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    engine = VllmEngine(f"http://127.0.0.1:{runner.addresses[0][1]}/v1")
    try:
        yield written, engine
    finally:
        await engine.close()
        await runner.cleanup()


async def test_a_server_sleeps_and_wakes() -> None:
    async with vllm() as (_, engine):
        assert [model.state for model in await engine.models()] == [ModelState.READY]
        await engine.unload(BASE, force=False)
        assert [model.state for model in await engine.models()] == [ModelState.UNLOADED]
        with pytest.raises(Failure) as generating:
            await anext(engine.generate(Generation(BASE, (Message(Role.USER, "Hello"),))))
        with pytest.raises(Failure) as unloading:
            await engine.unload(BASE, force=False)
        assert generating.value.reason is unloading.value.reason is Reason.MODEL_NOT_LOADED
        assert [step.stage async for step in engine.load(BASE, LoadOptions())] == [Stage.LOADING]
        assert [model.state for model in await engine.models()] == [ModelState.READY]
        assert [step async for step in engine.load(BASE, LoadOptions())] == []


async def test_a_server_that_fell_asleep_by_another_hand_is_noticed() -> None:
    async with vllm() as (written, engine):
        await engine.models()
        written.is_asleep = True
        assert [model.state for model in await engine.models()] == [ModelState.UNLOADED]


async def test_a_slow_look_does_not_undo_what_was_done_meanwhile() -> None:
    async with vllm() as (written, engine):
        await engine.unload(BASE, force=False)
        written.held.append(answered := asyncio.Event())
        looking = asyncio.create_task(engine.models())
        await until(lambda: not written.held)
        assert [one async for one in engine.load(BASE, LoadOptions())]
        answered.set()
        assert [model.state for model in await looking] == [ModelState.READY]


async def test_a_server_started_without_sleep_says_how_to_start_it() -> None:
    async with vllm(sleeps=False, takes_adapters=False) as (written, engine):
        for _ in range(3):
            assert [model.state for model in await engine.models()] == [ModelState.READY]
        assert written.asked == 1  # what it does not offer is not asked for again and again
        with pytest.raises(Failure) as sleeping:
            await engine.unload(BASE, force=False)
        with pytest.raises(Failure) as adapting:
            _ = [step async for step in engine.load_adapter("x", "somewhere")]
    assert sleeping.value.reason is adapting.value.reason is Reason.MODEL_CAPABILITY_MISSING
    assert "--enable-sleep-mode" in sleeping.value.message
    assert "--enable-lora" in adapting.value.message


async def test_adapters_come_and_go_as_models() -> None:
    async with vllm() as (_, engine), Models([engine], probe_seconds=60) as models:
        lifecycle = ModelLifecycle(models, [engine], Memory())
        options = LoadOptions(adapter_path="somewhere")
        *steps, finished = [event async for event in lifecycle.load("tuned", options)]
        assert steps == [Progress(Stage.LOADING)]
        assert isinstance(finished, Finished)
        assert finished.model is not None
        assert finished.model.name == "tuned"
        assert {one.model.name for one in models.listed()} == {BASE, "tuned"}
        await lifecycle.unload("tuned", force=False)
        assert {one.model.name for one in models.listed()} == {BASE}


async def test_an_adapter_that_is_not_there_is_not_found() -> None:
    async with vllm() as (_, engine):
        with pytest.raises(Failure) as caught:
            _ = [step async for step in engine.load_adapter("x", "nowhere")]
    assert caught.value.reason is Reason.MODEL_NOT_FOUND
    assert "does not exist" in caught.value.message


async def test_where_it_runs_cannot_be_chosen() -> None:
    async with vllm() as (_, engine):
        for options in (LoadOptions(device=Device.CPU), LoadOptions(keep_alive=3.0)):
            with pytest.raises(Failure) as caught:
                _ = [step async for step in engine.load(BASE, options)]
            assert caught.value.reason is Reason.MODEL_CAPABILITY_MISSING
