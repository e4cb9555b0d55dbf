"""vLLM in this process: what only it shows, and the service with it. `make test-vllm` runs this by vLLM's own interpreter."""

from __future__ import annotations

import asyncio
import json
import os
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from services.chassis.errors import Failure, Reason
from services.inference.engine import Device, FinishReason, Generation, Message, ModelState, Role, Sampling, UsageSource
from services.inference.engines.async_llm import AsyncLlmEngine, Options
from services.inference.lifecycle import LoadOptions
from tests.contract.engines import tiny_llama
from tests.contract.engines.fixture_async_llm import Kept, open_writer, options, running
from tests.contract.engines.subject import collect

if TYPE_CHECKING:
    from pathlib import Path

    from services.inference.engines.async_llm_core import Core

here = pytest.mark.skipif(not os.environ.get("VLLM_IN_PROCESS"), reason="make test-vllm runs this")


def asked(text: str, model: str = "tiny", **fields: Any) -> Generation:
    base: dict[str, Any] = {"sampling": Sampling(temperature=0.0), "max_tokens": 16}
    return Generation(model, (Message(Role.USER, text),), **{**base, **fields})


@here
async def test_usage_is_what_vllm_reports(async_llm: tuple[Kept, Path]) -> None:
    async with open_writer(async_llm) as subject:
        _, deltas, (end,) = await collect(subject.engine.generate(asked("Where to?", max_tokens=7)))
    assert (end.finish_reason, end.usage.output_tokens, end.usage.source) == (FinishReason.LENGTH, 7, UsageSource.REPORTED)
    assert end.usage.input_tokens is not None
    assert end.usage.input_tokens > 2
    assert sum(delta.tokens for delta in deltas) <= 7


@here
async def test_a_seed_repeats_and_others_differ(async_llm: tuple[Kept, Path]) -> None:
    async with open_writer(async_llm) as subject:
        texts = [
            (await collect(subject.engine.generate(asked("So?", sampling=Sampling(temperature=2.0, seed=seed)))))[0]
            for seed in (1, 1, 2, 3)
        ]
    assert texts[0] == texts[1]
    assert len(set(texts)) > 1


@here
async def test_a_request_goes_on_where_another_is_aborted(async_llm: tuple[Kept, Path]) -> None:
    async with open_writer(async_llm) as subject:
        first, second = (subject.engine.generate(asked("On and on", max_tokens=subject.long)) for _ in range(2))
        async with aclosing(first), aclosing(second):
            await asyncio.gather(anext(first), anext(second))
            await first.aclose()
            deadline = time.monotonic() + 5
            while running() != 1:
                assert time.monotonic() < deadline, "vLLM did not let go of the one, or lost the other"
                await asyncio.sleep(0.01)
            await anext(second)


@here
async def test_adapters_come_and_go(async_llm: tuple[Kept, Path], tmp_path: Path) -> None:
    from tests.contract.engines.test_vllm_lifecycle import adapter  # noqa: PLC0415 - brings numpy and safetensors

    folder = adapter(tmp_path / "adapter", tiny_llama.Shape())
    async with open_writer(async_llm) as subject:
        engine: Any = subject.engine
        with pytest.raises(Failure) as caught:
            _ = [step async for step in engine.load_adapter("none", str(tmp_path / "nothing"))]
        assert caught.value.reason is Reason.MODEL_NOT_FOUND
        _ = [step async for step in engine.load_adapter("tuned", str(folder))]
        assert {model.name for model in await engine.models()} == {"tiny", "tuned"}
        plain, tuned = [(await collect(engine.generate(asked("Where to?", name))))[0] for name in ("tiny", "tuned")]
        assert plain != tuned
        await engine.unload("tuned", force=False)
        with pytest.raises(Failure) as gone:
            await collect(engine.generate(asked("Where to?", "tuned")))
        assert gone.value.reason is Reason.MODEL_NOT_FOUND


class Scripted:
    """Starts nothing: counts, fails or gives a core that was started before."""

    def __init__(self, core: Core | None) -> None:
        self.core = core
        self.opened = self.shuts = 0

    def open(self, wanted: Options) -> Core:  # noqa: ARG002 - of the protocol
        self.opened += 1
        time.sleep(0.1)
        if self.core is None:
            raise RuntimeError("Engine core initialization failed")
        return self.core

    def shut(self, opened: Core) -> None:  # noqa: ARG002 - of the protocol
        self.shuts += 1


@here
async def test_it_is_loaded_once_by_whoever_asks_first_and_never_unloaded_in_use(async_llm: tuple[Kept, Path]) -> None:
    async with open_writer(async_llm):
        scripted = Scripted(async_llm[0].core)
        engine = AsyncLlmEngine(options(async_llm[1]), scripted)
        assert [model.state for model in await engine.models()] == [ModelState.UNLOADED]
        done = asyncio.gather(*(collect(engine.generate(asked("Where to?"))) for _ in range(3)))
        await asyncio.sleep(0.05)
        assert [model.state for model in await engine.models()] == [ModelState.LOADING]
        assert all(len(ends) == 1 for _, _, ends in await done)
        assert scripted.opened == 1
        (model,) = await engine.models()
        assert (model.state, model.context_tokens) == (ModelState.READY, 2048)
        assert model.residence is not None
        assert (model.residence.device, model.residence.memory_bytes > 2**27) == (Device.CPU, True)
        async with aclosing(engine.generate(asked("On", max_tokens=900))) as events:
            await anext(events)
            with pytest.raises(Failure) as caught:
                await engine.unload("tiny", force=False)
            assert caught.value.reason is Reason.MODEL_IN_USE
            await engine.unload("tiny", force=True)
            with pytest.raises(Failure) as cut:
                await collect(events)
            assert cut.value.reason is Reason.GENERATION_FAILED
        assert (scripted.shuts, [model.state for model in await engine.models()]) == (1, [ModelState.UNLOADED])
        with pytest.raises(Failure) as absent:
            await engine.unload("tiny", force=False)
        assert absent.value.reason is Reason.MODEL_NOT_LOADED
        with pytest.raises(Failure) as elsewhere:
            _ = [step async for step in engine.load("tiny", LoadOptions(device=Device.CUDA))]
        assert elsewhere.value.reason is Reason.DEVICE_UNAVAILABLE
        await engine.close()


async def test_what_cannot_be_loaded_says_so_and_is_not_tried_by_each_request() -> None:
    scripted = Scripted(None)
    engine = AsyncLlmEngine(Options("/nowhere/model"), scripted)
    for _ in range(3):
        with pytest.raises(Failure) as caught:
            await collect(engine.generate(asked("Where to?", "model")))
        assert caught.value.reason is Reason.ENGINE_UNAVAILABLE
        assert caught.value.retry_after is not None
    assert (scripted.opened, [model.state for model in await engine.models()]) == (1, [ModelState.FAILED])
    with pytest.raises(Failure):
        _ = [step async for step in engine.load("model", LoadOptions())]
    assert scripted.opened == 2
    await engine.close()


def test_names_come_from_the_model() -> None:
    assert Options("NightForger/saiga_nemo_12b-GPTQ").served == "saiga_nemo_12b-GPTQ"
    assert Options("/models/x/").served == "x"
    assert Options("/models/x", "y").served == "y"


@here
@pytest.mark.timeout(240)
def test_the_service_starts_and_answers_with_it(tmp_path: Path) -> None:
    import grpc  # noqa: PLC0415 - as the service brings it
    from penstock.inference.v1 import (  # noqa: PLC0415 - as above
        generation_pb2,
        generation_service_pb2,
        generation_service_pb2_grpc,
        model_service_pb2,
        model_service_pb2_grpc,
    )

    from tests.integration.inference.processes import Service  # noqa: PLC0415 - as above

    given = options(tmp_path)
    service = Service(
        tmp_path,
        VLLM_MODEL=given.model,
        VLLM_SERVED_NAME="tiny",
        VLLM_MAX_MODEL_LEN="512",
        VLLM_OPTIONS=json.dumps({"enforce_eager": True}),
        PROBE_SECONDS="0.2",
    )
    try:
        with grpc.insecure_channel(service.address) as channel:
            generation: Any = generation_service_pb2_grpc.GenerationServiceStub(channel)
            request = generation_service_pb2.GenerateRequest(
                model="auto", prompt="Where to?", max_tokens=5, sampling=generation_pb2.Sampling(temperature=0)
            )
            answer = generation.Generate(request, timeout=200)
            assert (answer.engine, answer.model, answer.usage.output_tokens) == ("vllm", "tiny", 5)
            assert answer.usage.source == generation_pb2.USAGE_SOURCE_REPORTED
            models: Any = model_service_pb2_grpc.ModelServiceStub(channel)
            listed = {one.model: one for one in models.ListModels(model_service_pb2.ListModelsRequest()).models}
            assert listed["tiny"].context_tokens == 512
            cores = psutil.Process(service.pid).children(recursive=True)
            assert cores
    finally:
        assert service.stop() == 0
    assert not any(core.is_running() and core.status() != psutil.STATUS_ZOMBIE for core in cores)
