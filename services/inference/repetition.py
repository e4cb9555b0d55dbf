"""Work in the background that goes on for as long as the process does, whatever happens."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_log = logging.getLogger(__name__)


async def repeat(what: str, step: Callable[[], Awaitable[None]], pause: float) -> None:
    """Does something over and over until it is cancelled.

    Args:
        what: Names it in the log.
        step: Does it once, with the pause that belongs to it. A defect of it is logged in full, once while it lasts.
        pause: Seconds to wait after a defect.
    """
    is_broken = False
    while True:
        try:
            await step()
        except Exception:  # noqa: BLE001 - a defect must end no work that others count on, nor pass in silence
            if not is_broken:
                _log.exception("%s: a defect; it is tried again every %g s", what, pause)
            is_broken = True
            await asyncio.sleep(pause)
        else:
            if is_broken:
                _log.info("%s: works again", what)
            is_broken = False
