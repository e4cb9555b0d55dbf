"""Lets requests that ask for the same share one generation.

The generation runs in a task of its own, so that it belongs to nobody: whoever leaves takes nothing away from the others, and
when the last one has left it is stopped.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

from services.chassis.call import current_call, enter_call
from services.chassis.errors import Failure, Reason
from services.inference.generation import Finished

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Hashable, Sequence

    from services.inference.generation import Event


class Flights:
    """The generations under way that others may share, by what they generate."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, Flight] = {}

    def __len__(self) -> int:
        """How many are under way."""
        return len(self._flights)

    def under_way(self, key: Hashable) -> Flight | None:
        """The generation of this key, if there is one."""
        return self._flights.get(key)

    def depart(self, key: Hashable, events: AsyncGenerator[Event, None], landed: Callable[[Sequence[Event]], None]) -> Flight:
        """Starts a generation. `landed` gets its events once the last one has come."""
        flight = Flight(events, lambda: self._leave(key, flight), landed)
        self._flights[key] = flight
        return flight

    def _leave(self, key: Hashable, flight: Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]


class Flight:
    """One generation, and those who ride on it."""

    def __init__(
        self, events: AsyncGenerator[Event, None], leave: Callable[[], None], landed: Callable[[Sequence[Event]], None]
    ) -> None:
        self._events: list[Event] = []
        self._leave = leave
        self._landed = landed
        self._riders = 0
        self._news = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run(events))
        self._task.add_done_callback(self._end)

    async def ride(self) -> AsyncGenerator[Event, None]:
        """All events from the first one; raises what the generation raises. When the last rider closes it, it is stopped."""
        self._riders += 1
        deadline = current_call().deadline
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        # One timer a rider; one an event would cost more than the event.
        timer = None if left is None else asyncio.get_running_loop().call_later(left, self._news.set)
        place = 0
        try:
            while True:
                while place < len(self._events):
                    event = self._events[place]
                    place += 1
                    yield event
                if self._task.done():
                    self._task.result()
                    return
                if deadline is not None and time.monotonic() >= deadline:
                    raise Failure(Reason.DEADLINE_EXCEEDED, "the time allowed for this generation has passed")
                self._news.clear()
                await self._news.wait()
        finally:
            if timer is not None:
                timer.cancel()
            self._riders -= 1
            if not self._riders and not self._is_through():
                # From here on nobody may board any more.
                self._leave()
                self._task.cancel()
                await asyncio.wait([self._task])

    def _is_through(self) -> bool:
        """Whether nothing is left but to clean up: what has come is whole, and must not be cancelled."""
        return self._task.done() or (bool(self._events) and isinstance(self._events[-1], Finished))

    async def _run(self, events: AsyncGenerator[Event, None]) -> None:
        # The deadline is the first rider's alone.
        enter_call(replace(current_call(), deadline=None))
        async with aclosing(events):
            async for event in events:
                self._events.append(event)
                if isinstance(event, Finished):
                    # Before any rider hears of it, so that whoever asks next finds what was kept.
                    self._leave()
                    self._landed(self._events)
                self._news.set()

    def _end(self, task: asyncio.Task[None]) -> None:
        self._leave()
        self._news.set()
        if not task.cancelled():
            # Takes note of it: where nobody rides any more, nobody else would.
            task.exception()
