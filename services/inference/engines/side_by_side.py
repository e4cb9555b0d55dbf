"""Several answers of an engine that gives one at a time: as many generations, run at the same time."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

from services.inference.engine import End, Usage, UsageSource

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable

    from services.inference.engine import Event, Generation

# Events that wait to be read; an engine that is faster than its reader waits with the next.
_WAITING = 64


async def side_by_side(
    generate: Callable[[Generation], AsyncGenerator[Event, None]], generation: Generation
) -> AsyncGenerator[Event, None]:
    """Streams the deltas of all answers as they come, and one End for all; the first failure ends all of them.

    Each reads the prompt by itself, and the usage says so.
    """
    if generation.form.alternatives == 1:
        async with aclosing(generate(generation)) as events:
            async for event in events:
                yield event
        return
    run = _Run()
    tasks = [
        asyncio.create_task(run.one(index, generate(_alone(generation, index))))
        for index in range(generation.form.alternatives)
    ]
    for task in tasks:
        task.add_done_callback(run.over)
    ends: dict[int, End] = {}
    try:
        while len(ends) < len(tasks):
            index, event = await run.next()
            if isinstance(event, End):
                ends[index] = event
            else:
                yield replace(event, alternative=index)
        ordered = [ends[index] for index in range(len(tasks))]
        reasons = tuple(end.finish_reason for end in ordered)
        yield End(reasons[0], _together(end.usage for end in ordered), reasons)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Run:
    """The events of all generations, on their way to the one reader."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[tuple[int, Event] | asyncio.Task[None]] = asyncio.Queue()
        self._room = asyncio.Semaphore(_WAITING)

    async def one(self, index: int, events: AsyncGenerator[Event, None]) -> None:
        async with aclosing(events):
            async for event in events:
                await self._room.acquire()
                self._events.put_nowait((index, event))

    def over(self, task: asyncio.Task[None]) -> None:
        self._events.put_nowait(task)

    async def next(self) -> tuple[int, Event]:
        """The next event of any of them. Raises what one of them has failed with."""
        while True:
            item = await self._events.get()
            if not isinstance(item, asyncio.Task):
                self._room.release()
                return item
            item.result()


def _alone(generation: Generation, index: int) -> Generation:
    seed = generation.sampling.seed
    # The same seed would give the same answer again.
    sampling = replace(generation.sampling, seed=None if seed is None else seed + index)
    return replace(generation, sampling=sampling, form=replace(generation.form, alternatives=1))


def _together(usages: Iterable[Usage]) -> Usage:
    all_of_them = list(usages)
    sources = {usage.source for usage in all_of_them}
    return Usage(
        _sum(usage.input_tokens for usage in all_of_them),
        _sum(usage.output_tokens for usage in all_of_them),
        sources.pop() if len(sources) == 1 else UsageSource.COUNTED,
    )


def _sum(counts: Iterable[int | None]) -> int | None:
    total = 0
    for count in counts:
        if count is None:
            return None
        total += count
    return total
