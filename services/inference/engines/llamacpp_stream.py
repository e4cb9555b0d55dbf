"""The events of one generation, on their way from llama.cpp's thread to the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import TYPE_CHECKING

from services.chassis.errors import Failure, Reason
from services.inference.answers import joined
from services.inference.engine import Delta, End

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from services.inference.engine import Event


class Stream:
    """Events on their way from llama.cpp's thread to the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Event | Failure] = deque()
        self._ready = asyncio.Event()
        self._stopped = threading.Event()

    def tell(self, event: Event | Failure) -> None:
        """From the thread: adds an event, and wakes the loop unless it has been."""
        self._waiting.append(event)
        if len(self._waiting) == 1 and not self._stopped.is_set():
            self._loop.call_soon_threadsafe(self._ready.set)

    def is_stopped(self) -> bool:
        """From the thread: whether nobody listens any more."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """From the loop: nobody listens any more."""
        self._stopped.set()

    def cut(self) -> None:
        """From the loop: the engine is closing; the listener is told."""
        self._stopped.set()
        self._waiting.append(closed())
        self._ready.set()

    async def events(self) -> AsyncGenerator[Event, None]:
        """Deltas, joined as they wait, then the End. Raises the Failure that was told."""
        while True:
            await self._ready.wait()
            self._ready.clear()
            texts: list[Delta] = []
            last: Event | Failure | None = None
            while self._waiting and last is None:
                event = self._waiting.popleft()
                if isinstance(event, Delta):
                    texts.append(event)
                else:
                    last = event
            for delta in joined(texts):
                yield delta
            if isinstance(last, Failure):
                raise last
            if isinstance(last, End):
                yield last
                return


def closed() -> Failure:
    """What a listener is told whose engine closes."""
    return Failure(Reason.ENGINE_UNAVAILABLE, "the engine was closed before the answer was complete")
