"""Generations at the same time as the answers of one."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest

from services.chassis.errors import Failure, Reason
from services.inference.engine import Delta, End, FinishReason, Generation, Message, Role, Sampling, Usage, UsageSource
from services.inference.engines.side_by_side import side_by_side
from services.inference.form import Form

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from services.inference.engine import Event

SEED = 7


def asked(alternatives: int, seed: int | None = SEED) -> Generation:
    form = Form(alternatives=alternatives)
    return Generation("m", (Message(Role.USER, "Hello"),), sampling=Sampling(seed=seed), form=form)


class Script:
    """Says its seed in two pieces; one of them may fail, or never end."""

    def __init__(self, fails: int | None = None, hangs: int | None = None, defect: Exception | None = None) -> None:
        self.fails = fails
        self.hangs = hangs
        self.defect = defect
        self.open = 0

    async def generate(self, generation: Generation) -> AsyncGenerator[Event, None]:
        assert generation.form.alternatives == 1
        seed = generation.sampling.seed or 0
        self.open += 1
        try:
            yield Delta(f"{seed}")
            await asyncio.sleep(0)
            if seed == self.fails:
                raise self.defect or Failure(Reason.ENGINE_UNAVAILABLE, "gone")
            if seed == self.hangs:
                await asyncio.sleep(60)
            yield Delta("!")
            yield End(FinishReason.LENGTH if seed == SEED else FinishReason.STOP, Usage(5, 2, UsageSource.REPORTED))
        finally:
            self.open -= 1


async def test_answers_are_told_apart_and_their_usage_is_summed() -> None:
    script = Script()
    *deltas, end = [event async for event in side_by_side(script.generate, asked(3))]
    texts = ["", "", ""]
    for delta in deltas:
        assert isinstance(delta, Delta)
        texts[delta.alternative] += delta.text
    assert texts == ["7!", "8!", "9!"], "each has a seed of its own"
    reasons = (FinishReason.LENGTH, FinishReason.STOP, FinishReason.STOP)
    assert end == End(FinishReason.LENGTH, Usage(15, 6, UsageSource.REPORTED), reasons)
    assert script.open == 0


async def test_one_answer_is_streamed_as_it_is() -> None:
    events = [event async for event in side_by_side(Script().generate, asked(1))]
    assert events == [Delta("7"), Delta("!"), End(FinishReason.LENGTH, Usage(5, 2, UsageSource.REPORTED))]


@pytest.mark.parametrize("defect", [None, ValueError("a defect")])
async def test_the_first_failure_ends_all_of_them(defect: Exception | None) -> None:
    script = Script(fails=8, hangs=9, defect=defect)
    async with asyncio.timeout(5):
        with pytest.raises(type(defect) if defect else Failure):
            async for _ in side_by_side(script.generate, asked(3)):
                pass
    assert script.open == 0


async def test_closing_ends_all_of_them() -> None:
    script = Script(hangs=7)
    async with aclosing(side_by_side(script.generate, asked(4))) as events:
        await anext(events)
        assert script.open == 4
    assert script.open == 0


async def test_a_slow_reader_holds_the_engine_back() -> None:
    told = 0

    async def generate(_generation: Generation) -> AsyncGenerator[Event, None]:
        nonlocal told
        while True:
            told += 1
            yield Delta("x")
            await asyncio.sleep(0)

    async with aclosing(side_by_side(generate, asked(2))) as events:
        await anext(events)
        for _ in range(500):
            await asyncio.sleep(0)
        assert told < 200
