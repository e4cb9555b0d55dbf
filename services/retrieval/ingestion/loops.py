"""Work that goes on in the background, whatever fails."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeAlias

from services.chassis.errors import Failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Work: TypeAlias = "Callable[[], Awaitable[bool]]"

_log = logging.getLogger(__name__)

_POLL_SECONDS: Final = 2.0
_LONGEST_PAUSE: Final = 5.0


class Loop:
    """Does a piece of work again and again: at once while there is some, else when woken or every 2 seconds.

    Args:
        work: Does a piece, and says whether there was any.
        failed: Told of each Failure, which means an outage: the loop tries again after a growing pause of at most 5 seconds.
    """

    def __init__(self, work: Work, failed: Callable[[Failure], None]) -> None:
        self._work = work
        self._failed = failed
        self._wanted = asyncio.Event()

    def wake(self) -> None:
        """Says that there is something to do."""
        self._wanted.set()

    async def run(self) -> None:
        """Never returns: cancel it."""
        pause = _POLL_SECONDS
        while True:
            # What is wanted from here on may not be seen by the work that begins now.
            self._wanted.clear()
            try:
                pause = 0.0 if await self._work() else _POLL_SECONDS
            except Failure as failure:
                self._failed(failure)
                pause = min(max(2 * pause, 0.5), _LONGEST_PAUSE)
            except Exception:  # noqa: BLE001 - a defect must not end the work on everything else; it is logged in full
                _log.exception("defect in the background")
                pause = _LONGEST_PAUSE
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wanted.wait()
