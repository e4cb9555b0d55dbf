"""What every engine keeps, whatever technology it is."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest

from services.chassis.errors import Failure, Reason
from services.inference.engine import Delta, FinishReason
from tests.contract.engines.subject import collect

if TYPE_CHECKING:
    from tests.contract.engines.subject import Subject


@pytest.fixture
def writer(subject: Subject) -> Subject:
    if not subject.model:
        pytest.skip("this engine does not write")
    return subject


@pytest.fixture
def embedder(subject: Subject) -> Subject:
    if not subject.embedder:
        pytest.skip("this engine does not embed")
    return subject


async def seen_busy(subject: Subject, count: int) -> bool:
    """Whether the engine's own count gets there; vLLM tells it some steps late."""
    assert subject.busy is not None
    for _ in range(100):
        if await subject.busy() == count:
            return True
        await asyncio.sleep(0.02)
    return False


async def idle_after(subject: Subject) -> float:
    """Seconds until the engine itself says that it works on nothing; at most 5."""
    assert subject.busy is not None
    started = time.monotonic()
    while await subject.busy():
        await asyncio.sleep(0.005)
        assert time.monotonic() - started < 5, "the engine goes on generating for nobody"
    return time.monotonic() - started


async def _use(subject: Subject, model: str) -> None:
    """Does whatever the engine is for."""
    if subject.model:
        await collect(subject.engine.generate(subject.generation(model=model)))
    else:
        await subject.engine.embed(model, ["text"])


async def test_lists_its_models_under_its_own_name(subject: Subject) -> None:
    models = {model.name: model for model in await subject.engine.models()}
    assert {name for name in (subject.model, subject.embedder) if name} <= set(models)
    assert {model.engine for model in models.values()} == {subject.engine.name}
    assert all(model.capabilities for model in models.values())


async def test_a_stream_is_deltas_and_then_exactly_one_end(writer: Subject) -> None:
    text, deltas, ends = await collect(writer.engine.generate(writer.generation()))
    assert len(ends) == 1
    assert text.strip()
    assert all(delta.text and delta.tokens >= 1 for delta in deltas)


async def test_the_end_tells_the_usage(writer: Subject) -> None:
    _, deltas, ends = await collect(writer.engine.generate(writer.generation()))
    usage = ends[0].usage
    assert usage.output_tokens is not None
    assert sum(delta.tokens for delta in deltas) <= usage.output_tokens + 1
    assert 0 < usage.output_tokens <= 24
    assert usage.input_tokens is None or usage.input_tokens > 0


async def test_max_tokens_bounds_the_text_and_is_named_as_the_reason(writer: Subject) -> None:
    text, _, ends = await collect(writer.engine.generate(writer.generation(max_tokens=5)))
    assert ends[0].finish_reason is FinishReason.LENGTH
    assert ends[0].usage.output_tokens is not None
    assert ends[0].usage.output_tokens <= 5
    longer, _, _ = await collect(writer.engine.generate(writer.generation()))
    assert len(text) < len(longer)


async def test_a_stop_sequence_ends_the_text_and_is_left_out(writer: Subject) -> None:
    whole, _, _ = await collect(writer.engine.generate(writer.generation()))
    middle = len(whole) // 2
    stop = max(whole[middle:].split(), key=len)
    text, _, ends = await collect(writer.engine.generate(writer.generation(stop=(stop,))))
    assert ends[0].finish_reason is FinishReason.STOP
    assert text.rstrip() == whole[: whole.index(stop)].rstrip()


async def test_generations_at_the_same_time_keep_apart(writer: Subject) -> None:
    done = await asyncio.gather(*(collect(writer.engine.generate(writer.generation())) for _ in range(6)))
    assert all(len(ends) == 1 and text.strip() for text, _, ends in done)


async def test_closing_the_stream_stops_the_engine_at_once(writer: Subject) -> None:
    events = writer.engine.generate(writer.generation(max_tokens=writer.long))
    async with aclosing(events):
        assert isinstance(await anext(events), Delta)
        if writer.busy is None:
            return
        assert await seen_busy(writer, 1)
    assert await idle_after(writer) < writer.notices


async def test_cancelling_the_task_stops_the_engine_at_once(writer: Subject) -> None:
    begun = asyncio.Event()

    async def consume() -> None:
        async with aclosing(writer.engine.generate(writer.generation(max_tokens=writer.long))) as events:
            async for _ in events:
                begun.set()

    task = asyncio.create_task(consume())
    await asyncio.wait_for(begun.wait(), 30)
    if writer.busy is not None:
        assert await seen_busy(writer, 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    if writer.busy is not None:
        assert await idle_after(writer) < writer.notices
    # The engine is as good as before.
    _, _, ends = await collect(writer.engine.generate(writer.generation(max_tokens=3)))
    assert len(ends) == 1


async def test_an_unknown_model_is_not_found(subject: Subject) -> None:
    if subject.ignores_names:
        pytest.skip("this server takes any name for its only model")
    with pytest.raises(Failure) as caught:
        await _use(subject, "no-such-model")
    assert caught.value.reason is Reason.MODEL_NOT_FOUND


async def test_an_engine_that_is_not_there_is_unavailable(subject: Subject) -> None:
    if subject.absent is None:
        pytest.skip("this engine has no server that could be away")
    with pytest.raises(Failure) as listing:
        await subject.absent.models()
    with pytest.raises(Failure) as generating:
        await collect(subject.absent.generate(subject.generation(model="any")))
    with pytest.raises(Failure) as embedding:
        await subject.absent.embed("any", ["text"])
    assert {caught.value.reason for caught in (listing, generating)} == {Reason.ENGINE_UNAVAILABLE}
    # One that never embeds need not ask its server for that.
    never = {Reason.MODEL_CAPABILITY_MISSING} if subject.engine.name == "anthropic" else set()
    assert embedding.value.reason in {Reason.ENGINE_UNAVAILABLE, *never}


async def test_a_prompt_beyond_the_context_is_refused_with_the_reason(writer: Subject) -> None:
    context = {model.name: model.context_tokens for model in await writer.engine.models()}[writer.model]
    if not 0 < context <= 32_768 or writer.engine.name == "ollama":
        pytest.skip("this engine has no limit that it tells, or cuts the prompt by itself as Ollama does")
    with pytest.raises(Failure) as caught:
        await collect(writer.engine.generate(writer.generation(question="water " * context)))
    assert caught.value.reason is Reason.CONTEXT_TOO_LONG


async def test_closing_the_engine_ends_its_generations(writer: Subject) -> None:
    events = writer.engine.generate(writer.generation(max_tokens=writer.long))
    first = await anext(events)
    rest = asyncio.create_task(collect(events))
    await writer.engine.close()
    assert isinstance(first, Delta)
    outcome = (await asyncio.wait_for(asyncio.gather(rest, return_exceptions=True), 2))[0]
    if isinstance(outcome, BaseException):
        assert isinstance(outcome, Failure), outcome
    if writer.busy is not None:
        await idle_after(writer)


async def test_embeddings_come_one_per_input_in_order(embedder: Subject) -> None:
    both = await embedder.engine.embed(embedder.embedder, ["a sluice gate", "three green turbines turn"])
    alone = await embedder.engine.embed(embedder.embedder, ["three green turbines turn"])
    assert len(both.vectors) == 2
    assert list(both.vectors[1]) == pytest.approx(list(alone.vectors[0]), abs=1e-2)
    assert list(both.vectors[0]) != pytest.approx(list(both.vectors[1]), abs=1e-2)
    assert both.input_tokens is None or both.input_tokens > 0


async def test_embeddings_have_the_length_that_is_listed(embedder: Subject) -> None:
    listed = {model.name: model for model in await embedder.engine.models()}[embedder.embedder]
    embeddings = await embedder.engine.embed(embedder.embedder, ["water"])
    assert listed.dimensions in {0, len(embeddings.vectors[0])}


async def test_an_engine_without_embedders_says_so(subject: Subject) -> None:
    if subject.embedder:
        pytest.skip("this engine embeds")
    with pytest.raises(Failure) as caught:
        await subject.engine.embed(subject.model, ["text"])
    assert caught.value.reason in {Reason.MODEL_CAPABILITY_MISSING, Reason.INVALID_FIELD, Reason.MODEL_NOT_FOUND}
