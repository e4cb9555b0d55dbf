"""What can be brought in and out, over engines that say what a test tells them to."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from services.chassis.errors import Failure, Reason
from services.inference.engine import ModelState
from services.inference.lifecycle import Event, Finished, LoadOptions, ModelLifecycle, Progress, Stage
from services.inference.memory import Memory
from services.inference.models import Models
from tests.unit.inference.scripted_engine import ScriptedEngine, extractor, writer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

STEPS = (Progress(Stage.WAITING), Progress(Stage.LOADING, 0, 10))
BROKEN = Failure(Reason.ENGINE_UNAVAILABLE, "its file is damaged")


class Loading(ScriptedEngine):
    """Loads in the steps that are set, then fails where `fails` is set."""

    steps: tuple[Progress, ...] = STEPS
    fails: Failure | None = None
    stopped = False

    async def load(self, model: str, options: LoadOptions) -> AsyncGenerator[Progress, None]:  # noqa: ARG002 - one only
        try:
            for step in self.steps:
                yield step
        finally:
            self.stopped = True
        if self.fails is not None:
            raise self.fails

    async def unload(self, model: str, *, force: bool) -> None:
        if not force:
            raise Failure(Reason.MODEL_IN_USE, f"{model} is in use")


def engines() -> tuple[Loading, ScriptedEngine]:
    return Loading("llamacpp", writer("local", "llamacpp")), ScriptedEngine("extractive", extractor())


async def collect(events: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in events]


async def fill(seen: list[Event], events: AsyncIterator[Event]) -> None:
    async for event in events:
        seen.append(event)  # noqa: PERF401 - what came before it raises counts


async def test_a_load_streams_its_steps_and_ends_with_the_model() -> None:
    given = engines()
    async with Models(given) as models:
        events = await collect(ModelLifecycle(models, given, Memory()).load("local", LoadOptions()))
    assert tuple(events[:-1]) == STEPS
    assert isinstance(events[-1], Finished)
    assert events[-1].model == writer("local", "llamacpp")
    assert events[-1].failure is None


async def test_a_failure_before_the_first_step_is_raised_alone() -> None:
    given = engines()
    given[0].steps, given[0].fails = (), BROKEN
    async with Models(given) as models:
        events = ModelLifecycle(models, given, Memory()).load("local", LoadOptions())
        with pytest.raises(Failure, match="damaged"):
            await anext(events)


async def test_a_failure_after_it_is_told_in_the_last_event_too() -> None:
    given = engines()
    given[0].fails = BROKEN
    seen: list[Event] = []
    async with Models(given) as models:
        events = ModelLifecycle(models, given, Memory()).load("local", LoadOptions())
        with pytest.raises(Failure, match="damaged"):
            await fill(seen, events)
    assert isinstance(seen[-1], Finished)
    assert seen[-1].failure is BROKEN
    assert seen[-1].model is None
    assert sum(isinstance(event, Finished) for event in seen) == 1


async def test_leaving_a_load_stops_the_engine_at_once() -> None:
    given = engines()
    async with Models(given) as models:
        events = ModelLifecycle(models, given, Memory()).load("local", LoadOptions())
        await anext(events)
        await events.aclose()
    assert given[0].stopped


async def test_a_changed_engine_is_asked_again_at_once() -> None:
    given = engines()
    async with Models(given, probe_seconds=60) as models:
        before = given[0].probes
        await ModelLifecycle(models, given, Memory()).unload("local", force=True)
        assert given[0].probes == before + 1
        with pytest.raises(Failure) as caught:
            await ModelLifecycle(models, given, Memory()).unload("local", force=False)
        assert given[0].probes == before + 2
    assert caught.value.reason is Reason.MODEL_IN_USE


async def test_what_an_engine_cannot_do_is_said_with_who_can() -> None:
    given = engines()
    async with Models(given) as models:
        lifecycle = ModelLifecycle(models, given, Memory())
        for call in (
            anext(lifecycle.load("extractive", LoadOptions())),
            lifecycle.unload("extractive", force=False),
            lifecycle.delete("local", force=False),
            anext(lifecycle.pull("anything")),
            anext(lifecycle.load("adapter", LoadOptions(adapter_path="somewhere"))),
        ):
            with pytest.raises(Failure) as caught:
                await call
            assert caught.value.reason is Reason.MODEL_CAPABILITY_MISSING
            assert any(word in caught.value.message for word in ("llamacpp", "ollama", "vLLM"))


async def test_a_model_that_is_not_there_is_not_found() -> None:
    given = engines()
    async with Models(given) as models:
        for call in (
            anext(ModelLifecycle(models, given, Memory()).load("missing", LoadOptions())),
            ModelLifecycle(models, given, Memory()).unload("missing", force=False),
            ModelLifecycle(models, given, Memory()).delete("missing", force=False),
        ):
            with pytest.raises(Failure) as caught:
                await call
            assert caught.value.reason is Reason.MODEL_NOT_FOUND


async def test_a_model_that_failed_to_load_is_not_what_auto_means() -> None:
    given = engines()
    given[0].listed = (replace(writer("local", "llamacpp"), state=ModelState.FAILED),)
    async with Models(given) as models:
        assert models.writer("auto").model.name == "extractive"
