"""Many requests at once that are cancelled, fail, hang, fall back and are refused: at the end nobody holds anything."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from services.chassis.errors import Failure, Reason
from services.inference.admission import Admission, Class, Priority
from services.inference.engine import Delta, End, FinishReason, Message, Role, Usage, UsageSource
from services.inference.generation import Request, TimeLimits
from services.inference.inference import Inference
from services.inference.models import Models
from services.inference.resilience import BreakerLimits, Patience
from services.inference.routing import Router
from tests.unit.inference.scripted_engine import ScriptedEngine, writer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from services.inference.engine import Event, Generation

FAILURES = [
    Failure(Reason.ENGINE_UNAVAILABLE, "gone"),
    Failure(Reason.ENGINE_OVERLOADED, "busy", retry_after=0.001),
    Failure(Reason.CONTEXT_TOO_LONG, "long"),
    Failure(Reason.INVALID_FIELD, "wrong"),
    Failure(Reason.GENERATION_FAILED, "cut"),
]


class UnrulyEngine(ScriptedEngine):
    """Does something else each time, as its dice say; counts the generations that are under way."""

    def __init__(self, name: str, dice: random.Random, room: int | None) -> None:
        super().__init__(name, writer("model", name), writer(f"{name}-only", name))
        self.dice = dice
        self.open = self.most = 0
        if room is not None:
            self.room = room

    def generate(self, generation: Generation) -> AsyncGenerator[Event, None]:  # noqa: ARG002 - whatever was asked
        if self.dice.random() < 0.1:
            # Not every engine waits to be read before it refuses.
            raise self.dice.choice(FAILURES)
        return self._events()

    async def _events(self) -> AsyncGenerator[Event, None]:
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            for _ in range(self.dice.randrange(4)):
                await self._something()
                yield Delta("text")
            await self._something()
            yield End(FinishReason.STOP, Usage(1, 1, UsageSource.REPORTED))
        finally:
            try:
                await asyncio.sleep(0)
            finally:
                self.open -= 1

    async def _something(self) -> None:
        drawn = self.dice.random()
        if drawn < 0.15:
            raise self.dice.choice(FAILURES)
        await asyncio.sleep(10 if drawn < 0.2 else self.dice.random() * 0.003)


async def ask(inference: Inference, dice: random.Random) -> None:
    await asyncio.sleep(dice.random() * 0.05)
    request = Request(
        "r",
        dice.choice(["model", "auto", "vllm-only", "nowhere"]),
        (Message(Role.USER, "Hello"),),
        user=dice.choice(["", "a", "b"]),
        session=dice.choice(["", "s"]),
        priority=dice.choice(list(Priority)),
    )
    with suppress(Failure, TimeoutError):
        async with asyncio.timeout(dice.choice([None, 0.001, 0.01])):
            await inference.complete(request)


@pytest.mark.parametrize("seed", range(6))
async def test_nothing_leaks(seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311 - to be repeatable
    engines = [UnrulyEngine("vllm", dice, None), UnrulyEngine("vllm", dice, 3), UnrulyEngine("llamacpp", dice, 2)]
    admission = Admission(
        8, {one: Class(int(one is Priority.SYSTEM), 20, 0.05 * one, 0.02 * one) for one in Priority}, tenant_room=4
    )
    async with Models(engines, probe_seconds=60) as models:
        router = Router(models, breaker_limits=BreakerLimits(in_a_row=3, pause=0.005, longest_pause=0.02))
        inference = Inference(
            models,
            None,
            router=router,
            admission=admission,
            limits=TimeLimits(first_token=0.02, inter_token=0.02, total=0.2),
            patience=Patience(first_pause=0.001),
        )
        tasks = [asyncio.create_task(ask(inference, dice)) for _ in range(150)]
        for task in dice.sample(tasks, 30):
            asyncio.get_running_loop().call_later(dice.random() * 0.08, task.cancel)
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(end) for end in ends if end is not None} <= {asyncio.CancelledError}
        assert [engine.open for engine in engines] == [0, 0, 0]
        # Each engine has room for so many of each of its two models.
        assert engines[1].most <= 2 * 3
        assert engines[2].most <= 2 * 2
        assert sum(engine.most for engine in engines) > 0
        assert admission.free == 8
        assert all(one.in_use == one.waiting == 0 for one in admission.load().values())
        assert not admission._tenants
        for backend in router.backends():
            assert backend.load() == 0
            assert backend.admission is None or backend.admission.free in {2, 3}
