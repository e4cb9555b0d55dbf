"""Learns from Envoy which calls have ended.

Envoy writes a line into a pipe at the end of each call that was counted: its lease, which the authorizer gave it as a header.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_MOST: Final = 64 * 1024


class Ended:
    """Reads the pipe.

    Args:
        pipe: The named pipe; it has to be there.
        tell: Is given the lease of each call that has ended.
    """

    def __init__(self, pipe: Path, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._partial = b""
        # For writing too, so that it does not end when Envoy is not there yet.
        self._pipe = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
        asyncio.get_running_loop().add_reader(self._pipe, self._read)

    def close(self) -> None:
        """Reads no more."""
        asyncio.get_running_loop().remove_reader(self._pipe)
        os.close(self._pipe)

    def _read(self) -> None:
        try:
            data = os.read(self._pipe, _MOST)
        except BlockingIOError:
            return
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._tell(line.decode("latin-1").strip())
