"""The running experiments, kept current and told to everyone who watches."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from services.chassis.errors import Failure

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from services.experiments.store import Configuration, Store

_log = logging.getLogger(__name__)
_RETRY_SECONDS: Final = 0.5


class ConfigurationFeed:
    """Follows the store and fans its configuration out.

    While the store is away, watchers keep their streams and the last configuration; the newest one follows when it is back.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._current: Configuration | None = None
        self._changed = asyncio.Event()
        self._ended = False

    async def run(self) -> None:
        """Follows the store until cancelled."""
        async with aclosing(self._store.changes()) as changes:
            async for _ in changes:
                await self._refresh()

    async def end_with(self, draining: asyncio.Event) -> None:
        """Ends all watches once `draining` is set."""
        await draining.wait()
        self._ended = True
        self._wake()

    async def watch(self, watcher: str) -> AsyncGenerator[Configuration]:
        """Yields the configuration as soon as it is known, and each later one.

        A watcher that is slow misses those in between, never the last. Ends when the server drains.
        """
        _log.info("%s watches the configuration", watcher or "someone unnamed")
        seen: Configuration | None = None
        while not self._ended:
            # Taken before looking, so that no change falls between the look and the wait.
            changed = self._changed
            if self._current is not None and self._current is not seen:
                seen = self._current
                yield seen
            else:
                await changed.wait()

    async def _refresh(self) -> None:
        while True:
            try:
                latest = await self._store.configuration()
            except Failure as failure:
                _log.warning("the configuration cannot be read: %s", failure.message)
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if self._current is None or latest.revision != self._current.revision:
                self._current = latest
                self._wake()
            return

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
