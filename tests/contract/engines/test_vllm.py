"""What only a real vLLM shows of the `vllm` engine, beyond the contract of all engines."""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from services.inference.engine import Delta, FinishReason, UsageSource
from tests.contract.engines.conftest import HERE
from tests.contract.engines.fixture_embedded import open_minilm
from tests.contract.engines.fixture_vllm import open_embedder, open_writer
from tests.contract.engines.subject import collect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from tests.contract.engines.subject import Subject

writes = pytest.mark.skipif("vllm" not in HERE, reason="make test-vllm runs this")
embeds = pytest.mark.skipif("vllm-minilm" not in HERE, reason="make test-vllm runs this")
TEXTS = ("A penstock carries water to the turbine.", "Water hammer is a surge of pressure.", "The cat sleeps.")


@asynccontextmanager
async def writing(address: str) -> AsyncIterator[Subject]:
    async with open_writer(address) as subject:
        assert subject.absent is not None
        await subject.absent.close()
        yield subject


async def seconds_until(subject: Subject, wanted: int) -> float:
    """How long it takes from now until vLLM says that it works on `wanted` generations; at most 5."""
    assert subject.busy is not None
    started = time.monotonic()
    while await subject.busy() != wanted:
        await asyncio.sleep(0.002)
        assert time.monotonic() - started < 5, f"vLLM never came to {wanted}"
    return time.monotonic() - started


@writes
async def test_usage_is_what_vllm_reports(vllm_writer: str) -> None:
    async with writing(vllm_writer) as subject:
        _, _, (end,) = await collect(subject.engine.generate(subject.generation(max_tokens=7)))
        more = subject.generation("What does it carry now? " * 9, max_tokens=7)
        _, _, (longer,) = await collect(subject.engine.generate(more))
    assert end.finish_reason is FinishReason.LENGTH
    assert end.usage.source is UsageSource.REPORTED
    assert end.usage.output_tokens == 7
    assert end.usage.input_tokens is not None
    assert longer.usage.input_tokens is not None
    assert 0 < end.usage.input_tokens < longer.usage.input_tokens


@writes
async def test_vllm_is_idle_within_100_ms_of_a_client_going(vllm_writer: str) -> None:
    taken: list[float] = []
    async with writing(vllm_writer) as subject:
        for _ in range(5):
            async with aclosing(subject.engine.generate(subject.generation(max_tokens=subject.long))) as events:
                await anext(events)
                await seconds_until(subject, 1)
            taken.append(await seconds_until(subject, 0))
    # The quickest of them: whatever else the machine does now and then delays the gauge, never the other way.
    assert min(taken) < 0.1, taken


@writes
async def test_closing_one_stream_of_several_stops_that_one_alone(vllm_writer: str) -> None:
    async with writing(vllm_writer) as subject:
        first, second, third = (subject.engine.generate(subject.generation(max_tokens=subject.long)) for _ in range(3))
        async with aclosing(first), aclosing(second), aclosing(third):
            await asyncio.gather(anext(first), anext(second), anext(third))
            await seconds_until(subject, 3)
            await second.aclose()
            await seconds_until(subject, 2)
            assert isinstance(await anext(first), Delta)
            assert isinstance(await anext(third), Delta)
            assert subject.busy is not None
            assert await subject.busy() == 2


@embeds
async def test_minilm_in_vllm_gives_the_vectors_of_the_embedded_one(vllm_embedder: str, tmp_path: Path) -> None:
    async with open_embedder(vllm_embedder) as remote, open_minilm(tmp_path) as local:
        assert remote.absent is not None
        await remote.absent.close()
        theirs = await remote.engine.embed(remote.embedder, TEXTS)
        ours = await local.engine.embed(local.embedder, TEXTS)
    assert theirs.source is UsageSource.REPORTED
    assert theirs.input_tokens == ours.input_tokens
    assert all(cosine(one, other) > 0.999 for one, other in zip(theirs.vectors, ours.vectors, strict=True))


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))
