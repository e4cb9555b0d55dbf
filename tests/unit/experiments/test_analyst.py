"""The analysis in its process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from services.chassis.errors import Failure, Reason
from services.experiments.analysis import Evidence, Plan, PowerQuestion, Question, Uncomputable
from services.experiments.analyst import Analyst

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

POWER = PowerQuestion(standard_deviation=1, minimal_effect=0.2)


@asynccontextmanager
async def analyst(limit: float = 30, idle: float = 60) -> AsyncIterator[Analyst]:
    one = Analyst(limit, idle)
    try:
        yield one
    finally:
        await one.close()


async def is_gone(process_id: int) -> bool:
    for _ in range(200):
        try:
            os.kill(process_id, 0)
        except ProcessLookupError:
            return True
        await asyncio.sleep(0.02)
    return False


async def test_one_child_answers_all() -> None:
    async with analyst() as one:
        answers = await asyncio.gather(*(one.ask(POWER) for _ in range(5)))
        assert {round(answer.units, 2) for answer in answers} == {393.41}
        child = one.process_id
        empty = Question({"a": 1, "b": 1}, {}, (), Plan(), Evidence(), 0, Evidence(), finished=False)
        assert (await one.ask(empty)).sample_ratio is Uncomputable.TOO_FEW_UNITS
        assert one.process_id == child
    assert child is not None
    assert await is_gone(child)


async def test_an_idle_child_is_ended_and_another_one_answers() -> None:
    async with analyst(idle=0.05) as one:
        await one.ask(POWER)
        first = one.process_id
        assert first is not None
        assert await is_gone(first)
        await one.ask(POWER)
        assert one.process_id not in (None, first)


async def test_a_child_that_is_killed_is_replaced() -> None:
    async with analyst() as one:
        await one.ask(POWER)
        first = one.process_id
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        asked = asyncio.create_task(one.ask(POWER))
        await asyncio.sleep(0.05)
        os.kill(first, signal.SIGKILL)
        with pytest.raises(Failure) as refused:
            await asked
        assert refused.value.reason is Reason.ANALYSIS_UNAVAILABLE
        assert round((await one.ask(POWER)).units) == 393


async def test_a_question_that_takes_too_long_is_given_up_and_so_is_its_child() -> None:
    async with analyst() as one:
        await one.ask(POWER)
        stuck = one.process_id
        assert stuck is not None
        os.kill(stuck, signal.SIGSTOP)
        one._limit = 0.2
        with pytest.raises(Failure, match=r"more than") as refused:
            await one.ask(POWER)
        assert refused.value.reason is Reason.ANALYSIS_UNAVAILABLE
        assert await is_gone(stuck)
        one._limit = 30
        await one.ask(POWER)


async def test_a_cancelled_question_leaves_no_answer_to_the_next_one() -> None:
    async with analyst() as one:
        await one.ask(POWER)
        child = one.process_id
        assert child is not None
        os.kill(child, signal.SIGSTOP)
        asked = asyncio.create_task(one.ask(POWER))
        await asyncio.sleep(0.05)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert (await one.ask(PowerQuestion(baseline=0.5, minimal_effect=0.1, units=100))).units == 100


async def test_a_question_without_answer_is_refused_by_field() -> None:
    async with analyst() as one:
        with pytest.raises(Failure) as refused:
            await one.ask(PowerQuestion(baseline=0.9, minimal_effect=0.2))
    assert refused.value.reason is Reason.INVALID_FIELD
    assert refused.value.metadata == {"field": "minimal_effect"}


def test_the_serving_process_stays_light() -> None:
    check = "import sys, services.experiments.__main__; sys.exit(bool({'scipy', 'numpy'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", check], check=True, timeout=60)
