"""The shared store of the caches in Redis, or Valkey. Without it everything works as before, only slower.

Valkey's client speaks to both. That of Redis takes 15 MB more of memory, for metrics of its own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final, cast

from valkey.asyncio import Valkey
from valkey.asyncio.retry import Retry
from valkey.backoff import NoBackoff
from valkey.exceptions import ValkeyError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

_log = logging.getLogger(__name__)

# A lookup that takes longer is not worth its time; a healthy server on the same network answers in less than 1 ms.
_TIMEOUT: Final = 0.05
# A server that has failed is left alone for this long, and twice as long each time that it fails again.
_PAUSES: Final = (0.5, 30.0)
_MOST_CALLS: Final = 64


class RedisCache:
    """Implements `tiers.Shared`.

    Args:
        url: Such as `redis://:password@host:6379/0`.
        timeout: Seconds that connecting or a call may take.
    """

    def __init__(self, url: str, timeout: float = _TIMEOUT) -> None:
        self._client: Valkey = Valkey.from_url(
            url,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
            max_connections=2 * _MOST_CALLS,
        )
        self._pause = _PAUSES[0]
        self._rests_until = 0.0
        self._reading = 0
        self._writing: set[asyncio.Task[None]] = set()

    @property
    def is_resting(self) -> bool:
        """Whether the server has failed lately and is left alone."""
        return time.monotonic() < self._rests_until

    async def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """As `Shared.get`."""
        nothing: list[bytes | None] = [None] * len(keys)
        if self.is_resting or self._reading >= _MOST_CALLS:
            return nothing
        values: list[bytes | None] = nothing

        async def read() -> None:
            nonlocal values
            # Nothing is decoded: the values are bytes.
            values = cast("list[bytes | None]", await self._client.mget(list(keys)))

        self._reading += 1
        try:
            await self._call(read)
        finally:
            self._reading -= 1
        return values

    def put(self, items: Mapping[bytes, bytes], seconds: float) -> None:
        """As `Shared.put`."""
        if self.is_resting or len(self._writing) >= _MOST_CALLS:
            return

        async def write() -> None:
            async with self._client.pipeline(transaction=False) as pipeline:
                for key, value in items.items():
                    pipeline.set(key, value, px=max(1, int(seconds * 1000)))
                await pipeline.execute()

        task = asyncio.get_running_loop().create_task(self._call(write))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def close(self) -> None:
        """Waits for what is being written, and closes the connections."""
        await asyncio.gather(*self._writing, return_exceptions=True)
        await self._client.aclose()

    async def _call(self, call: Callable[[], Awaitable[None]]) -> None:
        try:
            await call()
        except (ValkeyError, OSError) as error:
            if self._pause == _PAUSES[0]:
                # The driver's text may hold the address, never the password; it is for the log only.
                _log.warning("the shared cache is left alone for now: %s", error)
            self._rests_until = time.monotonic() + self._pause
            self._pause = min(_PAUSES[1], 2 * self._pause)
        else:
            if self._pause != _PAUSES[0]:
                _log.info("the shared cache answers again")
                self._pause = _PAUSES[0]
