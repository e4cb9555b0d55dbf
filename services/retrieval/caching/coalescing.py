"""Joins requests that come at the same time into one.

The first goes at once: nobody waits while nothing is under way. Those that come while it is under way wait for it to end, and
then go together. So a request never rides on one that had begun before it came, and sees nothing older than itself.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Generic, TypeVar

from services.chassis.call import current_call, enter_call

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence

K = TypeVar("K", bound="Hashable")
V = TypeVar("V")


class _Batch(Generic[K, V]):
    def __init__(self, group: Hashable) -> None:
        self.group = group
        self.keys: dict[K, None] = {}
        self.future: asyncio.Future[Mapping[K, V]] = asyncio.get_running_loop().create_future()


class Coalescer(Generic[K, V]):
    """Fetches values by keys, many at a time.

    Args:
        fetch: Fetches the values of some keys of a group; keys that it leaves out have none.
        most: Keys of one fetch.
        lanes: Fetches under way at a time, for each group.
    """

    def __init__(
        self, fetch: Callable[[Hashable, Sequence[K]], Awaitable[Mapping[K, V]]], *, most: int, lanes: int = 1
    ) -> None:
        self._fetch = fetch
        self._most = most
        self._lanes = lanes
        self._running: dict[Hashable, int] = {}
        self._waiting: dict[Hashable, list[_Batch[K, V]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def get(self, group: Hashable, keys: Sequence[K]) -> Mapping[K, V]:
        """The values of the keys, and perhaps of others; raises what `fetch` raises."""
        if self._running.get(group, 0) < self._lanes:
            batch = self._begin(_Batch(group), keys)
            self._start(batch)
        else:
            queue = self._waiting.setdefault(group, [])
            if not queue or len(queue[-1].keys) + len(keys) > self._most:
                queue.append(_Batch(group))
            batch = self._begin(queue[-1], keys)
        # Whoever leaves takes nothing away from the others.
        return await asyncio.shield(batch.future)

    def _begin(self, batch: _Batch[K, V], keys: Sequence[K]) -> _Batch[K, V]:
        batch.keys.update(dict.fromkeys(keys))
        return batch

    def _start(self, batch: _Batch[K, V]) -> None:
        self._running[batch.group] = self._running.get(batch.group, 0) + 1
        task = asyncio.get_running_loop().create_task(self._run(batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, batch: _Batch[K, V]) -> None:
        # The deadline is the first one's alone.
        enter_call(replace(current_call(), deadline=None))
        try:
            found = await self._fetch(batch.group, list(batch.keys))
        except BaseException as error:
            if not batch.future.done():
                batch.future.set_exception(error if isinstance(error, Exception) else asyncio.CancelledError())
                # Where all have left, nobody else takes note of it.
                batch.future.exception()
            if not isinstance(error, Exception):
                raise
        else:
            if not batch.future.done():
                batch.future.set_result(found)
        finally:
            self._next(batch.group)

    def _next(self, group: Hashable) -> None:
        self._running[group] -= 1
        queue = self._waiting.get(group)
        if queue:
            self._start(queue.pop(0))
        else:
            self._waiting.pop(group, None)
            if not self._running[group]:
                del self._running[group]
