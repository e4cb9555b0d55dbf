"""Takes the file of keys anew whenever it changes, within a second."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from services.gateway.authorizer.keyring import Keyring, read_keyring
from services.gateway.keys import KeysError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_POLL_SECONDS: Final = 0.25
_log = logging.getLogger(__name__)


class KeyFile:
    """The file, and whoever is given its keys.

    Args:
        path: The file; None where only tokens are taken.
        take: Is given the keys, now and after each change.

    Raises:
        KeysError: The file cannot be read.
    """

    def __init__(self, path: Path | None, take: Callable[[Keyring], None]) -> None:
        self._path = path
        self._take = take
        self._seen = self._mark()
        take(read_keyring(path) if path else Keyring())

    async def watch(self) -> None:
        """Looks at the file for ever. One that cannot be read leaves the keys as they were, and is complained of."""
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            mark = self._mark()
            if self._path is None or mark == self._seen:
                continue
            self._seen = mark
            try:
                self._take(read_keyring(self._path))
            except KeysError as error:
                _log.error("the keys stay as they were: %s", error)
            else:
                _log.info("the keys were read anew")

    def _mark(self) -> tuple[int, int, int]:
        """Changes with the file. Kubernetes swaps the folder that a mounted file is a link into, so links are followed."""
        try:
            found = self._path.stat() if self._path else None
        except OSError:
            found = None
        return (found.st_ino, found.st_mtime_ns, found.st_size) if found else (0, 0, 0)
