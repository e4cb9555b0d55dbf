"""What is tidied up now and then: conversations over their limits, and the rows that count changes."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final, Protocol

from services.chassis.errors import Failure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from services.retrieval.conversations import Conversations

_log = logging.getLogger(__name__)
_CHANGES_SECONDS: Final = 5.0
_CONVERSATIONS_SECONDS: Final = 60.0


class Changes(Protocol):
    """Counts what has changed; `postgres_states.CoalescedCollections` does."""

    async def join_changes(self) -> None:
        """Makes one row of many, of the same sum. Raises Failure(DATABASE_UNAVAILABLE)."""
        ...


@asynccontextmanager
async def kept_up(conversations: Conversations, changes: Changes) -> AsyncIterator[None]:
    """Tidies up in the background while the context lasts. Several processes may do so at once."""
    task = asyncio.get_running_loop().create_task(_tidy(conversations, changes))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _tidy(conversations: Conversations, changes: Changes) -> None:
    waited = 0.0
    while True:
        await asyncio.sleep(_CHANGES_SECONDS)
        waited += _CHANGES_SECONDS
        try:
            await changes.join_changes()
            if waited >= _CONVERSATIONS_SECONDS:
                waited = 0.0
                gone = await conversations.sweep()
                if gone:
                    _log.info("%d conversations were over their limits and are deleted", gone)
        except Failure as failure:
            _log.warning("tidying up waits: %s", failure.message)
        except Exception:  # noqa: BLE001 - a defect must not end the tidying of everything else; it is logged in full
            _log.exception("defect in tidying up")
