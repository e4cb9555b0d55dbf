from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from services.chassis.errors import Failure, Reason
from services.inference.engine import ModelState
from services.inference.models import Models
from tests.unit.inference.scripted_engine import ScriptedEngine, embedder, extractor, writer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from services.inference.engine import Model

AWAY = Failure(Reason.ENGINE_UNAVAILABLE, "gone")
FAST = 0.01


def engines() -> tuple[ScriptedEngine, ScriptedEngine, ScriptedEngine, ScriptedEngine]:
    """In the order of preference, as wired."""
    return (
        ScriptedEngine("openai", writer("big", "openai"), embedder("bge", "openai")),
        ScriptedEngine("ollama", writer("small", "ollama")),
        ScriptedEngine("minilm", embedder("all-minilm-l6-v2")),
        ScriptedEngine("extractive", extractor()),
    )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


async def test_a_model_is_found_by_its_exact_name() -> None:
    openai, ollama, *_ = given = engines()
    async with Models(given) as models:
        assert models.writer("small").engine is ollama
        assert models.embedder("bge").engine is openai
        with pytest.raises(Failure) as caught:
            models.writer("smal")
    assert caught.value.reason is Reason.MODEL_NOT_FOUND
    assert caught.value.metadata == {"model": "smal"}


async def test_auto_takes_the_first_generative_engine_in_reach_and_extractive_last() -> None:
    openai, ollama, minilm, extractive = given = engines()
    async with Models(given) as models:
        assert models.writer("auto").model.name == "big"
        assert models.writer("").model.name == "big"
    openai.away = AWAY
    async with Models(given) as models:
        assert models.writer("auto").engine is ollama
    async with Models((minilm, extractive)) as models:
        assert models.writer("auto").engine is extractive


async def test_auto_for_embedding_is_what_is_configured_else_the_first_in_reach() -> None:
    given = engines()
    async with Models(given, auto_embedding_model="all-minilm-l6-v2") as models:
        assert models.embedder("auto").model.name == "all-minilm-l6-v2"
    async with Models(given, auto_embedding_model="not-there") as models:
        assert models.embedder("").model.name == "bge"


async def test_auto_for_generation_can_be_configured() -> None:
    async with Models(engines(), auto_model="small") as models:
        assert models.writer("auto").model.name == "small"


async def test_auto_without_any_model_says_so() -> None:
    async with Models([ScriptedEngine("minilm", embedder("e"))]) as models:
        with pytest.raises(Failure) as caught:
            models.writer("auto")
    assert caught.value.reason is Reason.MODEL_NOT_FOUND


async def test_an_embedder_that_is_away_for_a_moment_is_told_apart_from_one_that_is_not_there() -> None:
    minilm = ScriptedEngine("minilm", embedder("all-minilm-l6-v2"))
    async with Models([minilm], probe_seconds=FAST) as models:
        minilm.away = AWAY
        await until(lambda: models.listed()[0].model.state is ModelState.UNREACHABLE)
        with pytest.raises(Failure) as away:
            models.embedder("auto")
        with pytest.raises(Failure) as absent:
            models.embedder("bge")
        assert models.embedder("all-minilm-l6-v2").engine is minilm
    assert away.value.reason is Reason.ENGINE_UNAVAILABLE
    assert away.value.retry_after == 1.0
    assert away.value.metadata == {"engine": "minilm", "model": "auto"}
    assert absent.value.reason is Reason.MODEL_NOT_FOUND


async def test_what_an_engine_that_is_being_started_has_is_not_yet_known() -> None:
    class Starting(ScriptedEngine):
        away_seconds = FAST

    starting = Starting("llamacpp", writer("tiny", "llamacpp"))
    starting.away = AWAY
    async with Models([starting], probe_seconds=FAST) as models:
        with pytest.raises(Failure) as caught:
            models.writer("tiny")
        assert caught.value.reason is Reason.ENGINE_UNAVAILABLE
        starting.away = None
        await until(lambda: bool(models.listed()))
        assert models.writer("tiny").engine is starting
        with pytest.raises(Failure) as caught:
            models.writer("other")
    assert caught.value.reason is Reason.MODEL_NOT_FOUND


async def test_a_model_that_cannot_do_it_is_told_apart_from_none() -> None:
    async with Models(engines()) as models:
        with pytest.raises(Failure) as embedding:
            models.embedder("extractive")
        with pytest.raises(Failure) as writing:
            models.writer("bge")
    assert embedding.value.reason is Reason.MODEL_CAPABILITY_MISSING
    assert embedding.value.metadata == {"model": "extractive", "capability": "EMBEDDING"}
    assert writing.value.metadata == {"model": "bge", "capability": "GENERATION"}


async def test_models_are_listed_by_engine_then_name_and_what_auto_means_is_marked() -> None:
    async with Models(engines(), auto_embedding_model="all-minilm-l6-v2") as models:
        listed = models.listed()
    assert [(one.model.engine, one.model.name, one.is_auto) for one in listed] == [
        ("extractive", "extractive", False),
        ("minilm", "all-minilm-l6-v2", True),
        ("ollama", "small", False),
        ("openai", "bge", False),
        ("openai", "big", True),
    ]


async def test_an_engine_that_goes_is_noticed_and_noticed_again_when_it_is_back() -> None:
    openai, ollama, *_ = given = engines()
    async with Models(given, probe_seconds=FAST) as models:
        openai.away = AWAY
        await until(lambda: models.writer("auto").engine is ollama)
        states = {one.model.name: one.model.state for one in models.listed()}
        assert states["big"] is ModelState.UNREACHABLE
        assert states["small"] is ModelState.READY
        # By its name it is still found: the engine itself says whether it is there.
        assert models.writer("big").engine is openai
        openai.away = None
        await until(lambda: models.writer("auto").engine is openai)


async def test_a_defect_of_one_engine_takes_no_other_along_and_may_pass() -> None:
    class Defective(ScriptedEngine):
        defect: Exception | None = RecursionError("defect")

        async def models(self) -> Sequence[Model]:
            if self.defect is not None:
                raise self.defect
            return await super().models()

    engine, other = Defective("openai", writer("big", "openai")), ScriptedEngine("ollama", writer("small", "ollama"))
    async with Models([engine, other], probe_seconds=FAST) as models:
        assert models.writer("auto").engine is other
        engine.defect = None
        await until(lambda: models.writer("auto").engine is engine)
        engine.defect = ValueError("defect")
        await until(lambda: models.writer("auto").engine is other)


async def test_a_slow_probe_does_not_undo_what_a_later_one_saw() -> None:
    class Slow(ScriptedEngine):
        async def models(self) -> Sequence[Model]:
            seen = self.listed
            self.probes += 1
            if self.probes == 2:
                await gate.wait()
            return seen

    gate = asyncio.Event()
    ollama = Slow("ollama", writer("old", "ollama"))
    async with Models([ollama], probe_seconds=60) as models:
        models.suspect(ollama)
        await until(lambda: ollama.probes == 2)
        ollama.listed = (writer("new", "ollama"),)
        await models.refresh(ollama)
        gate.set()
        await asyncio.sleep(0.01)
        assert [one.model.name for one in models.listed()] == ["new"]


async def test_models_that_are_pulled_or_deleted_while_running_are_noticed() -> None:
    ollama = ScriptedEngine("ollama")
    async with Models([ollama], probe_seconds=FAST) as models:
        assert models.listed() == []
        ollama.listed = (writer("new", "ollama"),)
        await until(lambda: [one.model.name for one in models.listed()] == ["new"])
        ollama.listed = ()
        await until(lambda: not models.listed())


async def test_a_hanging_engine_delays_neither_the_start_nor_the_others() -> None:
    class Hanging(ScriptedEngine):
        async def models(self) -> Sequence[Model]:
            await asyncio.sleep(60)
            return ()

    good = ScriptedEngine("ollama", writer("small", "ollama"))
    async with asyncio.timeout(2), Models([Hanging("openai"), good], probe_timeout=0.1) as models:
        assert models.writer("auto").engine is good


async def test_a_suspected_engine_is_probed_at_once() -> None:
    openai, *_ = given = engines()
    async with Models(given, probe_seconds=60) as models:
        before = openai.probes
        models.suspect(openai)
        await until(lambda: openai.probes > before)


async def test_of_two_engines_with_one_name_the_one_in_reach_answers() -> None:
    first = ScriptedEngine("openai", writer("twin", "openai"))
    second = ScriptedEngine("ollama", writer("twin", "ollama"))
    async with Models([first, second], probe_seconds=FAST) as models:
        assert models.writer("twin").engine is first
        first.away = AWAY
        await until(lambda: models.writer("twin").engine is second)


async def test_a_probe_keeps_a_models_details_when_it_becomes_unreachable() -> None:
    detailed = replace(writer("big", "openai"), context_tokens=4096)
    engine = ScriptedEngine("openai", detailed)
    async with Models([engine], probe_seconds=FAST) as models:
        engine.away = AWAY
        await until(lambda: models.listed()[0].model.state is ModelState.UNREACHABLE)
        assert models.listed()[0].model == replace(detailed, state=ModelState.UNREACHABLE)
